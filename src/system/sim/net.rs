//! A network in memory: listeners by address, streams over tokio's duplex pipes, faults at the test's command. State: who listens, and
//! which addresses are faulty.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use crate::system::{BoxFuture, BoxStream, Endpoint, Listener, Net};

/// Octets under way in each direction: a socket's buffers.
const BUFFER_SIZE: usize = 64 * 1024;
/// Connections waiting to be accepted; one more is refused.
const BACKLOG: usize = 1024;
/// Ports for clients, and for listeners that ask for any, are given out from here on.
const FIRST_PORT: u64 = 40_000;

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are refused.
    Refuse,
    /// Connecting never ends.
    Stall,
    /// Connections break after so many octets, both directions together.
    CutAfter(u64),
    /// It listens, and can't accept: it is out of file descriptors.
    Unaccepted,
}

/// A connection's beginning or end, as a watcher of the network is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calling {
    /// Somebody tries to connect.
    Began,
    /// The connection was made.
    Made,
    /// Whoever connected has closed it, or it broke.
    Over,
}

/// What is told of each.
type Tell = dyn Fn(&Endpoint, IpAddr, Calling) + Send + Sync;

/// Who is told.
#[derive(Clone)]
struct Watcher(Arc<Tell>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// The network. Cheap to share.
#[derive(Clone, Debug, Default)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<String, mpsc::Sender<(SimStream, SocketAddr)>>,
    faults: BTreeMap<String, Fault>,
    ports_given: u64,
    connections: u64,
    watcher: Option<Watcher>,
}

impl SimNet {
    /// Makes an address faulty for connections from now on, or well again.
    pub fn fault(&self, at: &Endpoint, fault: Option<Fault>) {
        let mut state = self.state();
        match fault {
            Some(fault) => state.faults.insert(at.to_string(), fault),
            None => state.faults.remove(&at.to_string()),
        };
    }

    /// How many connections came about so far.
    pub fn connections(&self) -> u64 {
        self.state().connections
    }

    /// Tells of every connection from now on, by where it goes and where it comes from; the watcher must not use this network itself.
    pub fn watch(&self, watcher: impl Fn(&Endpoint, IpAddr, Calling) + Send + Sync + 'static) {
        self.state().watcher = Some(Watcher(Arc::new(watcher)));
    }

    fn tell(&self, to: &Endpoint, client: IpAddr, what: Calling) {
        let watcher = self.state().watcher.clone();
        if let Some(Watcher(watcher)) = watcher {
            watcher(to, client, what);
        }
    }

    /// Connects as a client with this address.
    pub async fn connect_from(&self, client: IpAddr, to: &Endpoint) -> io::Result<BoxStream> {
        self.tell(to, client, Calling::Began);
        let fault = self.state().faults.get(&to.to_string()).copied();
        match fault {
            Some(Fault::Refuse) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Stall) => pending().await,
            Some(Fault::CutAfter(_) | Fault::Unaccepted) | None => {}
        }
        let budget = match fault {
            Some(Fault::CutAfter(size)) => size,
            _ => u64::MAX,
        };
        let budget = Arc::new(AtomicU64::new(budget));
        let (near, far) = tokio::io::duplex(BUFFER_SIZE);
        let stream = |pipe| SimStream { pipe: Some(pipe), budget: budget.clone(), end: None };
        let mut state = self.state();
        let peer = SocketAddr::new(client, state.next_port());
        let listener = state.listeners.get(&to.to_string()).ok_or(io::ErrorKind::ConnectionRefused)?;
        listener.try_send((stream(far), peer)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        state.connections += 1;
        drop(state);
        self.tell(to, client, Calling::Made);
        let end = Some(End { net: self.clone(), to: to.clone(), client });
        Ok(Box::new(SimStream { end, ..stream(near) }))
    }

    /// Binds a listener on a Unix socket.
    pub fn listen_unix(&self, path: &Path) -> io::Result<Box<dyn Listener>> {
        self.bind(&Endpoint::Unix(path.to_owned()), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
    }

    fn bind(&self, at: &Endpoint, local: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut state = self.state();
        // A listener that is gone leaves its address free.
        if state.listeners.get(&at.to_string()).is_some_and(|sender| !sender.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert(at.to_string(), sender);
        Ok(Box::new(SimListener { net: self.clone(), receiver: tokio::sync::Mutex::new(receiver), local, at: at.clone() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_port(&mut self) -> u16 {
        let port = FIRST_PORT + self.ports_given % (65_536 - FIRST_PORT);
        self.ports_given += 1;
        u16::try_from(port).unwrap_or(u16::MAX)
    }
}

impl Net for SimNet {
    fn connect<'a>(&'a self, to: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(self.connect_from(from.unwrap_or(Ipv4Addr::LOCALHOST.into()), to))
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        let port = if address.port() == 0 { self.state().next_port() } else { address.port() };
        let local = SocketAddr::new(address.ip(), port);
        Box::pin(async move { self.bind(&Endpoint::Tcp(local), local) })
    }

    fn listen_unix<'a>(&'a self, path: &'a Path, _mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { SimNet::listen_unix(self, path) })
    }
}

struct SimListener {
    net: SimNet,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(SimStream, SocketAddr)>>,
    local: SocketAddr,
    at: Endpoint,
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            if self.net.state().faults.get(&self.at.to_string()) == Some(&Fault::Unaccepted) {
                return Err(io::Error::other("out of file descriptors"));
            }
            let accepted = self.receiver.lock().await.recv().await;
            let (stream, peer) = accepted.ok_or(io::ErrorKind::NotConnected)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn endpoint(&self) -> Endpoint {
        self.at.clone()
    }
}

/// One end of a connection.
#[derive(Debug)]
struct SimStream {
    /// None once the connection is cut; the other end then sees it closed.
    pipe: Option<DuplexStream>,
    /// Octets that may still be written, at both ends together.
    budget: Arc<AtomicU64>,
    /// At the end of whoever connected: to be told of when it is over.
    end: Option<End>,
}

/// Tells that a connection is over when it is dropped.
#[derive(Debug)]
struct End {
    net: SimNet,
    to: Endpoint,
    client: IpAddr,
}

impl Drop for End {
    fn drop(&mut self) {
        self.net.tell(&self.to, self.client, Calling::Over);
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_read(context, buffer),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let budget = self.budget.load(Ordering::Relaxed);
        let size = usize::try_from(budget).unwrap_or(usize::MAX).min(bytes.len());
        if size < bytes.len() && size == 0 {
            self.pipe = None;
            drop(self.end.take());
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let written = std::task::ready!(Pin::new(pipe).poll_write(context, &bytes[..size]))?;
        if budget != u64::MAX {
            self.budget.fetch_sub(written as u64, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}
