//! The header fields of a message that people know it by, decoded.

use mail_parser::{Address, MessageParser};
use serde::Serialize;

/// Octets of content that are looked at.
pub(super) const HEADER_SIZE_MAX: u64 = 256 * 1024;
/// Addresses that are shown of each field.
const ADDRESSES_MAX: usize = 20;

/// Decoded header fields; strangers' words, to be escaped before they reach a terminal.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Preview {
    pub(super) subject: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) date: Option<String>,
}

impl Preview {
    /// From the beginning of a message's content.
    pub(super) fn new(content: &[u8]) -> Self {
        let end = content.windows(4).position(|w| w == b"\r\n\r\n").map_or(content.len(), |at| at + 4);
        let Some(message) = MessageParser::default().parse_headers(&content[..end]) else { return Self::default() };
        Self {
            subject: message.subject().map(str::to_owned),
            from: message.from().map(addresses),
            to: message.to().map(addresses),
            date: message.date().map(|date| date.to_rfc3339()),
        }
    }
}

fn addresses(field: &Address<'_>) -> String {
    let one = |(name, address): (Option<&str>, Option<&str>)| match (name, address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or("").to_owned(),
    };
    let mut all = field.iter().map(|one| (one.name(), one.address())).map(one);
    let mut shown: Vec<String> = all.by_ref().take(ADDRESSES_MAX).collect();
    let more = all.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded_and_the_body_is_left_alone() {
        let content =
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: =?iso-8859-1?q?J=F6rg?= <j@x.test>\r\nTo: a@x.test, b@x.test\r\n\
            Date: Sun, 22 Nov 2026 02:00:00 +0000\r\n\r\nSubject: body\r\n";
        let preview = Preview::new(content);
        assert_eq!(preview.subject.as_deref(), Some("Grüße"));
        assert_eq!(preview.from.as_deref(), Some("Jörg <j@x.test>"));
        assert_eq!(preview.to.as_deref(), Some("a@x.test, b@x.test"));
        assert_eq!(preview.date.as_deref(), Some("2026-11-22T02:00:00Z"));
    }

    #[test]
    fn no_header_is_no_preview() {
        assert_eq!(Preview::new(b""), Preview::default());
        assert_eq!(Preview::new(b"\r\nSubject: body\r\n\r\n").subject, None);
        assert_eq!(Preview::new(&[0xff; 100]), Preview::default());
    }
}
