//! What senders ask for, from MAIL and RCPT to the next hop or to the notice that they get.

use posthouse::config::{LmtpAddress, MailStore};
use posthouse::event::{Event, NoticeKind};
use posthouse::mail::{Domain, QueueId};
use posthouse::queue::Verb;
use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::client::Client;
use crate::world::*;

const CONTENT: &str = "From: Ann <ann@example.test>\r\nSubject: the plan\r\n\r\nsecret words\r\n";

/// One transaction of our own client with these arguments, in ordinary content.
async fn ask(server: &Server, mail: &str, recipients: &[&str]) -> QueueId {
    let mut client = server.client(TRUSTED).await;
    envelope(&mut client, mail, recipients).await;
    assert!(client.command("DATA").await.unwrap().starts_with("354"));
    queue_id(&[client.content(CONTENT.as_bytes()).await.unwrap()])
}

async fn envelope(client: &mut Client, mail: &str, recipients: &[&str]) {
    let reply = client.command(&format!("MAIL FROM:{mail}")).await.unwrap();
    assert!(reply.starts_with("250"), "{mail}: {reply}");
    for recipient in recipients {
        let reply = client.command(&format!("RCPT TO:{recipient}")).await.unwrap();
        assert!(reply.starts_with("250"), "{recipient}: {reply}");
    }
}

fn kinds(server: &Server) -> Vec<NoticeKind> {
    let kind = |event: &Event| match event {
        Event::Notified { kind, .. } => Some(*kind),
        _ => None,
    };
    server.events.recorded().iter().filter_map(kind).collect()
}

fn unknown() -> Act {
    Act::say("550 5.1.1 no such user")
}

#[test]
fn a_next_hop_with_dsn_gets_all_of_the_request_and_the_duty() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["PIPELINING", "DSN"])).await;
        let rcpt = "<eve@far.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;eve+2Bx@old.test";
        ask(&server, "<ann@example.test> RET=HDRS ENVID=QQ+2B314159", &[rcpt]).await;
        server.empty().await;
        let commands = far.commands();
        assert_eq!(
            commands[1..3],
            ["MAIL FROM:<ann@example.test> RET=HDRS ENVID=QQ+2B314159".to_owned(), format!("RCPT TO:{rcpt}")]
        );
        assert_eq!((far.taken().len(), kinds(&server)), (1, vec![]));
    });
}

#[test]
fn the_next_hop_hears_what_the_sender_calls_who_is_reached_through_an_alias() {
    story(async {
        let aliases = "team: eve@far.test, joe@far.test\none: kim@far.test\ngr\u{fc}n: pat@far.test\n";
        let server = Setup::new().aliases(aliases).start().await;
        let far = server.domain("far.test", Script::offering(&["8BITMIME", "SMTPUTF8", "DSN"])).await;
        let asked = ["<team@example.test>", "<one@example.test> ORCPT=RFC822;Old+2BName@Old.test", "<joe.x@far.test>"];
        ask(&server, "<ann@example.test>", &asked).await;
        ask(&server, "<ann@example.test> SMTPUTF8", &["<gr\u{fc}n@example.test>"]).await;
        server.empty().await;
        let mut said: Vec<String> = far.commands().into_iter().filter(|line| line.starts_with("RCPT")).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "RCPT TO:<eve@far.test> ORCPT=rfc822;team@example.test",
                "RCPT TO:<joe.x@far.test>",
                "RCPT TO:<joe@far.test> ORCPT=rfc822;team@example.test",
                "RCPT TO:<kim@far.test> ORCPT=RFC822;Old+2BName@Old.test",
                "RCPT TO:<pat@far.test> ORCPT=utf-8;gr\\x{FC}n@example.test",
            ]
        );
    });
}

