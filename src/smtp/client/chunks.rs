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
    /// BDAT commands so far.
    begun: u32,
    /// BDAT with LAST is out.
    last: bool,
}

impl Chunks {
    /// A message of `size` octets. A server without PIPELINING gets it in one chunk, since it would be waited for after each.
    pub(super) fn new(size: u64, pipelining: bool) -> Self {
        Self { chunk_size: if pipelining { CHUNK_SIZE } else { u64::MAX }, message: size, chunk: 0, begun: 0, last: false }
    }

    /// Appends a piece of content to `out`, with the command that it needs; at most `room` octets. False if the message has more octets than
    /// were announced.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> bool {
        if piece.is_empty() {
            return true;
        }
        if self.chunk == 0 {
            self.begin(out);
        }
        let size = piece.len() as u64;
        if size > self.chunk {
            return false;
        }
        out.extend_from_slice(piece);
        self.chunk -= size;
        self.message -= size;
        true
    }

    /// How long a piece may be: until the end of its chunk.
    pub(super) fn room(&self) -> u64 {
        if self.chunk > 0 { self.chunk } else { self.message.min(self.chunk_size) }
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

    /// Whether the first of several chunks is whole, and no other begun.
    pub(super) fn is_behind_first(&self) -> bool {
        self.begun == 1 && self.chunk == 0 && !self.last
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        self.begun += 1;
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
            for piece_max in [65_536, 700_000, 3_000_000] {
                let (mut chunks, mut out, mut rest) = (Chunks::new(size, pipelining), Vec::new(), size);
                while rest > 0 {
                    assert!(!chunks.is_complete());
                    let piece = chunks.room().min(piece_max).min(rest);
                    assert!(chunks.push(&vec![b'.'; piece as usize], &mut out));
                    rest -= piece;
                    assert_eq!(chunks.is_behind_first(), size - rest == CHUNK_SIZE && expected.len() > 1);
                }
                assert!(chunks.end(&mut out) && chunks.is_complete() && !chunks.is_inside());
                let mut wire = Vec::new();
                for (at, chunk) in expected.iter().enumerate() {
                    let last = if at + 1 == expected.len() { " LAST" } else { "" };
                    wire.extend_from_slice(format!("BDAT {chunk}{last}\r\n").as_bytes());
                    wire.resize(wire.len() + *chunk as usize, b'.');
                }
                assert!(out == wire, "{size} by {piece_max}");
                assert!(!chunks.push(b"x", &mut out));
            }
        }
        let mut chunks = Chunks::new(3, true);
        assert!(chunks.push(b"xy", &mut Vec::new()));
        assert!(chunks.is_inside() && !chunks.end(&mut Vec::new()));
    }
}
