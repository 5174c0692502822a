//! Reception over TLS: a load client for any SMTP server on this machine, one thread, so many sessions at a time.
//!
//! Settings come from the environment: `TLS_ADDRESS` (host:port, required), `TLS_MODE` (`starttls`, `implicit`, `none`), `TLS_SESSIONS`,
//! `TLS_MESSAGES`, `TLS_PER_CONNECTION` (0: all of a session's on one), `TLS_SIZE` (octets), `TLS_TO` (the recipient), `TLS_RESUME` (0: a
//! full handshake each time). Prints one JSON line. The certificate is not checked: this measures, it doesn't trust.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// What is asked of the client.
struct Plan {
    address: String,
    mode: String,
    sessions: u64,
    messages: u64,
    per_connection: u64,
    to: String,
    message: Vec<u8>,
    tls: Arc<ClientConfig>,
}

/// What all sessions count together.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    accepted: AtomicU64,
    connections: AtomicU64,
    resumed: AtomicU64,
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn number(name: &str, default: &str) -> u64 {
    setting(name, default).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn main() {
    let Ok(address) = std::env::var("TLS_ADDRESS") else {
        return println!("nothing to measure: TLS_ADDRESS names no server");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let size = number("TLS_SIZE", "4096") as usize;
    let mut message = b"Subject: load\r\n\r\n".to_vec();
    while message.len() + 66 < size {
        message.extend_from_slice(&[b'x'; 64]);
        message.extend_from_slice(b"\r\n");
    }
    let plan = Plan {
        address,
        mode: setting("TLS_MODE", "starttls"),
        sessions: number("TLS_SESSIONS", "20"),
        messages: number("TLS_MESSAGES", "10000"),
        per_connection: number("TLS_PER_CONNECTION", "0"),
        to: setting("TLS_TO", "u0@example.test"),
        message,
        tls: client(number("TLS_RESUME", "1") != 0),
    };
    runtime.block_on(tokio::task::LocalSet::new().run_until(measure(Arc::new(plan))));
}

fn client(resume: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider))).with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Arc::new(config)
}

async fn measure(plan: Arc<Plan>) {
    let counts = Arc::new(Counts::default());
    let began = Instant::now();
    let sessions: Vec<_> = (0..plan.sessions).map(|_| tokio::task::spawn_local(session(plan.clone(), counts.clone()))).collect();
    let mut waits = Vec::new();
    let mut failed = Vec::new();
    for session in sessions {
        match session.await.expect("a session doesn't panic") {
            Ok(more) => waits.extend(more),
            Err(error) => failed.push(error.to_string()),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at =
        |share: f64| waits.get((waits.len() as f64 * share) as usize).map_or(0.0, |wait: &Duration| wait.as_secs_f64() * 1e3);
    let accepted = counts.accepted.load(Ordering::Relaxed);
    println!(
        "{{\"mode\":\"{}\",\"sessions\":{},\"accepted\":{accepted},\"seconds\":{seconds:.3},\"rate\":{:.0},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\
         \"connections\":{},\"resumed\":{},\"failed\":{failed:?}}}",
        plan.mode,
        plan.sessions,
        accepted as f64 / seconds,
        at(0.5),
        at(0.99),
        counts.connections.load(Ordering::Relaxed),
        counts.resumed.load(Ordering::Relaxed),
    );
}

/// Takes connections one after another until all messages are sent; how long each final dot waited for its reply.
async fn session(plan: Arc<Plan>, counts: Arc<Counts>) -> io::Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while counts.begun.load(Ordering::Relaxed) < plan.messages {
        let mut talk = connect(&plan, &counts).await?;
        let mut sent = 0;
        while (plan.per_connection == 0 || sent < plan.per_connection)
            && counts.begun.fetch_add(1, Ordering::Relaxed) < plan.messages
        {
            talk.say(b"MAIL FROM:<load@example.test>\r\n", 250).await?;
            talk.say(format!("RCPT TO:<{}>\r\n", plan.to).as_bytes(), 250).await?;
            talk.say(b"DATA\r\n", 354).await?;
            let began = Instant::now();
            talk.say(&[&plan.message[..], b".\r\n"].concat(), 250).await?;
            waits.push(began.elapsed());
            counts.accepted.fetch_add(1, Ordering::Relaxed);
            sent += 1;
        }
        talk.say(b"QUIT\r\n", 221).await?;
    }
    Ok(waits)
}

async fn connect(plan: &Plan, counts: &Counts) -> io::Result<Talk> {
    let plain = TcpStream::connect(&plan.address).await?;
    plain.set_nodelay(true)?;
    counts.connections.fetch_add(1, Ordering::Relaxed);
    let mut talk = match plan.mode.as_str() {
        "implicit" => Talk::new(secure(plan, counts, plain).await?).greeted().await?,
        "starttls" => {
            let mut talk = Talk::new(plain).greeted().await?;
            talk.say(b"EHLO load.example.test\r\n", 250).await?;
            talk.say(b"STARTTLS\r\n", 220).await?;
            Talk::new(secure(plan, counts, talk.stream).await?)
        }
        _ => Talk::new(Box::pin(plain) as Pin<Box<dyn Stream>>).greeted().await?,
    };
    talk.say(b"EHLO load.example.test\r\n", 250).await?;
    Ok(talk)
}

async fn secure(plan: &Plan, counts: &Counts, plain: TcpStream) -> io::Result<Pin<Box<dyn Stream>>> {
    let name = ServerName::try_from("mx.bench.test").expect("a name");
    let stream = TlsConnector::from(plan.tls.clone()).connect(name, plain).await?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    counts.resumed.fetch_add(u64::from(resumed), Ordering::Relaxed);
    Ok(Box::pin(stream))
}

/// A connection, and what was read of a reply.
struct Talk<S = Pin<Box<dyn Stream>>> {
    stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    async fn greeted(mut self) -> io::Result<Self> {
        self.hear(220).await?;
        Ok(self)
    }

    async fn say(&mut self, octets: &[u8], wanted: u16) -> io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await?;
        self.hear(wanted).await
    }

    /// Reads one reply, of one or more lines.
    async fn hear(&mut self, wanted: u16) -> io::Result<()> {
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !self.read.ends_with(b"\r\n") {
                continue;
            }
            let last = self.read[..self.read.len() - 2].rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
            if last.get(3) == Some(&b'-') {
                continue;
            }
            let code = last.get(..3).and_then(|code| std::str::from_utf8(code).ok()).and_then(|code| code.parse::<u16>().ok());
            let text = || format!("wanted {wanted}, got {}", String::from_utf8_lossy(last));
            return if code == Some(wanted) { Ok(()) } else { Err(io::Error::other(text())) };
        }
    }
}

/// Takes any certificate; signatures are still verified, because that is work that a handshake costs.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
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
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
