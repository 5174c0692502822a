//! Connections as a seam: TCP and Unix sockets, both ways.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::BoxFuture;
use super::unix::UnixSocket;

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected byte stream on the heap.
pub type BoxStream = Box<dyn Stream>;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes and takes connections. Time-outs are the caller's.
pub trait Net: Send + Sync {
    /// Connects; from this address of ours, if one is given, which a Unix socket doesn't mind.
    fn connect<'a>(&'a self, to: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<BoxStream>>;
    /// Binds a TCP listener; port 0 lets the system choose.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    /// Binds a Unix socket with these permissions. A socket file at which nothing answers is replaced.
    fn listen_unix<'a>(&'a self, path: &'a Path, mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// A bound listener.
pub trait Listener: Send + Sync {
    /// The next connection and its peer. A client of a Unix socket is one of this machine: 127.0.0.1, port 0.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;
    /// The address that it is bound to, the real port included.
    fn local_address(&self) -> SocketAddr;
    /// The same for people: of a Unix socket, its path.
    fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.local_address())
    }
}

/// The machine's network.
#[derive(Debug, Default)]
pub struct SystemNet;

impl Net for SystemNet {
    fn connect<'a>(&'a self, to: &'a Endpoint, from: Option<IpAddr>) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            Ok(match to {
                Endpoint::Tcp(address) => {
                    let stream = match from {
                        None => TcpStream::connect(address).await?,
                        Some(from) => connect_from(from, *address).await?,
                    };
                    stream.set_nodelay(true)?;
                    Box::new(stream) as BoxStream
                }
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        })
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(4096)?;
            let local = listener.local_addr()?;
            Ok(Box::new(SystemListener { listener, local }) as Box<dyn Listener>)
        })
    }

    fn listen_unix<'a>(&'a self, path: &'a Path, mode: u32) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(UnixSocket::bind(path, mode).await?) as Box<dyn Listener>) })
    }
}

async fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// What stands for a client of a Unix socket.
const LOCAL_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Listener for UnixSocket {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            Ok((Box::new(stream) as BoxStream, LOCAL_PEER))
        })
    }

    fn local_address(&self) -> SocketAddr {
        LOCAL_PEER
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.path.clone())
    }
}

struct SystemListener {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener for SystemListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }
}
