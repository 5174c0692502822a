//! The scheduler under time moved by hand: single stories, then random histories against what must always hold.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::away::Wait;
use super::backoff::tests::retry;
use super::*;
use crate::config::{DestinationRule, DomainPattern, Outgoing, Retry};
use crate::mail::{
    Address, BodyType, Cause, DeliverBy, DeliverByMode, Destination, Diagnosis, Domain, EnhancedCode, Message, Origin, Outcome,
    QueueId, Rate, Recipient, RecipientState, Request, ReversePath, Site, Timestamp, Update,
};

const START: Timestamp = Timestamp::from_millis(1_795_312_800_000);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn message(id: u64, from: &str, to: &[&str]) -> Message {
    Message {
        id: QueueId(id),
        arrived: START,
        size: 1,
        reverse_path: ReversePath::try_from(from.to_owned()).unwrap(),
        body: BodyType::SevenBit,
        request: None,
        held: false,
        delays_noticed: 0,
        origin: None,
        recipients: to.iter().map(|to| Recipient::new(Address::parse(to).unwrap(), None, START)).collect(),
    }
}

/// Local for `local.test` and its subdomains, else the MX of the domain.
fn destination(address: &Address) -> Destination {
    let domain = address.domain().clone();
    if domain.as_str().ends_with("local.test") { Destination::Local(domain) } else { Destination::Mx(domain) }
}

fn destinations(message: &Message) -> Vec<(u32, Destination)> {
    let open = (0u32..).zip(&message.recipients).filter(|(_, r)| r.is_open());
    open.map(|(index, r)| (index, destination(&r.address))).collect()
}

/// Message 1 has nothing left to do.
fn is_done(step: Option<Step>) -> bool {
    matches!(step, Some(Step::Done { id: QueueId(1), arrived: START, recipients: 1.. }))
}

fn settings() -> Settings {
    Settings {
        attempts_max: 20,
        concurrency: 3,
        active_max: 1000,
        retry: Retry { jitter: 0.0, ..retry() },
        destinations: Vec::new(),
        pools: Pools::default(),
        shares: Vec::new(),
    }
}

fn admit(scheduler: &mut Scheduler, now: Timestamp, message: &Message) {
    scheduler.admit(now, message.clone(), destinations(message));
}

/// The next step of one for whom every domain is a site by itself.
fn next(scheduler: &mut Scheduler, now: Timestamp) -> Option<Step> {
    loop {
        match scheduler.next(now) {
            Some(Step::Locate { domain }) => scheduler.located(now, domain, None),
            step => return step,
        }
    }
}

fn attempt(scheduler: &mut Scheduler, now: Timestamp) -> Attempt {
    match next(scheduler, now) {
        Some(Step::Attempt(attempt)) => attempt,
        other => panic!("no attempt but {other:?}"),
    }
}

fn diagnosis(class: u8) -> Diagnosis {
    Diagnosis::new(EnhancedCode(class, 0, 0), Cause::Remote, format!("{class}50 words"))
}

fn unreached() -> Diagnosis {
    Diagnosis::new(EnhancedCode(4, 4, 1), Cause::Connection, "Connection refused").at("mx.test [192.0.2.1]:25")
}

/// The attempt doesn't reach its destination; what `next` then says, attempts left out.
fn not_reached(scheduler: &mut Scheduler, now: Timestamp, attempt: &Attempt) -> Vec<Step> {
    let outcomes = indexes(attempt).into_iter().map(|index| (index, Outcome::Deferred(unreached()))).collect::<Vec<_>>();
    scheduler.report(now, attempt.attempt, outcomes, &mut || 0.5);
    std::iter::from_fn(|| next(scheduler, now)).filter(|step| !matches!(step, Step::Attempt(_))).collect()
}

fn all(attempt: &Attempt, outcome: fn(Diagnosis) -> Outcome, class: u8) -> Vec<(u32, Outcome)> {
    attempt.recipients.iter().map(|(index, _)| (*index, outcome(diagnosis(class)))).collect()
}

fn report(scheduler: &mut Scheduler, now: Timestamp, attempt: &Attempt, outcome: fn(Diagnosis) -> Outcome) -> Verdict {
    scheduler.report(now, attempt.attempt, all(attempt, outcome, 4), &mut || 0.5)
}

fn indexes(attempt: &Attempt) -> Vec<u32> {
    attempt.recipients.iter().map(|(index, _)| *index).collect()
}

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
    let expiry = START.plus(retry().lifetime);
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
    let notice = message(2, "", &["a@one.test"]);
    admit(&mut scheduler, START.plus(retry().bounce_lifetime), &notice);
    assert!(matches!(next(&mut scheduler, START.plus(retry().bounce_lifetime)), Some(Step::Expire { .. })), "its own lifetime");
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
fn pauses_stop_attempts_only() {
    let mut scheduler = Scheduler::new(settings());
    scheduler.pause(START, None);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test", "b@local.test"]));
    assert_eq!(next(&mut scheduler, START), None);
    assert!(matches!(next(&mut scheduler, at(4 * 3600)), Some(Step::Notify { .. })));
    scheduler.noticed(QueueId(1));
    let one = Domain::parse("one.test").unwrap();
    scheduler.resume(at(4 * 3600), None);
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

#[test]
fn mail_for_a_crowded_destination_is_sent_away_and_other_mail_is_not() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    let mut parked = 0;
    for id in 1..=300 {
        admit(&mut scheduler, START, &message(id, &format!("s@x{id}.test"), &["a@slow.test"]));
        while let Some(step) = next(&mut scheduler, START) {
            if let Step::Park { due, .. } = step {
                assert_eq!(due, at(3600), "it is called, and comes by itself only if that is forgotten");
                parked += 1;
            }
        }
    }
    assert!((100..150).contains(&parked), "{parked} parked");
    assert!(scheduler.room() >= 10);
    admit(&mut scheduler, START, &message(999, "s@x.test", &["a@slow.test", "b@quick.test"]));
    assert_eq!(attempt(&mut scheduler, START).destination.to_string(), "mx:quick.test");
}

