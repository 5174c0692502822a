//! Fuzzed dialogues with the real binary: random commands in random order, whole, broken, cut up and cut off, on many connections at
//! a time. `POSTHOUSE_FUZZ_FOR=30m` says for how long (two seconds in a plain run), `POSTHOUSE_SEED` repeats a run's decisions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::polite::Polite;
use super::{assert_sound, memory, server};
use crate::support::random::Random;

/// Connections at a time.
const THREADS: u64 = 8;
/// Memory may grow by so much in the course of it: allocators keep some of what was used once.
const GROWTH_MAX: u64 = 64 << 20;

/// What clients say, rightly and wrongly.
const PIECES: [&[u8]; 64] = [
    b"EHLO client.test\r\n",
    b"HELO client.test\r\n",
    b"LHLO client.test\r\n",
    b"EHLO [127.0.0.1]\r\n",
    b"EHLO \xff\xfe\r\n",
    b"MAIL FROM:<ann@sender.test>\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<ann@sender.test> SIZE=100 BODY=8BITMIME\r\n",
    b"MAIL FROM:<ann@sender.test> BODY=BINARYMIME\r\n",
    b"MAIL FROM:<ann@sender.test> SMTPUTF8 RET=HDRS ENVID=x+2By\r\n",
    b"MAIL FROM:<j\xc3\xbcrgen@sender.test> SMTPUTF8\r\n",
    b"MAIL FROM:<ann@sender.test> REQUIRETLS BY=100;R MT-PRIORITY=3 HOLDFOR=10\r\n",
    b"MAIL FROM:<ann@sender.test> SIZE=99999999999999999999\r\n",
    b"MAIL FROM:<@a,@b:ann@sender.test>\r\n",
    b"MAIL FROM:<\"a\\\"b\"@sender.test>\r\n",
    b"RCPT TO:<ann@example.test>\r\n",
    b"RCPT TO:<bob+tag@example.test>\r\n",
    b"RCPT TO:<ann@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@x.test\r\n",
    b"RCPT TO:<ann@example.test> NOTIFY=NEVER,FAILURE\r\n",
    b"RCPT TO:<nobody@example.test>\r\n",
    b"RCPT TO:<ann@elsewhere.test>\r\n",
    b"RCPT TO:<postmaster>\r\n",
    b"RCPT TO:<>\r\n",
    b"DATA\r\n",
    b"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
    b"BDAT 5\r\nhello",
    b"BDAT 7 LAST\r\nhello\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 99999999999999999999 LAST\r\n",
    b"BDAT -1\r\n",
    b"BDAT 100000\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"NOOP \x00\x01\x02\r\n",
    b"HELP\r\n",
    b"VRFY ann\r\n",
    b"EXPN ann\r\n",
    b"STARTTLS\r\n",
    b"STARTTLS\r\nEHLO injected.test\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"AUTH PLAIN\r\n",
    b"AUTH PLAIN AGFubgBwYXNz\r\n",
    b"AUTH LOGIN\r\n",
    b"AUTH SCRAM-SHA-256 biwsbj1hbm4scj14\r\n",
    b"YW5u\r\n",
    b"*\r\n",
    b"XCLIENT ADDR=192.0.2.1 NAME=x.test\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"Subject: x\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\r\n..\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\xff\xff\xff\xff",
    b" ",
    b"text of a message\r\n",
    b"QUIT\r\n",
];

/// How long the dialogues go on.
fn duration() -> Duration {
    let text = std::env::var("POSTHOUSE_FUZZ_FOR").unwrap_or_default();
    posthouse::config::parse_duration(&text).unwrap_or(Duration::from_secs(2))
}

#[test]
fn no_dialogue_breaks_the_server() {
    // Quick to give up on who stops in the middle, and with room for many connections, one after the other.
    let (_home, mut server) =
        server("command_timeout = \"2s\"\nhello_timeout = \"2s\"\ndata_timeout = \"4s\"\nmessage_size = \"1MiB\"");
    let mut random = Random::new();
    let polite = Polite::start(server.address());
    let (address, end) = (server.address(), Instant::now() + duration());
    let warm = Instant::now() + duration() / 10;
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let random = Random::with(random.next());
            thread::spawn(move || talk(address, random, end))
        })
        .collect();
    thread::park_timeout(warm.saturating_duration_since(Instant::now()));
    let before = memory(&mut server);
    let dialogues: u64 = threads.into_iter().map(|thread| thread.join().expect("a client doesn't panic")).sum();
    let after = memory(&mut server);
    eprintln!("{dialogues} dialogues in {:?}; memory {} KiB, then {} KiB", duration(), before / 1024, after / 1024);
    polite.end();
    assert_sound(&mut server);
    assert!(dialogues > 0);
    assert!(after.saturating_sub(before) < GROWTH_MAX, "{before} octets, then {after}");
    assert_eq!(server.stop().code(), Some(0));
}

/// Holds one dialogue after the other; returns how many.
fn talk(address: SocketAddr, mut random: Random, end: Instant) -> u64 {
    let mut dialogues = 0;
    while Instant::now() < end {
        // Whatever the server does to a connection is right, as long as it goes on.
        let _ = dialogue(address, &mut random);
        dialogues += 1;
    }
    dialogues
}

fn dialogue(address: SocketAddr, random: &mut Random) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    let waits = random.between(0, 3) > 0;
    if waits {
        read(&mut stream)?;
    }
    if random.between(0, 3) > 0 {
        stream.write_all(b"EHLO client.test\r\nMAIL FROM:<ann@sender.test>\r\nRCPT TO:<ann@example.test>\r\n")?;
    }
    for _ in 0..random.between(1, 40) {
        let octets = piece(random);
        // Whole, or in two parts.
        let cut = random.between(0, octets.len() as u64) as usize;
        for part in [&octets[..cut], &octets[cut..]] {
            stream.write_all(part)?;
        }
        if waits && random.between(0, 3) == 0 {
            read(&mut stream)?;
        }
    }
    if random.between(0, 1) == 0 {
        stream.write_all(b"\r\n.\r\nQUIT\r\n")?;
        while stream.read(&mut [0; 4096])? > 0 {}
    }
    Ok(())
}

/// A piece as it stands, or changed in one place, or repeated, or noise.
fn piece(random: &mut Random) -> Vec<u8> {
    let mut octets = PIECES[random.between(0, PIECES.len() as u64 - 1) as usize].to_vec();
    match random.between(0, 9) {
        0 => {
            let at = random.between(0, octets.len() as u64 - 1) as usize;
            octets[at] = random.next() as u8;
        }
        1 => {
            let at = random.between(0, octets.len() as u64) as usize;
            octets.truncate(at);
        }
        2 => octets = octets.repeat(random.between(1, 300) as usize),
        3 => octets = (0..random.between(1, 5000)).map(|_| random.next() as u8).collect(),
        _ => {}
    }
    octets
}

/// Reads what has come; nothing within the time-out is fine.
fn read(stream: &mut TcpStream) -> std::io::Result<()> {
    match stream.read(&mut [0; 4096]) {
        Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
