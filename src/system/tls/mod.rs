//! TLS as a seam: handshakes draw random numbers, so a simulation has its own. Owns the errors that name a file and a remedy.

mod certificate;
mod client;
mod pem;
mod probe;
mod self_signed;
mod server;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

use super::{BoxFuture, BoxStream, Disk};
use crate::mail::{Domain, Timestamp, TlsInfo};

pub use pem::load_pair;
pub use probe::{Probed, probe};
pub use self_signed::SelfSigned;

/// The one cryptography provider.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Where a certificate chain and its private key come from.
#[derive(Clone, Debug)]
pub enum PairSource {
    /// PEM files, perhaps the same one twice.
    Files {
        /// The chain, the server's own certificate first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// A pair that was just made.
    Made {
        /// What it is called.
        path: PathBuf,
        /// The pair.
        pair: Arc<SelfSigned>,
    },
}

impl PairSource {
    /// What it is called: the certificate's file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Files { certificate, .. } => certificate,
            Self::Made { path, .. } => path,
        }
    }
}

/// What a server's side of TLS is made of.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Pairs; which one a client sees goes by the name that it asks for and the kinds of keys that it takes.
    pub pairs: Vec<PairSource>,
    /// PEM file: certificates of these authorities are taken from clients. None: clients aren't asked for one.
    pub client_ca: Option<PathBuf>,
}

/// What is known of a certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Where it came from.
    pub path: String,
    /// The hosts it is for.
    pub names: Vec<String>,
    /// The kind of its key: `ECDSA`, `RSA` or `Ed25519`.
    pub kind: &'static str,
    /// Its last moment.
    pub expires: Option<Timestamp>,
}

/// Makes sides of TLS.
pub trait Tls: Send + Sync {
    /// Reads the files and makes the side that takes connections.
    fn server(&self, disk: &dyn Disk, files: &ServerFiles) -> Result<Arc<dyn TlsServer>, TlsError>;
    /// Makes the side that makes connections. `authorities`: the PEM file of those that are believed; none: the system's.
    fn client(&self, disk: Arc<dyn Disk>, authorities: Option<PathBuf>) -> Arc<dyn TlsClient>;
    /// Makes a certificate that vouches for itself, and its key.
    fn self_signed(&self, hostname: &Domain) -> Result<SelfSigned, TlsError>;
}

/// The side that takes connections.
pub trait TlsServer: Send + Sync {
    /// Makes the handshake. The time-out is the caller's.
    fn accept(&self, stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>>;
    /// The certificates that clients may see.
    fn certificates(&self) -> Vec<CertificateFacts>;
}

/// The side that makes connections.
pub trait TlsClient: Send + Sync {
    /// Makes the handshake with a host, whatever certificate it shows. The time-out is the caller's.
    fn connect<'a>(&'a self, stream: BoxStream, host: &'a Domain) -> BoxFuture<'a, io::Result<(BoxStream, Established)>>;
}

/// What a handshake with a server came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its IANA name.
    pub cipher: &'static str,
    /// Whether its certificate shows that it is the host that we mean; or why not.
    pub verified: Result<(), String>,
    /// An earlier session was taken up again, which spares both sides most of the work.
    pub resumed: bool,
}

/// Whether a file holds authorities.
pub fn check_authorities(disk: &dyn Disk, path: &Path) -> Result<(), TlsError> {
    server::roots(disk, path).map(drop)
}

/// TLS by rustls.
#[derive(Debug, Default)]
pub struct SystemTls;

impl Tls for SystemTls {
    fn server(&self, disk: &dyn Disk, files: &ServerFiles) -> Result<Arc<dyn TlsServer>, TlsError> {
        Ok(Arc::new(server::Server::new(disk, files)?))
    }

    fn client(&self, disk: Arc<dyn Disk>, authorities: Option<PathBuf>) -> Arc<dyn TlsClient> {
        Arc::new(client::Client::new(disk, authorities))
    }

    fn self_signed(&self, hostname: &Domain) -> Result<SelfSigned, TlsError> {
        SelfSigned::new(hostname)
    }
}

/// Why a pair can't be used: which file, what is wrong, what to do.
#[derive(Debug)]
pub struct TlsError {
    path: PathBuf,
    what: String,
    remedy: &'static str,
    permission: bool,
}

impl TlsError {
    /// The file can't be read.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        let permission = error.kind() == io::ErrorKind::PermissionDenied;
        let remedy = if permission { "let the server's user read it" } else { "check that the file is there and readable" };
        Self { path: path.to_owned(), what: format!("can't be read: {error}"), remedy, permission }
    }

    /// The file is not what it should be.
    pub fn wrong(path: &Path, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { path: path.to_owned(), what: what.into(), remedy, permission: false }
    }

    /// The file in question.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }

    /// Whether the file is there and we may not read it.
    pub fn is_permission(&self) -> bool {
        self.permission
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.display(), self.what, self.remedy)
    }
}

impl std::error::Error for TlsError {}
