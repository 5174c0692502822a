//! The server's side of TLS with rustls: which pair a client sees, whose certificates are believed, and what a handshake has
//! established. Owns the keys of session tickets; of a client that has gone away it remembers nothing.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SignatureAlgorithm, SignatureScheme};
use tokio_rustls::TlsAcceptor;

use super::super::{BoxFuture, BoxStream, Disk};
use super::certificate::Facts;
use super::{CertificateFacts, PairSource, ServerFiles, TlsError, TlsServer, pem, provider};
use crate::mail::TlsInfo;

/// The label of RFC 9266.
pub(super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A pair, ready for use.
struct Pair {
    shown: String,
    facts: Facts,
    key: Arc<CertifiedKey>,
}

/// The pairs in the order of the configuration; never empty.
struct Pairs(Vec<Pair>);

impl Pairs {
    /// The pair for the name that a client asks for: one with this very name, else one with a fitting `*`, else any; of those the
    /// first whose kind of key the client takes.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Pair> {
        let name = name.map(str::to_ascii_lowercase);
        let fits = |pair: &&Pair, wildcard| name.as_deref().is_some_and(|name| pair.facts.is_for(name, wildcard));
        let signs = |pair: &&Pair| pair.key.key.choose_scheme(schemes).is_some();
        let of = |wildcard| self.0.iter().filter(move |pair| fits(pair, wildcard));
        let mut in_order = of(false).chain(of(true)).chain(&self.0);
        // For a client that takes none it makes no difference: the handshake fails, and says why.
        in_order.find(signs).or_else(|| self.0.first())
    }
}

/// Without the keys.
impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|pair| &pair.shown)).finish()
    }
}

/// Chooses for one connection, and remembers what: a channel binding needs to know.
#[derive(Debug)]
struct Chooser {
    pairs: Arc<Pairs>,
    end_point: OnceLock<Option<Vec<u8>>>,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pair = self.pairs.choose(hello.server_name(), hello.signature_schemes())?;
        // A client is asked for its hello at most twice, and must not change it in between (RFC 8446 section 4.1.2).
        let _ = self.end_point.set(pair.facts.end_point.clone());
        Some(Arc::clone(&pair.key))
    }
}

impl Chooser {
    fn new(pairs: &Arc<Pairs>) -> Arc<Self> {
        Arc::new(Self { pairs: Arc::clone(pairs), end_point: OnceLock::new() })
    }
}

/// Takes connections with the pairs that were read when it was made.
pub(super) struct Server {
    config: ServerConfig,
    pairs: Arc<Pairs>,
}

impl Server {
    pub(super) fn new(disk: &dyn Disk, files: &ServerFiles) -> Result<Self, TlsError> {
        let pairs: Result<Vec<Pair>, TlsError> = files.pairs.iter().map(|source| read(disk, source)).collect();
        let pairs = Arc::new(Pairs(pairs?));
        let bug = |error: rustls::Error| TlsError::wrong(Path::new("TLS"), error.to_string(), "report this as a bug");
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(bug)?;
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |what: String| TlsError::wrong(path, what, "it must hold certificates of authorities");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(disk, path)?), provider());
                // Who shows none is served like anybody; AUTH is what asks for a name.
                let verifier = verifier.allow_unauthenticated().build().map_err(|error| wrong(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Chooser::new(&pairs));
        // Sessions are taken up again by tickets that the client keeps: no memory here, however many there are. The keys are
        // made anew with the pairs, and so nobody goes on with a certificate of an authority that isn't believed any more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(bug)?;
        config.send_tls13_tickets = 1;
        Ok(Self { config, pairs })
    }

    fn info(connection: &ServerConnection, chooser: &Chooser) -> TlsInfo {
        let version = connection.protocol_version();
        // Before 1.3 it isn't sure to be unique (RFC 9266 section 1).
        let exporter = (version == Some(rustls::ProtocolVersion::TLSv1_3))
            .then(|| connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).ok());
        let client = connection.peer_certificates().and_then(|chain| chain.first());
        TlsInfo {
            version: version_name(version),
            cipher: connection.negotiated_cipher_suite().map_or("", |suite| cipher_name(suite.suite())),
            client_names: client.map(|certificate| Facts::read(certificate).client_names()).unwrap_or_default(),
            exporter: exporter.flatten(),
            end_point: chooser.end_point.get().cloned().flatten(),
        }
    }
}

