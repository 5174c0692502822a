//! Messages that only the index still has: the piece of the log with their records is lost. Start-up accepts them again: with their content if it
//! lies in a file, else without.

use super::index::{Index, IndexError, Place, Resident, Stored};
use super::log::Log;
use super::record::{AcceptContent, ContentFile, Frame};
use super::{Note, SpoolError};
use crate::mail::{QueueId, Timestamp};

/// So many bytes of records are made durable at once.
const STEP_BYTES: usize = 1 << 20;

/// What became of them.
pub(crate) struct Again {
    /// All of them, where they lie now: those that couldn't be written again where they lay.
    pub(crate) messages: Vec<Resident>,
    /// What is to be said.
    pub(crate) note: Option<Note>,
}

/// Accepts messages again that only the index has. If the log can't be written they stay in the index alone until the next start.
pub(crate) fn accept_again(
    index: &mut dyn Index,
    log: &mut Log,
    orphaned: Vec<Resident>,
    last_id: QueueId,
    now: Timestamp,
) -> Result<Again, SpoolError> {
    if orphaned.is_empty() {
        return Ok(Again { messages: orphaned, note: None });
    }
    let (all, lost) = (orphaned.len(), orphaned.iter().filter(|one| !one.file).count());
    let mut messages = Vec::with_capacity(all);
    let mut left = orphaned.into_iter().peekable();
    while left.peek().is_some() {
        let mut step = Step::default();
        while step.bytes < STEP_BYTES
            && let Some(resident) = left.next()
        {
            step.add(index, resident).map_err(failed)?;
        }
        if let Err(error) = step.write(log, last_id, now) {
            messages.extend(step.messages.into_iter().map(|(resident, ..)| resident));
            messages.extend(left);
            let what = format!("{all} messages are in the index alone, and can't be written to the log again: {error}");
            return Ok(Again { messages, note: Some(Note::Trouble(what)) });
        }
        for (resident, stored, due) in step.messages {
            index.insert(&stored, due).map_err(failed)?;
            messages.push(Resident { place: stored.place, file: true, ..resident });
        }
    }
    let what =
        format!("{all} messages whose records are gone were accepted again from the index, {lost} of them without content");
    Ok(Again { messages, note: Some(Note::Trouble(what)) })
}

fn failed(error: IndexError) -> SpoolError {
    SpoolError::Index(error.to_string())
}

/// Some that are made durable together.
#[derive(Default)]
struct Step {
    messages: Vec<(Resident, Stored, Timestamp)>,
    frames: Vec<Frame>,
    bytes: usize,
}

impl Step {
    fn add(&mut self, index: &dyn Index, resident: Resident) -> Result<(), IndexError> {
        let Some((stored, due)) = index.get(resident.id)? else { return Ok(()) };
        let file = stored.file.unwrap_or(ContentFile::LOST);
        let frame = Frame::accept(AcceptContent::File(file), &stored.message, &[]);
        self.bytes += frame.bytes().len();
        self.frames.push(frame);
        self.messages.push((resident, Stored { file: Some(file), ..stored }, due));
        Ok(())
    }

    /// Writes them, and notes where they lie.
    fn write(&mut self, log: &mut Log, last_id: QueueId, now: Timestamp) -> Result<(), std::io::Error> {
        let mut frames: Vec<&mut Frame> = self.frames.iter_mut().collect();
        let appended = log.append(&mut frames, false, last_id, now);
        let mut at = appended.and_then(|at| log.sync(last_id, now).map(|()| at)).map_err(|failure| failure.error)?;
        for ((_, stored, _), frame) in self.messages.iter_mut().zip(&self.frames) {
            let length = frame.bytes().len();
            stored.place = Place { segment: at.segment, offset: at.offset, length: length as u32 };
            at.offset += length as u64;
        }
        Ok(())
    }
}
