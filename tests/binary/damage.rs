//! Damage on disk: a bit flipped in every thousandth record of each kind, in content files, an index that is gone or garbage. The
//! damaged records are set aside, all the rest is delivered as it was, and mail is taken as before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::load::{Number, number, sized};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::random::Random;
use crate::support::server::{Server, field, listing, run, wait_for_control};

const SESSIONS: u64 = 8;
/// Messages a session.
const EACH: u64 = 650;
/// Of each kind, every record of this number is damaged, and one if there are fewer.
const DAMAGED: usize = 1000;
const HEADER: u64 = 40;
/// Kinds of records, and the flags of an Accept that matter here.
const ACCEPT: u8 = 1;
const STATE: u8 = 2;
const DONE: u8 = 3;
const FILE: u8 = 2;
const COMPRESSED: u8 = 4;

/// A peer that takes mail, and one that defers it until its gate opens.
struct Peers {
    far: Peer,
    stay: Peer,
    gate: Arc<AtomicBool>,
}

impl Peers {
    fn new() -> Self {
        let gate = Arc::new(AtomicBool::new(false));
        let open = Arc::clone(&gate);
        let stay = Peer::with(move |line| {
            let asks = line.starts_with("RCPT") || line == "DATA";
            (asks && !open.load(Ordering::SeqCst)).then(|| "451 4.2.0 come back later".to_owned())
        });
        Self { far: Peer::new(), stay, gate }
    }
}

/// A home whose mail goes to peers, from a log of small segments.
fn home(far: &Peer, stay: &Peer) -> Home {
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n[queue]\nattempts = 200\n\
         [[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"stay.test\"\nhosts = [\"{}\"]\n",
        far.address(),
        stay.address()
    ));
    home.fragment("size", "[spool]\nsegment_size = \"1MiB\"\n");
    home
}

fn pause(home: &Home, paused: bool) {
    home.fragment("paused", &format!("[queue]\npaused = {paused}\n"));
}

/// Whether a message is one that waits: the others are delivered at once.
fn stays((_, sequence): Number) -> bool {
    sequence % 5 > 1
}

fn size(number: Number) -> usize {
    let large = if number.1 % 50 == 7 { 140 << 10 } else { 0 };
    large + 1024 + (number.0 * 37 + number.1 * 101) as usize % 2048
}

/// Sends messages from several sessions at once; says which id each got.
fn fill(server: &Server, seed: u64, sessions: u64, each: Range<u64>) -> BTreeMap<Number, String> {
    let address = server.address();
    let sessions: Vec<_> = (0..sessions)
        .map(|session| {
            let each = each.clone();
            thread::spawn(move || {
                let mut client = Client::open(address).unwrap();
                let send = |sequence| {
                    let number = (session, sequence);
                    let to = if stays(number) { "u@stay.test" } else { "u@far.test" };
                    let reply = client.send("load@client.test", &[to], &sized(seed, number, size(number))).unwrap();
                    (number, reply.id().to_owned())
                };
                each.map(send).collect::<Vec<_>>()
            })
        })
        .collect();
    sessions.into_iter().flat_map(|session| session.join().unwrap()).collect()
}

/// A record, found by docs/spool.md alone.
#[derive(Clone, Debug)]
struct Record {
    path: PathBuf,
    segment: u64,
    offset: u64,
    content: u64,
    description: u64,
    kind: u8,
    flags: u8,
    id: String,
    /// What lies there once it is damaged.
    bytes: Vec<u8>,
}

impl Record {
    fn size(&self) -> u64 {
        HEADER + self.content + self.description
    }

    fn place(&self) -> (u64, u64, u64) {
        (self.segment, self.offset, self.size())
    }

    /// Whether it is a message's content and envelope.
    fn is_whole(&self) -> bool {
        self.kind == ACCEPT && self.flags & FILE == 0
    }
}

/// A queue id as text.
fn text(id: u64) -> String {
    (0..13).rev().map(|at| char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(id >> (at * 5)) as usize & 31])).collect()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The records of a log that count, in order, and its segments.
