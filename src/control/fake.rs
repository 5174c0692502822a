//! A server that only remembers what it was asked: for the tests of protocol, console and command line.

use std::sync::{Arc, Mutex};

use super::view::tests::message;
use super::{Admin, Changed, Health, Paused, Selection, SiteState, Verb, Why};
use crate::config::Config;
use crate::mail::{Destination, Domain, Message, QueueId, ReversePath, Timestamp};
use crate::spool::{Filter, Stats};
use crate::system::{BoxFuture, Content};

pub(crate) struct FakeAdmin {
    pub(crate) content: Vec<u8>,
    pub(crate) health: Mutex<Option<Health>>,
    messages: Vec<Message>,
    paused: Mutex<Paused>,
    verbs: Mutex<Vec<&'static str>>,
    config: Arc<Config>,
}

/// A destination that is down.
pub(crate) fn site() -> SiteState {
    SiteState {
        name: "hosts:mx.example.org".to_owned(),
        waiting: 3,
        away: 1000,
        in_flight: 1,
        concurrency: Some(1),
        outgoing_concurrency: Some(5),
        outgoing_messages_rate: Some("100/1m".to_owned()),
        outgoing_connections_rate: None,
        sources: Vec::new(),
        why: Some(Why::Down),
        until: Some(Timestamp::from_millis(1_795_312_800_000)),
        reply: Some("Connection refused".to_owned()),
    }
}

impl FakeAdmin {
    /// Messages 1 to `count`; every tenth is held.
    pub(crate) fn with_messages(count: u64) -> Self {
        let messages = (1..=count).map(|id| Message { held: id % 10 == 0, ..message(id) });
        Self {
            content: (0..200_000u32).map(|n| (n % 251) as u8).collect(),
            health: Mutex::new(Some(Health::default())),
            messages: messages.collect(),
            paused: Mutex::default(),
            verbs: Mutex::default(),
            config: Arc::new(config()),
        }
    }

    /// The first so many have nothing open left.
    pub(crate) fn first_done(mut self, count: usize) -> Self {
        self.messages.iter_mut().take(count).for_each(|message| message.recipients.clear());
        self
    }

    pub(crate) fn with_tls(mut self, pair: crate::config::KeyPair) -> Self {
        let mut config = config();
        config.admin.tls = Some(pair);
        self.config = Arc::new(config);
        self
    }

    pub(crate) fn verbs(&self) -> Vec<&'static str> {
        self.verbs.lock().unwrap().clone()
    }

    fn called(&self, verb: &'static str) {
        self.verbs.lock().unwrap().push(verb);
    }

    fn matching(&self, filter: &Filter) -> Vec<Message> {
        let messages = self.messages.iter().filter(|message| filter.matches(message));
        messages.take(filter.limit.unwrap_or(usize::MAX)).cloned().collect()
    }
}

impl Admin for FakeAdmin {
    fn config(&self) -> Arc<Config> {
        self.config.clone()
    }

    fn list(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Message>, String>> {
        Box::pin(async move { Ok(self.matching(&filter)) })
    }

    fn message(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Message>, String>> {
        Box::pin(async move { Ok(self.messages.iter().find(|message| message.id == id).cloned()) })
    }

    fn content(&self, id: QueueId) -> BoxFuture<'_, Result<Option<Arc<dyn Content>>, String>> {
        let known = self.messages.iter().any(|message| message.id == id);
        Box::pin(async move { Ok(known.then(|| Arc::new(self.content.clone()) as Arc<dyn Content>)) })
    }

    fn stats(&self) -> BoxFuture<'_, Result<Stats, String>> {
        let mut stats = Stats::default();
        self.messages.iter().for_each(|message| stats.add(message));
        Box::pin(async move { Ok(stats) })
    }

