//! Time: the retry schedule, delay notices, expiry.

use std::time::Duration;

use posthouse::event::{Event, NoticeKind};
use posthouse::mail::Timestamp;
use posthouse::system::sim::{Act, Script, Stage};

use crate::world::*;

const CONTENT: &str = "From: ann@example.test\r\nSubject: are you there?\r\n\r\nhello\r\n";

fn busy() -> Script {
    Script::default().always(Stage::Data, Act::say("451 4.3.2 come back later"))
}

/// When each deferral happened and until when it was, in the order of the log.
fn deferrals(server: &Server) -> Vec<(Duration, Timestamp)> {
    let deferral = |event: &Event| match event {
        Event::Deferred { delay, next_attempt, .. } => Some((*delay, *next_attempt)),
        _ => None,
    };
    server.events.recorded().iter().filter_map(deferral).collect()
}

fn notices(server: &Server, wanted: NoticeKind) -> usize {
    let is = |event: &&Event| matches!(event, Event::Notified { kind, .. } if *kind == wanted);
    server.events.recorded().iter().filter(is).count()
}

#[test]
fn a_deferred_message_is_tried_until_it_succeeds() {
    story(async {
        let mut script = Script::default();
        for _ in 0..9 {
            script.set_once(Stage::Greeting, Act::SayAndClose("421 4.3.2 busy".to_owned()));
        }
        let server = Setup::new().start().await;
        let far = server.domain("far.test", script).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((server.count("deferred"), far.taken().len(), server.count("failed")), (9, 1, 0));
    });
}

#[test]
fn waits_grow_by_the_configured_schedule_within_the_jitter() {
    for seed in 0..5 {
        story(async {
            let server = Setup::seeded(seed).config(|c| c.retry.delay_notice.clear()).start().await;
            let _far = server.domain("far.test", busy()).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.pass(2 * DAY).await;
            let mut last = server.started();
            let schedule = [5, 10, 20, 40, 80, 160, 240, 240, 240].map(|minutes| minutes * 60);
            for (wait, (delay, next)) in schedule.into_iter().zip(deferrals(&server)) {
                let now = server.started().plus(delay);
                // Tried when it was due, at the latest a moment later.
                assert!(now.since(last) < Duration::from_secs(2), "late by {:?}", now.since(last));
                let (least, most) = (wait * 9 / 10, wait * 11 / 10);
                let waited = next.since(now).as_secs();
                assert!((least..=most).contains(&waited), "{waited} is not {least} to {most}");
                last = next;
            }
            assert!(deferrals(&server).len() >= 9);
        });
    }
}

#[test]
fn the_sender_is_told_of_a_delay_once_for_each_age() {
    story(async {
        let ages = vec![4 * HOUR, DAY];
        let server = Setup::new().config(|c| c.retry.delay_notice = ages).start().await;
        let far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(4 * HOUR - 2 * MINUTE).await;
        assert_eq!(server.mailbox("ann").len(), 0);
        server.pass(4 * MINUTE).await;
        assert_eq!(server.mailbox("ann").len(), 1);
        server.pass(20 * HOUR).await;
        assert_eq!(server.mailbox("ann").len(), 2);
        server.pass(DAY).await;
        assert_eq!((server.mailbox("ann").len(), notices(&server, NoticeKind::Delay)), (2, 2));
        let notice = &server.mails("ann")[0];
        assert!(notice.contains("Action: delayed") && notice.contains("eve@far.test"), "{notice}");
        assert!(notice.contains("451 4.3.2 come back later") && notice.contains("Subject: are you there?"), "{notice}");
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!((far.taken().len(), server.mailbox("ann").len()), (1, 2));
    });
}

