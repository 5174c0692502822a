//! A run: some thousand parked messages in a table that is never changed, and which of them don't count any longer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::bits::Bits;
use super::cache::Cache;
use super::entry::{self, DUE, MESSAGE, SUMMARY, Summary, SummaryWriter};
use super::table::{Cursor, Table, TableWriter};
use super::{IndexError, Stored};
use crate::mail::{Message, MessageState, QueueId, Timestamp};
use crate::spool::Filter;
use crate::spool::codec::{self, Malformed, Reader};
use crate::system::Disk;

/// A summary value has so many messages at the most,
const SUMMARY_COUNT: u32 = 8192;
/// or so many bytes.
const SUMMARY_SIZE: usize = 256 << 10;

/// See the module.
pub(crate) struct Run {
    pub(crate) table: Arc<Table>,
    /// Whether the table is durable, name apart.
    pub(crate) synced: bool,
    /// Messages in the table, dead ones too.
    pub(crate) messages: u32,
    /// Bytes of the file, about.
    pub(crate) size: u64,
    first: QueueId,
    last: QueueId,
    /// Gone, or newer elsewhere.
    pub(crate) dead: Bits,
    /// Somebody works on them; forgotten when the index is opened anew.
    pub(crate) taken: Bits,
    /// No living message that waits has a due key before this.
    due_from: RefCell<Vec<u8>>,
}

/// A message found in a run.
pub(crate) struct FoundIn {
    pub(crate) ordinal: u32,
    /// Its value, without the ordinal.
    pub(crate) value: Vec<u8>,
    pub(crate) taken: bool,
}

impl FoundIn {
    /// The message and its due time.
    pub(crate) fn stored(&self, id: QueueId) -> Result<(Stored, Timestamp), Malformed> {
        let (stored, due) = entry::read_stored(id, &self.value)?;
        Ok((stored, if self.taken { Timestamp::ZERO } else { due }))
    }
}

impl Run {
    pub(crate) fn open(disk: &dyn Disk, path: &Path, number: u64, cache: Arc<Cache>) -> Result<Self, IndexError> {
        let table = Table::open(disk, path, number, cache)?;
        let mut reader = Reader(table.extra());
        let (messages, first, last) = (reader.small("messages")?, reader.number("first id")?, reader.number("last id")?);
        let size = reader.number("size")?;
        reader.end()?;
        Ok(Self {
            synced: false,
            messages,
            size,
            first: QueueId(first),
            last: QueueId(last),
            dead: Bits::default(),
            taken: Bits::default(),
            due_from: RefCell::new(entry::due_key(Timestamp::from_millis(1), QueueId(0))),
            table: Arc::new(table),
        })
    }

    /// Messages that count.
    pub(crate) fn living(&self) -> u32 {
        self.messages.saturating_sub(self.dead.count())
    }

    pub(crate) fn find(&self, id: QueueId) -> Result<Option<FoundIn>, IndexError> {
        if id < self.first || id > self.last {
            return Ok(None);
        }
        let key = entry::message_key(id);
        let mut cursor = Cursor::seek(&self.table, &key)?;
        if !cursor.next()? || cursor.key() != key {
            return Ok(None);
        }
        let (ordinal, value) = entry::split_ordinal(cursor.value())?;
        let living = !self.dead.contains(ordinal);
        Ok(living.then(|| FoundIn { ordinal, value: value.to_vec(), taken: self.taken.contains(ordinal) }))
    }

    /// The living messages among these, which are in their order; everything between them is passed over.
    pub(crate) fn find_all(
        &self,
        ids: &[QueueId],
        mut found: impl FnMut(QueueId, FoundIn) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let from = ids.partition_point(|id| *id < self.first);
        let to = ids.partition_point(|id| *id <= self.last);
        let Some(ids) = ids.get(from..to).filter(|ids| !ids.is_empty()) else { return Ok(()) };
        let mut cursor = Cursor::near(&self.table, &entry::message_key(ids[0]))?;
        for id in ids {
            let key = entry::message_key(*id);
            if !cursor.forward(&key)? {
                break;
            }
            if cursor.key() != key {
                continue;
            }
            let (ordinal, value) = entry::split_ordinal(cursor.value())?;
            if !self.dead.contains(ordinal) {
                found(*id, FoundIn { ordinal, value: value.to_vec(), taken: self.taken.contains(ordinal) })?;
            }
        }
        Ok(())
    }

