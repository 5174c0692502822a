//! Gives text from standard input the line ends of mail: CR LF, whatever it had, and finds the dot that ends it.

/// What the next octet may be part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of a line.
    Start,
    /// Behind a dot at the start of a line.
    Dot,
    /// Within a line.
    Middle,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Lines {
    place: Place,
    /// CRs that may belong to a line end.
    carriage_returns: usize,
    /// Whether a line with only a dot ends it all.
    dot_ends: bool,
    /// No empty line was seen yet.
    in_header: bool,
    ended: bool,
}

impl Lines {
    pub(super) fn new(dot_ends: bool) -> Self {
        Self { place: Place::Start, carriage_returns: 0, dot_ends, in_header: true, ended: false }
    }

    /// Takes octets and appends their lines to `out`. True: a dot ended it, and what follows is nothing.
    pub(super) fn receive(&mut self, octets: &[u8], out: &mut Vec<u8>) -> bool {
        for octet in octets {
            if self.ended {
                break;
            }
            match octet {
                b'\r' => self.carriage_returns += 1,
                b'\n' => self.line_end(out),
                octet => {
                    self.lone_returns(out);
                    self.octet(*octet, out);
                }
            }
        }
        self.ended
    }

    /// Ends the text; a last line without an end gets one.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.ended && (self.place != Place::Start || self.carriage_returns > 0) {
            self.line_end(out);
        }
    }

    fn line_end(&mut self, out: &mut Vec<u8>) {
        self.carriage_returns = 0;
        match self.place {
            Place::Dot if self.dot_ends => {
                self.ended = true;
                return;
            }
            Place::Dot => out.push(b'.'),
            Place::Start => self.in_header = false,
            Place::Middle => {}
        }
        out.extend_from_slice(b"\r\n");
        self.place = Place::Start;
    }

    /// CRs that end no line. In the body each is taken for a line end, as progress bars mean it; in the header for a space, so
    /// that nobody puts a field in by way of another one's text.
    fn lone_returns(&mut self, out: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.carriage_returns) {
            if self.in_header {
                self.octet(b' ', out);
            } else {
                if self.place == Place::Dot {
                    out.push(b'.');
                }
                out.extend_from_slice(b"\r\n");
                self.place = Place::Start;
            }
        }
    }

    fn octet(&mut self, octet: u8, out: &mut Vec<u8>) {
        match self.place {
            Place::Start if octet == b'.' => {
                self.place = Place::Dot;
                return;
            }
            Place::Dot => out.push(b'.'),
            Place::Start | Place::Middle => {}
        }
        out.push(octet);
        self.place = Place::Middle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8], dot_ends: bool, size: usize) -> Vec<u8> {
        let mut lines = Lines::new(dot_ends);
        let mut out = Vec::new();
        for piece in text.chunks(size) {
            lines.receive(piece, &mut out);
        }
        lines.finish(&mut out);
        out
    }

    #[test]
    fn every_line_end_becomes_cr_lf_however_the_pieces_fall() {
        for (text, expected) in [
            (&b"a: b\n\nc\n"[..], &b"a: b\r\n\r\nc\r\n"[..]),
            (b"a: b\r\n\r\nc", b"a: b\r\n\r\nc\r\n"),
            (b"a: b\r\r\n\nc\r", b"a: b\r\n\r\nc\r\n"),
            (b"a: b\rBcc: c\n\n10%\r20%\r.\rend\n", b"a: b Bcc: c\r\n\r\n10%\r\n20%\r\n.\r\nend\r\n"),
            (b"", b""),
            (b"\n", b"\r\n"),
            (b".a\n..\n", b".a\r\n..\r\n"),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(all(text, true, size), expected, "{:?} by {size}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn a_lone_dot_ends_the_text_only_where_it_may() {
        for text in [&b"a\n.\nb\n"[..], b"a\r\n.\r\nb\r\n", b"a\n."] {
            for size in 1..=text.len() {
                assert_eq!(all(text, true, size), b"a\r\n", "{:?} by {size}", String::from_utf8_lossy(text));
            }
        }
        assert_eq!(all(b"a\n.\nb\n", false, 1), b"a\r\n.\r\nb\r\n");
        assert_eq!(all(b"a\n.", false, 1), b"a\r\n.\r\n");
    }
}
