//! The control socket's language: one JSON document a line each way; content follows its line as raw bytes.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::{Changed, Health, MessageView, Paused, Query, SiteState, StatsRow, Verb};
use crate::mail::{Destination, Domain, QueueId, ReversePath};

/// Longest request line, octets: some sixty thousand ids.
pub(super) const REQUEST_SIZE_MAX: u64 = 1024 * 1024;
/// Longest answer line, octets: a message with very many recipients and long replies.
pub(super) const RESPONSE_SIZE_MAX: u64 = 64 * 1024 * 1024;
/// Content is read and sent in pieces of this many octets.
pub(super) const PIECE_SIZE: usize = 64 * 1024;

/// What a client asks. A connection carries any number of requests, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Request {
    /// Answer: `Message` for each, then `End`.
    List { query: Query },
    /// Answer: `Message` or `Unknown`.
    Show { id: QueueId },
    /// Answer: `Content` and that many raw bytes, at most `size_max`; or `Unknown`.
    Content { id: QueueId, size_max: u64 },
    /// Answer: `Stats`.
    Stats,
    /// Answer: `Site`.
    Site { destination: Destination, sender: ReversePath },
    /// Answer: `Changed`.
    Change { verb: Verb, selection: Chosen },
    /// Answer: `Done`.
    Pause { domain: Option<Domain> },
    /// Answer: `Done`.
    Resume { domain: Option<Domain> },
    /// Answer: `Done`.
    Reload,
    /// Answer: `Health`.
    Health,
}

/// A selection on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Chosen {
    Ids(Vec<QueueId>),
    Filter(Query),
    All,
}

/// What the server says. `Refused` may answer every request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub(super) enum Response {
    Message(MessageView),
    End,
    Content {
        size: u64,
    },
    Stats {
        rows: Vec<StatsRow>,
        paused: Paused,
        #[serde(default)]
        sites: Vec<SiteState>,
    },
    Site {
        state: Option<SiteState>,
    },
    Changed(Changed),
    Done,
    Health(Health),
    Unknown,
    Refused {
        problems: Vec<String>,
    },
}

/// One document and its line end.
pub(super) fn to_line(document: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}

/// The next document; none at the end of the stream. A line beyond `size_max`, one that is cut off, and one that is no such
/// document are errors (`InvalidData`, `UnexpectedEof`).
pub(super) async fn read_line<T: DeserializeOwned>(
    stream: &mut (impl AsyncBufRead + Unpin),
    size_max: u64,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(size_max).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let long = line.len() as u64 == size_max;
        let kind = if long { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof };
        return Err(io::Error::new(kind, if long { "the line is too long" } else { "the line is cut off" }));
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{message, retry};
    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let id = QueueId(5);
        let domain = Domain::parse("example.org").ok();
        let query = Query { domain: domain.clone(), limit: Some(3), ..Query::default() };
        for request in [
            Request::List { query: query.clone() },
            Request::Content { id, size_max: u64::MAX },
            Request::Change { verb: Verb::Hold, selection: Chosen::Ids(vec![id]) },
            Request::Change { verb: Verb::Bounce, selection: Chosen::Filter(query) },
            Request::Change { verb: Verb::Remove, selection: Chosen::All },
            Request::Pause { domain },
            Request::Reload,
            Request::Site { destination: Destination::Route("a:25,b".to_owned()), sender: ReversePath::Null },
        ] {
            let line = to_line(&request).unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&line).unwrap(), request);
        }
        let mut stats = crate::spool::Stats::default();
        stats.add(&message(1));
        for response in [
            Response::Message(MessageView::shown(&message(1), &retry())),
            Response::Message(MessageView::listed(&message(1), &retry())),
            Response::Stats {
                rows: super::super::stats_rows(&stats),
                paused: Paused::default(),
                sites: vec![super::super::fake::site()],
            },
            Response::Site { state: Some(super::super::fake::site()) },
            Response::Changed(Changed { touched: 1, unknown: vec![id] }),
            Response::Health(Health::default()),
            Response::Unknown,
        ] {
            let line = to_line(&response).unwrap();
            let back: Response = serde_json::from_slice(&line).unwrap();
            assert_eq!(to_line(&back).unwrap(), line);
        }
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let read = async |bytes: &[u8], max| read_line::<Request>(&mut &bytes[..], max).await.map_err(|error| error.kind());
        assert_eq!(read(b"{\"request\":\"stats\"}\n", 20).await, Ok(Some(Request::Stats)));
        assert_eq!(read(b"{\"request\":\"stats\"}\n", 19).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(read(b"{\"request\"", 20).await, Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(read(b"{\"request\":\"what\"}\n", 100).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(read(b"", 20).await, Ok(None));
    }
}
