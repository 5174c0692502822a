//! Marks by which we know ourselves and what has been here before, and which tell nobody else anything. Owns the key.
//!
//! Names and addresses can't do that: behind NAT the address that leads back to us isn't ours, and several servers may have one
//! name. A mark is made with a key that never leaves the spool folder.

use std::collections::BTreeSet;
use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::{Address, QueueId, ReversePath, fields};

/// How the comment with the marks begins.
const OPENING: &str = "(loop-marks ";
/// A message for more recipients isn't marked.
const RECIPIENTS_MAX: usize = 1000;
/// With more recipients their marks are shorter, so that the field of a thousand stays below 10 KiB.
const CROWD_MIN: usize = 20;
/// So many fields with marks are looked at: they could be anybody's.
const FIELDS_MAX: usize = 5;
/// Octets of marks on a line of the field.
const LINE_SIZE: usize = 30;
/// Octets of a mark: enough that none comes about by chance.
const MARK_SIZE: usize = 6;
/// Octets of one in a crowd: one in four million such messages would be taken for another.
const CROWD_MARK_SIZE: usize = 4;
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

    /// For our `Received:` field, folded: that a message with this id was here, from this sender, for these recipients. Nothing if they
    /// are too many.
    pub fn hop<'a>(&self, id: QueueId, sender: &ReversePath, recipients: impl ExactSizeIterator<Item = &'a Address>) -> String {
        if recipients.len() > RECIPIENTS_MAX {
            return String::new();
        }
        let size = if recipients.len() > CROWD_MIN { CROWD_MARK_SIZE } else { MARK_SIZE };
        let mut field = String::with_capacity(OPENING.len() + (recipients.len() + 1) * (2 * size + 3) + 1);
        field.push_str(OPENING);
        let number = id.to_string();
        write_hex(&self.sign_sender(&number, sender), MARK_SIZE, &mut field);
        for (count, recipient) in (1..).zip(recipients) {
            field.push_str(if count % (LINE_SIZE / size) == 0 { "\r\n\t" } else { " " });
            write_hex(&self.sign_hop(&number, recipient), size, &mut field);
        }
        field.push(')');
        field
    }

    /// Where a message of this sender to these recipients was before. `here`: its id, if its header names that, too. What was sent on since
    /// then by hand doesn't count (`Resent-` fields stand above those of the way before, RFC 5322 section 3.6.6), and neither does what
    /// somebody else sends on under a name of his own who can have got it beside these recipients: whoever is written to beside a list, or
    /// beside one who forwards his mail, rightly gets both.
    pub fn past<'a, 'b>(
        &'a self,
        header: &'a [u8],
        sender: &ReversePath,
        recipients: impl Iterator<Item = &'b Address> + Clone,
        here: Option<QueueId>,
    ) -> Past<'a> {
        let mut openings = memchr::memmem::find_iter(header, OPENING.as_bytes());
        // Nearly no message has more than that of now.
        if openings.nth(usize::from(here.is_some())).is_none() {
            return Past { mark: self, hops: Vec::new() };
        }
        let hops = fields(header)
            .take_while(|field| !field.name.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"Resent-")))
            .filter(|field| field.is("Received"))
            .filter_map(|field| Hop::read(field.value))
            .filter(|hop| Some(hop.id) != here)
            .take(FIELDS_MAX)
            .filter(|hop| {
                let id = hop.id.to_string();
                let named = || recipients.clone().filter_map(|recipient| hop.mark(&self.sign_hop(&id, recipient)));
                // One of its marks is the sender's: all others are those of these recipients, and nobody else got it.
                hop.mark(&self.sign_sender(&id, sender)).is_some()
                    || named().collect::<BTreeSet<_>>().len() + 1 >= hop.marks.len()
            });
        Past { mark: self, hops: hops.collect() }
    }

    /// The mark of a sender: lists and others send on under names of their own.
    fn sign_sender(&self, id: &str, sender: &ReversePath) -> hmac::Tag {
        self.sign(&[b"from ", id.as_bytes(), b" ", sender.to_string().to_lowercase().as_bytes()])
    }

    /// The mark of a recipient: another one in each message, so that nobody can tell by it who else got some mail.
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

/// Where a message was before, as its header says: the hops that were here.
pub struct Past<'a> {
    mark: &'a OwnMark,
    hops: Vec<Hop<'a>>,
}

impl Past<'_> {
    /// Whether it wasn't here at all, as far as anybody can tell.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Whether it was here for this recipient.
    pub fn has(&self, recipient: &Address) -> bool {
        self.hops.iter().any(|hop| hop.mark(&self.mark.sign_hop(&hop.id.to_string(), recipient)).is_some())
    }
}

