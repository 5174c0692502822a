//! What the release loop asks the index loop: who lives in a segment, and to lend those whom only the index has.

use std::collections::BTreeMap;

use super::index::{Index, IndexError, Place, Resident};
use super::keeper::Keeper;
use super::shared::Entry;
use super::survivors::{LOCKED, Met, Whence};
use crate::mail::QueueId;

fn whence(has_file: bool) -> Whence {
    if has_file { Whence::File } else { Whence::Record }
}

impl Keeper {
    /// Everybody whose record lies in a segment, also where that can't be read; so many are expected. Memory counts, then the index, all of which is
    /// gone through only if some are lacking.
    pub(super) fn dwellers(&self, index: &dyn Index, segment: u64, expected: u64) -> Result<Vec<Met>, IndexError> {
        let mut dwellers: Vec<Met> = {
            let state = self.shared.lock();
            let here = state.active.values().chain(state.parking.entries());
            let here = here.map(|Entry { stored, .. }| (stored.message.id, stored.place, whence(stored.file.is_some())));
            let dying = state.dying.iter().map(|(id, dying)| (*id, dying.place, whence(dying.file)));
            here.chain(dying).filter(|(_, place, _)| place.segment == segment).collect()
        };
        if dwellers.len() as u64 >= expected {
            return Ok(dwellers);
        }
        let mut indexed = Vec::new();
        index.residents(&mut |Resident { id, place, file, .. }| {
            if place.segment == segment {
                indexed.push((id, place, whence(file)));
            }
        })?;
        let state = self.shared.lock();
        dwellers.extend(indexed.into_iter().filter(|(id, ..)| !state.overrides(*id)));
        Ok(dwellers)
    }

    /// Brings those that live at the places given into memory, to be parked again; none of them is active for it.
    pub(super) fn borrow(&self, index: &dyn Index, wanted: &BTreeMap<QueueId, Place>) -> Result<(), IndexError> {
        let elsewhere = {
            let state = self.shared.lock();
            wanted.keys().filter(|id| !state.overrides(**id)).copied().collect()
        };
        let mut lent = Vec::new();
        index.get_all(&elsewhere, &mut |stored, due| {
            if wanted.get(&stored.message.id) == Some(&stored.place) {
                lent.push((stored, due));
            }
        })?;
        // Only this loop brings messages out of the index, so none of them has come into memory meanwhile.
        let mut lent = lent.into_iter().peekable();
        while lent.peek().is_some() {
            let mut state = self.shared.lock();
            for (stored, due) in lent.by_ref().take(LOCKED) {
                // Generation 0 is nobody's: it stays until it is parked again.
                state.parking.insert(Entry::indexed(stored), due, 0);
            }
        }
        Ok(())
    }

    /// The room that the index takes is none for the log.
    pub(super) fn note_size(&self) {
        if let Ok(index) = &self.index {
            let size = index.disk_size();
            self.shared.lock().segments.set_index(size);
        }
    }
}
