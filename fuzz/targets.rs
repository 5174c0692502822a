//! What is fuzzed: one function a parser that takes strangers' octets. Each panics if the parser breaks a promise.
//!
//! The file belongs to two crates: the fuzzer in this folder and `tests/fuzz_replay.rs`, which replays the corpus.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use posthouse::directory::aliases;
use posthouse::mail::{
    Address, BodyType, Domain, EnhancedCode, HeaderScan, Message, QueueId, Recipient, Reply, ReversePath, Service, Timestamp,
    fields,
};
use posthouse::smtp::client::reply::{LINES_MAX, Parser, REPLY_SIZE_MAX, ReplyError};
use posthouse::smtp::command::{Command, ForwardPath, Mail};
use posthouse::smtp::data::{Receiver, Stuffer};
use posthouse::smtp::extension::Parameters;
use posthouse::smtp::server::{Answer, Mechanism, Question, Session, Settings, Step};
use posthouse::spool::record::{Body, Fault, HEADER_SIZE, MAGIC, encode, parse};
use posthouse::spool::{Change, Filter, Note, SegmentHeader, read_stopped};
use posthouse::system::sim::SimDisk;
use posthouse::system::{Content, Disk, OpenMode};

/// A target: takes any octets and panics if something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its function's, its corpus folder's and its binary's.
pub const TARGETS: &[(&str, Target)] = &[
    ("address", address),
    ("aliases", aliases),
    ("command", command),
    ("data", data),
    ("header", header),
    ("record", record),
    ("reply", reply),
    ("session", session),
];

/// `Address::parse`: what it takes has one written form, and that means the same.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(address) = Address::parse(text) else { return };
    let written = address.to_string();
    assert!(written.is_ascii() && !written.bytes().any(|octet| octet.is_ascii_control()));
    assert_eq!(Address::parse(&written).as_ref(), Ok(&address));
    assert_eq!(Address::new(address.local(), address.domain().clone()).as_ref(), Ok(&address));
}

/// `aliases::parse`: a bounded list of problems, or aliases that say the same when they are written out in full.
pub fn aliases(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let domain = Domain::parse("example.test").expect("a domain");
    let aliases = match aliases::parse(text, &domain) {
        Ok(aliases) => aliases,
        Err(problems) => {
            assert!((1..=100).contains(&problems.len()));
            let lines = problems.iter().map(ToString::to_string);
            return lines.for_each(|line| assert!(line.len() < 1000 && !line.contains(char::is_control), "{line:?}"));
        }
    };
    let mut written = String::new();
    for (name, targets) in aliases.iter() {
        assert!(!targets.is_empty() && targets.len() <= text.len() && name == name.to_ascii_lowercase());
        if name.starts_with(SPECIAL) || targets.iter().any(|target| target.local().trim_start().starts_with(SPECIAL)) {
            // Quotes can make an address of what else is a program, a file or a list.
            return;
        }
        let targets: Vec<String> = targets.iter().map(|to| format!("{}@{}", quoted(to.local()), to.domain())).collect();
        written.push_str(&format!("{}:\n\t{}\n", quoted(name), targets.join(",\n\t")));
    }
    assert_eq!(aliases::parse(&written, &domain), Ok(aliases), "{written}");
}

const SPECIAL: [char; 4] = ['|', '/', ':', '"'];

