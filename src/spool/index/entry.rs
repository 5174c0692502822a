//! What a run says of its messages: keys, values, and the summaries that surveys read.
//!
//! Families of keys, in the order in which they stand: the message by id; due times, domains and senders, whose values name the
//! message by its ordinal in the run; summaries, some hundred messages in one value.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::{Place, Stored};
use crate::mail::{Domain, Message, MessageState, QueueId, Timestamp};
use crate::spool::Filter;
use crate::spool::codec::{self, Malformed, Reader};
use crate::spool::record::ContentFile;

/// Families: the first byte of each key.
pub(crate) const MESSAGE: u8 = 1;
pub(crate) const DUE: u8 = 2;
pub(crate) const DOMAIN: u8 = 3;
pub(crate) const SENDER: u8 = 4;
pub(crate) const SUMMARY: u8 = 5;

/// `1 id`
pub(crate) fn message_key(id: QueueId) -> Vec<u8> {
    [&[MESSAGE][..], &id.0.to_be_bytes()].concat()
}

/// `2 due id`
pub(crate) fn due_key(due: Timestamp, id: QueueId) -> Vec<u8> {
    [&[DUE][..], &due.as_millis().to_be_bytes(), &id.0.to_be_bytes()].concat()
}

/// The due time in a key of that family.
pub(crate) fn key_due(key: &[u8]) -> Result<Timestamp, Malformed> {
    let due = key.get(1..9).and_then(|due| due.first_chunk::<8>()).ok_or(Malformed("due time"))?;
    Ok(Timestamp::from_millis(u64::from_be_bytes(*due)))
}

/// The id that every key ends with, summaries apart.
pub(crate) fn key_id(key: &[u8]) -> Result<QueueId, Malformed> {
    let id = key.last_chunk::<8>().ok_or(Malformed("key"))?;
    Ok(QueueId(u64::from_be_bytes(*id)))
}

/// Appends `3 domain 0` or `4 sender 0`; the id stands behind.
fn put_text(key: &mut Vec<u8>, family: u8, put: impl FnOnce(&mut Vec<u8>)) {
    key.push(family);
    put(key);
    key.push(0);
}

fn text_prefix(family: u8, text: &str) -> Vec<u8> {
    let mut prefix = Vec::new();
    put_text(&mut prefix, family, |prefix| prefix.extend_from_slice(text.as_bytes()));
    prefix
}

/// `5 ordinal of the first message`
pub(crate) fn summary_key(ordinal: u32) -> Vec<u8> {
    [&[SUMMARY][..], &ordinal.to_be_bytes()].concat()
}

/// The ordinal in such a key.
pub(crate) fn summary_ordinal(key: &[u8]) -> Result<u32, Malformed> {
    let ordinal = key.get(1..).and_then(|key| key.first_chunk::<4>()).ok_or(Malformed("key"))?;
    Ok(u32::from_be_bytes(*ordinal))
}

/// Appends the keys of domains and senders, which are of open recipients, of the addresses that they came from, of the reverse-path; says
/// where each ends. One may come more than once.
pub(crate) fn put_text_keys(keys: &mut Vec<u8>, message: &Message, mut ends: impl FnMut(usize)) {
    let mut end = |keys: &mut Vec<u8>| {
        keys.extend_from_slice(&message.id.0.to_be_bytes());
        ends(keys.len());
    };
    put_text(keys, SENDER, |keys| {
        let from = keys.len();
        // Memory takes all that it is given.
        let _ = write!(keys, "{}", message.reverse_path);
        keys[from..].make_ascii_lowercase();
    });
    end(keys);
    for recipient in message.recipients.iter().filter(|recipient| recipient.is_open()) {
        for address in [Some(&recipient.address), recipient.original.as_ref()].into_iter().flatten() {
            put_text(keys, DOMAIN, |keys| keys.extend_from_slice(address.domain().as_str().as_bytes()));
            end(keys);
        }
    }
}

/// The narrowest family that has every message that a filter may match; ids stand behind.
pub(crate) fn prefix(filter: &Filter) -> Vec<u8> {
    let domain = filter.recipient.as_ref().map(|recipient| recipient.domain()).or(filter.domain.as_ref());
    match (domain, &filter.sender) {
        (Some(domain), _) => text_prefix(DOMAIN, domain.as_str()),
        (None, Some(sender)) => text_prefix(SENDER, &sender.to_string().to_ascii_lowercase()),
        (None, None) => vec![MESSAGE],
    }
}

/// Appends a message's value, without its ordinal.
pub(crate) fn put_stored(value: &mut Vec<u8>, stored: &Stored, due: Timestamp) {
    codec::put_number(value, due.as_millis());
    put_place(value, &stored.place);
    value.push(stored.file.map_or(0, |file| if file.compressed.is_none() { 1 } else { 2 }));
    codec::put_content_file(value, stored.file.unwrap_or(ContentFile { crc: 0, compressed: None }));
    codec::put_message(value, &stored.message);
}

/// Reads a message's value behind its ordinal.
pub(crate) fn read_stored(id: QueueId, value: &[u8]) -> Result<(Stored, Timestamp), Malformed> {
    let mut reader = Reader(value);
    let due = Timestamp::from_millis(reader.number("due time")?);
    let place = read_place(&mut reader)?;
    let kind = reader.byte("content")?;
    let file = reader.content_file(kind == 2)?;
    let message = reader.message(id)?;
    reader.end()?;
    Ok((Stored { message: Arc::new(message), place, file: (kind > 0).then_some(file) }, due))
}

