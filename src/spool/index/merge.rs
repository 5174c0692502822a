//! Several runs become one, a bounded step at a time: the index answers in between.

use super::bits::Bits;
use super::entry::{self, MESSAGE, SUMMARY};
use super::run::{Run, RunWriter};
use super::table::Cursor;
use super::{IndexError, Stored};
use crate::mail::Timestamp;

/// A step ends after so many pairs,
const STEP: usize = 2000;
/// or so many bytes of values.
const STEP_SIZE: usize = 512 << 10;
/// An ordinal of a message that isn't in the new run.
const NOWHERE: u32 = u32::MAX;

/// A merge under way.
pub(crate) struct Merge {
    /// The new run's number.
    pub(crate) number: u64,
    sources: Vec<Source>,
    writer: RunWriter,
    /// What has gone since it was copied.
    pub(crate) dead: Bits,
    pub(crate) taken: Bits,
}

struct Source {
    /// The run's number.
    run: u64,
    cursor: Cursor,
    ended: bool,
    /// The new ordinals of its messages.
    ordinals: Vec<u32>,
}

impl Merge {
    /// Begins; the runs are named by their numbers.
    pub(crate) fn begin(number: u64, writer: RunWriter, runs: &[(u64, &Run)]) -> Result<Self, IndexError> {
        let mut sources = Vec::new();
        for (number, run) in runs {
            let mut cursor = Cursor::scan(&run.table, &[])?;
            let ended = !cursor.next()?;
            sources.push(Source { run: *number, cursor, ended, ordinals: vec![NOWHERE; run.messages as usize] });
        }
        Ok(Self { number, sources, writer, dead: Bits::default(), taken: Bits::default() })
    }

    /// The runs that it replaces.
    pub(crate) fn sources(&self) -> Vec<u64> {
        self.sources.iter().map(|source| source.run).collect()
    }

    /// A message of a source doesn't count any longer.
    pub(crate) fn strike(&mut self, run: u64, ordinal: u32) {
        if let Some(ordinal) = self.copied(run, ordinal) {
            self.dead.insert(ordinal);
        }
    }

    /// Somebody works on a message of a source.
    pub(crate) fn take(&mut self, run: u64, ordinal: u32) {
        if let Some(ordinal) = self.copied(run, ordinal) {
            self.taken.insert(ordinal);
        }
    }

    fn copied(&self, run: u64, ordinal: u32) -> Option<u32> {
        let source = self.sources.iter().find(|source| source.run == run)?;
        source.ordinals.get(ordinal as usize).copied().filter(|ordinal| *ordinal != NOWHERE)
    }

    /// Goes on; `false` when nothing is left but to finish. `run` finds a source by its number.
    pub(crate) fn step<'a>(&mut self, run: impl Fn(u64) -> Option<&'a Run>) -> Result<bool, IndexError> {
        let mut size = 0;
        for _ in 0..STEP {
            if size >= STEP_SIZE {
                break;
            }
            let open = self.sources.iter_mut().filter(|source| !source.ended);
            let Some(source) = open.min_by(|one, other| one.cursor.key().cmp(other.cursor.key())) else { return Ok(false) };
            let family = source.cursor.key().first().copied();
            if family.is_none_or(|family| family >= SUMMARY) {
                // The writer makes its own.
                source.ended = true;
                continue;
            }
            size += source.cursor.value().len();
            let (ordinal, rest) = entry::split_ordinal(source.cursor.value())?;
            match family {
                Some(MESSAGE) => {
                    let from = run(source.run).ok_or_else(|| IndexError::Damaged("a run under merge is gone".to_owned()))?;
                    if !from.dead.contains(ordinal) {
                        let (stored, due): (Stored, Timestamp) = entry::read_stored(entry::key_id(source.cursor.key())?, rest)?;
                        let new = self.writer.message(&stored, due)?;
                        if let Some(known) = source.ordinals.get_mut(ordinal as usize) {
                            *known = new;
                        }
                        if from.taken.contains(ordinal) {
                            self.taken.insert(new);
                        }
                    }
                }
                _ => {
                    let new = source.ordinals.get(ordinal as usize).copied().unwrap_or(NOWHERE);
                    if new != NOWHERE {
                        self.writer.other(source.cursor.key(), new)?;
                    }
                }
            }
            source.ended = !source.cursor.next()?;
        }
        Ok(true)
    }

    /// Ends the new run; says how many messages it has, and which of them don't count or are taken.
    pub(crate) fn finish(self) -> Result<(u32, Bits, Bits), IndexError> {
        let messages = self.writer.messages;
        self.writer.finish()?;
        Ok((messages, self.dead, self.taken))
    }
}
