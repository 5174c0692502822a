//! A client's handshake that asks for no proof of who answers: only for our own server on loopback, whose certificate may be any.

use std::io;

use rustls::pki_types::ServerName;

use super::client::connector;
use crate::system::BoxStream;

/// What a handshake came to.
pub struct Probed {
    /// The encrypted stream.
    pub stream: BoxStream,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// What RFC 9266 binds a login to.
    pub exporter: Option<[u8; 32]>,
}

/// Makes the handshake as a client.
pub async fn probe(stream: BoxStream) -> io::Result<Probed> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let stream = connector().map_err(io::Error::other)?.connect(name, stream).await?;
    let connection = stream.get_ref().1;
    let version = super::server::version_name(connection.protocol_version());
    let exporter = connection.export_keying_material([0; 32], super::server::EXPORTER_LABEL, Some(&[])).ok();
    Ok(Probed { stream: Box::new(stream), version, exporter })
}
