//! One record of the log: a header of 40 bytes with a checksum of its own, content, description. docs/spool.md has the table.
//!
//! Pure: bytes in, values out, and back. Never panics on any bytes.

use crc32fast::Hasher;

use super::asked::{message_is_old, update_is_old};
use super::codec::{self, Change, Malformed, Reader};
use super::compress::{self, Form};
use crate::mail::{Message, QueueId, Update};

/// Every record begins with these bytes; the first of them is in no UTF-8 text.
pub const MAGIC: [u8; 4] = [0xf5, b'P', b'H', b'R'];
/// The version of the format that is written. Version 1 knew no compression, version 2 nothing that senders ask for.
pub const VERSION: u8 = 3;
/// The oldest version that is read: up to two before the one that is written.
pub const VERSION_OLDEST: u8 = 1;
/// Bytes of a header.
pub const HEADER_SIZE: usize = 40;
/// The longest record that is read or written, header included; bytes.
pub const RECORD_SIZE_MAX: usize = 64 << 20;

/// Flag: every record before this one was durable when this one was written.
const FLAG_BATCH: u16 = 1;
/// Flag: the content lies in a file of its own.
const FLAG_FILE: u16 = 2;
/// Flag: the content is stored in compressed chunks; since version 2.
const FLAG_COMPRESSED: u16 = 4;
/// A draft begins with so much room: most mail never outgrows it. Bytes.
const DRAFT_CAPACITY: usize = 8 * 1024;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Grows from record to record, with gaps.
    pub sequence: u64,
    /// Whether everything before it was durable when it was written.
    pub batch: bool,
    /// The message it speaks of.
    pub id: QueueId,
    /// The rest.
    pub body: Body,
}

/// What a record says, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A message is in the spool, in the state given: at its acceptance, and again when the log is cleaned.
    Accept {
        /// The whole message.
        message: Message,
        /// Where its content is.
        content: ContentAt,
        /// Changes to other messages, durable with this record or not at all.
        changes: Vec<Change>,
    },
    /// A message changes.
    State(Change),
    /// Nothing remains to be done for a message.
    Done,
}

/// Where content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentAt {
    /// In the record: the bytes as they are stored there.
    Inline(Vec<u8>, Form),
    /// In `content/<id>`.
    File(ContentFile),
}

/// What a record says of content in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentFile {
    /// CRC-32 of the file's bytes.
    pub crc: u32,
    /// The file's length if the content is compressed; else it is as long as the content.
    pub compressed: Option<u64>,
}

impl ContentFile {
    /// What stands for content that is lost: a file that isn't there.
    pub(crate) const LOST: Self = Self { crc: 0, compressed: None };

    /// The file's length, of a message whose content has this size.
    pub fn length(&self, size: u64) -> u64 {
        self.compressed.unwrap_or(size)
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They don't begin with a sound header.
    NoHeader,
    /// The header is sound, the record has this many bytes, and there are fewer.
    Short(usize),
    /// The header is sound, the rest of the record's bytes isn't: as many as given in all.
    Checksum(usize),
    /// The checksums hold, but the description says nothing that this version understands.
    Malformed(usize, Malformed),
}

/// A header whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) description: u32,
    pub(crate) content: u32,
    pub(crate) sequence: u64,
    pub(crate) id: QueueId,
    crc: u32,
}

const KIND_ACCEPT: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_DONE: u8 = 3;

impl Header {
    /// Reads a header. The identity goes into the checksum, so that nobody can smuggle a record in as content.
    pub(crate) fn parse(identity: u64, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER_SIZE>()?;
        if bytes[..4] != MAGIC || header_crc(identity, bytes) != u32::from_le_bytes(bytes[36..].try_into().ok()?) {
            return None;
        }
        let mut fields = Reader(&bytes[4..36]);
        let mut next = || -> Result<Header, Malformed> {
            Ok(Header {
                version: fields.byte("version")?,
                kind: fields.byte("kind")?,
                flags: u16::from_le_bytes(fields.fixed("flags")?),
                description: u32::from_le_bytes(fields.fixed("length")?),
                content: u32::from_le_bytes(fields.fixed("length")?),
                sequence: u64::from_le_bytes(fields.fixed("sequence")?),
                id: QueueId(u64::from_le_bytes(fields.fixed("id")?)),
                crc: u32::from_le_bytes(fields.fixed("checksum")?),
            })
        };
        let header = next().ok()?;
        (header.size() <= RECORD_SIZE_MAX).then_some(header)
    }

