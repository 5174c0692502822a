//! Marks by which we know ourselves and what has been here before, and which tell nobody else anything. Owns the key.
//!
//! Names and addresses can't do that: behind NAT the address that leads back to us isn't ours, and several servers may have one
//! name. A mark is made with a key that never leaves the spool folder.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::{Address, QueueId, fields};

/// How the comment with the marks begins.
const OPENING: &str = "(loop-marks ";
/// A message for more recipients isn't marked.
const RECIPIENTS_MAX: usize = 20;
/// So many fields with marks are looked at: they could be anybody's.
const FIELDS_MAX: usize = 5;
/// Marks on a line of the field.
const LINE_MARKS: usize = 5;
/// Octets of a mark: enough that none comes about by chance.
const MARK_SIZE: usize = 6;
/// Octets of the greeting's.
const GREETING_SIZE: usize = 12;

/// See the module.
pub struct OwnMark {
    key: hmac::Key,
    greeting: String,
}

/// Without the key.
impl fmt::Debug for OwnMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnMark").finish_non_exhaustive()
    }
}

impl OwnMark {
    /// Marks made with this key.
    pub fn new(key: &[u8]) -> Self {
        let mut mark = Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), greeting: String::new() };
        write_hex(&mark.sign(&[b"greeting"]), GREETING_SIZE, &mut mark.greeting);
        mark
    }

    /// What stands in our greeting.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Whether this greeting is ours.
    pub fn is_greeting(&self, text: &str) -> bool {
        text.split_ascii_whitespace().any(|word| bool::from(word.as_bytes().ct_eq(self.greeting.as_bytes())))
    }

    /// For our `Received:` field, folded: that a message with this id was here for these recipients. Nothing if they are too many.
    pub fn hop<'a>(&self, id: QueueId, recipients: impl ExactSizeIterator<Item = &'a Address>) -> String {
        if recipients.len() > RECIPIENTS_MAX {
            return String::new();
        }
        let mut field = String::with_capacity(OPENING.len() + recipients.len() * (2 * MARK_SIZE + 3) + 1);
        field.push_str(OPENING);
        let number = id.to_string();
        for (count, recipient) in recipients.enumerate() {
            match count {
                0 => {}
                _ if count % LINE_MARKS == 0 => field.push_str("\r\n\t"),
                _ => field.push(' '),
            }
            write_hex(&self.sign_hop(&number, recipient), MARK_SIZE, &mut field);
        }
        field.push(')');
        field
    }

    /// Whether this message was here before for each of these recipients. What was sent on by hand since then doesn't count
    /// (`Resent-` fields stand above those of the way before, RFC 5322 section 3.6.6).
    pub fn was_here<'a>(&self, header: &[u8], mut recipients: impl Iterator<Item = &'a Address>) -> bool {
        // Nearly no message has any.
        if memchr::memmem::find(header, OPENING.as_bytes()).is_none() {
            return false;
        }
        let hops: Vec<Hop<'_>> = fields(header)
            .take_while(|field| !field.name.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"Resent-")))
            .filter(|field| field.is("Received"))
            .filter_map(|field| Hop::read(field.value))
            .take(FIELDS_MAX)
            .collect();
        !hops.is_empty() && recipients.all(|recipient| hops.iter().any(|hop| hop.names(&self.of(hop.id, recipient))))
    }

    /// The mark of a recipient: another one in each message, so that nobody can tell by it who else got some mail.
    fn of(&self, id: QueueId, recipient: &Address) -> String {
        let mut mark = String::new();
        write_hex(&self.sign_hop(&id.to_string(), recipient), MARK_SIZE, &mut mark);
        mark
    }

    fn sign_hop(&self, id: &str, recipient: &Address) -> hmac::Tag {
        let (local, domain) = (recipient.local().to_lowercase(), recipient.domain().as_str());
        self.sign(&[b"hop ", id.as_bytes(), b" ", local.as_bytes(), b"@", domain.as_bytes()])
    }

    fn sign(&self, text: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        text.iter().for_each(|part| context.update(part));
        context.sign()
    }
}

/// The first octets of a tag, in hexadecimal digits.
fn write_hex(tag: &hmac::Tag, size: usize, to: &mut String) {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    for octet in tag.as_ref().iter().take(size) {
        to.push(digit(octet >> 4));
        to.push(digit(*octet));
    }
}

/// The marks of a `Received:` field.
struct Hop<'a> {
    id: QueueId,
    marks: Vec<&'a str>,
}

