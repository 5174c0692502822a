//! What the committer is asked: records for the log, and what is to be done once the log has come so far.

use tokio::sync::oneshot;

use super::SpoolError;
use super::answer::Waiter;
use super::codec::Change;
use super::index::Stored;
use super::record::{ContentFile, Frame};
use crate::mail::QueueId;

/// Something for the log, or to be done when the log has come so far.
pub(crate) enum Op {
    Accept {
        frame: Frame,
        stored: Stored,
        changes: Vec<Change>,
        waiter: Waiter,
    },
    /// A living message again at the log's end, so that its old segment can go.
    Reaccept {
        id: QueueId,
        file: Option<ContentFile>,
        frame: Frame,
        reply: oneshot::Sender<()>,
    },
    State(Frame),
    Done {
        id: QueueId,
        frame: Frame,
    },
    Park {
        id: QueueId,
        generation: u64,
    },
    /// The index may have a copy of an active message, if it hasn't changed since then.
    Copy {
        id: QueueId,
        generation: u64,
    },
    Barrier(oneshot::Sender<Result<(), SpoolError>>),
}

impl Op {
    pub(crate) fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Accept { frame, .. } | Self::Reaccept { frame, .. } | Self::State(frame) | Self::Done { frame, .. } => {
                Some(frame)
            }
            Self::Park { .. } | Self::Copy { .. } | Self::Barrier(_) => None,
        }
    }

    /// Whether somebody waits for it to be durable.
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::Reaccept { .. } | Self::Barrier(_))
    }

    pub(crate) fn frame_mut(&mut self) -> Option<&mut Frame> {
        match self {
            Self::Accept { frame, .. } | Self::Reaccept { frame, .. } | Self::State(frame) | Self::Done { frame, .. } => {
                Some(frame)
            }
            Self::Park { .. } | Self::Copy { .. } | Self::Barrier(_) => None,
        }
    }
}
