//! Load for a server that is killed again and again: sessions that send without end and know what was answered with 250, content
//! that checks itself, and what must be true of every copy that arrives. Owns the list of what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::peer::Peer;
use crate::support::random::Random;
use crate::support::server::{Server, field, listing, run, wait_for_control};

/// Sessions that send at the same time.
pub const SESSIONS: u64 = 20;
const LINE: usize = 64;
const LINES: usize = 1 << 17;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+.";

/// The number of a message: its session and the how manieth of this session it is.
pub type Number = (u64, u64);

/// Random lines that all messages are cut from, each at a place of its own: no piece of one fits into another.
fn lines() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut random = Random::with(1);
        let mut pool = Vec::with_capacity(LINES * LINE);
        while pool.len() < LINES * LINE {
            let number = random.next();
            pool.extend((0..10).map(|at| LETTERS[(number >> (at * 6)) as usize & 63]));
            if pool.len() % LINE >= LINE - 10 {
                pool.truncate(pool.len() / LINE * LINE + LINE - 2);
                pool.extend_from_slice(b"\r\n");
            }
        }
        pool
    })
}

/// The content of a message, from 4 KiB to 5 MB, small ones more often: the same each time it is asked for.
pub fn content(seed: u64, number: Number) -> Vec<u8> {
    let mut random = Random::with(seed ^ (number.0 << 48) ^ number.1);
    let (from, to) = match random.between(0, 99) {
        0..80 => (4 << 10, 16 << 10),
        80..95 => (16 << 10, 256 << 10),
        95..99 => (256 << 10, 1 << 20),
        _ => (1 << 20, 5_000_000),
    };
    sized(seed, number, random.between(from, to) as usize)
}

/// The content of a message of about this size.
pub fn sized(seed: u64, number: Number, size: usize) -> Vec<u8> {
    let start = Random::with(seed.rotate_left(7) ^ (number.0 << 48) ^ number.1).between(0, LINES as u64 - 1) as usize;
    let mark = format!("X-Number: {}-{}\r\n", number.0, number.1);
    let mut content = format!("Subject: load\r\n{mark}\r\n").into_bytes();
    let mut left = size.saturating_sub(content.len() + mark.len()) / LINE;
    let mut at = start;
    while left > 0 {
        let count = left.min(LINES - at);
        content.extend_from_slice(&lines()[at * LINE..(at + count) * LINE]);
        left -= count;
        at = 0;
    }
    content.extend_from_slice(mark.as_bytes());
    content
}

/// What is to become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is for a mailbox here.
    Local,
    /// It is for a peer that takes it.
    Far,
    /// It is for a peer that defers it until the end: what the log has to keep and to copy.
    Stay,
}

/// The fate of a message.
pub fn fate((session, sequence): Number) -> Fate {
    match (session * 5 + sequence * 3) % 16 {
        0..7 => Fate::Local,
        7..13 => Fate::Far,
        _ => Fate::Stay,
    }
}

/// Whom a message is for.
pub fn recipient(number: Number) -> String {
    let domain = match fate(number) {
        Fate::Local => "example.test",
        Fate::Far => "far.test",
        Fate::Stay => "stay.test",
    };
    format!("u{}@{domain}", number.0)
}