#[test]
fn a_next_hop_without_dsn_leaves_us_to_say_that_it_was_passed_on() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let asked =
            ["<eve@far.test> NOTIFY=SUCCESS ORCPT=rfc822;eve@old.test", "<joe@far.test>", "<sue@far.test> NOTIFY=FAILURE"];
        ask(&server, "<ann@example.test> ENVID=QQ314159", &asked).await;
        server.empty().await;
        assert_eq!((far.taken().len(), kinds(&server)), (1, vec![NoticeKind::Success]));
        let notice = server.mails("ann").remove(0);
        for part in [
            "Return-Path: <>\r\n",
            "Subject: Passed on: the plan\r\n",
            "Original-Envelope-Id: QQ314159\r\n",
            "Original-Recipient: rfc822; eve@old.test\r\nFinal-Recipient: rfc822; eve@far.test\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
        ] {
            assert!(notice.contains(part), "{part} is not in\n{notice}");
        }
        assert!(!notice.contains("joe@far.test") && !notice.contains("sue@far.test") && !notice.contains("secret words"));
    });
}

#[test]
fn delivery_to_a_mailbox_is_confirmed_to_who_asked_for_it() {
    story(async {
        let server = Setup::new().start().await;
        ask(&server, "<ann@example.test>", &["<bob@example.test> NOTIFY=SUCCESS,FAILURE", "<sue@example.test>"]).await;
        server.empty().await;
        assert_eq!(["ann", "bob", "sue"].map(|user| server.mailbox(user).len()), [1, 1, 1]);
        let notice = server.mails("ann").remove(0);
        assert!(notice.contains("Final-Recipient: rfc822; bob@example.test\r\nAction: delivered\r\n"), "{notice}");
        assert!(!notice.contains("sue@example.test"));
        // A notice confirms nothing itself, whatever it asks for.
        ask(&server, "<>", &["<bob@example.test> NOTIFY=SUCCESS"]).await;
        server.empty().await;
        assert_eq!((server.mailbox("bob").len(), kinds(&server).len()), (2, 1));
    });
}

#[test]
fn what_an_lmtp_server_has_taken_is_delivered() {
    story(async {
        let store = MailStore::Lmtp(LmtpAddress::Unix("/run/lmtp".into()));
        let server = Setup::new().config(|config| config.domains[0].store = store).start().await;
        let full = Act::say("552 5.2.2 full");
        let script = Script::lmtp().always(Stage::EndFor("sue@example.test".to_owned()), full);
        let _store = Peer::start(server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap(), script);
        let home = server.domain("home.test", Script::default()).await;
        let to = ["<bob@example.test> NOTIFY=SUCCESS", "<sue@example.test> NOTIFY=SUCCESS,FAILURE"];
        ask(&server, "<joe@home.test>", &to).await;
        server.empty().await;
        let mut told = home.taken().into_iter().map(|taken| String::from_utf8(taken.content).unwrap()).collect::<Vec<_>>();
        told.sort_by_key(|notice| notice.contains("Action: failed"));
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("Final-Recipient: rfc822; bob@example.test\r\nAction: delivered\r\nStatus: 2."), "{}", told[0]);
        assert!(told[1].contains("Final-Recipient: rfc822; sue@example.test\r\nAction: failed\r\nStatus: 5.2.2\r\n"));
    });
}

#[test]
fn who_wants_to_hear_nothing_of_failures_hears_nothing() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", Script::default().always(Stage::AnyRecipient, unknown())).await;
        ask(&server, "<ann@example.test>", &["<eve@far.test> NOTIFY=NEVER", "<joe@far.test> NOTIFY=SUCCESS"]).await;
        server.empty().await;
        assert_eq!((server.mailbox("ann").len(), server.count("unnotified"), server.count("failed")), (0, 1, 2));
        ask(&server, "<ann@example.test>", &["<eve@far.test> NOTIFY=NEVER", "<joe@far.test> NOTIFY=FAILURE"]).await;
        server.empty().await;
        let bounce = server.mails("ann").remove(0);
        assert!(bounce.contains("joe@far.test") && !bounce.contains("eve@far.test"));
    });
}