#[test]
fn a_senders_bulk_leaves_room_and_turns_for_anothers_letter() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    for id in 1..=5000 {
        // To so many destinations that none of them is crowded.
        admit(&mut scheduler, START, &message(id, "bulk@b.test", &[&format!("a@d{}.test", id % 1000)]));
        while next(&mut scheduler, START).is_some() {}
    }
    assert!(scheduler.len() <= 301, "{}", scheduler.len());
    admit(&mut scheduler, START, &message(9000, "ann@a.test", &["eve@d750.test"]));
    assert_eq!(attempt(&mut scheduler, START).id, QueueId(9000), "though the bulk has all the attempts that it may have");
}

#[test]
fn without_room_the_only_letter_of_a_sender_is_welcome() {
    let mut scheduler = Scheduler::new(Settings { active_max: 10, ..settings() });
    let mut parked = Vec::new();
    let mut come = |id, from: &str, to| {
        admit(&mut scheduler, START, &message(id, from, &[to]));
        while let Some(step) = next(&mut scheduler, START) {
            if let Step::Park { id, .. } = step {
                parked.push(id.0);
            }
        }
        scheduler.len()
    };
    let bulk: Vec<usize> = (1..=30).map(|id| come(id, "s@x.test", "a@one.test")).collect();
    assert_eq!(bulk.last(), Some(&10));
    let others: Vec<usize> = (31..=45).map(|id| come(id, &format!("s@y{id}.test"), "a@two.test")).collect();
    assert_eq!((others[0], others[9], others[14]), (11, 20, 20), "there is a bound");
    assert!(parked.contains(&30) && !parked.contains(&40) && parked.contains(&45), "{parked:?}");
}

/// The delivery loop in small: what is parked comes when it is called. Each attempt delivers, until nothing is left to do at this time;
/// the ids in order.
fn drain(
    scheduler: &mut Scheduler,
    now: Timestamp,
    spool: &BTreeMap<QueueId, Message>,
    parked: &mut BTreeSet<QueueId>,
) -> Vec<u64> {
    let mut order = Vec::new();
    let mut flying = std::collections::VecDeque::new();
    loop {
        match next(scheduler, now) {
            Some(Step::Attempt(attempt)) => flying.push_back(attempt),
            Some(Step::Park { id, due }) => {
                assert!(due > now);
                parked.insert(id);
            }
            Some(Step::Recall { ids }) => {
                assert!((1..=16).contains(&ids.len()) && ids.is_sorted());
                for id in ids.into_iter().filter(|id| parked.remove(id)) {
                    admit(scheduler, now, &spool[&id]);
                }
            }
            Some(_) => {}
            None => match flying.pop_front() {
                Some(ended) => {
                    report(scheduler, now, &ended, Outcome::Delivered);
                    order.push(ended.id.0);
                }
                None => return order,
            },
        }
    }
}

/// Messages of a sender that come while nothing can be attempted.
fn pile_up(
    scheduler: &mut Scheduler,
    from: &str,
    ids: std::ops::RangeInclusive<u64>,
    to: &str,
) -> (BTreeMap<QueueId, Message>, BTreeSet<QueueId>) {
    let (mut spool, mut parked) = (BTreeMap::new(), BTreeSet::new());
    for id in ids {
        let new = message(id, from, &[to]);
        admit(scheduler, START, &new);
        spool.insert(new.id, new);
        while let Some(step) = next(scheduler, START) {
            if let Step::Park { id, .. } = step {
                parked.insert(id);
            }
        }
    }
    (spool, parked)
}

#[test]
fn what_had_no_room_comes_back_as_soon_as_its_line_runs_dry_and_not_at_a_time() {
    for domain in [None, Some(Domain::parse("one.test").unwrap())] {
        let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
        scheduler.pause(START, domain.clone());
        let (spool, mut parked) = pile_up(&mut scheduler, "bulk@b.test", 1..=3000, "a@one.test");
        assert!(parked.len() >= 2800, "{}", parked.len());
        assert_eq!(drain(&mut scheduler, START, &spool, &mut parked), [0u64; 0]);
        scheduler.resume(at(1), domain);
        let order = drain(&mut scheduler, at(1), &spool, &mut parked);
        assert_eq!((order.len(), parked.len(), scheduler.len()), (3000, 0, 0));
        assert!(order.is_sorted(), "first come, first served");
    }
}

