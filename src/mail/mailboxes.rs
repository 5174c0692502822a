//! The mailboxes in a From or Sender field (RFC 5322 section 3.4), read from what strangers wrote: addresses only, names are passed over.

use super::Address;

/// The addresses in a field's value, in order. None: something in it can't be read, so it isn't known whom it names.
pub fn mailboxes(value: &[u8]) -> Option<Vec<Address>> {
    let mut reader = Reader { rest: std::str::from_utf8(value).ok()?, found: Vec::new(), text: String::new(), angle: None };
    while let Some(c) = reader.take() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            '(' => reader.comment()?,
            ',' | ';' => reader.end_mailbox()?,
            // The name of a group; its members follow.
            ':' if reader.angle.is_none() && !reader.text.is_empty() => reader.text.clear(),
            '<' if reader.angle.is_none() => {
                let inside = reader.until_bracket()?;
                reader.angle = Some(inside);
                reader.text.clear();
            }
            '>' | ')' | ':' | '<' => return None,
            _ if reader.angle.is_some() => return None,
            '"' | '[' => reader.quoted(c)?,
            c => reader.text.push(c),
        }
    }
    reader.end_mailbox()?;
    Some(reader.found)
}

struct Reader<'a> {
    rest: &'a str,
    found: Vec<Address>,
    /// What stands before an angle bracket, or an address without any; without white space.
    text: String,
    /// What stood between angle brackets.
    angle: Option<String>,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Passes over a comment, and those within it.
    fn comment(&mut self) -> Option<()> {
        let mut depth = 1usize;
        while depth > 0 {
            match self.take()? {
                '(' => depth += 1,
                ')' => depth -= 1,
                '\\' => drop(self.take()?),
                _ => {}
            }
        }
        Some(())
    }

    /// Takes a quoted string or a domain literal over, as it is.
    fn quoted(&mut self, open: char) -> Option<()> {
        let close = if open == '[' { ']' } else { open };
        self.text.push(open);
        loop {
            let c = self.take()?;
            if matches!(c, '\r' | '\n') {
                continue;
            }
            self.text.push(c);
            if c == '\\' {
                let escaped = self.take()?;
                self.text.push(escaped);
            } else if c == close {
                return Some(());
            }
        }
    }

    /// What stands before the closing bracket, without comments, white space and source route.
    fn until_bracket(&mut self) -> Option<String> {
        let name = std::mem::take(&mut self.text);
        loop {
            match self.take()? {
                '>' => break,
                ' ' | '\t' | '\r' | '\n' => {}
                '(' => self.comment()?,
                c @ ('"' | '[') => self.quoted(c)?,
                '<' => return None,
                c => self.text.push(c),
            }
        }
        let inside = std::mem::replace(&mut self.text, name);
        match inside.strip_prefix('@') {
            None => Some(inside),
            Some(route) => route.split_once(':').map(|(_, address)| address.to_owned()),
        }
    }

    /// At a comma, a semicolon or the end. Nothing between two commas is nobody.
    fn end_mailbox(&mut self) -> Option<()> {
        let text = std::mem::take(&mut self.text);
        let address = match self.angle.take() {
            Some(angle) => angle,
            None if text.is_empty() => return Some(()),
            None => text,
        };
        self.found.push(Address::parse_utf8(&address).ok()?);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<String> {
        let addresses = mailboxes(value.as_bytes())?;
        Some(addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_are_found_in_every_form_that_rfc_5322_has() {
        for (value, addresses) in [
            (" ann@example.test", "ann@example.test"),
            (" <ann@example.test>\r\n", "ann@example.test"),
            (" Ann Example <ann@example.test>", "ann@example.test"),
            (" \"Example, Ann <x@y.test>\" <ann@example.test>", "ann@example.test"),
            (" =?utf-8?q?Ann_=3Cx=40y=2Etest=3E?= <ann@example.test>", "ann@example.test"),
            (" x@y.test <ann@example.test>", "ann@example.test"),
            (" Ann <ann@example.test>,\r\n\tBob <bob@example.test>", "ann@example.test bob@example.test"),
            (" ann@example.test (Ann (the \\) one) <x@y.test>)", "ann@example.test"),
            (" (a) ann (b) @ (c) example.test (d)", "ann@example.test"),
            (" <(a)ann@example.test(b)>", "ann@example.test"),
            (" <@a.test,@b.test:ann@example.test>", "ann@example.test"),
            (" \"ann b\"@example.test", "\"ann b\"@example.test"),
            (" \"a\\\"b\"@example.test", "\"a\\\"b\"@example.test"),
            (" ann@[IPv6:2001:db8::1]", "ann@[IPv6:2001:db8::1]"),
            (" Team: ann@example.test, Bob <bob@example.test>;", "ann@example.test bob@example.test"),
            (" Undisclosed:;", ""),
            (" , ann@example.test,, ", "ann@example.test"),
            (" ANN <Ann@Example.TEST>", "Ann@example.test"),
            (" \u{e9} <ann@example.test>", "ann@example.test"),
            ("", ""),
        ] {
            assert_eq!(read(value).as_deref(), Some(addresses), "{value:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_isnt_read() {
        for value in [
            "ann",
            "Ann Example",
            "ann@example.test bob@example.test",
            "<ann@example.test> <bob@example.test>",
            "<ann@example.test> bob@example.test",
            "<ann@example.test",
            "ann@example.test>",
            "<<ann@example.test>>",
            "<>",
            "\"ann@example.test",
            "ann@example.test (x",
            "ann@example.test)",
            "<ann@example.test>: bob@example.test",
            ": ann@example.test",
            "a@b@example.test",
            "ann@[1.2.3",
            "<@a.test>",
            "\"a\" b@example.test \"c\"",
        ] {
            assert_eq!(read(value), None, "{value:?}");
        }
        assert_eq!(mailboxes(b"\xff <ann@example.test>"), None);
    }
}
