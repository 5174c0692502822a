//! The compact encoding of messages and changes inside records: numbers in LEB128, texts with their length in front.
//!
//! Decoding checks every bound and never panics, whatever the bytes.

use super::asked::{put_dsn, put_request};
use super::record::ContentFile;
use crate::mail::{
    Address, BodyType, Cause, EnhancedCode, Message, Origin, QueueId, Recipient, RecipientState, RecipientStatus, ReversePath,
    Timestamp, Update,
};

/// The bytes are not what they should be; says what was being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A change to a message as a record says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What changes.
    pub update: Update,
    /// How many recipients the message had before: `update.added` stand at this index and behind, however often the change
    /// is read.
    pub base: u32,
}

impl Change {
    /// Carries the change out; doing it again changes nothing. `false`: it speaks of recipients that the message doesn't
    /// have, and was left alone.
    pub fn apply(&self, message: &mut Message) -> bool {
        let base = self.base as usize;
        let known = message.recipients.len();
        if base > known {
            return false;
        }
        let Update { id, held, delays_noticed, deadline_told, statuses, added } = &self.update;
        let present = (known - base).min(added.len());
        // A status can't speak of recipients that come with it or after it: the first time it was left out, too.
        let statuses = statuses.iter().filter(|(index, _)| *index < self.base).cloned().collect();
        let added = added[present..].to_vec();
        message.apply(&Update {
            id: *id,
            held: *held,
            delays_noticed: *delays_noticed,
            deadline_told: *deadline_told,
            statuses,
            added,
        });
        true
    }
}

/// Appends an unsigned LEB128 number.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_address(out: &mut Vec<u8>, address: &Address) {
    // Straight into the buffer: a length of one byte is right for nearly every address.
    use std::io::Write;
    let start = out.len();
    out.push(0);
    // Writing to a vector can't fail.
    let _ = write!(out, "{address}");
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        out.truncate(start);
        put_text(out, &address.to_string());
    }
}

/// Bit of a recipient's state: what RCPT asked for follows its status. Since version 3.
const DSN_GIVEN: u8 = 0x80;
/// Bit of a message's body type: what MAIL asked for follows the delay notices. Since version 3.
const REQUEST_GIVEN: u8 = 0x80;
/// Bit of a message's body type: who sent it follows that. Since version 3.
const ORIGIN_GIVEN: u8 = 0x40;

fn put_status(out: &mut Vec<u8>, status: &RecipientStatus, flags: u8) {
    out.push(
        flags
            | match status.state {
                RecipientState::Pending => 0,
                RecipientState::Deferred => 1,
                RecipientState::Delivered => 2,
                RecipientState::Bounced => 3,
                RecipientState::Expanded => 4,
                RecipientState::Removed => 5,
            },
    );
    put_number(out, u64::from(status.attempts));
    put_number(out, status.next_attempt.as_millis());
    match status.last_status {
        None => out.push(0),
        Some(EnhancedCode(class, subject, detail)) => {
            out.push(class);
            put_number(out, u64::from(subject));
            put_number(out, u64::from(detail));
        }
    }
    out.push(match status.last_cause {
        None => 0,
        Some(Cause::Remote) => 1,
        Some(Cause::Connection) => 2,
        Some(Cause::Dns) => 3,
        Some(Cause::Local) => 4,
        Some(Cause::Expired) => 5,
        Some(Cause::Operator) => 6,
    });
    put_text(out, &status.last_reply);
    put_text(out, &status.next_hop);
}

fn put_recipient(out: &mut Vec<u8>, recipient: &Recipient) {
    put_address(out, &recipient.address);
    match &recipient.original {
        None => out.push(0),
        Some(original) => put_address(out, original),
    }
    put_status(out, &recipient.status, if recipient.dsn.is_some() { DSN_GIVEN } else { 0 });
    if let Some(dsn) = &recipient.dsn {
        put_dsn(out, dsn);
    }
}