#[test]
fn delays_are_told_only_to_who_does_not_mind() {
    story(async {
        let server = Setup::new().config(|config| config.retry.delay_notice = vec![HOUR]).start().await;
        let busy = Script::default().always(Stage::AnyRecipient, Act::say("450 4.2.1 busy"));
        let far = server.domain("far.test", busy).await;
        let asked = ["<eve@far.test> NOTIFY=FAILURE", "<joe@far.test> NOTIFY=DELAY", "<sue@far.test>"];
        ask(&server, "<ann@example.test>", &asked).await;
        server.event("a delay notice", |event| matches!(event, Event::Notified { .. }).then_some(())).await;
        far.script(|script| script.set_always(Stage::AnyRecipient, Act::Usual));
        server.empty().await;
        assert_eq!(kinds(&server), [NoticeKind::Delay]);
        let notice = server.mails("ann").remove(0);
        assert!(
            notice.contains("joe@far.test") && notice.contains("sue@far.test") && !notice.contains("eve@far.test"),
            "{notice}"
        );
    });
}

#[test]
fn a_bounce_brings_back_as_much_as_the_sender_wants() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", Script::default().always(Stage::AnyRecipient, unknown())).await;
        for (ret, whole) in [(" RET=FULL", true), (" RET=HDRS", false), ("", false)] {
            ask(&server, &format!("<ann@example.test>{ret}"), &["<eve@far.test>"]).await;
            server.empty().await;
            let bounce = server.mails("ann").pop().unwrap();
            let kind = if whole { "message/rfc822" } else { "text/rfc822-headers" };
            assert_eq!((bounce.contains("secret words"), bounce.contains(kind)), (whole, true), "{bounce}");
        }
    });
}

#[test]
fn a_long_message_does_not_come_back_whole() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", Script::default().always(Stage::AnyRecipient, unknown())).await;
        for (lines, whole) in [(9_000, true), (10_500, false)] {
            let content = format!("Subject: long\r\n\r\n{}", "secret w\r\n".repeat(lines));
            server.client(TRUSTED).await.ask("<ann@example.test> RET=FULL", &["<eve@far.test>"], &content).await;
            server.empty().await;
            let bounce = server.mails("ann").pop().unwrap();
            assert_eq!((bounce.contains("secret w"), bounce.contains("Subject: long")), (whole, true), "{lines} lines");
        }
    });
}

#[test]
fn an_address_that_stands_for_several_is_confirmed_as_such() {
    story(async {
        let server = Setup::new().aliases("team: bob, sue, gone@far.test\none: bob\n").start().await;
        let _far = server.domain("far.test", Script::default().always(Stage::AnyRecipient, unknown())).await;
        ask(&server, "<ann@example.test>", &["<team@example.test> NOTIFY=SUCCESS,FAILURE"]).await;
        server.empty().await;
        let notices = server.mails("ann");
        let actions = ["expanded", "failed"].map(|action| {
            let action = format!("Action: {action}\r\n");
            notices.iter().filter(|notice| notice.contains(&action)).count()
        });
        assert_eq!((actions, notices.len()), ([1, 1], 2), "{notices:?}");
        // One address behind the alias: its delivery is what the sender wants to know.
        ask(&server, "<ann@example.test>", &["<one@example.test> NOTIFY=SUCCESS"]).await;
        server.empty().await;
        let found = server.mails("ann").iter().any(|notice| {
            notice.contains(
                "Original-Recipient: rfc822; one@example.test\r\nFinal-Recipient: rfc822; bob@example.test\r\nAction: delivered",
            )
        });
        assert!(found);
    });
}

