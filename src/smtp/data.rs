//! Finds the end of the content that follows 354 and takes the dot-stuffing out (RFC 5321 sections 4.1.1.4 and 4.5.2); the
//! other way round for the sending side. Owns a few octets of state, never content.
//!
//! The end is CR LF `.` CR LF and nothing else: what another server might read as an end (bare LF, bare CR, NUL between)
//! is part of the message here, and a message with a bare CR or LF is marked so that it can be refused.

use memchr::memchr2;

/// The receiving machine.
///
/// ```text
///           "."            CR           LF
///  Start ───────▶ Dot ─────────▶ DotCr ─────▶ (end)
///    ▲ │ other     │ other: dot dropped │ other: bare CR
///    │ ▼           ▼                    ▼
///  Cr ◀──────── Middle   (Cr: a CR came, LF makes a line of it, all else makes it bare)
/// ```
#[derive(Debug)]
pub struct Receiver {
    place: Place,
    bare_line_end: bool,
}

/// Where in a line the next octet falls. The octets that a variant names were held back, because what they are depends on
/// what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// First octet of a line.
    Start,
    /// Behind `.` at the start of a line.
    Dot,
    /// Behind `.` CR at the start of a line.
    DotCr,
    /// Inside a line.
    Middle,
    /// Behind a CR inside a line.
    Cr,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A machine at the start of a message: the CR LF of DATA counts, so `.` CR LF alone is an empty message.
    pub fn new() -> Self {
        Self { place: Place::Start, bare_line_end: false }
    }

    /// Whether a CR or LF stood alone so far. Such content can't be passed on safely: the next server may see lines, and
    /// so an end, where this one saw none.
    pub fn has_bare_line_end(&self) -> bool {
        self.bare_line_end
    }

    /// Takes octets from the wire and appends the content in them to `content`. Once a bare CR or LF was seen nothing is
    /// appended any more, but the end is still looked for.
    ///
    /// Returns how many octets up to and with the end, or None if all were used and the end is still to come. At most two
    /// octets of content are held back from one call to the next.
    pub fn receive(&mut self, octets: &[u8], content: &mut Vec<u8>) -> Option<usize> {
        let mut at = 0;
        while at < octets.len() {
            let octet = octets[at];
            match (self.place, octet) {
                (Place::Start, b'.') => {
                    self.place = Place::Dot;
                    at += 1;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    at += 1;
                }
                (Place::DotCr, b'\n') => {
                    self.place = Place::Start;
                    return Some(at + 1);
                }
                (Place::Cr, b'\n') => {
                    self.keep(b"\r\n", content);
                    self.place = Place::Start;
                    at += 1;
                }
                // This octet shows that the CR before it was bare; the octet itself is looked at again.
                (Place::Cr | Place::DotCr, _) => {
                    self.bare_line_end = true;
                    self.place = Place::Middle;
                }
                (Place::Start | Place::Dot | Place::Middle, _) => at = self.run(octets, at, content),
            }
        }
        None
    }

    /// Takes as many octets as are content as they stand, over as many lines as have no dot in front. `from` is no dot at
    /// the start of a line. Returns where to go on.
    fn run(&mut self, octets: &[u8], from: usize, content: &mut Vec<u8>) -> usize {
        let mut at = from;
        while let Some(found) = memchr2(b'\r', b'\n', &octets[at..]) {
            let cr = at + found;
            match (octets[cr], octets.get(cr + 1)) {
                (b'\r', None) => {
                    self.keep(&octets[from..cr], content);
                    self.place = Place::Cr;
                    return octets.len();
                }
                (b'\r', Some(b'\n')) => {
                    at = cr + 2;
                    if octets.get(at).is_none_or(|next| *next == b'.') {
                        self.keep(&octets[from..at], content);
                        self.place = Place::Start;
                        return at;
                    }
                }
                _ => {
                    self.bare_line_end = true;
                    at = cr + 1;
                }
            }
        }
        self.keep(&octets[from..], content);
        self.place = Place::Middle;
        octets.len()
    }

    fn keep(&self, octets: &[u8], content: &mut Vec<u8>) {
        if !self.bare_line_end {
            content.extend_from_slice(octets);
        }
    }
}

/// The sending machine: doubles a dot at the start of a line, and ends the message.
#[derive(Debug)]
pub struct Stuffer {
    /// The last two octets that were written.
    tail: [u8; 2],
}

impl Default for Stuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Stuffer {
    /// A machine at the start of a message.
    pub fn new() -> Self {
        Self { tail: *b"\r\n" }
    }

    /// Appends content to `wire` in its stuffed form.
    pub fn send(&mut self, content: &[u8], wire: &mut Vec<u8>) {
        if content.is_empty() {
            return;
        }
        if content[0] == b'.' && self.tail == *b"\r\n" {
            wire.push(b'.');
        }
        let mut rest = content;
        // A dot behind the CR LF that fell into an earlier piece: only at the first two octets.
        if self.tail[1] == b'\r' && rest.starts_with(b"\n.") {
            wire.extend_from_slice(b"\n.");
            rest = &rest[1..];
        }
        let mut from = 0;
        let mut at = 0;
        while let Some(found) = memchr::memmem::find(&rest[at..], b"\r\n.") {
            let dot = at + found + 2;
            wire.extend_from_slice(&rest[from..dot]);
            wire.push(b'.');
            from = dot;
            at = dot;
        }
        wire.extend_from_slice(&rest[from..]);
        self.tail = match content {
            [.., a, b] => [*a, *b],
            _ => [self.tail[1], content[0]],
        };
    }

    /// Appends the end of the content, with the CR LF that it lacks if its last line has none.
    pub fn end(self, wire: &mut Vec<u8>) {
        wire.extend_from_slice(if self.tail == *b"\r\n" { b".\r\n" } else { b"\r\n.\r\n" });
    }
}