fn quoted(local: &str) -> String {
    format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `Command::parse`: paths survive being written; refusals are whole replies.
pub fn command(data: &[u8]) {
    // As `smtp::line` gives them.
    if data.contains(&b'\r') || data.contains(&b'\n') {
        return;
    }
    match Command::parse(data, Parameters::ALL) {
        Ok(Command::Mail(Mail { path, size, body, .. })) => {
            let line = format!("MAIL FROM:<{path}> SMTPUTF8");
            let again = Command::parse(line.as_bytes(), Parameters::ALL);
            let Ok(Command::Mail(Mail { path: same, .. })) = again else { panic!("{line:?} gives {again:?}") };
            assert!(same == path && (path.is_null() == (same == ReversePath::Null)));
            assert!(size.is_none() || data.len() > 15, "{body:?}");
        }
        Ok(Command::Rcpt { path, .. }) => {
            let line = format!("RCPT TO:<{path}>");
            let utf8 = !line.is_ascii();
            assert_eq!(Command::parse(line.as_bytes(), Parameters::ALL), Ok(Command::Rcpt { path, dsn: None, utf8 }));
        }
        Ok(Command::Hello { name, .. }) => {
            assert!(!name.is_empty() && name.len() <= 255 && name.bytes().all(|octet| octet.is_ascii_graphic()));
        }
        Ok(_) => {}
        Err(error) => {
            let reply = error.reply();
            let enhanced = reply.enhanced.expect("a refusal has an enhanced code");
            assert!((500..=555).contains(&reply.code) && enhanced.0 == 5);
            let wire = reply.to_wire();
            assert!(wire.ends_with(b"\r\n") && wire.iter().all(|octet| octet.is_ascii()), "{}", wire.escape_ascii());
        }
    }
}

/// `Receiver` and `Stuffer`: cuts change nothing, the end is where RFC 5321 has it, and what is stuffed comes out again. The
/// first octet is the size of the pieces.
pub fn data(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else { return };
    let size = usize::from(*size).max(1);
    let (content, bare, end) = receive(wire, usize::MAX);
    let pieces = receive(wire, size);
    assert_eq!((pieces.1, pieces.2), (bare, end));
    assert!(bare || pieces.0 == content);
    let stream = [b"\r\n", wire].concat();
    let expected = stream.windows(5).position(|window| window == b"\r\n.\r\n").map(|found| found + 3);
    assert_eq!(end, expected);
    if bare || end.is_none() {
        return;
    }
    let mut stuffer = Stuffer::new();
    let mut stuffed = Vec::new();
    content.chunks(size).for_each(|piece| stuffer.send(piece, &mut stuffed));
    stuffer.end(&mut stuffed);
    assert_eq!(receive(&stuffed, size), (content, false, Some(stuffed.len())));
}

fn receive(wire: &[u8], size: usize) -> (Vec<u8>, bool, Option<usize>) {
    let mut receiver = Receiver::new();
    let mut content = Vec::new();
    let mut before = 0;
    for piece in wire.chunks(size) {
        if let Some(used) = receiver.receive(piece, &mut content) {
            return (content, receiver.has_bare_line_end(), Some(before + used));
        }
        before += piece.len();
    }
    (content, receiver.has_bare_line_end(), None)
}

/// `fields` and `HeaderScan`: within their bounds, and the same however the content is cut. The first octet is the size of the
/// pieces.
pub fn header(data: &[u8]) {
    let Some((size, content)) = data.split_first() else { return };
    const SIZE_MAX: usize = 1000;
    let scan = |size: usize| {
        let mut scan = HeaderScan::new(SIZE_MAX);
        content.chunks(size).for_each(|piece| scan.receive(piece));
        scan
    };
    let (whole, pieces) = (scan(content.len().max(1)), scan(usize::from(*size).max(1)));
    assert_eq!(whole.header(), pieces.header());
    assert!(whole.header().len() <= SIZE_MAX && content.starts_with(whole.header()));
    let count = fields(whole.header()).inspect(|field| assert!(!field.name.is_empty())).count();
    assert!(count <= whole.header().len());
    assert_eq!(whole.count("Received"), fields(whole.header()).filter(|field| field.is("received")).count());
}

/// `record::parse`: what it takes encodes to the same octets, and what it says can be carried out twice. The log that holds the
/// octets can be read, whatever they are, and the content of its messages never has more octets than they say.
pub fn record(data: &[u8]) {
    let mended = mend(data);
    for bytes in [Some(data), mended.as_deref()].into_iter().flatten() {
        let Ok((record, size)) = parse(IDENTITY, bytes) else { continue };
        // What is written is of the present version, and means the same in it.
        let mut again = encode(IDENTITY, &record);
        again[4] = bytes[4];
        seal(&mut again);
        assert!(again == bytes[..size], "{record:?}");
        match record.body {
            Body::Accept { changes, .. } => changes.iter().for_each(change),
            Body::State(update) => change(&update),
            Body::Done => {}
        }
    }
    if let Ok(header) = SegmentHeader::parse(data) {
        assert_eq!(SegmentHeader::parse(&header.encode()), Ok(header));
    }
    read_log(&[data, mended.as_deref().unwrap_or_default(), data].concat());
}

/// The identity of the spool whose records are in the corpus.
const IDENTITY: u64 = 0x706f_7374;

/// The octets as a record with right lengths and checksums: what lies behind those must hold by itself.
fn mend(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let payload = u32::try_from(bytes.len().checked_sub(HEADER_SIZE)?).ok()?;
    let content = u32::from_le_bytes(bytes[12..16].try_into().ok()?).min(payload);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&(payload - content).to_le_bytes());
    bytes[12..16].copy_from_slice(&content.to_le_bytes());
    let crc = crc32fast::hash(&bytes[HEADER_SIZE..]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    seal(&mut bytes);
    let parsed = parse(IDENTITY, &bytes);
    assert!(matches!(parsed, Ok(_) | Err(Fault::Malformed(..))), "{parsed:?}");
    Some(bytes)
}

/// Puts the checksum of a record's header in.
fn seal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&[&IDENTITY.to_le_bytes(), &bytes[..36]].concat());
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
}