    /// Bytes of the whole record.
    pub(crate) fn size(&self) -> usize {
        HEADER_SIZE + self.content as usize + self.description as usize
    }

    /// How the content is stored.
    pub(crate) fn form(&self) -> Form {
        if self.flags & FLAG_COMPRESSED != 0 { Form::Chunks } else { Form::Plain }
    }

    /// What the record is, for people.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            KIND_ACCEPT => "an Accept record",
            KIND_STATE => "a State record",
            KIND_DONE => "a Done record",
            _ => "a record of an unknown kind",
        }
    }

    /// Whether everything before the record was durable when it was written.
    pub(crate) fn is_batch(&self) -> bool {
        self.flags & FLAG_BATCH != 0
    }
}

fn header_crc(identity: u64, bytes: &[u8; HEADER_SIZE]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&identity.to_le_bytes());
    hasher.update(&bytes[..36]);
    hasher.finalize()
}

/// Reads the record that the bytes begin with, and says how many bytes it has.
pub fn parse(identity: u64, bytes: &[u8]) -> Result<(Record, usize), Fault> {
    let header = Header::parse(identity, bytes).ok_or(Fault::NoHeader)?;
    parse_body(&header, bytes, true)
}

/// The same behind a header that was read, without a copy of inline content: that comes back empty.
pub(crate) fn parse_behind(header: &Header, bytes: &[u8]) -> Result<(Record, usize), Fault> {
    parse_body(header, bytes, false)
}

/// Where inline content lies in a record's bytes.
pub(crate) fn content_range(header: &Header) -> std::ops::Range<usize> {
    HEADER_SIZE..HEADER_SIZE + header.content as usize
}

/// Checks a record's bytes behind the header.
pub(crate) fn check_payload(header: &Header, bytes: &[u8]) -> Result<(), Fault> {
    let payload = bytes.get(HEADER_SIZE..header.size()).ok_or(Fault::Short(header.size()))?;
    if crc32fast::hash(payload) == header.crc { Ok(()) } else { Err(Fault::Checksum(header.size())) }
}

fn parse_body(header: &Header, bytes: &[u8], with_content: bool) -> Result<(Record, usize), Fault> {
    let size = header.size();
    check_payload(header, bytes)?;
    let content = &bytes[content_range(header)];
    let description = &bytes[HEADER_SIZE + content.len()..size];
    let body = read_body(header, content, description, with_content).map_err(|malformed| Fault::Malformed(size, malformed))?;
    Ok((Record { sequence: header.sequence, batch: header.is_batch(), id: header.id, body }, size))
}

/// The flags that a record of this version and kind may have.
fn known_flags(version: u8, kind: u8) -> Result<u16, Malformed> {
    match (version, kind) {
        (1, KIND_ACCEPT) => Ok(FLAG_BATCH | FLAG_FILE),
        (2..=VERSION, KIND_ACCEPT) => Ok(FLAG_BATCH | FLAG_FILE | FLAG_COMPRESSED),
        (VERSION_OLDEST..=VERSION, _) => Ok(FLAG_BATCH),
        _ => Err(Malformed("version")),
    }
}

fn read_body(header: &Header, content: &[u8], description: &[u8], with_content: bool) -> Result<Body, Malformed> {
    if header.flags & !known_flags(header.version, header.kind)? != 0 {
        return Err(Malformed("flags"));
    }
    let in_file = header.flags & FLAG_FILE != 0;
    if header.content > 0 && (header.kind != KIND_ACCEPT || in_file) {
        return Err(Malformed("content"));
    }
    let mut reader = Reader(description);
    let body = match header.kind {
        KIND_ACCEPT => {
            let message = reader.message(header.id)?;
            let form = header.form();
            let content = if in_file {
                ContentAt::File(reader.content_file(form == Form::Chunks)?)
            } else {
                match form {
                    Form::Chunks => compress::check(content, message.size)?,
                    Form::Plain if message.size == u64::from(header.content) => {}
                    Form::Plain => return Err(Malformed("size")),
                }
                ContentAt::Inline(if with_content { content.to_vec() } else { Vec::new() }, form)
            };
            Body::Accept { message, content, changes: read_changes(&mut reader)? }
        }
        KIND_STATE => Body::State(reader.change(header.id)?),
        KIND_DONE => Body::Done,
        _ => return Err(Malformed("kind")),
    };
    reader.end()?;
    let old = match &body {
        Body::Accept { message, changes, .. } => {
            message_is_old(message) && changes.iter().all(|change| update_is_old(&change.update))
        }
        Body::State(change) => update_is_old(&change.update),
        Body::Done => true,
    };
    if header.version < 3 && !old { Err(Malformed("version")) } else { Ok(body) }
}