/// The sessions' view of the server: which start this is, and where it listens.
#[derive(Default)]
struct Current {
    state: Mutex<(u64, Option<SocketAddr>)>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Current {
    fn set(&self, address: SocketAddr) {
        let mut state = self.state.lock().unwrap();
        *state = (state.0 + 1, Some(address));
        self.changed.notify_all();
    }

    fn stop(&self) {
        let _state = self.state.lock().unwrap();
        self.stop.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// The next start after `seen`; none: it's over.
    fn after(&self, seen: u64) -> Option<(u64, SocketAddr)> {
        let mut state = self.state.lock().unwrap();
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            if let (number, Some(address)) = *state
                && number > seen
            {
                return Some((number, address));
            }
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Sends until told to stop. Says which messages were answered with 250, and which id they got.
fn send(session: u64, seed: u64, current: &Current, answered: &Sender<(Number, String)>) -> Vec<String> {
    let (mut seen, mut sequence, mut refusals) = (0, 0, Vec::new());
    while let Some((number, address)) = current.after(seen) {
        seen = number;
        let Ok(mut connection) = Client::open(address) else { continue };
        while !current.stop.load(Ordering::SeqCst) {
            let number = (session, sequence);
            sequence += 1;
            match connection.send("load@client.test", &[&recipient(number)], &content(seed, number)) {
                Ok(reply) => answered.send((number, reply.id().to_owned())).unwrap(),
                Err(error) => {
                    // A connection that breaks is a kill; a refusal would be a fault of the server's.
                    if error.kind() == std::io::ErrorKind::Other {
                        refusals.push(error.to_string());
                    }
                    break;
                }
            }
        }
    }
    refusals
}

/// A home, two peers, and sessions that send.
pub struct Load {
    pub home: Home,
    seed: u64,
    far: Peer,
    stay: Peer,
    /// Whether the peer that defers has begun to take mail.
    open: Arc<AtomicBool>,
    current: Arc<Current>,
    sessions: Vec<JoinHandle<Vec<String>>>,
    answers: Receiver<(Number, String)>,
    /// What was answered with 250, with the id.
    pub known: BTreeMap<Number, String>,
    /// What an operator was told is held.
    held: BTreeSet<String>,
    /// What arrived: the ids of every message's copies.
    found: BTreeMap<Number, Vec<String>>,
    /// What each start of the server did.
    lives: Vec<Life>,
}

impl Load {
    /// Begins; the sessions wait for the first server.
    pub fn new(seed: u64) -> Self {
        let (far, open) = (Peer::new(), Arc::new(AtomicBool::new(false)));
        let gate = Arc::clone(&open);
        let stay = Peer::with(move |line| {
            // RCPT and DATA come in one go.
            let asks = line.starts_with("RCPT") || line == "DATA";
            (asks && !gate.load(Ordering::SeqCst)).then(|| "451 4.2.0 come back later".to_owned())
        });
        let home = Home::new(&format!(
            "[relay]\nnetworks = [\"127.0.0.1/32\"]\n[retry]\nfirst = \"2h\"\n\
             [[route]]\ndomain = \"far.test\"\nhosts = [\"{}\"]\n[[route]]\ndomain = \"stay.test\"\nhosts = [\"{}\"]\n",
            far.address(),
            stay.address()
        ));
        home.users((0..SESSIONS).map(|session| format!("u{session}@example.test")));
        let current = Arc::new(Current::default());
        let (answered, answers) = mpsc::channel();
        let sessions = (0..SESSIONS)
            .map(|session| {
                let (current, answered) = (Arc::clone(&current), answered.clone());
                thread::spawn(move || send(session, seed, &current, &answered))
            })
            .collect();
        let (known, held, found, lives) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new(), Vec::new());
        Self { home, seed, far, stay, open, current, sessions, answers, known, held, found, lives }
    }

    /// How the spool is set up from this round's start on: small segments, and every other time what is written is compressed.
    pub fn configure(&self, round: u64) {
        let compression = if round.is_multiple_of(2) { "none" } else { "zstd" };
        self.home.fragment("spool", &format!("[spool]\nsegment_size = \"1MiB\"\ncompression = \"{compression}\"\n"));
    }

    /// Lets the sessions send to a server that has started.
    pub fn go(&self, server: &Server) {
        self.current.set(server.address());
    }

    /// What happens in a round before the server is ended: in every fifth nothing, so that its start-up is cut off too.
    pub fn until_the_end(&mut self, round: u64, server: &mut Server, start_max: Duration, random: &mut Random) {
        if round % 5 == 4 {
            self.collect(0, Duration::from_millis(random.between(0, start_max.as_millis() as u64)));
            return;
        }
        server.wait_until_listening();
        self.check_queue();
        self.go(server);
        self.collect(random.between(0, 120), Duration::ZERO);
        if round % 3 == 1 {
            self.hold(random);
        }
        self.collect(random.between(0, 20), Duration::from_micros(random.between(0, 20_000)));
    }

    /// Takes what the sessions report until `count` more were answered, then waits a moment more.
    pub fn collect(&mut self, count: u64, moment: Duration) {
        for _ in 0..count {
            self.known.extend([self.answers.recv_timeout(PATIENCE).expect("the server takes mail")]);
        }
        let end = Instant::now() + moment;
        while let Ok(answer) = self.answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.known.extend([answer]);
        }
    }

    /// What was promised and can't have left the queue is in it, and held if it was.
    pub fn check_queue(&self) {
        wait_for_control(&self.home);
        let listed = listing(&self.home, &["queue", "list", "--domain", "stay.test", "--json"]);
        let listed: BTreeMap<&str, &str> = listed.iter().map(|message| (field(message, "id"), field(message, "state"))).collect();
        let stays = self.known.iter().filter(|(number, _)| fate(**number) == Fate::Stay);
        let lost: Vec<_> = stays.filter(|(_, id)| !listed.contains_key(id.as_str())).collect();
        assert!(lost.is_empty(), "not in the queue any more: {lost:?}");
        let free: Vec<_> = self.held.iter().filter(|id| listed.get(id.as_str()) != Some(&"held")).collect();
        assert!(free.is_empty(), "not held any more: {free:?}");
    }

    /// Has one of the messages that stay held.
    pub fn hold(&mut self, random: &mut Random) {
        let stays: Vec<&String> =
            self.known.iter().filter(|(number, _)| fate(**number) == Fate::Stay).map(|(_, id)| id).collect();
        if stays.is_empty() {
            return;
        }
        let id = stays[random.between(0, stays.len() as u64 - 1) as usize].clone();
        let output = run(&self.home, &["queue", "hold", &id]);
        assert!(output.status.success(), "hold {id}: {output:?}");
        self.held.insert(id);
    }

    /// The server's life has ended just now: keeps what it did, and reads what the peer got.
    pub fn ended(&mut self, server: &Server, ended: OffsetDateTime) {
        self.lives.push(Life::of(server, ended));
        self.read_peers();
    }

    /// What `spool check` finds damaged after the server's end.
    pub fn damage(&self) -> Vec<String> {
        let output = run(&self.home, &["spool", "check", "--json"]);
        let text = String::from_utf8(output.stdout).expect("a report is UTF-8");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
        let damage = lines.iter().filter(|line| field(line, "level") == "damage");
        let damage: Vec<String> = damage.map(|line| format!("{} {line}", field(line, "finding"))).collect();
        let sound = if damage.is_empty() { Some(0) } else { Some(65) };
        assert!(output.status.code() == sound && lines.last().is_some_and(|line| field(line, "type") == "summary"), "{text}");
        damage
    }

    fn read_peers(&mut self) {
        for mail in self.far.all().into_iter().chain(self.stay.all()) {
            let number = number(&mail.content);
            assert_eq!(maildir::above(&mail.content, &content(self.seed, number)).names(), ["Received"]);
            assert_eq!(mail.to, [recipient(number)]);
            self.found.entry(number).or_default().push(maildir::queue_id(&mail.content).to_owned());
        }
    }

    fn read_maildirs(&mut self) {
        for session in 0..SESSIONS {
            for file in maildir::files(&self.home.maildir(&format!("u{session}"))) {
                let message = fs::read(&file).unwrap();
                let number = number(&message);
                let fields = maildir::assert_content(&message, &content(self.seed, number));
                assert_eq!(fields.get("Delivered-To"), recipient(number));
                self.found.entry(number).or_default().push(maildir::queue_id(&message).to_owned());
            }
        }
    }

    /// Ends the load on a running server, has everything delivered that was kept, and checks every copy. `near`: how shortly before
    /// the end of a life a message must have been delivered to be attempted again.
    pub fn finish(&mut self, server: &mut Server, near: Duration) -> Figures {
        self.current.stop();
        let refusals: Vec<String> = self.sessions.drain(..).flat_map(|session| session.join().unwrap()).collect();
        assert!(refusals.is_empty(), "refused: {refusals:?}");
        self.known.extend(self.answers.try_iter());
        self.check_queue();
        let log = fs::read_dir(self.home.at("spool/log")).unwrap().filter_map(|entry| segment(&entry.unwrap().path()));
        let oldest = log.min().expect("a log has segments");
        self.open.store(true, Ordering::SeqCst);
        for verb in ["release", "retry"] {
            let output = run(&self.home, &["queue", verb, "--all"]);
            assert!(output.status.success(), "{verb}: {output:?}");
        }
        wait_until_empty(&self.home);
        self.ended(server, OffsetDateTime::now_utc());
        self.read_maildirs();
        assert_eq!(server.stop().code(), Some(0));
        self.check(near, oldest)
    }

    fn check(&self, near: Duration, oldest_segment: u64) -> Figures {
        let lost: Vec<_> = self.known.iter().filter(|(number, _)| !self.found.contains_key(number)).collect();
        assert!(lost.is_empty(), "{} of {} messages that got 250 are lost: {lost:?}", lost.len(), self.known.len());
        for (number, copies) in &self.found {
            let id = self.known.get(number).unwrap_or(&copies[0]);
            assert!(copies.iter().all(|copy| copy == id), "one message, one id: {id}, {copies:?}");
            self.check_copies(*number, id, copies.len(), near);
        }
        let bytes: u64 = self.known.keys().map(|number| content(self.seed, *number).len() as u64).sum();
        Figures {
            answered: self.known.len(),
            megabytes: bytes / 1_000_000,
            unheard: self.found.len() - self.known.len(),
            stayed: self.known.keys().filter(|number| fate(**number) == Fate::Stay).count(),
            held: self.held.len(),
            twice: self.found.values().filter(|copies| copies.len() > 1).count(),
            met: self.lives.iter().map(|life| life.attempted.keys().filter(|id| !life.settled.contains(*id)).count()).sum(),
            oldest_segment,
        }
    }

    /// A message is delivered once in a server's life, and attempted again in the next only if the end was near.
    fn check_copies(&self, number: Number, id: &str, copies: usize, near: Duration) {
        let tried: Vec<&Life> = self.lives.iter().filter(|life| life.attempted.contains_key(id)).collect();
        assert!(copies <= tried.len(), "{id} was delivered {copies} times in {} lives", tried.len());
        for (at, life) in tried.iter().enumerate() {
            let last = at + 1 == tried.len();
            // What stays is retried by hand in the last life.
            let times = if last && fate(number) == Fate::Stay { 2 } else { 1 };
            assert!(life.attempted[id] <= times, "{id} was attempted {} times without a kill", life.attempted[id]);
            if let (Some(delivered), false) = (life.delivered.get(id), last) {
                let before = life.ended - *delivered;
                assert!(before < near, "{id} was attempted again though it was delivered {before} before the kill");
            }
        }
    }
}

/// What a run did.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
pub struct Figures {
    /// Messages that got 250; all were found undamaged.
    pub answered: usize,
    /// Their size in all.
    pub megabytes: u64,
    /// Messages taken without the session hearing of it.
    pub unheard: usize,
    /// Messages that stayed in the queue to the end.
    pub stayed: usize,
    /// Those of them that were held.
    pub held: usize,
    /// Messages with more than one copy.
    pub twice: usize,
    /// Attempts whose end the server didn't live to see.
    pub met: usize,
    /// The oldest segment at the end: all before it were released.
    pub oldest_segment: u64,
}

/// What one start of the server did until its end.
struct Life {
    /// How often each message was attempted, by its id.
    attempted: BTreeMap<String, usize>,
    /// When it was delivered.
    delivered: BTreeMap<String, OffsetDateTime>,
    /// Those of which an attempt's end was seen.
    settled: BTreeSet<String>,
    ended: OffsetDateTime,
}

impl Life {
    fn of(server: &Server, ended: OffsetDateTime) -> Self {
        let mut life = Self { attempted: BTreeMap::new(), delivered: BTreeMap::new(), settled: BTreeSet::new(), ended };
        for event in server.all_events() {
            let id = field(&event, "id").to_owned();
            match field(&event, "event") {
                "attempting" => *life.attempted.entry(id).or_default() += 1,
                "delivered" => {
                    let time = OffsetDateTime::parse(field(&event, "time"), &Rfc3339).expect("every event has its time");
                    life.settled.insert(id.clone());
                    life.delivered.insert(id, time);
                }
                "deferred" => {
                    life.settled.insert(id);
                }
                _ => {}
            }
        }
        life
    }
}

fn segment(path: &std::path::Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".seg")?.parse().ok()
}

/// Waits until the queue of a running server is empty.
pub fn wait_until_empty(home: &Home) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<Value> = listing(home, &["queue", "list", "--json", "--limit", "3"]);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "the queue doesn't drain: {left:?}");
        thread::yield_now();
    }
}

/// The number that a message bears.
pub fn number(message: &[u8]) -> Number {
    let text = String::from_utf8_lossy(&message[..message.len().min(1000)]);
    let line = text.lines().find_map(|line| line.strip_prefix("X-Number: ")).expect("every message has its number");
    let (session, sequence) = line.split_once('-').expect("two numbers");
    (session.parse().unwrap(), sequence.parse().unwrap())
}
