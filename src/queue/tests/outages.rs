//! Destinations that are down, and those that several domains share.

use super::*;

#[test]
fn a_line_with_nothing_but_mail_of_a_paused_domain_says_so() {
    let mut scheduler = Scheduler::new(settings());
    let one = Domain::parse("one.test").unwrap();
    scheduler.pause(START, Some(one.clone()));
    for (id, to) in [(1, "a@one.test"), (2, "b@one.test"), (3, "a@two.test")] {
        admit(&mut scheduler, START, &message(id, "s@x.test", &[to]));
        while next(&mut scheduler, START).is_some() {}
    }
    let rows = |scheduler: &mut Scheduler| {
        let states = scheduler.states(START, 10);
        states.into_iter().map(|state| (state.name, state.waiting + state.away, state.why)).collect::<Vec<_>>()
    };
    let (paused, other) = ("mx:one.test".to_owned(), "mx:two.test".to_owned());
    assert_eq!(rows(&mut scheduler), [(paused, 2, Some(Why::Paused)), (other.clone(), 0, None)]);
    let state = scheduler.state_of(START, &Destination::Mx(one.clone()), &ReversePath::Null);
    assert_eq!(state.map(|state| (state.name, state.away, state.why)), Some(("mx:one.test".to_owned(), 2, Some(Why::Paused))));
    scheduler.resume(START, Some(one));
    assert_eq!(rows(&mut scheduler), [(other, 0, None)]);
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
