//! Finds the addresses in a header field (RFC 5322 section 3.4, the obsolete forms included): To, Cc, Bcc, From. Owns nothing.
//!
//! What stands there was written by people and programs of all kinds, so an address may lack its domain (`root`), and is told
//! with the place where one could be put. What can't be read as an address is an error, never left out.

/// One address of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `local-part@domain`, or the local part alone; without comments, white space and display name.
    pub text: String,
    /// Whether it has a domain.
    pub has_domain: bool,
    /// Octets of the field's value before the end of the address.
    pub end: usize,
}

/// Something in a field that is no address; its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnAddress(pub String);

/// A piece of the field.
enum Token {
    /// An atom, a quoted string or a domain literal, as written.
    Word(String),
    /// One of `@ . < > , : ;`.
    Mark(u8),
}

/// The addresses in a field's value, in their order; none in an empty group (`undisclosed-recipients:;`).
pub fn addresses(value: &[u8]) -> Result<Vec<Listed>, NotAnAddress> {
    let mut scanner = Scanner { value, at: 0 };
    let mut list = Vec::new();
    let mut element = Element::default();
    let mut in_angle = false;
    let wrong = |element: &Element| NotAnAddress(element.text());
    while let Some(token) = scanner.next() {
        match token {
            Token::Mark(b'<') if !in_angle => {
                // What stood before was the display name.
                element = Element::default();
                in_angle = true;
            }
            Token::Mark(b'>') if in_angle => {
                in_angle = false;
                element.is_closed = true;
            }
            // A route before the address, as once was usual: `<@one.test,@two.test:ann@three.test>`.
            Token::Mark(b':') if in_angle => element = Element::default(),
            Token::Mark(b',') if in_angle && element.text().starts_with('@') => element = Element::default(),
            Token::Mark(b':') => element = Element::default(),
            Token::Mark(b',' | b';') if !in_angle => element.close(&mut list).map_err(NotAnAddress)?,
            _ if element.is_closed => return Err(wrong(&element)),
            Token::Mark(mark @ (b'@' | b'.')) => element.add(String::from(char::from(mark)), true, scanner.at),
            Token::Mark(_) => return Err(wrong(&element)),
            Token::Word(word) => element.add(word, false, scanner.at),
        }
    }
    if in_angle {
        return Err(wrong(&element));
    }
    element.close(&mut list).map_err(NotAnAddress)?;
    Ok(list)
}

/// An address on its way: the words and marks that it is made of.
#[derive(Default)]
struct Element {
    /// Each with whether it is a mark.
    pieces: Vec<(String, bool)>,
    end: usize,
    /// The angle was closed behind it.
    is_closed: bool,
}

impl Element {
    fn add(&mut self, piece: String, is_mark: bool, end: usize) {
        self.pieces.push((piece, is_mark));
        self.end = end;
    }

    fn text(&self) -> String {
        self.pieces.iter().map(|(piece, _)| piece.as_str()).collect()
    }

    /// Ends the element. Nothing between two commas is nothing.
    fn close(&mut self, list: &mut Vec<Listed>) -> Result<(), String> {
        let element = std::mem::take(self);
        // The null address `<>` and nothing at all: nobody is meant.
        if element.pieces.is_empty() {
            return Ok(());
        }
        let text = element.text();
        // Two words without a mark between them are a name and no address.
        if element.pieces.windows(2).any(|pair| !pair[0].1 && !pair[1].1) {
            let words: Vec<_> = element.pieces.iter().map(|(piece, _)| piece.as_str()).collect();
            return Err(words.join(" "));
        }
        let has_domain = element.pieces.iter().any(|(piece, is_mark)| *is_mark && piece == "@");
        list.push(Listed { text, has_domain, end: element.end });
        Ok(())
    }
}

struct Scanner<'a> {
    value: &'a [u8],
    /// Octets used, up to the end of the last token.
    at: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<Token> {
        let mut from = self.at;
        loop {
            match self.value.get(from)? {
                b' ' | b'\t' | b'\r' | b'\n' => from += 1,
                b'(' => from = self.comment(from),
                _ => break,
            }
        }
        let first = self.value[from];
        let end = match first {
            b'@' | b'.' | b'<' | b'>' | b',' | b':' | b';' => {
                self.at = from + 1;
                return Some(Token::Mark(first));
            }
            b'"' => self.quoted(from, b'"'),
            b'[' => self.quoted(from, b']'),
            _ => {
                let special = |octet: &u8| b" \t\r\n(@.<>,:;\"".contains(octet);
                from + self.value[from..].iter().position(special).unwrap_or(self.value.len() - from).max(1)
            }
        };
        self.at = end;
        Some(Token::Word(String::from_utf8_lossy(&self.value[from..end]).into_owned()))
    }

    /// The end of a quoted string or domain literal.
    fn quoted(&self, from: usize, close: u8) -> usize {
        let mut at = from + 1;
        while let Some(octet) = self.value.get(at) {
            at += if *octet == b'\\' { 2 } else { 1 };
            if *octet == close {
                break;
            }
        }
        at.min(self.value.len())
    }

    /// The end of a comment and of those within it.
    fn comment(&self, from: usize) -> usize {
        let (mut at, mut depth) = (from, 0_usize);
        while let Some(octet) = self.value.get(at) {
            at += if *octet == b'\\' { 2 } else { 1 };
            match octet {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        at.min(self.value.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Vec<String> {
        addresses(value.as_bytes()).unwrap().into_iter().map(|listed| listed.text).collect()
    }

    #[test]
    fn every_form_of_an_address_is_found() {
        for (value, expected) in [
            (" ann@example.test", &["ann@example.test"][..]),
            ("Ann Example <ann@example.test>, bob@example.test", &["ann@example.test", "bob@example.test"]),
            ("\"Example, Ann\" <ann@example.test>,\r\n\tBob <bob>", &["ann@example.test", "bob"]),
            ("root (Cron Daemon)", &["root"]),
            ("ann (a (nested \\) one)) @ example . test", &["ann@example.test"]),
            ("undisclosed-recipients:;", &[]),
            ("team: ann@a.test, Bob <bob@b.test>; , eve@c.test", &["ann@a.test", "bob@b.test", "eve@c.test"]),
            ("<@one.test,@two.test:ann@three.test>", &["ann@three.test"]),
            ("\"a b\"@example.test", &["\"a b\"@example.test"]),
            ("\"a\\\"@b\" <x@[192.0.2.1]>", &["x@[192.0.2.1]"]),
            ("<>", &[]),
            ("", &[]),
            (" , ,", &[]),
            ("=?utf-8?q?J=C3=BCrgen?= <j@example.test>", &["j@example.test"]),
            ("Jürgen <jürgen@example.test>", &["jürgen@example.test"]),
            ("J. R. Tolkien <jrr@example.test>", &["jrr@example.test"]),
        ] {
            assert_eq!(texts(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_address_is_never_left_out() {
        for wrong in
            ["Ann Example", "ann@example.test bob@example.test", "<ann@example.test", "a <b@c.test> d", "a > b", "a <b <c>"]
        {
            assert!(addresses(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_place_for_a_domain_is_told() {
        let value = b" Ann <ann>, bob (x), c@d.test";
        let ends: Vec<_> = addresses(value).unwrap().iter().map(|listed| (listed.has_domain, listed.end)).collect();
        assert_eq!(ends, [(false, 9), (false, 15), (true, 29)]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_a_stranger_writes_breaks_it(value: Vec<u8>) {
            for listed in addresses(&value).unwrap_or_default() {
                assert!(listed.end <= value.len());
            }
        }
    }
}
