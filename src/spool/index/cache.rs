//! Blocks of tables that were read lately, up to a number of bytes. The oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The table's number and the block's.
type Key = (u64, usize);

/// See the module.
pub(crate) struct Cache {
    size_max: u64,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Never gone through in its own order.
    known: HashMap<Key, Arc<[u8]>>,
    order: VecDeque<Key>,
    size: u64,
}

impl Cache {
    /// An empty one.
    pub(crate) fn new(size_max: u64) -> Self {
        Self { size_max, blocks: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, table: u64, block: usize) -> Option<Arc<[u8]>> {
        self.lock().known.get(&(table, block)).cloned()
    }

    pub(crate) fn put(&self, table: u64, block: usize, bytes: Arc<[u8]>) {
        let mut blocks = self.lock();
        blocks.size += bytes.len() as u64;
        match blocks.known.insert((table, block), bytes) {
            Some(before) => blocks.size -= before.len() as u64,
            None => blocks.order.push_back((table, block)),
        }
        while blocks.size > self.size_max
            && let Some(oldest) = blocks.order.pop_front()
        {
            let gone = blocks.known.remove(&oldest).map_or(0, |bytes| bytes.len() as u64);
            blocks.size -= gone;
        }
    }

    /// A table is gone.
    pub(crate) fn forget(&self, table: u64) {
        let mut blocks = self.lock();
        let (gone, order): (VecDeque<Key>, VecDeque<Key>) =
            std::mem::take(&mut blocks.order).into_iter().partition(|(number, _)| *number == table);
        blocks.order = order;
        for key in gone {
            let size = blocks.known.remove(&key).map_or(0, |bytes| bytes.len() as u64);
            blocks.size -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_blocks_go_when_it_is_full() {
        let cache = Cache::new(30);
        (0..4).for_each(|number| cache.put(1, number, vec![number as u8; 10].into()));
        assert_eq!(cache.get(1, 0), None);
        assert_eq!(cache.get(1, 3).as_deref(), Some(&[3; 10][..]));
        cache.put(2, 0, vec![9; 10].into());
        cache.forget(1);
        assert_eq!(cache.get(1, 3), None);
        assert!(cache.get(2, 0).is_some());
        assert_eq!(cache.lock().size, 10);
        cache.put(3, 0, vec![0; 31].into());
        assert_eq!(cache.lock().size, 0, "a block larger than all of it doesn't stay");
    }
}
