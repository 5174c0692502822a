//! A set of small numbers, one bit each, in chunks that are saved one by one.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers in a chunk.
const CHUNK: u32 = 4096;
const WORDS: usize = CHUNK as usize / 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    chunks: BTreeMap<u32, Box<[u64; WORDS]>>,
    /// Chunks that changed since `saved`.
    changed: BTreeSet<u32>,
    count: u32,
}

impl Bits {
    pub(crate) fn contains(&self, number: u32) -> bool {
        self.chunks.get(&(number / CHUNK)).is_some_and(|chunk| {
            let bit = number % CHUNK;
            chunk[bit as usize / 64] >> (bit % 64) & 1 == 1
        })
    }

    /// Puts a number in; `false` if it was there.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        if self.contains(number) {
            return false;
        }
        let chunk = self.chunks.entry(number / CHUNK).or_insert_with(|| Box::new([0; WORDS]));
        let bit = number % CHUNK;
        chunk[bit as usize / 64] |= 1 << (bit % 64);
        self.changed.insert(number / CHUNK);
        self.count += 1;
        true
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// All chunks, with their bytes.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.chunks.iter().map(|(number, chunk)| (*number, bytes(chunk)))
    }

    /// The chunks that changed since `saved`, with their bytes.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.changed.iter().filter_map(|number| Some((*number, bytes(self.chunks.get(number)?))))
    }

    /// All is saved.
    pub(crate) fn saved(&mut self) {
        self.changed.clear();
    }

    /// Puts a saved chunk back; `false` if it isn't one.
    pub(crate) fn restore(&mut self, number: u32, bytes: &[u8]) -> bool {
        if bytes.len() != WORDS * 8 {
            return false;
        }
        let mut chunk = Box::new([0; WORDS]);
        for (word, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.count += chunk.iter().map(|word| word.count_ones()).sum::<u32>();
        self.chunks.insert(number, chunk);
        true
    }
}

fn bytes(chunk: &[u64; WORDS]) -> Vec<u8> {
    chunk.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_there_and_can_be_saved() {
        let mut bits = Bits::default();
        let numbers = [0, 1, 63, 64, 4095, 4096, 1 << 30];
        assert!(numbers.iter().all(|number| bits.insert(*number)));
        assert!(numbers.iter().all(|number| !bits.insert(*number)));
        let mut again = Bits::default();
        for (number, bytes) in bits.changed() {
            assert!(again.restore(number, &bytes));
        }
        assert!(!again.restore(9, b"short"));
        for bits in [&bits, &again] {
            assert!(numbers.iter().all(|number| bits.contains(*number)));
            assert!(!bits.contains(2) && !bits.contains(5000));
            assert_eq!(bits.count(), 7);
            assert_eq!(bits.all().count(), 3);
        }
        bits.saved();
        assert_eq!(bits.changed().count(), 0);
        bits.insert(5);
        assert_eq!(bits.changed().map(|(number, _)| number).collect::<Vec<_>>(), [0]);
    }
}
