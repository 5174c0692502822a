//! The index: parked messages by id, due time, destination and sender. Never the promise: all of it can be rebuilt from the log.

mod bits;
mod cache;
mod catalogue;
mod entry;
mod factory;
mod memory;
mod merge;
mod recent;
mod run;
mod runs;
mod sled;
mod source;
mod table;

pub use self::catalogue::{Catalogue, CatalogueFactory, MemoryCatalogue};
pub use self::factory::RunIndexFactory;
pub use self::memory::{MemoryIndex, MemoryIndexFactory};
pub use self::runs::RunIndex;
pub use self::sled::SledCatalogueFactory;

pub(crate) use self::recent::size as size_of;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::mail::{Message, QueueId, Timestamp};
use crate::spool::codec::Malformed;
use crate::spool::record::ContentFile;
use crate::spool::{Filter, Stats};

/// Where a record lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Offset of the record's first byte.
    pub offset: u64,
    /// The record's length in bytes.
    pub length: u32,
}

/// Where in the log something begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
}

/// A message with where its Accept record and its content lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The message as it now is; whoever got it before has it as it was then.
    pub message: Arc<Message>,
    /// Its Accept record.
    pub place: Place,
    /// The content's file; none if the content lies in the record.
    pub file: Option<ContentFile>,
}

/// What the index stores about itself: which log it belongs to, and up to where it reflects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The spool's identity, as in every segment header.
    pub identity: u64,
    /// Every record before this is reflected in the index.
    pub position: Position,
    /// Sequence numbers from here on were unused when the mark was made, or belong to records behind the position.
    pub sequence: u64,
    /// No id up to this may be given out again.
    pub last_id: QueueId,
}

/// What start-up must know of a parked message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resident {
    /// The message.
    pub id: QueueId,
    /// Its Accept record.
    pub place: Place,
    /// Whether its content lies in a file.
    pub file: bool,
    /// Whether somebody works on it.
    pub taken: bool,
}

impl Resident {
    fn new(stored: &Stored, due: Timestamp) -> Self {
        Self { id: stored.message.id, place: stored.place, file: stored.file.is_some(), taken: due == Timestamp::ZERO }
    }
}

impl From<&entry::Summary<'_>> for Resident {
    fn from(summary: &entry::Summary<'_>) -> Self {
        let entry::Summary { id, place, file, taken, .. } = *summary;
        Self { id, place, file: file.is_some(), taken }
    }
}

/// A page of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ordered by id.
    pub found: Vec<Stored>,
    /// The last id that was looked at, if there may be more behind it.
    pub next: Option<QueueId>,
}

/// A page looks at so many messages at the most.
const LOOK_MAX: usize = 4096;

