//! Content on its way out by BDAT (RFC 3030 section 2): the octets as they are, cut into chunks. State: how many are still to come.

/// Octets of a chunk where the next one needn't wait for the reply. Large, since each costs a reply, and small enough for a server to say
/// no between two of them.
const CHUNK_SIZE: u64 = 1024 * 1024;

/// Follows one message's content across its pieces.
#[derive(Debug)]
pub(super) struct Chunks {
    chunk_size: u64,
    /// Octets of the message that didn't come yet.
    message: u64,
    /// Octets that its chunk under way lacks.
    chunk: u64,
    /// BDAT with LAST is out.
    last: bool,
}

impl Chunks {
    /// A message of `size` octets. A server without PIPELINING gets it in one chunk, since it would be waited for after each.
    pub(super) fn new(size: u64, pipelining: bool) -> Self {
        Self { chunk_size: if pipelining { CHUNK_SIZE } else { u64::MAX }, message: size, chunk: 0, last: false }
    }

    /// Appends a piece of content to `out`, with the commands that it needs. Returns how many chunks it completes; `None` if the message has
    /// more octets than were announced.
    pub(super) fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut completed = 0;
        while !piece.is_empty() {
            if self.message == 0 {
                return None;
            }
            if self.chunk == 0 {
                self.begin(out);
            }
            let size = piece.len().min(usize::try_from(self.chunk).unwrap_or(usize::MAX));
            let (now, later) = piece.split_at(size);
            out.extend_from_slice(now);
            piece = later;
            self.chunk -= size as u64;
            self.message -= size as u64;
            completed += usize::from(self.chunk == 0);
        }
        Some(completed)
    }

    /// The message is complete: a chunk of nothing if it is empty. False if octets are missing.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> bool {
        if self.message == 0 && !self.last {
            self.begin(out);
        }
        self.is_complete()
    }

    /// Whether the last chunk is whole.
    pub(super) fn is_complete(&self) -> bool {
        self.last && self.chunk == 0
    }

    /// Whether the server waits for more octets of a chunk.
    pub(super) fn is_inside(&self) -> bool {
        self.chunk > 0
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        self.chunk = self.message.min(self.chunk_size);
        self.last = self.chunk == self.message;
        let last = if self.last { " LAST" } else { "" };
        out.extend_from_slice(format!("BDAT {}{last}\r\n", self.chunk).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_into_large_chunks_whatever_the_pieces() {
        for (size, pipelining, expected) in [
            (0, true, &[0][..]),
            (5, true, &[5]),
            (CHUNK_SIZE, true, &[CHUNK_SIZE]),
            (CHUNK_SIZE + 1, true, &[CHUNK_SIZE, 1]),
            (2 * CHUNK_SIZE + 7, true, &[CHUNK_SIZE, CHUNK_SIZE, 7]),
            (2 * CHUNK_SIZE + 7, false, &[2 * CHUNK_SIZE + 7]),
        ] {
            for piece in [65_536, 700_000, 3_000_000] {
                let (mut chunks, mut out, mut completed) = (Chunks::new(size, pipelining), Vec::new(), 0);
                let content = vec![b'.'; size as usize];
                for piece in content.chunks(piece) {
                    assert!(!chunks.is_complete());
                    completed += chunks.push(piece, &mut out).unwrap();
                }
                assert!(chunks.end(&mut out) && chunks.is_complete() && !chunks.is_inside());
                assert_eq!(completed, if size == 0 { 0 } else { expected.len() });
                let mut wire = Vec::new();
                for (at, chunk) in expected.iter().enumerate() {
                    let last = if at + 1 == expected.len() { " LAST" } else { "" };
                    wire.extend_from_slice(format!("BDAT {chunk}{last}\r\n").as_bytes());
                    wire.resize(wire.len() + *chunk as usize, b'.');
                }
                assert!(out == wire, "{size} by {piece}");
                assert_eq!(chunks.push(b"x", &mut out), None);
            }
        }
        let mut chunks = Chunks::new(3, true);
        assert_eq!(chunks.push(b"xy", &mut Vec::new()), Some(0));
        assert!(chunks.is_inside() && !chunks.end(&mut Vec::new()));
    }
}
