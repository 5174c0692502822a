//! Asks a running server over its control socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::protocol::{Chosen, PIECE_SIZE, RESPONSE_SIZE_MAX, Request, Response, read_line, to_line};
use super::{Changed, Health, MessageView, Paused, Query, SiteState, StatsRow, Verb};
use crate::mail::{Destination, Domain, QueueId, ReversePath};
use crate::system::{BoxStream, Endpoint, Net};

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take: a verb on a large queue is work.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nothing answers at the socket: the server is not running.
    NotRunning(PathBuf),
    /// We may not use the socket.
    Forbidden(PathBuf),
    /// The server said no; each problem is a sentence.
    Refused(Vec<String>),
    /// The connection broke, or the answer made no sense.
    Lost(io::Error),
    /// What came in could not be written to the output.
    Output(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(socket) => write!(f, "the server is not running: nothing answers at {}", socket.display()),
            Self::Forbidden(socket) => write!(f, "no permission to use the control socket {}", socket.display()),
            Self::Refused(problems) => f.write_str(&problems.join("\n")),
            Self::Lost(error) => write!(f, "the connection to the server broke: {error}"),
            Self::Output(error) => write!(f, "can't write: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

type Result<T> = std::result::Result<T, ClientError>;

/// A connection to a running server.
pub struct Client {
    stream: BufReader<BoxStream>,
}

impl Client {
    /// Connects. `NotRunning` if nothing answers there.
    pub async fn connect(net: &dyn Net, socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::Unix(socket.to_owned());
        let connected = tokio::time::timeout(CONNECT_MAX, net.connect(&endpoint, None)).await.map_err(io::Error::from);
        match connected.and_then(|connected| connected) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream) }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket.to_owned()),
                io::ErrorKind::PermissionDenied => ClientError::Forbidden(socket.to_owned()),
                _ => ClientError::Lost(error),
            }),
        }
    }

    /// Asks for a listing; [`Client::next`] brings the messages.
    pub async fn list(&mut self, query: Query) -> Result<()> {
        self.send(&Request::List { query }).await
    }

    /// The listing's next message; none at its end.
    pub async fn next(&mut self) -> Result<Option<MessageView>> {
        match self.receive().await? {
            Response::Message(view) => Ok(Some(view)),
            Response::End => Ok(None),
            _ => Err(astray()),
        }
    }

    /// One message with its details; none: it is not in the queue.
    pub async fn show(&mut self, id: QueueId) -> Result<Option<MessageView>> {
        match self.ask(&Request::Show { id }).await? {
            Response::Message(view) => Ok(Some(view)),
            Response::Unknown => Ok(None),
            _ => Err(astray()),
        }
    }

    /// Writes a message's content, at most `size_max` octets of it; false: it is not in the queue.
    pub async fn content(&mut self, id: QueueId, size_max: u64, out: &mut dyn io::Write) -> Result<bool> {
        let mut left = match self.ask(&Request::Content { id, size_max }).await? {
            Response::Content { size } => size,
            Response::Unknown => return Ok(false),
            _ => return Err(astray()),
        };
        let mut piece = vec![0; PIECE_SIZE];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE_SIZE).min(PIECE_SIZE);
            let read =
                tokio::time::timeout(ANSWER_MAX, self.stream.read(&mut piece[..wanted])).await.map_err(io::Error::from)??;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content ended early").into());
            }
            out.write_all(&piece[..read]).map_err(ClientError::Output)?;
            left -= read as u64;
        }
        Ok(true)
    }

    /// Counts, bytes, ages; what is paused; and what is known of destinations.
    pub async fn stats(&mut self) -> Result<(Vec<StatsRow>, Paused, Vec<SiteState>)> {
        match self.ask(&Request::Stats).await? {
            Response::Stats { rows, paused, sites } => Ok((rows, paused, sites)),
            _ => Err(astray()),
        }
    }

    /// What is known of the site where a sender's mail to a destination goes; none if nothing is.
    pub async fn site(&mut self, destination: Destination, sender: ReversePath) -> Result<Option<SiteState>> {
        match self.ask(&Request::Site { destination, sender }).await? {
            Response::Site { state } => Ok(state),
            _ => Err(astray()),
        }
    }

    /// Carries a verb out on these messages.
    pub async fn change_ids(&mut self, verb: Verb, ids: Vec<QueueId>) -> Result<Changed> {
        self.change(verb, Chosen::Ids(ids)).await
    }

    /// Carries a verb out on the messages that the query means.
    pub async fn change_matching(&mut self, verb: Verb, query: Query) -> Result<Changed> {
        self.change(verb, Chosen::Filter(query)).await
    }

    /// Carries a verb out on the whole queue.
    pub async fn change_all(&mut self, verb: Verb) -> Result<Changed> {
        self.change(verb, Chosen::All).await
    }

    /// Stops delivery attempts, all or to a domain.
    pub async fn pause(&mut self, domain: Option<Domain>) -> Result<()> {
        self.done(&Request::Pause { domain }).await
    }

    /// Starts them again.
    pub async fn resume(&mut self, domain: Option<Domain>) -> Result<()> {
        self.done(&Request::Resume { domain }).await
    }

    /// Has the server read its configuration, users and aliases again.
    pub async fn reload(&mut self) -> Result<()> {
        self.done(&Request::Reload).await
    }

    /// How the server is.
    pub async fn health(&mut self) -> Result<Health> {
        match self.ask(&Request::Health).await? {
            Response::Health(health) => Ok(health),
            _ => Err(astray()),
        }
    }

    async fn change(&mut self, verb: Verb, selection: Chosen) -> Result<Changed> {
        match self.ask(&Request::Change { verb, selection }).await? {
            Response::Changed(changed) => Ok(changed),
            _ => Err(astray()),
        }
    }

    async fn done(&mut self, request: &Request) -> Result<()> {
        match self.ask(request).await? {
            Response::Done => Ok(()),
            _ => Err(astray()),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Response> {
        self.send(request).await?;
        self.receive().await
    }

    async fn send(&mut self, request: &Request) -> Result<()> {
        let line = to_line(request)?;
        self.stream.write_all(&line).await?;
        Ok(self.stream.flush().await?)
    }

    async fn receive(&mut self) -> Result<Response> {
        let answer = tokio::time::timeout(ANSWER_MAX, read_line(&mut self.stream, RESPONSE_SIZE_MAX)).await;
        match answer.map_err(io::Error::from)?? {
            Some(Response::Refused { problems }) => Err(ClientError::Refused(problems)),
            Some(response) => Ok(response),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

fn astray() -> ClientError {
    io::Error::new(io::ErrorKind::InvalidData, "an answer to another question; is the server of another version?").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fake::FakeAdmin;
    use super::super::{Server, bind};
    use super::*;
    use crate::mail::MessageState;
    use crate::system::SystemNet;

    async fn pair() -> (Client, Arc<FakeAdmin>, tempfile::TempDir) {
        pair_with(FakeAdmin::with_messages(1203)).await
    }

    async fn pair_with(admin: FakeAdmin) -> (Client, Arc<FakeAdmin>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let admin = Arc::new(admin);
        let server = Server::new(bind(&socket).await.unwrap(), admin.clone());
        tokio::spawn(server.run());
        (Client::connect(&SystemNet, &socket).await.unwrap(), admin, folder)
    }

    async fn ids(client: &mut Client, query: Query) -> Vec<u64> {
        client.list(query).await.unwrap();
        let mut ids = Vec::new();
        while let Some(view) = client.next().await.unwrap() {
            ids.push(view.id.0);
        }
        ids
    }

    #[tokio::test]
    async fn listings_come_in_pages_and_obey_filter_and_limit() {
        let (mut client, _, _folder) = pair().await;
        assert_eq!(ids(&mut client, Query::default()).await, (1..=1203).collect::<Vec<_>>());
        let held = Query { state: Some(MessageState::Held), ..Query::default() };
        assert_eq!(ids(&mut client, held.clone()).await, (1..=1203).filter(|id| id % 10 == 0).collect::<Vec<_>>());
        assert_eq!(ids(&mut client, Query { limit: Some(2), ..held }).await, [10, 20]);
        assert!(ids(&mut client, Query { limit: Some(0), ..Query::default() }).await.is_empty());
    }

    #[tokio::test]
    async fn what_is_as_good_as_gone_takes_no_place_of_the_limit() {
        let (mut client, _, _folder) = pair_with(FakeAdmin::with_messages(1203).first_done(600)).await;
        assert_eq!(ids(&mut client, Query { limit: Some(3), ..Query::default() }).await, [601, 602, 603]);
    }

    #[tokio::test]
    async fn content_comes_byte_for_byte() {
        let (mut client, admin, _folder) = pair().await;
        let mut out = Vec::new();
        assert!(client.content(QueueId(3), u64::MAX, &mut out).await.unwrap());
        assert_eq!(out, admin.content);
        out.clear();
        assert!(client.content(QueueId(3), 5, &mut out).await.unwrap());
        assert_eq!(out, admin.content[..5]);
        assert!(!client.content(QueueId(0), 5, &mut out).await.unwrap());
        assert_eq!(client.show(QueueId(3)).await.unwrap().unwrap().id, QueueId(3));
        assert_eq!(client.show(QueueId(9999)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn verbs_reach_the_server_and_say_what_they_touched() {
        let (mut client, admin, _folder) = pair().await;
        let changed = client.change_ids(Verb::Hold, vec![QueueId(1), QueueId(9999)]).await.unwrap();
        assert_eq!(changed, Changed { touched: 1, unknown: vec![QueueId(9999)] });
        assert_eq!(client.change_all(Verb::Retry).await.unwrap().touched, 1203);
        let limited = Query { limit: Some(7), ..Query::default() };
        assert_eq!(client.change_matching(Verb::Bounce, limited).await.unwrap().touched, 7);
        let domain = Domain::parse("example.org").ok();
        client.pause(domain.clone()).await.unwrap();
        let (rows, paused, sites) = client.stats().await.unwrap();
        assert_eq!(sites, [super::super::fake::site()]);
        let asked = Destination::Mx(Domain::parse("example.org").unwrap());
        assert_eq!(client.site(asked, ReversePath::Null).await.unwrap(), sites.into_iter().next());
        assert_eq!(rows[0].count.messages, 1203);
        assert_eq!(paused.domains, domain.clone().into_iter().collect::<Vec<_>>());
        client.resume(domain).await.unwrap();
        assert_eq!(client.health().await.unwrap(), Health::default());
        assert!(matches!(client.reload().await, Err(ClientError::Refused(problems)) if problems == ["line 3 is wrong"]));
        assert_eq!(admin.verbs(), ["hold", "retry", "bounce", "pause", "resume", "reload"]);
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_and_ends_the_connection() {
        let (mut client, _, _folder) = pair().await;
        client.stream.write_all(b"hello\n").await.unwrap();
        assert!(matches!(client.receive().await, Err(ClientError::Refused(_))));
        assert!(matches!(client.receive().await, Err(ClientError::Lost(_))));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        assert!(matches!(Client::connect(&SystemNet, &socket).await, Err(ClientError::NotRunning(_))));
        // Left over by a server that was killed.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(matches!(Client::connect(&SystemNet, &socket).await, Err(ClientError::NotRunning(_))));
        let door = bind(&socket).await.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(bind(&socket).await.map(drop).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(door);
        assert!(!socket.exists());
        std::fs::write(&socket, "precious").unwrap();
        assert_eq!(bind(&socket).await.map(drop).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
    }
}
