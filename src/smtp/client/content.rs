//! Content on its way out: a dot more before every line that starts with one (RFC 5321 section 4.5.2), and the end. State: the last
//! two octets.

use memchr::memchr;

/// Follows one message's content across its pieces.
#[derive(Debug)]
pub(super) struct Stuffing {
    /// The two octets before the next; CRLF at the start, where DATA's line ended.
    before: [u8; 2],
}

impl Stuffing {
    pub(super) fn new() -> Self {
        Self { before: *b"\r\n" }
    }

    /// Appends a piece of content to `out`.
    ///
    /// A dot behind a lone CR or LF gets another one too. Our own server never accepts such content; if it came in by another way, a
    /// lax peer that takes a lone LF for a line end would otherwise see the end of the message, and a next one of a stranger's making.
    pub(super) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + 64);
        let mut copied = 0;
        let mut at = 0;
        // Dots are rarer than line ends: whole runs without one are copied at a time.
        while let Some(found) = memchr(b'.', &piece[at..]) {
            let dot = at + found;
            let before = if dot == 0 { self.before[1] } else { piece[dot - 1] };
            if matches!(before, b'\r' | b'\n') {
                out.extend_from_slice(&piece[copied..dot]);
                out.push(b'.');
                copied = dot;
            }
            at = dot + 1;
        }
        out.extend_from_slice(&piece[copied..]);
        match piece {
            [] => {}
            [only] => self.before = [self.before[1], *only],
            [.., last_but_one, last] => self.before = [*last_but_one, *last],
        }
    }

    /// Appends the line end that may be missing, and the final dot.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        if self.before != *b"\r\n" {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(content: &[u8]) -> Vec<u8> {
        let (mut stuffing, mut out) = (Stuffing::new(), Vec::new());
        stuffing.push(content, &mut out);
        stuffing.end(&mut out);
        out
    }

    #[test]
    fn dots_and_ends() {
        for (content, expected) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
            (b"a.b", b"a.b\r\n.\r\n"),
            (b"a\n.\nb\r\n", b"a\n..\nb\r\n.\r\n"),
            (b"a\r.\rb\n", b"a\r..\rb\n\r\n.\r\n"),
            (b"a\r", b"a\r\r\n.\r\n"),
            (b"a\r\n.\r\n", b"a\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(wire(content), expected, "{:?}", String::from_utf8_lossy(content));
        }
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_never_matters(content in "[.\r\na]{0,40}", size in 1..7usize) {
            let content = content.as_bytes();
            let (mut stuffing, mut out) = (Stuffing::new(), Vec::new());
            content.chunks(size).for_each(|piece| stuffing.push(piece, &mut out));
            stuffing.end(&mut out);
            prop_assert_eq!(&out, &wire(content));
            // However a peer sees lines, none before the last is a dot alone.
            let body = &out[..out.len() - 3];
            prop_assert!(body.split(|b| matches!(b, b'\r' | b'\n')).all(|line| line != b"."));
        }
    }
}