#[test]
fn a_letter_to_a_crowded_line_of_anothers_bulk_has_the_next_turn() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    scheduler.pause(START, None);
    let (mut spool, mut parked) = pile_up(&mut scheduler, "bulk@b.test", 1..=3000, "a@one.test");
    let (letters, away) = pile_up(&mut scheduler, "ann@a.test", 5000..=5000, "eve@one.test");
    assert!(away.is_empty());
    spool.extend(letters);
    // Another's bulk waits on disk as well, and both have their turns.
    let (other, away) = pile_up(&mut scheduler, "more@c.test", 6000..=6999, "a@one.test");
    spool.extend(other);
    parked.extend(away);
    scheduler.resume(START, None);
    let order = drain(&mut scheduler, START, &spool, &mut parked);
    assert!(order[..4].contains(&5000), "{:?}", &order[..9]);
    let of_other = order[..1000].iter().filter(|id| **id >= 6000).count();
    assert!((490..=510).contains(&of_other), "{of_other} of 1000");
    assert_eq!(order.len(), 4001);
}

#[test]
fn nobody_is_called_for_a_destination_that_is_down_before_it_is_probed() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    scheduler.pause(START, None);
    let (spool, mut parked) = pile_up(&mut scheduler, "bulk@b.test", 1..=3000, "a@one.test");
    scheduler.resume(START, None);
    let mut flying = Vec::new();
    loop {
        match next(&mut scheduler, START) {
            Some(Step::Attempt(attempt)) => flying.push(attempt),
            Some(Step::Park { id, .. }) => _ = parked.insert(id),
            Some(Step::Recall { .. }) => panic!("called to a destination that is down"),
            Some(_) => {}
            None => match flying.pop() {
                Some(failed) => {
                    scheduler.report(START, failed.attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
                }
                None => break,
            },
        }
    }
    let until = scheduler.deadline().unwrap();
    assert_eq!(until, at(300));
    let order = drain(&mut scheduler, until, &spool, &mut parked);
    assert!(order.len() >= 2900, "{}", order.len());
}

/// Somebody waits on disk for this site.
fn put_away(scheduler: &mut Scheduler, id: u64, from: &str, to: &Site) {
    assert!(scheduler.lines.away.put(Wait::Line(to.clone()), Origin::parse(from).unwrap(), QueueId(id)));
}

fn mx_of(name: &str) -> Site {
    Site::Own(Destination::Mx(Domain::parse(name).unwrap()))
}

#[test]
fn mail_for_destinations_that_are_down_is_in_nobodys_way() {
    let mut scheduler = Scheduler::new(settings());
    for n in 0..50 {
        let down = mx_of(&format!("down{n}.test"));
        put_away(&mut scheduler, n, "domain:b.test", &down);
        for _ in 0..3 {
            scheduler.lines.failed(START, &down, unreached(), &settings().retry, 0.5);
        }
    }
    put_away(&mut scheduler, 99, "domain:b.test", &mx_of("up.test"));
    assert_eq!(next(&mut scheduler, START), Some(Step::Recall { ids: vec![QueueId(99)] }));
    assert_eq!(next(&mut scheduler, START), None);
}

#[test]
fn a_line_that_runs_dry_gets_its_mail_though_many_wait_for_a_place_in_another() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    for id in 1..=300 {
        admit(&mut scheduler, START, &message(id, &format!("s@x{id}.test"), &["a@slow.test"]));
        while next(&mut scheduler, START).is_some() {}
    }
    put_away(&mut scheduler, 999, "domain:b.test", &mx_of("up.test"));
    let mut now = START;
    let called = (0..50).find_map(|_| {
        let step = next(&mut scheduler, now);
        now = scheduler.deadline().expect("there are some that nobody looked at");
        step
    });
    assert_eq!(called, Some(Step::Recall { ids: vec![QueueId(999)] }));
    assert!(now <= at(5), "{now}");
}

#[test]
fn a_site_says_why_its_mail_waits() {
    let outgoing = Outgoing { messages_rate: Some(Rate { count: 1, period: Duration::from_secs(60) }), ..Outgoing::default() };
    let slow = DomainPattern::Exact(Domain::parse("slow.test").unwrap());
    let rule = DestinationRule { domain: slow, mx: DomainPattern::Any, source: None, shared: false, outgoing };
    let mut scheduler = Scheduler::new(Settings { destinations: vec![rule], ..settings() });
    let why = |scheduler: &mut Scheduler, name: &str| {
        let destination = Destination::Mx(Domain::parse(name).unwrap());
        scheduler
            .state_of(START, &destination, &ReversePath::Null)
            .map(|state| (state.why, state.until, state.waiting, state.in_flight))
    };
    assert_eq!(why(&mut scheduler, "one.test"), None, "nothing is known");
    for id in 1..=4 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test", "a@slow.test", "a@dead.test"]));
    }
    let started: Vec<Attempt> = std::iter::from_fn(|| match next(&mut scheduler, START) {
        Some(Step::Attempt(attempt)) => Some(attempt),
        _ => None,
    })
    .collect();
    assert_eq!(why(&mut scheduler, "one.test"), Some((Some(Why::Concurrency), None, 2, 2)));
    assert_eq!(why(&mut scheduler, "slow.test"), Some((Some(Why::MessagesRate), Some(at(60)), 3, 1)));
    for dead in started.iter().filter(|attempt| attempt.site.to_string().ends_with("dead.test")) {
        scheduler.report(START, dead.attempt, vec![(2, Outcome::Deferred(unreached()))], &mut || 0.5);
    }
    while let Some(step) = next(&mut scheduler, START) {
        if let Step::Attempt(dead) = step {
            scheduler.report(START, dead.attempt, vec![(2, Outcome::Deferred(unreached()))], &mut || 0.5);
        }
    }
    assert_eq!(why(&mut scheduler, "dead.test"), Some((Some(Why::Down), Some(at(300)), 0, 0)));
    scheduler.pause(START, None);
    assert_eq!(why(&mut scheduler, "one.test").map(|(why, ..)| why), Some(Some(Why::Paused)));
    let states = scheduler.states(START, 100);
    assert_eq!(
        states.iter().map(|state| state.name.as_str()).collect::<Vec<_>>(),
        ["mx:dead.test", "mx:one.test", "mx:slow.test"]
    );
    assert_eq!(states[0].reply.as_deref(), Some("Connection refused"));
}

