//! One connection to a next hop: moves bytes between a stream and the client session, within the session's deadlines. State: the two.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::Host;
use super::passwords::Passwords;
use crate::config::RemoteTls;
use crate::mail::{Cause, Diagnosis, Domain, EnhancedCode, Outcome};
use crate::smtp::client::{Extensions, KeyWork, Session, Settings, Step, Transaction};
use crate::system::{BoxStream, Clock, Content, Endpoint, Established, System, TlsClient};

/// Octets of content in memory for a connection.
const PIECE_SIZE: usize = 64 * 1024;
/// Octets read at a time: replies are short.
const READ_SIZE: usize = 4096;
/// For a goodbye to go out, where the session waits for nothing any more.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a host is called.
pub(super) struct Call<'a> {
    pub(super) system: &'a System,
    pub(super) tls: &'a dyn TlsClient,
    pub(super) passwords: &'a Passwords,
    pub(super) settings: Settings,
    pub(super) connect_timeout: Duration,
    /// Our own address to call from; none: the system chooses.
    pub(super) source: Option<IpAddr>,
    /// TLS from the first octet.
    pub(super) implicit_tls: bool,
    /// The certificate has to be the host's.
    pub(super) verify: bool,
    /// The host's name is one that nobody could have put in our way.
    pub(super) certain: bool,
}

/// Why there is no connection.
pub(super) struct Unopened {
    pub(super) diagnosis: Diagnosis,
    /// For want of TLS.
    pub(super) insecure: bool,
    /// The host is ourselves.
    pub(super) ourselves: bool,
}

/// A connected session.
pub(super) struct Connection {
    stream: BoxStream,
    /// How it is encrypted; none: it isn't.
    secured: Option<Established>,
    session: Session,
    clock: Arc<dyn Clock>,
    buffer: Box<[u8]>,
    endpoint: Endpoint,
    source: Option<IpAddr>,
    next_hop: String,
    /// Its host's name was one that nobody could have put in our way.
    certain: bool,
    opened: Duration,
    /// How many transactions it has carried.
    transactions: u32,
}

/// What the driving loop stops at.
enum Event {
    StartTls,
    WorkOut(KeyWork),
    NeedContent,
    Ready,
    Finished(Vec<Outcome>),
    Refused(Diagnosis),
    Closed,
}

/// What a write came to.
enum Exchange {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
}

