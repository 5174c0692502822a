//! Single letters beside another sender's bulk: how long each takes from the 250 that its sender got to the next hop's, on an idle
//! server and with so much bulk in the queue for the same next hop; and how many connections the next hop saw.
//!
//! `cargo bench --bench fairness`. Settings by environment: `FAIRNESS_PROGRAM` (the server; default: this package's), `FAIRNESS_DIR` (default:
//! `target/fairness`, made anew), `FAIRNESS_BULK` (1,000,000 messages), `FAIRNESS_LETTERS` (2000), `FAIRNESS_GAP` (10 ms between letters).
//! Senders and next hop are threads of this process; letters come from another network than the bulk.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't set itself up has failed")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The bulk comes in over so many sessions.
const SESSIONS: usize = 8;
/// Octets of content.
const SIZE: usize = 4096;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The next hop: says yes to everything, and knows when it did.
struct Hop {
    address: SocketAddr,
    taken: AtomicUsize,
    connections: AtomicUsize,
    letters: Vec<Mutex<Option<Instant>>>,
}

impl Hop {
    fn start(letters: usize) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hop = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            taken: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            letters: (0..letters).map(|_| Mutex::new(None)).collect(),
        });
        let accepting = Arc::clone(&hop);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let hop = Arc::clone(&accepting);
                hop.connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || hop.serve(&stream.unwrap()));
            }
        });
        hop
    }

    /// One connection, until its end. The sender may pipeline: what is answered is written once all that came is read.
    fn serve(&self, stream: &TcpStream) {
        stream.set_nodelay(true).unwrap();
        let (mut reader, mut writer) = (BufReader::with_capacity(64 << 10, stream), stream);
        let mut answers = String::from("220 hop\r\n");
        let (mut letter, mut line) = (None, String::new());
        loop {
            if reader.buffer().is_empty() && writer.write_all(std::mem::take(&mut answers).as_bytes()).is_err() {
                return;
            }
            line.clear();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            match line.get(..4).unwrap_or_default() {
                "EHLO" => answers += "250-hop\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
                "MAIL" => {
                    letter = None;
                    answers += "250 2.1.0 ok\r\n";
                }
                "RCPT" => {
                    letter = line.strip_prefix("RCPT TO:<letter").and_then(|rest| rest.split('@').next()?.parse::<usize>().ok());
                    answers += "250 2.1.5 ok\r\n";
                }
                "DATA" => {
                    if writer.write_all((std::mem::take(&mut answers) + "354 go\r\n").as_bytes()).is_err() {
                        return;
                    }
                    while line != ".\r\n" {
                        line.clear();
                        if !matches!(reader.read_line(&mut line), Ok(1..)) {
                            return;
                        }
                    }
                    if let Some(taken) = letter.and_then(|letter| self.letters.get(letter)) {
                        *taken.lock().unwrap() = Some(Instant::now());
                    }
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    answers += "250 2.0.0 taken\r\n";
                }
                _ => answers += "250 2.0.0 ok\r\n",
            }
        }
    }
}

