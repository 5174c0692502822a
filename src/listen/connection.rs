//! Drives one server session over one connection: carries bytes in and out, and questions to those who can answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::transaction::Transaction;
use super::{Reception, Rules, stopped};
use crate::event::Event;
use crate::smtp::server::{Session, Step};
use crate::system::BoxStream;

/// An idle session costs this much buffer; one that sends much gets more.
const BUFFER_SIZE_MIN: usize = 4 * 1024;
const BUFFER_SIZE_MAX: usize = 64 * 1024;

/// Runs the session to its end. A lost connection is an end like another.
pub(super) async fn drive(
    reception: &Reception,
    rules: &Arc<Rules>,
    stream: BoxStream,
    peer: SocketAddr,
    stop: watch::Receiver<bool>,
) {
    let began = reception.system.clock.monotonic();
    reception.events.report(Event::Connected { client: peer, service: "mx" });
    let session = Session::new(began, Arc::clone(&rules.settings));
    let mut transaction = Transaction::new(reception, rules, peer.ip().to_canonical());
    let stopped = *stop.borrow();
    let mut connection = Connection { reception, rules, stream, session, stop, stopped, buffer: vec![0; BUFFER_SIZE_MIN] };
    if stopped {
        connection.session.stop();
    }
    // Whatever ended it, a draft that was not committed goes with the transaction.
    let reason = match connection.run(&mut transaction).await {
        Ok(()) => "closed",
        Err(Lost) => "lost",
    };
    reception.events.report(Event::Disconnected {
        client: peer,
        messages: transaction.messages(),
        duration: reception.system.clock.monotonic().saturating_sub(began),
        reason: reason.to_owned(),
    });
}

struct Connection<'a> {
    reception: &'a Reception,
    rules: &'a Rules,
    stream: BoxStream,
    session: Session,
    stop: watch::Receiver<bool>,
    stopped: bool,
    buffer: Vec<u8>,
}

/// The client went away.
struct Lost;

impl Connection<'_> {
    async fn run(&mut self, transaction: &mut Transaction<'_>) -> Result<(), Lost> {
        loop {
            match self.session.next() {
                Step::Send(bytes) => self.send(&bytes).await?,
                Step::Ask(question) => {
                    let answer = transaction.answer(question).await;
                    self.session.answer(self.now(), answer);
                }
                Step::Body(chunk) => transaction.body(&chunk).await,
                Step::Discard => transaction.discard(),
                Step::NeedInput => self.input().await?,
                Step::Close => {
                    let _ = tokio::time::timeout(self.rules.settings.command_timeout, self.stream.shutdown()).await;
                    return Ok(());
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.reception.system.clock.monotonic()
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.rules.settings.command_timeout, write).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Lost),
        }
    }

    /// Waits for bytes, the session's deadline, or the server's stop.
    async fn input(&mut self) -> Result<(), Lost> {
        let wait = self.session.deadline().map_or(Duration::MAX, |deadline| deadline.saturating_sub(self.now()));
        if wait.is_zero() {
            // Also for a client that always has something to read.
            self.session.tick(self.now());
            return Ok(());
        }
        let read = tokio::select! {
            biased;
            () = stopped(&mut self.stop), if !self.stopped => {
                self.stopped = true;
                self.session.stop();
                return Ok(());
            }
            read = self.stream.read(&mut self.buffer) => Some(read),
            () = tokio::time::sleep(wait) => None,
        };
        let now = self.now();
        match read {
            None => self.session.tick(now),
            Some(Ok(0) | Err(_)) => return Err(Lost),
            Some(Ok(size)) => {
                self.session.receive(now, &self.buffer[..size]);
                self.fit_buffer(size);
            }
        }
        Ok(())
    }

    /// A read that filled the buffer announces more; a small one lets the memory go again.
    fn fit_buffer(&mut self, size: usize) {
        let current = self.buffer.len();
        if size == current && current < BUFFER_SIZE_MAX {
            self.buffer.resize(current * 4, 0);
        } else if size < BUFFER_SIZE_MIN / 2 && current > BUFFER_SIZE_MIN {
            self.buffer.truncate(BUFFER_SIZE_MIN);
            self.buffer.shrink_to_fit();
        }
    }
}
