//! The server's side of TLS with rustls: handshakes, and what they established.

use std::io;

use rustls::ServerConnection;
use tokio_rustls::TlsAcceptor;

use super::super::{BoxFuture, BoxStream, Disk};
use super::{ServerFiles, TlsError, TlsServer, pem};
use crate::mail::TlsInfo;

/// The label of RFC 9266.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Takes connections with the pairs that were read when it was made.
pub(super) struct Server {
    acceptor: TlsAcceptor,
}

impl Server {
    pub(super) fn new(disk: &dyn Disk, files: &ServerFiles) -> Result<Self, TlsError> {
        let config = pem::load_pair(disk, &files.pair.certificate, &files.pair.key)?;
        Ok(Self { acceptor: TlsAcceptor::from(config) })
    }
}

impl TlsServer for Server {
    fn accept(&self, stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async move {
            let stream = self.acceptor.accept(stream).await?;
            let info = info(stream.get_ref().1);
            Ok((Box::new(stream) as BoxStream, info))
        })
    }
}

fn info(connection: &ServerConnection) -> TlsInfo {
    let version = connection.protocol_version();
    let exporter = match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).ok(),
        _ => None,
    };
    TlsInfo {
        version: version_name(version),
        cipher: connection.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
        client_names: Vec::new(),
        exporter,
        end_point: None,
    }
}

pub(super) fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // Nothing else is compiled in.
        _ => "TLS",
    }
}

/// The IANA name. rustls calls the suites of TLS 1.3 by names of its own.
pub(super) fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or(""),
    }
}
