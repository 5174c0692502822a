//! Completes the header of a message that its writer's own program submits (RFC 6409 section 8), while the message streams by: Date,
//! Message-ID and From are added where they are missing, Bcc goes. Owns at most the name of one field.

use std::borrow::Cow;

use memchr::memchr;

use super::{Address, Domain, QueueId, Timestamp};

/// Longer names are none; octets. A line has no more.
const NAME_SIZE_MAX: usize = 998;

/// The header on its way through.
#[derive(Debug)]
pub struct Submitted {
    state: State,
    /// The start of a line, up to the colon, as far as it is here.
    name: Vec<u8>,
    /// A field was there, so that a line can continue it.
    begun: bool,
    /// What is added unless the message has it.
    date: Option<String>,
    message_id: Option<String>,
    from: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a line; `kept`: what becomes of it if it continues a field.
    Line { kept: bool },
    /// In a name.
    Name,
    /// Behind the colon of a field that stays.
    Kept,
    /// In a field that goes.
    Dropped,
    /// Behind the header.
    Body,
}

impl Submitted {
    /// `from` is who wrote it if the message doesn't say.
    pub fn new(from: &Address, hostname: &Domain, id: QueueId, at: Timestamp) -> Self {
        Self {
            state: State::Line { kept: true },
            name: Vec::new(),
            begun: false,
            date: Some(format!("Date: {}\r\n", at.rfc5322())),
            message_id: Some(format!("Message-ID: <{id}@{hostname}>\r\n")),
            from: Some(format!("From: <{from}>\r\n")),
        }
    }