/// The marks of a `Received:` field. They are looked up in the usual way: whoever guessed one would have only his own mail refused.
struct Hop<'a> {
    id: QueueId,
    marks: BTreeSet<&'a str>,
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
        let marks = marks.split(')').next()?.split_ascii_whitespace().take(RECIPIENTS_MAX + 1).collect();
        Some(Self { id, marks })
    }

    /// The mark that was made of this, if it is there.
    fn mark(&self, tag: &hmac::Tag) -> Option<&'a str> {
        let mut mark = String::with_capacity(2 * MARK_SIZE);
        write_hex(tag, MARK_SIZE, &mut mark);
        self.marks.get(mark.as_str()).or_else(|| self.marks.get(&mark[..2 * CROWD_MARK_SIZE])).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| Address::parse(text).unwrap()).collect()
    }

    fn sender(text: &str) -> ReversePath {
        ReversePath::Address(Address::parse(text).unwrap())
    }

    /// Whether a message of sue's was here for all of these.
    fn was_here(mark: &OwnMark, header: &str, to: &[&str]) -> bool {
        let from = sender("Sue@S.test");
        let past = mark.past(header.as_bytes(), &from, addresses(to).iter(), None);
        let here = addresses(to).iter().all(|to| past.has(to));
        assert!(!here || !past.is_empty());
        here
    }

    /// A header that the message has behind us, for these recipients.
    fn passed(mark: &OwnMark, id: u64, to: &[&str]) -> String {
        passed_from(mark, id, &sender("sue@s.test"), to)
    }

    fn passed_from(mark: &OwnMark, id: u64, from: &ReversePath, to: &[&str]) -> String {
        let marks = mark.hop(QueueId(id), from, addresses(to).iter());
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
        let was_here = |header: &str, to: &[&str]| was_here(&mark, header, to);
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
        assert!(!super::tests::was_here(&OwnMark::new(b"other"), &first, &["ann@a.test"]));
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
    }

    #[test]
    fn a_crowd_is_known_too_up_to_a_thousand() {
        let mark = OwnMark::new(b"key");
        let all: Vec<String> = (0..1001).map(|n| format!("u{n}@a.test")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for count in [21, 1000] {
            let header = passed(&mark, 7, &all[..count]);
            assert!(header.len() < 10 * 1024 && header.lines().all(|line| line.len() < 90), "{}", header.len());
            assert!(was_here(&mark, &header, &all[..count]) && !was_here(&mark, &header, &all[..=count]));
            let from = sender("sue@s.test");
            let past = mark.past(header.as_bytes(), &from, [].iter(), None);
            assert_eq!(all.iter().filter(|to| past.has(&Address::parse(to).unwrap())).count(), count);
        }
        assert!(!passed(&mark, 7, &all).contains(OPENING));
    }

    #[test]
    fn what_is_here_now_is_not_the_past() {
        let mark = OwnMark::new(b"key");
        let (now, from) = (passed(&mark, 7, &["ann@a.test"]), sender("sue@s.test"));
        assert!(mark.past(now.as_bytes(), &from, [].iter(), Some(QueueId(7))).is_empty());
        let again = passed(&mark, 8, &["bob@a.test"]) + &now;
        let past = mark.past(again.as_bytes(), &from, [].iter(), Some(QueueId(8)));
        let has = |to: &str| past.has(&Address::parse(to).unwrap());
        assert!(has("ann@a.test") && !has("bob@a.test"));
    }

    #[test]
    fn another_sender_may_bring_it_to_those_who_had_it_beside_him() {
        let mark = OwnMark::new(b"key");
        let forwarder = sender("srs0=x@f.test");
        let is_loop = |header: &str, sender: &ReversePath, to: &[&str]| {
            let past = mark.past(header.as_bytes(), sender, addresses(to).iter(), None);
            addresses(to).iter().any(|to| past.has(to))
        };
        let both = passed(&mark, 7, &["ann@a.test", "fred@f.test"]);
        assert!(!is_loop(&both, &forwarder, &["ann@a.test"]), "fred's mail is forwarded to ann");
        assert!(!is_loop(&both, &ReversePath::Null, &["ann@a.test", "Ann@a.test"]));
        assert!(is_loop(&both, &sender("sue@s.test"), &["ann@a.test"]), "nobody did anything to it");
        assert!(is_loop(&both, &forwarder, &["ann@a.test", "fred@f.test"]), "nobody else can have sent it on");
        assert!(!is_loop(&both, &forwarder, &["ann@a.test", "eve@a.test"]));
        let ann = passed(&mark, 8, &["ann@a.test"]);
        assert!(is_loop(&ann, &forwarder, &["ann@a.test"]) && is_loop(&ann, &forwarder, &["ann@a.test", "eve@a.test"]));
        // It comes to her a second time, and goes round.
        let again = passed_from(&mark, 9, &forwarder, &["ann@a.test"]) + &both;
        assert!(is_loop(&again, &forwarder, &["ann@a.test"]) && is_loop(&again, &sender("srs1=y@f.test"), &["ann@a.test"]));
    }

    #[test]
    fn what_somebody_sent_on_by_hand_may_come_again() {
        let mark = OwnMark::new(b"key");
        let header = passed(&mark, 7, &["ann@a.test"]);
        let resent = format!("Received: from y by z id 2\r\nresent-From: bob@b.test\r\n{header}");
        assert!(!was_here(&mark, &resent, &["ann@a.test"]));
        let again = passed(&mark, 9, &["ann@a.test"]) + &resent;
        assert!(was_here(&mark, &again, &["ann@a.test"]));
    }

    #[test]
    fn only_so_many_fields_are_looked_at() {
        let mark = OwnMark::new(b"key");
        let false_ones = passed(&OwnMark::new(b"other"), 1, &["ann@a.test"]).repeat(FIELDS_MAX);
        let header = false_ones + &passed(&mark, 7, &["ann@a.test"]);
        assert!(!was_here(&mark, &header, &["ann@a.test"]));
    }
}
