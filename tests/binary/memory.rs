//! Large messages, many at once, in and out: what a session costs in memory while all are half-way, and at the most. In bytes of
//! anonymous memory, from `/proc`. `POSTHOUSE_LARGE` says how many megabytes a message has; six if it isn't set.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::random::Random;
use crate::support::server::{Server, run, wait_for_control};

/// Messages at the same time.
const SESSIONS: usize = 60;
/// What one of them may cost,
const SESSION_MAX: u64 = 256 << 10;
/// and for a moment: on a busy machine threads and their allocators hold more, which isn't the sessions'.
const MOMENT_MAX: u64 = 2 * SESSION_MAX;
const LINE: usize = 64;
const HEADER: &[u8] = b"Subject: large\r\n\r\n";

/// Lines that compression saves a quarter of, as of pictures in mail: worse than nothing for its memory.
fn lines() -> Vec<u8> {
    let mut random = Random::with(1);
    let mut lines = Vec::with_capacity(1 << 20);
    while lines.len() < 1 << 20 {
        lines.extend(
            (0..LINE - 2)
                .map(|_| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[random.next() as usize & 63]),
        );
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// A server's anonymous memory, and the most of it that was seen since.
struct Watch {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    pid: u32,
    before: u64,
}

fn anonymous(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

impl Watch {
    fn new(pid: u32) -> Self {
        let (peak, stop, before) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), anonymous(pid).unwrap());
        let (seen, ended) = (Arc::clone(&peak), Arc::clone(&stop));
        thread::spawn(move || {
            while !ended.load(Ordering::SeqCst)
                && let Some(now) = anonymous(pid)
            {
                seen.fetch_max(now, Ordering::SeqCst);
                thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self { peak, stop, pid, before }
    }

    /// What a session costs now.
    fn each(&self) -> u64 {
        anonymous(self.pid).unwrap().saturating_sub(self.before) / SESSIONS as u64
    }

    /// What it cost at the most.
    fn most(&self) -> u64 {
        self.peak.load(Ordering::SeqCst).saturating_sub(self.before) / SESSIONS as u64
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Sends one message of so many lines; half-way it waits for all others, and for the one who looks.
fn upload(address: SocketAddr, session: usize, lines: &[u8], size: usize, halves: &Barrier) -> io::Result<()> {
    let mut client = Client::open(address)?;
    client.envelope("large@client.test", &[&format!("u@far{session}.test")])?;
    client.write(HEADER)?;
    for half in 0..2 {
        let mut left = size / 2;
        while left > 0 {
            let piece = left.min(lines.len());
            client.write(&lines[..piece])?;
            left -= piece;
        }
        if half == 0 {
            halves.wait();
            halves.wait();
        }
    }
    client.write(b".\r\n")?;
    client.expect(250).map(drop)
}

/// A next hop, or as many as this machine has loopback addresses, that stops reading half-way through each message until told to
/// go on.
struct Hop {
    port: u16,
    state: Arc<(Mutex<HopState>, Condvar)>,
}

#[derive(Default)]
struct HopState {
    half: usize,
    open: bool,
    /// The octets of each message.
    taken: Vec<u64>,
}

impl Hop {
    fn new(half: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Arc<(Mutex<HopState>, Condvar)> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || take(stream, half, &shared).ok());
            }
        });
        Self { port, state }
    }

    fn wait(&self, what: &str, fits: impl Fn(&HopState) -> bool) {
        let (state, changed) = (self.state.0.lock().unwrap(), &self.state.1);
        let waited = changed.wait_timeout_while(state, PATIENCE, |state| !fits(state)).unwrap().1;
        assert!(!waited.timed_out(), "{what}: not in time");
    }

    fn open(&self) {
        self.state.0.lock().unwrap().open = true;
        self.state.1.notify_all();
    }
}

fn take(stream: TcpStream, half: u64, (state, changed): &(Mutex<HopState>, Condvar)) -> io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    out.write_all(b"220 hop.test\r\n")?;
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if line.starts_with(b"DATA") {
            out.write_all(b"354 go on\r\n")?;
            let (mut octets, mut waits) = (0, true);
            loop {
                line.clear();
                octets += input.read_until(b'\n', &mut line)? as u64;
                if line == b".\r\n" {
                    break;
                }
                if waits && octets >= half {
                    waits = false;
                    let mut now = state.lock().unwrap();
                    now.half += 1;
                    changed.notify_all();
                    drop(changed.wait_while(now, |now| !now.open).unwrap());
                }
            }
            state.lock().unwrap().taken.push(octets);
            changed.notify_all();
        }
        out.write_all(if line.starts_with(b"QUIT") { b"221 bye\r\n" } else { b"250 ok\r\n" })?;
        line.clear();
    }
    Ok(())
}