fn read_log(spool: &Path) -> (Vec<Record>, Vec<PathBuf>) {
    let mut segments: Vec<PathBuf> = fs::read_dir(spool.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let files: Vec<Vec<u8>> = segments.iter().map(|path| fs::read(path).unwrap()).collect();
    // The segment behind says where one ends: a start writes the last batch again there.
    let ends: BTreeMap<u64, u64> = files.iter().map(|bytes| (long(bytes, 28), long(bytes, 36))).collect();
    let mut records = Vec::new();
    for (path, bytes) in segments.iter().zip(&files) {
        let segment = long(bytes, 20);
        let end = ends.get(&segment).map_or(bytes.len(), |end| *end as usize);
        let mut offset = 4096;
        while offset < end && bytes.get(offset..offset + 4) == Some(b"\xf5PHR") {
            let length = |at: usize| u32::from_le_bytes(bytes[offset + at..offset + at + 4].try_into().unwrap());
            let record = Record {
                path: path.clone(),
                segment,
                offset: offset as u64,
                content: length(12).into(),
                description: length(8).into(),
                kind: bytes[offset + 5],
                flags: bytes[offset + 6] & (FILE | COMPRESSED),
                id: text(long(bytes, offset + 24)),
                bytes: Vec::new(),
            };
            offset += record.size() as usize;
            records.push(record);
        }
    }
    (records, segments)
}

/// Those of a log's records that something is lost with, by kind: of a message's Accept records the last, if it isn't done with; a
/// Done record if it is the only one of a message that is still there.
fn by_kind(records: Vec<Record>) -> BTreeMap<(u8, u8), Vec<Record>> {
    let (mut done, mut last) = (BTreeMap::<String, u32>::new(), BTreeMap::new());
    for record in &records {
        match record.kind {
            ACCEPT => drop(last.insert(record.id.clone(), (record.segment, record.offset))),
            DONE => *done.entry(record.id.clone()).or_default() += 1,
            _ => {}
        }
    }
    let mut kinds: BTreeMap<(u8, u8), Vec<Record>> = BTreeMap::new();
    for record in records {
        let counts = match record.kind {
            ACCEPT => !done.contains_key(&record.id) && last[&record.id] == (record.segment, record.offset),
            DONE => done[&record.id] == 1 && last.contains_key(&record.id),
            _ => true,
        };
        if counts {
            kinds.entry((record.kind, record.flags)).or_default().push(record);
        }
    }
    kinds
}

fn flip(path: &Path, byte: u64, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte as usize] ^= 1 << random.between(0, 7);
    fs::write(path, bytes).unwrap();
}

/// What was damaged.
struct Damage {
    records: Vec<Record>,
    /// Messages whose content file was, while their records are sound.
    files: BTreeSet<String>,
}

/// Flips a bit in every thousandth record of each kind: in its content, its description, its header by turns; one in a segment's
/// header; and one in a content file, as received and compressed.
fn damage(spool: &Path, random: &mut Random) -> Damage {
    let (records, segments) = read_log(spool);
    let kinds = by_kind(records);
    let expected = [(ACCEPT, 0), (ACCEPT, FILE), (ACCEPT, COMPRESSED), (ACCEPT, FILE | COMPRESSED), (STATE, 0), (DONE, 0)];
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), expected);
    let mut damaged = Damage { records: Vec::new(), files: BTreeSet::new() };
    for (kind, records) in kinds {
        assert!(kind.1 & FILE != 0 || records.len() > DAMAGED / 2, "{kind:?}: {}", records.len());
        // Of one message one record: else it may be delivered again.
        let hit: BTreeSet<String> = damaged.records.iter().map(|record| record.id.clone()).collect();
        let records: Vec<_> = records.into_iter().filter(|record| !hit.contains(&record.id)).collect();
        let chosen = records.iter().skip((records.len() / 2).min(DAMAGED / 2)).step_by(DAMAGED);
        for (turn, record) in chosen.enumerate() {
            let parts = [(HEADER, record.content), (HEADER + record.content, record.description), (0, HEADER)];
            let parts: Vec<_> = parts.into_iter().filter(|(_, size)| *size > 0).collect();
            let (from, size) = parts[turn % parts.len()];
            flip(&record.path, record.offset + from + random.between(0, size - 1), random);
            damaged.records.push(record.clone());
        }
        if kind.1 & FILE != 0 {
            let id = &records[0].id;
            flip(&spool.join("content").join(id), random.between(0, 90_000), random);
            damaged.files.insert(id.clone());
        }
    }
    flip(&segments[segments.len() / 2], random.between(0, 71), random);
    for record in &mut damaged.records {
        record.bytes = fs::read(&record.path).unwrap()[record.offset as usize..][..record.size() as usize].to_vec();
    }
    damaged
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else if path.is_file() {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Takes what a peer gets until these have arrived, each once and as it was sent. What may arrive, too, is taken out of `possible`.
fn arrive(
    peer: &Peer,
    seed: u64,
    ids: &BTreeMap<Number, String>,
    mut expected: BTreeSet<String>,
    possible: &mut BTreeSet<String>,
) {
    while !expected.is_empty() {
        let mail = peer.next();
        let number = number(&mail.content);
        maildir::above(&mail.content, &sized(seed, number, size(number)));
        let id = maildir::queue_id(&mail.content);
        assert_eq!(id, ids[&number]);
        assert!(expected.remove(id) || possible.remove(id), "{number:?} arrived, and should not, or twice");
    }
}

/// Waits until these records are set aside, as they lie there.
fn set_aside<'a>(home: &Home, server: &Server, damaged: &[Record], expected: impl Iterator<Item = &'a Record>) {
    let mut expected: BTreeSet<_> = expected.map(Record::place).collect();
    server.event("quarantined", |event| {
        let number = |name: &str| event[name].as_u64().unwrap();
        let place = (number("segment"), number("offset"), number("bytes"));
        let kept = fs::read(home.at("spool").join(field(event, "path"))).unwrap();
        let record = damaged.iter().find(|record| record.place() == place);
        assert_eq!(kept, record.expect("only what was damaged is quarantined").bytes, "the copy is what lies there");
        expected.remove(&place);
        expected.is_empty()
    });
}

