//! Where `list`, `show`, `cat` and `stats` look: in the running server, or in the spool of one that is not running.

use std::io::Write;
use std::sync::Arc;

use super::failure::{self, Failure};
use crate::config::Config;
use crate::control::{Client, ClientError, MessageView, Paused, Query, SiteState, StatsRow, stats_rows};
use crate::mail::QueueId;
use crate::spool::{Filter, SpoolError, StoppedSpool, read_stopped};
use crate::system::{Disk, SystemDisk, SystemNet};

/// Content of a stopped spool is read in pieces of this many octets.
const PIECE_SIZE: usize = 64 * 1024;

/// Something that has the queue.
pub(super) enum Source {
    Running(Client),
    Stopped(StoppedSpool),
}

impl Source {
    /// The running server if there is one, else the spool on disk.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        match Client::connect(&SystemNet, &config.admin.socket).await {
            Ok(client) => Ok(Self::Running(client)),
            Err(ClientError::NotRunning(socket)) => {
                let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
                if !disk.exists(&config.spool.path) {
                    let what = format!("the server is not running, and there is no spool at {}", config.spool.path.display());
                    return Err(Failure::new(failure::UNAVAILABLE, what)
                        .remedy("start the server with `posthouse serve`, or name its configuration with --config FILE"));
                }
                match read_stopped(&config.spool.path, &disk) {
                    Ok(spool) => Ok(Self::stopped(spool)),
                    Err(SpoolError::Locked(_)) => {
                        let what = format!("a server has the spool open, but does not answer at {}", socket.display());
                        Err(Failure::new(failure::UNAVAILABLE, what)
                            .remedy("if it was started a moment ago, try again; else compare its admin.socket with this one"))
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn stopped(spool: StoppedSpool) -> Self {
        for note in spool.notes() {
            super::failure::note(&note.to_string());
        }
        Self::Stopped(spool)
    }

    /// Hands over each message that is meant, in the order of ids.
    pub(super) async fn list(
        &mut self,
        config: &Config,
        query: Query,
        each: &mut dyn FnMut(MessageView) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::Running(client) => {
                client.list(query).await?;
                while let Some(view) = client.next().await? {
                    each(view)?;
                }
            }
            Self::Stopped(spool) => {
                for message in spool.list(&Filter::from(query)).iter().filter(|message| !message.is_done()) {
                    each(MessageView::listed(message, &config.retry))?;
                }
            }
        }
        Ok(())
    }

    /// One message with its details; none: it is not in the queue.
    pub(super) async fn show(&mut self, config: &Config, id: QueueId) -> Result<Option<MessageView>, Failure> {
        match self {
            Self::Running(client) => Ok(client.show(id).await?),
            Self::Stopped(spool) => Ok(spool.message(id).map(|message| MessageView::shown(&message, &config.retry))),
        }
    }

    /// Writes a message's content, at most `size_max` octets of it; false: it is not in the queue.
    pub(super) async fn content(&mut self, id: QueueId, size_max: u64, out: &mut dyn Write) -> Result<bool, Failure> {
        let spool = match self {
            Self::Running(client) => return Ok(client.content(id, size_max, out).await?),
            Self::Stopped(spool) => spool,
        };
        let content = match spool.content(id) {
            Ok(content) => content,
            Err(SpoolError::Unknown(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let size = content.size().min(size_max);
        let mut offset = 0;
        while offset < size {
            let wanted = usize::try_from(size - offset).unwrap_or(PIECE_SIZE).min(PIECE_SIZE);
            let damaged = |why: String| Failure::new(failure::UNAVAILABLE, format!("the content of {id} can't be read: {why}"));
            let piece = content.read_at(offset, wanted).await.map_err(|error| damaged(error.to_string()))?;
            if piece.is_empty() {
                return Err(damaged("it ends early".to_owned()));
            }
            out.write_all(&piece)?;
            offset += piece.len() as u64;
        }
        Ok(true)
    }

    /// Counts, bytes, ages; if the server runs, also what is paused and what is known of destinations.
    pub(super) async fn stats(&mut self) -> Result<(Vec<StatsRow>, Option<Paused>, Vec<SiteState>), Failure> {
        match self {
            Self::Running(client) => {
                let (rows, paused, sites) = client.stats().await?;
                Ok((rows, Some(paused), sites))
            }
            Self::Stopped(spool) => Ok((stats_rows(&spool.stats()), None, Vec::new())),
        }
    }
}