fn put_place(value: &mut Vec<u8>, place: &Place) {
    codec::put_number(value, place.segment);
    codec::put_number(value, place.offset);
    codec::put_number(value, u64::from(place.length));
}

fn read_place(reader: &mut Reader<'_>) -> Result<Place, Malformed> {
    Ok(Place { segment: reader.number("segment")?, offset: reader.number("offset")?, length: reader.small("length")? })
}

/// Splits a value into the ordinal in front and the rest.
pub(crate) fn split_ordinal(value: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let mut reader = Reader(value);
    let ordinal = reader.small("ordinal")?;
    Ok((ordinal, reader.0))
}

const IN_FILE: u8 = 1;
const TAKEN: u8 = 2;
const ACTIVE: u8 = 4;
const HELD: u8 = 8;
const COMPRESSED: u8 = 16;

/// What surveys need of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary<'a> {
    pub(crate) id: QueueId,
    pub(crate) place: Place,
    /// The length of its content's file.
    pub(crate) file: Option<u64>,
    /// Its due time is zero.
    pub(crate) taken: bool,
    pub(crate) state: MessageState,
    pub(crate) size: u64,
    pub(crate) arrived: Timestamp,
    /// Domains of open recipients, as numbers of names, and how many recipients each has.
    pub(crate) domains: &'a [(u32, u32)],
}

/// Gathers summaries into a value.
#[derive(Default)]
pub(crate) struct SummaryWriter {
    names: BTreeMap<Domain, u32>,
    order: Vec<Domain>,
    body: Vec<u8>,
    last: u64,
    /// Messages gathered.
    pub(crate) count: u32,
}

impl SummaryWriter {
    pub(crate) fn add(&mut self, stored: &Stored, due: Timestamp) {
        let message = &stored.message;
        let state = message.state();
        let compressed = stored.file.and_then(|file| file.compressed);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let mut domains: BTreeMap<&Domain, u64> = BTreeMap::new();
        for recipient in message.recipients.iter().filter(|recipient| recipient.is_open()) {
            *domains.entry(recipient.address.domain()).or_default() += 1;
        }
        let body = &mut self.body;
        codec::put_number(body, message.id.0.wrapping_sub(self.last));
        self.last = message.id.0;
        body.push(
            flag(stored.file.is_some(), IN_FILE)
                | flag(compressed.is_some(), COMPRESSED)
                | flag(due == Timestamp::ZERO, TAKEN)
                | flag(state == MessageState::Active, ACTIVE)
                | flag(state == MessageState::Held, HELD),
        );
        put_place(body, &stored.place);
        codec::put_number(body, message.size);
        if let Some(length) = compressed {
            codec::put_number(body, length);
        }
        codec::put_number(body, message.arrived.as_millis());
        codec::put_number(body, domains.len() as u64);
        for (domain, recipients) in domains {
            let number = match self.names.get(domain) {
                Some(number) => *number,
                None => {
                    let number = self.order.len() as u32;
                    self.names.insert(domain.clone(), number);
                    self.order.push(domain.clone());
                    number
                }
            };
            codec::put_number(body, u64::from(number));
            codec::put_number(body, recipients);
        }
        self.count += 1;
    }

    /// Bytes gathered.
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }

    /// The value.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.body.len() + 64);
        codec::put_number(&mut value, self.order.len() as u64);
        for name in &self.order {
            codec::put_number(&mut value, name.as_str().len() as u64);
            value.extend_from_slice(name.as_str().as_bytes());
        }
        codec::put_number(&mut value, u64::from(self.count));
        value.extend_from_slice(&self.body);
        value
    }
}

/// Reads a value of summaries, and says which names they use.
pub(crate) fn read_summaries(value: &[u8], mut visit: impl FnMut(Summary<'_>)) -> Result<Vec<&str>, Malformed> {
    let mut reader = Reader(value);
    let mut names = Vec::new();
    for _ in 0..reader.number("names")? {
        names.push(reader.text("name")?);
    }
    let mut last = 0u64;
    let mut domains = Vec::new();
    for _ in 0..reader.number("summaries")? {
        last = last.wrapping_add(reader.number("id")?);
        let flags = reader.byte("flags")?;
        let place = read_place(&mut reader)?;
        let size = reader.number("size")?;
        let length = if flags & COMPRESSED != 0 { reader.number("file")? } else { size };
        let file = (flags & IN_FILE != 0).then_some(length);
        let arrived = Timestamp::from_millis(reader.number("arrival")?);
        domains.clear();
        for _ in 0..reader.number("domains")? {
            domains.push((reader.small("name")?, reader.small("recipients")?));
        }
        if domains.iter().any(|(name, _)| *name as usize >= names.len()) {
            return Err(Malformed("name"));
        }
        let state = match flags {
            flags if flags & HELD != 0 => MessageState::Held,
            flags if flags & ACTIVE != 0 => MessageState::Active,
            _ => MessageState::Deferred,
        };
        let taken = flags & TAKEN != 0;
        visit(Summary { id: QueueId(last), place, file, taken, state, size, arrived, domains: &domains });
    }
    reader.end()?;
    Ok(names)
}
