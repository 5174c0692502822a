//! Splits the octets of a session into command lines. Owns the octets received and not yet used; at most one unfinished
//! line of them stays from one read to the next.
//!
//! Only CR LF ends a line (RFC 5321 section 2.3.8). A bare CR or LF never does: a server that is generous here reads
//! commands where another server saw text.

use memchr::{memchr_iter, memchr2};

/// Longest command line that is taken, CR LF included; octets. RFC 5321 section 4.5.3.1.4 asks for 512, and extensions add
/// to it.
pub const LINE_SIZE_MAX: usize = 2048;

/// An emptied buffer larger than this goes back to the allocator: most sessions are idle most of the time.
const IDLE_CAPACITY_MAX: usize = 4096;

/// One line, complete up to its CR LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The line without CR LF; it has neither CR nor LF in it.
    Text(&'a [u8]),
    /// A CR or LF stood alone in the line.
    Malformed,
    /// More octets than a line may have; they are gone.
    TooLong,
}

/// The splitter: `push` octets, take lines with `next_line` until there is none.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the current line starts in `buffer`.
    start: usize,
    /// Up to where the current line was searched for its end.
    scanned: usize,
    /// The current line is over the limit and its start was thrown away.
    overlong: bool,
}

impl Lines {
    /// An empty splitter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes octets from the peer.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next complete line, if there is one. None means that more octets are needed.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        self.next_line_within(LINE_SIZE_MAX)
    }

    /// The same for a line that may have `size_max` octets, CR LF included.
    pub fn next_line_within(&mut self, size_max: usize) -> Option<Line<'_>> {
        let Some(end) = self.find_end() else {
            self.keep_unfinished(size_max);
            return None;
        };
        let (start, overlong) = (self.start, self.overlong);
        self.advance(end);
        if overlong || end - start > size_max {
            return Some(Line::TooLong);
        }
        let text = &self.buffer[start..end - 2];
        Some(if memchr2(b'\r', b'\n', text).is_some() { Line::Malformed } else { Line::Text(text) })
    }

    /// The octets that no line has taken yet. Content follows a command in the same stream.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Marks the first `count` octets of [`Lines::rest`] as used.
    pub fn consume(&mut self, count: usize) {
        self.advance((self.start + count).min(self.buffer.len()));
        if self.start == self.buffer.len() {
            self.forget();
        }
    }

    /// Throws everything away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Position behind the CR LF of the current line.
    fn find_end(&mut self) -> Option<usize> {
        let from = self.scanned;
        for found in memchr_iter(b'\n', &self.buffer[from..]) {
            let at = from + found;
            if at > self.start && self.buffer[at - 1] == b'\r' {
                return Some(at + 1);
            }
        }
        self.scanned = self.buffer.len();
        None
    }

    fn advance(&mut self, to: usize) {
        self.start = to;
        self.scanned = to;
        self.overlong = false;
    }

    /// Moves the unfinished line to the front; of an overlong one only a CR that may yet meet its LF is worth keeping.
    fn keep_unfinished(&mut self, size_max: usize) {
        let size = self.buffer.len() - self.start;
        if size == 0 {
            return self.forget();
        }
        // The LF of the missing CR LF would make a line of `size` octets or one more: too long either way.
        if size > size_max || self.overlong {
            let last = self.buffer[self.buffer.len() - 1];
            self.buffer.clear();
            if last == b'\r' {
                self.buffer.push(last);
            }
            self.overlong = true;
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        self.scanned = self.buffer.len();
    }

    fn forget(&mut self) {
        if self.buffer.capacity() > IDLE_CAPACITY_MAX {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        self.start = 0;
        self.scanned = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of `octets` fed in pieces of `size`, each as a short text.
    fn split(octets: &[u8], size: usize) -> Vec<String> {
        let mut lines = Lines::new();
        let mut found = Vec::new();
        for piece in octets.chunks(size.max(1)) {
            lines.push(piece);
            while let Some(line) = lines.next_line() {
                found.push(match line {
                    Line::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    Line::Malformed => "malformed".to_owned(),
                    Line::TooLong => "too long".to_owned(),
                });
            }
            assert!(lines.rest().len() <= LINE_SIZE_MAX, "an unfinished line is bounded");
        }
        found
    }

    #[test]
    fn only_cr_lf_ends_a_line() {
        let octets = b"NOOP\r\na\nb\r\nc\rd\r\ne\r\r\n\n\r\n\r\r\n\r\nQUIT\r";
        let expected = ["NOOP", "malformed", "malformed", "malformed", "malformed", "malformed", ""];
        for size in 1..=octets.len() {
            assert_eq!(split(octets, size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_line_may_have_the_maximum_and_not_an_octet_more() {
        for (text, expected) in [
            ("a".repeat(LINE_SIZE_MAX - 2), None),
            ("a".repeat(LINE_SIZE_MAX - 1), Some("too long")),
            ("a".repeat(LINE_SIZE_MAX), Some("too long")),
            ("\n".repeat(LINE_SIZE_MAX), Some("too long")),
            ("\r".repeat(LINE_SIZE_MAX * 2), Some("too long")),
        ] {
            let octets = format!("{text}\r\nQUIT\r\n");
            for size in [1, 2, 1000, LINE_SIZE_MAX - 1, LINE_SIZE_MAX, LINE_SIZE_MAX + 1, octets.len()] {
                assert_eq!(split(octets.as_bytes(), size), [expected.unwrap_or(&text), "QUIT"], "pieces of {size}");
            }
        }
    }

    #[test]
    fn what_follows_a_line_can_be_used_in_another_way() {
        let mut lines = Lines::new();
        lines.push(b"DATA\r\ncontent\r\n.\r\nQUIT\r\n");
        assert_eq!(lines.next_line(), Some(Line::Text(b"DATA")));
        lines.consume(12);
        assert_eq!(lines.next_line(), Some(Line::Text(b"QUIT")));
        assert_eq!(lines.next_line(), None);
        assert_eq!(lines.rest(), b"");
    }

    /// Octets with many line ends among them.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a')], 0..200)
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(octets in octets(), size in 1usize..20) {
            prop_assert_eq!(split(&octets, size), split(&octets, octets.len()));
        }
    }
}
