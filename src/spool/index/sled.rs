//! The index on disk: sled, one tree, a prefix a key family, one batch a change.
//!
//! sled's own flush is not safe against power loss, and a damaged database may panic: every call is fenced, `set_mark` syncs the
//! file itself, and whoever gets an error builds the index anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::sled::{Batch, Config, Db, IVec};

use super::{Index, IndexError, IndexFactory, LOOK_MAX, Mark, Page, Place, Position, Stored};
use crate::mail::{Domain, Message, QueueId, Timestamp};
use crate::spool::Filter;
use crate::spool::codec::{self, Malformed, Reader};

/// The version of keys and values.
const VERSION: u8 = 2;
/// The mark's key; sorts before all families.
const MARK: &[u8] = b"!mark";
/// Families: `m|id` the message, `t|due|id`, `d|domain|0|id`, `s|sender|0|id`.
const MESSAGE: u8 = b'm';
const DUE: u8 = b't';
const DOMAIN: u8 = b'd';
const SENDER: u8 = b's';
/// How sled says that its lock is taken: it has no error kind for that.
const LOCK_TAKEN: &str = "could not acquire lock";
/// How often, and after which pause, a taken lock is tried again.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Parked messages in sled.
pub struct SledIndex {
    db: Db,
    path: PathBuf,
}

/// Opens the sled index in a folder.
#[derive(Clone, Debug)]
pub struct SledIndexFactory {
    /// The index folder, `spool/index`.
    pub path: PathBuf,
    /// Bytes of sled's cache.
    pub cache: u64,
}

/// Runs something that may panic on a damaged database.
fn fenced<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(IndexError("sled panicked".to_owned())))
}

impl From<::sled::Error> for IndexError {
    fn from(error: ::sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Malformed> for IndexError {
    fn from(error: Malformed) -> Self {
        Self(format!("an entry has a malformed {}", error.0))
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> IndexError {
    move |error| IndexError(format!("{}: {error}", path.display()))
}

impl IndexFactory for SledIndexFactory {
    fn open(&self) -> Result<Box<dyn Index>, IndexError> {
        fenced(|| {
            let config = Config::new().path(&self.path).cache_capacity(self.cache).flush_every_ms(Some(1000));
            Ok(Box::new(SledIndex { db: open_when_free(&config)?, path: self.path.clone() }) as Box<dyn Index>)
        })
    }

    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut number = now.as_millis();
        let aside = loop {
            let mut aside = self.path.clone().into_os_string();
            aside.push(format!(".bad-{number}"));
            let aside = PathBuf::from(aside);
            if !aside.exists() {
                break aside;
            }
            number += 1;
        };
        std::fs::rename(&self.path, &aside).map_err(io(&self.path))?;
        Ok(Some(aside.display().to_string()))
    }

    fn discard(&self) -> Result<(), IndexError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

/// sled's own threads let go of its lock a moment after the last handle was dropped: one that reopens must wait for that.
fn open_when_free(config: &Config) -> Result<Db, ::sled::Error> {
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(::sled::Error::Io(error)) if error.to_string().starts_with(LOCK_TAKEN) => std::thread::park_timeout(LOCK_PAUSE),
            opened => return opened,
        }
    }
    config.open()
}

fn message_key(id: QueueId) -> Vec<u8> {
    [&[MESSAGE][..], &id.0.to_be_bytes()].concat()
}

fn due_key(due: Timestamp, id: QueueId) -> Vec<u8> {
    [&[DUE][..], &due.as_millis().to_be_bytes(), &id.0.to_be_bytes()].concat()
}

fn text_key(family: u8, text: &str, id: QueueId) -> Vec<u8> {
    [&[family][..], text.as_bytes(), &[0], &id.0.to_be_bytes()].concat()
}

/// The id that every key of a family ends with.
fn key_id(key: &[u8]) -> Result<QueueId, IndexError> {
    let id = key.last_chunk::<8>().ok_or(Malformed("key"))?;
    Ok(QueueId(u64::from_be_bytes(*id)))
}

/// All keys of a message but its own.
fn other_keys(message: &Message, due: Timestamp) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::from([due_key(due, message.id), sender_key(&message.reverse_path.to_string(), message.id)]);
    for recipient in message.recipients.iter().filter(|recipient| recipient.is_open()) {
        for address in [Some(&recipient.address), recipient.original.as_ref()].into_iter().flatten() {
            keys.insert(text_key(DOMAIN, address.domain().as_str(), message.id));
        }
    }
    keys
}

fn sender_key(sender: &str, id: QueueId) -> Vec<u8> {
    text_key(SENDER, &sender.to_ascii_lowercase(), id)
}

fn encode(stored: &Stored, due: Timestamp) -> Vec<u8> {
    let mut value = Vec::with_capacity(256);
    value.push(VERSION);
    value.extend_from_slice(&due.as_millis().to_le_bytes());
    codec::put_number(&mut value, stored.place.segment);
    codec::put_number(&mut value, stored.place.offset);
    codec::put_number(&mut value, u64::from(stored.place.length));
    value.push(stored.file.map_or(0, |file| if file.compressed.is_none() { 1 } else { 2 }));
    if let Some(file) = stored.file {
        codec::put_content_file(&mut value, file);
    }
    codec::put_message(&mut value, &stored.message);
    value
}

fn decode(id: QueueId, value: &[u8]) -> Result<(Stored, Timestamp), IndexError> {
    let mut reader = Reader(value);
    if reader.byte("version")? != VERSION {
        return Err(IndexError("it is of another version".to_owned()));
    }
    let due = Timestamp::from_millis(u64::from_le_bytes(reader.fixed("due time")?));
    let place = Place { segment: reader.number("segment")?, offset: reader.number("offset")?, length: reader.small("length")? };
    let file = match reader.byte("content")? {
        0 => None,
        kind => Some(reader.content_file(kind == 2)?),
    };
    let message = reader.message(id)?;
    reader.end()?;
    Ok((Stored { message, place, file }, due))
}

impl SledIndex {
    fn find(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        self.db.get(message_key(id))?.map(|value| decode(id, &value)).transpose()
    }