/// The server, with a configuration of its own.
struct Server {
    program: PathBuf,
    config: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Server {
    fn start(folder: &Path, hop: SocketAddr) -> Self {
        let program = std::env::var_os("FAIRNESS_PROGRAM").map_or(env!("CARGO_BIN_EXE_posthouse").into(), PathBuf::from);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let root = folder.display();
        let text = format!(
            "hostname = \"mx.bench.test\"\npostmaster = \"p@bench.test\"\n[spool]\npath = \"{root}/spool\"\n[[listener]]\naddress = \
             \"{address}\"\n[auth]\nusers = \"{root}/users\"\n[limits]\ngreeting_delay = \"0s\"\ncommands = 1000000000\n[relay]\nnetworks = \
             [\"127.0.0.0/8\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{hop}\"]\ntls = \"none\"\n[admin]\nsocket = \
             \"{root}/control.sock\"\nhttp = \"\"\n[log]\nlevel = \"error\"\n"
        );
        let config = folder.join("posthouse.toml");
        std::fs::write(&config, text).unwrap();
        std::fs::write(folder.join("users"), "").unwrap();
        let child = Command::new(&program).arg("serve").arg("--config").arg(&config).spawn().unwrap();
        let server = Self { program, config, address, child };
        wait_for(|| TcpStream::connect(address).is_ok());
        server
    }

    fn queue(&self, verb: &str) {
        let mut command = Command::new(&self.program);
        assert!(command.args(["queue", verb, "--config"]).arg(&self.config).stdout(Stdio::null()).status().unwrap().success());
    }

    /// User and system time so far, in seconds; resident memory in megabytes.
    fn used(&self) -> (f64, u64) {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let stat = read("stat");
        let mut fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
        let ticks: u64 = [fields.next(), fields.next()].iter().map(|field| field.unwrap().parse::<u64>().unwrap()).sum();
        let pages: u64 = read("statm").split_whitespace().nth(1).unwrap().parse().unwrap();
        (ticks as f64 / 100.0, pages * 4096 / 1_000_000)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(mut what: impl FnMut() -> bool) {
    while !what() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// A session with the server.
struct Session(BufReader<TcpStream>);

impl Session {
    /// From `127.0.{network}.1`.
    fn open(server: SocketAddr, network: u8) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let stream = runtime.block_on(async {
            // The standard library can't choose the address to call from.
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, network, 1], 0))).unwrap();
            socket.connect(server).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut session = Self(BufReader::new(stream));
        session.reply();
        session.say(b"EHLO client.bench.test\r\n");
        session.reply();
        session
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    /// When the 250 came.
    fn send(&mut self, from: &str, to: &str, content: &[u8]) -> Instant {
        self.say(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes());
        let replies = [self.reply(), self.reply(), self.reply()];
        assert!(replies[2].starts_with("354"), "{replies:?}");
        self.say(content);
        let last = self.reply();
        let now = Instant::now();
        assert!(last.starts_with("250"), "{last}");
        now
    }
}

/// Sends letters one after the other while it is to go on; how long each took from 250 to 250, ascending.
fn letters(server: &Server, hop: &Hop, first: usize, content: &[u8], mut going_on: impl FnMut() -> bool) -> Vec<Duration> {
    let (count, gap) = (setting("FAIRNESS_LETTERS", 2000), Duration::from_millis(setting("FAIRNESS_GAP", 10) as u64));
    let mut session = Session::open(server.address, 1);
    let mut sent = Vec::new();
    for n in first..first + count {
        if !going_on() {
            break;
        }
        sent.push((n, session.send("ann@letters.test", &format!("letter{n}@d.test"), content)));
        thread::sleep(gap);
    }
    let taken = |n: usize| *hop.letters[n].lock().unwrap();
    wait_for(|| sent.iter().all(|(n, _)| taken(*n).is_some()));
    let mut times: Vec<Duration> = sent.iter().map(|(n, at)| taken(*n).unwrap().saturating_duration_since(*at)).collect();
    times.sort();
    times
}

fn say(what: &str, times: &[Duration]) -> f64 {
    let quantile = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)].as_secs_f64() * 1000.0;
    let [p50, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(quantile);
    println!("{what}: {} letters, p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, at most {most:.2} ms", times.len());
    p99
}

fn fill(server: &Server, bulk: usize, content: &Arc<Vec<u8>>) {
    let begun = Instant::now();
    let address = server.address;
    let load = |part: usize| {
        let content = Arc::clone(content);
        thread::spawn(move || {
            let mut session = Session::open(address, 0);
            for n in (part..bulk).step_by(SESSIONS) {
                session.send("news@bulk.test", &format!("n{n}@d.test"), &content);
            }
        })
    };
    let threads: Vec<_> = (0..SESSIONS).map(load).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    println!("{bulk} messages came in at {:.0}/s", bulk as f64 / begun.elapsed().as_secs_f64());
}

fn main() {
    let folder = std::env::var_os("FAIRNESS_DIR").map_or_else(|| PathBuf::from("target/fairness"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let (bulk, count) = (setting("FAIRNESS_BULK", 1_000_000), setting("FAIRNESS_LETTERS", 2000));
    let content = format!("Subject: bench\r\n\r\n{}.\r\n", format!("{}\r\n", "0123456789".repeat(7)).repeat(SIZE / 72));
    let content = Arc::new(content.into_bytes());
    let hop = Hop::start(3 * count);
    let server = Server::start(&folder, hop.address);
    letters(&server, &hop, 0, &content, || true);
    let idle = say("idle", &letters(&server, &hop, count, &content, || true));
    server.queue("pause");
    fill(&server, bulk, &content);
    println!("the server holds {} MB", server.used().1);
    let (before, calls, cpu) = (hop.taken.load(Ordering::Relaxed), hop.connections.load(Ordering::Relaxed), server.used().0);
    let begun = Instant::now();
    server.queue("resume");
    let gone = || hop.taken.load(Ordering::Relaxed) - before;
    let times = letters(&server, &hop, 2 * count, &content, || gone() < bulk * 9 / 10);
    let beside = say("beside bulk", &times);
    println!("{:.2} times idle's p99; {} of {bulk} went meanwhile", beside / idle, gone());
    wait_for(|| gone() >= bulk + times.len());
    let (took, all) = (begun.elapsed().as_secs_f64(), (bulk + times.len()) as f64);
    let (used, memory) = server.used();
    println!(
        "all gone at {:.0}/s, {:.0} us of the server's processor time each, over {} connections; it holds {memory} MB",
        all / took,
        (used - cpu) * 1e6 / all,
        hop.connections.load(Ordering::Relaxed) - calls,
    );
}
