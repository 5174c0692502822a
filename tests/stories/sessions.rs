//! Sessions with other servers: what goes out together, how often they are called, and what is kept of their words.

use std::time::Duration;

use posthouse::config::{LmtpAddress, MailStore};
use posthouse::event::Event;
use posthouse::system::sim::{Act, Script, Stage};
use posthouse::system::{BoxStream, Net};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// Waits until it has heard what ends so, and answers, again and again.
async fn converse(stream: &mut BoxStream, exchanges: &[(&str, &str)]) {
    let (mut heard, mut buffer) = (String::new(), [0; 4096]);
    for (wanted, reply) in exchanges {
        heard.clear();
        while !heard.ends_with(wanted) {
            let size = stream.read(&mut buffer).await.unwrap();
            assert!(size > 0, "it left behind {heard:?}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..size]));
        }
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

#[test]
fn an_lmtp_store_is_spoken_to_in_pipelines_and_over_one_connection() {
    story(async {
        let lmtp = MailStore::Lmtp(LmtpAddress::Unix("/run/lmtp".into()));
        let server = Setup::new().config(|config| config.domains[0].store = lmtp).start().await;
        let listener = server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap();
        let send = async || server.send("eve@far.test", &["ann@example.test", "bob@example.test"], CONTENT).await;
        send().await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 store LMTP\r\n").await.unwrap();
        let hello = ("LHLO mail.example.test\r\n", "250-store\r\n250 PIPELINING\r\n");
        let transaction = [
            (
                "MAIL FROM:<eve@far.test>\r\nRCPT TO:<ann@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n",
                "250 Ok\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n",
            ),
            ("hello\r\n.\r\n", "250 ann has it\r\n250 bob has it\r\n"),
        ];
        converse(&mut stream, &[hello]).await;
        converse(&mut stream, &transaction).await;
        server.empty().await;
        send().await;
        converse(&mut stream, &transaction).await;
        server.empty().await;
        assert_eq!((server.count("delivered"), server.count("deferred")), (4, 0));
    });
}

#[test]
fn where_pipelining_is_offered_nothing_waits_for_replies_before_the_content() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.addresses("far.test", &["50.2.0.1"]);
        let listener = server.world.net.listen("50.2.0.1:25".parse().unwrap()).await.unwrap();
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], CONTENT).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 far.test\r\n").await.unwrap();
        let exchanges = [
            ("EHLO mail.example.test\r\n", "250-far.test\r\n250 PIPELINING\r\n"),
            // Not a word in between.
            (
                "MAIL FROM:<ann@example.test>\r\nRCPT TO:<eve@far.test>\r\nRCPT TO:<joe@far.test>\r\nDATA\r\n",
                "250 Ok\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n",
            ),
            ("hello\r\n.\r\n", "250 Ok\r\n"),
        ];
        converse(&mut stream, &exchanges).await;
        server.empty().await;
        assert_eq!(server.count("delivered"), 2);
    });
}

#[test]
fn a_thousand_messages_to_one_destination_take_no_more_connections_than_its_concurrency() {
    for hosts in 1..=3_u8 {
        story(async {
            let server = Setup::new().config(|config| config.queue.paused = true).start().await;
            let names: Vec<_> = (1..=hosts).map(|number| format!("mx{number}.far.test")).collect();
            server.world.dns.mx("far.test", &names.iter().map(|name| (10, name.as_str())).collect::<Vec<_>>());
            let mut peers = Vec::new();
            for (number, name) in (1..).zip(&names) {
                let script = Script::default().always(Stage::End, Act::Slow(Duration::from_millis(20)));
                peers.push(server.host(name, &format!("50.2.0.{number}"), script).await);
            }
            let mut client = server.client(TRUSTED).await;
            for number in 0..1000 {
                client.transaction("ann@example.test", &[&format!("u{number}@far.test")], CONTENT.as_bytes()).await.unwrap();
            }
            server.handle.resume(None).await.unwrap();
            server.empty().await;
            assert_eq!(peers.iter().map(|peer| peer.taken().len()).sum::<usize>(), 1000);
            let connections: u64 = peers.iter().map(|peer| peer.connections()).sum();
            assert!(connections <= 20, "{connections} connections to {hosts} hosts");
        });
    }
}

#[test]
fn a_connection_under_steady_load_is_given_up_after_a_while() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        for _ in 0..150 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.pass(Duration::from_secs(4)).await;
        }
        assert_eq!((far.taken().len(), far.connections()), (150, 2), "ten minutes");
    });
}

#[test]
fn all_lines_of_a_reply_are_kept_for_the_admin_and_the_sender() {
    story(async {
        let server = Setup::new().start().await;
        let busy = "450-4.2.1 The user is receiving mail at a rate that\r\n450-4.2.1 prevents more. See\r\n450 4.2.1 https://far.test/rate";
        let gone =
            "550-5.1.1 The account that you tried to reach\r\n550-5.1.1 does not exist. See\r\n550 5.1.1 https://far.test/gone";
        let script = Script::default()
            .once(Stage::Recipient("busy@far.test".to_owned()), Act::say(busy))
            .always(Stage::Recipient("gone@far.test".to_owned()), Act::say(gone));
        let _far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["busy@far.test", "gone@far.test"], CONTENT).await;
        let deferred = |event: &Event| match event {
            Event::Deferred { reply, .. } => Some(reply.clone()),
            _ => None,
        };
        let logged = server.event("a deferral", deferred).await;
        assert_eq!(logged, "450 4.2.1 The user is receiving mail at a rate that prevents more. See https://far.test/rate");
        // What `queue show` prints.
        let statuses = &server.queue().await[0].recipients;
        assert_eq!(statuses[0].status.last_reply, logged);
        server.empty().await;
        let bounces = server.mails("ann");
        assert_eq!(bounces.len(), 1);
        let unfolded = bounces[0].replace("\r\n    ", " ").replace("\r\n ", " ");
        assert!(
            unfolded.contains("550 5.1.1 The account that you tried to reach does not exist. See https://far.test/gone"),
            "{unfolded}"
        );
    });
}
