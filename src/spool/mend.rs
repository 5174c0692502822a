//! How the index loop gets over trouble with its index: one that is damaged is built anew from the log, one that can't be written for
//! a while is kept.

use std::time::Duration;

use super::index::{Index, IndexError, Mark};
use super::keeper::Keeper;
use super::replay::Replay;
use super::{Note, SpoolError};

/// An index that was built anew, or couldn't be, is built anew again after this time at the earliest.
const TRY_AGAIN: Duration = Duration::from_secs(30);

impl Keeper {
    /// Marks the index. If it can't be written, it stays marked as it was: says how far that was.
    pub(super) fn mark(&mut self, mark: Mark) -> Result<Mark, SpoolError> {
        let mut unwritable = None;
        let marked = self.with_index(|_, index| match index.set_mark(mark) {
            Err(IndexError::Unwritable(why)) => {
                unwritable = Some(why);
                index.mark()
            }
            marked => marked.map(|()| Some(mark)),
        });
        if self.index.is_ok() {
            let trouble = unwritable.map(|why| format!("the index can't be written: {why}"));
            let mut state = self.shared.lock();
            let new = trouble.clone().filter(|_| state.unindexed.is_none());
            state.unindexed = trouble;
            drop(state);
            new.into_iter().for_each(|trouble| self.shared.report(Note::Trouble(trouble)));
        }
        marked?.ok_or_else(|| SpoolError::Index("it was never marked".to_owned()))
    }

    /// Does something with the index. If that is damaged, it is built anew from the log, and it is tried once more. If that can't be
    /// done, or doesn't help, it is tried again later.
    pub(super) fn with_index<T>(
        &mut self,
        mut work: impl FnMut(&Self, &mut dyn Index) -> Result<T, IndexError>,
    ) -> Result<T, SpoolError> {
        let mut tried = self.shared.clock.monotonic() < self.try_again;
        if let Err(error) = &self.index
            && !tried
        {
            self.rebuild(error.clone());
            tried = true;
        }
        loop {
            let mut index = std::mem::replace(&mut self.index, Err(IndexError::Damaged("in use".to_owned())));
            let done = match &mut index {
                Ok(index) => work(self, &mut **index),
                Err(error) => Err(error.clone()),
            };
            self.index = index;
            match done {
                Ok(done) => return Ok(done),
                Err(error @ IndexError::Damaged(_)) if !tried && self.index.is_ok() => self.rebuild(error),
                Err(error) => return Err(SpoolError::Index(error.to_string())),
            }
            tried = true;
        }
    }

    fn rebuild(&mut self, error: IndexError) {
        // The old one must be closed before another can be opened in its place.
        self.index = Err(error.clone());
        self.try_again = self.shared.clock.monotonic() + TRY_AGAIN;
        match self.fresh_index() {
            Ok((set_aside, index)) => {
                self.index = Ok(index);
                let mut state = self.shared.lock();
                state.unindexed = None;
                // What should have gone into the old one meanwhile.
                state.parking.ids().into_iter().for_each(|id| state.park_again(id));
                drop(state);
                self.shared.wake.notify_one();
                self.shared.report(Note::IndexRebuilt { why: error.to_string(), set_aside });
            }
            Err(worse) => {
                let trouble = format!("the index failed ({error}) and can't be rebuilt: {worse}");
                self.shared.lock().unindexed = Some(trouble.clone());
                self.shared.report(Note::Trouble(trouble));
            }
        }
    }

    /// A new index, filled from the log; and where the old one lies now.
    fn fresh_index(&mut self) -> Result<(Option<String>, Box<dyn Index>), IndexError> {
        let set_aside = if self.half_made {
            self.factory.discard()?;
            None
        } else {
            self.factory.set_aside(self.shared.clock.now())?
        };
        self.half_made = true;
        let mut index = self.factory.open()?;
        Replay::rebuild(&self.shared, &mut *index)?;
        self.half_made = false;
        Ok((set_aside, index))
    }
}
