//! LMTP as a service: on TCP and on a Unix socket, a reply for each recipient, for our own mailboxes only.

use posthouse::config::{Config, ListenAddress, Listener, ListenerTls};
use posthouse::mail::Service;
use posthouse::system::Endpoint;

use crate::client::Client;
use crate::world::*;

const SOCKET: &str = "/run/posthouse/lmtp";
const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// A second listener, for LMTP.
fn with_lmtp(config: &mut Config) {
    config.listeners.push(Listener {
        address: ListenAddress::Unix(SOCKET.into()),
        mode: 0o660,
        service: Service::Lmtp,
        tls: ListenerTls::None,
        proxy: Vec::new(),
        xclient: Vec::new(),
    });
}

/// A neighbour of this machine, on the socket.
async fn neighbour(server: &Server) -> Client {
    let mut client = Client::connect_at(&server.world.net, TRUSTED, &Endpoint::Unix(SOCKET.into())).await.unwrap();
    assert!(client.reply().await.unwrap().starts_with("220 mail.example.test LMTP Posthouse "));
    let hello = client.command("LHLO neighbour.test").await.unwrap();
    assert!(hello.starts_with("250 ") || hello.starts_with("250-"), "{hello}");
    client
}

#[test]
fn each_recipient_has_its_reply_and_each_mailbox_its_copy() {
    story(async {
        let server = Setup::new().config(with_lmtp).start().await;
        let mut client = neighbour(&server).await;
        let to = ["ann@example.test", "nobody@example.test", "bob@example.test"];
        client.command("MAIL FROM:<eve@far.test>").await.unwrap();
        let mut replies = Vec::new();
        for to in to {
            replies.push(client.command(&format!("RCPT TO:<{to}>")).await.unwrap());
        }
        assert!(replies[1].starts_with("550 5.1.1"), "{replies:?}");
        client.command("DATA").await.unwrap();
        let first = client.content(CONTENT.as_bytes()).await.unwrap();
        let second = client.reply().await.unwrap();
        assert!(first.starts_with("250 2.0.0") && first == second, "{first} {second}");
        assert!(client.command("QUIT").await.unwrap().starts_with("221 "));
        server.empty().await;
        for user in ["ann", "bob"] {
            let mails = server.mails(user);
            assert_eq!(mails.len(), 1);
            assert!(mails[0].contains("with LMTP id"), "{}", mails[0]);
        }
    });
}

#[test]
fn nothing_is_relayed_by_lmtp_not_even_for_those_who_may() {
    story(async {
        let relays = |config: &mut Config| {
            with_lmtp(config);
            config.relay.domains.push(posthouse::mail::Domain::parse("backup.test").unwrap());
            config.relay.networks.push("127.0.0.0/8".parse().unwrap());
        };
        let server = Setup::new().config(relays).start().await;
        let mut client = neighbour(&server).await;
        client.command("MAIL FROM:<eve@far.test>").await.unwrap();
        for to in ["eve@far.test", "eve@backup.test"] {
            let reply = client.command(&format!("RCPT TO:<{to}>")).await.unwrap();
            assert!(reply.starts_with("550 5.7.1"), "{reply}");
        }
        let reply = client.command("RCPT TO:<postmaster>").await.unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    });
}

#[test]
fn a_reload_starts_and_stops_lmtp() {
    story(async {
        let server = Setup::new().start().await;
        let endpoint = Endpoint::Unix(SOCKET.into());
        assert!(Client::connect_at(&server.world.net, TRUSTED, &endpoint).await.is_err());
        server.reload(with_lmtp).await.unwrap();
        neighbour(&server).await;
        server.reload(|config| drop(config.listeners.pop())).await.unwrap();
        server.pass(MINUTE).await;
        assert!(Client::connect_at(&server.world.net, TRUSTED, &endpoint).await.is_err());
    });
}

#[test]
fn a_flood_of_port_25_leaves_lmtp_its_share() {
    story(async {
        let narrow = |config: &mut Config| {
            with_lmtp(config);
            (config.limits.connections, config.limits.submission_reserve) = (10, 0.2);
        };
        let server = Setup::new().config(narrow).start().await;
        let mut crowd = Vec::new();
        for _ in 0..8 {
            crowd.push(server.client(STRANGER).await);
        }
        let reply = call(&server, STRANGER).await.unwrap().reply().await.unwrap();
        assert!(reply.starts_with("421 4.3.2"), "{reply}");
        // Neighbours aren't counted by their address: both places are theirs.
        let _neighbours = (neighbour(&server).await, neighbour(&server).await);
        let reply = Client::connect_at(&server.world.net, TRUSTED, &Endpoint::Unix(SOCKET.into())).await.unwrap().reply().await;
        assert!(reply.unwrap().starts_with("421 4.3.2"));
    });
}
