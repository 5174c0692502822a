//! Drives one server session over one connection: carries bytes in and out, and questions to those who can answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::limits::Refusal;
use super::transaction::Transaction;
use super::{Entrance, Reception, Rules, is_in, stopped};
use crate::config::Limits;
use crate::event::Event;
use crate::mail::Service;
use crate::smtp::server::{Bound, Session, Settings, Step};
use crate::system::{BoxFuture, BoxStream};

/// Octets that are read at once, at the most.
const READ_SIZE: usize = 64 * 1024;

/// How long a client whose session we ended may take to read our last words.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// Where reads land before the session takes them. All sessions of a thread share it: an idle one costs no buffer.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// Runs the session to its end. A lost connection is an end like another.
pub(super) async fn drive(
    reception: &Reception,
    rules: &Arc<Rules>,
    entrance: Entrance,
    stream: BoxStream,
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
) {
    let Entrance { settings, implicit_tls, xclient, .. } = entrance;
    let began = reception.system.clock.monotonic();
    reception.events.report(Event::Connected { client: peer, service: settings.service.as_str() });
    let mut session = Session::new(began, Arc::clone(&settings));
    session.set_wall_clock(reception.system.clock.now());
    if is_in(&xclient, peer.ip()) {
        session.trust();
    }
    let mut transaction = Transaction::new(reception, rules, settings.service, peer.ip().to_canonical());
    let stopped = *stopping.borrow();
    if stopped {
        session.stop();
    }
    let stop = (!stopped).then(|| wait_for_stop(stopping.clone()));
    let handshake_timeout = rules.config.limits.handshake_timeout;
    let mut connection =
        Connection { reception, settings, peer, handshake_timeout, stream, session, stopping, stop, alarm: None };
    // Whatever ended it, a draft that was not committed goes with the transaction.
    let reason = match connection.serve(implicit_tls, rules, &mut transaction).await {
        Ok(()) => "closed",
        Err(Lost) => "lost",
    };
    if let Some(bound) = connection.session.broken() {
        let limit = broken_limit(&rules.config.limits, bound);
        reception.limited(Some(peer.ip().to_canonical()), limit);
        if matches!(bound, Bound::Early | Bound::Errors | Bound::Commands) {
            connection.linger().await;
        }
    }
    reception.events.report(Event::Disconnected {
        client: peer,
        messages: transaction.messages(),
        duration: reception.system.clock.monotonic().saturating_sub(began),
        reason: reason.to_owned(),
    });
}

/// The setting that a session broke.
fn broken_limit(limits: &Limits, bound: Bound) -> Refusal {
    let (limit, value) = match bound {
        Bound::Early => ("limits.greeting_delay", limits.greeting_delay.as_secs()),
        Bound::Errors => ("limits.errors", limits.errors.into()),
        Bound::Commands => ("limits.commands", limits.commands.into()),
        Bound::Hello => ("limits.hello_timeout", limits.hello_timeout.as_secs()),
        Bound::Command => ("limits.command_timeout", limits.command_timeout.as_secs()),
        Bound::Data => ("limits.data_timeout", limits.data_timeout.as_secs()),
        Bound::Pace => ("limits.data_pace", limits.data_pace.into()),
        Bound::Transaction => ("limits.transaction_timeout", limits.transaction_timeout.as_secs()),
    };
    Refusal { limit, value }
}

fn wait_for_stop(mut stop: watch::Receiver<bool>) -> BoxFuture<'static, ()> {
    Box::pin(async move { stopped(&mut stop).await })
}

struct Connection<'a> {
    reception: &'a Reception,
    settings: Arc<Settings>,
    peer: SocketAddr,
    handshake_timeout: Duration,
    stream: BoxStream,
    session: Session,
    /// Whether the server stops.
    stopping: watch::Receiver<bool>,
    /// Ready when it does; none once the session knows of it.
    stop: Option<BoxFuture<'static, ()>>,
    /// Rings at the session's deadline, or before it: deadlines mostly move on, and it is set anew only when it has rung.
    alarm: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// The client went away.
struct Lost;