#[test]
fn a_nearer_deadline_goes_first_among_a_senders_own() {
    let mut scheduler = Scheduler::new(Settings { concurrency: 1, ..settings() });
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    let first = attempt(&mut scheduler, START);
    for (id, seconds) in [(2, None), (3, Some(900)), (4, Some(60))] {
        let mut letter = message(id, "s@x.test", &["a@one.test"]);
        let by = |seconds| DeliverBy { seconds, mode: DeliverByMode::Return, trace: false, told: false };
        letter.request = Request { deliver_by: seconds.map(by), ..Request::default() }.boxed();
        admit(&mut scheduler, START, &letter);
    }
    let mut order = Vec::new();
    let mut flying = first;
    for _ in 0..3 {
        report(&mut scheduler, START, &flying, Outcome::Delivered);
        let next = std::iter::from_fn(|| next(&mut scheduler, START)).find_map(|step| match step {
            Step::Attempt(attempt) => Some(attempt),
            _ => None,
        });
        flying = next.unwrap();
        order.push(flying.id.0);
    }
    assert_eq!(order, [4, 3, 2]);
}

#[test]
fn mail_for_a_destination_that_is_down_waits_without_attempts_until_a_probe_reaches_it() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=10 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@dead.test"]));
    }
    let flying = [attempt(&mut scheduler, START), attempt(&mut scheduler, START)];
    assert_eq!(next(&mut scheduler, START), None, "two at a time, as it is unknown");
    scheduler.report(START, flying[0].attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
    let more = std::iter::from_fn(|| next(&mut scheduler, START)).find(|step| matches!(step, Step::Attempt(_)));
    assert_eq!(more, None, "one failed: fewer at a time");
    scheduler.report(START, flying[1].attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
    let third = std::iter::from_fn(|| next(&mut scheduler, START)).find_map(|step| match step {
        Step::Attempt(attempt) => Some(attempt),
        _ => None,
    });
    let steps = not_reached(&mut scheduler, START, &third.unwrap());
    let Some(Step::Down { down, .. }) = steps.first() else { panic!("{steps:?}") };
    assert_eq!((down.until, down.failures), (at(300), 3));
    let postponed = steps.iter().filter_map(|step| match step {
        Step::Postpone { update, .. } => Some(&update.statuses[0].1),
        _ => None,
    });
    let postponed: Vec<_> = postponed.collect();
    assert!(!postponed.is_empty() && scheduler.is_empty());
    for status in postponed {
        assert_eq!((status.state, status.attempts, status.next_attempt), (RecipientState::Deferred, 0, at(300)));
        assert_eq!(status.last_reply, "not tried, its destination can't be reached: Connection refused");
        assert_eq!(status.next_hop, "mx.test [192.0.2.1]:25");
    }
    // New mail for it waits too, and as long as it has waited already.
    admit(&mut scheduler, at(299), &message(11, "s@x.test", &["b@dead.test", "c@quick.test"]));
    let Some(Step::Postpone { update, .. }) = next(&mut scheduler, at(299)) else { panic!("not postponed") };
    assert_eq!(update.statuses.iter().map(|(index, s)| (*index, s.next_attempt)).collect::<Vec<_>>(), [(0, at(599))]);
    assert_eq!(attempt(&mut scheduler, at(299)).destination.to_string(), "mx:quick.test");
    // The time has come: one probe, and what it finds counts for all.
    for id in 1..=10 {
        admit(&mut scheduler, at(300), &message(id, "s@x.test", &["a@dead.test"]));
    }
    let probe = attempt(&mut scheduler, at(300));
    assert_eq!(next(&mut scheduler, at(300)), None, "one at a time");
    let steps = not_reached(&mut scheduler, at(330), &probe);
    assert!(matches!(&steps[0], Step::Down { down, .. } if down.until == at(930)), "{steps:?}");
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Postpone { .. })).count(), 9);
    admit(&mut scheduler, at(930), &message(1, "s@x.test", &["a@dead.test"]));
    admit(&mut scheduler, at(930), &message(2, "s@x.test", &["a@dead.test"]));
    let probe = attempt(&mut scheduler, at(930));
    report(&mut scheduler, at(931), &probe, Outcome::Delivered);
    assert!(matches!(next(&mut scheduler, at(931)), Some(Step::Up { .. })));
    assert!(std::iter::from_fn(|| next(&mut scheduler, at(931))).any(|step| matches!(step, Step::Attempt(_))));
}

