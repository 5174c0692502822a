//! Times and ranks that senders ask for (RFC 2852, 4865, 6710), and notices about mail beyond ASCII (RFC 6533).

use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders, PartType};
use posthouse::event::{Event, NoticeKind};
use posthouse::mail::RecipientState;
use posthouse::system::sim::{Act, Script, Stage};

use crate::client::Client;
use crate::submission;
use crate::world::*;

const CONTENT: &str = "From: Ann <ann@example.test>\r\nSubject: the plan\r\n\r\nsecret words\r\n";

/// A client of ours.
async fn greeted(server: &Server) -> Client {
    server.client(TRUSTED).await
}

async fn ask(server: &Server, mail: &str, rcpts: &[&str]) {
    greeted(server).await.ask(mail, rcpts, CONTENT).await;
}

fn notices(server: &Server) -> Vec<NoticeKind> {
    let kind = |event: &Event| match event {
        Event::Notified { kind, .. } => Some(*kind),
        _ => None,
    };
    server.events.recorded().iter().filter_map(kind).collect()
}

fn refusing() -> Script {
    Script::default().always(Stage::AnyRecipient, Act::say("550 5.1.1 no such user"))
}

fn down() -> Script {
    Script::default().always(Stage::Greeting, Act::say("421 4.3.2 not now"))
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_whole_message_with_octets_above_127_comes_back_as_it_was() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", refusing()).await;
        let content = "Subject: x\r\n\r\ngr\u{fc}n\r\n";
        greeted(&server).await.ask("<ann@example.test> RET=FULL BODY=8BITMIME", &["<eve@far.test>"], content).await;
        server.empty().await;
        has(
            &server.mails("ann")[0],
            &["Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n", "\r\ngr\u{fc}n\r\n"],
        );
    });
}

#[test]
fn a_notice_with_octets_above_127_reaches_a_server_that_takes_none() {
    for (ret, utf8, kind) in [
        ("FULL", false, "message/rfc822"),
        ("HDRS", false, "text/rfc822-headers"),
        ("FULL", true, "message/global"),
        ("HDRS", true, "message/global-headers"),
    ] {
        story(async {
            let server = Setup::new().start().await;
            let _far = server.domain("far.test", refusing()).await;
            let home = server.domain("home.test", Script::plain()).await;
            let (subject, needs) = if utf8 { ("gr\u{fc}n", " SMTPUTF8") } else { ("green", "") };
            let fields = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit";
            let content = format!("Subject: {subject}\r\n{fields}\r\n\r\nsch\u{f6}n\r\n");
            let mail = format!("<joe@home.test> RET={ret} BODY=8BITMIME{needs}");
            greeted(&server).await.ask(&mail, &["<eve@far.test>"], &content).await;
            server.empty().await;
            let notice = home.taken().remove(0).content;
            assert!(notice.is_ascii());
            let parsed = MessageParser::default().parse(&notice).unwrap();
            let part = parsed.parts.iter().find(|part| {
                part.content_type().is_some_and(|found| format!("{}/{}", found.ctype(), found.subtype().unwrap()) == kind)
            });
            let inner = match &part.unwrap().body {
                PartType::Message(message) => String::from_utf8_lossy(message.raw_message()).into_owned(),
                PartType::Text(text) => text.to_string(),
                PartType::Binary(octets) => String::from_utf8_lossy(octets).into_owned(),
                other => panic!("{other:?}"),
            };
            assert!(inner.contains(&format!("\r\nSubject: {subject}\r\n")), "{inner}");
            let words = if utf8 { "sch\u{f6}n" } else { "sch=C3=B6n" };
            assert_eq!(inner.contains(words), ret == "FULL", "{inner}");
        });
    }
}

