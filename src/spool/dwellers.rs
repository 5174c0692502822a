//! What the release loop asks the index loop: who lives in a segment, and to lend those whom only the index has.

use super::index::{Index, IndexError, Place, Resident};
use super::keeper::Keeper;
use super::shared::Entry;
use super::survivors::{Met, Whence};
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
    pub(super) fn borrow(&self, index: &dyn Index, wanted: &[(QueueId, Place)]) -> Result<(), IndexError> {
        for (id, place) in wanted {
            if self.shared.lock().overrides(*id) {
                continue;
            }
            let Some((stored, due)) = index.get(*id)? else { continue };
            if stored.place == *place {
                let entry = Entry::indexed(stored);
                // Generation 0 is nobody's: it stays until it is parked again.
                self.shared.lock().parking.insert(entry, due, 0);
            }
        }
        Ok(())
    }
}