#[test]
fn an_admins_word_counts_for_more_than_a_destination_that_was_down() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=3 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@dead.test"]));
        let attempt = attempt(&mut scheduler, START);
        not_reached(&mut scheduler, START, &attempt);
    }
    admit(&mut scheduler, START, &message(4, "s@x.test", &["a@dead.test"]));
    assert!(matches!(next(&mut scheduler, START), Some(Step::Postpone { .. })));
    while next(&mut scheduler, START).is_some() {}
    let again = message(5, "s@x.test", &["a@dead.test"]);
    scheduler.forgive(destinations(&again).into_iter().map(|(_, destination)| destination));
    admit(&mut scheduler, START, &again);
    attempt(&mut scheduler, START);
}

#[test]
fn a_probe_that_may_not_connect_yet_waits_until_it_may() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=3 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@dead.test"]));
        let attempt = attempt(&mut scheduler, START);
        not_reached(&mut scheduler, START, &attempt);
    }
    admit(&mut scheduler, at(300), &message(4, "s@x.test", &["a@dead.test"]));
    let probe = attempt(&mut scheduler, at(300));
    scheduler.report(at(300), probe.attempt, no_connection_before(at(360)), &mut || 0.5);
    assert_eq!((next(&mut scheduler, at(300)), scheduler.deadline()), (None, Some(at(360))), "not again at once");
    assert_eq!(attempt(&mut scheduler, at(360)).id, QueueId(4));
}

#[test]
fn who_waits_for_a_connection_is_not_counted_as_a_message() {
    let outgoing = Outgoing { messages_rate: Some(Rate { count: 2, period: Duration::from_secs(3600) }), ..Outgoing::default() };
    let rule = DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: None, shared: false, outgoing };
    let mut scheduler = Scheduler::new(Settings { destinations: vec![rule], ..settings() });
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    for minute in 0..5 {
        let tried = attempt(&mut scheduler, at(60 * minute));
        let report = no_connection_before(at(60 * (minute + 1)));
        scheduler.report(at(60 * minute), tried.attempt, report, &mut || 0.5);
    }
    let tried = attempt(&mut scheduler, at(300));
    report(&mut scheduler, at(300), &tried, Outcome::Delivered);
    for id in [2, 3] {
        admit(&mut scheduler, at(301), &message(id, "s@x.test", &["a@one.test"]));
    }
    assert!(is_done(next(&mut scheduler, at(301))));
    assert_eq!(attempt(&mut scheduler, at(301)).id, QueueId(2));
    assert_eq!(next(&mut scheduler, at(301)), None, "two in an hour");
}

fn no_connection_before(time: Timestamp) -> Report {
    Report { connections_from: Some(time), ..Report::default() }
}

#[test]
fn a_clock_set_back_makes_nobody_wait_longer_for_a_rate() {
    let outgoing = Outgoing { messages_rate: Some(Rate { count: 1, period: Duration::from_secs(60) }), ..Outgoing::default() };
    let slow = DomainPattern::Exact(Domain::parse("slow.test").unwrap());
    let rule = DestinationRule { domain: slow, mx: DomainPattern::Any, source: None, shared: false, outgoing };
    let mut scheduler = Scheduler::new(Settings { destinations: vec![rule], ..settings() });
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    let one = attempt(&mut scheduler, START);
    scheduler.report(START, one.attempt, no_connection_before(at(60)), &mut || 0.5);
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@slow.test"]));
    assert_eq!(attempt(&mut scheduler, START).id, QueueId(2));
    let earlier = |seconds: u64| Timestamp::from_millis(START.as_millis() - 86_400_000 + seconds * 1000);
    while next(&mut scheduler, earlier(0)).is_some() {}
    for (id, to) in [(3, "a@one.test"), (4, "a@slow.test")] {
        let mut new = Message { arrived: earlier(0), ..message(id, "s@x.test", &[to]) };
        new.recipients[0].status.next_attempt = earlier(0);
        admit(&mut scheduler, earlier(0), &new);
    }
    // Whoever counts connections is asked again, and says what is true now.
    assert_eq!(attempt(&mut scheduler, earlier(0)).id, QueueId(3));
    assert_eq!(next(&mut scheduler, earlier(59)), None);
    assert_eq!(attempt(&mut scheduler, earlier(60)).id, QueueId(4));
}

#[test]
fn a_destination_gets_more_at_a_time_the_more_it_takes() {
    let mut scheduler = Scheduler::new(Settings { concurrency: 20, attempts_max: 100, ..settings() });
    for id in 1..=300 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    let mut flying: std::collections::VecDeque<Attempt> = Default::default();
    let mut most = Vec::new();
    for _ in 0..250 {
        while let Some(Step::Attempt(attempt)) = next(&mut scheduler, START) {
            flying.push_back(attempt);
        }
        most.push(flying.len());
        let ended = flying.pop_front().unwrap();
        report(&mut scheduler, START, &ended, Outcome::Delivered);
        assert!(is_done_any(next(&mut scheduler, START)));
    }
    assert_eq!((most[0], most[1], most[6], *most.iter().max().unwrap()), (2, 5, 6, 20));
}