impl<'a> Hop<'a> {
    fn read(field: &'a [u8]) -> Option<Self> {
        let (before, marks) = std::str::from_utf8(field).ok()?.split_once(OPENING)?;
        let mut words = before.split_ascii_whitespace().rev();
        let mut behind = words.next()?;
        let id = loop {
            let word = words.next()?;
            if word.eq_ignore_ascii_case("id") {
                break behind.parse().ok()?;
            }
            behind = word;
        };
        let marks = marks.split(')').next()?.split_ascii_whitespace().take(RECIPIENTS_MAX).collect();
        Some(Self { id, marks })
    }

    fn names(&self, mark: &str) -> bool {
        self.marks.iter().any(|ours| bool::from(ours.as_bytes().ct_eq(mark.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| Address::parse(text).unwrap()).collect()
    }

    /// A header that the message has behind us, for these recipients.
    fn passed(mark: &OwnMark, id: u64, to: &[&str]) -> String {
        let marks = mark.hop(QueueId(id), addresses(to).iter());
        format!("Received: from x (192.0.2.7)\r\n\tby h (Posthouse) with ESMTP id {}\r\n\t{marks};\r\n\tdate\r\n", QueueId(id))
    }

    #[test]
    fn a_greeting_is_known_by_its_key_alone() {
        let (ours, other) = (OwnMark::new(b"key"), OwnMark::new(b"other"));
        let greeting = format!("mail.example.test ESMTP Posthouse {}", ours.greeting());
        assert!(ours.is_greeting(&greeting) && !other.is_greeting(&greeting));
        assert_eq!(ours.greeting(), OwnMark::new(b"key").greeting());
        assert_eq!(ours.greeting().len(), 24);
        for text in ["", "mail.example.test ESMTP Posthouse", &ours.greeting()[1..], &format!("x{}", ours.greeting())] {
            assert!(!ours.is_greeting(text), "{text:?}");
        }
        assert_eq!(format!("{ours:?}"), "OwnMark { .. }");
    }

    #[test]
    fn what_was_here_for_all_of_its_recipients_is_known() {
        let mark = OwnMark::new(b"key");
        let was_here = |header: &str, to: &[&str]| mark.was_here(header.as_bytes(), addresses(to).iter());
        let many: Vec<String> = (0..20).map(|n| format!("u{n}@a.test")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let first = passed(&mark, 7, &["ann@a.test", "bob@b.test"]);
        assert!(was_here(&first, &["Ann@A.test"]) && was_here(&first, &["bob@b.test", "ann@a.test"]));
        assert!(!was_here(&first, &["ann@b.test"]) && !was_here(&first, &["ann@a.test", "eve@a.test"]));
        let further = format!("Received: by another one id 1\r\nX: y\r\n{}{first}", passed(&mark, 8, &["eve@a.test"]));
        assert!(was_here(&further, &["ann@a.test", "eve@a.test"]), "each by its own hop");
        assert!(was_here(&passed(&mark, 9, &many), &many));
        assert!(passed(&mark, 9, &many).lines().all(|line| line.len() < 90));
        // Another server's, another message's, or nobody's.
        assert!(!OwnMark::new(b"other").was_here(first.as_bytes(), addresses(&["ann@a.test"]).iter()));
        assert!(!was_here(&first.replace(&format!("id {}", QueueId(7)), &format!("id {}", QueueId(8))), &["ann@a.test"]));
        for header in [
            "",
            "Received: x\r\n",
            "Received: id (loop-marks \r\n",
            "Received: (loop-marks a)\r\n",
            "Received: id x y (loop-marks a)\r\n",
        ] {
            assert!(!was_here(header, &["ann@a.test"]), "{header:?}");
        }
        let crowd: Vec<String> = (0..21).map(|n| format!("u{n}@a.test")).collect();
        assert_eq!(mark.hop(QueueId(1), crowd.iter().map(|t| Address::parse(t).unwrap()).collect::<Vec<_>>().iter()), "");
    }

    #[test]
    fn what_somebody_sent_on_by_hand_may_come_again() {
        let mark = OwnMark::new(b"key");
        let header = passed(&mark, 7, &["ann@a.test"]);
        let resent = format!("Received: from y by z id 2\r\nresent-From: bob@b.test\r\n{header}");
        assert!(!mark.was_here(resent.as_bytes(), addresses(&["ann@a.test"]).iter()));
        let again = passed(&mark, 9, &["ann@a.test"]) + &resent;
        assert!(mark.was_here(again.as_bytes(), addresses(&["ann@a.test"]).iter()));
    }

    #[test]
    fn only_so_many_fields_are_looked_at() {
        let mark = OwnMark::new(b"key");
        let false_ones = passed(&OwnMark::new(b"other"), 1, &["ann@a.test"]).repeat(FIELDS_MAX);
        let header = false_ones + &passed(&mark, 7, &["ann@a.test"]);
        assert!(!mark.was_here(header.as_bytes(), addresses(&["ann@a.test"]).iter()));
    }
}