    /// sled's flush, and then what it leaves out: the drive's cache and the file's length.
    fn sync(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        let path = self.path.join("db");
        File::open(&path).and_then(|file| file.sync_data()).map_err(io(&path))
    }

    /// The keys with a prefix whose ids lie behind `after`.
    fn keys(&self, prefix: &[u8], after: Option<QueueId>) -> impl Iterator<Item = Result<(IVec, IVec), IndexError>> {
        let from = match after.map(|after| after.0.checked_add(1)) {
            None => Some(QueueId(0)),
            Some(next) => next.map(QueueId),
        };
        let bound = |id: u64| [prefix, &id.to_be_bytes()].concat();
        let range = from.map(|from| self.db.range(bound(from.0)..=bound(u64::MAX)));
        range.into_iter().flatten().map(|entry| entry.map_err(IndexError::from))
    }
}

/// The narrowest family that has every message that a filter may match.
fn prefix(filter: &Filter) -> Vec<u8> {
    let text = |family: u8, text: &str| [&[family][..], text.as_bytes(), &[0]].concat();
    let domain = filter.recipient.as_ref().map(|recipient| recipient.domain()).or(filter.domain.as_ref());
    match (domain, &filter.sender) {
        (Some(domain), _) => text(DOMAIN, Domain::as_str(domain)),
        (None, Some(sender)) => text(SENDER, &sender.to_string().to_ascii_lowercase()),
        (None, None) => vec![MESSAGE],
    }
}

impl Index for SledIndex {
    fn mark(&self) -> Result<Option<Mark>, IndexError> {
        fenced(|| {
            let Some(value) = self.db.get(MARK)? else { return Ok(None) };
            let mut reader = Reader(&value);
            if reader.byte("version")? != VERSION {
                return Err(IndexError("it is of another version".to_owned()));
            }
            let mut number = || reader.fixed("mark").map(u64::from_le_bytes);
            Ok(Some(Mark {
                identity: number()?,
                position: Position { segment: number()?, offset: number()? },
                sequence: number()?,
                last_id: QueueId(number()?),
            }))
        })
    }

    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError> {
        fenced(|| {
            self.sync()?;
            let Position { segment, offset } = mark.position;
            let mut value = vec![VERSION];
            for number in [mark.identity, segment, offset, mark.sequence, mark.last_id.0] {
                value.extend_from_slice(&number.to_le_bytes());
            }
            self.db.insert(MARK, value)?;
            self.sync()
        })
    }

    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError> {
        fenced(|| {
            let id = stored.message.id;
            let old = self.find(id)?.map(|(old, due)| other_keys(&old.message, due)).unwrap_or_default();
            let new = other_keys(&stored.message, due);
            let mut batch = Batch::default();
            old.difference(&new).for_each(|key| batch.remove(&key[..]));
            new.difference(&old).for_each(|key| batch.insert(&key[..], &[]));
            batch.insert(message_key(id), encode(stored, due));
            Ok(self.db.apply_batch(batch)?)
        })
    }

    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError> {
        fenced(|| {
            let key = message_key(id);
            let Some(value) = self.db.get(&key)? else { return Ok(()) };
            let mut value = value.to_vec();
            let field = value.get_mut(1..9).ok_or(Malformed("due time"))?;
            let old =
                Timestamp::from_millis(u64::from_le_bytes(<[u8; 8]>::try_from(&*field).map_err(|_| Malformed("due time"))?));
            field.copy_from_slice(&due.as_millis().to_le_bytes());
            let mut batch = Batch::default();
            batch.remove(due_key(old, id));
            batch.insert(due_key(due, id), &[]);
            batch.insert(key, value);
            Ok(self.db.apply_batch(batch)?)
        })
    }

