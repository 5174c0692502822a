//! One message at a time: outcomes, delays, expiry, holds, pauses.

use super::*;

#[test]
fn delivered_mail_is_done() {
    let mut scheduler = Scheduler::new(settings());
    assert_eq!(next(&mut scheduler, START), None);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@local.test", "b@local.test"]));
    let attempt = attempt(&mut scheduler, START);
    assert_eq!((attempt.id, indexes(&attempt)), (QueueId(1), vec![0, 1]), "one attempt for both");
    assert_eq!(next(&mut scheduler, START), None);
    let verdict = report(&mut scheduler, at(1), &attempt, Outcome::Delivered);
    assert!(verdict.failed.is_empty());
    assert!(verdict.update.statuses.iter().all(|(_, s)| s.state == RecipientState::Delivered));
    assert!(is_done(next(&mut scheduler, at(1))));
    assert_eq!(next(&mut scheduler, at(1)), None);
    assert!(scheduler.is_empty() && scheduler.deadline().is_none());
}

#[test]
fn deferred_mail_is_parked_until_its_next_attempt() {
    let mut scheduler = Scheduler::new(settings());
    let mut message = message(1, "s@x.test", &["a@one.test"]);
    let mut now = START;
    for wait in [300, 600, 1200] {
        admit(&mut scheduler, now, &message);
        let attempt = attempt(&mut scheduler, now);
        let verdict = report(&mut scheduler, now, &attempt, Outcome::Deferred);
        message.apply(&verdict.update);
        let due = now.plus(Duration::from_secs(wait));
        assert_eq!(next(&mut scheduler, now), Some(Step::Park { id: QueueId(1), due }));
        assert_eq!(due_at(&message, &settings().retry), due);
        now = due;
    }
    assert_eq!(message.recipients[0].status.attempts, 3);
}

#[test]
fn each_recipient_has_its_own_result() {
    let mut scheduler = Scheduler::new(settings());
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test", "b@one.test", "c@one.test", "d@one.test"]));
    let attempt = attempt(&mut scheduler, START);
    let outcomes = vec![
        (0, Outcome::Delivered(diagnosis(2))),
        (1, Outcome::Failed(diagnosis(5))),
        (2, Outcome::InDoubt(diagnosis(4))),
        (9, Outcome::Delivered(diagnosis(2))),
    ];
    let verdict = scheduler.report(START, attempt.attempt, outcomes, &mut || 0.5);
    let states: Vec<_> = verdict.update.statuses.iter().map(|(i, s)| (*i, s.state, s.next_attempt)).collect();
    assert_eq!(verdict.failed, [1]);
    assert_eq!(states[0], (0, RecipientState::Delivered, START));
    assert_eq!(states[1], (1, RecipientState::Bounced, START));
    assert_eq!(states[2], (2, RecipientState::Deferred, at(600)), "in doubt: twice the wait");
    assert_eq!(states[3], (3, RecipientState::Deferred, at(300)), "no result is a deferral");
    assert_eq!(next(&mut scheduler, START), None, "stays until the bounce is safe");
    scheduler.noticed(QueueId(1));
    assert_eq!(next(&mut scheduler, START), Some(Step::Park { id: QueueId(1), due: at(300) }));
    assert_eq!(scheduler.report(START, attempt.attempt, vec![], &mut || 0.5).update.statuses, vec![], "reported twice");
}

#[test]
fn a_recipient_becomes_ready_while_another_is_still_being_attempted() {
    let mut scheduler = Scheduler::new(settings());
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@quick.test", "b@slow.test"]));
    let quick = attempt(&mut scheduler, START);
    let slow = attempt(&mut scheduler, START);
    report(&mut scheduler, START, &quick, Outcome::Deferred);
    assert_eq!(next(&mut scheduler, START), None);
    assert_eq!(scheduler.deadline(), Some(at(300)));
    assert_eq!(next(&mut scheduler, at(299)), None);
    let again = attempt(&mut scheduler, at(300));
    assert_eq!(again.destination, quick.destination);
    report(&mut scheduler, at(301), &again, Outcome::Delivered);
    report(&mut scheduler, at(302), &slow, Outcome::Delivered);
    assert!(is_done(next(&mut scheduler, at(302))));
}

