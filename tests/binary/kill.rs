//! kill -9 under load from ten clients, twenty times: what was answered with 250 is delivered, once or around a kill twice, undamaged.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::home::Home;
use crate::support::maildir;
use crate::support::random::Random;
use crate::support::server::{Server, listing};

const CLIENTS: u64 = 10;
const KILLS: u64 = 20;
/// A message is delivered again only if its delivery was this shortly before a kill: the record of it was not yet on disk.
const NEAR: Duration = Duration::from_secs(2);

/// The clients' view of the server: which start this is, and where it listens.
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

/// The number of a message: its client and the how manieth of this client it is.
type Number = (u64, u64);

/// The content of a message: the same each time it is asked for.
fn content(seed: u64, number: Number) -> Vec<u8> {
    let mut random = Random::with(seed ^ (number.0 << 48) ^ number.1);
    // From 1 KiB to 300 KiB, small ones more often: both sides of the limit above which content has a file of its own.
    let bits = random.between(10, 18);
    let size = random.between(1 << bits, ((1 << (bits + 1)) - 1).min(300 * 1024)) as usize;
    let mut content = format!("Subject: load\r\nX-Number: {}-{}\r\n\r\n", number.0, number.1).into_bytes();
    while content.len() < size {
        content.extend_from_slice(format!("{:016x}.{:016x}\r\n", random.next(), random.next()).as_bytes());
    }
    content
}

/// Sends until told to stop. Says which messages were answered with 250.
fn send(client: u64, seed: u64, current: &Current, answered: &Sender<Number>) -> Vec<String> {
    let (mut seen, mut sequence, mut refusals) = (0, 0, Vec::new());
    while let Some((number, address)) = current.after(seen) {
        seen = number;
        let Ok(mut connection) = Client::open(address) else { continue };
        while !current.stop.load(Ordering::SeqCst) {
            let number = (client, sequence);
            sequence += 1;
            match connection.send("load@client.test", &[&format!("u{client}@example.test")], &content(seed, number)) {
                Ok(_) => answered.send(number).unwrap(),
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

/// Takes what clients report until `count` more were answered, then waits a moment more.
fn collect(answers: &Receiver<Number>, known: &mut Vec<Number>, count: u64, moment: Duration) {
    for _ in 0..count {
        known.push(answers.recv_timeout(PATIENCE).expect("the server takes mail"));
    }
    let end = Instant::now() + moment;
    while let Ok(number) = answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
        known.push(number);
    }
}

#[test]
fn every_message_that_got_250_outlives_twenty_kills_under_load() {
    let mut random = Random::new();
    let seed = random.next();
    let home = Home::new("");
    home.users((0..CLIENTS).map(|client| format!("u{client}@example.test")));
    let current = Arc::new(Current::default());
    let (answered, answers) = mpsc::channel();
    let clients: Vec<JoinHandle<Vec<String>>> = (0..CLIENTS)
        .map(|client| {
            let (current, answered) = (Arc::clone(&current), answered.clone());
            thread::spawn(move || send(client, seed, &current, &answered))
        })
        .collect();

    let (mut known, mut kills) = (Vec::new(), Vec::new());
    for round in 0..KILLS {
        let mut server = Server::launch(&home);
        if round % 5 == 4 {
            // While it starts: recovery itself is killed too.
            collect(&answers, &mut known, 0, Duration::from_millis(random.between(0, 60)));
        } else {
            server.wait_until_listening();
            current.set(server.address());
            let moment = Duration::from_micros(random.between(0, 20_000));
            collect(&answers, &mut known, random.between(0, 90), moment);
        }
        kills.push(SystemTime::now());
        server.kill();
    }
    let server = Server::start(&home);
    current.set(server.address());
    collect(&answers, &mut known, 50, Duration::ZERO);
    current.stop();
    let refusals: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(refusals.is_empty(), "refused: {refusals:?}");
    known.extend(answers.try_iter());
    wait_until_empty(&home);

    let found = read(&home, seed);
    let lost: Vec<&Number> = known.iter().filter(|number| !found.contains_key(number)).collect();
    assert!(lost.is_empty(), "{} of {} messages that got 250 are lost: {lost:?}", lost.len(), known.len());
    let twice = found.values().filter(|copies| copies.len() > 1).count();
    eprintln!(
        "{KILLS} kills: {} messages got 250, all found undamaged; {} more were taken without the client hearing of it; {twice} delivered more than once",
        known.len(),
        found.len() - known.len(),
    );
    for (number, copies) in &found {
        for pair in copies.windows(2) {
            let kill = kills.iter().find(|kill| **kill >= pair[0]);
            let near = kill.is_some_and(|kill| kill.duration_since(pair[0]).unwrap() < NEAR && *kill <= pair[1]);
            assert!(
                near,
                "{number:?} was delivered twice, {:?} apart, without a kill just behind the first",
                pair[1].duration_since(pair[0])
            );
        }
    }
}

fn wait_until_empty(home: &Home) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = listing(home, &["queue", "list", "--json"]);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "the queue doesn't drain: {left:?}");
        thread::yield_now();
    }
}

/// Every message in the Maildirs, with the times of its copies in order. Each is compared with what was sent.
fn read(home: &Home, seed: u64) -> BTreeMap<Number, Vec<SystemTime>> {
    let mut found: BTreeMap<Number, Vec<SystemTime>> = BTreeMap::new();
    for client in 0..CLIENTS {
        for file in maildir::files(&home.maildir(&format!("u{client}"))) {
            let message = fs::read(&file).unwrap();
            let text = String::from_utf8_lossy(&message);
            let line = text.lines().find_map(|line| line.strip_prefix("X-Number: ")).expect("every message has its number");
            let (_, sequence) = line.split_once('-').expect("two numbers");
            let number = (client, sequence.parse().unwrap());
            maildir::assert_content(&message, &content(seed, number));
            found.entry(number).or_default().push(fs::metadata(&file).unwrap().modified().unwrap());
        }
    }
    found.values_mut().for_each(|copies| copies.sort());
    found
}