    fn sites(&self) -> BoxFuture<'_, Result<Vec<SiteState>, String>> {
        Box::pin(async { Ok(vec![site()]) })
    }

    fn site(&self, destination: Destination, _: ReversePath) -> BoxFuture<'_, Result<Option<SiteState>, String>> {
        Box::pin(async move { Ok((destination.to_string() == "mx:example.org").then(site)) })
    }

    fn change(&self, verb: Verb, selection: Selection) -> BoxFuture<'_, Result<Changed, String>> {
        self.called(match verb {
            Verb::Retry => "retry",
            Verb::Hold => "hold",
            Verb::Release => "release",
            Verb::Bounce => "bounce",
            Verb::Remove => "remove",
        });
        let changed = match selection {
            Selection::All => Changed { touched: self.messages.len() as u64, unknown: Vec::new() },
            Selection::Filter(filter) => Changed { touched: self.matching(&filter).len() as u64, unknown: Vec::new() },
            Selection::Ids(ids) => {
                let (known, unknown): (Vec<_>, Vec<_>) =
                    ids.into_iter().partition(|id| self.messages.iter().any(|message| message.id == *id));
                Changed { touched: known.len() as u64, unknown }
            }
        };
        Box::pin(async move { Ok(changed) })
    }

    fn paused(&self) -> BoxFuture<'_, Result<Paused, String>> {
        Box::pin(async move { Ok(self.paused.lock().unwrap().clone()) })
    }

    fn pause(&self, domain: Option<Domain>) -> BoxFuture<'_, Result<(), String>> {
        self.called("pause");
        *self.paused.lock().unwrap() = Paused { all: domain.is_none(), domains: domain.into_iter().collect(), stopped: None };
        Box::pin(async move { Ok(()) })
    }

    fn resume(&self, _: Option<Domain>) -> BoxFuture<'_, Result<(), String>> {
        self.called("resume");
        *self.paused.lock().unwrap() = Paused::default();
        Box::pin(async move { Ok(()) })
    }

    fn reload(&self) -> BoxFuture<'_, Result<(), Vec<String>>> {
        self.called("reload");
        Box::pin(async move { Err(vec!["line 3 is wrong".to_owned()]) })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        let health = self.health.lock().unwrap().clone();
        Box::pin(async move {
            match health {
                Some(health) => health,
                None => std::future::pending().await,
            }
        })
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async move { "# EOF\n".to_owned() })
    }
}

/// A configuration for tests.
pub(crate) fn config() -> Config {
    use std::time::Duration;

    use crate::config::*;
    use crate::mail::Address;
    let domain = |text: &str| Domain::parse(text).unwrap();
    let minute = Duration::from_secs(60);
    Config {
        hostname: domain("mail.example.test"),
        postmaster: Address::parse("postmaster@example.test").unwrap(),
        shutdown_grace: minute,
        user: String::new(),
        spool: Spool {
            path: "spool".into(),
            min_free: 1,
            segment_size: 1 << 26,
            zeros_ahead: true,
            spares: 4,
            compaction_rate: 1 << 25,
            index_cache: 1 << 20,
            compression: Compression::None,
        },
        listeners: vec![Listener {
            address: "127.0.0.1:2525".parse::<std::net::SocketAddr>().unwrap().into(),
            mode: 0o660,
            service: crate::mail::Service::Mx,
            tls: crate::config::ListenerTls::None,
            proxy: Vec::new(),
            xclient: Vec::new(),
        }],
        tls: Tls { pair: None, more: Vec::new(), reload_interval: Duration::from_secs(60), client_ca: None },
        auth: Auth {
            users: "conf/users".into(),
            require_tls: true,
            failures: 3,
            failures_per_client: 20,
            failures_per_account: 50,
            failure_period: 15 * minute,
            failure_delay: Duration::ZERO,
            concurrency: 2,
        },
        senders: Vec::new(),
        limits: Limits::sample(),
        domains: vec![LocalDomain {
            name: domain("example.test"),
            store: MailStore::Maildir("mail/{domain}/{user}".to_owned()),
            subaddress: "+".to_owned(),
            quota: Quota::default(),
            catch_all: None,
            aliases: None,
        }],
        relay: Relay { networks: Vec::new(), domains: Vec::new() },
        routes: Vec::new(),
        destinations: Vec::new(),
        shares: Vec::new(),
        remote: Remote::sample(),
        queue: Queue { paused: false, attempts: 10, active: 10 },
        notice: Notice::sample(),
        retry: super::view::tests::retry(),
        dns: Dns { servers: Vec::new(), timeout: minute },
        sendmail: Sendmail { drop: None, waiting: 10, domain: None },
        admin: crate::config::Admin { socket: "spool/control.sock".into(), http: None, tls: None },
        log: Log { format: LogFormat::Text, level: "info".to_owned() },
    }
}