    /// Living messages behind a key prefix, from an id on.
    pub(crate) fn ids(&self, prefix: &[u8], from: QueueId) -> Result<Ids<'_>, IndexError> {
        let start = [prefix, &from.0.to_be_bytes()].concat();
        Ok(Ids { run: self, cursor: Cursor::seek(&self.table, &start)?, prefix: prefix.to_vec() })
    }

    /// Living messages from an id on, and whether their summaries meet the filter's conditions.
    pub(crate) fn summaries(&self, filter: &Filter, from: QueueId) -> Result<Summaries<'_>, IndexError> {
        let mut first = Cursor::seek(&self.table, &entry::message_key(from))?;
        let any = first.next()? && first.key().first() == Some(&MESSAGE);
        let ordinal = if any { entry::split_ordinal(first.value())?.0 } else { self.messages };
        let cursor = Cursor::near(&self.table, &entry::summary_key(ordinal))?;
        let (state, before) = (filter.state, filter.arrived_before);
        Ok(Summaries { run: self, cursor, from, state, before, found: VecDeque::new() })
    }

    /// All living messages, by id.
    pub(crate) fn all(&self) -> Result<Ids<'_>, IndexError> {
        Ok(Ids { run: self, cursor: Cursor::scan(&self.table, &[MESSAGE])?, prefix: vec![MESSAGE] })
    }

    /// Living messages that wait, from a due time on.
    pub(crate) fn due(&self, from: Timestamp) -> Result<Due<'_>, IndexError> {
        let from = entry::due_key(from, QueueId(0));
        let known = self.due_from.borrow();
        // Only who begins at the front learns where the first one is.
        let learns = from <= *known;
        let cursor = Cursor::seek(&self.table, if learns { &known } else { &from })?;
        drop(known);
        Ok(Due { run: self, cursor, learns })
    }

    /// Every living message's summary, in no useful order; after each value's messages, the names that they used.
    pub(crate) fn survey(
        &self,
        mut visit: impl FnMut(Summary<'_>),
        mut names: impl FnMut(&[&str]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut cursor = Cursor::scan(&self.table, &[SUMMARY])?;
        while cursor.next()? {
            let mut ordinal = entry::summary_ordinal(cursor.key())?;
            names(&entry::read_summaries(cursor.value(), |summary| {
                if !self.dead.contains(ordinal) {
                    visit(Summary { taken: summary.taken || self.taken.contains(ordinal), ..summary });
                }
                ordinal += 1;
            })?)?;
        }
        Ok(())
    }
}

/// Goes through the living messages of a run.
pub(crate) struct Ids<'a> {
    run: &'a Run,
    cursor: Cursor,
    prefix: Vec<u8>,
}

impl Ids<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<QueueId>, IndexError> {
        while self.cursor.next()? && self.cursor.key().starts_with(&self.prefix) {
            // A longer name that begins alike is another prefix.
            if self.cursor.key().len() != self.prefix.len() + 8 {
                continue;
            }
            let (ordinal, _) = entry::split_ordinal(self.cursor.value())?;
            if !self.run.dead.contains(ordinal) {
                return Ok(Some(entry::key_id(self.cursor.key())?));
            }
        }
        Ok(None)
    }

    /// The message that `next` went to.
    pub(crate) fn stored(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        if self.prefix != [MESSAGE] {
            return Ok(self.run.find(id)?.map(|found| found.stored(id)).transpose()?);
        }
        let (ordinal, value) = entry::split_ordinal(self.cursor.value())?;
        let (stored, due) = entry::read_stored(id, value)?;
        Ok(Some((stored, if self.run.taken.contains(ordinal) { Timestamp::ZERO } else { due })))
    }
}

