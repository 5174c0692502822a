//! A connection that ends behind the content: whoever may have the message is in doubt, gets it again later than usual, and is called a
//! possible duplicate; whoever spoke has the last word, however the content went out.

use std::time::Duration;

use posthouse::config::{Config, LmtpAddress, MailStore};
use posthouse::event::Event;
use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// Waits are told apart by their length alone.
fn exact(config: &mut Config) {
    config.retry.jitter = 0.0;
}

/// Each deferral so far, by recipient: whether it was in doubt, how long until the next attempt, and the words.
fn deferrals(server: &Server) -> Vec<(String, bool, Duration, String)> {
    let deferred = |event: Event| match event {
        Event::Deferred { to, in_doubt, next_attempt, reply, .. } => {
            Some((to.local().to_owned(), in_doubt, next_attempt.since(server.now()), reply))
        }
        _ => None,
    };
    server.events.recorded().into_iter().filter_map(deferred).collect()
}

/// Whom the peer has taken messages for, and how often.
fn taken(peer: &Peer) -> Vec<String> {
    let mut all: Vec<String> = peer.taken().into_iter().flat_map(|taken| taken.recipients).collect();
    all.sort();
    all
}

#[test]
fn only_those_who_may_have_the_message_are_in_doubt_by_data_and_by_bdat() {
    for extensions in [&["PIPELINING"][..], &["PIPELINING", "CHUNKING"], &["CHUNKING"], &[]] {
        for act in [Act::TakeAndClose, Act::Close, Act::say("gibberish")] {
            story(async {
                let server = Setup::new().config(exact).start().await;
                let script = Script::offering(extensions)
                    .once(Stage::End, act.clone())
                    .once(Stage::Recipient("late@far.test".to_owned()), Act::say("450 4.2.1 busy"))
                    .always(Stage::Recipient("gone@far.test".to_owned()), Act::say("550 5.1.1 nobody"));
                let far = server.domain("far.test", script).await;
                server
                    .relay("ann@example.test", &["eve@far.test", "late@far.test", "gone@far.test", "joe@far.test"], CONTENT)
                    .await;
                let both = || (server.count("deferred") >= 3).then_some(());
                server.until("the end of the attempt", || both().is_some()).await;
                let what = format!("{extensions:?} {act:?}");
                for (to, in_doubt, wait, reply) in deferrals(&server) {
                    assert_eq!(in_doubt, to != "late", "{what}: {to}");
                    assert_eq!(reply.contains("possible duplicate"), in_doubt, "{what}: {reply}");
                    let usual = 5 * MINUTE;
                    let expected = if in_doubt { 2 * usual } else { usual };
                    assert!(wait > expected - MINUTE && wait <= expected, "{what}: {to} waits for {wait:?}");
                }
                assert_eq!(server.count("failed"), 1, "{what}: who doesn't exist isn't in doubt");
                let bdat = far.commands().iter().any(|line| line.starts_with("BDAT "));
                assert_eq!(bdat, extensions.contains(&"CHUNKING"), "{what}");
                server.empty().await;
                let twice = usize::from(act == Act::TakeAndClose);
                assert_eq!(taken(&far).len(), 3 + 2 * twice, "{what}: {:?}", taken(&far));
            });
        }
    }
}

#[test]
fn a_chunk_that_is_not_the_last_leaves_no_doubt() {
    story(async {
        let server = Setup::new().config(exact).start().await;
        let script = Script::offering(&["PIPELINING", "CHUNKING"]).once(Stage::Chunk, Act::Close);
        let far = server.domain("far.test", script).await;
        let long = format!("Subject: long\r\n\r\n{}", "0123456789\r\n".repeat(500_000));
        server.relay("ann@example.test", &["eve@far.test"], &long).await;
        server.until("the end of the attempt", || server.count("deferred") == 1).await;
        let (_, in_doubt, wait, reply) = deferrals(&server).remove(0);
        assert!(!in_doubt && !reply.contains("duplicate") && wait <= 5 * MINUTE, "{wait:?} {reply}");
        server.empty().await;
        assert_eq!(taken(&far), ["eve@far.test"]);
    });
}

#[test]
fn of_lmtps_replies_each_counts_and_only_those_that_did_not_come_are_in_doubt() {
    for chunking in [false, true] {
        for act in [Act::TakeAndClose, Act::Close, Act::Stall] {
            story(async {
                let store = MailStore::Lmtp(LmtpAddress::Unix("/run/lmtp".into()));
                let change = |config: &mut Config| {
                    exact(config);
                    config.domains[0].store = store;
                };
                let server = Setup::new().config(change).start().await;
                let mut script = Script::lmtp().once(Stage::EndFor("bob@example.test".to_owned()), act.clone());
                script.extensions =
                    ["PIPELINING", "CHUNKING"][..1 + usize::from(chunking)].iter().map(|&e| e.to_owned()).collect();
                let store = Peer::start(server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap(), script);
                server.relay("kim@far.test", &["ann@example.test", "bob@example.test", "sue@example.test"], CONTENT).await;
                server.until("the end of the attempt", || server.count("deferred") == 2).await;
                let what = format!("{chunking} {act:?}");
                for (to, in_doubt, wait, reply) in deferrals(&server) {
                    assert!(in_doubt && to != "ann" && reply.contains("possible duplicate"), "{what}: {to} {reply}");
                    assert!(wait > 9 * MINUTE, "{what}: {wait:?}");
                }
                assert_eq!(server.count("delivered"), 1, "{what}: who was told of is done with");
                server.empty().await;
                let count = |user: &str| taken(&store).iter().filter(|to| to.starts_with(user)).count();
                let twice = usize::from(act == Act::TakeAndClose);
                assert_eq!([count("ann"), count("bob"), count("sue")], [1, 1 + twice, 1], "{what}");
            });
        }
    }
}