/// Waits until the content that lies in files has so many bytes, of each message.
fn wait_until_kept(home: &Home, each: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = fs::read_dir(home.at("spool/content")).unwrap();
        let sizes = files.map(|entry| entry.unwrap().metadata().map_or(0, |about| about.len()));
        if sizes.filter(|size| *size >= each).count() == SESSIONS {
            return;
        }
        assert!(Instant::now() < deadline, "the content doesn't come in");
        thread::yield_now();
    }
}

/// What the server takes once isn't a session's: compressors, threads. Some messages that are delivered before the measurement.
fn warm_up(server: &Server, lines: &[u8]) {
    let send = || server.client().send("warm@client.test", &["ann@example.test"], &[HEADER, lines].concat()).unwrap();
    let ids: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        all.into_iter().map(|one| one.join().unwrap().id().to_owned()).collect()
    });
    ids.iter().for_each(|id| server.finished(id));
}

fn large_messages_cost_a_session_little(compression: &str) {
    let megabytes: usize =
        std::env::var("POSTHOUSE_LARGE").map_or(6, |count| count.parse().expect("POSTHOUSE_LARGE is a number"));
    let (lines, size) = (Arc::new(lines()), (megabytes * 1_000_000) / (2 * LINE) * (2 * LINE));
    let hop = Hop::new(size as u64 / 2);
    // Each message has a destination of its own: one that has proved nothing yet gets few connections.
    let route = |n| format!("[[route]]\ndomain = \"far{n}.test\"\nhosts = [\"127.0.0.{}:{}\"]\n", n + 1, hop.port);
    let routes: String = (0..SESSIONS).map(route).collect();
    let home = Home::new(&format!(
        "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[limits]\nmessage_size = \"1GiB\"\nin_flight = \"100GiB\"\n\
         in_flight_per_network = \"100GiB\"\n{routes}"
    ));
    home.fragment("spool", &format!("[spool]\ncompression = \"{compression}\"\n"));
    let mut server = Server::start(&home);
    wait_for_control(&home);
    warm_up(&server, &lines);
    assert!(run(&home, &["queue", "pause"]).status.success());

    let watch = Watch::new(server.process().pid());
    let (halves, address) = (Arc::new(Barrier::new(SESSIONS + 1)), server.address());
    let uploads: Vec<_> = (0..SESSIONS)
        .map(|session| {
            let (lines, halves) = (Arc::clone(&lines), Arc::clone(&halves));
            thread::spawn(move || upload(address, session, &lines, size, &halves))
        })
        .collect();
    halves.wait();
    // Compression saves a quarter.
    wait_until_kept(&home, size as u64 / 2 * 7 / 10 - (256 << 10));
    let half = watch.each();
    halves.wait();
    uploads.into_iter().for_each(|upload| upload.join().unwrap().unwrap());
    let most = watch.most();
    drop(watch);
    eprintln!("{compression}, {SESSIONS} times {megabytes} MB in: {half} bytes a session half-way, {most} at the most");
    assert!(half < SESSION_MAX && most < MOMENT_MAX, "in: {half} half-way, {most} at the most");

    let watch = Watch::new(server.process().pid());
    assert!(run(&home, &["queue", "resume"]).status.success());
    hop.wait("all are half-way", |state| state.half == SESSIONS);
    let half = watch.each();
    hop.open();
    hop.wait("all are delivered", |state| state.taken.len() == SESSIONS);
    let most = watch.most();
    eprintln!("{compression}, {SESSIONS} times {megabytes} MB out: {half} bytes a message half-way, {most} at the most");
    assert!(half < SESSION_MAX && most < MOMENT_MAX, "out: {half} half-way, {most} at the most");
    let whole = (HEADER.len() + size) as u64;
    assert!(hop.state.0.lock().unwrap().taken.iter().all(|octets| *octets > whole), "with our Received field");
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn large_messages_cost_a_session_little_as_received() {
    large_messages_cost_a_session_little("none");
}

#[test]
fn large_messages_cost_a_session_little_compressed() {
    large_messages_cost_a_session_little("zstd");
}