/// Goes through the summaries of a run.
pub(crate) struct Summaries<'a> {
    run: &'a Run,
    cursor: Cursor,
    from: QueueId,
    state: Option<MessageState>,
    before: Option<Timestamp>,
    /// Of the value read last.
    found: VecDeque<(QueueId, bool)>,
}

impl Summaries<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<(QueueId, bool)>, IndexError> {
        while self.found.is_empty() && self.cursor.next()? {
            if self.cursor.key().first() != Some(&SUMMARY) {
                continue;
            }
            let Self { run, cursor, from, state, before, found } = self;
            let mut ordinal = entry::summary_ordinal(cursor.key())?;
            entry::read_summaries(cursor.value(), |summary| {
                if summary.id >= *from && !run.dead.contains(ordinal) {
                    let meets =
                        state.is_none_or(|state| summary.state == state) && before.is_none_or(|before| summary.arrived < before);
                    found.push_back((summary.id, meets));
                }
                ordinal += 1;
            })?;
        }
        Ok(self.found.pop_front())
    }
}

/// Goes through the due times of a run.
pub(crate) struct Due<'a> {
    run: &'a Run,
    cursor: Cursor,
    learns: bool,
}

impl Due<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<(Timestamp, QueueId)>, IndexError> {
        while self.cursor.next()? && self.cursor.key().first() == Some(&DUE) {
            let (ordinal, _) = entry::split_ordinal(self.cursor.value())?;
            if self.run.dead.contains(ordinal) || self.run.taken.contains(ordinal) {
                continue;
            }
            if std::mem::take(&mut self.learns) {
                self.run.due_from.replace(self.cursor.key().to_vec());
            }
            return Ok(Some((entry::key_due(self.cursor.key())?, entry::key_id(self.cursor.key())?)));
        }
        if std::mem::take(&mut self.learns) {
            // None waits here any more, for ever: what is taken comes back elsewhere.
            self.run.due_from.replace(vec![DUE + 1]);
        }
        Ok(None)
    }
}

/// Writes a run: first all messages by id, then the other keys in their order.
pub(crate) struct RunWriter {
    table: TableWriter,
    pub(crate) messages: u32,
    size: u64,
    first: QueueId,
    last: QueueId,
    summary: SummaryWriter,
    summaries: Vec<(u32, Vec<u8>)>,
    value: Vec<u8>,
}

