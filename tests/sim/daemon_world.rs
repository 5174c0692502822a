//! The world of the daemon's simulation: a network that falls silent with the power, and the whole server between clients and peers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use posthouse::config::Config;
use posthouse::daemon::{Handle, Posthouse};
use posthouse::event::Events;
use posthouse::spool::index::{MemoryIndex, MemoryIndexFactory};
use posthouse::system::sim::{Peer, Script, SimDisk, SimNet, World};
use posthouse::system::{BoxFuture, BoxStream, Disk, Endpoint, Listener, Net, System};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::world::{HOUR, MINUTE, OURSELVES, story_config, users, write};

/// The mailboxes at example.test.
pub(crate) const USERS: [&str; 7] = ["ann", "bob", "sue", "s0", "s1", "s2", "s3"];
const ALIASES: &str = "team: ann, bob\nmix: sue, eve@far.test, team\n";

/// The network as long as there is power: what the server does behind the crash reaches nobody.
struct PoweredNet {
    net: SimNet,
    disk: SimDisk,
}

impl Net for PoweredNet {
    fn connect<'a>(&'a self, to: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move { Ok(powered(self.net.connect(to, from).await?, &self.disk)) })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = PoweredListener { listener: self.net.listen(address).await?, disk: self.disk.clone() };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn listen_unix<'a>(&'a self, path: &'a Path, mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = Net::listen_unix(&self.net, path, mode).await?;
            Ok(Box::new(PoweredListener { listener, disk: self.disk.clone() }) as Box<dyn Listener>)
        })
    }
}

struct PoweredListener {
    listener: Box<dyn Listener>,
    disk: SimDisk,
}

impl Listener for PoweredListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            Ok((powered(stream, &self.disk), peer))
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.listener.local_address()
    }
}

fn powered(stream: BoxStream, disk: &SimDisk) -> BoxStream {
    Box::new(PoweredStream { stream, disk: disk.clone() })
}

struct PoweredStream {
    stream: BoxStream,
    disk: SimDisk,
}

impl AsyncRead for PoweredStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.disk.is_off() { Poll::Pending } else { Pin::new(&mut self.stream).poll_read(context, buffer) }
    }
}

impl AsyncWrite for PoweredStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.disk.is_off() { Poll::Pending } else { Pin::new(&mut self.stream).poll_write(context, bytes) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.disk.is_off() { Poll::Pending } else { Pin::new(&mut self.stream).poll_flush(context) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.disk.is_off() { Poll::Pending } else { Pin::new(&mut self.stream).poll_shutdown(context) }
    }
}

/// The configuration: short lives, small segments.
pub(crate) fn config(paused: bool) -> Config {
    let mut config = story_config();
    config.spool.min_free = 1;
    // Nobody reaches it; but it is kept.
    config.domains[0].quota.octets = Some(1 << 30);
    config.spool.segment_size = 16 * 1024;
    config.queue.paused = paused;
    config.queue.active = 5;
    config.remote.reply_timeout = MINUTE;
    config.retry.max = MINUTE * 20;
    config.retry.lifetime = HOUR * 2;
    config.retry.bounce_lifetime = HOUR * 2;
    config.retry.delay_notice = vec![HOUR];
    config
}

/// A disk as it is before the server's first start.
pub(crate) fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    let addresses = USERS.map(|user| format!("{user}@example.test"));
    let shared = Arc::new(disk.clone());
    write(&shared, "/conf/users", &users(&addresses.each_ref().map(String::as_str)));
    write(&shared, "/conf/aliases", ALIASES);
    disk
}

/// The server on this disk; an error only where the power goes while it starts.
pub(crate) async fn start(world: &World, disk: &SimDisk, index: &MemoryIndex, paused: bool) -> Result<Handle, String> {
    let disk_seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let net = Arc::new(PoweredNet { net: world.net.clone(), disk: disk.clone() });
    let system = System { net, ..world.system(disk_seam) };
    let config = config(paused);
    let source = Arc::new(move || Ok(self::config(false)));
    let bound = Posthouse::bind(config, system, Events::recording(), source).await.map_err(|error| error.to_string())?;
    bound.start(Box::new(MemoryIndexFactory(index.clone()))).await.map_err(|error| error.to_string())
}

/// Where the server listens.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::new(OURSELVES.parse().unwrap(), 25)
}

/// What the peers do.
pub(crate) struct Scripts {
    /// far.test takes mail, but knows nobody called gone.
    pub(crate) far: Script,
    /// Its other host, as good as the first.
    pub(crate) far_too: Script,
    /// The first host's other address; it refuses us.
    pub(crate) far_ipv6: Script,
    /// May be cut off behind the dot.
    pub(crate) cut: Script,
    /// Is never ready.
    pub(crate) busy: Script,
}

/// The peers.
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    /// Three domains with their servers in the DNS, and one that takes no mail.
    pub(crate) async fn start(world: &World, scripts: Scripts) -> Self {
        world.dns.mx("dead.test", &[(0, ".")]);
        world.dns.mx("far.test", &[(10, "mx1.far.test"), (10, "mx2.far.test")]);
        world.dns.addresses("mx1.far.test", &["2a00:1::1", "50.1.0.1"]);
        world.dns.addresses("mx2.far.test", &["50.1.0.4"]);
        world.dns.addresses("cut.test", &["50.1.0.2"]);
        world.dns.addresses("busy.test", &["50.1.0.3"]);
        let Scripts { far, far_too, far_ipv6, cut, busy } = scripts;
        let mut peers = Vec::new();
        for (address, script) in
            [("50.1.0.1", far), ("2a00:1::1", far_ipv6), ("50.1.0.4", far_too), ("50.1.0.2", cut), ("50.1.0.3", busy)]
        {
            let listener = world.net.listen(SocketAddr::new(address.parse().unwrap(), 25)).await.unwrap();
            peers.push(Peer::start(listener, script));
        }
        Self(peers)
    }

    /// Everything that they took: recipient and content.
    pub(crate) fn taken(&self) -> Vec<(String, Vec<u8>)> {
        let taken = self.0.iter().flat_map(Peer::taken);
        taken.flat_map(|taken| taken.recipients.into_iter().map(move |to| (to, taken.content.clone()))).collect()
    }
}

/// Looks at the new mails in a Maildir, as mail programs do: they are moved, and marked.
pub(crate) fn read_mails(disk: &SimDisk, path: &str) {
    let disk: &dyn Disk = disk;
    let (new, cur) = (PathBuf::from(path).join("new"), PathBuf::from(path).join("cur"));
    for name in disk.list(&new).unwrap_or_default() {
        disk.rename(&new.join(&name), &cur.join(format!("{name}:2,S"))).unwrap();
    }
    for folder in [new, cur] {
        let _ = disk.sync_dir(&folder);
    }
}

/// Waits until it is so, or the power is gone; false if it never is, within `time_max`.
pub(crate) async fn until(disk: &SimDisk, time_max: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let mut step = Duration::from_millis(1);
    let end = tokio::time::Instant::now() + time_max;
    while !is_so() && !disk.is_off() {
        if tokio::time::Instant::now() > end {
            return false;
        }
        tokio::time::sleep(step).await;
        step = (step * 2).min(MINUTE);
    }
    true
}

/// What clients know, shared by their tasks.
pub(crate) type Shared<T> = Arc<Mutex<T>>;