impl TlsServer for Server {
    fn accept(&self, stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async move {
            let chooser = Chooser::new(&self.pairs);
            let mut config = self.config.clone();
            config.cert_resolver = Arc::clone(&chooser) as Arc<dyn ResolvesServerCert>;
            let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
            let info = Self::info(stream.get_ref().1, &chooser);
            Ok((Box::new(stream) as BoxStream, info))
        })
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        let facts = |pair: &Pair| CertificateFacts {
            path: pair.shown.clone(),
            names: pair.facts.hosts.clone(),
            kind: kind(&pair.key),
            expires: pair.facts.expires,
        };
        self.pairs.0.iter().map(facts).collect()
    }
}

/// The kind of a key.
fn kind(key: &CertifiedKey) -> &'static str {
    match key.key.algorithm() {
        SignatureAlgorithm::RSA => "RSA",
        SignatureAlgorithm::ECDSA => "ECDSA",
        SignatureAlgorithm::ED25519 => "Ed25519",
        _ => "other",
    }
}

fn read(disk: &dyn Disk, source: &PairSource) -> Result<Pair, TlsError> {
    let key = match source {
        PairSource::Files { certificate, key } => pem::read_pair(disk, certificate, key)?,
        PairSource::Made { path, pair } => pem::parse_pair(pair.pem().as_bytes(), path, pair.pem().as_bytes(), path)?,
    };
    let facts = key.cert.first().map(|certificate| Facts::read(certificate)).unwrap_or_default();
    Ok(Pair { shown: source.path().display().to_string(), facts, key: Arc::new(key) })
}

