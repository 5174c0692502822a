//! What is fuzzed: one function a parser that takes strangers' octets. Each panics if the parser breaks a promise.
//!
//! The file belongs to two crates: the fuzzer in this folder and `tests/fuzz_replay.rs`, which replays the corpus.

use std::sync::Arc;
use std::time::Duration;

use posthouse::mail::{Address, Domain, HeaderScan, QueueId, ReversePath, fields};
use posthouse::smtp::command::{Command, ForwardPath};
use posthouse::smtp::data::{Receiver, Stuffer};
use posthouse::smtp::server::{Answer, Question, Session, Settings, Step};

/// A target: takes any octets and panics if something is wrong.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also its function's, its corpus folder's and its binary's.
pub const TARGETS: &[(&str, Target)] =
    &[("address", address), ("command", command), ("data", data), ("header", header), ("session", session)];

/// `Address::parse`: what it takes has one written form, and that means the same.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(address) = Address::parse(text) else { return };
    let written = address.to_string();
    assert!(written.is_ascii() && !written.bytes().any(|octet| octet.is_ascii_control()));
    assert_eq!(Address::parse(&written).as_ref(), Ok(&address));
    assert_eq!(Address::new(address.local(), address.domain().clone()).as_ref(), Ok(&address));
}

/// `Command::parse`: paths survive being written; refusals are whole replies.
pub fn command(data: &[u8]) {
    // As `smtp::line` gives them.
    if data.contains(&b'\r') || data.contains(&b'\n') {
        return;
    }
    match Command::parse(data) {
        Ok(Command::Mail { path, size, body }) => {
            let line = format!("MAIL FROM:<{path}>");
            let again = Command::parse(line.as_bytes());
            let Ok(Command::Mail { path: same, .. }) = again else { panic!("{line:?} gives {again:?}") };
            assert!(same == path && (path.is_null() == (same == ReversePath::Null)));
            assert!(size.is_none() || data.len() > 15, "{body:?}");
        }
        Ok(Command::Rcpt(path)) => {
            let line = format!("RCPT TO:<{path}>");
            assert_eq!(Command::parse(line.as_bytes()), Ok(Command::Rcpt(path)));
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

/// `smtp::server::Session`: any octets, at once and in pieces, lead to the same replies and messages. The first octet is the
/// size of the pieces.
pub fn session(data: &[u8]) {
    let Some((size, octets)) = data.split_first() else { return };
    let whole = hold(octets, 64 * 1024);
    assert_eq!(whole, hold(octets, usize::from(*size).max(1)));
    let (replies, messages) = whole;
    assert!(replies.ends_with(b"\r\n") && !replies.is_empty());
    assert!(messages.iter().all(|content| content.len() <= 1000 && (content.is_empty() || content.ends_with(b"\r\n"))));
}

/// Holds a session in which every question is answered with yes; returns what was said and the contents that got 250.
fn hold(octets: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let settings = Settings {
        hostname: Domain::parse("mail.example.test").expect("a domain"),
        size_max: 1000,
        recipients_max: 3,
        errors_max: 10,
        command_timeout: Duration::from_secs(1),
        data_timeout: Duration::from_secs(1),
    };
    let mut session = Session::new(Duration::ZERO, Arc::new(settings));
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
                    Question::Recipient(ForwardPath::Postmaster) => Answer::Accept,
                    Question::Recipient(ForwardPath::Address(address)) => {
                        assert!(address.to_string().is_ascii());
                        Answer::Accept
                    }
                    Question::Connect | Question::Hello { .. } | Question::Sender { .. } => Answer::Accept,
                };
                session.answer(Duration::ZERO, answer);
            }
            Step::Body(octets) => draft.as_mut().expect("a draft").extend_from_slice(&octets),
            Step::Discard => drop(draft.take().expect("a draft")),
            Step::NeedInput => match pieces.next() {
                Some(piece) => session.receive(Duration::ZERO, piece),
                None => return (replies, messages),
            },
            Step::Close => return (replies, messages),
        }
    }
}
