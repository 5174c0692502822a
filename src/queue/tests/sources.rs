//! Bounds on what leaves from our own addresses.

use std::net::IpAddr;

use super::*;
use crate::config::{AddressPattern, Route, SenderPattern};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn rule(source: u8, shared: bool, outgoing: Outgoing) -> DestinationRule {
    DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: Some(ip(source)), shared, outgoing }
}

fn at_a_time(count: usize) -> Outgoing {
    Outgoing { concurrency: Some(count), ..Outgoing::default() }
}

/// One whose mail leaves from the addresses of this pool, with these bounds.
fn leaving_from(pool: &[u8], destinations: Vec<DestinationRule>) -> Scheduler {
    let pool: Vec<IpAddr> = pool.iter().map(|last| ip(*last)).collect();
    let pools = Pools::new(&[], &pool, BTreeMap::new());
    Scheduler::new(Settings { destinations, pools, attempts_max: 100, concurrency: 20, ..settings() })
}

/// Every attempt that may start now.
fn start(scheduler: &mut Scheduler, now: Timestamp) -> Vec<Attempt> {
    let mut started = Vec::new();
    while let Some(step) = next(scheduler, now) {
        if let Step::Attempt(attempt) = step {
            started.push(attempt);
        }
    }
    started
}

fn from(attempts: &[Attempt]) -> Vec<u8> {
    let last = |source: &crate::config::Source| source.ip.to_string().rsplit('.').next().unwrap().parse::<u8>().unwrap();
    let mut from: Vec<u8> = attempts.iter().flat_map(|attempt| attempt.sources.iter().map(last)).collect();
    from.sort_unstable();
    from
}

/// Every attempt that may be made now, each taken at once.
fn deliver(scheduler: &mut Scheduler, now: Timestamp) -> Vec<Attempt> {
    let mut made = Vec::new();
    loop {
        let started = start(scheduler, now);
        if started.is_empty() {
            return made;
        }
        for attempt in started {
            report(scheduler, now, &attempt, Outcome::Delivered);
            made.push(attempt);
        }
    }
}

#[test]
fn no_more_attempts_leave_from_an_address_than_may_and_the_others_go_on() {
    let mut scheduler = leaving_from(&[1, 2], vec![rule(1, false, at_a_time(1))]);
    for id in 1..=9 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    let started = start(&mut scheduler, START);
    assert_eq!(from(&started), [1, 2]);
    // What ends gives its address to the next; as it was reached, there may be five.
    let of_one = started.iter().find(|attempt| attempt.sources[0].ip == ip(1)).unwrap();
    report(&mut scheduler, START, of_one, Outcome::Delivered);
    assert_eq!(from(&start(&mut scheduler, START)), [1, 2, 2, 2]);
    let state = scheduler.states(START, 10).remove(0);
    assert_eq!(state.name, "mx:one.test from 192.0.2.1,192.0.2.2");
    assert_eq!((state.sources[0].in_flight, state.sources[0].outgoing_concurrency), (1, Some(1)));
}

