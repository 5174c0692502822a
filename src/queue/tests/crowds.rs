//! Many messages: who waits here, who on disk, and whose turn it is.

use super::*;

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

#[test]
fn one_unurgent_letter_opens_no_door_for_a_flood_before_it() {
    let mut scheduler = Scheduler::new(Settings { active_max: 400, ..settings() });
    scheduler.pause(START, None);
    let unurgent = |id, from: &str| {
        let request = Request { priority: crate::mail::Priority::new(-4), ..Request::default() };
        Message { request: request.boxed(), ..message(id, from, &["a@one.test"]) }
    };
    let mut come = |message: &Message| {
        admit(&mut scheduler, START, message);
        while next(&mut scheduler, START).is_some() {}
        scheduler.len()
    };
    // His own bulk has what room there is; his letters go before it.
    for id in 1..=1000 {
        come(&unurgent(id, "bulk@b.test"));
    }
    let crowd = come(&unurgent(1001, "bulk@b.test"));
    let letters: Vec<usize> = (2001..=2010).map(|id| come(&message(id, "bulk@b.test", &["a@one.test"]))).collect();
    assert_eq!(letters.last(), Some(&(crowd + 10)));
    let flood = (3001..=5000).map(|id| come(&message(id, "bulk@b.test", &["a@one.test"]))).last().unwrap();
    assert!(flood < 450, "{crowd} and {flood}");
    let other = (6001..=6020).map(|id| come(&message(id, "ann@a.test", &["a@one.test"]))).last().unwrap();
    assert_eq!(other, flood + 20, "there is room left for others'");
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

/// The same, but for a destination whose attempts don't end.
fn drain_but(
    slow: &str,
    scheduler: &mut Scheduler,
    spool: &BTreeMap<QueueId, Message>,
    parked: &mut BTreeSet<QueueId>,
) -> Vec<u64> {
    let mut order = Vec::new();
    while let Some(step) = next(scheduler, START) {
        match step {
            Step::Attempt(attempt) if attempt.destination.to_string() != slow => {
                report(scheduler, START, &attempt, Outcome::Delivered);
                order.push(attempt.id.0);
            }
            Step::Recall { ids } => {
                for id in ids.into_iter().filter(|id| parked.remove(id)) {
                    admit(scheduler, START, &spool[&id]);
                }
            }
            Step::Park { id, .. } => _ = parked.insert(id),
            _ => {}
        }
    }
    order
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
fn whichever_of_its_lines_goes_on_first_calls_a_message_back() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    scheduler.pause(START, None);
    let (mut spool, mut parked) = pile_up(&mut scheduler, "bulk@b.test", 1..=300, "a@slow.test");
    let (swift, away) = pile_up(&mut scheduler, "bulk@b.test", 301..=600, "a@swift.test");
    spool.extend(swift);
    parked.extend(away);
    let both = message(999, "bulk@b.test", &["b@slow.test", "b@swift.test"]);
    admit(&mut scheduler, START, &both);
    assert!(matches!(next(&mut scheduler, START), Some(Step::Park { id: QueueId(999), .. })), "there is room in neither");
    spool.insert(both.id, both);
    parked.insert(QueueId(999));
    scheduler.resume(START, None);
    let order = drain_but("mx:slow.test", &mut scheduler, &spool, &mut parked);
    assert_eq!((order.len(), order.last()), (301, Some(&999)), "the one that stands still is in nobody's way");
}

/// Whom it calls, and for when it parks the others.
fn called_and_parked(scheduler: &mut Scheduler, now: Timestamp) -> (BTreeSet<QueueId>, BTreeMap<QueueId, Timestamp>) {
    let (mut called, mut parked) = (BTreeSet::new(), BTreeMap::new());
    while let Some(step) = next(scheduler, now) {
        match step {
            Step::Recall { ids } => called.extend(ids),
            Step::Park { id, due } => _ = parked.insert(id, due),
            _ => {}
        }
    }
    (called, parked)
}

#[test]
fn whichever_of_its_pauses_ends_first_calls_a_message_back() {
    let [one, two] = ["one.test", "two.test"].map(|name| Domain::parse(name).unwrap());
    for ends in [&one, &two] {
        let mut scheduler = Scheduler::new(settings());
        scheduler.pause(START, Some(one.clone()));
        scheduler.pause(START, Some(two.clone()));
        let both = message(1, "s@x.test", &["a@one.test", "a@two.test", "b@two.test"]);
        admit(&mut scheduler, START, &both);
        assert_eq!(called_and_parked(&mut scheduler, START).1, [(QueueId(1), at(3600))].into());
        scheduler.resume(at(1), Some(ends.clone()));
        assert_eq!(called_and_parked(&mut scheduler, at(1)).0, [QueueId(1)].into(), "{ends}");
        admit(&mut scheduler, at(1), &both);
        assert_eq!(attempt(&mut scheduler, at(1)).destination, Destination::Mx(ends.clone()));
    }
}

#[test]
fn a_pause_that_ends_calls_a_message_back_though_its_other_line_stands_still() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    let two = Domain::parse("two.test").unwrap();
    scheduler.pause(START, Some(two.clone()));
    pile_up(&mut scheduler, "bulk@b.test", 1..=300, "a@slow.test");
    let both = message(999, "bulk@b.test", &["b@slow.test", "b@two.test"]);
    admit(&mut scheduler, START, &both);
    assert_eq!(called_and_parked(&mut scheduler, START).1, [(QueueId(999), at(3600))].into());
    scheduler.resume(at(1), Some(two.clone()));
    assert!(called_and_parked(&mut scheduler, at(1)).0.contains(&QueueId(999)));
    admit(&mut scheduler, at(1), &both);
    assert_eq!(attempt(&mut scheduler, at(1)).destination, Destination::Mx(two));
}