/// Whether a message that is attempted comes to its end, or can't be read.
fn is_finished(server: &mut Server, id: &str) -> bool {
    server.process().output().wait("the end of an attempt", PATIENCE, |line| {
        let event: Value = serde_json::from_str(line).ok().filter(|event| field(event, "id") == id)?;
        let end = ["finished", "deferred"].into_iter().find(|name| field(&event, "event") == *name)?;
        Some(end == "finished")
    })
}

/// Starts a server on a damaged spool, has everything sent, and checks what becomes of every message.
fn deliver(home: &Home, peers: &Peers, mut ids: BTreeMap<Number, String>, seed: u64, damaged: &Damage, has_index: bool) {
    let ids_of = |some: &mut dyn Iterator<Item = &Record>| some.map(|record| record.id.clone()).collect::<BTreeSet<_>>();
    let records = &damaged.records;
    let whole = ids_of(&mut records.iter().filter(|record| record.is_whole()));
    let apart = ids_of(&mut records.iter().filter(|record| record.kind == ACCEPT && !record.is_whole()));
    let undone = ids_of(&mut records.iter().filter(|record| record.kind == DONE));
    // The index has the envelopes: content in a file is delivered, unless the record is needed before, to be copied.
    let mut possible = if has_index { apart.clone() } else { BTreeSet::new() };
    let lost: BTreeSet<String> = whole.iter().chain(&apart).chain(&damaged.files).cloned().collect();

    let mut server = Server::start(home);
    wait_for_control(home);
    let waiting = ids.iter().filter(|(number, id)| stays(**number) && !lost.contains(*id));
    let waiting = waiting.map(|(_, id)| id.clone()).collect();
    assert!(run(home, &["queue", "retry", "--all"]).status.success());
    arrive(&peers.stay, seed, &ids, waiting, &mut possible);
    // Mail is taken and delivered as before.
    let fresh = fill(&server, seed, 2, EACH..EACH + 50);
    let fresh_ones = |stay| fresh.iter().filter(move |(number, _)| stays(**number) == stay).map(|(_, id)| id.clone()).collect();
    let (later, now) = (fresh_ones(true), fresh_ones(false));
    ids.extend(fresh.clone());
    arrive(&peers.stay, seed, &ids, later, &mut possible);
    arrive(&peers.far, seed, &ids, now, &mut BTreeSet::new());

    set_aside(home, &server, records, records.iter().filter(|record| !has_index || record.is_whole()));
    // What the server knows of and can't read stays, with the reason, and an admin or its age decides.
    let mut left = damaged.files.clone();
    if has_index {
        left.extend(whole);
        left.extend(apart.into_iter().filter(|id| !is_finished(&mut server, id)));
    } else {
        // Their State records say that they were delivered.
        undone.iter().for_each(|id| server.finished(id));
    }
    for id in &left {
        server.event("deferred", |event| field(event, "id") == id && field(event, "reply").contains("read"));
    }
    let listed = listing(home, &["queue", "list", "--json"]);
    assert_eq!(listed.iter().map(|message| field(message, "id").to_owned()).collect::<BTreeSet<_>>(), left);
    assert_eq!(server.stop().code(), Some(0));
    let late = peers.stay.all().into_iter().all(|mail| possible.remove(maildir::queue_id(&mail.content)));
    assert!(late && peers.far.all().is_empty(), "nothing arrives twice");
    assert!(possible.is_subset(&left), "all are delivered or there");
}

