//! A running server in this process as an [`Admin`]: what the control socket and the web pages ask.
//!
//! State: the last survey of the queue, so that a scrape of the metrics doesn't count a long queue each time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Admin, Changed, Health, Paused, Selection, SiteState, Verb};
use crate::config::Config;
use crate::daemon::Handle;
use crate::event::Levels;
use crate::mail::{Destination, Domain, Message, MessageState, QueueId, ReversePath};
use crate::spool::{Filter, SpoolError, Stats};
use crate::system::{BoxFuture, Content};

/// Messages that a verb is carried out on at a time.
const PAGE: usize = 1000;
/// Destinations that are told of.
const SITES_MAX: usize = 1000;
/// A survey of the queue serves the metrics at least so long.
const SURVEY_AGE: Duration = Duration::from_secs(15);
/// And so many times as long as it took: counting takes at most a twentieth of one core's time.
const SURVEY_SHARE: u32 = 20;

/// The admin's view of a server in this process.
pub struct Running {
    handle: Handle,
    survey: Mutex<Option<Survey>>,
}

struct Survey {
    stats: Stats,
    /// Monotonic time until which it is good enough for metrics.
    good_until: Duration,
}

impl Running {
    /// Asks this server.
    pub fn new(handle: Handle) -> Self {
        Self { handle, survey: Mutex::default() }
    }

    /// Carries a verb out on everything that matches, page by page; what arrives meanwhile may or may not be met.
    async fn change_matching(&self, verb: Verb, mut filter: Filter) -> Result<Changed, String> {
        let mut touched = 0;
        let mut left = filter.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let page = left.min(PAGE);
            filter.limit = Some(page);
            let messages = self.handle.spool().list(&filter).await.map_err(|error| error.to_string())?;
            let ids: Vec<QueueId> = messages.iter().map(|message| message.id).collect();
            let Some(last) = ids.last().copied() else { break };
            left -= ids.len().min(left);
            let more = ids.len() >= page;
            touched += self.handle.change(verb, ids).await?.touched;
            if !more {
                break;
            }
            filter.after = Some(last);
        }
        // Ids that are unknown by now were delivered between the listing and the verb: nobody asked for them by name.
        Ok(Changed { touched, unknown: Vec::new() })
    }

    /// Measures what the gauges show.
    async fn measure(&self) -> Levels {
        let survey = self.survey().await;
        let group = |state| survey.states.get(&state).copied().unwrap_or_default();
        let gauges = self.handle.spool().gauges();
        let health = self.handle.health().await;
        Levels {
            active: group(MessageState::Active).messages,
            deferred: group(MessageState::Deferred).messages,
            held: group(MessageState::Held).messages,
            queue_bytes: survey.states.values().map(|count| count.bytes).sum(),
            connections: self.handle.connections() as u64,
            in_flight: self.handle.in_flight(),
            attempts: self.handle.levels().await.map_or(0, |levels| levels.attempts as u64),
            spool_available: gauges.free,
            spool_segments: gauges.segments,
            accepting: health.reception.is_none() && health.spool.is_none(),
            commits: gauges.batches,
        }
    }

    async fn survey(&self) -> Stats {
        let clock = &self.handle.system().clock;
        let mut survey = self.survey.lock().await;
        let began = clock.monotonic();
        match &*survey {
            Some(survey) if began < survey.good_until => survey.stats.clone(),
            _ => {
                // If the queue can't be counted the gauges show nothing; /readyz tells why.
                let stats = self.handle.spool().stats().await.unwrap_or_default();
                let now = clock.monotonic();
                let good_until = now + SURVEY_AGE.max((now - began) * SURVEY_SHARE);
                *survey = Some(Survey { stats: stats.clone(), good_until });
                stats
            }
        }
    }
}

fn text(error: SpoolError) -> String {
    error.to_string()
}

impl Admin for Running {
    fn config(&self) -> Arc<Config> {
        self.handle.config()
    }

    fn list(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Message>, String>> {
        Box::pin(async move { self.handle.spool().list(&filter).await.map_err(text) })
    }

    fn message(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Message>, String>> {
        Box::pin(async move { self.handle.spool().message(id).await.map_err(text) })
    }

    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Arc<dyn Content>>, String>> {
        Box::pin(async move {
            match self.handle.spool().content(id).await {
                Ok(content) => Ok(Some(content)),
                Err(SpoolError::Unknown(_)) => Ok(None),
                Err(error) => Err(text(error)),
            }
        })
    }

    fn stats(&self) -> BoxFuture<'_, Result<Stats, String>> {
        Box::pin(async move { self.handle.spool().stats().await.map_err(text) })
    }

    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteState>, String>> {
        Box::pin(self.handle.sites(SITES_MAX))
    }

    fn site(&self, destination: Destination, sender: ReversePath) -> BoxFuture<'_, Result<Option<SiteState>, String>> {
        Box::pin(self.handle.site(destination, sender))
    }

    fn change(&self, verb: Verb, selection: Selection) -> BoxFuture<'_, Result<Changed, String>> {
        Box::pin(async move {
            match selection {
                Selection::Ids(ids) => self.handle.change(verb, ids).await,
                Selection::Filter(filter) => self.change_matching(verb, filter).await,
                Selection::All => self.change_matching(verb, Filter::default()).await,
            }
        })
    }

    fn paused(&self) -> BoxFuture<'_, Result<Paused, String>> {
        Box::pin(self.handle.paused())
    }

    fn pause(&self, domain: Option<Domain>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.handle.pause(domain))
    }

    fn resume(&self, domain: Option<Domain>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.handle.resume(domain))
    }

    fn reload(&self) -> BoxFuture<'_, Result<(), Vec<String>>> {
        Box::pin(self.handle.reload())
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(self.handle.health())
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async move {
            let metrics = self.handle.events().metrics();
            metrics.set(self.measure().await);
            metrics.set_certificates(self.handle.certificate_days());
            metrics.encode()
        })
    }
}