fn read_changes(reader: &mut Reader<'_>) -> Result<Vec<Change>, Malformed> {
    let count = reader.number("changes")?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let id = QueueId(reader.number("change")?);
        changes.push(reader.change(id)?);
    }
    Ok(changes)
}

/// A record's bytes. Inline content must give as many octets as `message.size` says, or the record can't be read again.
pub fn encode(identity: u64, record: &Record) -> Vec<u8> {
    let mut frame = match &record.body {
        Body::Accept { message, content, changes } => {
            let content = match content {
                ContentAt::Inline(bytes, form) => {
                    let mut draft = Frame::draft();
                    draft.extend_from_slice(bytes);
                    AcceptContent::Inline(draft, *form)
                }
                ContentAt::File(file) => AcceptContent::File(*file),
            };
            Frame::accept(content, message, changes)
        }
        Body::State(change) => Frame::state(&change.update, change.base),
        Body::Done => Frame::done(record.id),
    };
    frame.seal(identity, record.sequence, record.batch);
    frame.bytes
}

/// A record on its way into the log: complete but for what is known only when it is written.
#[derive(Debug)]
pub(crate) struct Frame {
    bytes: Vec<u8>,
}

/// The content of a frame.
pub(crate) enum AcceptContent {
    /// A buffer begun with `Frame::draft`, stored content behind it: becomes the record without being copied.
    Inline(Vec<u8>, Form),
    /// In its file.
    File(ContentFile),
}

impl AcceptContent {
    /// The file, if content is in one.
    pub(crate) fn file(&self) -> Option<ContentFile> {
        match self {
            Self::Inline(..) => None,
            Self::File(file) => Some(*file),
        }
    }
}

impl Frame {
    /// A buffer with room for the header, to which content is appended.
    pub(crate) fn draft() -> Vec<u8> {
        let mut draft = Vec::with_capacity(DRAFT_CAPACITY);
        draft.resize(HEADER_SIZE, 0);
        draft
    }

    /// Room for the header only.
    fn blank() -> Vec<u8> {
        vec![0; HEADER_SIZE]
    }

    pub(crate) fn accept(content: AcceptContent, message: &Message, changes: &[Change]) -> Frame {
        let file = content.file();
        let (mut bytes, flags) = match content {
            AcceptContent::Inline(draft, Form::Plain) => (draft, 0),
            AcceptContent::Inline(draft, Form::Chunks) => (draft, FLAG_COMPRESSED),
            AcceptContent::File(ContentFile { compressed: None, .. }) => (Self::blank(), FLAG_FILE),
            AcceptContent::File(ContentFile { compressed: Some(_), .. }) => (Self::blank(), FLAG_FILE | FLAG_COMPRESSED),
        };
        let content = bytes.len() - HEADER_SIZE;
        codec::put_message(&mut bytes, message);
        if let Some(file) = file {
            codec::put_content_file(&mut bytes, file);
        }
        codec::put_number(&mut bytes, changes.len() as u64);
        for change in changes {
            codec::put_number(&mut bytes, change.update.id.0);
            codec::put_change(&mut bytes, &change.update, change.base);
        }
        Self::finish(bytes, KIND_ACCEPT, flags, content, message.id)
    }

    pub(crate) fn state(update: &Update, base: u32) -> Frame {
        let mut bytes = Self::blank();
        codec::put_change(&mut bytes, update, base);
        Self::finish(bytes, KIND_STATE, 0, 0, update.id)
    }

    /// A whole record that was read, to be written once more. A record of an older version means the same in this one: what came
    /// later is said with bits that were zero.
    pub(crate) fn again(mut bytes: Vec<u8>) -> Frame {
        bytes[4] = VERSION;
        Frame { bytes }
    }

    pub(crate) fn done(id: QueueId) -> Frame {
        Self::finish(Self::blank(), KIND_DONE, 0, 0, id)
    }