#[test]
fn a_notice_of_delay_says_how_long_the_message_is_tried_also_where_that_is_less_than_an_hour() {
    story(async {
        let short =
            |c: &mut posthouse::config::Config| (c.retry.delay_notice, c.retry.lifetime) = (vec![10 * MINUTE], 30 * MINUTE);
        let server = Setup::new().config(short).start().await;
        let _far = server.domain("far.test", busy()).await;
        let until = server.now().plus(30 * MINUTE);
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.until("the notice", || server.mailbox("ann").len() == 1).await;
        let notice = &server.mails("ann")[0];
        assert!(notice.contains(&format!("Will-Retry-Until: {}", until.rfc5322())), "{notice}");
    });
}

#[test]
fn nobody_is_told_of_the_delay_of_mail_without_sender() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", busy()).await;
        server.relay("", &["eve@far.test"], CONTENT).await;
        server.pass(20 * HOUR).await;
        assert_eq!(notices(&server, NoticeKind::Delay), 0);
    });
}

#[test]
fn what_waited_for_its_lifetime_bounces_with_the_remotes_last_words() {
    story(async {
        let server = Setup::new().config(|c| c.retry.delay_notice.clear()).start().await;
        let _far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test", "joe@far.test"], CONTENT).await;
        server.pass(5 * DAY - MINUTE).await;
        assert_eq!((server.count("expired"), server.queue().await.len()), (0, 1));
        server.pass(2 * MINUTE).await;
        server.empty().await;
        let bounces = server.mails("ann");
        assert_eq!((server.count("expired"), bounces.len()), (2, 1));
        assert!(bounces[0].contains("Status: 5.4.7") && bounces[0].contains("451 4.3.2 come back later"), "{}", bounces[0]);
        assert!(bounces[0].contains("Subject: are you there?"), "{}", bounces[0]);
    });
}

#[test]
fn a_notice_waits_only_for_its_own_lifetime() {
    story(async {
        let server = Setup::new().start().await;
        let _far = server.domain("far.test", busy()).await;
        server.relay("", &["eve@far.test"], CONTENT).await;
        server.pass(DAY - MINUTE).await;
        assert_eq!(server.queue().await.len(), 1);
        server.pass(2 * MINUTE).await;
        server.empty().await;
        assert_eq!((server.count("expired"), server.mailbox("postmaster").len()), (1, 1));
    });
}

#[test]
fn a_clock_set_back_makes_nobody_wait_longer_than_one_wait() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.world.clock.set(Timestamp::from_millis(server.now().as_millis() - 86_400_000));
        far.script(|script| *script = Script::default());
        server.pass(9 * HOUR).await;
        assert_eq!(far.taken().len(), 1);
    });
}

#[test]
fn a_clock_set_right_while_the_server_was_down_makes_nobody_wait_longer_than_one_wait() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        // It runs a year ahead.
        let right = server.now();
        server.world.clock.set(right.plus(365 * DAY));
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.handle.pause(None).await.unwrap();
        server.relay("ann@example.test", &["joe@far.test"], CONTENT).await;
        server.stop().await;
        server.world.clock.set(right.plus(MINUTE));
        far.script(|script| *script = Script::default());
        let server = server.restart().await;
        server.handle.resume(None).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!(far.taken().len(), 1, "what was never tried needn't wait");
        server.pass(9 * HOUR).await;
        assert_eq!(far.taken().len(), 2);
    });
}

#[test]
fn mail_is_not_given_up_untried_after_a_pause_an_outage_or_a_leap_of_the_clock() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", busy()).await;
        server.handle.pause(None).await.unwrap();
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(6 * DAY).await;
        assert_eq!((server.count("expired"), server.count("notified")), (0, 0), "nothing happens in a pause");
        server.stop().await;
        let server = server.restart().await;
        far.script(|script| *script = Script::default());
        server.handle.resume(None).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!((far.taken().len(), server.count("expired")), (1, 0), "after an outage");

        far.script(|script| *script = busy());
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        far.script(|script| *script = Script::default());
        server.world.clock.set(server.now().plus(6 * DAY));
        server.pass(2 * MINUTE).await;
        assert_eq!((far.taken().len(), server.count("expired")), (2, 0), "after a leap");
    });
}