#[test]
fn the_sender_hears_whose_words_they_are() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", Script::default()).await;
        let gone = server.domain("gone.test", refusing()).await;
        let needs = "<ann@example.test> SMTPUTF8 BODY=8BITMIME";
        greeted(&server).await.ask(needs, &["<gr\u{fc}n@far.test>"], CONTENT).await;
        ask(&server, "<ann@example.test>", &["<eve@gone.test>"]).await;
        server.empty().await;
        let mut notices = server.mails("ann");
        notices.sort_by_key(|notice| notice.contains("eve@gone.test"));
        let [ours, theirs] = [0, 1].map(|at| notices[at].replace("\r\n", " ").replace("    ", ""));
        has(&ours, &["takes no addresses with letters beyond a to z. Use another address"]);
        has(&ours, &["No delivery came about at mx.far.test", "Diagnostic-Code: X-Posthouse; the server doesn't offer SMTPUTF8"]);
        assert!(!ours.contains("answered") && !ours.contains("smtp;"), "{ours}");
        has(&theirs, &["The server mx.gone.test [50.1.0.2]:25 answered:", "Diagnostic-Code: smtp; 550 5.1.1 no such user"]);
        assert_eq!(gone.taken().len(), 0);
    });
}

#[test]
fn a_message_comes_back_when_its_time_is_over() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", down()).await;
        ask(&server, "<ann@example.test> BY=1800;R", &["<eve@far.test>"]).await;
        server.empty().await;
        let waited = server.now().since(server.started());
        assert!(waited < Duration::from_secs(1900), "{waited:?}");
        has(&server.mails("ann")[0], &["Action: failed\r\nStatus: 5.4.7\r\n", "Deliver-By-Date: "]);
    });
}

#[test]
fn the_sender_is_told_when_the_time_is_over_and_delivery_goes_on() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", down()).await;
        ask(&server, "<ann@example.test> BY=1800;N", &["<eve@far.test> NOTIFY=FAILURE", "<joe@far.test> NOTIFY=NEVER"]).await;
        server.pass(HOUR).await;
        assert_eq!(notices(&server), [NoticeKind::Delay]);
        let notice = &server.mails("ann")[0];
        has(notice, &["Action: delayed\r\n", "eve@far.test"]);
        assert!(!notice.contains("joe@"), "{notice}");
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!(far.taken()[0].recipients.len(), 2);
        // Where the trail ends that is told, too (RFC 2852 section 4.1.4), but nothing twice.
        assert_eq!(notices(&server), [NoticeKind::Delay, NoticeKind::Success]);
    });
}

#[test]
fn a_message_with_a_time_goes_where_it_would_come_back_and_nowhere_else() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["DSN", "DELIVERBY 60"])).await;
        let plain = server.domain("plain.test", Script::default()).await;
        ask(&server, "<ann@example.test> BY=1800;R", &["<eve@far.test>", "<joe@plain.test>"]).await;
        server.empty().await;
        assert_eq!((far.taken().len(), plain.taken().len(), notices(&server)), (1, 0, vec![NoticeKind::Bounce]));
        let said = &far.taken()[0].parameters;
        assert!(["BY=1800;R", "BY=1799;R"].contains(&said.as_str()), "{said}");
        let told = &server.mails("ann")[0];
        has(
            told,
            &[
                "Final-Recipient: rfc822; joe@plain.test\r\nAction: failed\r\nStatus: 5.3.3\r\n",
                "asks for more than the receiving server offers",
            ],
        );
        // Less than the least that the server takes.
        ask(&server, "<ann@example.test> BY=30;R", &["<eve@far.test>"]).await;
        server.empty().await;
        assert_eq!((far.taken().len(), notices(&server).len()), (1, 2));
    });
}

#[test]
fn who_traces_a_message_hears_of_each_step() {
    for (by, rcpt, told) in [
        ("BY=3600;RT", "<eve@far.test>", true),
        ("BY=3600;NT", "<eve@far.test> NOTIFY=FAILURE", true),
        ("BY=3600;NT", "<eve@far.test> NOTIFY=NEVER", false),
        ("BY=3600;N", "<eve@far.test>", false),
        ("BY=3600;R", "<eve@far.test>", false),
    ] {
        story(async {
            let server = Setup::new().start().await;
            let far = server.domain("far.test", Script::offering(&["DSN", "DELIVERBY"])).await;
            ask(&server, &format!("<ann@example.test> {by}"), &[rcpt]).await;
            server.empty().await;
            let mode = by.rsplit(';').next().unwrap();
            assert!(far.taken()[0].parameters.ends_with(&format!(";{mode}")), "{:?}", far.taken());
            assert_eq!(notices(&server).len(), usize::from(told), "{by} {rcpt}");
            if told {
                let notice = &server.mails("ann")[0];
                has(
                    notice,
                    &["Deliver-By-Date: ", "Arrival-Date: ", "Final-Recipient: rfc822; eve@far.test\r\nAction: relayed\r\n"],
                );
            }
        });
    }
}

