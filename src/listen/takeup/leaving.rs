//! Files on their way out of `taken/`: what was committed for one is durable, and isn't delivered before the file is gone for good. Owns
//! what waits for that.

use std::io;
use std::sync::Arc;

use crate::event::Event;
use crate::listen::Reception;
use crate::mail::{Message, QueueId};
use crate::maildrop::{End, Layout};
use crate::system::Disk;

/// So many messages wait at most; then nothing more is taken up.
const LEAVING_MAX: usize = 100;

/// A file in `taken/`.
#[derive(Clone)]
pub(super) struct Taken {
    /// Of the message, or of the notice.
    pub(super) id: QueueId,
    /// The name that the file had in the drop folder.
    pub(super) name: String,
    /// What becomes of it.
    pub(super) end: End,
}

impl Taken {
    /// Has the file out of `taken/`, durably. What was done of that before is no error.
    fn clear(&self, disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
        let path = layout.taken_file(self.id, &self.name, self.end);
        let gone = match self.end {
            End::Kept => disk.unlink(&path),
            End::Refused => disk.rename(&path, &layout.refused.join(&self.name)),
        };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if self.end == End::Refused {
            disk.sync_dir(&layout.refused)?;
        }
        disk.sync_dir(&layout.taken)
    }
}

/// A durable message whose file is still to go.
pub(super) struct Committed {
    pub(super) taken: Taken,
    pub(super) message: Arc<Message>,
    /// What is to be told when the file is gone.
    pub(super) event: Event,
}

/// Messages whose files couldn't go yet. The spool has them: a start in between finds both there, too.
#[derive(Default)]
pub(super) struct Leaving(Vec<Committed>);

impl Leaving {
    /// Has the file go and then, only then, the message delivered: sooner, it would be taken up and delivered again after a restart. What can't
    /// go yet waits here for `retry`, and the error is returned.
    pub(super) async fn finish(&mut self, committed: Committed, layout: &Layout, reception: &Reception) -> io::Result<()> {
        let (disk, layout, taken) = (Arc::clone(&reception.system.disk), layout.clone(), committed.taken.clone());
        let gone = reception.system.workers.blocking(move || taken.clear(&*disk, &layout)).await;
        match gone {
            Ok(()) => {
                reception.events.report(committed.event);
                reception.hand_on(&committed.message);
            }
            Err(_) => self.0.push(committed),
        }
        gone
    }

    /// Tries again with all of them.
    pub(super) async fn retry(&mut self, layout: &Layout, reception: &Reception) {
        for committed in std::mem::take(&mut self.0) {
            // That was told when it was new.
            let _ = self.finish(committed, layout, reception).await;
        }
    }

    /// Whether the file in `taken/` that has this id is one of theirs: it is done with.
    pub(super) fn has(&self, id: QueueId) -> bool {
        self.0.iter().any(|committed| committed.taken.id == id)
    }

    /// Whether nothing more is to be taken up.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= LEAVING_MAX
    }
}