#[test]
fn addresses_beyond_ascii_go_where_they_are_understood() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["8BITMIME", "SMTPUTF8"])).await;
        let near = server.domain("near.test", Script::offering(&["8BITMIME"])).await;
        let mail = "<ann@example.test> BODY=8BITMIME SMTPUTF8";
        ask(&server, mail, &["<grün@far.test>"]).await;
        server.empty().await;
        assert_eq!(
            (far.taken()[0].parameters.as_str(), far.taken()[0].recipients.join(" ")),
            ("BODY=8BITMIME SMTPUTF8", "grün@far.test".to_owned())
        );
        // Who can be told of there gets it, the other fails.
        ask(&server, mail, &["<grün@near.test>", "<joe@near.test>"]).await;
        server.empty().await;
        assert_eq!(
            (near.taken()[0].parameters.as_str(), near.taken()[0].recipients.join(" ")),
            ("BODY=8BITMIME", "joe@near.test".to_owned())
        );
        let bounce = server.mails("ann").remove(0);
        assert!(
            bounce.contains("Final-Recipient: utf-8;gr\\x{FC}n@near.test\r\nAction: failed\r\nStatus: 5.6.7\r\n"),
            "{bounce}"
        );
        // A sender beyond ASCII is told in the same way.
        let home = server.domain("home.test", Script::offering(&["8BITMIME", "SMTPUTF8"])).await;
        ask(&server, "<jürgen@home.test> SMTPUTF8", &["<joe@near.test>"]).await;
        server.empty().await;
        assert_eq!((near.taken().len(), home.taken()[0].recipients.join(" ")), (1, "jürgen@home.test".to_owned()));
        let notice = String::from_utf8(home.taken()[0].content.clone()).unwrap();
        assert!(notice.contains("To: <jürgen@home.test>\r\n") && notice.contains("Status: 5.6.7\r\n"), "{notice}");
    });
}

#[test]
fn binary_content_goes_in_and_out_in_chunks_or_encoded() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["8BITMIME", "BINARYMIME", "CHUNKING"])).await;
        let near = server.domain("near.test", Script::offering(&["8BITMIME"])).await;
        let content =
            b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\n\xff.\r\n.\r\n";
        let mut client = server.client(TRUSTED).await;
        envelope(&mut client, "<ann@example.test> BODY=BINARYMIME", &["<eve@far.test>", "<joe@near.test>", "<bob@example.test>"])
            .await;
        client.send(&[format!("BDAT {} LAST\r\n", content.len()).as_bytes(), content].concat()).await.unwrap();
        let reply = client.reply().await.unwrap();
        assert!(reply.starts_with("250"), "{reply}");
        server.empty().await;
        assert_eq!(
            (below_our_fields(&far.taken()[0].content), far.taken()[0].parameters.as_str()),
            (&content[..], "BODY=BINARYMIME")
        );
        let encoded =
            b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAr/Lg0KLg0K\r\n";
        assert_eq!(
            (below_our_fields(&near.taken()[0].content), near.taken()[0].parameters.as_str()),
            (&encoded[..], "BODY=8BITMIME")
        );
        assert!(server.mailbox("bob")[0].ends_with(content));
    });
}

#[test]
fn an_order_is_about_a_message_as_its_aliases_leave_it() {
    story(async {
        let server = Setup::new().aliases("list: eve@far.test, joe@far.test\n").start().await;
        let far = server.domain("far.test", Script::default()).await;
        for domain in ["far.test", "example.test"] {
            server.handle.pause(Some(Domain::parse(domain).unwrap())).await.unwrap();
        }
        let to = ["<list@example.test> NOTIFY=SUCCESS", "<bob@example.test> NOTIFY=SUCCESS"];
        let id = ask(&server, "<ann@example.test>", &to).await;
        // While its first alias is told of, its other recipient becomes an alias, and it is removed.
        let aliases = "list: eve@far.test, joe@far.test\nbob: kim@far.test, pat@far.test\n";
        write(&server.disk, "/conf/aliases", aliases);
        let (reloaded, removed) = tokio::join!(server.handle.reload(), server.handle.change(Verb::Remove, vec![id]));
        assert_eq!((reloaded, removed.unwrap().touched), (Ok(()), 1));
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        assert!(far.taken().is_empty() && server.mailbox("bob").is_empty(), "it is gone");
        let events = server.events.recorded();
        let names: Vec<&str> = events.iter().map(Event::name).collect();
        let removed = names.iter().position(|name| *name == "removed").unwrap();
        assert!(!names[removed..].contains(&"notified"), "nothing is told of it afterwards: {names:?}");
        assert!(matches!(events[removed], Event::Removed { recipients: 4, .. }), "{:?}", events[removed]);
    });
}
