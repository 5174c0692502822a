//! Attempts in the simulated world, against scripted servers and Maildirs in fresh folders.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

mod connections;
mod fitting;
mod lanes;
mod maildir;
mod remote;
mod tls;

use super::*;
use crate::config::{self, Outgoing, RemoteTls};
use crate::mail::{Cause, Diagnosis, Domain, EnhancedCode, Site, Timestamp};
use crate::system::sim::{Act, Fault, Peer, Script, Stage, World, run};
use crate::system::{Clock, Disk, DiskFile, Endpoint, Listener, Net, OpenMode, SystemClock, SystemDisk, SystemNet, Workers};

/// Hosts by destination, Maildirs by local part below a folder.
struct Fixed {
    hosts: Mutex<BTreeMap<Destination, Vec<Host>>>,
    tls: Mutex<BTreeMap<Destination, RemoteTls>>,
    folder: PathBuf,
}

impl Routes for Fixed {
    fn hosts<'a>(&'a self, destination: &'a Destination, _: &'a ReversePath) -> BoxFuture<'a, Result<Vec<Host>, Outcome>> {
        let hosts = self.hosts.lock().unwrap().get(destination).cloned();
        let missing = || Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 2), Cause::Dns, "no such domain"));
        Box::pin(async move { hosts.ok_or_else(missing) })
    }

    fn way(&self, destination: &Destination, _: &ReversePath) -> Way {
        let known = match destination {
            Destination::Lmtp(_) => RemoteTls::None,
            _ => RemoteTls::Opportunistic,
        };
        let tls = self.tls.lock().unwrap().get(destination).copied();
        let store = matches!(destination, Destination::Lmtp(address) if address.starts_with("127."));
        let mut way = Way::sample(tls.unwrap_or(known));
        way.store = store;
        way
    }

    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        if address.local() == "nobody" {
            return Err(Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 1), Cause::Local, "no such user")));
        }
        Ok(self.folder.join(address.local()))
    }

    fn quota(&self, _address: &Address) -> Option<u64> {
        None
    }
}

struct Scene {
    world: World,
    deliverer: Arc<Deliverer>,
    routes: Arc<Fixed>,
    folder: tempfile::TempDir,
    events: Events,
    memory: Memory,
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn settings() -> Config {
    Config {
        hostname: Domain::parse("us.test").unwrap(),
        postmaster: address("postmaster@us.test"),
        shutdown_grace: Duration::from_secs(30),
        user: String::new(),
        spool: config::Spool {
            path: "spool".into(),
            min_free: 0,
            segment_size: 1 << 20,
            zeros_ahead: true,
            spares: 4,
            compaction_rate: 1 << 25,
            index_cache: 1 << 20,
            compression: config::Compression::None,
        },
        listeners: Vec::new(),
        tls: config::Tls { pair: None, more: Vec::new(), reload_interval: Duration::from_secs(60), client_ca: None },
        auth: config::Auth {
            users: "users".into(),
            require_tls: true,
            failures: 3,
            failures_per_client: 20,
            failures_per_account: 50,
            failure_period: Duration::from_secs(900),
            failure_delay: Duration::ZERO,
            concurrency: 1,
        },
        senders: Vec::new(),
        limits: config::Limits::sample(),
        domains: Vec::new(),
        relay: config::Relay { networks: Vec::new(), domains: Vec::new() },
        routes: Vec::new(),
        destinations: Vec::new(),
        shares: Vec::new(),
        remote: config::Remote::sample(),
        queue: config::Queue { paused: false, attempts: 10, active: 100 },
        notice: config::Notice::sample(),
        retry: config::Retry {
            first: Duration::from_secs(300),
            factor: 2.0,
            max: Duration::from_secs(3600),
            jitter: 0.0,
            lifetime: Duration::from_secs(86400),
            bounce_lifetime: Duration::from_secs(86400),
            delay_notice: Vec::new(),
            hint_min: Duration::ZERO,
            hint_max: Duration::ZERO,
        },
        dns: config::Dns { servers: Vec::new(), timeout: Duration::from_secs(5) },
        sendmail: config::Sendmail { drop: None, waiting: 10, domain: None },
        admin: config::Admin { socket: "socket".into(), http: None, tls: None },
        log: config::Log { format: config::LogFormat::Text, level: "info".to_owned() },
    }
}

fn scene() -> Scene {
    scene_on(|world| world.system(Arc::new(SystemDisk)))
}

fn scene_on(system: impl FnOnce(&World) -> System) -> Scene {
    scene_of(settings(), system)
}

fn scene_of(config: Config, system: impl FnOnce(&World) -> System) -> Scene {
    let world = World::new(7);
    let folder = tempfile::tempdir().unwrap();
    let folder_of_mail = folder.path().join("mail/us.test");
    let routes = Arc::new(Fixed { hosts: Mutex::default(), tls: Mutex::default(), folder: folder_of_mail });
    let (system, events, memory) = (system(&world), Events::recording(), Memory::default());
    let deliverer = Arc::new(Deliverer::new(
        Arc::new(config),
        routes.clone(),
        system,
        events.clone(),
        Arc::new(OwnMark::new(b"key")),
        memory.clone(),
    ));
    Scene { world, deliverer, routes, folder, events, memory }
}

fn mx() -> Destination {
    Destination::Mx(Domain::parse("peer.test").unwrap())
}

impl Scene {
    /// Starts a server, and makes it one more host of the destination.
    async fn peer(&self, destination: &Destination, script: Script) -> Peer {
        let peer = Peer::start(self.listener("192.0.2.1:0").await, script);
        self.host(destination, Endpoint::Tcp(peer.address()));
        peer
    }

