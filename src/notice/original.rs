//! What a notice takes from the message that it is about: bounded header, subject, message id.

use mail_parser::MessageParser;

use super::Returned;
use super::words::clean;
use crate::mail::fields;

/// Octets of the original's header that go into a notice at the most.
const HEADER_SIZE_MAX: usize = 16 * 1024;
/// Octets of a message id that is worth referring to.
const MESSAGE_ID_SIZE_MAX: usize = 250;
/// Earlier messages of its thread that are named; the last ones count.
const REFERENCES_MAX: usize = 20;

/// What is known of the original.
pub(super) struct Original<'a> {
    /// Whole fields from the top, each ended by CRLF.
    pub(super) header: &'a [u8],
    /// `<…@…>`, only if it is a valid one.
    pub(super) message_id: Option<&'a str>,
    /// The messages that it follows, oldest first, only valid ids.
    pub(super) references: Vec<&'a str>,
    /// Decoded, cleaned, cut; empty if there is none.
    pub(super) subject: String,
    /// All of it, if it is to go back and can stand in a notice.
    pub(super) whole: Option<&'a [u8]>,
}

impl<'a> Original<'a> {
    /// Reads what is known of it.
    pub(super) fn read(returned: Returned<'a>) -> Self {
        let (header, whole) = match returned {
            Returned::Header(header) => (header, None),
            Returned::Whole(content) => (content, Some(content).filter(|content| is_in_lines(content))),
        };
        let header = whole_fields(header);
        let message_id = fields(header).find(|field| field.is("Message-ID")).and_then(|field| message_id(field.value));
        let references = references(header);
        let parsed = MessageParser::default().parse_headers(header);
        let subject = parsed.as_ref().and_then(|m| m.subject()).map(|s| clean(s, 120)).unwrap_or_default();
        Self { header, message_id, references, subject, whole }
    }
}

/// Whether content is what 8BITMIME takes: lines ended by CRLF and not too long, no NUL.
pub(super) fn is_in_lines(content: &[u8]) -> bool {
    content.split_inclusive(|b| *b == b'\n').all(|line| {
        let text = line.strip_suffix(b"\r\n");
        text.is_some_and(|text| text.len() <= 998 && !text.iter().any(|b| matches!(b, 0 | b'\r')))
    })
}

/// The fields that fit, with the line end of the last one.
fn whole_fields(header: &[u8]) -> &[u8] {
    let mut end = 0;
    for field in fields(header) {
        let value_end = field.value.as_ptr().addr() - header.as_ptr().addr() + field.value.len();
        let line_end = value_end + if header[value_end..].starts_with(b"\r\n") { 2 } else { 1 };
        if line_end > HEADER_SIZE_MAX || line_end > header.len() {
            break;
        }
        end = line_end;
    }
    &header[..end]
}

/// The message id, if it can stand in our header as it is: `<left@right>`, printable, without spaces or further brackets.
fn message_id(value: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(value.trim_ascii()).ok()?;
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let (left, right) = inner.split_once('@')?;
    let graphic = inner.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
    (graphic && !left.is_empty() && !right.is_empty() && id.len() <= MESSAGE_ID_SIZE_MAX).then_some(id)
}

/// What an answer to the message would name before the message itself (RFC 5322 section 3.6.4): its References, or else what it answers,
/// if that is one message.
fn references(header: &[u8]) -> Vec<&str> {
    let ids = |name: &str| -> Vec<&str> {
        let field = fields(header).find(|field| field.is(name));
        let words = field.into_iter().flat_map(|field| field.value.split(u8::is_ascii_whitespace));
        words.filter_map(message_id).collect()
    };
    let mut found = ids("References");
    if found.is_empty() {
        found = Some(ids("In-Reply-To")).filter(|answered| answered.len() == 1).unwrap_or_default();
    }
    found.split_off(found.len().saturating_sub(REFERENCES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_and_message_id_are_read() {
        let header = b"Message-ID: <a.1@x.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n an alle\r\n";
        let original = Original::read(Returned::Header(header));
        assert_eq!(original.header, header);
        assert_eq!(original.message_id, Some("<a.1@x.test>"));
        assert_eq!(original.subject, "Grüße an alle");
    }

    #[test]
    fn bad_message_ids_are_none() {
        for value in ["a@b", "<a>", "<@b>", "<a@b> <c@d>", "<a@b>\r\n x", "<a b@c>", "<>", ""] {
            assert_eq!(message_id(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(message_id(format!("<{}@b>", "a".repeat(300)).as_bytes()), None);
    }

    #[test]
    fn the_messages_before_it_are_known() {
        for (header, expected) in [
            ("Subject: x\r\n", ""),
            ("References: <a@x>\r\n\t<b@x>  <c@x>\r\nIn-Reply-To: <d@x>\r\n", "<a@x> <b@x> <c@x>"),
            ("References: <a@x> and <no id> \u{fc}\r\n", "<a@x>"),
            ("In-reply-to: <d@x>\r\n", "<d@x>"),
            ("In-Reply-To: <d@x> <e@x>\r\n", ""),
        ] {
            assert_eq!(references(header.as_bytes()).join(" "), expected, "{header}");
        }
        let many: Vec<String> = (0..100).map(|number| format!("<{number}@x>")).collect();
        let header = format!("References: {}\r\n", many.join(" "));
        assert_eq!(references(header.as_bytes()), many[80..]);
    }

    #[test]
    fn only_whole_fields_that_fit_are_kept() {
        let mut header = b"A: 1\r\n".to_vec();
        header.extend(format!("B: {}\r\n", "x ".repeat(10_000)).bytes());
        assert_eq!(Original::read(Returned::Header(&header)).header, b"A: 1\r\n");
        assert_eq!(Original::read(Returned::Header(b"A: 1\r\nB: 2")).header, b"A: 1\r\n");
        assert_eq!(Original::read(Returned::Header(b"no header at all\r\nA: 1\r\n")).header, b"");
        assert_eq!(Original::read(Returned::Header(b"")).subject, "");
        assert_eq!(Original::read(Returned::Header(b"Subject: a\0b\x1b[31m\r\n")).subject, "a b [31m");
    }
}