#[test]
fn a_line_waits_while_its_addresses_are_full_and_not_longer() {
    let mut scheduler = leaving_from(&[1], vec![rule(1, true, at_a_time(1))]);
    for (id, to) in [(1, "a@one.test"), (2, "a@two.test"), (3, "a@three.test")] {
        admit(&mut scheduler, START, &message(id, "s@x.test", &[to]));
    }
    let mut order = Vec::new();
    for second in 0..3 {
        let started = start(&mut scheduler, at(second));
        assert_eq!(started.len(), 1, "one at a time, wherever it goes");
        order.push(started[0].id.0);
        if second == 0 {
            let waiting = Destination::Mx(Domain::parse("two.test").unwrap());
            let state = scheduler.state_of(START, &waiting, &ReversePath::Null).unwrap();
            assert_eq!((state.why, state.until, state.waiting), (Some(Why::Source), None, 1));
        }
        report(&mut scheduler, at(second), &started[0], Outcome::Delivered);
    }
    order.sort_unstable();
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn notices_leave_from_a_full_address_all_the_same() {
    let mut scheduler = leaving_from(&[1], vec![rule(1, true, at_a_time(1))]);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@two.test"]));
    assert_eq!(start(&mut scheduler, START).len(), 1);
    admit(&mut scheduler, START, &message(3, "", &["a@two.test"]));
    let started = start(&mut scheduler, START);
    assert_eq!(started.iter().map(|attempt| (attempt.id, from(&started))).collect::<Vec<_>>(), [(QueueId(3), vec![1])]);
    let state = scheduler.states(START, 10).remove(0);
    assert_eq!(state.sources[0].in_flight, 1, "it isn't counted");
}

#[test]
fn mail_that_comes_one_by_one_takes_turns_among_the_addresses() {
    let mut scheduler = leaving_from(&[1, 2], vec![rule(1, false, at_a_time(9))]);
    let mut seen = Vec::new();
    for n in 0..4 {
        admit(&mut scheduler, at(5 * n), &message(n, "s@x.test", &["a@one.test"]));
        seen.extend(from(&deliver(&mut scheduler, at(5 * n))));
    }
    assert_eq!((seen[0], seen[1]), (seen[2], seen[3]));
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn where_an_address_has_no_connection_left_mail_goes_on_over_those_that_there_are() {
    let mut scheduler = leaving_from(&[1], vec![rule(1, true, at_a_time(9))]);
    for id in 1..=4 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    let flying = start(&mut scheduler, START);
    assert_eq!(flying.len(), 2);
    admit(&mut scheduler, START, &message(9, "s@x.test", &["a@two.test"]));
    let none = Report { connections_from: Some(at(60)), full_source: Some(ip(1)), ..Report::default() };
    let other = attempt(&mut scheduler, START);
    scheduler.report(START, other.attempt, none, &mut || 0.5);
    assert_eq!(start(&mut scheduler, START), []);
    let mut order = Vec::new();
    for attempt in flying {
        report(&mut scheduler, START, &attempt, Outcome::Delivered);
        order.extend(deliver(&mut scheduler, START).iter().map(|attempt| attempt.id.0));
    }
    assert_eq!(order, [3, 4], "the other destination's doesn't take their place, for nothing");
    assert_eq!(deliver(&mut scheduler, at(60)).iter().map(|attempt| attempt.id.0).collect::<Vec<_>>(), [9]);
}

#[test]
fn so_many_messages_a_time_leave_from_an_address_and_the_rest_from_others_or_later() {
    let hourly = Outgoing { messages_rate: Some(Rate { count: 2, period: Duration::from_secs(3600) }), ..Outgoing::default() };
    let mut scheduler = leaving_from(&[1, 2], vec![rule(1, true, hourly), rule(2, false, hourly)]);
    for id in 1..=20 {
        let to = if id % 2 == 0 { "a@one.test" } else { "a@two.test" };
        admit(&mut scheduler, START, &message(id, "s@x.test", &[to]));
    }
    let left = deliver(&mut scheduler, START);
    assert_eq!(from(&left), [1, 1, 2, 2, 2, 2], "two from the first to all, two from the second to each");
    assert_eq!(deliver(&mut scheduler, at(3599)).len(), 0);
    assert_eq!(scheduler.deadline(), Some(at(3600)));
    assert_eq!(from(&deliver(&mut scheduler, at(3600))), [1, 1, 2, 2, 2, 2]);
}

#[test]
fn an_address_without_a_connection_left_holds_up_only_what_leaves_from_it() {
    let mut scheduler = leaving_from(&[1, 2], vec![rule(1, false, at_a_time(9))]);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    let first = attempt(&mut scheduler, START);
    let full = first.sources[0].ip;
    let none = Report { connections_from: Some(at(60)), full_source: Some(full), ..Report::default() };
    scheduler.report(START, first.attempt, none, &mut || 0.5);
    let again = attempt(&mut scheduler, START);
    assert_eq!(again.id, QueueId(1));
    assert_ne!(again.sources[0].ip, full, "the other one");
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@one.test"]));
    assert_ne!(attempt(&mut scheduler, START).sources[0].ip, full);
}

#[test]
fn an_address_of_each_family_is_chosen_and_each_has_to_have_room() {
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    let destinations = vec![DestinationRule { source: Some(v6), ..rule(1, false, at_a_time(1)) }];
    let pools = Pools::new(&[], &[ip(1), v6, ip(2)], BTreeMap::new());
    let mut scheduler = Scheduler::new(Settings { destinations, pools, ..settings() });
    for id in 1..=2 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    let started = start(&mut scheduler, START);
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].sources.iter().map(|source| source.ip.is_ipv4()).collect::<Vec<_>>(), [true, false]);
    report(&mut scheduler, START, &started[0], Outcome::Delivered);
    assert_eq!(start(&mut scheduler, START).len(), 1);
}

