//! What is known of a site, for people: its line, its bounds, and why its mail waits. State: the scheduler's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::lines::Lines;
use super::scheduler::Scheduler;
use super::sources::Full;
use crate::config::Source;
use crate::mail::{Destination, ReversePath, Site, Timestamp};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteState {
    /// Its name, as in the log.
    pub name: String,
    /// Messages in line.
    pub waiting: usize,
    /// Messages on disk that will be called when the line has a place for them.
    pub away: usize,
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts that there may be at a time, as it took them so far, and within the bounds of `[[destination]]`; none: only
    /// `queue.attempts` bounds them.
    pub concurrency: Option<usize>,
    /// What an admin allows at the most: attempts at a time, messages and connections in a time.
    pub outgoing_concurrency: Option<usize>,
    /// `100/1m`.
    pub outgoing_messages_rate: Option<String>,
    /// `10/1m`.
    pub outgoing_connections_rate: Option<String>,
    /// Our own addresses that its mail may leave from, if what leaves from one of them is bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceState>,
    /// Why nothing more of its mail is attempted now; none: it is, or there is none.
    pub why: Option<Why>,
    /// Until when that is so, if it is known.
    pub until: Option<Timestamp>,
    /// How the last attempt failed, if it couldn't be reached.
    pub reply: Option<String>,
}

/// What is known of one of our own addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// The address.
    pub address: IpAddr,
    /// Attempts under way that may leave from it, as far as the bounds count them together.
    pub in_flight: usize,
    /// What an admin allows at the most: attempts at a time, messages and connections in a time.
    pub outgoing_concurrency: Option<usize>,
    /// `100/1m`.
    pub outgoing_messages_rate: Option<String>,
    /// `10/1m`.
    pub outgoing_connections_rate: Option<String>,
}

/// Why mail waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Delivery is paused.
    Paused,
    /// What attempts come to can't be recorded: the spool's log can't be written.
    Log,
    /// It can't be reached: one attempt will find out whether it is back.
    Down,
    /// `outgoing_connections_rate` allows no further connection.
    ConnectionsRate,
    /// `outgoing_messages_rate` allows no further message.
    MessagesRate,
    /// What may leave from our own addresses is under way, or has left of late.
    Source,
    /// As many attempts as there may be are under way.
    Concurrency,
    /// Other destinations have their turns.
    Turn,
}

impl Lines {
    /// What is known of a site; `still`: why nothing of its mail is attempted, whatever is known of it. So many of its messages wait on disk
    /// for the end of their domain's pause.
    fn state(&mut self, site: &Site, still: Option<Why>, of_paused: usize) -> SiteState {
        let now = self.now();
        let mut state = SiteState {
            name: site.to_string(),
            waiting: self.waiting_at(site),
            away: self.away.waiting_for(site) + of_paused,
            in_flight: 0,
            concurrency: None,
            outgoing_concurrency: None,
            outgoing_messages_rate: None,
            outgoing_connections_rate: None,
            sources: Vec::new(),
            why: None,
            until: None,
            reply: None,
        };
        let mut connections_from = None;
        let (sources, full_sources) = self.state_of_sources(site);
        state.sources = sources;
        if let Some(line) = self.line(site) {
            let limits = line.bounds.outgoing;
            state.in_flight = line.in_flight();
            state.concurrency = site.is_remote().then(|| line.limit(now, self.concurrency(), false));
            state.outgoing_concurrency = limits.concurrency;
            state.outgoing_messages_rate = limits.messages_rate.map(|rate| rate.to_string());
            state.outgoing_connections_rate = limits.connections_rate.map(|rate| rate.to_string());
            connections_from = line.connected.map(|(_, until)| until).filter(|until| *until > now);
        }
        let whole_max = state.outgoing_concurrency.unwrap_or(usize::MAX).min(self.concurrency());
        let whole_full = site.is_remote() && self.in_flight_at(site.whole()) >= whole_max;
        let full = whole_full || state.concurrency.is_some_and(|limit| state.in_flight >= limit);
        let next = self.next_message(site).filter(|next| *next > now);
        let down = self.down(now, site).map(|down| (down.until, down.why.text.clone()));
        let waits = state.waiting + state.away > of_paused;
        state.reply = down.as_ref().map(|(_, reply)| reply.clone());
        (state.why, state.until) = match (down, connections_from, next) {
            _ if still.is_some() => (still, None),
            _ if !waits && of_paused > 0 => (Some(Why::Paused), None),
            (Some((until, _)), ..) => (Some(Why::Down), Some(until)),
            (_, Some(until), _) if waits && full => (Some(Why::ConnectionsRate), Some(until)),
            (.., Some(until)) if waits => (Some(Why::MessagesRate), Some(until)),
            _ if waits && full => (Some(Why::Concurrency), None),
            _ if waits && full_sources.is_some() => (Some(Why::Source), full_sources.and_then(|full| full.until)),
            _ if waits => (Some(Why::Turn), None),
            _ => (None, None),
        };
        state
    }

    /// The addresses that a line's mail leaves from, and whether nothing more may.
    fn state_of_sources(&mut self, site: &Site) -> (Vec<SourceState>, Option<Full>) {
        let Some((bounds, recent)) = self.line(site).map(|line| (line.bounds.clone(), line.recent.clone())) else {
            return (Vec::new(), None);
        };
        let full = self.sources.choose(self.now(), &bounds.sources, &recent).err();
        let state = |source: &Source| SourceState {
            address: source.ip,
            in_flight: self.sources.in_flight(source),
            outgoing_concurrency: source.outgoing.concurrency,
            outgoing_messages_rate: source.outgoing.messages_rate.map(|rate| rate.to_string()),
            outgoing_connections_rate: source.outgoing.connections_rate.map(|rate| rate.to_string()),
        };
        (bounds.sources.iter().map(state).collect(), full)
    }
}

impl Scheduler {
    /// What is known of every site with mail here, and of those that are down, in order; at most `count_max`, those with most mail.
    pub fn states(&mut self, now: Timestamp, count_max: usize) -> Vec<SiteState> {
        let still = self.why_still();
        self.lines.tick(now);
        let of_paused = self.lines.away.paused();
        let count = |site: &Site| of_paused.get(site).copied().unwrap_or(0);
        let mut sites: BTreeSet<Site> = self.lines.known().chain(of_paused.keys()).cloned().collect();
        if sites.len() > count_max {
            let waiting = |site: &Site| self.lines.waiting_at(site) + self.lines.away.waiting_for(site) + count(site);
            let mut ranked: Vec<(usize, Site)> = sites.into_iter().map(|site| (waiting(&site), site)).collect();
            ranked.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
            sites = ranked.into_iter().take(count_max).map(|(_, site)| site).collect();
        }
        sites.iter().map(|site| self.lines.state(site, still, count(site))).collect()
    }

    /// The same of the site where a sender's mail to a destination was going of late; none if that isn't known.
    pub fn state_of(&mut self, now: Timestamp, destination: &Destination, sender: &ReversePath) -> Option<SiteState> {
        let is_paused = matches!(destination, Destination::Mx(domain) if self.paused_domains.contains(domain));
        let still = self.why_still().or(is_paused.then_some(Why::Paused));
        self.lines.tick(now);
        let of_paused = self.lines.away.paused();
        let own = Site::Own(destination.clone());
        // What came during a pause waits in a line of its own where nobody has asked for the domain yet.
        let site = self.sites.last_of(destination, sender).or_else(|| of_paused.contains_key(&own).then_some(own))?;
        Some(self.lines.state(&site, still, of_paused.get(&site).copied().unwrap_or(0)))
    }
}
