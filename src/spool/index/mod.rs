//! The index: parked messages by id, due time, destination and sender. Never the promise: all of it can be rebuilt from the log.

mod memory;
mod sled;

pub use self::memory::{MemoryIndex, MemoryIndexFactory};
pub use self::sled::{SledIndex, SledIndexFactory};

use std::fmt;

use crate::mail::{Message, QueueId, Timestamp};
use crate::spool::Filter;
use crate::spool::record::ContentFile;

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
    /// The message as it now is.
    pub message: Message,
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

/// The index can't do what it was asked; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexError(pub String);

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for IndexError {}

/// Parked messages. One thread calls it. Each changing call is one atomic change.
pub trait Index: Send {
    /// What it was last marked with; none if never.
    fn mark(&self) -> Result<Option<Mark>, IndexError>;
    /// Makes everything so far durable, and then the mark.
    fn set_mark(&mut self, mark: Mark) -> Result<(), IndexError>;
    /// Puts a message in, or replaces it. `Timestamp::ZERO` as due time means taken: somebody works on it.
    fn insert(&mut self, stored: &Stored, due: Timestamp) -> Result<(), IndexError>;
    /// Changes only the due time; nothing happens if the message isn't there.
    fn set_due(&mut self, id: QueueId, due: Timestamp) -> Result<(), IndexError>;
    /// Takes a message out; fine if it isn't there.
    fn remove(&mut self, id: QueueId) -> Result<(), IndexError>;
    /// One message and its due time.
    fn get(&self, id: QueueId) -> Result<Option<(Stored, Timestamp)>, IndexError>;
    /// At most `count_max` messages with due times from `from` to `to` inclusive, the earliest first.
    fn due(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Result<Vec<(Timestamp, QueueId)>, IndexError>;
    /// At most `count_max` messages that match, ordered by id, beginning behind `filter.after`; a bounded piece of work.
    /// `filter.limit` is the caller's business.
    fn page(&self, filter: &Filter, count_max: usize) -> Result<Page, IndexError>;
    /// Every message, ordered by id.
    fn visit(&self, visit: &mut dyn FnMut(Stored, Timestamp)) -> Result<(), IndexError>;
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
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{Address, BodyType, Domain, MessageState, Recipient, RecipientState, ReversePath};

    #[derive(Clone, Debug)]
    enum Act {
        Insert { id: u64, due: u64, sender: u8, recipients: Vec<(u8, bool)>, offset: u64 },
        SetDue(u64, u64),
        Remove(u64),
        Mark(u64),
        Reopen,
    }

    fn act() -> impl Strategy<Value = Act> {
        let id = 1u64..12;
        let insert = (id.clone(), 0u64..50, 0u8..4, prop::collection::vec((0u8..12, any::<bool>()), 0..4), any::<u64>())
            .prop_map(|(id, due, sender, recipients, offset)| Act::Insert { id, due, sender, recipients, offset });
        prop_oneof![
            8 => insert,
            4 => (id.clone(), 0u64..50).prop_map(|(id, due)| Act::SetDue(id, due)),
            3 => id.prop_map(Act::Remove),
            1 => any::<u64>().prop_map(Act::Mark),
            1 => Just(Act::Reopen),
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
            held: id.is_multiple_of(5),
            delays_noticed: 0,
            recipients: recipients.collect(),
        };
        Stored {
            message,
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
        for id in 0..13 {
            assert_eq!(one.get(QueueId(id)).unwrap(), other.get(QueueId(id)).unwrap());
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
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_index_on_disk_does_what_its_twin_in_memory_does(acts in prop::collection::vec(act(), 1..40)) {
            let folder = tempfile::tempdir().unwrap();
            let factory = SledIndexFactory { path: folder.path().join("index"), cache: 1 << 20 };
            let mut one = factory.open().unwrap();
            let mut other = MemoryIndexFactory::default().open().unwrap();
            for act in acts {
                match act {
                    Act::Insert { id, due, sender, recipients, offset } => {
                        let stored = stored(id, sender, &recipients, offset);
                        one.insert(&stored, Timestamp::from_millis(due)).unwrap();
                        other.insert(&stored, Timestamp::from_millis(due)).unwrap();
                    }
                    Act::SetDue(id, due) => {
                        one.set_due(QueueId(id), Timestamp::from_millis(due)).unwrap();
                        other.set_due(QueueId(id), Timestamp::from_millis(due)).unwrap();
                    }
                    Act::Remove(id) => {
                        one.remove(QueueId(id)).unwrap();
                        other.remove(QueueId(id)).unwrap();
                    }
                    Act::Mark(number) => {
                        let position = Position { segment: number % 7, offset: number };
                        let mark = Mark { identity: 1, position, sequence: number, last_id: QueueId(number) };
                        one.set_mark(mark).unwrap();
                        other.set_mark(mark).unwrap();
                    }
                    Act::Reopen => {
                        drop(one);
                        one = factory.open().unwrap();
                    }
                }
            }
            compare(&*one, &*other);
        }
    }
}