impl RunWriter {
    /// A new one; `in_pieces`: made durable while it is written.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, in_pieces: bool) -> Result<Self, IndexError> {
        Ok(Self {
            table: TableWriter::create(disk, path, in_pieces)?,
            messages: 0,
            size: 0,
            first: QueueId(0),
            last: QueueId(0),
            summary: SummaryWriter::default(),
            summaries: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Adds a message and says its ordinal.
    pub(crate) fn message(&mut self, stored: &Stored, due: Timestamp) -> Result<u32, IndexError> {
        let (id, ordinal) = (stored.message.id, self.messages);
        self.value.clear();
        codec::put_number(&mut self.value, u64::from(ordinal));
        entry::put_stored(&mut self.value, stored, due);
        self.table.add(&entry::message_key(id), &self.value)?;
        if ordinal == 0 {
            self.first = id;
        }
        self.last = id;
        self.messages += 1;
        self.size += self.value.len() as u64 + 64;
        self.summary.add(stored, due);
        if self.summary.count >= SUMMARY_COUNT || self.summary.size() >= SUMMARY_SIZE {
            self.end_summary();
        }
        Ok(ordinal)
    }

    /// Bytes on disk so far, about.
    pub(crate) fn length(&self) -> u64 {
        self.table.length()
    }

    fn end_summary(&mut self) {
        let summary = std::mem::take(&mut self.summary);
        if summary.count > 0 {
            self.summaries.push((self.messages - summary.count, summary.finish()));
        }
    }

    /// Adds a due time, a domain or a sender.
    pub(crate) fn other(&mut self, key: &[u8], ordinal: u32) -> Result<(), IndexError> {
        self.value.clear();
        codec::put_number(&mut self.value, u64::from(ordinal));
        self.size += 8;
        self.table.add(key, &self.value)
    }

    /// Ends it; it isn't durable before its table is synced.
    pub(crate) fn finish(mut self) -> Result<(), IndexError> {
        self.end_summary();
        for (ordinal, value) in &self.summaries {
            self.table.add(&entry::summary_key(*ordinal), value)?;
        }
        let mut extra = Vec::new();
        for number in [u64::from(self.messages), self.first.0, self.last.0, self.size] {
            codec::put_number(&mut extra, number);
        }
        self.table.finish(&extra)
    }
}

/// Writes messages that are ordered by id.
pub(crate) fn write<'a>(
    disk: &dyn Disk,
    path: &Path,
    messages: impl Iterator<Item = (&'a Stored, Timestamp)>,
) -> Result<(), IndexError> {
    let mut writer = RunWriter::create(disk, path, false)?;
    let mut dues = Vec::new();
    let mut texts = Texts::default();
    for (stored, due) in messages {
        let ordinal = writer.message(stored, due)?;
        dues.push((due, stored.message.id, ordinal));
        texts.add(&stored.message, ordinal);
    }
    dues.sort_unstable();
    for (due, id, ordinal) in dues {
        writer.other(&entry::due_key(due, id), ordinal)?;
    }
    texts.each(|key, ordinal| writer.other(key, ordinal))?;
    writer.finish()
}

/// Keys of domains and senders, and the ordinals that have them. All in one buffer: for a message or two of each key, an allocation a key would
/// cost more than their order.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    keys: Vec<(Range<usize>, u32)>,
}

impl Texts {
    fn add(&mut self, message: &Message, ordinal: u32) {
        let mut from = self.bytes.len();
        entry::put_text_keys(&mut self.bytes, message, |end| {
            self.keys.push((from..end, ordinal));
            from = end;
        });
    }

    /// Goes through the keys in their order, each once: those of several messages have their ids in them.
    fn each(mut self, mut visit: impl FnMut(&[u8], u32) -> Result<(), IndexError>) -> Result<(), IndexError> {
        let key = |range: &Range<usize>| &self.bytes[range.clone()];
        self.keys.sort_unstable_by(|(one, _), (other, _)| key(one).cmp(key(other)));
        self.keys.dedup_by(|(one, _), (other, _)| key(one) == key(other));
        self.keys.iter().try_for_each(|(range, ordinal)| visit(key(range), *ordinal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::index::entry::{DOMAIN, SENDER};

    #[test]
    fn keys_come_in_their_order_and_each_once() {
        let message = |id, from, to: &[&str]| Message::sample(id, Timestamp::from_millis(1), from, to);
        let mut texts = Texts::default();
        texts.add(&message(7, "Ann@Example.org", &["b@two.test", "a@one.test", "c@two.test"]), 0);
        texts.add(&message(8, "", &["d@one.test"]), 1);
        let mut told = Vec::new();
        let told_each = |key: &[u8], ordinal: u32| {
            told.push((key.to_vec(), ordinal));
            Ok(())
        };
        texts.each(told_each).unwrap();
        let key = |family: u8, text: &str, id: u64| [&[family], text.as_bytes(), &[0], &id.to_be_bytes()].concat();
        let expected = [
            (key(DOMAIN, "one.test", 7), 0),
            (key(DOMAIN, "one.test", 8), 1),
            (key(DOMAIN, "two.test", 7), 0),
            (key(SENDER, "", 8), 1),
            (key(SENDER, "ann@example.org", 7), 0),
        ];
        assert_eq!(told, expected);
    }
}