/// A change means the same when it comes with its message, and nothing more when it comes again.
fn change(change: &Change) {
    let base = change.base as usize;
    let to = Address::parse("ann@example.test").expect("an address");
    let mut before = Message {
        id: change.update.id,
        arrived: Timestamp::ZERO,
        size: 0,
        reverse_path: ReversePath::Null,
        body: BodyType::SevenBit,
        request: None,
        held: false,
        delays_noticed: 0,
        origin: None,
        recipients: vec![Recipient::new(to, None, Timestamp::ZERO); base.min(100)],
    };
    let mut message = before.clone();
    assert_eq!(change.apply(&mut message), base <= 100);
    if base > 100 {
        return assert_eq!(message, before);
    }
    before.apply(&change.update);
    assert_eq!(message, before);
    assert!(change.apply(&mut message));
    assert_eq!(message, before);
}

/// Reads a log of one segment with these octets, first as the last one, then as one whose end is confirmed.
fn read_log(records: &[u8]) {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    disk.create_dir_all(Path::new("/spool/log")).expect("a folder");
    let write = |number: u64, prior: u64, prior_end: u64, records: &[u8]| {
        let (sequence, last_id, created) = (1, QueueId(0), Timestamp::ZERO);
        let header = SegmentHeader {
            identity: IDENTITY,
            number,
            prior,
            prior_end,
            sequence,
            last_id,
            created,
            reused: records.len().is_multiple_of(2),
        };
        let path = format!("/spool/log/{number:08}.seg");
        let file = disk.open(Path::new(&path), OpenMode::CreateNew).expect("a file");
        file.write_at(0, &[header.encode(), records.to_vec()].concat()).expect("room");
        header.encode().len() as u64 + records.len() as u64
    };
    let end = write(1, 0, 0, records);
    for sealed in [false, true] {
        if sealed {
            write(2, 1, end, &[]);
        }
        let spool = read_stopped(Path::new("/spool"), &disk).expect("a spool");
        let messages = spool.list(&Filter::default());
        assert!(messages.is_sorted_by_key(|message| message.id));
        for message in messages {
            if let Ok(content) = spool.content(message.id) {
                assert_eq!(content.size(), message.size);
                read_content(&*content);
            }
        }
        let mut covered = 0;
        for note in spool.notes() {
            match note {
                Note::Quarantined { segment: 1, offset, bytes, .. } => {
                    assert!(*offset >= covered && offset + bytes <= end && *bytes > 0);
                    covered = offset + bytes;
                }
                Note::TailCut { segment: 1, offset, bytes } => {
                    assert!(!sealed && *offset >= covered && offset + bytes <= end && *bytes > 0);
                    covered = end;
                }
                note => panic!("{note:?}"),
            }
        }
    }
}

/// Reads content up to its end, an error, or some megabytes: each piece has the size that it must have.
fn read_content(content: &dyn Content) {
    let mut offset = 0;
    while offset < content.size().min(4 << 20) {
        let mut read = content.read_at(offset, 100_000);
        let Poll::Ready(read) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it has nothing to wait for")
        };
        let Ok(piece) = read else { return };
        assert_eq!(piece.len() as u64, 100_000.min(content.size() - offset));
        offset += piece.len() as u64;
    }
}

/// `Parser`: the same replies however the octets are cut, all within their bounds, nothing behind an error. The first octet says
/// how many of those behind it are the sizes of the pieces, in turn.
pub fn reply(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let (sizes, octets) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let stream = unroll(octets);
    let mut parser = Parser::default();
    let whole = replies(&mut parser, &stream);
    let mut cut = Parser::default();
    let mut pieces = Vec::new();
    let (mut rest, mut sizes) = (&stream[..], sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(1, |size| usize::from(*size).max(1)).min(rest.len());
        pieces.extend(replies(&mut cut, &rest[..size]));
        rest = &rest[size..];
        if pieces.last().is_some_and(Result::is_err) {
            break;
        }
    }
    assert_eq!(pieces, whole);
    let failed = whole.iter().position(Result::is_err);
    assert!(failed.is_none_or(|at| at + 1 == whole.len()));
    assert!(failed.is_some() || parser.is_inside() == cut.is_inside());
    for reply in whole.iter().flatten() {
        assert!((200..=599).contains(&reply.code));
        assert!(reply.enhanced.is_none_or(|enhanced| u16::from(enhanced.0) == reply.code / 100));
        // An octet that isn't UTF-8 becomes a character of three.
        assert!(reply.text.len() <= 3 * REPLY_SIZE_MAX && reply.text.split('\n').count() <= LINES_MAX);
        assert!(!reply.text.contains(|c: char| c.is_control() && c != '\n') && !reply.to_string().contains('\n'));
    }
}