/// Appends a message without its id, which stands in the record's header.
pub(crate) fn put_message(out: &mut Vec<u8>, message: &Message) {
    put_number(out, message.arrived.as_millis());
    put_number(out, message.size);
    match &message.reverse_path {
        ReversePath::Null => out.push(0),
        ReversePath::Address(address) => put_address(out, address),
    }
    let body = match message.body {
        BodyType::SevenBit => 0,
        BodyType::EightBitMime => 1,
        BodyType::BinaryMime => 2,
    };
    let request = if message.request.is_some() { REQUEST_GIVEN } else { 0 };
    out.push(body | request | if message.origin.is_some() { ORIGIN_GIVEN } else { 0 });
    out.push(u8::from(message.held));
    put_number(out, u64::from(message.delays_noticed));
    if let Some(request) = &message.request {
        put_request(out, request);
    }
    if let Some(origin) = &message.origin {
        put_text(out, &origin.to_string());
    }
    put_number(out, message.recipients.len() as u64);
    for recipient in &message.recipients {
        put_recipient(out, recipient);
    }
}

/// Bits of a change's first byte.
const HELD_GIVEN: u8 = 1;
const HELD: u8 = 2;
const NOTICED_GIVEN: u8 = 4;
/// Since version 3.
const DEADLINE_TOLD: u8 = 8;

/// Appends a change without the message's id.
pub(crate) fn put_change(out: &mut Vec<u8>, update: &Update, base: u32) {
    let mut flags = 0;
    if let Some(held) = update.held {
        flags |= HELD_GIVEN | if held { HELD } else { 0 };
    }
    if update.delays_noticed.is_some() {
        flags |= NOTICED_GIVEN;
    }
    if update.deadline_told {
        flags |= DEADLINE_TOLD;
    }
    out.push(flags);
    if let Some(noticed) = update.delays_noticed {
        put_number(out, u64::from(noticed));
    }
    put_number(out, u64::from(base));
    put_number(out, update.statuses.len() as u64);
    for (index, status) in &update.statuses {
        put_number(out, u64::from(*index));
        put_status(out, status, 0);
    }
    put_number(out, update.added.len() as u64);
    for recipient in &update.added {
        put_recipient(out, recipient);
    }
}

/// Appends what a record says of a content file.
pub(crate) fn put_content_file(out: &mut Vec<u8>, file: ContentFile) {
    out.extend_from_slice(&file.crc.to_le_bytes());
    if let Some(length) = file.compressed {
        put_number(out, length);
    }
}