    fn remove(&mut self, id: QueueId) -> Result<(), IndexError> {
        fenced(|| {
            let Some((old, due)) = self.find(id)? else { return Ok(()) };
            let mut batch = Batch::default();
            other_keys(&old.message, due).into_iter().for_each(|key| batch.remove(key));
            batch.remove(message_key(id));
            Ok(self.db.apply_batch(batch)?)
        })
    }

    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError> {
        fenced(|| self.find(id))
    }

    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        if from > to {
            return Ok(Vec::new());
        }
        fenced(|| {
            let range = due_key(from, QueueId(0))..=due_key(to, QueueId(u64::MAX));
            let keys = self.db.range(range).keys().take(count_max);
            keys.map(|key| {
                let key = key?;
                let due = key.get(1..9).and_then(|due| due.first_chunk::<8>()).ok_or(Malformed("due time"))?;
                Ok((Timestamp::from_millis(u64::from_be_bytes(*due)), key_id(&key)?))
            })
            .collect()
        })
    }

    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError> {
        fenced(|| {
            let prefix = prefix(filter);
            let mut page = Page::default();
            for (looked, entry) in self.keys(&prefix, filter.after).enumerate() {
                let (key, value) = entry?;
                let id = key_id(&key)?;
                let found = if key[0] == MESSAGE { Some(decode(id, &value)?) } else { self.find(id)? };
                // A key without its message would be damage; the message is what counts.
                page.found.extend(found.map(|(stored, _)| stored).filter(|stored| filter.matches(&stored.message)));
                if page.found.len() >= count_max || looked + 1 >= LOOK_MAX {
                    page.next = Some(id);
                    break;
                }
            }
            Ok(page)
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        fenced(|| {
            for entry in self.keys(&[MESSAGE], None) {
                let (key, value) = entry?;
                let (stored, due) = decode(key_id(&key)?, &value)?;
                visit(stored, due);
            }
            Ok(())
        })
    }
}