    async fn listener(&self, address: &str) -> Box<dyn Listener> {
        self.world.net.listen(address.parse().unwrap()).await.unwrap()
    }

    fn host(&self, destination: &Destination, endpoint: Endpoint) {
        let mut hosts = self.routes.hosts.lock().unwrap();
        let hosts = hosts.entry(destination.clone()).or_default();
        let number = hosts.len() + 1;
        hosts.push(Host { name: format!("mx{number}.peer.test"), preference: number as u16, endpoint });
    }

    async fn send(&self, destination: Destination, recipients: &[&str], content: &[u8]) -> Vec<String> {
        self.send_as(1, destination, recipients, Arc::new(content.to_vec())).await
    }

    async fn send_as(&self, id: u64, to: Destination, recipients: &[&str], content: Arc<dyn Content>) -> Vec<String> {
        self.attempt(Attempt { content, ..attempt(id, to, recipients) }).await
    }

    async fn attempt(&self, attempt: Attempt) -> Vec<String> {
        let indices: Vec<_> = attempt.recipients.iter().map(|(index, _)| *index).collect();
        let outcomes = self.deliverer.attempt(attempt).await.outcomes;
        assert!(outcomes.iter().map(|(index, _)| *index).eq(indices));
        outcomes.iter().map(|(_, outcome)| summary(outcome)).collect()
    }

    fn files(&self, user: &str, folder: &str) -> Vec<String> {
        let path = self.routes.folder.join(user).join(folder);
        let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn read(&self, user: &str) -> Vec<u8> {
        let files = self.files(user, "new");
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read(self.routes.folder.join(user).join("new").join(&files[0])).unwrap()
    }
}

/// An attempt at ordinary mail without content, accepted when the world began.
fn attempt(id: u64, destination: Destination, recipients: &[&str]) -> Attempt {
    Attempt {
        id: QueueId((1_795_312_800_123 << 20) + id),
        reverse_path: ReversePath::Address(address("ann@us.test")),
        body: BodyType::SevenBit,
        is_notice: false,
        request: None,
        site: Site::Own(destination.clone()),
        outgoing: Outgoing::default(),
        sources: Vec::new(),
        destination,
        recipients: (0..).zip(recipients.iter().map(|text| address(text).into())).collect(),
        arrived: World::new(7).clock.now(),
        again: false,
        content: Arc::new(Vec::new()),
    }
}

fn summary(outcome: &Outcome) -> String {
    let word = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(_) => "deferred",
        Outcome::Failed(_) => "failed",
        Outcome::InDoubt(_) => "in doubt",
    };
    let found = outcome.diagnosis();
    let host = found.next_hop.split(' ').next().unwrap_or("");
    format!("{word} {} {}", found.status, host.strip_suffix(".peer.test").unwrap_or("")).trim_end().to_owned()
}

fn local() -> Destination {
    Destination::Local(Domain::parse("us.test").unwrap())
}

/// Content that can't be read beyond its middle.
struct Broken;

impl Content for Broken {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, std::io::Result<Vec<u8>>> {
        Box::pin(
            async move { if offset < 1 << 19 { Ok(vec![b'x'; size_max]) } else { Err(std::io::ErrorKind::InvalidData.into()) } },
        )
    }
}
