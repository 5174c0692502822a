//! A message's bytes, wherever they lie: read in pieces, so that no message is ever whole in memory.

use std::io;

use super::BoxFuture;

/// Content that stays readable as long as this is held, even when the message leaves the spool meanwhile.
pub trait Content: Send + Sync {
    /// Octets in all.
    fn size(&self) -> u64;
    /// At most `size_max` octets from `offset` on; empty at the end.
    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;
}

/// Content in memory: notices before they are spooled, and tests.
impl Content for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let piece = piece_at(self, offset, size_max).to_vec();
        Box::pin(std::future::ready(Ok(piece)))
    }
}

/// What `Content::read_at` gives of content that lies in memory.
pub(crate) fn piece_at(content: &[u8], offset: u64, size_max: usize) -> &[u8] {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let to = from.saturating_add(size_max).min(content.len());
    &content[from..to]
}