    /// The next piece of content as it is to be kept.
    pub fn receive<'a>(&mut self, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        if self.state == State::Body {
            return Cow::Borrowed(chunk);
        }
        let mut out = Vec::with_capacity(chunk.len() + 256);
        let mut rest = chunk;
        while let Some(first) = rest.first() {
            match self.state {
                State::Body => {
                    out.extend_from_slice(rest);
                    break;
                }
                State::Line { kept } => {
                    let continues = self.begun && matches!(first, b' ' | b'\t');
                    self.state = match (continues, kept) {
                        (false, _) => State::Name,
                        (true, true) => State::Kept,
                        (true, false) => State::Dropped,
                    };
                }
                State::Name => rest = self.name(rest, &mut out),
                State::Kept | State::Dropped => {
                    let kept = self.state == State::Kept;
                    let line_end = memchr(b'\n', rest);
                    let (taken, behind) = rest.split_at(line_end.map_or(rest.len(), |at| at + 1));
                    if kept {
                        out.extend_from_slice(taken);
                    }
                    if line_end.is_some() {
                        self.state = State::Line { kept };
                    }
                    rest = behind;
                }
            }
        }
        Cow::Owned(out)
    }

    /// What is to be kept behind the last piece.
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.state {
            State::Body => {}
            State::Line { .. } => self.complete(&mut out),
            State::Name => self.no_field(&mut out),
            State::Kept | State::Dropped => {
                if self.state == State::Kept {
                    out.extend_from_slice(b"\r\n");
                }
                self.complete(&mut out);
            }
        }
        out
    }

    /// Takes what belongs to a name; returns the rest.
    fn name<'a>(&mut self, octets: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let end = octets.iter().position(|octet| matches!(octet, b':' | b'\n'));
        let (taken, behind) = octets.split_at(end.map_or(octets.len(), |at| at + 1));
        let room = NAME_SIZE_MAX.saturating_sub(self.name.len());
        if taken.len() > room {
            self.no_field(out);
            return octets;
        }
        self.name.extend_from_slice(taken);
        match end.map(|at| octets[at]) {
            None => {}
            Some(b':') => self.field(out),
            Some(_) if self.name == b"\r\n" || self.name == b"\n" => {
                self.complete(out);
                self.end(out);
            }
            Some(_) => self.no_field(out),
        }
        behind
    }

    /// The name of a field is complete, with its colon.
    fn field(&mut self, out: &mut Vec<u8>) {
        let name = self.name[..self.name.len() - 1].trim_ascii_end();
        if name.is_empty() || !name.iter().all(|octet| (33..=126).contains(octet)) {
            return self.no_field(out);
        }
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        self.begun = true;
        self.state = if is(b"Bcc") || is(b"Resent-Bcc") { State::Dropped } else { State::Kept };
        if is(b"Date") {
            self.date = None;
        } else if is(b"Message-ID") {
            self.message_id = None;
        } else if is(b"From") {
            self.from = None;
        }
        if self.state == State::Kept {
            out.extend_from_slice(&self.name);
        }
        self.name.clear();
    }

    /// A line that is no field ends the header: nobody is to find fields behind it that we didn't see.
    fn no_field(&mut self, out: &mut Vec<u8>) {
        self.complete(out);
        out.extend_from_slice(b"\r\n");
        self.end(out);
    }

    fn complete(&mut self, out: &mut Vec<u8>) {
        for field in [self.date.take(), self.message_id.take(), self.from.take()].into_iter().flatten() {
            out.extend_from_slice(field.as_bytes());
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.name);
        self.name = Vec::new();
        self.state = State::Body;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATE: &str = "Date: Sun, 22 Nov 2026 02:00:00 +0000\r\n";
    const MESSAGE_ID: &str = "Message-ID: <0000000000001@mail.example.test>\r\n";
    const FROM: &str = "From: <ann@example.test>\r\n";

    fn submitted() -> Submitted {
        let ann = Address::parse("ann@example.test").unwrap();
        let hostname = Domain::parse("mail.example.test").unwrap();
        Submitted::new(&ann, &hostname, QueueId(1), Timestamp::from_millis(1_795_312_800_000))
    }

    fn pass(content: &[u8], size: usize) -> Vec<u8> {
        let mut submitted = submitted();
        let mut out = Vec::new();
        for piece in content.chunks(size.max(1)) {
            out.extend_from_slice(&submitted.receive(piece));
            assert!(submitted.name.len() <= NAME_SIZE_MAX);
        }
        out.extend(submitted.finish());
        out
    }

    #[test]
    fn what_is_missing_is_added_at_the_headers_end_and_bcc_goes() {
        let all = "From: x@y.test\r\nDate: d\r\nMessage-ID: m\r\n";
        for (content, expected) in [
            (format!("{all}\r\nBcc: body\r\n"), format!("{all}\r\nBcc: body\r\n")),
            ("Subject: s\r\n\r\nb\r\n".to_owned(), format!("Subject: s\r\n{DATE}{MESSAGE_ID}{FROM}\r\nb\r\n")),
            (
                format!("{all}Bcc: a@x.test,\r\n\tb@x.test\r\n c@x.test\r\nTo: t\r\n u\r\n\r\n"),
                format!("{all}To: t\r\n u\r\n\r\n"),
            ),
            (format!("bcc : a\r\n{all}RESENT-BCC:\r\n b\r\n\r\n"), format!("{all}\r\n")),
            (format!("{all}Bcc-Not: a\r\nXBcc: b\r\n\r\n"), format!("{all}Bcc-Not: a\r\nXBcc: b\r\n\r\n")),
            ("date: d\r\nMESSAGE-ID : m\r\n\r\n".to_owned(), format!("date: d\r\nMESSAGE-ID : m\r\n{FROM}\r\n")),
            (
                "Resent-Date: d\r\nResent-From: f\r\n\r\n".to_owned(),
                format!("Resent-Date: d\r\nResent-From: f\r\n{DATE}{MESSAGE_ID}{FROM}\r\n"),
            ),
            ("\r\nbody\r\n".to_owned(), format!("{DATE}{MESSAGE_ID}{FROM}\r\nbody\r\n")),
            ("no header\r\n".to_owned(), format!("{DATE}{MESSAGE_ID}{FROM}\r\nno header\r\n")),
            (" no: header\r\n".to_owned(), format!("{DATE}{MESSAGE_ID}{FROM}\r\n no: header\r\n")),
            (format!("{all}no field\r\nBcc: b\r\n"), format!("{all}\r\nno field\r\nBcc: b\r\n")),
            (format!("{all}a b: c\r\nFrom: b\r\n"), format!("{all}\r\na b: c\r\nFrom: b\r\n")),
            (format!("{all}: c\r\n"), format!("{all}\r\n: c\r\n")),
            (format!("{all}From\r\n : c\r\n"), format!("{all}\r\nFrom\r\n : c\r\n")),
            (all.to_owned(), all.to_owned()),
            (format!("{all}Bcc: b\r\n"), all.to_owned()),
            (format!("{all}Bcc: b"), all.to_owned()),
            ("Subject: s".to_owned(), format!("Subject: s\r\n{DATE}{MESSAGE_ID}{FROM}")),
            ("Subject".to_owned(), format!("{DATE}{MESSAGE_ID}{FROM}\r\nSubject")),
            (String::new(), format!("{DATE}{MESSAGE_ID}{FROM}")),
        ] {
            for size in [1, 2, 3, 7, content.len()] {
                let out = pass(content.as_bytes(), size);
                assert_eq!(String::from_utf8_lossy(&out), expected, "{content:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_name_without_an_end_costs_no_memory_and_ends_the_header() {
        let long = "x".repeat(100_000);
        let out = pass(format!("From: a\r\n{long}: b\r\nFrom: c\r\n").as_bytes(), 1000);
        let expected = format!("From: a\r\n{DATE}{MESSAGE_ID}\r\n{long}: b\r\nFrom: c\r\n");
        assert!(out == expected.as_bytes());
    }

    proptest! {
        /// However it is cut up, the result is the same; and all that readers of it see as header, the check of the original saw, too.
        #[test]
        fn pieces_change_nothing_and_no_field_is_hidden(
            pieces in proptest::collection::vec(prop_oneof!["From", "Bcc", "x", ":", " ", "\t", "\r\n", "\r\n\r\n", "a: b\r\n", "\u{e9}"], 0..30),
            size in 1usize..9,
        ) {
            let content = pieces.concat();
            let whole = pass(content.as_bytes(), content.len());
            prop_assert_eq!(&whole, &pass(content.as_bytes(), size));
            let froms = |octets: &[u8]| super::super::fields(octets).filter(|field| field.is("From")).count();
            let header = whole.windows(4).position(|octets| octets == b"\r\n\r\n").map_or(&whole[..], |end| &whole[..end + 2]);
            // Less than the check saw: a name that goes on in the next line is none here, and ends the header.
            prop_assert!((1..=froms(content.as_bytes()).max(1)).contains(&froms(header)));
            prop_assert_eq!(super::super::fields(header).filter(|field| field.is("Bcc")).count(), 0);
        }
    }
}
