//! Tries segments again that the disk couldn't read: what it gives by then goes back to its messages, and a segment that nobody waits for is
//! removed.

use std::sync::Arc;

use super::record::ContentFile;
use super::shared::Shared;
use super::space::Pace;
use super::survivors::{Copier, Met, STEP_RECORDS, Whence};
use super::unreadable::Claim;
use super::{Note, SpoolError};

/// Tries all whose time has come.
pub(crate) async fn due(shared: &Arc<Shared>, pace: &mut Pace) {
    for segment in shared.unreadable.due(shared.clock.monotonic()) {
        if let Err(error) = again(shared, segment, pace).await
            && error != SpoolError::Closed
        {
            shared.report(Note::Trouble(format!("segment {segment} stays in unreadable/: {error}")));
        }
    }
}

async fn again(shared: &Arc<Shared>, segment: u64, pace: &mut Pace) -> Result<(), SpoolError> {
    let mut round = Round { copier: Copier::new(shared, pace), restored: 0 };
    let ended = round.go(shared, segment).await;
    let Round { copier: Copier { why, damaged, untried, .. }, restored } = round;
    for claim in damaged {
        shared.unreadable.settle(&claim);
        shared.report(Note::ContentMissing { id: claim.0 });
    }
    if restored > 0 {
        shared.report(Note::SegmentReadable { segment, messages: restored });
    }
    let is_to_be_told = shared.unreadable.tried(segment, untried, restored > 0, shared.clock.monotonic());
    ended?;
    let messages = shared.unreadable.claims(segment).len() as u64;
    if messages == 0 {
        return shared.unreadable.remove(&*shared.disk, &shared.layout, segment);
    }
    if let Some(error) = why.filter(|_| is_to_be_told) {
        shared.report(Note::SegmentUnreadable { segment, messages, error: error.to_string() });
    }
    Ok(())
}

/// One try of a segment.
struct Round<'a> {
    copier: Copier<'a>,
    /// Messages that have their content back.
    restored: u64,
}

impl Round<'_> {
    async fn go(&mut self, shared: &Arc<Shared>, segment: u64) -> Result<(), SpoolError> {
        for some in shared.unreadable.claims(segment).chunks(STEP_RECORDS) {
            let (waiting, _) = waiting(shared, some).await?;
            self.copier.copy(waiting).await?;
            self.restored += self::waiting(shared, some).await?.1;
            if self.copier.untried.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// Those that still wait for their content, and how many have it back. Who doesn't wait is settled.
async fn waiting(shared: &Shared, claims: &[Claim]) -> Result<(Vec<Met>, u64), SpoolError> {
    let (mut met, mut whole) = (Vec::new(), 0);
    for (id, place) in claims {
        match shared.stored(*id).await? {
            Some(stored) if stored.file == Some(ContentFile::LOST) => met.push((*id, stored.place, Whence::Aside(*place))),
            other => {
                whole += u64::from(other.is_some());
                shared.unreadable.settle(&(*id, *place));
            }
        }
    }
    Ok((met, whole))
}