/// What the system says, without its number: senders read this in bounces.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl Connection {
    /// Connects and says hello, over TLS where that is wanted; the diagnosis says why the next host is to be tried.
    pub(super) async fn open(call: Call<'_>, host: &Host) -> Result<Self, Unopened> {
        let Call { system, settings, connect_timeout, source, .. } = &call;
        let next_hop = next_hop(host);
        let unreachable = |text: String| {
            let diagnosis = Diagnosis::new(EnhancedCode(4, 4, 1), Cause::Connection, text).at(next_hop.as_str());
            Unopened { diagnosis, insecure: false, ourselves: false }
        };
        let stream = match timeout(*connect_timeout, system.net.connect(&host.endpoint, *source)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
                return Err(unreachable(format!("can't connect{from}: {}", plain(&error))));
            }
            Err(_) => return Err(unreachable(format!("can't connect within {} s", connect_timeout.as_secs_f64()))),
        };
        let mut connection = Self {
            stream,
            secured: None,
            session: Session::new(system.clock.monotonic(), settings.clone()),
            clock: system.clock.clone(),
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            endpoint: host.endpoint.clone(),
            source: *source,
            next_hop,
            certain: call.certain,
            opened: system.clock.monotonic(),
            transactions: 0,
        };
        if call.implicit_tls {
            match connection.handshake(&call, host).await {
                Ok(verified) => connection.session.encrypted(verified),
                Err(why) => {
                    let text = format!("TLS can't be established: {why}");
                    let diagnosis = Diagnosis::new(EnhancedCode(4, 7, 5), Cause::Connection, text).at(connection.next_hop);
                    return Err(Unopened { diagnosis, insecure: true, ourselves: false });
                }
            }
        }
        let diagnosis = loop {
            match connection.run().await {
                Event::Ready => return Ok(connection),
                Event::StartTls => connection.secure(&call, host).await,
                Event::WorkOut(work) => connection.work_out(&call, &work).await,
                Event::Refused(diagnosis) => {
                    // The session may have a QUIT to say; nobody waits for its answer.
                    connection.run().await;
                    break diagnosis;
                }
                Event::NeedContent | Event::Finished(_) | Event::Closed => {
                    break Diagnosis::new(EnhancedCode(4, 4, 2), Cause::Connection, "the connection was closed");
                }
            }
        };
        let (insecure, ourselves) = (connection.session.is_insecure(), connection.session.is_ourselves());
        Err(Unopened { diagnosis: diagnosis.at(connection.next_hop), insecure, ourselves })
    }

    /// Works out the key that the login needs.
    async fn work_out(&mut self, call: &Call<'_>, work: &KeyWork) {
        let key = match &call.settings.login {
            Some(login) => call.passwords.key(call.system.workers, &login.password, work).await,
            None => Err("there is no password"),
        };
        self.session.worked_out(self.clock.monotonic(), key);
    }

    /// Makes the TLS handshake that the server agreed to.
    async fn secure(&mut self, call: &Call<'_>, host: &Host) {
        match self.handshake(call, host).await {
            Ok(verified) => self.session.secured(self.clock.monotonic(), verified),
            Err(why) => self.session.unsecured(self.clock.monotonic(), &why),
        }
    }

    /// Makes the TLS handshake. Whether the server has shown that it is the one we mean; or why there is no TLS.
    async fn handshake(&mut self, call: &Call<'_>, host: &Host) -> Result<bool, String> {
        let plain: BoxStream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let name = Domain::parse(&host.name).map_err(|error| error.to_string())?;
        let made = timeout(call.connect_timeout, call.tls.connect(plain, &name)).await;
        let made = made.map_err(|_| "the handshake took too long".to_owned())?;
        let (stream, established) = made.map_err(|error| error.to_string())?;
        if let (Err(why), true) = (&established.verified, call.verify) {
            return Err(format!("the certificate doesn't show that this is {}: {why}", host.name));
        }
        let verified = established.verified.is_ok() && call.certain;
        (self.stream, self.secured) = (stream, Some(established));
        Ok(verified)
    }

    /// How it is encrypted; none: it isn't.
    pub(super) fn secured(&self) -> Option<&Established> {
        self.secured.as_ref()
    }

    /// Whether it was called by a name that nobody could have put in our way.
    pub(super) fn is_certain(&self) -> bool {
        self.certain
    }

    /// Why it isn't encrypted, though the server had offered it.
    pub(super) fn declined(&self) -> Option<&str> {
        self.session.declined()
    }

    /// Whether it is encrypted as well as this asks for.
    pub(super) fn serves(&self, tls: RemoteTls) -> bool {
        match (tls, &self.secured) {
            (RemoteTls::None | RemoteTls::Opportunistic, _) => true,
            (RemoteTls::Require, secured) => secured.is_some(),
            (RemoteTls::Verify, secured) => secured.as_ref().is_some_and(|secured| secured.verified.is_ok()),
        }
    }

    /// Carries a message over. One outcome for each of the transaction's recipients, in their order.
    pub(super) async fn transact(&mut self, transaction: Transaction, content: &dyn Content) -> Vec<Outcome> {
        let count = transaction.recipients.len();
        self.transactions += 1;
        self.session.begin(self.clock.monotonic(), transaction);
        loop {
            match self.run().await {
                Event::NeedContent => self.feed(content).await,
                Event::Finished(outcomes) => return outcomes.into_iter().map(|outcome| self.sign(outcome)).collect(),
                // A session finishes what it began before it says anything else.
                Event::StartTls | Event::WorkOut(_) | Event::Ready | Event::Refused(_) | Event::Closed => {
                    let diagnosis = Diagnosis::new(EnhancedCode(4, 4, 2), Cause::Connection, "the connection was closed");
                    return vec![self.sign(Outcome::Deferred(diagnosis)); count];
                }
            }
        }
    }

    /// Says goodbye, and waits a moment for the answer.
    pub(super) async fn quit(mut self) {
        self.session.quit(self.clock.monotonic());
        let _ = timeout(GOODBYE_TIMEOUT, self.run()).await;
    }

    /// Whether another transaction may begin.
    pub(super) fn is_ready(&mut self) -> bool {
        matches!(self.session.next(), Step::Ready)
    }

    /// How long it has been open.
    pub(super) fn age(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.opened)
    }

    /// See `Session::is_used_up`.
    pub(super) fn is_used_up(&self) -> bool {
        self.session.is_used_up()
    }

    /// Whether nothing came from the server since the last transaction: neither its end, nor a word out of turn.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut space = ReadBuf::new(&mut self.buffer);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut space).is_pending()
    }

    /// Whether the connection had died before the transaction that just failed began: it was used before, and the server said nothing.
    pub(super) fn was_stale(&self) -> bool {
        self.is_reused() && !self.session.is_heard()
    }

    /// Whether an earlier message went over it.
    pub(super) fn is_reused(&self) -> bool {
        self.transactions > 1
    }

    /// See `Session::is_unanswered`.
    pub(super) fn is_unanswered(&self, recipient: usize) -> bool {
        self.session.is_unanswered(recipient)
    }

    /// What the server offers.
    pub(super) fn extensions(&self) -> Extensions {
        self.session.extensions()
    }

    /// The server's name and address.
    pub(super) fn next_hop(&self) -> &str {
        &self.next_hop
    }

    /// Whether it goes to this host, by this name.
    pub(super) fn is_to(&self, host: &Host) -> bool {
        self.endpoint == host.endpoint && self.next_hop == next_hop(host)
    }

    /// Whether it comes from one of these addresses of ours; no address: from whatever one.
    pub(super) fn comes_from(&self, sources: &[IpAddr]) -> bool {
        self.source.map_or(sources.is_empty(), |source| sources.contains(&source))
    }

    /// The address of ours that it comes from, if one was chosen.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    async fn run(&mut self) -> Event {
        loop {
            match self.session.next() {
                Step::Send(bytes) => self.write(&bytes).await,
                Step::NeedInput => self.read().await,
                Step::StartTls => return Event::StartTls,
                Step::WorkOut(work) => return Event::WorkOut(work),
                Step::NeedContent => return Event::NeedContent,
                Step::Ready => return Event::Ready,
                Step::Finished(outcomes) => return Event::Finished(outcomes),
                Step::Refused(diagnosis) => return Event::Refused(diagnosis),
                Step::Closed => return Event::Closed,
            }
        }
    }

    /// Gives the session the next piece of content; with the last one its end, so that both go out together.
    async fn feed(&mut self, content: &dyn Content) {
        let (position, room) = self.session.content_wanted();
        let size_max = PIECE_SIZE.min(usize::try_from(room).unwrap_or(usize::MAX));
        let piece = content.read_at(position, size_max).await.unwrap_or_default();
        let now = self.clock.monotonic();
        if piece.is_empty() && position < content.size() {
            return self.session.content_failed(now);
        }
        self.session.content(now, &piece);
        if position + piece.len() as u64 >= content.size() {
            self.session.content_end(now);
        }
    }

    async fn read(&mut self) {
        let read = timeout(self.time_left(), self.stream.read(&mut self.buffer)).await;
        match read {
            Ok(read) => self.received(read),
            Err(_) => self.session.tick(self.clock.monotonic()),
        }
    }

    /// A last word, whose answer nobody waits for.
    async fn say_goodbye(&mut self, bytes: &[u8]) {
        let stream = &mut self.stream;
        let say = async move {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        // Nothing depends on whether it was heard.
        let _ = timeout(GOODBYE_TIMEOUT, say).await;
    }

    /// Writes all bytes, and takes what comes meanwhile: a server that stops reading in order to say no must be heard.
    async fn write(&mut self, bytes: &[u8]) {
        if self.session.is_closed() {
            return self.say_goodbye(bytes).await;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match timeout(self.time_left(), exchange(&mut self.stream, rest, &mut self.buffer)).await {
                Ok(Exchange::Wrote(Ok(written @ 1..))) => rest = &rest[written..],
                Ok(Exchange::Wrote(result)) => {
                    let why = result.err().map_or_else(|| "nothing can be written".to_owned(), |error| error.to_string());
                    return self.broken(&why).await;
                }
                Ok(Exchange::Read(read)) => self.received(read),
                Err(_) => self.session.tick(self.clock.monotonic()),
            }
            if self.session.is_closed() {
                // It came to its end meanwhile: what is left is of no use to anybody.
                return;
            }
        }
        // TCP and Unix sockets have nothing to flush; TLS has.
        if let Ok(Err(error)) = timeout(self.time_left(), self.stream.flush()).await {
            self.broken(&error.to_string()).await;
        }
    }

    /// Writing failed. What the server said before it closed may still lie here, and is the better reason.
    async fn broken(&mut self, why: &str) {
        while self.session.deadline().is_some() {
            match timeout(self.time_left(), self.stream.read(&mut self.buffer)).await {
                Ok(Ok(size @ 1..)) => self.received(Ok(size)),
                _ => return self.session.closed(self.clock.monotonic(), why),
            }
        }
        self.session.closed(self.clock.monotonic(), why);
    }

    fn received(&mut self, read: io::Result<usize>) {
        let now = self.clock.monotonic();
        match read {
            Ok(0) => self.session.closed(now, "the server closed it"),
            Ok(size) => self.session.receive(now, &self.buffer[..size]),
            Err(error) => self.session.closed(now, &error.to_string()),
        }
    }

    fn time_left(&self) -> Duration {
        let now = self.clock.monotonic();
        self.session.deadline().map_or(GOODBYE_TIMEOUT, |deadline| deadline.saturating_sub(now))
    }

    /// The outcome, said of this next hop.
    pub(super) fn sign(&self, outcome: Outcome) -> Outcome {
        let next_hop = self.next_hop.as_str();
        match outcome {
            Outcome::Delivered(diagnosis) => Outcome::Delivered(diagnosis.at(next_hop)),
            Outcome::Deferred(diagnosis) => Outcome::Deferred(diagnosis.at(next_hop)),
            Outcome::Failed(diagnosis) => Outcome::Failed(diagnosis.at(next_hop)),
            Outcome::InDoubt(diagnosis) => Outcome::InDoubt(diagnosis.at(next_hop)),
        }
    }
}

