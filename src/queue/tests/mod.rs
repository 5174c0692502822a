//! The scheduler under time moved by hand: single stories, then random histories against what must always hold.

mod crowds;
mod lives;
mod outages;
mod random;
mod rates;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::away::Wait;
use super::backoff::tests::retry;
use super::*;
use crate::config::{DestinationRule, DomainPattern, Outgoing, Retry};
use crate::mail::{
    Address, Cause, DeliverBy, DeliverByMode, Destination, Diagnosis, Domain, EnhancedCode, Message, Origin, Outcome, QueueId,
    Rate, RecipientState, RecipientStatus, Request, ReversePath, Site, Timestamp, Update,
};

const START: Timestamp = Timestamp::from_millis(1_795_312_800_000);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

pub(super) fn message(id: u64, from: &str, to: &[&str]) -> Message {
    Message::sample(id, START, from, to)
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

fn no_connection_before(time: Timestamp) -> Report {
    Report { connections_from: Some(time), ..Report::default() }
}

fn is_done_any(step: Option<Step>) -> bool {
    matches!(step, Some(Step::Done { .. }))
}