/// The index can't do what it was asked; the texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexError {
    /// What lies there can't be relied on: build it anew.
    Damaged(String),
    /// It is sound, but can't be written now, for want of space perhaps: nothing of it is lost, try again later.
    Unwritable(String),
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(why) | Self::Unwritable(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for IndexError {}

impl From<Malformed> for IndexError {
    fn from(error: Malformed) -> Self {
        Self::Damaged(format!("an entry has a malformed {}", error.0))
    }
}

/// Parked messages. One thread calls it. Each changing call is one atomic change.
///
/// What was changed since the last mark may be gone when the index is opened again: whoever opens it reads the log from the mark on.
pub trait Index: Send {
    /// What it was last marked with; none if never.
    fn mark(&self) -> Result<Option<Mark>, IndexError>;
    /// Makes everything so far durable together with the mark, or nothing.
    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError>;
    /// Puts a message in, or replaces it. `Timestamp::ZERO` as due time means taken: somebody works on it.
    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError>;
    /// The same for many at once.
    fn insert_many(&mut self, batch: BTreeMap<QueueId, (Stored, Timestamp)>) -> Result<(), IndexError> {
        batch.values().try_for_each(|(stored, due)| self.insert(stored, *due))
    }
    /// Changes only the due time; nothing happens if the message isn't there. Who is taken may be forgotten when the index is opened
    /// again: then the due time is the one before.
    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError>;
    /// Takes a message out; fine if it isn't there.
    fn remove(&mut self, id: QueueId) -> Result<(), IndexError>;
    /// One message and its due time.
    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError>;
    /// Those of these that are here, with their due times, in any order: much faster than one by one.
    fn get_all(&self, ids: &BTreeSet<QueueId>, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError> {
        for id in ids {
            if let Some((stored, due)) = self.get(*id)? {
                visit(stored, due);
            }
        }
        Ok(())
    }
    /// Bytes that it takes on disk, about.
    fn disk_size(&self) -> u64 {
        0
    }
    /// At most `count_max` messages with due times from `from` to `to` inclusive, the earliest first; never those that are taken.
    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError>;
    /// The same of those that it has in memory: to fetch them takes no more of it.
    fn due_in_memory(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError> {
        self.due(from, to, count_max)
    }
    /// About how many bytes of memory it takes for messages that aren't on disk yet.
    fn in_memory(&self) -> usize {
        0
    }
    /// At most `count_max` messages that match, ordered by id, beginning behind `filter.after`; a bounded piece of work.
    /// `filter.limit` is the caller's business.
    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError>;
    /// Every message, ordered by id.
    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError>;
    /// Every message, in any order, and only what start-up must know: many times faster than `visit`.
    fn residents(&self, visit: &mut dyn FnMut(Resident)) -> Result<(), IndexError>;
    /// Counts every message, but for those left out: many times faster than `visit`.
    fn count(&self, leave_out: &BTreeSet<QueueId>, stats: &mut Stats) -> Result<(), IndexError>;
    /// A bounded piece of housekeeping; `false` if there is none to do.
    fn work(&mut self) -> Result<bool, IndexError> {
        Ok(false)
    }
}

/// Opens an index; asked again after `set_aside` when the first didn't open or fit.
pub trait IndexFactory: Send {
    /// Opens what is there, or a new empty one.
    fn open(&self) -> Result<Box<dyn Index>, IndexError>;
    /// Puts what is there out of the way (`now` becomes part of its name) and says where; none if there was nothing.
    fn set_aside(&self, now: Timestamp) -> Result<Option<String>, IndexError>;
    /// Removes what is there: the beginning of an index that came to nothing.
    fn discard(&self) -> Result<(), IndexError>;
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::mail::{Address, BodyType, Domain, MessageState, Recipient, RecipientState, ReversePath};
    use crate::system::sim::SimDisk;
    use crate::system::{Disk, OpenMode, SystemDisk};

    #[derive(Clone, Debug)]
    enum Act {
        Insert { id: u64, due: u64, sender: u8, recipients: Vec<(u8, bool)>, offset: u64 },
        SetDue(u64, u64),
        Remove(u64),
        Mark,
        Work,
        Reopen,
        Crash,
    }

    fn act() -> impl Strategy<Value = Act> {
        let id = 1u64..40;
        let insert = (id.clone(), 0u64..50, 0u8..4, prop::collection::vec((0u8..12, any::<bool>()), 0..4), any::<u64>())
            .prop_map(|(id, due, sender, recipients, offset)| Act::Insert { id, due, sender, recipients, offset });
        prop_oneof![
            8 => insert,
            4 => (id.clone(), 0u64..50).prop_map(|(id, due)| Act::SetDue(id, due)),
            3 => id.prop_map(Act::Remove),
            2 => Just(Act::Mark),
            2 => Just(Act::Work),
            1 => Just(Act::Reopen),
            1 => Just(Act::Crash),
        ]
    }

    fn address(number: u8) -> Address {
        Address::parse(&format!("User{}@d{}.test", number % 4, number % 3)).unwrap()
    }

    fn stored(id: u64, sender: u8, recipients: &[(u8, bool)], offset: u64) -> Stored {
        let recipients = recipients.iter().map(|(number, open)| {
            let original = number.is_multiple_of(2).then(|| address(number + 1));
            let mut recipient = Recipient::new(address(*number), original, Timestamp::from_millis(5));
            recipient.status.state = if *open { RecipientState::Deferred } else { RecipientState::Delivered };
            recipient
        });
        let message = Message {
            id: QueueId(id),
            arrived: Timestamp::from_millis(id),
            size: 3,
            reverse_path: if sender == 0 { ReversePath::Null } else { ReversePath::Address(address(sender)) },
            body: BodyType::SevenBit,
            request: None,
            held: id.is_multiple_of(5),
            delays_noticed: 0,
            origin: None,
            recipients: recipients.collect(),
        };
        Stored {
            message: Arc::new(message),
            place: Place { segment: 1, offset, length: 7 },
            file: id.is_multiple_of(3).then_some(ContentFile { crc: 9, compressed: id.is_multiple_of(2).then_some(10) }),
        }
    }

    fn filters() -> Vec<Filter> {
        let all = Filter::default();
        let mut filters = vec![
            all.clone(),
            Filter { sender: Some(ReversePath::Null), ..all.clone() },
            Filter { sender: Some(ReversePath::Address(Address::parse("uSER1@d1.test").unwrap())), ..all.clone() },
            Filter { domain: Some(Domain::parse("d2.test").unwrap()), ..all.clone() },
            Filter { recipient: Some(Address::parse("user1@d1.test").unwrap()), ..all.clone() },
            Filter { state: Some(MessageState::Held), ..all.clone() },
            Filter { arrived_before: Some(Timestamp::from_millis(6)), ..all.clone() },
        ];
        let both = Filter { domain: Some(Domain::parse("d1.test").unwrap()), after: Some(QueueId(4)), ..filters[2].clone() };
        filters.push(both);
        filters
    }

    fn everything(index: &dyn Index, filter: &Filter, count_max: usize) -> Vec<Stored> {
        let mut filter = filter.clone();
        let mut all = Vec::new();
        loop {
            let page = index.page(&filter, count_max).unwrap();
            assert!(page.found.len() <= count_max);
            all.extend(page.found);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => return all,
            }
        }
    }

    fn compare(one: &dyn Index, other: &dyn Index) {
        assert_eq!(one.mark().unwrap(), other.mark().unwrap());
        let time = Timestamp::from_millis;
        for (from, to, count) in [(0, u64::MAX, 100), (1, u64::MAX, 3), (10, 20, 100), (20, 10, 100)] {
            assert_eq!(one.due(time(from), time(to), count).unwrap(), other.due(time(from), time(to), count).unwrap());
        }
        for id in 0..41 {
            assert_eq!(one.get(QueueId(id)).unwrap(), other.get(QueueId(id)).unwrap());
        }
        for step in 1..4 {
            let ids = (0..41).step_by(step).map(QueueId).collect();
            let all = |index: &dyn Index| {
                let mut all = BTreeMap::new();
                index.get_all(&ids, &mut |stored, due| assert!(all.insert(stored.message.id, (stored, due)).is_none())).unwrap();
                all
            };
            assert_eq!(all(one), all(other));
        }
        for filter in filters() {
            assert_eq!(everything(one, &filter, 3), everything(other, &filter, 2), "{filter:?}");
        }
        let visited = |index: &dyn Index| {
            let mut all = Vec::new();
            index.visit(&mut |stored, due| all.push((stored, due))).unwrap();
            all
        };
        assert_eq!(visited(one), visited(other));
        let residents = |index: &dyn Index| {
            let mut all = BTreeSet::new();
            index.residents(&mut |resident| assert!(all.insert(resident))).unwrap();
            all
        };
        assert_eq!(residents(one), residents(other));
        for leave_out in [BTreeSet::new(), (10..20).map(QueueId).collect()] {
            let count = |index: &dyn Index| {
                let mut stats = Stats::default();
                index.count(&leave_out, &mut stats).unwrap();
                stats
            };
            assert_eq!(count(one), count(other));
        }
    }

    /// Carries acts out on an index on disk and on its twin, and compares them.
    fn play(factory: &RunIndexFactory, acts: Vec<Act>) {
        let mut one = factory.open().unwrap();
        let twin = MemoryIndex::default();
        let mut other: Box<dyn Index> = Box::new(twin.clone());
        let mut marked = twin.without_last(0);
        let mut current = twin;
        let mut sequence = 0;
        for act in acts {
            let reopened = matches!(act, Act::Reopen | Act::Crash);
            match act {
                Act::Insert { id, due, sender, recipients, offset } => {
                    let stored = stored(id, sender, &recipients, offset);
                    [&mut one, &mut other]
                        .into_iter()
                        .for_each(|index| index.insert(&stored, Timestamp::from_millis(due)).unwrap());
                }
                Act::SetDue(id, due) => {
                    [&mut one, &mut other]
                        .into_iter()
                        .for_each(|index| index.set_due(QueueId(id), Timestamp::from_millis(due)).unwrap());
                }
                Act::Remove(id) => {
                    [&mut one, &mut other].into_iter().for_each(|index| index.remove(QueueId(id)).unwrap());
                }
                Act::Work => {
                    one.work().unwrap();
                }
                Act::Mark | Act::Reopen => {
                    sequence += 1;
                    let position = Position { segment: sequence % 7, offset: sequence };
                    let mark = Mark { identity: 1, position, sequence, last_id: QueueId(sequence) };
                    [&mut one, &mut other].into_iter().for_each(|index| index.set_mark(mark).unwrap());
                    marked = current.without_last(0);
                }
                Act::Crash => {
                    current = marked.without_last(0);
                    other = Box::new(current.clone());
                }
            }
            if reopened {
                drop(one);
                one = factory.open().unwrap();
                // Who is taken may be forgotten.
                let mut taken = Vec::new();
                other.residents(&mut |resident| taken.extend(resident.taken.then_some(resident.id))).unwrap();
                for id in taken {
                    [&mut one, &mut other].into_iter().for_each(|index| index.set_due(id, Timestamp::from_millis(5)).unwrap());
                }
            }
            compare(&*one, &*other);
        }
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        prop::collection::vec(act(), 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_index_on_disk_does_what_its_twin_in_memory_does(acts in acts(), recent_size_max in 0usize..6000) {
            let disk = Arc::new(SimDisk::new());
            let catalogue = Box::new(MemoryCatalogue::default());
            play(&RunIndexFactory { path: "index".into(), disk, catalogue, cache: 64 << 10, recent_size_max }, acts);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn so_it_does_on_a_real_disk_with_its_catalogue_in_sled(acts in acts()) {
            let folder = tempfile::tempdir().unwrap();
            let factory = RunIndexFactory::new(folder.path(), Arc::new(SystemDisk), 1 << 20);
            play(&RunIndexFactory { recent_size_max: 3000, ..factory }, acts);
        }
    }

    #[test]
    fn a_damaged_or_missing_run_is_an_error_at_opening_or_reading() {
        let disk = SimDisk::new();
        let catalogue = MemoryCatalogue::default();
        let factory = RunIndexFactory {
            path: "index".into(),
            disk: Arc::new(disk.clone()),
            catalogue: Box::new(catalogue),
            cache: 0,
            recent_size_max: 1 << 20,
        };
        let mut index = factory.open().unwrap();
        (1..50).for_each(|id| index.insert(&stored(id, 1, &[(1, true)], id), Timestamp::from_millis(id)).unwrap());
        index.set_mark(Mark { identity: 1, position: Position::default(), sequence: 1, last_id: QueueId(50) }).unwrap();
        drop(index);
        let runs = Path::new("index/runs");
        let run = runs.join(&disk.list(runs).unwrap()[0]);
        let length = disk.open(&run, OpenMode::Read).unwrap().len().unwrap();
        for byte in (0..length).step_by(97) {
            disk.flip_bit(&run, byte * 8).unwrap();
            let read = factory.open().and_then(|index| index.visit(&mut |_, _| {}).and_then(|()| index.residents(&mut |_| {})));
            let due = factory.open().and_then(|index| index.due(Timestamp::ZERO, Timestamp::NEVER, 100));
            let page = factory.open().and_then(|index| index.page(&filters()[3], 100));
            assert!(read.is_err() || due.is_err() || page.is_err(), "byte {byte}");
            disk.flip_bit(&run, byte * 8).unwrap();
        }
        disk.unlink(&run).unwrap();
        assert!(factory.open().is_err());
        assert!(factory.set_aside(Timestamp::from_millis(9)).unwrap().is_some_and(|aside| aside == "index.bad-9"));
        assert!(factory.open().unwrap().mark().unwrap().is_none());
    }
}
