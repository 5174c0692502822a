//! The catalogue: which runs there are, which of their messages don't count any longer, and up to where the log is reflected.
//!
//! Small, and changed only when the index is marked: all at once or not at all. A checksum over all pairs tells whether they belong
//! together, whatever the store does.

use std::collections::BTreeMap;
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

/// The runs that a catalogue names, with the chunks of their dead.
pub(crate) type Listed = BTreeMap<u64, Vec<(u32, Vec<u8>)>>;

/// Reads and changes a catalogue.
pub(crate) struct Ledger {
    catalogue: Box<dyn Catalogue>,
    /// Checksums of all pairs but the mark.
    known: BTreeMap<Vec<u8>, u32>,
    mark: Option<Mark>,
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

impl Ledger {
    /// Reads a catalogue; an error if its pairs don't belong together.
    pub(crate) fn open(catalogue: Box<dyn Catalogue>) -> Result<(Self, Listed), IndexError> {
        let mut pairs = catalogue.load()?;
        let mark = pairs.remove(MARK);
        let known: BTreeMap<Vec<u8>, u32> = pairs.iter().map(|(key, value)| (key.clone(), checksum(key, value))).collect();
        let mut ledger = Self { catalogue, known, mark: None };
        let mark = match mark {
            Some(value) => Some(ledger.read_mark(&value)?),
            None if pairs.is_empty() => None,
            None => return Err(IndexError("it was never finished".to_owned())),
        };
        ledger.mark = mark;
        let mut listed = Listed::new();
        for (key, value) in pairs {
            let unknown = || IndexError("its catalogue has an unknown entry".to_owned());
            let (family, rest) = key.split_first().ok_or_else(unknown)?;
            let (run, rest) = rest.split_first_chunk::<8>().ok_or_else(unknown)?;
            let chunks = listed.entry(u64::from_be_bytes(*run)).or_default();
            if *family == DEAD {
                let chunk = rest.first_chunk::<4>().ok_or_else(unknown)?;
                chunks.push((u32::from_be_bytes(*chunk), value));
            }
        }
        Ok((ledger, listed))
    }

    fn read_mark(&self, value: &[u8]) -> Result<Mark, IndexError> {
        let mut reader = Reader(value);
        if reader.byte("version")? != VERSION {
            return Err(IndexError("it is of another version".to_owned()));
        }
        let mut number = || reader.fixed("mark").map(u64::from_le_bytes);
        let mark = Mark {
            identity: number()?,
            position: Position { segment: number()?, offset: number()? },
            sequence: number()?,
            last_id: QueueId(number()?),
        };
        if number()? != self.total() {
            return Err(IndexError("parts of its catalogue are missing".to_owned()));
        }
        reader.end()?;
        Ok(mark)
    }

    fn total(&self) -> u64 {
        self.known.values().map(|checksum| u64::from(*checksum)).sum()
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

    /// Carries changes out together with a new mark.
    pub(crate) fn save(&mut self, mut changes: Vec<PairChange>, mark: Mark) -> Result<(), IndexError> {
        for (key, value) in &changes {
            match value {
                Some(value) => self.known.insert(key.clone(), checksum(key, value)),
                None => self.known.remove(key),
            };
        }
        let Position { segment, offset } = mark.position;
        let mut value = vec![VERSION];
        for number in [mark.identity, segment, offset, mark.sequence, mark.last_id.0, self.total()] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        changes.push((MARK.to_vec(), Some(value)));
        self.catalogue.save(&changes)?;
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
        vec![(run_key(7), Some(Vec::new())), (dead_key(7, 3), Some(b"bits".to_vec())), (run_key(8), Some(Vec::new()))]
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
            assert_eq!(listed, BTreeMap::from([(8, vec![(1, b"8".to_vec())])]));
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
}
