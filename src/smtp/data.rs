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

/// Looks for a CR or LF that stands alone in content without dots, which comes by BDAT.
#[derive(Debug, Default)]
pub struct LineEnds {
    /// The last octet was a CR.
    open: bool,
    bare: bool,
}

impl LineEnds {
    /// A machine at the start of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a CR or LF stood alone so far.
    pub fn has_bare(&self) -> bool {
        self.bare
    }

    /// Whether the last octet was a CR: bare, if nothing comes.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Takes the next octets.
    pub fn receive(&mut self, octets: &[u8]) {
        let Some((first, _)) = octets.split_first() else { return };
        let mut at = 0;
        if std::mem::take(&mut self.open) {
            self.bare |= *first != b'\n';
            at = usize::from(*first == b'\n');
        }
        while let Some(found) = memchr2(b'\r', b'\n', &octets[at..]).filter(|_| !self.bare) {
            let place = at + found;
            match (octets[place], octets.get(place + 1)) {
                (b'\r', None) => {
                    self.open = true;
                    return;
                }
                (b'\r', Some(b'\n')) => at = place + 2,
                _ => self.bare = true,
            }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, whether it had bare line ends, and what follows the end.
    type Received = (Vec<u8>, bool, Option<Vec<u8>>);

    fn receive(wire: &[u8], size: usize) -> Received {
        let mut receiver = Receiver::new();
        let mut content = Vec::new();
        let mut at = 0;
        for piece in wire.chunks(size.max(1)) {
            if let Some(used) = receiver.receive(piece, &mut content) {
                return (content, receiver.has_bare_line_end(), Some(wire[at + used..].to_vec()));
            }
            at += piece.len();
        }
        (content, receiver.has_bare_line_end(), None)
    }

    /// The same by the plain words of RFC 5321, for complete messages: slow and obvious.
    fn receive_plainly(wire: &[u8]) -> Received {
        let stream = [b"\r\n", wire].concat();
        let Some(end) = stream.windows(5).position(|w| w == b"\r\n.\r\n") else { return (Vec::new(), false, None) };
        let rest = stream[end + 5..].to_vec();
        let text = String::from_utf8_lossy(&stream[..end + 2]).into_owned();
        let bare = text.replace("\r\n", "").contains(['\r', '\n']);
        let unstuffed = text.replace("\r\n.", "\r\n");
        (unstuffed.as_bytes()[2..].to_vec(), bare, Some(rest))
    }

    #[test]
    fn only_cr_lf_dot_cr_lf_ends_a_message() {
        let cases: [(&[u8], &[u8], bool); 22] = [
            (b".\r\n", b"", false),
            (b"a\r\n.\r\n", b"a\r\n", false),
            (b"\r\n.\r\n", b"\r\n", false),
            (b"..\r\n.\r\n", b".\r\n", false),
            (b".a\r\n.\r\n", b"a\r\n", false),
            (b"..a\r\n..\r\n...\r\n.\r\n", b".a\r\n.\r\n..\r\n", false),
            (b"a\r\n. \r\n.\r\n", b"a\r\n \r\n", false),
            (b"a.\r\n.\r\n", b"a.\r\n", false),
            (b"a\0b\r\n\0.\r\n.\r\n", b"a\0b\r\n\0.\r\n", false),
            (b"a\r\n.\0\r\n.\r\n", b"a\r\n\0\r\n", false),
            (b"a\n.\r\nb\r\n.\r\n", b"", true),
            (b"a\n.\nb\r\n.\r\n", b"", true),
            (b"a\r.\rb\r\n.\r\n", b"", true),
            (b"a\r\n.\nb\r\n.\r\n", b"", true),
            (b"a\r\n.\rb\r\n.\r\n", b"", true),
            (b"a\r.\r\nb\r\n.\r\n", b"", true),
            (b"a\r\n.\r\r\nb\r\n.\r\n", b"", true),
            (b"a\r\r\n.\r\n", b"", true),
            (b"a\n\r.\r\nb\r\n.\r\n", b"", true),
            (b".\nb\r\n.\r\n", b"", true),
            (b".\rb\r\n.\r\n", b"", true),
            (b"\n.\r\n\r\n.\r\n", b"", true),
        ];
        for (wire, content, bare) in cases {
            let followed = [wire, b"QUIT\r\n"].concat();
            for size in 1..=followed.len() {
                let (found, found_bare, rest) = receive(&followed, size);
                assert_eq!((found_bare, rest.as_deref()), (bare, Some(&b"QUIT\r\n"[..])), "{} by {size}", wire.escape_ascii());
                assert!(bare || found == content, "{} by {size}", wire.escape_ascii());
            }
            for cut in 0..wire.len() {
                assert_eq!(receive(&wire[..cut], cut).2, None, "{} cut at {cut}", wire.escape_ascii());
            }
        }
    }

    #[test]
    fn content_comes_before_the_end_does() {
        let mut receiver = Receiver::new();
        let mut content = Vec::new();
        assert_eq!(receiver.receive(b"one\r\ntwo", &mut content), None);
        assert_eq!(content, b"one\r\ntwo");
    }

    /// Octets with many line ends and dots among them.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let octet = prop_oneof![4 => Just(b'\r'), 4 => Just(b'\n'), 4 => Just(b'.'), 2 => Just(b'a'), 1 => 0u8..128];
        proptest::collection::vec(octet, 0..100)
    }

    /// Content as this server passes it on: no bare CR or LF.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&[u8]; 6] = [b"\r\n", b".", b"a", b"\0\xff", b"\r\n.\r\n", b"\r\n."];
        proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_octets_are_read_as_the_rfc_says_however_they_are_cut(octets in octets(), size in 1usize..10) {
            let wire = [&octets[..], b"\r\n.\r\n"].concat();
            let (content, bare, rest) = receive(&wire, size);
            let plainly = receive_plainly(&wire);
            prop_assert_eq!((bare, &rest), (plainly.1, &plainly.2));
            prop_assert!(bare || content == plainly.0);
        }

        #[test]
        fn what_is_stuffed_comes_out_again(content in lines(), size in 1usize..10, cut in 1usize..10) {
            let mut stuffer = Stuffer::new();
            let mut wire = Vec::new();
            for piece in content.chunks(size) {
                stuffer.send(piece, &mut wire);
            }
            stuffer.end(&mut wire);
            wire.extend_from_slice(b"QUIT\r\n");
            let (mut received, bare, rest) = receive(&wire, cut);
            if received != content && !content.is_empty() {
                // The last line got the CR LF that it lacked.
                prop_assert!(!content.ends_with(b"\r\n") && received.ends_with(b"\r\n"));
                received.truncate(received.len() - 2);
            }
            prop_assert_eq!((received, bare, rest), (content, false, Some(b"QUIT\r\n".to_vec())));
        }
    }
}
