//! What bounds attempts and messages in a time.

use super::*;

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