/// The authorities of a PEM file.
pub(super) fn roots(disk: &dyn Disk, path: &Path) -> Result<RootCertStore, TlsError> {
    const REMEDY: &str = "it must hold certificates between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----";
    let bytes = disk.read(path, pem::SIZE_MAX).map_err(|error| TlsError::unreadable(path, &error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| TlsError::wrong(path, format!("is no PEM file: {error}"), REMEDY))?;
        roots.add(certificate).map_err(|error| TlsError::wrong(path, error.to_string(), REMEDY))?;
    }
    if roots.is_empty() {
        return Err(TlsError::wrong(path, "has no certificate", REMEDY));
    }
    Ok(roots)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    use rustls::ClientConfig;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::super::super::SystemDisk;
    use super::super::SelfSigned;
    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        /// A pair in one file, for these names.
        fn pair(&self, file: &str, names: &[&str]) -> (PairSource, String) {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            let path = self.put(file, &(certificate.pem() + &key.serialize_pem()));
            (PairSource::Files { certificate: path.clone(), key: path }, certificate.pem())
        }
    }

    fn server(pairs: Vec<PairSource>, client_ca: Option<PathBuf>) -> Server {
        Server::new(&SystemDisk, &ServerFiles { pairs, client_ca }).unwrap()
    }

    /// A client that believes these certificates.
    fn client(trusted: &[&str]) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        for pem in trusted {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        builder.with_root_certificates(roots)
    }

    /// A handshake; what the server knows of it, and whether the client had been here before. Errors: the client's, then ours.
    async fn shake(server: &Server, client: &Arc<ClientConfig>, name: &str) -> Result<(TlsInfo, bool), String> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let ours = async {
            let (mut stream, info) = server.accept(Box::new(far)).await.map_err(|error| error.to_string())?;
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            Ok::<_, String>(info)
        };
        let theirs = async {
            let stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await;
            let mut stream = stream.map_err(|error| error.to_string())?;
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await.map_err(|error| error.to_string())?;
            let again = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            Ok::<_, String>(again)
        };
        let (info, again) = tokio::join!(ours, theirs);
        Ok((info?, again?))
    }

    #[tokio::test]
    async fn the_name_that_is_asked_for_chooses_the_certificate() {
        let files = Files::new();
        let (first, first_pem) = files.pair("first.pem", &["mail.example.test"]);
        let (other, other_pem) = files.pair("other.pem", &["mail.other.test", "mx.other.test"]);
        let (wild, wild_pem) = files.pair("wild.pem", &["*.wild.test", "*.other.test"]);
        let server = server(vec![first, wild, other], None);
        for (name, pem, right) in [
            ("mail.example.test", &first_pem, true),
            ("mail.other.test", &other_pem, true),
            ("MX.Other.test", &other_pem, true),
            ("new.other.test", &wild_pem, true),
            ("a.wild.test", &wild_pem, true),
            // Nothing fits: the first is shown, and the client decides.
            ("elsewhere.test", &first_pem, false),
        ] {
            let done = shake(&server, &Arc::new(client(&[pem]).with_no_client_auth()), name).await;
            assert_eq!(done.is_ok(), right, "{name}: {done:?}");
            if let Ok((info, _)) = done {
                let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
                assert_eq!(info.end_point, Facts::read(&der).end_point, "{name}");
                assert!(info.end_point.is_some());
            }
        }
        let paths: Vec<_> = server.certificates().into_iter().map(|facts| facts.names).collect();
        assert_eq!(
            paths,
            [vec!["mail.example.test"], vec!["*.wild.test", "*.other.test"], vec!["mail.other.test", "mx.other.test"]]
        );
    }

    const RSA_KEY: &str = include_str!("../../../tests/tls/rsa-key.pem");

    /// A client that takes only such signatures, in these versions.
    fn picky(trusted: &[&str], takes: fn(SignatureScheme) -> bool, old: bool) -> Arc<ClientConfig> {
        let mut provider = (*provider()).clone();
        let all = provider.signature_verification_algorithms;
        let mapping: Vec<_> = all.mapping.iter().copied().filter(|(scheme, _)| takes(*scheme)).collect();
        provider.signature_verification_algorithms.mapping = Box::leak(mapping.into_boxed_slice());
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let versions: &[_] = if old { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let mut roots = RootCertStore::empty();
        for pem in trusted {
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        }
        Arc::new(builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth())
    }

    #[tokio::test]
    async fn of_several_kinds_of_keys_for_a_name_the_first_is_shown_that_the_client_takes() {
        let files = Files::new();
        let names = ["localhost".to_owned(), "mx.example.test".to_owned()];
        let key = KeyPair::from_pem(RSA_KEY).unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let path = files.put("rsa.pem", &(certificate.pem() + RSA_KEY));
        let rsa = PairSource::Files { certificate: path.clone(), key: path };
        let rsa_pem = certificate.pem();
        let (ec, ec_pem) = files.pair("ec.pem", &["localhost"]);
        let is_rsa = |scheme: SignatureScheme| format!("{scheme:?}").starts_with("RSA");
        let is_ec = |scheme: SignatureScheme| format!("{scheme:?}").starts_with("ECDSA");
        let server = server(vec![ec, rsa], None);
        for old in [false, true] {
            for (takes, name, shown) in [
                (is_rsa as fn(_) -> _, "localhost", Some(&rsa_pem)),
                (is_ec, "localhost", Some(&ec_pem)),
                (|_| true, "localhost", Some(&ec_pem)),
                (|_| true, "mx.example.test", Some(&rsa_pem)),
                (is_ec, "mx.example.test", None),
            ] {
                let client = picky(&[&rsa_pem, &ec_pem], takes, old);
                let Some(shown) = shown else {
                    assert!(shake(&server, &client, name).await.is_err(), "one for another name");
                    continue;
                };
                let end_point = Facts::read(&CertificateDer::from_pem_slice(shown.as_bytes()).unwrap()).end_point;
                // Also where the session is taken up again.
                for again in [false, true] {
                    let (info, resumed) = shake(&server, &client, name).await.unwrap();
                    assert_eq!((&info.end_point, resumed), (&end_point, again), "{name} {}", info.cipher);
                }
            }
        }
        let kinds: Vec<_> = server.certificates().into_iter().map(|facts| facts.kind).collect();
        assert_eq!(kinds, ["ECDSA", "RSA"]);
    }

    #[tokio::test]
    async fn version_cipher_and_bindings_are_known() {
        let files = Files::new();
        let (pair, pem) = files.pair("pair.pem", &["localhost"]);
        let server = server(vec![pair], None);
        let modern = Arc::new(client(&[&pem]).with_no_client_auth());
        let (one, _) = shake(&server, &modern, "localhost").await.unwrap();
        let (two, _) = shake(&server, &modern, "localhost").await.unwrap();
        assert_eq!((one.version, one.cipher), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"));
        assert!(one.exporter.is_some() && one.exporter != two.exporter);
        assert!(one.client_names.is_empty());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let old = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
        let old = Arc::new(old.with_root_certificates(roots).with_no_client_auth());
        let (info, _) = shake(&server, &old, "localhost").await.unwrap();
        assert_eq!((info.version, info.cipher), ("TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
        assert!(info.exporter.is_none() && info.end_point.is_some());
    }

    #[tokio::test]
    async fn sessions_are_taken_up_again_and_not_with_new_keys() {
        let files = Files::new();
        let (pair, pem) = files.pair("pair.pem", &["localhost"]);
        let server_one = server(vec![pair.clone()], None);
        let client = Arc::new(client(&[&pem]).with_no_client_auth());
        assert!(!shake(&server_one, &client, "localhost").await.unwrap().1);
        assert!(shake(&server_one, &client, "localhost").await.unwrap().1);
        assert!(!shake(&server(vec![pair], None), &client, "localhost").await.unwrap().1);
    }

    #[tokio::test]
    async fn a_clients_certificate_names_it_if_its_authority_is_believed() {
        let files = Files::new();
        let (pair, pem) = files.pair("pair.pem", &["localhost"]);
        let authority = |name: &str| {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (parameters.self_signed(&key).unwrap().pem(), Issuer::new(parameters, key))
        };
        let (believed_pem, believed) = authority("believed");
        let (_, stranger) = authority("stranger");
        let signed = |issuer: &Issuer<'_, KeyPair>| {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.subject_alt_names.push(SanType::Rfc822Name("ann@example.test".try_into().unwrap()));
            parameters.distinguished_name = rcgen::DistinguishedName::new();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, "Ann");
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let certificate = parameters.signed_by(&key, issuer).unwrap();
            let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            Arc::new(client(&[&pem]).with_client_auth_cert(vec![certificate.der().clone()], private).unwrap())
        };
        let server = server(vec![pair.clone()], Some(files.put("ca.pem", &believed_pem)));
        let ann = signed(&believed);
        for again in [false, true] {
            let (info, resumed) = shake(&server, &ann, "localhost").await.unwrap();
            assert_eq!((info.client_names, resumed), (vec!["ann@example.test".to_owned(), "Ann".to_owned()], again));
        }
        let (info, _) = shake(&server, &Arc::new(client(&[&pem]).with_no_client_auth()), "localhost").await.unwrap();
        assert!(info.client_names.is_empty());
        assert!(shake(&server, &signed(&stranger), "localhost").await.is_err());
        let empty = ServerFiles { pairs: vec![pair], client_ca: Some(files.put("empty.pem", "")) };
        let error = Server::new(&SystemDisk, &empty).err().unwrap();
        assert!(error.to_string().contains("empty.pem: has no certificate"), "{error}");
    }

    #[tokio::test]
    async fn rubbish_is_no_handshake() {
        let files = Files::new();
        let server = server(vec![files.pair("pair.pem", &["localhost"]).0], None);
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(b"EHLO client.test\r\nQUIT\r\n").await.unwrap();
        assert!(server.accept(Box::new(far)).await.is_err());
    }

    #[tokio::test]
    async fn a_pair_that_was_just_made_serves() {
        let hostname = crate::mail::Domain::parse("mail.example.test").unwrap();
        let pair = Arc::new(SelfSigned::new(&hostname).unwrap());
        let client = Arc::new(client(&[pair.pem()]).with_no_client_auth());
        let server = server(vec![PairSource::Made { path: "made".into(), pair }], None);
        assert!(shake(&server, &client, "mail.example.test").await.is_ok());
        assert!(server.certificates()[0].expires.is_some());
    }
}