#[test]
fn a_recipient_whose_time_comes_is_not_kept_by_those_who_wait_for_a_line_or_a_pause() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    scheduler.pause(START, Some(Domain::parse("one.test").unwrap()));
    scheduler.pause(START, Some(Domain::parse("two.test").unwrap()));
    pile_up(&mut scheduler, "bulk@b.test", 1..=300, "a@slow.test");
    for (id, waits) in [(901, "b@slow.test"), (902, "b@one.test")] {
        for (id, later) in [(id, "b@swift.test"), (id + 10, "b@two.test")] {
            let mut letter = message(id, "bulk@b.test", &[later, waits]);
            letter.recipients[0].status.next_attempt = at(300);
            admit(&mut scheduler, START, &letter);
            assert_eq!(called_and_parked(&mut scheduler, START).1, [(QueueId(id), at(300))].into(), "{later} and {waits}");
        }
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
fn nobody_more_is_called_while_some_cannot_be_fetched() {
    let mut scheduler = Scheduler::new(settings());
    put_away(&mut scheduler, 1, "domain:b.test", &mx_of("up.test"));
    assert_eq!(next(&mut scheduler, START), Some(Step::Recall { ids: vec![QueueId(1)] }));
    scheduler.fetched(false);
    put_away(&mut scheduler, 2, "domain:b.test", &mx_of("up.test"));
    assert_eq!(next(&mut scheduler, START), None);
    scheduler.fetched(true);
    assert_eq!(next(&mut scheduler, START), Some(Step::Recall { ids: vec![QueueId(2)] }));
}

#[test]
fn who_outlived_his_lifetime_does_not_go_away_from_a_crowd_and_come_back_for_ever() {
    let mut scheduler = Scheduler::new(Settings { active_max: 200, ..settings() });
    let now = at(6 * 86400);
    for id in 1..=300 {
        let fresh = Message { arrived: now, ..message(id, &format!("s@x{id}.test"), &["a@slow.test"]) };
        admit(&mut scheduler, now, &fresh);
        while next(&mut scheduler, now).is_some() {}
    }
    let outlived = Message { delays_noticed: 1, ..message(999, "s@x.test", &["a@slow.test"]) };
    admit(&mut scheduler, now, &outlived);
    let Some(Step::Park { id: QueueId(999), due }) = next(&mut scheduler, now) else { panic!("not sent away") };
    assert!(due <= now.plus(LAST_CHANCE));
    let later = now.plus(LAST_CHANCE);
    admit(&mut scheduler, later, &outlived);
    assert_eq!(next(&mut scheduler, later), None, "it waits for its turn here");
    let end = later.plus(LAST_CHANCE);
    assert!(matches!(next(&mut scheduler, end), Some(Step::Expire { id: QueueId(999), .. })));
}
