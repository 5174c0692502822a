//! The catalogue: which runs there are, which of their messages don't count any longer, and up to where the log is reflected.
//!
//! Small, and changed only when the index is marked: all at once or not at all. A checksum over all pairs tells whether they belong
//! together, whatever the store does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{IndexError, Mark, Position};
use crate::mail::QueueId;
use crate::spool::codec::Reader;

/// A change: the pair's new value, or none.
pub(crate) type PairChange = (Vec<u8>, Option<Vec<u8>>);

/// A small set of pairs that changes as a whole.
pub trait Catalogue: Send {
    /// All pairs.
    fn load(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, IndexError>;
    /// Carries the changes out, all or none, and makes them durable.
    fn save(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), IndexError>;
}

/// Opens a catalogue.
pub trait CatalogueFactory: Send {
    /// Opens what is there, or a new empty one.
    fn open(&self) -> Result<Box<dyn Catalogue>, IndexError>;
    /// Puts what is there below the folder given, or removes it.
    fn set_aside(&self, to: Option<&Path>) -> Result<(), IndexError>;
}

const VERSION: u8 = 2;
const MARK: &[u8] = b"mark";
const RUN: u8 = b'r';
const DEAD: u8 = b'd';

/// A run as the catalogue names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ListedRun {
    /// The table's: a file of the same name that is another one doesn't count.
    pub(crate) fingerprint: u32,
    /// The chunks of its dead.
    pub(crate) dead: Vec<(u32, Vec<u8>)>,
}

/// The runs that a catalogue names.
pub(crate) type Listed = BTreeMap<u64, ListedRun>;

/// Reads and changes a catalogue.
pub(crate) struct Ledger {
    catalogue: Box<dyn Catalogue>,
    /// Checksums of all pairs but the mark.
    known: BTreeMap<Vec<u8>, u32>,
    mark: Option<Mark>,
    /// The last save failed.
    in_doubt: bool,
}

/// `r number`
pub(crate) fn run_key(run: u64) -> Vec<u8> {
    [&[RUN][..], &run.to_be_bytes()].concat()
}