#[test]
fn a_bit_flipped_in_every_thousandth_record_costs_only_those_messages() {
    let (peers, mut random) = (Peers::new(), Random::new());
    let (known, unknown) = (home(&peers.far, &peers.stay), home(&peers.far, &peers.stay));
    let seed = random.next();
    let mut ids = BTreeMap::new();
    for (compression, half) in [("none", 0..EACH / 2), ("zstd", EACH / 2..EACH)] {
        known.fragment("compression", &format!("[spool]\ncompression = \"{compression}\"\n"));
        let mut server = Server::start(&known);
        let more = fill(&server, seed, SESSIONS, half);
        for (name, stay) in [("deferred", true), ("finished", false)] {
            let mut open: BTreeSet<_> = more.iter().filter(|(number, _)| stays(**number) == stay).map(|(_, id)| id).collect();
            server.event(name, |event| {
                open.remove(&field(event, "id").to_owned());
                open.is_empty()
            });
        }
        ids.extend(more);
        assert_eq!(server.stop().code(), Some(0));
    }
    peers.far.all();
    // The servers before had them all in memory; this one puts them into the index.
    assert_eq!(Server::start(&known).stop().code(), Some(0));
    let damaged = damage(&known.at("spool"), &mut random);
    // Once more without the index: the log is read from its beginning then.
    copy(&known.at("spool"), &unknown.at("spool"));
    fs::remove_dir_all(unknown.at("spool/index")).unwrap();
    peers.gate.store(true, Ordering::SeqCst);
    deliver(&known, &peers, ids.clone(), seed, &damaged, true);
    deliver(&unknown, &peers, ids, seed, &damaged, false);
}

/// What an admin sees of the queue: states, due times, holds.
fn view(home: &Home) -> Vec<String> {
    wait_for_control(home);
    listing(home, &["queue", "list", "--json"]).iter().map(ToString::to_string).collect()
}

/// The files of a folder and those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn an_index_that_is_gone_or_garbage_costs_nothing() {
    let peer = Peer::with(|line| (line.starts_with("RCPT") || line == "DATA").then(|| "451 4.2.0 come back later".to_owned()));
    let home = home(&peer, &peer);
    pause(&home, true);
    let mut random = Random::new();
    let mut server = Server::start(&home);
    let ids: Vec<String> = fill(&server, random.next(), 4, 0..100).into_values().collect();
    wait_for_control(&home);
    // Attempted, to be attempted, held.
    assert!(run(&home, &["queue", "hold", &ids[3], &ids[77], &ids[200]]).status.success());
    assert!(run(&home, &["queue", "resume"]).status.success());
    let mut deferred = 0;
    server.event("deferred", |_| {
        deferred += 1;
        deferred == ids.len() - 3
    });
    assert!(run(&home, &["queue", "pause"]).status.success());
    fill(&server, random.next(), 4, 0..25);
    let before = view(&home);
    assert_eq!(before.len(), 500);
    for (turn, kill) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
        if kill {
            server.kill();
            server.process().wait(crate::support::PATIENCE);
        } else {
            assert_eq!(server.stop().code(), Some(0));
        }
        if turn == 0 {
            fs::remove_dir_all(home.at("spool/index")).unwrap();
        } else {
            files(&home.at("spool/index")).iter().for_each(|file| spoil(file, turn, &mut random));
        }
        server = Server::start(&home);
        assert_eq!(view(&home), before, "after turn {turn}");
        // A flipped bit may lie where nobody looks; the rest can't be overlooked.
        assert!(turn == 4 || server.events("index-rebuilt").len() == 1, "turn {turn}");
    }
    assert_eq!(server.stop().code(), Some(0));
}

/// Makes a file garbage: by random bytes, by nothing, by half of it, by a few flipped bits.
fn spoil(file: &Path, how: u32, random: &mut Random) {
    let mut bytes = fs::read(file).unwrap();
    match how {
        1 => bytes.iter_mut().for_each(|byte| *byte = random.next() as u8),
        2 => bytes.clear(),
        3 => bytes.truncate(bytes.len() / 2),
        _ => {
            for _ in 0..bytes.len().min(20) {
                let at = random.between(0, bytes.len() as u64 - 1) as usize;
                bytes[at] ^= 1 << random.between(0, 7);
            }
        }
    }
    fs::write(file, bytes).unwrap();
}
