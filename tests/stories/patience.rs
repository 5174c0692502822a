//! How long other servers are waited for, stage by stage (RFC 5321 section 4.5.3.2), and what a lost last reply leaves behind.

use std::time::Duration;

use posthouse::config::{Config, StageTimeouts};
use posthouse::event::Event;
use posthouse::system::sim::{Act, Fault, Script, Stage};

use crate::world::*;

const SECOND: Duration = Duration::from_secs(1);

/// Silent at this stage for good: how long until the attempt is over, and why, in the log's words.
fn patience(stage: Option<Stage>, change: impl FnOnce(&mut Config)) -> (Duration, String) {
    story(async {
        let setup = Setup::new().config(|config| {
            // So that the next attempt's time tells the end of the last.
            config.retry.jitter = 0.0;
            change(config);
        });
        let server = setup.start().await;
        let script = stage.iter().fold(Script::default(), |script, stage| script.always(stage.clone(), Act::Stall));
        let _far = server.domain("far.test", script).await;
        if stage.is_none() {
            server.world.net.fault(&Server::endpoint("50.1.0.1"), Some(Fault::Stall));
        }
        let content = format!("Subject: long\r\n\r\n{}", "0123456789\r\n".repeat(20_000));
        server.relay("ann@example.test", &["eve@far.test"], &content).await;
        let accepted = server.now();
        let deferred = |event: &Event| match event {
            Event::Deferred { in_doubt, next_attempt, reply, .. } => Some((*in_doubt, *next_attempt, reply.clone())),
            _ => None,
        };
        let (in_doubt, next, reply) = server.event("the end of the attempt", deferred).await;
        let wait = if in_doubt { 10 * MINUTE } else { 5 * MINUTE };
        (next.since(accepted) - wait, reply)
    })
}

fn assert_about(found: Duration, expected: Duration, stage: &Option<Stage>) {
    assert!(found >= expected && found < expected + SECOND / 2, "{stage:?}: {found:?} instead of {expected:?}");
}

#[test]
fn every_stage_is_waited_for_as_long_as_the_rfc_says() {
    for (stage, time, words) in [
        (None, SECOND * 30, "can't connect within 30 s"),
        (Some(Stage::Greeting), MINUTE * 5, "the greeting"),
        (Some(Stage::Ehlo), MINUTE * 5, "EHLO"),
        (Some(Stage::Mail), MINUTE * 5, "MAIL"),
        (Some(Stage::AnyRecipient), MINUTE * 5, "RCPT"),
        (Some(Stage::Data), MINUTE * 2, "DATA"),
        (Some(Stage::Content), MINUTE * 3, "sending the message"),
        (Some(Stage::End), MINUTE * 10, "the final dot"),
    ] {
        let (found, reply) = patience(stage.clone(), |_| {});
        assert_about(found, time, &stage);
        assert!(reply.contains(words), "{reply}");
    }
}

#[test]
fn every_stage_has_a_time_out_of_its_own() {
    let timeouts = StageTimeouts {
        greeting: Some(SECOND * 11),
        mail: Some(SECOND * 12),
        recipient: Some(SECOND * 13),
        data: Some(SECOND * 14),
        block: Some(SECOND * 15),
        end: Some(SECOND * 16),
    };
    for (stage, seconds) in [
        (None, 9),
        (Some(Stage::Greeting), 11),
        (Some(Stage::Ehlo), 10),
        (Some(Stage::Mail), 12),
        (Some(Stage::AnyRecipient), 13),
        (Some(Stage::Data), 14),
        (Some(Stage::Content), 15),
        (Some(Stage::End), 16),
    ] {
        let (found, _) = patience(stage.clone(), |config| {
            config.remote.connect_timeout = SECOND * 9;
            config.remote.reply_timeout = SECOND * 10;
            config.remote.stage_timeouts = timeouts;
        });
        assert_about(found, SECOND * seconds, &stage);
    }
}

#[test]
fn a_server_that_takes_each_recipient_just_in_time_does_not_keep_the_message_for_ever() {
    for (change, time) in [(None, HOUR * 2), (Some(10 * MINUTE), 10 * MINUTE)] {
        story(async {
            let setup = Setup::new().config(|config| {
                config.retry.jitter = 0.0;
                config.remote.transaction_timeout = change.unwrap_or(config.remote.transaction_timeout);
            });
            let server = setup.start().await;
            let slow = Script::default().always(Stage::AnyRecipient, Act::Slow(4 * MINUTE));
            let far = server.domain("far.test", slow).await;
            let to: Vec<String> = (0..100).map(|n| format!("eve{n}@far.test")).collect();
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            server.relay("ann@example.test", &to, "Subject: long\r\n\r\n").await;
            let accepted = server.now();
            let deferred = |event: &Event| match event {
                Event::Deferred { next_attempt, reply, .. } => Some((*next_attempt, reply.clone())),
                _ => None,
            };
            let (next, reply) = server.event("the end of the attempt", deferred).await;
            assert_about(next.since(accepted) - 5 * MINUTE, time, &None);
            assert!(reply.contains("the transaction takes too long"), "{reply}");
            assert_eq!((far.taken().len(), far.connections()), (0, 1));
        });
    }
}

#[test]
fn a_slow_last_reply_is_waited_for_beyond_the_time_of_a_transaction() {
    story(async {
        let server = Setup::new().config(|config| config.remote.transaction_timeout = MINUTE).start().await;
        let far = server.domain("far.test", Script::default().always(Stage::End, Act::Slow(9 * MINUTE))).await;
        server.relay("ann@example.test", &["eve@far.test"], "Subject: slow\r\n\r\n").await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("deferred")), (1, 0));
    });
}

#[test]
fn a_lost_last_reply_is_said_to_leave_a_possible_duplicate() {
    for act in [Act::TakeAndClose, Act::Close, Act::Stall] {
        story(async {
            let server = Setup::new().start().await;
            let _far = server.domain("far.test", Script::default().once(Stage::End, act.clone())).await;
            server.relay("ann@example.test", &["eve@far.test"], "Subject: hi\r\n\r\nhello\r\n").await;
            let doubt = |event: &Event| match event {
                Event::Deferred { in_doubt: true, reply, .. } => Some(reply.clone()),
                _ => None,
            };
            let logged = server.event("a doubtful deferral", doubt).await;
            assert!(logged.contains("possible duplicate"), "{logged}");
            // What `queue show` prints.
            assert_eq!(server.queue().await[0].recipients[0].status.last_reply, logged);
            server.empty().await;
        });
    }
}

#[test]
fn a_connection_lost_before_the_final_dot_leaves_no_doubt() {
    let (_, reply) = patience(Some(Stage::Content), |_| {});
    assert!(!reply.contains("duplicate"), "{reply}");
}
