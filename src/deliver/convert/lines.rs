//! Cuts content into lines at CR LF, and long lines into fragments, however the pieces fall. State: the line begun, as far as it must wait.

/// Octets of a line's start that always come in one fragment: more than a boundary line or a field's name needs.
pub(super) const START_SIZE: usize = 1024;

/// A line, or a fragment of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Its octets, without the line end. A CR or LF among them is a bare one.
    pub(super) octets: &'a [u8],
    /// The line starts here. It is then whole, or has at least `START_SIZE` octets here.
    pub(super) first: bool,
    /// CR LF follows.
    pub(super) last: bool,
}

/// The cutting machine.
#[derive(Debug, Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    /// A fragment of the line went out already.
    inside: bool,
}

impl Lines {
    /// Takes a piece, and gives what is complete in it.
    pub(super) fn push(&mut self, piece: &[u8], mut take: impl FnMut(Line<'_>)) {
        self.held.extend_from_slice(piece);
        let mut at = 0;
        while let Some(end) = memchr::memmem::find(&self.held[at..], b"\r\n") {
            take(Line { octets: &self.held[at..at + end], first: !self.inside, last: true });
            self.inside = false;
            at += end + 2;
        }
        let rest = &self.held[at..];
        // A CR may be half of a line end.
        let whole = rest.len() - usize::from(rest.ends_with(b"\r"));
        if whole >= START_SIZE || self.inside && whole > 0 {
            take(Line { octets: &rest[..whole], first: !self.inside, last: false });
            self.inside = true;
            at += whole;
        }
        self.held.drain(..at);
    }

    /// The content is over: gives a last line without an end, if there is one.
    pub(super) fn end(&mut self, mut take: impl FnMut(Line<'_>)) {
        if !self.held.is_empty() {
            take(Line { octets: &self.held, first: !self.inside, last: false });
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_pieces_fall(content in "([a\r\n]|\r\n|a{600}){0,12}", size in 1..3000usize) {
            let (mut lines, mut found, mut line) = (Lines::default(), Vec::new(), Vec::new());
            let mut take = |fragment: Line<'_>| {
                assert_eq!(fragment.first, line.is_empty() || fragment.octets.is_empty() && line.is_empty());
                assert!(!fragment.first || fragment.last || fragment.octets.len() >= START_SIZE || content.ends_with(std::str::from_utf8(fragment.octets).unwrap()));
                line.extend_from_slice(fragment.octets);
                if fragment.last {
                    found.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
                }
            };
            content.as_bytes().chunks(size).for_each(|piece| lines.push(piece, &mut take));
            lines.end(&mut take);
            found.push(String::from_utf8(line).unwrap());
            let plainly: Vec<_> = content.split("\r\n").map(str::to_owned).collect();
            prop_assert_eq!(found, plainly);
        }
    }
}
