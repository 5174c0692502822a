//! Answers control requests on the Unix socket by asking an [`Admin`].
//!
//! State: the socket file, removed when the server is dropped, and the open connections. Only root and the server's own user
//! are let in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;

use super::protocol::{Chosen, PIECE_SIZE, REQUEST_SIZE_MAX, Request, Response, read_line, to_line};
use super::{Admin, MessageView, Query, Selection, stats_rows};
use crate::mail::QueueId;
use crate::spool::Filter;
use crate::system::{BoxStream, UnixDoor};

/// Connections at a time; the next is told so and closed.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a client may leave an answer unread.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// Wait after an accept that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Messages that are asked of the admin at a time, so that no listing is whole in memory.
const PAGE: usize = 500;

/// Makes the control socket, mode 0600. A socket file that is left over is removed if nothing answers there; if something
/// answers, the error is `AddrInUse`: another server runs.
pub async fn bind(path: &Path) -> io::Result<UnixDoor> {
    UnixDoor::bind(path).await
}

/// The control socket's accept loop.
pub struct Server {
    door: UnixDoor,
    admin: Arc<dyn Admin>,
}

impl Server {
    /// Will answer on `door`.
    pub fn new(door: UnixDoor, admin: Arc<dyn Admin>) -> Self {
        Self { door, admin }
    }

    /// Answers until it is dropped; dropping it also ends the connections.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = connections.join_next() => {}
                accepted = self.door.accept() => match accepted {
                    Ok(stream) if connections.len() < CONNECTIONS_MAX => {
                        connections.spawn(Connection::new(stream, self.admin.clone()).run());
                    }
                    Ok(stream) => {
                        let mut connection = Connection::new(stream, self.admin.clone());
                        connections.spawn(async move {
                            let _ = connection.refuse("too many control connections; try again later").await;
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
}

struct Connection {
    stream: BufReader<BoxStream>,
    admin: Arc<dyn Admin>,
}

impl Connection {
    fn new(stream: BoxStream, admin: Arc<dyn Admin>) -> Self {
        Self { stream: BufReader::new(stream), admin }
    }

    /// Answers requests until the client is gone, silent or wrong. A client's trouble is its own: nobody else is told.
    async fn run(mut self) {
        loop {
            let request = match tokio::time::timeout(IDLE_MAX, read_line(&mut self.stream, REQUEST_SIZE_MAX)).await {
                Ok(Ok(Some(request))) => request,
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    let _ = self.refuse(&format!("not a request that this version knows: {error}")).await;
                    return;
                }
                _ => return,
            };
            if self.answer(request).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, request: Request) -> io::Result<()> {
        let admin = self.admin.clone();
        match request {
            Request::List { query } => self.list(query).await,
            Request::Content { id, size_max } => self.content(id, size_max).await,
            Request::Show { id } => {
                let message = admin.message(id).await;
                let shown = |message| Response::Message(MessageView::shown(&message, &admin.config().retry));
                self.say(message.map(|message| message.map_or(Response::Unknown, shown))).await
            }
            Request::Stats => {
                let stats = admin.stats().await;
                let (paused, sites) = (admin.paused().await, admin.sites().await);
                let answer = |stats| Ok(Response::Stats { rows: stats_rows(&stats), paused: paused?, sites: sites? });
                self.say(stats.and_then(answer)).await
            }
            Request::Site { destination, sender } => {
                let state = admin.site(destination, sender).await;
                self.say(state.map(|state| Response::Site { state })).await
            }
            Request::Change { verb, selection } => {
                let selection = match selection {
                    Chosen::Ids(ids) => Selection::Ids(ids),
                    Chosen::Filter(query) => Selection::Filter(query.into()),
                    Chosen::All => Selection::All,
                };
                let changed = admin.change(verb, selection).await;
                self.say(changed.map(Response::Changed)).await
            }
            Request::Pause { domain } => self.say(admin.pause(domain).await.map(|()| Response::Done)).await,
            Request::Resume { domain } => self.say(admin.resume(domain).await.map(|()| Response::Done)).await,
            Request::Reload => match admin.reload().await {
                Ok(()) => self.say(Ok(Response::Done)).await,
                Err(problems) => self.send(&Response::Refused { problems }).await,
            },
            Request::Health => self.say(Ok(Response::Health(admin.health().await))).await,
        }
    }

    /// Page by page: what arrives meanwhile may or may not be listed, what stays is listed once.
    async fn list(&mut self, query: Query) -> io::Result<()> {
        let mut filter = Filter::from(query);
        let mut left = filter.limit.unwrap_or(usize::MAX);
        while left > 0 {
            let page = left.min(PAGE);
            filter.limit = Some(page);
            let messages = match self.admin.list(filter.clone()).await {
                Ok(messages) => messages,
                Err(problem) => return self.refuse(&problem).await,
            };
            let retry = self.admin.config().retry.clone();
            let mut lines = Vec::new();
            // What has nothing open left is as good as gone: an attempt in flight keeps it for a moment.
            for message in messages.iter().filter(|message| !message.is_done()) {
                lines.extend(to_line(&Response::Message(MessageView::listed(message, &retry)))?);
                left -= 1;
                // A write for each would cost more than all else.
                if lines.len() >= PIECE_SIZE {
                    self.write(&lines).await?;
                    lines.clear();
                }
            }
            self.write(&lines).await?;
            match messages.last() {
                Some(last) if messages.len() >= page => filter.after = Some(last.id),
                _ => break,
            }
        }
        self.say(Ok(Response::End)).await
    }

    /// If the content can't be read to its end, the connection is closed: the client sees that bytes are missing.
    async fn content(&mut self, id: QueueId, size_max: u64) -> io::Result<()> {
        let content = match self.admin.content(id).await {
            Ok(Some(content)) => content,
            Ok(None) => return self.say(Ok(Response::Unknown)).await,
            Err(problem) => return self.refuse(&problem).await,
        };
        let size = content.size().min(size_max);
        self.say(Ok(Response::Content { size })).await?;
        let mut offset = 0;
        while offset < size {
            let wanted = usize::try_from(size - offset).unwrap_or(PIECE_SIZE).min(PIECE_SIZE);
            let piece = content.read_at(offset, wanted).await?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.write(&piece).await?;
            offset += piece.len() as u64;
        }
        self.flush().await
    }

    async fn say(&mut self, result: Result<Response, String>) -> io::Result<()> {
        match result {
            Ok(response) => {
                self.send(&response).await?;
                self.flush().await
            }
            Err(problem) => self.refuse(&problem).await,
        }
    }

    async fn refuse(&mut self, problem: &str) -> io::Result<()> {
        self.send(&Response::Refused { problems: vec![problem.to_owned()] }).await?;
        self.flush().await
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let line = to_line(response)?;
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(WRITE_MAX, self.stream.write_all(bytes)).await?
    }

    async fn flush(&mut self) -> io::Result<()> {
        tokio::time::timeout(WRITE_MAX, self.stream.flush()).await?
    }
}