/// `d number chunk`
pub(crate) fn dead_key(run: u64, chunk: u32) -> Vec<u8> {
    [&[DEAD][..], &run.to_be_bytes(), &chunk.to_be_bytes()].concat()
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

fn total(known: &BTreeMap<Vec<u8>, u32>) -> u64 {
    known.values().map(|checksum| u64::from(*checksum)).sum()
}

impl Ledger {
    /// Reads a catalogue; an error if its pairs don't belong together.
    pub(crate) fn open(catalogue: Box<dyn Catalogue>) -> Result<(Self, Listed), IndexError> {
        let mut pairs = catalogue.load()?;
        let mark = pairs.remove(MARK);
        let known: BTreeMap<Vec<u8>, u32> = pairs.iter().map(|(key, value)| (key.clone(), checksum(key, value))).collect();
        let mut ledger = Self { catalogue, known, mark: None, in_doubt: false };
        let mark = match mark {
            Some(value) => Some(ledger.read_mark(&value)?),
            None if pairs.is_empty() => None,
            None => return Err(IndexError::Damaged("it was never finished".to_owned())),
        };
        ledger.mark = mark;
        let mut listed = Listed::new();
        for (key, value) in pairs {
            let unknown = || IndexError::Damaged("its catalogue has an unknown entry".to_owned());
            let (family, rest) = key.split_first().ok_or_else(unknown)?;
            let (run, rest) = rest.split_first_chunk::<8>().ok_or_else(unknown)?;
            let run = listed.entry(u64::from_be_bytes(*run)).or_default();
            match (*family, <[u8; 4]>::try_from(rest), <[u8; 4]>::try_from(&value[..])) {
                (RUN, Err(_), Ok(fingerprint)) if rest.is_empty() => run.fingerprint = u32::from_le_bytes(fingerprint),
                (DEAD, Ok(chunk), _) => run.dead.push((u32::from_be_bytes(chunk), value)),
                _ => return Err(unknown()),
            }
        }
        Ok((ledger, listed))
    }

    fn read_mark(&self, value: &[u8]) -> Result<Mark, IndexError> {
        let mut reader = Reader(value);
        if reader.byte("version")? != VERSION {
            return Err(IndexError::Damaged("it is of another version".to_owned()));
        }
        let mut number = || reader.fixed("mark").map(u64::from_le_bytes);
        let mark = Mark {
            identity: number()?,
            position: Position { segment: number()?, offset: number()? },
            sequence: number()?,
            last_id: QueueId(number()?),
        };
        if number()? != total(&self.known) {
            return Err(IndexError::Damaged("parts of its catalogue are missing".to_owned()));
        }
        reader.end()?;
        Ok(mark)
    }

    /// What it was last marked with.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// The saved chunks of a run's dead, and the run itself: to be removed with it.
    pub(crate) fn keys_of(&self, run: u64) -> Vec<Vec<u8>> {
        let dead = self.known.range(dead_key(run, 0)..=dead_key(run, u32::MAX)).map(|(key, _)| key.clone());
        self.known.contains_key(&run_key(run)).then(|| run_key(run)).into_iter().chain(dead).collect()
    }

    /// Whether a run is in it.
    pub(crate) fn has(&self, run: u64) -> bool {
        self.known.contains_key(&run_key(run))
    }

    /// Whether the next `save` must be given all pairs, because it isn't known which of them a failed one has saved.
    pub(crate) fn needs_all(&self) -> bool {
        self.in_doubt
    }

    /// Carries changes out together with a new mark: both, or neither.
    pub(crate) fn save(&mut self, mut changes: Vec<PairChange>, mark: Mark) -> Result<(), IndexError> {
        if self.in_doubt {
            let wanted: BTreeSet<Vec<u8>> = changes.iter().map(|(key, _)| key.clone()).collect();
            let there = self.catalogue.load()?;
            changes.extend(there.into_keys().filter(|key| key != MARK && !wanted.contains(key)).map(|key| (key, None)));
            self.known.clear();
        }
        let mut known = self.known.clone();
        for (key, value) in &changes {
            match value {
                Some(value) => known.insert(key.clone(), checksum(key, value)),
                None => known.remove(key),
            };
        }
        let Position { segment, offset } = mark.position;
        let mut value = vec![VERSION];
        for number in [mark.identity, segment, offset, mark.sequence, mark.last_id.0, total(&known)] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        changes.push((MARK.to_vec(), Some(value)));
        self.in_doubt = true;
        self.catalogue.save(&changes)?;
        self.in_doubt = false;
        self.known = known;
        self.mark = Some(mark);
        Ok(())
    }
}

/// A catalogue in memory: the twin, and the one that simulations use. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryCatalogue(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl MemoryCatalogue {
    /// A copy of its own, as it is now.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.pairs(|pairs| pairs.clone()))))
    }

    fn pairs<T>(&self, look: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Catalogue for MemoryCatalogue {
    fn load(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, IndexError> {
        Ok(self.pairs(|pairs| pairs.clone()))
    }

    fn save(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), IndexError> {
        self.pairs(|pairs| {
            for (key, value) in changes.iter().cloned() {
                match value {
                    Some(value) => pairs.insert(key, value),
                    None => pairs.remove(&key),
                };
            }
        });
        Ok(())
    }
}

impl CatalogueFactory for MemoryCatalogue {
    fn open(&self) -> Result<Box<dyn Catalogue>, IndexError> {
        Ok(Box::new(self.clone()))
    }

    fn set_aside(&self, _: Option<&Path>) -> Result<(), IndexError> {
        self.pairs(BTreeMap::clear);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::SledCatalogueFactory;
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { identity: 1, position: Position { segment: 2, offset: 3 }, sequence, last_id: QueueId(4) }
    }

    fn changes() -> Vec<PairChange> {
        vec![(run_key(7), Some(vec![7; 4])), (dead_key(7, 3), Some(b"bits".to_vec())), (run_key(8), Some(vec![8; 4]))]
    }

    #[test]
    fn a_catalogue_in_sled_does_what_its_twin_does() {
        let folder = tempfile::tempdir().unwrap();
        let sled = SledCatalogueFactory { path: folder.path().join("catalogue") };
        for factory in [&sled as &dyn CatalogueFactory, &MemoryCatalogue::default()] {
            let (mut ledger, listed) = Ledger::open(factory.open().unwrap()).unwrap();
            assert!(ledger.mark().is_none() && listed.is_empty());
            ledger.save(changes(), mark(1)).unwrap();
            let gone = ledger.keys_of(7).into_iter().map(|key| (key, None)).collect();
            assert!(ledger.has(7) && ledger.has(8));
            ledger.save(gone, mark(2)).unwrap();
            assert!(!ledger.has(7));
            ledger.save(vec![(dead_key(8, 1), Some(b"8".to_vec()))], mark(3)).unwrap();
            drop(ledger);
            let (ledger, listed) = Ledger::open(factory.open().unwrap()).unwrap();
            let run = ListedRun { fingerprint: 0x0808_0808, dead: vec![(1, b"8".to_vec())] };
            assert_eq!(listed, BTreeMap::from([(8, run)]));
            assert_eq!(ledger.mark(), Some(mark(3)));
            drop(ledger);
            factory.set_aside(None).unwrap();
            assert!(factory.open().unwrap().load().unwrap().is_empty());
        }
    }

    #[test]
    fn pairs_that_do_not_belong_together_are_found() {
        let memory = MemoryCatalogue::default();
        let (mut ledger, _) = Ledger::open(memory.open().unwrap()).unwrap();
        ledger.save(changes(), mark(1)).unwrap();
        let whole = memory.load().unwrap();
        for key in whole.keys() {
            for value in [None, Some(b"other".to_vec())] {
                let mut torn = memory.copy();
                torn.save(&[(key.clone(), value)]).unwrap();
                assert!(Ledger::open(Box::new(torn)).is_err(), "{key:?}");
            }
        }
    }

    /// Fails to save when told to, after a part of it.
    struct Brittle(MemoryCatalogue, Arc<Mutex<bool>>);

    impl Catalogue for Brittle {
        fn load(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, IndexError> {
            self.0.load()
        }

        fn save(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), IndexError> {
            let fails = *self.1.lock().unwrap();
            self.0.save(if fails { &changes[..changes.len() / 2] } else { changes })?;
            if fails { Err(IndexError::Unwritable("full".to_owned())) } else { Ok(()) }
        }
    }

    #[test]
    fn after_a_failed_save_the_next_one_puts_everything_right() {
        let memory = MemoryCatalogue::default();
        let fails = Arc::new(Mutex::new(false));
        let (mut ledger, _) = Ledger::open(Box::new(Brittle(memory.clone(), fails.clone()))).unwrap();
        ledger.save(changes(), mark(1)).unwrap();
        *fails.lock().unwrap() = true;
        let more = vec![(run_key(8), None), (run_key(9), Some(vec![9; 4])), (dead_key(9, 0), Some(b"9".to_vec()))];
        assert!(ledger.save(more, mark(2)).is_err());
        assert!(ledger.needs_all() && ledger.mark() == Some(mark(1)) && ledger.has(8) && !ledger.has(9));
        *fails.lock().unwrap() = false;
        ledger.save(vec![(run_key(7), Some(vec![7; 4]))], mark(3)).unwrap();
        assert!(!ledger.needs_all());
        let (ledger, listed) = Ledger::open(Box::new(memory)).unwrap();
        assert_eq!((ledger.mark(), listed.into_keys().collect::<Vec<_>>()), (Some(mark(3)), vec![7]));
    }
}