/// Writes what goes; while nothing does, reads.
async fn exchange(stream: &mut BoxStream, bytes: &[u8], buffer: &mut [u8]) -> Exchange {
    poll_fn(|context| {
        if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(context, bytes) {
            return Poll::Ready(Exchange::Wrote(written));
        }
        let mut space = ReadBuf::new(buffer);
        match Pin::new(&mut *stream).poll_read(context, &mut space) {
            Poll::Ready(read) => Poll::Ready(Exchange::Read(read.map(|()| space.filled().len()))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// `mx1.example.org [192.0.2.1]:25`; where the name is the address, only once; a Unix socket by its path.
fn next_hop(host: &Host) -> String {
    match &host.endpoint {
        Endpoint::Tcp(address) if host.name.trim_matches(['[', ']']) == address.ip().to_string() => {
            format!("[{}]:{}", address.ip(), address.port())
        }
        Endpoint::Tcp(address) => format!("{} [{}]:{}", host.name, address.ip(), address.port()),
        Endpoint::Unix(_) => host.endpoint.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sim::{World, run};

    /// A session that was greeted with a refusal, over a stream that takes three octets.
    fn refused(stream: tokio::io::DuplexStream) -> Connection {
        let system = World::new(1).system(Arc::new(crate::system::SystemDisk));
        let settings = Settings {
            hello: Domain::parse("us.test").unwrap(),
            lmtp: false,
            starttls: crate::smtp::client::StartTls::Never,
            timeouts: crate::smtp::client::Timeouts::of(Duration::from_secs(300)),
            mark: None,
            login: None,
        };
        let mut session = Session::new(system.clock.monotonic(), settings);
        session.receive(system.clock.monotonic(), b"554 5.7.1 not you\r\n");
        Connection {
            stream: Box::new(stream),
            secured: None,
            session,
            clock: system.clock,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
            endpoint: Endpoint::Tcp("192.0.2.1:25".parse().unwrap()),
            source: None,
            next_hop: "mx.test".to_owned(),
            certain: true,
            opened: Duration::ZERO,
            transactions: 0,
        }
    }

    #[test]
    fn a_goodbye_is_said_in_a_moment_or_not_at_all() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(3);
            let mut connection = refused(ours);
            let flood = tokio::spawn(async move {
                // It talks and talks, and never listens.
                while theirs.write_all(b"554 5.7.1 not you\r\n").await.is_ok() {}
            });
            let began = tokio::time::Instant::now();
            assert!(matches!(connection.run().await, Event::Refused(_)));
            assert!(began.elapsed() <= GOODBYE_TIMEOUT, "{:?}", began.elapsed());
            drop(connection);
            flood.await.unwrap();
        });
    }

    #[test]
    fn the_systems_words_lose_their_number() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(plain(&refused), "Connection refused");
        assert_eq!(plain(&std::io::Error::other("odd")), "odd");
    }
}