/// The octets with runs made long, so that a short input can go beyond every bound: 255 and `n` stand for 32 times `n` more of
/// the octet before.
fn unroll(octets: &[u8]) -> Vec<u8> {
    let mut unrolled = Vec::new();
    let mut octets = octets.iter();
    while let Some(octet) = octets.next() {
        match (octet, unrolled.last()) {
            (255, Some(&last)) => {
                let times = 32 * octets.next().map_or(0, |times| usize::from(*times));
                unrolled.resize((unrolled.len() + times).min(3 * REPLY_SIZE_MAX), last);
            }
            (octet, _) => unrolled.push(*octet),
        }
    }
    unrolled
}

/// What a parser finds in the octets, up to the first error.
fn replies(parser: &mut Parser, mut octets: &[u8]) -> Vec<Result<Reply, ReplyError>> {
    let mut found = Vec::new();
    while let Some(reply) = parser.next(&mut octets) {
        let failed = reply.is_err();
        found.push(reply);
        if failed {
            assert_eq!(parser.next(&mut &b"250 fine\r\n"[..]).as_ref(), found.last());
            break;
        }
    }
    found
}

/// `smtp::server::Session`: any octets, at once and in pieces, lead to the same replies and messages. The first octet is the
/// size of the pieces.
pub fn session(data: &[u8]) {
    let Some((size, octets)) = data.split_first() else { return };
    let whole = hold(octets, 64 * 1024);
    assert_eq!(whole, hold(octets, usize::from(*size).max(1)));
    let (replies, messages) = whole;
    assert!(replies.ends_with(b"\r\n") && !replies.is_empty());
    assert!(messages.iter().all(|content| content.len() <= 1000));
}

/// Holds a session in which every question is answered with yes; returns what was said and the contents that got 250.
fn hold(octets: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let hostname = Domain::parse("mail.example.test").expect("a domain");
    let is_lmtp = octets.windows(4).any(|word| word == b"LHLO");
    let service = if is_lmtp { Service::Lmtp } else { Service::Mx };
    let settings = Settings {
        size_max: 1000,
        recipients_max: 3,
        errors_max: 10,
        mechanisms: Mechanism::ALL.to_vec(),
        auth_in_clear: true,
        parameters: Parameters::ALL,
        hold_max: Duration::from_secs(86_400),
        starttls: true,
        ..Settings::new(service, hostname)
    };
    let mut session = Session::new(Duration::ZERO, Arc::new(settings));
    session.set_wall_clock(Timestamp::from_millis(1_795_312_800_000));
    let (mut replies, mut messages, mut draft) = (Vec::new(), Vec::new(), None);
    let mut pieces = octets.chunks(size);
    loop {
        match session.next() {
            Step::Send(octets) => replies.extend_from_slice(&octets),
            Step::Ask(question) => {
                let answer = match question {
                    Question::Commit => {
                        messages.push(draft.take().expect("a draft"));
                        Answer::Committed(QueueId(messages.len() as u64))
                    }
                    Question::Begin => {
                        assert!(draft.replace(Vec::new()).is_none());
                        Answer::Accept
                    }
                    Question::Recipient { path: ForwardPath::Postmaster, .. } => Answer::Accept,
                    Question::Recipient { path: ForwardPath::Address(address), .. } => {
                        assert!(address.to_string().is_ascii());
                        Answer::Accept
                    }
                    Question::Login { initial: None, .. } => Answer::Challenge(b"?".to_vec()),
                    Question::Login { initial: Some(secret), .. } | Question::Response(secret) if secret.0.len() > 3 => {
                        Answer::Refuse(Reply::new(535, EnhancedCode(5, 7, 8), "Authentication credentials invalid"))
                    }
                    Question::Login { .. } | Question::Response(_) => Answer::Accept,
                    Question::Connect | Question::Presented(_) | Question::Hello { .. } | Question::Sender { .. } => {
                        Answer::Accept
                    }
                };
                session.answer(Duration::ZERO, answer);
            }
            Step::Body(octets) => draft.as_mut().expect("a draft").extend_from_slice(&octets),
            Step::Discard => drop(draft.take().expect("a draft")),
            Step::NeedInput => match pieces.next() {
                Some(piece) => session.receive(Duration::ZERO, piece),
                None => return (replies, messages),
            },
            // What follows is for the TLS handshake.
            Step::StartTls | Step::Close => return (replies, messages),
        }
    }
}
