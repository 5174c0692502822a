//! The content of one round on its way out, by DATA or by BDAT. State: how much of it was taken.

use super::chunks::Chunks;
use super::content::Stuffing;

/// Content under way.
#[derive(Debug)]
pub(super) struct Sending {
    way: Way,
    /// Octets taken so far.
    position: u64,
}

#[derive(Debug)]
enum Way {
    Data(Stuffing),
    Chunks(Chunks),
}

/// What a piece brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progressed {
    /// Nothing that has a reply.
    Nothing,
    /// A chunk, and not the last.
    Chunk,
    /// The last chunk.
    All,
    /// There is more than was announced.
    TooMuch,
}

impl Sending {
    pub(super) fn data() -> Self {
        Self { way: Way::Data(Stuffing::new()), position: 0 }
    }

    pub(super) fn chunks(size: u64, pipelining: bool) -> Self {
        Self { way: Way::Chunks(Chunks::new(size, pipelining)), position: 0 }
    }

    /// Where the next piece starts.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How long the next piece may be.
    pub(super) fn room(&self) -> u64 {
        match &self.way {
            Way::Data(_) => u64::MAX,
            Way::Chunks(chunks) => chunks.room(),
        }
    }

    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Progressed {
        self.position += piece.len() as u64;
        let chunks = match &mut self.way {
            Way::Data(stuffing) => {
                stuffing.push(piece, out);
                return Progressed::Nothing;
            }
            Way::Chunks(chunks) => chunks,
        };
        if !chunks.push(piece, out) {
            Progressed::TooMuch
        } else if piece.is_empty() || chunks.is_inside() {
            Progressed::Nothing
        } else if chunks.is_complete() {
            Progressed::All
        } else {
            Progressed::Chunk
        }
    }

    /// The end of the content; false if octets are missing.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> bool {
        match &mut self.way {
            Way::Data(stuffing) => {
                stuffing.end(out);
                true
            }
            Way::Chunks(chunks) => chunks.end(out),
        }
    }

    /// Whether the server waits for more octets of a chunk.
    pub(super) fn is_inside_chunk(&self) -> bool {
        matches!(&self.way, Way::Chunks(chunks) if chunks.is_inside())
    }

    /// Whether the next piece has to wait for the reply to the first chunk: whoever refuses that can't be told to forget half of the second.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.way, Way::Chunks(chunks) if chunks.is_behind_first())
    }

    pub(super) fn is_chunks(&self) -> bool {
        matches!(self.way, Way::Chunks(_))
    }
}
