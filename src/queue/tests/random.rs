//! Random histories against what must always hold.

use proptest::prelude::*;

use super::*;

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