#[test]
fn what_is_known_of_a_site_that_is_down_holds_for_each_part_of_it() {
    let mut scheduler = leaving_from(&[1], vec![rule(1, false, at_a_time(5))]);
    for id in 1..=9 {
        admit(&mut scheduler, START, &message(id, "s@x.test", &["a@one.test"]));
    }
    for _ in 0..3 {
        for attempt in start(&mut scheduler, START) {
            scheduler.report(START, attempt.attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
        }
    }
    let one = Destination::Mx(Domain::parse("one.test").unwrap());
    let why = |scheduler: &mut Scheduler| scheduler.state_of(START, &one, &ReversePath::Null).and_then(|state| state.why);
    assert_eq!(why(&mut scheduler), Some(Why::Down));
    scheduler.forgive([one.clone()]);
    assert_ne!(why(&mut scheduler), Some(Why::Down), "an order to retry holds nothing against it");
}

#[test]
fn what_waits_for_one_part_of_a_site_is_not_woken_by_the_return_of_another() {
    let of_news = SenderPattern::Address(AddressPattern::All(Domain::parse("news.test").unwrap()));
    let news = Route { sender: of_news, sources: vec![ip(2)], ..Route::new(DomainPattern::Any, Vec::new()) };
    let pools = Pools::new(&[news], &[ip(1)], BTreeMap::new());
    let destinations = vec![rule(1, false, at_a_time(9)), rule(2, false, at_a_time(9))];
    let mut scheduler = Scheduler::new(Settings { destinations, pools, ..settings() });
    for n in 0..8 {
        let (id, sender) = (n + 1, if n % 2 == 0 { "x@news.test" } else { "s@x.test" });
        admit(&mut scheduler, START, &message(id, sender, &["a@one.test"]));
    }
    for _ in 0..3 {
        for attempt in start(&mut scheduler, START) {
            scheduler.report(START, attempt.attempt, vec![(0, Outcome::Deferred(unreached()))], &mut || 0.5);
        }
    }
    let one = Domain::parse("one.test").unwrap();
    let [of_news, others] = ["x@news.test", "s@x.test"].map(|sender| message(0, sender, &[]).reverse_path);
    assert!(scheduler.is_down(&one, &of_news) && scheduler.is_down(&one, &others));
    // The probe from the second address gets through. Something keeps a letter of each here.
    for (id, sender) in [(21, "x@news.test"), (22, "s@x.test")] {
        let mut waiting = message(id, sender, &["a@one.test"]);
        waiting.recipients[0].status.last_cause = Some(Cause::Connection);
        waiting.recipients[0].status.next_attempt = at(20_000);
        admit(&mut scheduler, START, &waiting);
        scheduler.keep(QueueId(id));
    }
    admit(&mut scheduler, at(301), &message(31, "x@news.test", &["a@one.test"]));
    let probe = std::iter::from_fn(|| next(&mut scheduler, at(301))).find_map(|step| match step {
        Step::Attempt(attempt) if attempt.sources[0].ip == ip(2) => Some(attempt),
        _ => None,
    });
    // That from the first address doesn't.
    let of_others = Site::From(std::sync::Arc::new(Site::Own(Destination::Mx(one))), "192.0.2.1".into());
    scheduler.lines.failed(at(301), &of_others, unreached(), &settings().retry, 0.5);
    report(&mut scheduler, at(301), &probe.unwrap(), Outcome::Delivered);
    let next_of = |scheduler: &Scheduler, id| scheduler.message(QueueId(id)).map(|m| m.recipients[0].status.next_attempt);
    assert_eq!((next_of(&scheduler, 21), next_of(&scheduler, 22)), (Some(at(301)), Some(at(20_000))));
}

#[test]
fn what_bounds_a_site_bounds_all_its_parts_together() {
    let of_news = SenderPattern::Address(AddressPattern::All(Domain::parse("news.test").unwrap()));
    let news = Route { sender: of_news, sources: vec![ip(2)], ..Route::new(DomainPattern::Any, Vec::new()) };
    let pools = Pools::new(&[news], &[ip(1)], BTreeMap::new());
    let rules = vec![rule(2, false, at_a_time(9)), DestinationRule { source: None, ..rule(1, false, at_a_time(1)) }];
    let mut scheduler = Scheduler::new(Settings { destinations: rules, pools, ..settings() });
    for id in 1..=6 {
        let from = if id % 2 == 0 { "x@news.test" } else { "s@x.test" };
        admit(&mut scheduler, START, &message(id, from, &["a@one.test"]));
    }
    let mut order = Vec::new();
    for second in 0..6 {
        let started = start(&mut scheduler, at(second));
        assert_eq!(started.len(), 1, "{order:?}");
        order.push(started[0].sources.len());
        let state = scheduler.states(at(second), 10);
        let waiting: Vec<_> = state.iter().filter(|state| state.waiting > 0).map(|state| state.why).collect();
        assert!(waiting.iter().all(|why| *why == Some(Why::Concurrency)), "{waiting:?}");
        report(&mut scheduler, at(second), &started[0], Outcome::Delivered);
    }
    assert_eq!(order.iter().sum::<usize>(), 3, "each in turn: {order:?}");
}

#[test]
fn who_waits_for_another_lines_attempt_and_then_for_the_rate_goes_when_that_allows_it() {
    let bounds = Outgoing { messages_rate: Some(Rate { count: 2, period: Duration::from_secs(3600) }), ..at_a_time(1) };
    let mut scheduler = leaving_from(&[1], vec![rule(1, true, bounds)]);
    admit(&mut scheduler, START, &message(1, "s@x.test", &["a@one.test"]));
    assert_eq!(deliver(&mut scheduler, START).len(), 1);
    admit(&mut scheduler, START, &message(2, "s@x.test", &["a@one.test"]));
    let second = attempt(&mut scheduler, START);
    admit(&mut scheduler, START, &message(3, "s@x.test", &["a@two.test"]));
    assert_eq!(start(&mut scheduler, START), []);
    report(&mut scheduler, START, &second, Outcome::Delivered);
    assert_eq!(start(&mut scheduler, START), []);
    assert_eq!(deliver(&mut scheduler, at(3599)).len(), 0);
    assert_eq!(scheduler.deadline(), Some(at(3600)));
    assert_eq!(deliver(&mut scheduler, at(3600)).iter().map(|attempt| attempt.id).collect::<Vec<_>>(), [QueueId(3)]);
}