fn is_done_any(step: Option<Step>) -> bool {
    matches!(step, Some(Step::Done { .. }))
}

/// The next step, where these domains have one host between them, `mx.p.test`, and the others each their own.
fn shared(scheduler: &mut Scheduler, now: Timestamp, provider: &[&str]) -> Option<Step> {
    loop {
        match scheduler.next(now) {
            Some(Step::Locate { domain }) => {
                let host = if provider.contains(&domain.as_str()) { "mx.p.test".to_owned() } else { format!("mx.{domain}") };
                scheduler.located(now, domain, Some(vec![Domain::parse(&host).unwrap()]));
            }
            step => return step,
        }
    }
}

#[test]
fn domains_with_the_same_hosts_share_the_bound_and_the_memory_of_being_down() {
    let provider = ["a.test", "b.test", "c.test"];
    let mut scheduler = Scheduler::new(settings());
    for (id, domain) in provider.iter().enumerate() {
        admit(&mut scheduler, START, &message(id as u64, "s@x.test", &[&format!("u@{domain}")]));
    }
    let mut flying = Vec::new();
    while let Some(step) = shared(&mut scheduler, START, &provider) {
        let Step::Attempt(attempt) = step else { panic!("{step:?}") };
        assert_eq!(attempt.site.to_string(), "hosts:mx.p.test");
        flying.push(attempt);
    }
    assert_eq!(flying.len(), 2, "as many as at one unknown destination");
    // Three failures, each of another domain's mail, make it down for all.
    not_reached(&mut scheduler, START, &flying[0]);
    scheduler.report(START, flying[1].attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
    let third = std::iter::from_fn(|| shared(&mut scheduler, START, &provider)).find_map(|step| match step {
        Step::Attempt(attempt) => Some(attempt),
        _ => None,
    });
    let steps = not_reached(&mut scheduler, START, &third.unwrap());
    let Some(Step::Down { site, domains, .. }) = steps.first() else { panic!("{steps:?}") };
    assert_eq!((site.to_string().as_str(), domains.len()), ("hosts:mx.p.test", 3));
    admit(&mut scheduler, START, &message(9, "s@x.test", &["u@b.test"]));
    assert!(matches!(shared(&mut scheduler, START, &provider), Some(Step::Postpone { .. })));
}

#[test]
fn a_domain_whose_hosts_change_takes_its_waiting_mail_along() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=6 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &[if id > 3 { "u@b.test" } else { "u@a.test" }]));
    }
    let both = ["a.test", "b.test"];
    let stuck: Vec<Step> = std::iter::from_fn(|| shared(&mut scheduler, START, &both)).collect();
    assert_eq!(stuck.len(), 2);
    // Later mail for b asks again, and the old mail goes where it goes.
    let later = at(400);
    admit(&mut scheduler, later, &message(7, "s@x.test", &["u@b.test"]));
    let moved: Vec<Step> = std::iter::from_fn(|| shared(&mut scheduler, later, &["a.test"])).collect();
    let ids: Vec<u64> = moved
        .iter()
        .map(|step| match step {
            Step::Attempt(attempt) if attempt.site.to_string() == "hosts:mx.b.test" => attempt.id.0,
            step => panic!("{step:?}"),
        })
        .collect();
    assert_eq!(ids, [4, 5]);
}

#[test]
fn mail_put_off_for_a_dead_host_is_told_when_its_domain_moves_away() {
    let mut scheduler = Scheduler::new(settings());
    for id in 1..=3 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["u@a.test"]));
        let Some(Step::Attempt(attempt)) = shared(&mut scheduler, START, &["a.test"]) else { panic!("no attempt") };
        not_reached(&mut scheduler, START, &attempt);
    }
    admit(&mut scheduler, at(400), &message(9, "s@x.test", &["u@a.test"]));
    let steps: Vec<Step> = std::iter::from_fn(|| shared(&mut scheduler, at(400), &[])).collect();
    assert!(matches!(&steps[0], Step::Moved { domain, .. } if domain.as_str() == "a.test"), "{steps:?}");
    assert!(matches!(&steps[1], Step::Attempt(attempt) if attempt.id == QueueId(9)), "{steps:?}");
}

/// What a random history consists of.
#[derive(Clone, Debug)]
enum Act {
    New(Vec<usize>, bool),
    Report(usize, Vec<u8>),
    Wait(u64),
    SetBack(u64),
    Verb(Verb, usize),
    Pause(Option<usize>),
    Resume(Option<usize>),
    Bounds(usize, usize),
    Dns,
}

