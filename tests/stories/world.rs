//! The stage of a story: the real server over a simulated disk, network, DNS and time. State: those, and the server's handle.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use posthouse::config::{self, Config};
use posthouse::daemon::{Handle, Posthouse, StartError};
use posthouse::event::{Event, Events};
use posthouse::mail::{Message, QueueId, Timestamp};
use posthouse::queue::Verb;
use posthouse::spool::Filter;
use posthouse::system::sim::{Peer, Script, SimDisk, World};
use posthouse::system::{Disk, Endpoint, Net};

use super::client::{Client, Gone};

#[path = "../support/failing_index.rs"]
pub(crate) mod failing_index;

use failing_index::Failing;

/// Somebody whom the server doesn't know.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(70, 0, 0, 1));
/// Somebody in `relay.networks`.
pub(crate) const TRUSTED: IpAddr = IpAddr::V4(Ipv4Addr::new(60, 0, 0, 1));
/// Where the server listens.
pub(crate) const OURSELVES: &str = "50.9.9.9";
/// A hash of the users file; nobody logs in here.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$6lqJ4xGPWpEw2X2rDWbFUL1dHLGJTSoyiDKSkUjqmYQ";
/// The hash of "secret", at the least cost there is.
const SECRET: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$vk+JgWgZGbXHtEqPQPhzXbD+QxxkJR5Fq2AXLhDyYaY";
/// Its keys for SCRAM, likewise.
const SECRET_KEYS: &str = "$scram-sha-256$i=4096$c2FsdHNhbHRzYWx0c2FsdA$Ce3wZiZ+yIBCjltccfRiqM0+XDsLE3qPdkEeZKe3huuTerieUuwDT1JPkUuj3M2Z/JdH4KLUngqYErklFVLF4g";
/// When simulated time begins.
const START: Timestamp = Timestamp::from_millis(1_795_312_800_000);
/// No story lasts longer: what isn't over then never will be.
const STORY_MAX: Duration = Duration::from_secs(60 * 86_400);

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Runs a story in a world of its own.
pub(crate) fn story<T>(story: impl Future<Output = T>) -> T {
    posthouse::system::sim::run(story)
}

/// A server that hasn't started yet.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) world: World,
    pub(crate) disk: Arc<SimDisk>,
    config: Config,
    users: Vec<String>,
    /// Lines of the users file whose passwords are known.
    accounts: String,
    aliases: String,
}

/// A running server and the world around it.
pub(crate) struct Server {
    pub(crate) world: World,
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) handle: Handle,
    pub(crate) events: Events,
    /// What a reload reads.
    config: Arc<Mutex<Config>>,
    hosts: Cell<u8>,
    pub(crate) index: Failing,
}

/// What a crash leaves, for another runtime: the disk with whatever was not yet durable.
pub(crate) struct Wreck {
    world: World,
    pub(crate) disk: Arc<SimDisk>,
    config: Config,
    pub(crate) events: Events,
    now: Timestamp,
}

impl Wreck {
    /// The world that the server will start in, for the runtime that it is asked for in.
    pub(crate) fn world(&self) -> World {
        self.world.restart(self.now)
    }

    /// Starts the server on what survived; `seed` decides what that is. The hosts of the world are to be set up anew.
    pub(crate) async fn recover(self, seed: u64) -> Server {
        let disk = Arc::new(self.disk.crashed(seed));
        Server::start(self.world(), disk, Arc::new(Mutex::new(self.config)), self.events, 0).await
    }
}

/// The configuration that stories start from.
pub(crate) fn story_config() -> Config {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories/posthouse.toml");
        config::load(Some(&path), &Default::default()).unwrap_or_else(|problems| panic!("{problems:?}")).config
    });
    CONFIG.clone()
}

impl Setup {
    /// ann, bob and sue have mailboxes at example.test.
    pub(crate) fn new() -> Self {
        Self::seeded(1)
    }

    /// The same with other random numbers.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            world: World::new(seed),
            disk: Arc::new(SimDisk::new()),
            config: story_config(),
            users: ["ann", "bob", "sue"].map(|user| format!("{user}@example.test")).to_vec(),
            accounts: String::new(),
            aliases: String::new(),
        }
    }

    /// Changes the configuration.
    pub(crate) fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// The aliases file of example.test.
    pub(crate) fn aliases(mut self, text: &str) -> Self {
        self.aliases = text.to_owned();
        self
    }

    /// One more mailbox.
    pub(crate) fn user(mut self, address: &str) -> Self {
        self.users.push(address.to_owned());
        self
    }

    /// Only the mailboxes that follow.
    pub(crate) fn without_users(mut self) -> Self {
        self.users.clear();
        self
    }

    /// One more mailbox, with the password "secret".
    pub(crate) fn account(mut self, address: &str) -> Self {
        self.accounts.push_str(&format!("{address}:{SECRET} {SECRET_KEYS}\n"));
        self
    }

    /// Writes the files and starts the server.
    pub(crate) async fn start(self) -> Server {
        let addresses: Vec<&str> = self.users.iter().map(String::as_str).collect();
        write(&self.disk, "/conf/users", &(users(&addresses) + &self.accounts));
        write(&self.disk, "/conf/aliases", &self.aliases);
        Server::start(self.world, self.disk, Arc::new(Mutex::new(self.config)), Events::recording(), 0).await
    }
}

