//! What a check of a spool finds: one flat value a finding, for a line of a table or a JSON document.

use serde::Serialize;

use super::index::{Place, Stored};
use crate::mail::QueueId;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that was confirmed can't be read, or two things that should agree don't.
    Damage,
    /// Damage that was set aside before: nothing remains to be done about it.
    Known,
    /// Left over from an interruption or an earlier repair; the server deals with it, or it may be removed.
    Note,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// One of the two copies of a segment's header is damaged; the other serves.
    HeaderCopyDamaged,
    /// Both are.
    HeaderDamaged,
    /// A segment that its successor names isn't there, or that the index knows to be needed still.
    SegmentMissing,
    /// Confirmed bytes of a segment that are no record.
    RecordsDamaged,
    /// The last batch is torn: it was never confirmed to anybody.
    TornTail,
    /// The index knows a message whose record in the log is damaged or gone: its content is lost.
    RecordLost,
    /// A message's content file isn't there.
    ContentMissing,
    /// A message's content file is shorter than the message, or its checksum is wrong.
    ContentDamaged,
    /// A message's content lies in a segment that the disk can't read, and that the server goes on trying.
    ContentUnread,
    /// There is no index; the next start builds it.
    IndexMissing,
    /// The index can't be read, or belongs to another log.
    IndexBroken,
    /// The index lacks a message that the log has.
    IndexLacks,
    /// The index has a message otherwise than the log.
    IndexDiffers,
    /// The index has a message that is done with.
    IndexExtra,
    /// A file in `content/` that no record names.
    Orphan,
    /// A file in `quarantine/`.
    Quarantined,
    /// An index that was set aside.
    IndexSetAside,
    /// A repair was interrupted before it had put this message back.
    RepairUnfinished,
}

impl FindingKind {
    /// Whether confirmed bytes of the log are lost.
    pub(super) fn is_log_damage(self) -> bool {
        matches!(self, Self::HeaderDamaged | Self::SegmentMissing | Self::RecordsDamaged | Self::RecordLost)
    }
}

/// One finding. What doesn't apply is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    pub finding: FindingKind,
    /// How serious it is.
    pub level: Level,
    /// The segment's number.
    pub segment: Option<u64>,
    /// Where it begins in the segment.
    pub offset: Option<u64>,
    /// How many bytes it is about.
    pub bytes: Option<u64>,
    /// The message.
    pub id: Option<QueueId>,
    /// The file, below the spool folder.
    pub path: Option<String>,
    /// Where it was set aside, below the spool folder.
    pub set_aside: Option<String>,
    /// In words.
    pub reason: String,
}

impl Finding {
    pub(super) fn new(finding: FindingKind, level: Level, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { finding, level, segment: None, offset: None, bytes: None, id: None, path: None, set_aside: None, reason }
    }

    pub(super) fn damage(finding: FindingKind, reason: impl Into<String>) -> Self {
        Self::new(finding, Level::Damage, reason)
    }

    pub(super) fn note(finding: FindingKind, reason: impl Into<String>) -> Self {
        Self::new(finding, Level::Note, reason)
    }

    pub(super) fn segment(self, segment: u64) -> Self {
        Self { segment: Some(segment), ..self }
    }

    pub(super) fn at(self, segment: u64, offset: u64, bytes: u64) -> Self {
        Self { segment: Some(segment), offset: Some(offset), bytes: Some(bytes), ..self }
    }

    pub(super) fn id(self, id: QueueId) -> Self {
        Self { id: Some(id), ..self }
    }

    pub(super) fn bytes(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    pub(super) fn path(self, path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// A message with where its record lies.
    pub(super) fn message(self, stored: &Stored) -> Self {
        let Place { segment, offset, length } = stored.place;
        self.at(segment, offset, u64::from(length)).id(stored.message.id)
    }

    /// It was set aside before.
    pub(super) fn known(self, name: &str) -> Self {
        Self { level: Level::Known, set_aside: Some(format!("quarantine/{name}")), ..self }
    }
}

/// What a check read and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Log segments.
    pub segments: u64,
    /// Records that can be read.
    pub records: u64,
    /// Messages that live in the spool.
    pub messages: u64,
    /// Files in `content/`.
    pub content_files: u64,
    /// Bytes read, of the log and of content files.
    pub bytes: u64,
    /// Findings of level damage.
    pub damage: u64,
    /// Findings of level known.
    pub known: u64,
    /// Findings of level note.
    pub notes: u64,
}

impl Survey {
    /// Whether nothing is damaged but what was set aside before.
    pub fn is_sound(&self) -> bool {
        self.damage == 0
    }

    pub(super) fn count(&mut self, level: Level) {
        match level {
            Level::Damage => self.damage += 1,
            Level::Known => self.known += 1,
            Level::Note => self.notes += 1,
        }
    }
}
