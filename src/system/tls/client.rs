//! The client's side of TLS with rustls: every handshake is made with any certificate, then it is found out whether the certificate
//! shows the server that we mean, and the caller says whether that matters. Owns the sessions that can be taken up again,
//! bounded in number, and the authorities that are believed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::super::{BoxFuture, BoxStream, Disk};
use super::server::{cipher_name, roots, version_name};
use super::{Established, TlsClient, provider};
use crate::mail::Domain;

/// Servers whose sessions are remembered.
const SESSIONS_MAX: usize = 1024;

/// Makes connections.
pub(super) struct Client {
    disk: Arc<dyn Disk>,
    /// The authorities' file; none: the system's.
    authorities: Option<PathBuf>,
    /// Made at first use: reading the system's authorities takes a moment, and a server may never need them.
    made: OnceLock<Made>,
}

struct Made {
    connector: Result<TlsConnector, String>,
    verifier: Result<Arc<WebPkiServerVerifier>, String>,
}

impl Client {
    pub(super) fn new(disk: Arc<dyn Disk>, authorities: Option<PathBuf>) -> Self {
        Self { disk, authorities, made: OnceLock::new() }
    }

    fn make(&self) -> Made {
        let roots = match &self.authorities {
            Some(path) => roots(&*self.disk, path).map_err(|error| error.to_string()),
            None => Ok(system_roots()),
        };
        let verifier = roots.and_then(|roots| {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.build().map_err(|error| format!("no certificate can be verified: {error}"))
        });
        Made { connector: connector(), verifier }
    }
}

/// Takes any certificate; the handshake still proves that the server has its key.
pub(super) fn connector() -> Result<TlsConnector, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let any = Arc::new(AnyCertificate(provider()));
    let mut config = builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Those that can't be read are left out.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl TlsClient for Client {
    fn connect<'a>(&'a self, stream: BoxStream, host: &'a Domain) -> BoxFuture<'a, io::Result<(BoxStream, Established)>> {
        Box::pin(async move {
            let made = self.made.get_or_init(|| self.make());
            let connector = made.connector.as_ref().map_err(|why| io::Error::other(why.clone()))?;
            let name = match host.literal() {
                Some(address) => ServerName::IpAddress(address.into()),
                None => ServerName::try_from(host.as_str().to_owned()).map_err(io::Error::other)?,
            };
            let stream = connector.connect(name.clone(), stream).await?;
            let connection = stream.get_ref().1;
            let established = Established {
                version: version_name(connection.protocol_version()),
                cipher: connection.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
                verified: verify(&made.verifier, connection, &name),
                resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            };
            Ok((Box::new(stream) as BoxStream, established))
        })
    }
}

/// Whether the certificate is the server's that we mean, now; a session that is taken up again is looked at like a new one.
fn verify(
    verifier: &Result<Arc<WebPkiServerVerifier>, String>,
    connection: &ClientConnection,
    name: &ServerName<'_>,
) -> Result<(), String> {
    let verifier = verifier.as_ref().map_err(Clone::clone)?;
    let chain = connection.peer_certificates().unwrap_or_default();
    let (first, others) = chain.split_first().ok_or("the server showed no certificate")?;
    let verified = verifier.verify_server_cert(first, others, name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| error.to_string())
}

/// The handshake's part of the work, without a judgement on the certificate.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