/// The text of a users file.
pub(crate) fn users(addresses: &[&str]) -> String {
    addresses.iter().map(|address| format!("{address}:{HASH}\n")).collect()
}

/// Writes a file as an admin would, durably.
pub(crate) fn write(disk: &Arc<SimDisk>, path: &str, text: &str) {
    let disk: &dyn Disk = &**disk;
    disk.create_dir_all(Path::new("/conf")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.replace(Path::new(path), text.as_bytes()).unwrap();
}

impl Server {
    pub(crate) async fn start(world: World, disk: Arc<SimDisk>, config: Arc<Mutex<Config>>, events: Events, hosts: u8) -> Self {
        let index = Failing::default();
        Self::start_with(world, disk, config, events, hosts, index).await.expect("the story's server starts")
    }

    async fn start_with(
        world: World,
        disk: Arc<SimDisk>,
        config: Arc<Mutex<Config>>,
        events: Events,
        hosts: u8,
        index: Failing,
    ) -> Result<Self, StartError> {
        let system = world.system(disk.clone());
        let source = {
            let config = config.clone();
            Arc::new(move || Ok(config.lock().unwrap().clone()))
        };
        let now = config.lock().unwrap().clone();
        let bound = Posthouse::bind(now, system, events.clone(), source).await?;
        let handle = bound.start(Box::new(index.clone())).await?;
        Ok(Self { world, disk, handle, events, config, hosts: Cell::new(hosts), index })
    }

    /// Stops the server and starts it again on the same disk, with an index that knows nothing.
    pub(crate) async fn restart(self) -> Self {
        self.stop().await;
        Self::start(self.world, self.disk, self.config, self.events, self.hosts.get()).await
    }

    /// Starts a stopped server again, which may fail: then what was before, and why.
    pub(crate) async fn start_again(self) -> Result<Self, (Self, StartError)> {
        let (world, disk, config, events) = (self.world.clone(), self.disk.clone(), self.config.clone(), self.events.clone());
        Self::start_with(world, disk, config, events, self.hosts.get(), Failing::default()).await.map_err(|error| (self, error))
    }

    /// Stops the server and starts it again on the same disk, with the index as it was.
    pub(crate) async fn restart_with_its_index(self) -> Self {
        self.stop().await;
        let started = Self::start_with(self.world, self.disk, self.config, self.events, self.hosts.get(), self.index).await;
        started.expect("the story's server starts")
    }

    /// Stops the server and waits until it has.
    pub(crate) async fn stop(&self) {
        self.handle.stop("the story wants it");
        self.handle.stopped().await;
    }

    /// The power fails: to be the last thing in a story, and its result.
    pub(crate) fn wreck(&self) -> Wreck {
        Wreck {
            world: self.world.clone(),
            disk: self.disk.clone(),
            config: self.config.lock().unwrap().clone(),
            events: self.events.clone(),
            now: self.now(),
        }
    }

    /// Changes the configuration file.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config.lock().unwrap());
    }

    /// Changes the configuration file and reloads.
    pub(crate) async fn reload(&self, change: impl FnOnce(&mut Config)) -> Result<(), Vec<String>> {
        self.configure(change);
        self.handle.reload().await
    }

    // The world around.

    /// A mail server with this name at this address, in the DNS too.
    pub(crate) async fn host(&self, name: &str, address: &str, script: Script) -> Peer {
        self.world.dns.addresses(name, &[address]);
        self.listen(address, script).await
    }

    /// A mail server at this address.
    pub(crate) async fn listen(&self, address: &str, script: Script) -> Peer {
        let listener = self.world.net.listen(SocketAddr::new(address.parse().unwrap(), 25)).await.unwrap();
        Peer::start(listener, script)
    }

    /// A domain with one mail server, `mx.` and the domain.
    pub(crate) async fn domain(&self, domain: &str, script: Script) -> Peer {
        self.hosts.set(self.hosts.get() + 1);
        let host = format!("mx.{domain}");
        self.world.dns.mx(domain, &[(10, &host)]);
        self.host(&host, &format!("50.1.0.{}", self.hosts.get()), script).await
    }

    /// The address of the mail server that `domain` made n-th.
    pub(crate) fn endpoint(address: &str) -> Endpoint {
        Endpoint::Tcp(SocketAddr::new(address.parse().unwrap(), 25))
    }

    // Clients.

    /// Where the server listens.
    pub(crate) async fn address(&self) -> SocketAddr {
        self.handle.addresses().await[0]
    }

    /// A connection to the server, greeted and hello said.
    pub(crate) async fn client(&self, from: IpAddr) -> Client {
        let mut client = Client::connect(&self.world.net, from, self.address().await).await.unwrap();
        let hello = client.hello().await.unwrap();
        assert!(hello.starts_with("250"), "{hello}");
        client
    }

    /// A stranger's transaction: the replies from MAIL on.
    pub(crate) async fn try_send(&self, from: &str, to: &[&str], content: &str) -> Vec<String> {
        self.client(STRANGER).await.transaction(from, to, content.as_bytes()).await.unwrap()
    }

    /// A stranger's message, which must be accepted.
    pub(crate) async fn send(&self, from: &str, to: &[&str], content: &str) -> QueueId {
        queue_id(&self.try_send(from, to, content).await)
    }

    /// A message of one of our own clients, which must be accepted.
    pub(crate) async fn relay(&self, from: &str, to: &[&str], content: &str) -> QueueId {
        queue_id(&self.client(TRUSTED).await.transaction(from, to, content.as_bytes()).await.unwrap())
    }

    // Time.

    /// When the story began.
    pub(crate) fn started(&self) -> Timestamp {
        START
    }

    pub(crate) fn now(&self) -> Timestamp {
        use posthouse::system::Clock;
        self.world.clock.now()
    }

    /// Lets time pass, and everything happen that happens meanwhile.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets time pass until it is so; a minute's accuracy in the long run.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = self.now();
        let mut step = Duration::from_millis(1);
        while !is_so() {
            assert!(self.now().since(begun) < STORY_MAX, "{what} never came: {:#?}", self.last_events());
            tokio::time::sleep(step).await;
            step = (step * 5 / 4 + Duration::from_millis(1)).min(MINUTE);
        }
    }

    /// Waits until nothing is in the queue.
    pub(crate) async fn empty(&self) {
        self.until("an empty queue", || self.handle.spool().gauges().messages == 0).await;
    }

    /// Waits until an event was reported for which `matches` gives something.
    pub(crate) async fn event<T>(&self, what: &str, matches: impl Fn(&Event) -> Option<T>) -> T {
        let mut found = None;
        self.until(what, || {
            found = self.events.recorded().iter().find_map(&matches);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn last_events(&self) -> Vec<Event> {
        let mut events = self.events.recorded();
        events.drain(..events.len().saturating_sub(20));
        events
    }

    // What came of it.

    /// The messages in the queue.
    pub(crate) async fn queue(&self) -> Vec<Message> {
        self.handle.spool().list(&Filter::default()).await.unwrap()
    }

    /// How often something was reported.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.events.recorded().iter().filter(|event| event.name() == name).count()
    }

    /// Carries out a verb on a message, which must change it.
    pub(crate) async fn verb(&self, verb: Verb, id: QueueId) {
        let changed = self.handle.change(verb, vec![id]).await.unwrap();
        assert_eq!(changed.touched, 1, "{verb:?}");
    }

    /// The mails in a mailbox at example.test, in the order of their names.
    pub(crate) fn mailbox(&self, user: &str) -> Vec<Vec<u8>> {
        maildir(&self.disk, &format!("/mail/example.test/{user}"))
    }

    /// The same as text.
    pub(crate) fn mails(&self, user: &str) -> Vec<String> {
        self.mailbox(user).iter().map(|mail| String::from_utf8_lossy(mail).into_owned()).collect()
    }
}

/// The mails in a Maildir, in the order of their names; those that were read come last.
pub(crate) fn maildir(disk: &Arc<SimDisk>, path: &str) -> Vec<Vec<u8>> {
    let disk: &dyn Disk = &**disk;
    let folders = ["new", "cur"].map(|folder| PathBuf::from(path).join(folder));
    let files = folders.iter().flat_map(|folder| disk.list(folder).unwrap_or_default().into_iter().map(|name| folder.join(name)));
    files.map(|file| disk.read(&file, u64::MAX).unwrap()).collect()
}

/// The id in the reply to the final dot.
pub(crate) fn queue_id(replies: &[String]) -> QueueId {
    let last = replies.last().unwrap();
    let (_, id) = last.split_once("queued as ").unwrap_or_else(|| panic!("not accepted: {replies:?}"));
    id.parse().unwrap()
}

/// A client's connection, made but not greeted.
pub(crate) async fn call(server: &Server, from: IpAddr) -> Result<Client, Gone> {
    Client::connect(&server.world.net, from, server.address().await).await
}

/// A mail's content without the fields that the server put on top.
pub(crate) fn below_our_fields(mail: &[u8]) -> &[u8] {
    let mut rest = mail;
    for name in ["Return-Path:", "Delivered-To:", "Received:"] {
        if rest.starts_with(name.as_bytes()) {
            rest = skip_line(rest);
            while matches!(rest.first(), Some(b' ' | b'\t')) {
                rest = skip_line(rest);
            }
        }
    }
    rest
}

fn skip_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1);
    &text[end..]
}
