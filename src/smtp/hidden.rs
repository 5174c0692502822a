//! Finds lines of NULs and a dot in content. A server that throws NULs away would take such a line for the end of the message, and
//! what follows for commands: stuffing hides only dots at the very start of a line. Owns where in a line it stands.

use memchr::memchr;

/// The machine: content goes in as it is kept, dots taken out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HiddenEnds {
    place: Place,
    found: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// At the start of a line.
    #[default]
    Start,
    /// Behind nothing but NULs.
    Nuls,
    /// Behind NULs, a dot and perhaps more NULs.
    Dot,
    /// In any other line.
    Other,
}

impl HiddenEnds {
    /// Whether there was such a line so far; with `last`, also if the content ends in the middle of one.
    pub(super) fn found(self, last: bool) -> bool {
        self.found || last && self.place == Place::Dot
    }

    /// Takes the next octets.
    pub(super) fn receive(&mut self, octets: &[u8]) {
        let Some(last) = octets.last() else { return };
        // Nearly all content has no NUL in it.
        if matches!(self.place, Place::Start | Place::Other) && memchr(0, octets).is_none() {
            self.place = if *last == b'\n' { Place::Start } else { Place::Other };
            return;
        }
        for octet in octets {
            self.place = match (self.place, octet) {
                (Place::Dot, b'\r' | b'\n') => {
                    self.found = true;
                    if *octet == b'\n' { Place::Start } else { Place::Other }
                }
                (_, b'\n') => Place::Start,
                (Place::Start | Place::Nuls, 0) => Place::Nuls,
                (Place::Nuls, b'.') | (Place::Dot, 0) => Place::Dot,
                _ => Place::Other,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_nuls_and_a_dot_is_found_however_it_is_cut() {
        for (content, found) in [
            (&b"a\r\n\0.\r\nb\r\n"[..], true),
            (b"a\r\n\0\0.\0\r\nb\r\n", true),
            (b"\0.\r\n", true),
            (b"a\r\n\0.", true),
            (b"a\r\n.\0\r\nb\r\n", false),
            (b"a\r\n.\r\nb\r\n", false),
            (b"a\r\n\0\r\n.\r\n", false),
            (b"a\r\n\0..\r\n", false),
            (b"a\r\n\0.a\r\n", false),
            (b"a\0.\r\n\0a.\r\n", false),
            (b"nul \0 in text\r\n", false),
        ] {
            for size in 1..=content.len() {
                let mut ends = HiddenEnds::default();
                content.chunks(size).for_each(|piece| ends.receive(piece));
                assert_eq!(ends.found(true), found, "{} by {size}", content.escape_ascii());
            }
        }
    }
}
