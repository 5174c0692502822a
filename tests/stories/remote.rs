//! Other servers and their moods: results for single recipients, lost connections, doubt.

use posthouse::event::Event;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

fn rcpt(address: &str) -> Stage {
    Stage::Recipient(address.to_owned())
}

#[test]
fn all_recipients_at_a_destination_share_one_transaction() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        let other = server.domain("other.test", Script::default()).await;
        let to: Vec<String> = (0..50).map(|n| format!("user{n}@far.test")).collect();
        let mut to: Vec<&str> = to.iter().map(String::as_str).collect();
        to.insert(7, "joe@other.test");
        server.relay("ann@example.test", &to, CONTENT).await;
        server.empty().await;
        assert_eq!((far.taken().len(), far.taken()[0].recipients.len(), far.connections()), (1, 50, 1));
        assert_eq!(other.taken().len(), 1);
    });
}

#[test]
fn only_the_recipients_that_failed_are_tried_again_or_bounced() {
    story(async {
        let server = Setup::new().start().await;
        let script = Script::default()
            .once(rcpt("busy@far.test"), Act::say("450 4.2.1 busy now"))
            .always(rcpt("gone@far.test"), Act::say("550 5.1.1 nobody of that name"));
        let far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["good@far.test", "busy@far.test", "gone@far.test"], CONTENT).await;
        server.empty().await;
        let taken: Vec<_> = far.taken().iter().map(|taken| taken.recipients.join(" ")).collect();
        assert_eq!(taken, ["good@far.test", "busy@far.test"]);
        let asked = |address: &str| far.commands().iter().filter(|line| line.contains(address)).count();
        assert_eq!([asked("good@far.test"), asked("busy@far.test"), asked("gone@far.test")], [1, 2, 1]);
        let bounces = server.mails("ann");
        assert_eq!(bounces.len(), 1);
        assert!(bounces[0].contains("gone@far.test") && bounces[0].contains("550 5.1.1 nobody of that name"));
        assert!(!bounces[0].contains("busy@far.test") && !bounces[0].contains("good@far.test"));
    });
}

#[test]
fn mixed_results_never_deliver_twice() {
    story(async {
        let server = Setup::new().aliases("mix: bob, a@far.test, b@far.test, c@other.test\n").start().await;
        let script = Script::default()
            .once(rcpt("b@far.test"), Act::say("451 4.7.1 greylisted"))
            .once(rcpt("b@far.test"), Act::say("451 4.7.1 greylisted"));
        let far = server.domain("far.test", script).await;
        let script =
            Script::default().once(Stage::End, Act::say("452 4.3.1 no room")).once(Stage::Data, Act::say("421 4.3.2 bye"));
        let other = server.domain("other.test", script).await;
        server.send("sue@example.test", &["mix@example.test", "ann@example.test"], CONTENT).await;
        server.empty().await;
        let mut taken: Vec<_> = far.taken().iter().chain(&other.taken()).flat_map(|taken| taken.recipients.clone()).collect();
        taken.sort();
        assert_eq!(taken, ["a@far.test", "b@far.test", "c@other.test"]);
        assert_eq!(["ann", "bob", "sue"].map(|user| server.mailbox(user).len()), [1, 1, 0]);
    });
}

/// The peer drops the connection, or says 421, once at this stage: the mail comes later, and once.
fn dropped_once(stage: Stage, act: Act) {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().once(stage.clone(), act.clone())).await;
        let content = format!("Subject: long\r\n\r\n{}", "0123456789\r\n".repeat(20_000));
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], &content).await;
        server.empty().await;
        assert_eq!(server.count("deferred"), 2, "{stage:?} {act:?}");
        assert_eq!((far.taken().len(), far.taken()[0].recipients.len()), (1, 2), "{stage:?} {act:?}");
        assert_eq!(below_our_fields(&far.taken()[0].content), content.as_bytes(), "{stage:?} {act:?}");
        assert_eq!(server.mailbox("ann").len(), 0, "{stage:?} {act:?}");
    });
}

const STAGES: [Stage; 6] = [Stage::Greeting, Stage::Ehlo, Stage::Mail, Stage::AnyRecipient, Stage::Data, Stage::Content];

#[test]
fn a_peer_that_drops_the_connection_at_any_stage_gets_the_mail_later() {
    for stage in STAGES {
        dropped_once(stage, Act::Close);
    }
}

#[test]
fn a_peer_that_says_421_at_any_stage_gets_the_mail_later() {
    for stage in [Stage::Greeting, Stage::Mail, Stage::Data, Stage::End] {
        dropped_once(stage, Act::SayAndClose("421 4.3.2 going down".to_owned()));
    }
}

#[test]
fn a_peer_that_falls_silent_at_any_stage_gets_the_mail_later() {
    for stage in STAGES {
        dropped_once(stage, Act::Stall);
    }
}

#[test]
fn a_peer_lost_before_its_last_reply_leaves_doubt_and_gets_the_mail_later() {
    for act in [Act::Close, Act::Stall] {
        story(async {
            let server = Setup::new().start().await;
            let far = server.domain("far.test", Script::default().once(Stage::End, act)).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            assert_eq!((far.taken().len(), far.connections()), (1, 2));
        });
    }
}

