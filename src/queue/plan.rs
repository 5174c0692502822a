//! Which line a part stands in: the one of its site as soon as that is known, and none while it isn't ready. State: the scheduler's.

use std::collections::{BTreeSet, VecDeque};

use super::entry::{Part, Stage};
use super::line::{Place, Waiting};
use super::lines::Lines;
use super::scheduler::Scheduler;
use super::sites::{Located, Sites};
use super::step::Step;
use crate::mail::{Destination, Domain, Message, Origin, Site, Timestamp};

/// What it takes to put parts in line.
pub(super) struct Plan<'a> {
    now: Timestamp,
    lines: &'a mut Lines,
    sites: &'a mut Sites,
    steps: &'a mut VecDeque<Step>,
    paused: &'a BTreeSet<Domain>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        now: Timestamp,
        lines: &'a mut Lines,
        sites: &'a mut Sites,
        steps: &'a mut VecDeque<Step>,
        paused: &'a BTreeSet<Domain>,
    ) -> Self {
        Self { now, lines, sites, steps, paused }
    }

    /// Puts a part into its line if it is ready, out of it if not; keeps the count of waiting parts.
    pub(super) fn part(&mut self, message: &Message, destination: &Destination, part: &mut Part, waiting: &mut usize) {
        part.update(message, self.paused);
        match (&part.stage, part.ready_at <= self.now) {
            (Stage::Idle, true) => {
                part.stage = self.stage(message, destination, part.before.take());
                *waiting += 1;
            }
            (Stage::Unlocated(origin), true) => {
                self.lines.shares.leave(origin);
                part.stage = self.stage(message, destination, part.before.take());
            }
            (Stage::Waiting(..) | Stage::Unlocated(_), false) => part.step_out(self.lines, waiting),
            (Stage::Waiting(..) | Stage::InFlight, true) | (Stage::Idle | Stage::InFlight, false) => {}
        }
    }

    fn stage(&mut self, message: &Message, destination: &Destination, before: Option<Place>) -> Stage {
        match self.sites.locate(self.now, destination, message) {
            Located::At(site, bounds) => {
                let waiting = Waiting { id: message.id, destination: destination.clone() };
                let place = self.lines.join(&site, bounds, waiting, message, before);
                Stage::Waiting(site, place)
            }
            Located::Unknown { ask } => {
                if let (true, Destination::Mx(domain)) = (ask, destination) {
                    self.steps.push_back(Step::Locate { domain: domain.clone() });
                }
                let origin = Origin::of(message);
                self.lines.shares.join(&origin);
                Stage::Unlocated(origin)
            }
        }
    }
}

impl Part {
    /// Waits no longer.
    pub(super) fn step_out(&mut self, lines: &mut Lines, waiting: &mut usize) {
        match &self.stage {
            Stage::Waiting(site, place) => lines.leave(site, place),
            Stage::Unlocated(origin) => lines.shares.leave(origin),
            Stage::Idle | Stage::InFlight => return,
        }
        self.stage = Stage::Idle;
        *waiting -= 1;
    }
}

impl Scheduler {
    /// The DNS names these hosts for a domain that `Step::Locate` asked for; none if it couldn't, or if the domain has none: then an
    /// attempt finds out what that means. Whoever waits for this, or at a site that was the domain's, stands in the right line then.
    pub fn located(&mut self, now: Timestamp, domain: Domain, hosts: Option<Vec<Domain>>) {
        let before = self.sites.last(&domain).cloned();
        let waiting = self.sites.learn(now, domain.clone(), hosts);
        let after = self.sites.last(&domain).cloned();
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            for part in self.lines.parts(&before) {
                self.scatter(Some((&part, &Destination::Mx(domain.clone()))));
            }
            self.moved(domain, &before, after);
        }
        for id in waiting {
            self.refresh(now, id);
        }
    }

    /// A domain's mail that was put off for its old site's sake needn't wait any longer.
    fn moved(&mut self, domain: Domain, before: &Site, after: Site) {
        let mut was_down = false;
        for part in self.lines.parts(before) {
            was_down |= match before {
                // Nobody else's mail goes there.
                Site::Own(_) => self.lines.reached(&part).is_some(),
                Site::Hosts(_) | Site::From(..) => self.lines.is_probed(&part),
            };
        }
        if was_down {
            self.awaken(self.clock, std::slice::from_ref(&domain));
            self.steps.push_back(Step::Moved { domain, site: after });
        }
    }

    /// Takes those who wait at a site for a destination, or all who wait anywhere, out of line, and has them stand in line anew.
    pub(super) fn scatter(&mut self, whom: Option<(&Site, &Destination)>) {
        let now = self.clock;
        let ids: BTreeSet<_> = match whom {
            Some((site, destination)) => {
                let waiting = self.lines.waiting(site).into_iter();
                waiting.filter(|waiting| waiting.destination == *destination).map(|waiting| waiting.id).collect()
            }
            None => self.entries.keys().copied().collect(),
        };
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            for (destination, part) in &mut entry.parts {
                if whom.is_none_or(|(_, moved)| moved == destination) {
                    part.step_out(&mut self.lines, &mut entry.waiting);
                }
            }
            self.refresh(now, id);
        }
    }
}
