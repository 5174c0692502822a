//! What other servers say about the next attempt: it comes when they want it, within bounds.

use std::time::Duration;

use posthouse::config::Config;
use posthouse::event::Event;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// The waits after each time that the peer says this at the stage, before it takes the message.
fn waits(stage: Stage, replies: &[&str], change: impl FnOnce(&mut Config)) -> Vec<Duration> {
    story(async {
        let server = Setup::new().config(change).start().await;
        let script = replies.iter().fold(Script::default(), |script, reply| script.once(stage.clone(), Act::say(reply)));
        let far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(far.taken().len(), 1);
        let mut attempted = server.started();
        let mut waits = Vec::new();
        for event in server.events.recorded() {
            if let Event::Deferred { next_attempt, .. } = event {
                waits.push(next_attempt.since(attempted));
                attempted = next_attempt;
            }
        }
        waits
    })
}

/// Not sooner, and not more than the jitter's tenth later.
fn assert_meant(wait: Duration, meant: Duration) {
    assert!(wait >= meant && wait <= meant * 11 / 10 + Duration::from_secs(2), "{wait:?} instead of {meant:?}");
}

#[test]
fn the_next_attempt_comes_when_the_server_asks_for_it() {
    for (reply, seconds) in [
        ("450 4.7.1 try again in 40 seconds", 40),
        ("450 4.2.0 Recipient address rejected: Greylisted for 20 minutes", 1200),
        ("450 4.2.0 Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/far.test.html", 300),
        ("451 4.7.1 Greylisting in action, please come back in 00:45:00", 2700),
        ("421 4.7.0 Too many connections, retry after 90 seconds", 90),
    ] {
        for stage in [Stage::Mail, Stage::AnyRecipient, Stage::Data, Stage::End] {
            let waits = waits(stage, &[reply], |_| {});
            assert_eq!(waits.len(), 1, "{reply}");
            assert_meant(waits[0], Duration::from_secs(seconds));
        }
    }
}

#[test]
fn a_hint_in_the_greeting_counts_too() {
    let waits = waits(Stage::Greeting, &["421-4.3.2 Busy now.\r\n421 4.3.2 Please come back in 20 minutes"], |_| {});
    assert_meant(waits[0], 20 * MINUTE);
}

#[test]
fn hints_are_bounded_and_can_be_turned_off() {
    let bounds = |config: &mut Config| (config.retry.hint_min, config.retry.hint_max) = (2 * MINUTE, 30 * MINUTE);
    assert_meant(waits(Stage::AnyRecipient, &["450 4.7.1 try again in 1 second"], bounds)[0], 2 * MINUTE);
    assert_meant(waits(Stage::AnyRecipient, &["450 4.7.1 try again in 20 hours"], bounds)[0], 30 * MINUTE);
    let off = |config: &mut Config| config.retry.hint_max = Duration::ZERO;
    let usual = waits(Stage::AnyRecipient, &["450 4.7.1 try again in 40 minutes"], off)[0];
    assert!(usual > 4 * MINUTE && usual < 6 * MINUTE, "{usual:?}");
}

#[test]
fn a_server_that_always_says_in_a_minute_is_not_asked_each_minute_for_days() {
    let waits = waits(Stage::AnyRecipient, &["450 4.7.1 try again in 1 minute"; 14], |_| {});
    assert!(waits[..12].iter().all(|wait| *wait < 2 * MINUTE), "{waits:?}");
    assert!(waits[12..].iter().all(|wait| *wait > 3 * HOUR), "{waits:?}");
}

#[test]
fn each_recipient_waits_as_long_as_was_said_of_it() {
    story(async {
        let server = Setup::new().start().await;
        let rcpt = |user: &str| Stage::Recipient(format!("{user}@far.test"));
        let script = Script::default()
            .once(rcpt("soon"), Act::say("450 4.7.1 try again in 60 seconds"))
            .once(rcpt("late"), Act::say("450 4.7.1 try again in 2 hours"));
        let far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["soon@far.test", "late@far.test", "now@far.test"], CONTENT).await;
        server.empty().await;
        let taken: Vec<_> = far.taken().iter().map(|taken| taken.recipients.join(" ")).collect();
        assert_eq!(taken, ["now@far.test", "soon@far.test", "late@far.test"]);
    });
}
