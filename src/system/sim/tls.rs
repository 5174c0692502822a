//! Simulated TLS: a line each way instead of a handshake, and then the octets as they are. No random numbers, no clock.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mail::{Domain, TlsInfo};
use crate::system::tls::{
    CertificateFacts, Established, PairSource, SelfSigned, ServerFiles, Tls, TlsClient, TlsError, TlsServer,
};
use crate::system::{BoxFuture, BoxStream, Disk};

/// What a simulated client says first.
pub const HELLO: &str = "simulated client hello\n";
/// What a simulated server answers.
pub const ANSWER: &str = "simulated server hello\n";

/// What one answers whose certificate shows nothing.
pub const DUBIOUS_ANSWER: &str = "simulated server hullo\n";

/// TLS without secrets.
#[derive(Debug, Default)]
pub struct SimTls;

impl SimTls {
    /// What a session in simulated TLS is encrypted with.
    pub fn info() -> TlsInfo {
        let (version, cipher) = ("TLSv1.3", "TLS_AES_256_GCM_SHA384");
        TlsInfo { version, cipher, client_names: Vec::new(), exporter: None, end_point: None }
    }
}

impl Tls for SimTls {
    fn server(&self, disk: &dyn Disk, files: &ServerFiles) -> Result<Arc<dyn TlsServer>, TlsError> {
        for pair in &files.pairs {
            if let PairSource::Files { certificate, .. } = pair {
                disk.read(certificate, 1024).map_err(|error| TlsError::unreadable(certificate, &error))?;
            }
        }
        Ok(Arc::new(Self))
    }

    fn client(&self, _: Arc<dyn Disk>, _: Option<PathBuf>) -> Arc<dyn TlsClient> {
        Arc::new(Self)
    }

    fn self_signed(&self, hostname: &Domain) -> Result<SelfSigned, TlsError> {
        match hostname.literal() {
            None => Ok(SelfSigned::from_pem(format!("the simulated pair of {hostname}\n"))),
            Some(_) => Err(TlsError::wrong(Path::new("hostname"), "is no name", "name the host")),
        }
    }
}

impl TlsServer for SimTls {
    fn accept(&self, mut stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async move {
            let mut hello = [0; HELLO.len()];
            stream.read_exact(&mut hello).await?;
            if hello != HELLO.as_bytes() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no simulated client hello"));
            }
            stream.write_all(ANSWER.as_bytes()).await?;
            Ok((stream, Self::info()))
        })
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        Vec::new()
    }
}

impl TlsClient for SimTls {
    fn connect<'a>(&'a self, mut stream: BoxStream, _: &'a Domain) -> BoxFuture<'a, io::Result<(BoxStream, Established)>> {
        Box::pin(async move {
            stream.write_all(HELLO.as_bytes()).await?;
            let mut answer = [0; ANSWER.len()];
            stream.read_exact(&mut answer).await?;
            let verified = match &answer[..] {
                answer if answer == ANSWER.as_bytes() => Ok(()),
                answer if answer == DUBIOUS_ANSWER.as_bytes() => Err("a simulated certificate that shows nothing".to_owned()),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no simulated server hello")),
            };
            let TlsInfo { version, cipher, .. } = Self::info();
            Ok((stream, Established { version, cipher, verified, resumed: false }))
        })
    }
}
