//! Several runs become one, a bounded step at a time: the index answers in between.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::entry::{self, MESSAGE, SUMMARY};
use super::run::{Run, RunWriter};
use super::table::Cursor;
use super::{IndexError, Stored};
use crate::mail::Timestamp;

/// So many runs of about the same size become one,
const MERGE_MIN: usize = 8;
/// and at the most so many at once,
const MERGE_MAX: usize = 16;
/// unless they are larger than this together; bytes.
const MERGED_SIZE_MAX: u64 = 256 << 20;

/// A step ends after so many pairs,
const STEP: usize = 2000;
/// or so many bytes of values.
const STEP_SIZE: usize = 512 << 10;
/// An ordinal of a message that isn't in the new run.
const NOWHERE: u32 = u32::MAX;

/// Runs of about the same size have the same class: a class for each factor of eight.
fn class(living: u32) -> u32 {
    living.max(1).ilog2() / 3
}

/// Runs that should become one.
pub(crate) fn mergeable(runs: &BTreeMap<u64, Run>) -> Vec<u64> {
    let mut classes: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (number, run) in runs {
        if run.living() * 2 < run.messages {
            return vec![*number];
        }
        classes.entry(class(run.living())).or_default().push(*number);
    }
    let size_of = |number: &u64| runs.get(number).map_or(0, |run| run.size);
    for mut alike in classes.into_values() {
        // The smallest first: a few large ones don't keep the others from it.
        alike.sort_by_key(size_of);
        let mut size = 0;
        let together = alike.into_iter().take(MERGE_MAX).take_while(|number| {
            size += size_of(number);
            size <= MERGED_SIZE_MAX
        });
        let together: Vec<u64> = together.collect();
        if together.len() >= MERGE_MIN {
            return together;
        }
    }
    Vec::new()
}

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

    /// Bytes that it has written, about.
    pub(crate) fn length(&self) -> u64 {
        self.writer.length()
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