fn act() -> impl Strategy<Value = Act> {
    let verb = prop_oneof![Just(Verb::Retry), Just(Verb::Hold), Just(Verb::Release), Just(Verb::Bounce), Just(Verb::Remove)];
    prop_oneof![
        6 => (proptest::collection::vec(0usize..6, 1..6), any::<bool>()).prop_map(|(to, null)| Act::New(to, null)),
        10 => (0usize..100, proptest::collection::vec(0u8..8, 0..6)).prop_map(|(n, outcomes)| Act::Report(n, outcomes)),
        4 => (0u64..100_000).prop_map(Act::Wait),
        1 => (0u64..200_000).prop_map(Act::SetBack),
        3 => (verb, 0usize..100).prop_map(|(verb, n)| Act::Verb(verb, n)),
        1 => proptest::option::of(0usize..6).prop_map(Act::Pause),
        1 => proptest::option::of(0usize..6).prop_map(Act::Resume),
        1 => (1usize..9, 1usize..4).prop_map(|(attempts, concurrency)| Act::Bounds(attempts, concurrency)),
        1 => Just(Act::Dns),
    ]
}

/// The scheduler with a spool around it, as the delivery loop has it.
struct World {
    scheduler: Scheduler,
    now: Timestamp,
    next_id: u64,
    /// The spool's copies; a message that is done is gone.
    spool: BTreeMap<QueueId, Message>,
    parked: BTreeMap<QueueId, Timestamp>,
    flying: Vec<Attempt>,
    in_flight: BTreeSet<(QueueId, u32)>,
    bounds: (usize, usize),
    /// How often the DNS changed.
    changes: usize,
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            attempts_max: 5,
            concurrency: 2,
            active_max: 10,
            retry: retry(),
            destinations: Vec::new(),
            pools: Pools::default(),
            shares: Vec::new(),
        };
        let bounds = (5, 2);
        let (spool, parked, flying, in_flight) = Default::default();
        Self { scheduler: Scheduler::new(settings), now: START, next_id: 1, spool, parked, flying, in_flight, bounds, changes: 0 }
    }

    /// Two domains share their hosts with others, and with which changes; the rest have no answer.
    fn hosts(&self, domain: &Domain) -> Option<Vec<Domain>> {
        let host = match domain.as_str() {
            "one.test" => 0,
            "two.test" => self.changes % 3,
            "three.test" => self.changes % 2,
            _ => return None,
        };
        Some(vec![Domain::parse(&format!("mx{host}.p.test")).unwrap()])
    }

    fn domain(n: usize) -> &'static str {
        ["one.test", "two.test", "three.test", "local.test", "b.local.test", "four.test"][n]
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::New(to, null) => {
                let to: Vec<String> = to.iter().map(|n| format!("a@{}", Self::domain(*n))).collect();
                let to: Vec<&str> = to.iter().map(String::as_str).collect();
                let mut new = message(self.next_id, if *null { "" } else { "s@x.test" }, &to);
                new.arrived = self.now;
                new.recipients.iter_mut().for_each(|r| r.status.next_attempt = self.now);
                self.next_id += 1;
                self.spool.insert(new.id, new.clone());
                admit(&mut self.scheduler, self.now, &new);
            }
            Act::Report(n, outcomes) if !self.flying.is_empty() => self.report(n % self.flying.len(), outcomes),
            Act::Wait(seconds) => self.now = self.now.plus(Duration::from_secs(*seconds)),
            Act::SetBack(seconds) => self.now = Timestamp::from_millis(self.now.as_millis() - seconds * 1000),
            Act::Verb(verb, n) if !self.spool.is_empty() => self.verb(*verb, n % self.spool.len()),
            Act::Pause(n) => self.scheduler.pause(self.now, n.map(|n| Domain::parse(Self::domain(n)).unwrap())),
            Act::Resume(n) => self.scheduler.resume(self.now, n.map(|n| Domain::parse(Self::domain(n)).unwrap())),
            Act::Bounds(attempts_max, concurrency) => {
                self.bounds = (*attempts_max, *concurrency);
                let settings = Settings {
                    attempts_max: *attempts_max,
                    concurrency: *concurrency,
                    active_max: 10,
                    retry: retry(),
                    destinations: Vec::new(),
                    pools: Pools::default(),
                    shares: Vec::new(),
                };
                self.scheduler.reconfigure(self.now, settings);
            }
            Act::Dns => self.changes += 1,
            Act::Report(..) | Act::Verb(..) => {}
        }
        self.steps();
    }

    fn verb(&mut self, verb: Verb, n: usize) {
        let id = *self.spool.keys().nth(n).unwrap();
        let message = self.spool.get_mut(&id).unwrap();
        let Some(update) = verb.update(message, &self.scheduler.in_flight(id), self.now) else { return };
        message.apply(&update);
        if !self.scheduler.change(self.now, &update) {
            assert!(self.parked.remove(&id).is_some(), "neither here nor parked");
            admit(&mut self.scheduler, self.now, &self.spool[&id]);
        }
    }

    fn report(&mut self, n: usize, outcomes: &[u8]) {
        let attempt = self.flying.remove(n);
        let outcome = |(n, (index, _)): (usize, &(u32, Address))| {
            // An attempt that doesn't reach its destination does so for nobody.
            let outcome = match outcomes.iter().find(|outcome| **outcome >= 5).or(outcomes.get(n % 6))? {
                0 => Outcome::Delivered(diagnosis(2)),
                1 => Outcome::Failed(diagnosis(5)),
                2 => Outcome::InDoubt(diagnosis(4)),
                5.. => Outcome::Deferred(unreached()),
                _ => Outcome::Deferred(diagnosis(4)),
            };
            Some((*index, outcome))
        };
        let outcomes = attempt.recipients.iter().enumerate().filter_map(outcome).collect::<Vec<_>>();
        for index in indexes(&attempt) {
            assert!(self.in_flight.remove(&(attempt.id, index)));
        }
        let verdict = self.scheduler.report(self.now, attempt.attempt, outcomes, &mut || 0.9);
        self.update(&verdict.update);
        if !verdict.failed.is_empty() {
            self.scheduler.noticed(attempt.id);
        }
    }

    /// A final state is never left again, and waits are bounded.
    fn update(&mut self, update: &Update) {
        let Some(message) = self.spool.get_mut(&update.id) else {
            assert!(update.statuses.is_empty(), "a verdict about a message that is gone");
            return;
        };
        for (index, status) in &update.statuses {
            assert!(message.recipients[*index as usize].is_open());
            if status.state == RecipientState::Deferred {
                assert!(status.next_attempt.since(self.now) <= wait_max(&retry()));
            }
        }
        message.apply(update);
    }

    fn steps(&mut self) {
        let due = self.parked.iter().filter(|(id, due)| {
            // The delivery loop looks for what a clock set back has put too far away.
            **due <= self.now || (!self.spool[id].held && due.since(self.now) > wait_max(&retry()) + retry().lifetime)
        });
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.parked.remove(&id);
            admit(&mut self.scheduler, self.now, &self.spool[&id]);
        }
        let mut count = 0;
        while let Some(step) = self.scheduler.next(self.now) {
            count += 1;
            assert!(count < 10_000, "steps without end");
            match step {
                Step::Attempt(attempt) => self.start(attempt),
                Step::Expire { id, update, recipients } => {
                    assert!(recipients.iter().all(|index| !self.in_flight.contains(&(id, *index))));
                    self.update(&update);
                    self.scheduler.noticed(id);
                }
                Step::Notify { id, update, ages_done, .. } => {
                    assert!(!self.spool[&id].reverse_path.is_null() && ages_done > self.spool[&id].delays_noticed);
                    self.update(&update);
                    self.scheduler.noticed(id);
                }
                Step::Recall { ids } => {
                    for id in ids.into_iter().filter(|id| self.parked.remove(id).is_some()) {
                        admit(&mut self.scheduler, self.now, &self.spool[&id]);
                    }
                }
                Step::Park { id, due } => {
                    assert!(!self.spool[&id].is_done());
                    assert!(due > self.now, "parked and due at once");
                    self.parked.insert(id, due);
                }
                Step::Postpone { update, destination, .. } => {
                    assert!(destination.is_remote());
                    self.update(&update);
                }
                Step::Down { down, .. } => assert!(down.until > self.now),
                Step::Up { .. } | Step::Moved { .. } => {}
                Step::Locate { domain } => {
                    let hosts = self.hosts(&domain);
                    self.scheduler.located(self.now, domain, hosts);
                }
                Step::Done { id, .. } => assert!(self.spool.remove(&id).unwrap().is_done()),
            }
        }
        if let Some(deadline) = self.scheduler.deadline() {
            assert!(deadline > self.now, "an alarm was left behind");
        }
    }

    fn start(&mut self, attempt: Attempt) {
        let message = &self.spool[&attempt.id];
        assert!(!message.held && !attempt.recipients.is_empty(), "{message:#?} {attempt:?}");
        assert!(!self.flying.iter().any(|a| a.id == attempt.id && a.destination == attempt.destination));
        for (index, address) in &attempt.recipients {
            let recipient = &message.recipients[*index as usize];
            assert!(recipient.is_open() && recipient.address == *address);
            assert!(self.in_flight.insert((attempt.id, *index)), "attempted twice at once");
        }
        self.flying.push(attempt.clone());
        assert!(self.flying.len() <= self.bounds.0);
        let there = self.flying.iter().filter(|a| a.site == attempt.site).count();
        assert!(there <= self.bounds.1 || !attempt.site.is_remote());
    }

    /// Lets everything run on with every attempt deferred or delivered: nobody may be left over.
    fn finish(&mut self, deliver: bool) {
        self.act(&Act::Resume(None));
        for n in 0..self.spool.len() {
            let id = *self.spool.keys().nth(n).unwrap();
            if self.spool[&id].held {
                self.verb(Verb::Release, n);
            }
        }
        for _ in 0..100_000 {
            self.steps();
            if self.spool.is_empty() {
                break;
            } else if !self.flying.is_empty() {
                self.report(0, if deliver { &[0; 6] } else { &[4; 6] });
            } else {
                let next = self.parked.values().copied().chain(self.scheduler.deadline()).min();
                self.now = next.expect("nothing waits for a time and nothing is in flight");
            }
        }
        assert!(self.spool.is_empty(), "left over: {:?}", self.spool);
        assert!(self.scheduler.is_empty() && self.scheduler.attempts_in_flight() == 0);
        assert_eq!(self.scheduler.sites().count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_every_recipient_ends_final(acts in proptest::collection::vec(act(), 1..120), deliver: bool) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.finish(deliver);
    }
}
