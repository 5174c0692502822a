//! What the server tells over HTTP: whether it lives, whether it takes mail, and its metrics.
//!
//! State: the open connections and, for HTTPS, the certificate that is loaded. Nothing here changes the server.

mod pages;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub use pages::router;

use crate::config::{Config, KeyPair};
use crate::control::Admin;
use crate::system::tls::{self, TlsError};
use crate::system::{BoxStream, Listener, System};

/// Connections at a time; the next waits until one ends.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take for a request's header, and may be silent between two requests.
const HEADER_TIME_MAX: Duration = Duration::from_secs(15);
/// How long a connection may last; a client that wants more connects again.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Octets of a request's header.
const HEADER_SIZE_MAX: usize = 16 * 1024;
/// Fields of a request's header.
const HEADER_FIELDS_MAX: usize = 64;
/// Wait after an accept that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The HTTP server.
pub struct Server {
    listener: Box<dyn Listener>,
    system: System,
    admin: Arc<dyn Admin>,
    certificate: Certificate,
}

/// The certificate in use, and the configuration that it was loaded for.
struct Certificate {
    config: Arc<Config>,
    acceptor: Option<TlsAcceptor>,
}

impl Certificate {
    fn load(system: &System, config: Arc<Config>) -> Result<Self, TlsError> {
        let load = |pair: &KeyPair| tls::load_pair(&*system.disk, &pair.certificate, &pair.key);
        let acceptor = config.admin.tls.as_ref().map(load).transpose()?.map(TlsAcceptor::from);
        Ok(Self { config, acceptor })
    }
}

impl Server {
    /// Will answer on `listener`, over TLS if `[admin] tls` is set. The error names the file that is wrong.
    pub fn new(listener: Box<dyn Listener>, system: System, admin: Arc<dyn Admin>) -> Result<Self, TlsError> {
        let certificate = Certificate::load(&system, admin.config())?;
        Ok(Self { listener, system, admin, certificate })
    }

    /// The address that it is bound to.
    pub fn local_address(&self) -> SocketAddr {
        self.listener.local_address()
    }

    /// Answers until it is dropped; dropping it also ends the connections.
    pub async fn run(mut self) {
        let router = router(self.admin.clone());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let served = serve(stream, self.acceptor(), router.clone());
                        connections.spawn(async move {
                            let _ = tokio::time::timeout(CONNECTION_TIME_MAX, served).await;
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }

    /// The acceptor for the configuration in force. After a reload the pair is read again; if it has become unusable since the
    /// reload looked at it, the old one stays in use.
    fn acceptor(&mut self) -> Option<TlsAcceptor> {
        let config = self.admin.config();
        if !Arc::ptr_eq(&config, &self.certificate.config) {
            match Certificate::load(&self.system, config.clone()) {
                Ok(certificate) => self.certificate = certificate,
                Err(_) => self.certificate.config = config,
            }
        }
        self.certificate.acceptor.clone()
    }
}

async fn serve(stream: BoxStream, acceptor: Option<TlsAcceptor>, router: axum::Router) {
    let stream: BoxStream = match acceptor {
        None => stream,
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            _ => return,
        },
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .max_buf_size(HEADER_SIZE_MAX);
    // A client's trouble is its own.
    let _ = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::control::Health;
    use crate::control::fake::FakeAdmin;
    use crate::system::{Net as _, SystemNet};

    fn system() -> System {
        System::real(&["127.0.0.1:1".parse().unwrap()], Duration::from_secs(1)).unwrap()
    }

    async fn start(admin: Arc<FakeAdmin>) -> SocketAddr {
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let server = Server::new(listener, system(), admin).unwrap();
        let address = server.local_address();
        tokio::spawn(server.run());
        address
    }

    async fn ask_over(mut stream: impl crate::system::Stream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        ask_over(TcpStream::connect(address).await.unwrap(), &request).await
    }

    fn well(admin: &FakeAdmin, health: Option<Health>) {
        *admin.health.lock().unwrap() = health;
    }

    #[tokio::test]
    async fn a_well_server_says_so_and_shows_its_metrics() {
        let address = start(Arc::new(FakeAdmin::with_messages(1))).await;
        assert!(ask(address, "GET", "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "GET", "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = ask(address, "GET", "/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        let head = ask(address, "HEAD", "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200") && !head.contains("EOF"), "{head}");
        assert!(ask(address, "POST", "/metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET", "/").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_server_that_takes_no_mail_lives_but_is_not_ready() {
        let admin = Arc::new(FakeAdmin::with_messages(1));
        let address = start(admin.clone()).await;
        well(&admin, Some(Health { spool: Some("no room on the disk".to_owned()), ..Health::default() }));
        assert!(ask(address, "GET", "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = ask(address, "GET", "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("spool: no room on the disk\n"), "{ready}");
        well(&admin, Some(Health { delivery: Some("it ended".to_owned()), ..Health::default() }));
        let health = ask(address, "GET", "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 503") && health.contains("delivery: it ended\n"), "{health}");
    }

    #[tokio::test]
    async fn requests_are_bounded() {
        let address = start(Arc::new(FakeAdmin::with_messages(1))).await;
        let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(HEADER_SIZE_MAX));
        let answer = ask_over(TcpStream::connect(address).await.unwrap(), &long).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(HEADER_FIELDS_MAX));
        let answer = ask_over(TcpStream::connect(address).await.unwrap(), &many).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn with_a_pair_it_speaks_https() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;

        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
        let pair = KeyPair { certificate: format!("{folder}/cert.pem").into(), key: format!("{folder}/key.pem").into() };
        let address = start(Arc::new(FakeAdmin::with_messages(1).with_tls(pair))).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(format!("{folder}/cert.pem")).unwrap()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let stream =
            connector.connect("localhost".try_into().unwrap(), TcpStream::connect(address).await.unwrap()).await.unwrap();
        let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(ask_over(stream, request).await.starts_with("HTTP/1.1 200"));
        let plain = ask(address, "GET", "/readyz").await;
        assert!(!plain.contains("200"), "{plain}");
    }
}