#[test]
fn a_connection_cut_behind_the_final_dot_means_at_most_one_duplicate() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default().once(Stage::End, Act::TakeAndClose)).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let doubt = |event: &Event| match event {
            Event::Deferred { in_doubt: true, next_attempt, .. } => Some(*next_attempt),
            _ => None,
        };
        let next = server.event("a doubtful deferral", doubt).await;
        // Twice the usual wait of five minutes, plus or minus a tenth.
        let wait = next.since(server.started());
        assert!(wait > 9 * MINUTE && wait < 12 * MINUTE, "{wait:?}");
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("delivered")), (2, 1));
    });
}

#[test]
fn a_whole_message_refused_with_5xx_bounces_for_all() {
    story(async {
        let server = Setup::new().start().await;
        for (domain, stage) in [("mail.test", Stage::Mail), ("data.test", Stage::Data), ("end.test", Stage::End)] {
            let _far = server.domain(domain, Script::default().always(stage, Act::say("554 5.7.1 not from you"))).await;
            server.relay("ann@example.test", &[&format!("a@{domain}"), &format!("b@{domain}")], CONTENT).await;
            server.empty().await;
        }
        let bounces = server.mails("ann");
        assert_eq!((bounces.len(), server.count("failed"), server.count("deferred")), (3, 6, 0));
        assert!(bounces.iter().all(|bounce| bounce.contains("554 5.7.1 not from you") && bounce.contains("2 recipients")));
    });
}

#[test]
fn a_peer_that_takes_few_recipients_at_a_time_gets_them_in_rounds() {
    story(async {
        let server = Setup::new().start().await;
        let mut script = Script::default();
        for n in 2..5 {
            script = script.once(rcpt(&format!("user{n}@far.test")), Act::say("452 4.5.3 too many recipients"));
        }
        let far = server.domain("far.test", script).await;
        let to: Vec<String> = (0..5).map(|n| format!("user{n}@far.test")).collect();
        server.relay("ann@example.test", &to.iter().map(String::as_str).collect::<Vec<_>>(), CONTENT).await;
        server.empty().await;
        let mut taken: Vec<_> = far.taken().iter().flat_map(|taken| taken.recipients.clone()).collect();
        taken.sort();
        assert_eq!(taken, to);
    });
}

#[test]
fn a_peer_that_knows_only_helo_is_spoken_to_in_its_way() {
    story(async {
        let server = Setup::new().start().await;
        let script = Script::plain().always(Stage::Ehlo, Act::say("502 5.5.1 what?"));
        let far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["eve@far.test"], "Subject: x\r\n\r\n.dot\r\n..\r\n").await;
        server.empty().await;
        assert_eq!(below_our_fields(&far.taken()[0].content), b"Subject: x\r\n\r\n.dot\r\n..\r\n");
        assert_eq!(far.taken()[0].parameters, "");
    });
}

#[test]
fn a_connection_is_used_again_for_the_next_message() {
    story(async {
        let server = Setup::new().config(|c| c.remote.concurrency = 1).start().await;
        let far = server.domain("far.test", Script::default()).await;
        for _ in 0..5 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        }
        server.empty().await;
        assert_eq!((far.taken().len(), far.connections()), (5, 1));
    });
}

#[test]
fn a_peer_without_8bitmime_gets_the_same_text_in_7_bit_or_the_sender_hears_why_not() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["PIPELINING", "SIZE"])).await;
        let mime = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: ";
        server.relay("ann@example.test", &["eve@far.test"], &format!("{mime}8bit\r\n\r\nGrüße\r\n")).await;
        server.empty().await;
        let expected = format!("{mime}quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n");
        assert_eq!(below_our_fields(&far.taken()[0].content), expected.as_bytes());
        assert_eq!(far.taken()[0].parameters, format!("SIZE={}", far.taken()[0].content.len()));
        let signed = "Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\nGrüße\r\n--x--\r\n";
        server.relay("ann@example.test", &["eve@far.test"], signed).await;
        server.empty().await;
        let bounces = server.mails("ann");
        assert_eq!((far.taken().len(), bounces.len(), server.count("deferred")), (1, 1, 0));
        assert!(bounces[0].contains("5.6.3") && bounces[0].contains("signed or encrypted"), "{}", bounces[0]);
    });
}

#[test]
fn a_peer_with_chunking_gets_the_octets_as_they_are() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::offering(&["PIPELINING", "8BITMIME", "CHUNKING"])).await;
        let content = format!("Subject: dots\r\n\r\n{}", ".\r\n..\r\n".repeat(500_000));
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], &content).await;
        server.empty().await;
        assert!(below_our_fields(&far.taken()[0].content) == content.as_bytes());
        let commands = far.commands();
        assert!(commands.iter().filter(|line| line.starts_with("BDAT")).count() == 4 && !commands.contains(&"DATA".to_owned()));
    });
}