    fn finish(mut bytes: Vec<u8>, kind: u8, flags: u16, content: usize, id: QueueId) -> Frame {
        let description = bytes.len() - HEADER_SIZE - content;
        let crc = crc32fast::hash(&bytes[HEADER_SIZE..]);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = kind;
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&(description as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&(content as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&id.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        Frame { bytes }
    }

    /// Puts in what is known only now, and the header's checksum. May be done again, for another try in another segment.
    pub(crate) fn seal(&mut self, identity: u64, sequence: u64, batch: bool) {
        let flags = u16::from_le_bytes([self.bytes[6], self.bytes[7]]) & !FLAG_BATCH;
        self.bytes[6..8].copy_from_slice(&(flags | if batch { FLAG_BATCH } else { 0 }).to_le_bytes());
        self.bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        if let Some(header) = self.bytes.first_chunk::<HEADER_SIZE>() {
            let crc = header_crc(identity, header);
            self.bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where an Accept record's content lies as it came; none if it lies elsewhere, or compressed.
    pub(crate) fn plain_content(&self) -> Option<std::ops::Range<usize>> {
        let number = |at: usize| self.bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let flags = u16::from_le_bytes([self.bytes[6], self.bytes[7]]);
        let plain = self.bytes[5] == KIND_ACCEPT && flags & (FLAG_FILE | FLAG_COMPRESSED) == 0;
        number(12).filter(|_| plain).map(|length| HEADER_SIZE..HEADER_SIZE + length as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::asked::tests::{body_type, dsn, request};
    use super::*;
    use crate::mail::{
        Address, Cause, Domain, EnhancedCode, Origin, Recipient, RecipientState, RecipientStatus, ReversePath, Timestamp,
    };

    fn address() -> impl Strategy<Value = Address> {
        ("[ -~]{1,64}", "[a-z0-9]{1,20}(\\.[a-z]{2,5}){0,3}")
            .prop_map(|(local, domain)| Address::new(&local, Domain::parse(&domain).unwrap()).unwrap())
    }

    fn status() -> impl Strategy<Value = RecipientStatus> {
        let states = [
            RecipientState::Pending,
            RecipientState::Deferred,
            RecipientState::Delivered,
            RecipientState::Bounced,
            RecipientState::Expanded,
            RecipientState::Removed,
        ];
        let causes = [Cause::Remote, Cause::Connection, Cause::Dns, Cause::Local, Cause::Expired, Cause::Operator];
        let code = (prop::sample::select(vec![2u8, 4, 5]), 0u16..1000, 0u16..1000);
        (
            prop::sample::select(states.to_vec()),
            any::<u32>(),
            any::<u64>(),
            prop::option::of(code),
            prop::option::of(prop::sample::select(causes.to_vec())),
            ".{0,40}",
            ".{0,20}",
        )
            .prop_map(|(state, attempts, next, code, last_cause, last_reply, next_hop)| RecipientStatus {
                state,
                attempts,
                next_attempt: Timestamp::from_millis(next),
                last_status: code.map(|(class, subject, detail)| EnhancedCode(class, subject, detail)),
                last_cause,
                last_reply,
                next_hop,
            })
    }

    fn recipients(max: usize) -> impl Strategy<Value = Vec<Recipient>> {
        let recipient = (address(), prop::option::of(address()), dsn(), status());
        prop::collection::vec(
            recipient.prop_map(|(address, original, dsn, status)| Recipient { address, original, dsn, status }),
            0..max,
        )
    }

    fn change() -> impl Strategy<Value = Change> {
        let statuses = prop::collection::vec((any::<u32>(), status()), 0..3);
        let told = any::<bool>();
        (
            any::<u64>(),
            prop::option::of(any::<bool>()),
            prop::option::of(any::<u32>()),
            told,
            statuses,
            recipients(3),
            any::<u32>(),
        )
            .prop_map(|(id, held, delays_noticed, deadline_told, statuses, added, base)| Change {
                update: Update { id: QueueId(id), held, delays_noticed, deadline_told, statuses, added },
                base,
            })
    }

    fn accept() -> impl Strategy<Value = Record> {
        let content = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|octets| ContentAt::Inline(octets, Form::Plain)),
            (any::<u32>(), any::<Option<u64>>()).prop_map(|(crc, compressed)| ContentAt::File(ContentFile { crc, compressed }))
        ];
        let path = prop::option::of(address()).prop_map(|path| path.map_or(ReversePath::Null, ReversePath::Address));
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        let flags = (any::<bool>(), body_type(), any::<bool>());
        let origin = prop::option::of(
            prop_oneof![
                Just(Origin::Notice),
                address().prop_map(|address| Origin::Login(std::sync::Arc::new(address))),
                address().prop_map(|address| Origin::Domain(std::sync::Arc::new(address.domain().clone()))),
                any::<std::net::Ipv6Addr>().prop_map(|client| Origin::Client(std::net::IpAddr::V6(client).into())),
            ]
            .prop_map(Box::new),
        );
        let path = (path, request(), origin);
        (numbers, flags, path, recipients(4), content, prop::collection::vec(change(), 0..3)).prop_map(
            |(
                (sequence, id, arrived, size, delays_noticed),
                (batch, body, held),
                (reverse_path, request, origin),
                recipients,
                content,
                changes,
            )| {
                let size = match &content {
                    ContentAt::Inline(bytes, _) => bytes.len() as u64,
                    ContentAt::File(_) => size,
                };
                let message = Message {
                    id: QueueId(id),
                    arrived: Timestamp::from_millis(arrived),
                    size,
                    reverse_path,
                    body,
                    request,
                    held,
                    delays_noticed,
                    origin,
                    recipients,
                };
                Record { sequence, batch, id: message.id, body: Body::Accept { message, content, changes } }
            },
        )
    }

    fn record() -> impl Strategy<Value = Record> {
        let state = (any::<u64>(), any::<bool>(), change()).prop_map(|(sequence, batch, change)| Record {
            sequence,
            batch,
            id: change.update.id,
            body: Body::State(change),
        });
        let done = (any::<u64>(), any::<bool>(), any::<u64>()).prop_map(|(sequence, batch, id)| Record {
            sequence,
            batch,
            id: QueueId(id),
            body: Body::Done,
        });
        prop_oneof![3 => accept(), 2 => state, 1 => done]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_encoded_is_parsed(identity: u64, record in record(), behind in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut bytes = encode(identity, &record);
            let length = bytes.len();
            bytes.extend(behind);
            prop_assert_eq!(parse(identity, &bytes), Ok((record.clone(), length)));
            prop_assert_eq!(parse(identity ^ 1, &bytes), Err(Fault::NoHeader));
            for cut in [0, HEADER_SIZE - 1, HEADER_SIZE, length - 1] {
                if cut < length {
                    let fault = if cut < HEADER_SIZE { Fault::NoHeader } else { Fault::Short(length) };
                    prop_assert_eq!(parse(identity, &bytes[..cut]), Err(fault));
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_found(record in record(), at: prop::sample::Index) {
            let mut bytes = encode(7, &record);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let fault = parse(7, &bytes).unwrap_err();
            let expected = if bit / 8 < HEADER_SIZE { Fault::NoHeader } else { Fault::Checksum(bytes.len()) };
            prop_assert_eq!(fault, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), id: u64) {
            let _ = parse(7, &bytes);
            for kind in 0..5 {
                let header = Header {
                    version: VERSION, kind, flags: 0, description: bytes.len() as u32, content: 0, sequence: 1, id: QueueId(id), crc: 0,
                };
                if let Ok(body) = read_body(&header, &[], &bytes, true) {
                    let record = Record { sequence: 1, batch: false, id: QueueId(id), body };
                    let again = encode(7, &record);
                    prop_assert_eq!(parse(7, &again), Ok((record, again.len())));
                }
            }
        }

        #[test]
        fn a_damaged_description_never_panics(record in record(), at: prop::sample::Index, to: u8) {
            let bytes = encode(7, &record);
            let header = Header::parse(7, &bytes).unwrap();
            let mut description = bytes[HEADER_SIZE + header.content as usize..].to_vec();
            if !description.is_empty() {
                let at = at.index(description.len());
                description[at] = to;
            }
            let _ = read_body(&header, &bytes[content_range(&header)], &description, true);
        }

        #[test]
        fn a_change_read_twice_changes_once(record in accept(), mut change in change()) {
            let Body::Accept { mut message, .. } = record.body else { unreachable!() };
            change.update.id = message.id;
            change.base = message.recipients.len() as u32;
            prop_assert!(change.apply(&mut message));
            let once = message.clone();
            prop_assert!(change.apply(&mut message));
            prop_assert_eq!(&message, &once);
            change.base = once.recipients.len() as u32 + 1;
            prop_assert!(!change.apply(&mut message));
            prop_assert_eq!(message, once);
        }
    }
}