#[test]
fn held_mail_waits_for_its_time_also_over_a_restart() {
    story(async {
        let server = submission::setup().aliases("team: bob, sue\n").start().await;
        let rcpts = ["<ann@example.test>", "<team@example.test>"];
        submission::ida(&server).await.ask("<ida@example.test> HOLDFOR=36000", &rcpts, "Subject: later\r\n\r\nx\r\n").await;
        server.pass(9 * HOUR).await;
        let server = server.restart().await;
        server.pass(Duration::from_secs(3500)).await;
        assert_eq!(server.mails("ann").len(), 0);
        let queue = server.queue().await;
        assert!(queue[0].recipients.iter().any(|r| r.status.state == RecipientState::Pending));
        server.pass(Duration::from_secs(200)).await;
        server.empty().await;
        assert_eq!(["ann", "bob", "sue"].map(|user| server.mails(user).len()), [1, 1, 1]);
    });
}

#[test]
fn strangers_mail_does_not_overtake() {
    story(async {
        let server = Setup::new().start().await;
        let mut stranger = server.client(STRANGER).await;
        let reply = stranger.command("MAIL FROM:<joe@home.test> MT-PRIORITY=9").await.unwrap();
        assert_eq!(reply, "250 2.3.6 Sender ok; the priority is 0");
        stranger.command("RSET").await.unwrap();
        let reply = stranger.command("MAIL FROM:<joe@home.test> MT-PRIORITY=-9").await.unwrap();
        assert_eq!(reply, "250 2.1.0 Sender ok");
    });
}

#[test]
fn addresses_beyond_ascii_go_all_the_way_and_come_back() {
    story(async {
        let server = Setup::new().user("jos\u{e9}@example.test").start().await;
        let far = server.domain("far.test", Script::offering(&["8BITMIME", "SMTPUTF8"])).await;
        let content = "Subject: gr\u{fc}n\r\n\r\nx\r\n";
        let mail = "<jos\u{e9}@example.test> SMTPUTF8 BODY=8BITMIME";
        greeted(&server).await.ask(mail, &["<\u{43f}\u{440}@far.test>"], content).await;
        server.empty().await;
        assert_eq!(
            (far.taken()[0].reverse_path.as_str(), far.taken()[0].recipients[0].as_str()),
            ("jos\u{e9}@example.test", "\u{43f}\u{440}@far.test")
        );
        has(&far.taken()[0].parameters, &["SMTPUTF8"]);
        has(&String::from_utf8(far.taken()[0].content.clone()).unwrap(), &["with UTF8SMTP id ", "Subject: gr\u{fc}n\r\n"]);
        // And a bounce of it to a sender whom only SMTPUTF8 reaches.
        far.script(|script| {
            *script = Script::offering(&["8BITMIME", "SMTPUTF8"]).always(Stage::AnyRecipient, Act::say("550 5.1.1 no"))
        });
        greeted(&server).await.ask(mail, &["<\u{43f}\u{440}@far.test>"], content).await;
        server.empty().await;
        let notice = String::from_utf8(server.mailbox("jos\u{e9}")[0].clone()).unwrap();
        has(
            &notice,
            &[
                "To: <jos\u{e9}@example.test>\r\n",
                "Content-Type: message/global-delivery-status\r\n",
                "Final-Recipient: utf-8; \u{43f}\u{440}@far.test\r\n",
                "Content-Type: message/global-headers\r\n",
            ],
        );
    });
}
