//! Damage on disk: a bit flipped in every thousandth record, an index that is gone or garbage. The damaged records are set aside,
//! all the rest is delivered as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::load::{Number, number, sized, wait_until_empty};
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::random::Random;
use crate::support::server::{Server, field, listing, run, wait_for_control};

const SESSIONS: u64 = 8;
/// Messages a session.
const EACH: u64 = 650;
/// Every record of this number is damaged.
const DAMAGED: usize = 1000;
const HEADER: u64 = 40;

/// A home whose mail goes to a peer, from a log of small segments.
fn home(peer: &Peer) -> Home {
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n[[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n",
        peer.address()
    ));
    home.fragment("size", "[spool]\nsegment_size = \"1MiB\"\n");
    pause(&home, true);
    home
}

fn pause(home: &Home, paused: bool) {
    home.fragment("paused", &format!("[queue]\npaused = {paused}\n"));
}

fn size(number: Number) -> usize {
    1024 + (number.0 * 37 + number.1 * 101) as usize % 2048
}

/// Sends messages from several sessions at once; says which id each got.
fn fill(server: &Server, seed: u64, sessions: u64, each: u64) -> BTreeMap<Number, String> {
    let address = server.address();
    let sessions: Vec<_> = (0..sessions)
        .map(|session| {
            thread::spawn(move || {
                let mut client = Client::open(address).unwrap();
                let send = |sequence| {
                    let number = (session, sequence);
                    let reply = client.send("load@client.test", &["u@far.test"], &sized(seed, number, size(number))).unwrap();
                    (number, reply.id().to_owned())
                };
                (0..each).map(send).collect::<Vec<_>>()
            })
        })
        .collect();
    sessions.into_iter().flat_map(|session| session.join().unwrap()).collect()
}

/// An Accept record, found by docs/spool.md alone.
#[derive(Clone, Debug)]
struct Accepted {
    path: PathBuf,
    segment: u64,
    offset: u64,
    content: u64,
    description: u64,
}

impl Accepted {
    fn size(&self) -> u64 {
        HEADER + self.content + self.description
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()[self.offset as usize..][..self.size() as usize].to_vec()
    }
}

/// A record that was damaged: segment, offset, and what lies there now.
type Damaged = (u64, u64, Vec<u8>);

/// The Accept records of a log that count, in order, and its segments.
fn read_log(spool: &Path) -> (Vec<Accepted>, Vec<PathBuf>) {
    let mut segments: Vec<PathBuf> = fs::read_dir(spool.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let mut accepted = BTreeMap::new();
    for path in &segments {
        let segment = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let bytes = fs::read(path).unwrap();
        let mut offset = 4096;
        while bytes.get(offset..offset + 4) == Some(b"\xf5PHR") {
            let length = |at: usize| u32::from_le_bytes(bytes[offset + at..offset + at + 4].try_into().unwrap());
            let (description, content) = (u64::from(length(8)), u64::from(length(12)));
            let record = Accepted { path: path.clone(), segment, offset: offset as u64, content, description };
            if bytes[offset + 5] == 1 {
                // A later one replaces what was known.
                accepted.insert(bytes[offset + 24..offset + 32].to_vec(), record.clone());
            }
            offset += record.size() as usize;
        }
    }
    let mut accepted: Vec<Accepted> = accepted.into_values().collect();
    accepted.sort_by_key(|record| (record.segment, record.offset));
    (accepted, segments)
}

fn flip(path: &Path, byte: u64, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte as usize] ^= 1 << random.between(0, 7);
    fs::write(path, bytes).unwrap();
}

/// Flips a bit in every thousandth record: in its content, its description, its header by turns; and one in a segment's header.
fn damage(spool: &Path, random: &mut Random) -> Vec<Damaged> {
    let (accepted, segments) = read_log(spool);
    assert_eq!(accepted.len() as u64, SESSIONS * EACH);
    let damaged: Vec<Accepted> = accepted.into_iter().skip(DAMAGED / 2).step_by(DAMAGED).collect();
    for (turn, record) in damaged.iter().enumerate() {
        let (from, size) = match turn % 3 {
            0 => (HEADER, record.content),
            1 => (HEADER + record.content, record.description),
            _ => (0, HEADER),
        };
        flip(&record.path, record.offset + from + random.between(0, size - 1), random);
    }
    flip(&segments[segments.len() / 2], random.between(0, 71), random);
    damaged.iter().map(|record| (record.segment, record.offset, record.bytes())).collect()
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

/// Starts a server on a damaged spool, and checks what becomes of every message.
fn deliver(home: &Home, peer: &Peer, seed: u64, ids: &BTreeMap<Number, String>, damaged: &[Damaged]) -> Server {
    let server = Server::start(home);
    let mut arrived = BTreeSet::new();
    while arrived.len() < ids.len() - damaged.len() {
        let mail = peer.next();
        let number = number(&mail.content);
        maildir::above(&mail.content, &sized(seed, number, size(number)));
        assert_eq!(maildir::queue_id(&mail.content), ids[&number]);
        assert!(arrived.insert(number), "{number:?} arrived twice");
    }
    let mut places = BTreeSet::new();
    server.event("quarantined", |event| {
        let number = |name: &str| event[name].as_u64().unwrap();
        let kept = fs::read(home.at("spool").join(field(event, "path"))).unwrap();
        assert_eq!(kept.len() as u64, number("bytes"));
        places.insert((number("segment"), number("offset"), kept));
        places.len() == damaged.len()
    });
    // Nothing else is quarantined, and the copies are what lay there.
    assert_eq!(places, damaged.iter().cloned().collect());
    server
}

#[test]
fn a_bit_flipped_in_every_thousandth_record_costs_only_those_messages() {
    let (peer, mut random) = (Peer::new(), Random::new());
    let (known, unknown) = (home(&peer), home(&peer));
    let seed = random.next();
    let mut server = Server::start(&known);
    let ids = fill(&server, seed, SESSIONS, EACH);
    assert_eq!(server.stop().code(), Some(0));
    // The first server had them all in memory; the second puts them into the index.
    assert_eq!(Server::start(&known).stop().code(), Some(0));
    let damaged = damage(&known.at("spool"), &mut random);
    // Once more without the index: the log is read from its beginning then.
    copy(&known.at("spool"), &unknown.at("spool"));
    fs::remove_dir_all(unknown.at("spool/index")).unwrap();
    pause(&known, false);
    pause(&unknown, false);

    let mut server = deliver(&known, &peer, seed, &ids, &damaged);
    // The index knows the damaged ones: they stay, with the reason, and an admin or their age decides.
    let left = listing(&known, &["queue", "list", "--json"]);
    assert_eq!(left.len(), damaged.len(), "{left:?}");
    assert_eq!(server.stop().code(), Some(0));

    let mut server = deliver(&unknown, &peer, seed, &ids, &damaged);
    wait_until_empty(&unknown);
    assert_eq!(server.stop().code(), Some(0));
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
    let home = home(&peer);
    let mut random = Random::new();
    let mut server = Server::start(&home);
    let ids: Vec<String> = fill(&server, random.next(), 4, 100).into_values().collect();
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
    fill(&server, random.next(), 4, 25);
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