#[test]
fn a_long_list_of_recipients_goes_in_several_attempts_one_after_the_other() {
    let mut scheduler = Scheduler::new(settings());
    let to: Vec<String> = (0..2500).map(|n| format!("r{n}@one.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    admit(&mut scheduler, START, &message(1, "s@x.test", &to));
    let mut sizes = Vec::new();
    loop {
        match next(&mut scheduler, START) {
            Some(Step::Attempt(attempt)) => {
                assert_eq!(next(&mut scheduler, START), None, "one at a time");
                sizes.push(attempt.recipients.len());
                report(&mut scheduler, START, &attempt, Outcome::Delivered);
            }
            step => break assert!(is_done(step)),
        }
    }
    assert_eq!(sizes, [1000, 1000, 500]);
}

#[test]
fn what_outlives_its_lifetime_expires_once() {
    let mut scheduler = Scheduler::new(settings());
    let mut late = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    late.delays_noticed = 1;
    admit(&mut scheduler, START, &late);
    let (one, two) = (attempt(&mut scheduler, START), attempt(&mut scheduler, START));
    report(&mut scheduler, START, &one, Outcome::Deferred);
    // The last wait ends behind the lifetime.
    let expiry = START.plus(retry().lifetime);
    let last =
        Update { statuses: vec![(0, put_off(&scheduler, expiry.plus(Duration::from_secs(1))))], ..Update::new(QueueId(1)) };
    scheduler.change(START, &last);
    let Some(Step::Expire { recipients, update, .. }) = next(&mut scheduler, expiry) else { panic!("not expired") };
    assert_eq!(recipients, [0], "the other one is in flight");
    let status = &update.statuses[0].1;
    assert_eq!((status.state, status.last_status), (RecipientState::Bounced, Some(EnhancedCode(5, 4, 7))));
    assert_eq!(status.last_reply, "450 words");
    scheduler.noticed(QueueId(1));
    assert_eq!(next(&mut scheduler, expiry), None);
    let verdict = report(&mut scheduler, expiry, &two, Outcome::Deferred);
    assert_eq!(verdict.failed, [1]);
    assert_eq!(verdict.update.statuses[0].1.last_cause, Some(Cause::Expired));
    scheduler.noticed(QueueId(1));
    assert!(is_done(next(&mut scheduler, expiry)));
    let mut notice = message(2, "", &["a@one.test"]);
    notice.recipients[0].status.next_attempt = START.plus(retry().lifetime);
    admit(&mut scheduler, START.plus(retry().bounce_lifetime), &notice);
    assert!(matches!(next(&mut scheduler, START.plus(retry().bounce_lifetime)), Some(Step::Expire { .. })), "its own lifetime");
}

/// The first recipient's status, with its next attempt at another time.
fn put_off(scheduler: &Scheduler, next_attempt: Timestamp) -> RecipientStatus {
    let message = scheduler.message(QueueId(1)).unwrap();
    RecipientStatus { next_attempt, ..message.recipients[0].status.clone() }
}

/// A message that comes when its lifetime is over: from a hold, or after an outage.
fn outlived() -> (Message, Timestamp) {
    let mut message = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    message.delays_noticed = 1;
    message.recipients[1].status.next_attempt = at(7 * 86400);
    (message, at(6 * 86400))
}

#[test]
fn who_is_due_when_his_lifetime_is_over_gets_his_attempt_first() {
    let mut scheduler = Scheduler::new(settings());
    let (message, now) = outlived();
    admit(&mut scheduler, now, &message);
    let Some(Step::Expire { recipients, .. }) = next(&mut scheduler, now) else { panic!("not expired") };
    assert_eq!(recipients, [1], "whose time hasn't come");
    scheduler.noticed(QueueId(1));
    let last = attempt(&mut scheduler, now);
    assert_eq!(indexes(&last), [0]);
    let verdict = report(&mut scheduler, now, &last, Outcome::Deferred);
    assert_eq!((verdict.failed, verdict.update.statuses[0].1.last_cause), (vec![0], Some(Cause::Expired)));
}

#[test]
fn the_last_chance_is_no_longer_than_an_hour_and_none_behind_the_senders_deadline() {
    let mut settings = settings();
    settings.attempts_max = 1;
    let mut scheduler = Scheduler::new(settings);
    let (mut message, now) = outlived();
    message.recipients.truncate(1);
    let other = Message { id: QueueId(3), arrived: now, ..message.clone() };
    admit(&mut scheduler, now, &other);
    attempt(&mut scheduler, now);
    admit(&mut scheduler, now, &message);
    assert_eq!(next(&mut scheduler, now), None, "it stands in line");
    assert_eq!(scheduler.deadline(), Some(now.plus(LAST_CHANCE)));
    let Some(Step::Expire { recipients, .. }) = next(&mut scheduler, now.plus(LAST_CHANCE)) else { panic!("not expired") };
    assert_eq!(recipients, [0]);
    let by = DeliverBy { seconds: 60, mode: DeliverByMode::Return, trace: false, told: false };
    message.request = Request { deliver_by: Some(by), ..Request::default() }.boxed();
    message.id = QueueId(2);
    admit(&mut scheduler, now, &message);
    assert!(matches!(next(&mut scheduler, now), Some(Step::Expire { id: QueueId(2), .. })));
}

#[test]
fn after_a_pause_or_a_stall_nobody_is_given_up_untried() {
    type Switch = fn(&mut Scheduler, Timestamp);
    let ways: [(Switch, Switch); 2] = [
        (|scheduler, now| scheduler.pause(now, None), |scheduler, now| scheduler.resume(now, None)),
        (|scheduler, now| scheduler.stall(now, true), |scheduler, now| scheduler.stall(now, false)),
    ];
    for (stop, go_on) in ways {
        let mut scheduler = Scheduler::new(settings());
        stop(&mut scheduler, START);
        admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
        let later = at(6 * 86400);
        assert_eq!((next(&mut scheduler, later), scheduler.deadline()), (None, None), "nobody is told anything meanwhile");
        go_on(&mut scheduler, later);
        assert!(matches!(next(&mut scheduler, later), Some(Step::Notify { .. })));
        scheduler.noticed(QueueId(1));
        report_delivered(&mut scheduler, later);
    }
}

fn report_delivered(scheduler: &mut Scheduler, now: Timestamp) {
    let last = attempt(scheduler, now);
    report(scheduler, now, &last, Outcome::Delivered);
    assert!(is_done(next(scheduler, now)));
}

#[test]
fn the_sender_is_told_of_a_delay_once_an_age_and_once_for_several_missed() {
    let mut settings = settings();
    settings.retry.delay_notice = [4, 24, 48].map(|h| Duration::from_secs(h * 3600)).to_vec();
    let mut scheduler = Scheduler::new(settings);
    let mut late = message(1, "s@x.test", &["a@one.test"]);
    let now = at(30 * 3600);
    admit(&mut scheduler, now, &late);
    let Some(Step::Notify { ages_done, recipients, update, .. }) = next(&mut scheduler, now) else { panic!("no notice") };
    assert_eq!((ages_done, recipients), (2, vec![0]));
    late.apply(&update);
    assert_eq!(late.delays_noticed, 2);
    let first = attempt(&mut scheduler, now);
    report(&mut scheduler, now, &first, Outcome::Deferred);
    assert_eq!(next(&mut scheduler, now), None);
    scheduler.noticed(QueueId(1));
    assert!(matches!(next(&mut scheduler, now), Some(Step::Park { .. })));
    late.reverse_path = ReversePath::Null;
    late.arrived = now;
    late.delays_noticed = 0;
    admit(&mut scheduler, now.plus(Duration::from_secs(5 * 3600)), &late);
    assert!(
        matches!(next(&mut scheduler, now.plus(Duration::from_secs(5 * 3600))), Some(Step::Attempt(_))),
        "no notice about a notice"
    );
}

#[test]
fn held_mail_waits_and_an_outcome_during_the_hold_counts() {
    let mut scheduler = Scheduler::new(settings());
    let mut held = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    admit(&mut scheduler, START, &held);
    let flying = attempt(&mut scheduler, START);
    let hold = Verb::Hold.update(&held, &scheduler.in_flight(QueueId(1)), START).unwrap();
    assert!(scheduler.change(START, &hold));
    held.apply(&hold);
    assert_eq!(next(&mut scheduler, START), None, "the second attempt doesn't start");
    held.apply(&report(&mut scheduler, START, &flying, Outcome::Delivered).update);
    assert_eq!(next(&mut scheduler, START), Some(Step::Park { id: QueueId(1), due: Timestamp::NEVER }));
    assert!(!scheduler.change(START, &hold), "it has left");
    let release = Verb::Release.update(&held, &[], at(9)).unwrap();
    held.apply(&release);
    admit(&mut scheduler, at(9), &held);
    assert_eq!(indexes(&attempt(&mut scheduler, at(9))), [1]);
}

#[test]
fn a_change_before_the_last_step_is_taken_still_counts() {
    let mut scheduler = Scheduler::new(settings());
    let mut deferred = message(1, "s@x.test", &["a@one.test"]);
    admit(&mut scheduler, START, &deferred);
    let first = attempt(&mut scheduler, START);
    deferred.apply(&report(&mut scheduler, START, &first, Outcome::Deferred).update);
    let again = Verb::Retry.update(&deferred, &[], START).unwrap();
    assert!(scheduler.change(START, &again));
    attempt(&mut scheduler, START);
}

#[test]
fn removed_and_bounced_recipients_are_not_attempted_nor_changed_by_late_outcomes() {
    let mut scheduler = Scheduler::new(settings());
    let removed = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    admit(&mut scheduler, START, &removed);
    let flying = attempt(&mut scheduler, START);
    let remove = Verb::Remove.update(&removed, &[], START).unwrap();
    assert!(scheduler.change(START, &remove));
    assert_eq!(next(&mut scheduler, START), None);
    assert!(report(&mut scheduler, START, &flying, Outcome::Failed).update.statuses.is_empty());
    assert!(is_done(next(&mut scheduler, START)));
}

#[test]
fn a_forgotten_message_leaves_no_step_but_its_outcomes_do_count() {
    let mut scheduler = Scheduler::new(settings());
    let mut forgotten = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    admit(&mut scheduler, START, &forgotten);
    let flying = attempt(&mut scheduler, START);
    assert!(scheduler.forget(QueueId(1)));
    assert_eq!(next(&mut scheduler, at(86400)), None);
    admit(&mut scheduler, START, &forgotten);
    assert_eq!(indexes(&attempt(&mut scheduler, START)), [1], "never two attempts for one recipient");
    assert!(scheduler.forget(QueueId(1)));
    let verdict = report(&mut scheduler, START, &flying, Outcome::Delivered);
    forgotten.apply(&verdict.update);
    assert_eq!(forgotten.recipients[0].status.state, RecipientState::Delivered);
    assert_eq!(scheduler.len(), 1);
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@one.test"]));
    assert!(!scheduler.forget(QueueId(2)) && !scheduler.forget(QueueId(3)));
    assert_eq!(next(&mut scheduler, START), None);
}

#[test]
fn pauses_stop_attempts_and_that_of_all_whatever_time_brings() {
    let mut scheduler = Scheduler::new(settings());
    scheduler.pause(START, None);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test", "b@local.test"]));
    assert_eq!(next(&mut scheduler, START), None);
    assert_eq!(next(&mut scheduler, at(4 * 3600)), None);
    let one = Domain::parse("one.test").unwrap();
    scheduler.resume(at(4 * 3600), None);
    assert!(matches!(next(&mut scheduler, at(4 * 3600)), Some(Step::Notify { .. })));
    scheduler.noticed(QueueId(1));
    scheduler.pause(at(4 * 3600), Some(one.clone()));
    let local = attempt(&mut scheduler, at(4 * 3600));
    assert_eq!(indexes(&local), [1]);
    assert_eq!(next(&mut scheduler, at(4 * 3600)), None);
    report(&mut scheduler, at(4 * 3600), &local, Outcome::Deferred);
    assert_eq!(
        next(&mut scheduler, at(4 * 3600)),
        Some(Step::Park { id: QueueId(1), due: at(4 * 3600 + 300) }),
        "for its other recipient"
    );
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@one.test", "b@two.test"]));
    attempt(&mut scheduler, START);
    scheduler.resume(START, Some(one));
    assert_eq!(indexes(&attempt(&mut scheduler, START)), [0]);
}

#[test]
fn a_clock_set_back_makes_nobody_wait_longer_than_one_backoff() {
    let mut scheduler = Scheduler::new(settings());
    let mut message = message(1, "s@x.test", &["a@one.test", "b@two.test"]);
    message.recipients[0].status.next_attempt = at(10 * 365 * 86400);
    message.recipients[0].status.state = RecipientState::Deferred;
    admit(&mut scheduler, START, &message);
    let two = attempt(&mut scheduler, START);
    assert_eq!(scheduler.deadline(), Some(at(4 * 3600)), "the delay notice");
    let earlier = Timestamp::from_millis(START.as_millis() - 86_400_000);
    assert_eq!(next(&mut scheduler, earlier), None);
    report(&mut scheduler, earlier, &two, Outcome::Delivered);
    let Some(Step::Park { due, .. }) = next(&mut scheduler, earlier) else { panic!("not parked") };
    assert!(due.since(earlier) <= wait_max(&settings().retry));
}

#[test]
fn new_settings_hold_at_once() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=10 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    let first = attempt(&mut scheduler, START);
    report(&mut scheduler, START, &first, Outcome::Delivered);
    let attempts = |step: &Step| matches!(step, Step::Attempt(_));
    let started = std::iter::from_fn(|| next(&mut scheduler, START)).filter(attempts).count();
    assert_eq!(started, 3);
    scheduler.reconfigure(START, Settings { concurrency: 5, ..settings() });
    assert_eq!(std::iter::from_fn(|| next(&mut scheduler, START)).filter(attempts).count(), 2);
}