impl Connection<'_> {
    async fn serve(&mut self, implicit_tls: bool, rules: &Rules, transaction: &mut Transaction<'_>) -> Result<(), Lost> {
        if implicit_tls {
            self.secure(transaction).await?;
        } else if let Some(delay) = self.greeting_delay(rules) {
            // Ends early for a client that can't wait: what it said is a reason not to greet it.
            let _ = tokio::time::timeout(delay, poll_fn(|context| self.poll_input(context))).await;
        }
        self.run(transaction).await
    }

    /// How long the greeting waits for this client to talk before it: only on port 25, and not for our own.
    fn greeting_delay(&self, rules: &Rules) -> Option<Duration> {
        let (delay, client) = (rules.config.limits.greeting_delay, self.peer.ip().to_canonical());
        let ours = client.is_loopback() || rules.config.relay.networks.iter().any(|network| network.contains(&client));
        (self.settings.service == Service::Mx && !ours && !delay.is_zero()).then_some(delay)
    }

    /// Makes the TLS handshake; one that fails is the connection's end.
    async fn secure(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Lost> {
        // The certificate that is in use now, not when the connection began.
        let server = self.reception.tls.borrow().clone();
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let handshake = async move {
            match server {
                Some(server) => server.accept(plain).await,
                None => Err(io::Error::other("there is no certificate")),
            }
        };
        let made = tokio::time::timeout(self.handshake_timeout, self.reception.crew.aside(handshake)).await;
        let failed = match made {
            Ok(Ok((stream, tls))) => {
                self.stream = stream;
                transaction.secured(tls.clone());
                self.session.secured(self.now(), tls);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the client took too long".to_owned(),
        };
        self.reception.events.report(Event::TlsFailed { client: self.peer, reason: failed });
        Err(Lost)
    }

    async fn run(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Lost> {
        loop {
            match self.session.next() {
                Step::Send(bytes) => {
                    self.reception.let_others_go_on().await;
                    self.send(&bytes).await?;
                }
                Step::Ask(question) => {
                    let answer = transaction.answer(question).await;
                    self.session.answer(self.now(), answer);
                }
                Step::Body(chunk) => transaction.body(&chunk).await,
                Step::Discard => transaction.discard(),
                Step::NeedInput => self.input().await?,
                Step::StartTls => self.secure(transaction).await?,
                Step::Close => {
                    let _ = tokio::time::timeout(self.settings.command_timeout, self.stream.shutdown()).await;
                    return Ok(());
                }
            }
        }
    }

    /// A client that was cut off may still be sending: what it sends is read for a moment, as otherwise the system would throw away
    /// our last words together with it.
    async fn linger(&mut self) {
        let _ = tokio::time::timeout(LINGER, async { while self.input().await.is_ok() {} }).await;
    }

    fn now(&self) -> Duration {
        self.reception.system.clock.monotonic()
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.settings.command_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Lost),
        }
    }

    /// Waits for bytes, the session's deadline, or the server's stop.
    async fn input(&mut self) -> Result<(), Lost> {
        let now = self.now();
        if self.session.deadline().is_some_and(|deadline| deadline <= now) {
            // Also for a client that always has something to read.
            self.session.tick(now);
            return Ok(());
        }
        poll_fn(|context| self.poll_input(context)).await
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        // Also for a client that always has something to read.
        if self.stop.is_some() && *self.stopping.borrow() {
            return self.stop();
        }
        let read = READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            read.map(|read| match read {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.session.receive(self.reception.system.clock.monotonic(), buffer.filled());
                    Ok(())
                }
                _ => Err(Lost),
            })
        });
        if read.is_pending() {
            if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready()) {
                return self.stop();
            }
            if self.poll_alarm(context).is_ready() {
                self.session.tick(self.now());
                return Poll::Ready(Ok(()));
            }
        }
        read
    }

    fn stop(&mut self) -> Poll<Result<(), Lost>> {
        self.stop = None;
        self.session.stop();
        Poll::Ready(Ok(()))
    }

    /// Ready when the session's deadline has passed.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.session.deadline() else { return Poll::Pending };
        loop {
            match &mut self.alarm {
                Some((at, alarm)) if *at <= deadline => {
                    std::task::ready!(alarm.as_mut().poll(context));
                    if *at == deadline {
                        return Poll::Ready(());
                    }
                    *at = deadline;
                    let wait = deadline.saturating_sub(self.reception.system.clock.monotonic());
                    alarm.as_mut().set(tokio::time::sleep(wait));
                }
                alarm => {
                    let wait = deadline.saturating_sub(self.reception.system.clock.monotonic());
                    *alarm = Some((deadline, Box::pin(tokio::time::sleep(wait))));
                }
            }
        }
    }
}