/// Whether this is how the address is written; without writing it anywhere.
fn is_written(address: &Address, text: &str) -> bool {
    use std::fmt::Write;
    struct Rest<'a>(&'a str);
    impl Write for Rest<'_> {
        fn write_str(&mut self, piece: &str) -> std::fmt::Result {
            self.0 = self.0.strip_prefix(piece).ok_or(std::fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(text);
    write!(rest, "{address}").is_ok() && rest.0.is_empty()
}

/// Takes values off the front of some bytes.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn number(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // One spelling a number, so that what is read encodes to the same bytes again.
                return if byte == 0 && shift > 0 { Err(Malformed(what)) } else { Ok(number) };
            }
        }
        Err(Malformed(what))
    }

    pub(crate) fn small(&mut self, what: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.number(what)?).map_err(|_| Malformed(what))
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.number(what)?).map_err(|_| Malformed(what))?;
        std::str::from_utf8(self.bytes(length, what)?).map_err(|_| Malformed(what))
    }

    /// A list's length, and a capacity that the remaining bytes could really fill.
    fn count(&mut self, what: &'static str) -> Result<(usize, usize), Malformed> {
        let count = usize::try_from(self.number(what)?).map_err(|_| Malformed(what))?;
        if count > self.0.len() {
            return Err(Malformed(what));
        }
        Ok((count, count.min(self.0.len() / 8 + 1)))
    }

    fn address(&mut self, what: &'static str) -> Result<Option<Address>, Malformed> {
        let text = self.text(what)?;
        if text.is_empty() {
            return Ok(None);
        }
        let address = Address::parse_utf8(text).map_err(|_| Malformed(what))?;
        // One spelling an address, as for numbers.
        if is_written(&address, text) { Ok(Some(address)) } else { Err(Malformed(what)) }
    }

    fn status(&mut self) -> Result<RecipientStatus, Malformed> {
        let state = self.byte("state")?;
        self.status_behind(state)
    }

    /// The rest of a status, behind the byte that says the state.
    fn status_behind(&mut self, state: u8) -> Result<RecipientStatus, Malformed> {
        let state = match state {
            0 => RecipientState::Pending,
            1 => RecipientState::Deferred,
            2 => RecipientState::Delivered,
            3 => RecipientState::Bounced,
            4 => RecipientState::Expanded,
            5 => RecipientState::Removed,
            _ => return Err(Malformed("state")),
        };
        let attempts = self.small("attempts")?;
        let next_attempt = Timestamp::from_millis(self.number("next attempt")?);
        let last_status = match self.byte("status")? {
            0 => None,
            class => {
                let mut part = || self.number("status").and_then(|n| u16::try_from(n).map_err(|_| Malformed("status")));
                Some(EnhancedCode(class, part()?, part()?))
            }
        };
        let last_cause = match self.byte("cause")? {
            0 => None,
            1 => Some(Cause::Remote),
            2 => Some(Cause::Connection),
            3 => Some(Cause::Dns),
            4 => Some(Cause::Local),
            5 => Some(Cause::Expired),
            6 => Some(Cause::Operator),
            _ => return Err(Malformed("cause")),
        };
        let last_reply = self.text("reply")?.to_owned();
        let next_hop = self.text("next hop")?.to_owned();
        Ok(RecipientStatus { state, attempts, next_attempt, last_status, last_cause, last_reply, next_hop })
    }

    fn recipient(&mut self) -> Result<Recipient, Malformed> {
        let address = self.address("recipient")?.ok_or(Malformed("recipient"))?;
        let original = self.address("original recipient")?;
        let state = self.byte("state")?;
        let status = self.status_behind(state & !DSN_GIVEN)?;
        let dsn = if state & DSN_GIVEN != 0 { Some(Box::new(self.dsn()?)) } else { None };
        Ok(Recipient { address, original, dsn, status })
    }

    fn recipients(&mut self) -> Result<Vec<Recipient>, Malformed> {
        let (count, capacity) = self.count("recipients")?;
        let mut recipients = Vec::with_capacity(capacity);
        for _ in 0..count {
            recipients.push(self.recipient()?);
        }
        Ok(recipients)
    }

    pub(crate) fn message(&mut self, id: QueueId) -> Result<Message, Malformed> {
        let arrived = Timestamp::from_millis(self.number("arrival")?);
        let size = self.number("size")?;
        let reverse_path = self.address("reverse-path")?.map_or(ReversePath::Null, ReversePath::Address);
        let flags = self.byte("body type")?;
        let body = match flags & !(REQUEST_GIVEN | ORIGIN_GIVEN) {
            0 => BodyType::SevenBit,
            1 => BodyType::EightBitMime,
            2 => BodyType::BinaryMime,
            _ => return Err(Malformed("body type")),
        };
        let held = match self.byte("held")? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("held")),
        };
        let delays_noticed = self.small("delay notices")?;
        let request = if flags & REQUEST_GIVEN != 0 { Some(Box::new(self.request()?)) } else { None };
        let origin = match flags & ORIGIN_GIVEN != 0 {
            true => Some(Box::new(Origin::parse(self.text("origin")?).ok_or(Malformed("origin"))?)),
            false => None,
        };
        let recipients = self.recipients()?;
        Ok(Message { id, arrived, size, reverse_path, body, request, held, delays_noticed, origin, recipients })
    }

    pub(crate) fn change(&mut self, id: QueueId) -> Result<Change, Malformed> {
        let flags = self.byte("change")?;
        if flags & !(HELD_GIVEN | HELD | NOTICED_GIVEN | DEADLINE_TOLD) != 0 || flags & (HELD_GIVEN | HELD) == HELD {
            return Err(Malformed("change"));
        }
        let held = (flags & HELD_GIVEN != 0).then_some(flags & HELD != 0);
        let delays_noticed = if flags & NOTICED_GIVEN != 0 { Some(self.small("delay notices")?) } else { None };
        let deadline_told = flags & DEADLINE_TOLD != 0;
        let base = self.small("recipients before")?;
        let (count, capacity) = self.count("statuses")?;
        let mut statuses = Vec::with_capacity(capacity);
        for _ in 0..count {
            statuses.push((self.small("recipient index")?, self.status()?));
        }
        let added = self.recipients()?;
        Ok(Change { update: Update { id, held, delays_noticed, deadline_told, statuses, added }, base })
    }

    pub(crate) fn content_file(&mut self, compressed: bool) -> Result<ContentFile, Malformed> {
        let crc = u32::from_le_bytes(self.fixed("content checksum")?);
        let compressed = if compressed { Some(self.number("content length")?) } else { None };
        Ok(ContentFile { crc, compressed })
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("end")) }
    }
}
