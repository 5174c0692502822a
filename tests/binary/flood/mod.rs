//! Floods against the real binary: idle connections, clients that drip, lines without end, recipients and commands without number.
//! Memory stays bounded, nothing panics, and a polite client is served throughout.
//!
//! A plain run takes a slice of each flood; `POSTHOUSE_FLOOD=full` takes them whole, as the figures in docs/limits.md were.

mod crowd;
mod dialogue;
mod polite;

use std::time::{Duration, Instant};

use crowd::{Crowd, Visitor};
use polite::Polite;

use crate::support::home::Home;
use crate::support::server::{Server, field};

/// Whether the floods come whole.
pub(crate) fn is_full() -> bool {
    std::env::var("POSTHOUSE_FLOOD").as_deref() == Ok("full")
}

/// `full` of a whole flood, `slice` otherwise.
fn sized(full: usize, slice: usize) -> usize {
    if is_full() { full } else { slice }
}

/// A server for floods from one address: limits by client are out of the way, and the log isn't the bottleneck.
pub(crate) fn server(limits: &str) -> (Home, Server) {
    crowd::raise_descriptors();
    let home = Home::new(&format!(
        "[limits]\nconnections = 20000\nconnections_per_client = 20000\nconnections_per_network = 20000\n{limits}\n"
    ));
    home.fragment("quiet", "[log]\nlevel = \"info\"\n");
    let server = Server::start(&home);
    (home, server)
}

/// Fails if the server has ended or a task of it has panicked.
pub(crate) fn assert_sound(server: &mut Server) {
    assert!(server.process().ended().is_none(), "the server has ended");
    let panics: Vec<String> = server.process().output().lines().into_iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:#?}");
}

/// What the server holds in memory, octets.
pub(crate) fn memory(server: &mut Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Memory before and after; fails if more than `more_max` octets were added.
fn assert_memory(what: &str, server: &mut Server, before: u64, more_max: u64) {
    let after = memory(server);
    eprintln!("{what}: {} KiB before, {} KiB after", before / 1024, after / 1024);
    assert!(after.saturating_sub(before) <= more_max, "{what}: {before} octets before, {after} after");
}

/// Waits until no more than `count` visitors are still connected.
fn wait_until_gone(crowd: &mut Crowd, count: usize, patience: Duration) {
    let deadline = Instant::now() + patience;
    while crowd.still_there() > count {
        assert!(Instant::now() < deadline, "{} are still connected", crowd.still_there());
        std::thread::yield_now();
    }
}

#[test]
fn an_idle_connection_costs_less_than_twelve_kilobytes() {
    let count = sized(10_000, 1000);
    let (_home, mut server) = server("");
    // What is set up once isn't a connection's cost.
    let first = Crowd::open(server.address(), 200, Visitor::Idle);
    let before = memory(&mut server);
    let polite = Polite::start(server.address());
    let crowd = Crowd::open(server.address(), count, Visitor::Idle);
    let each = memory(&mut server).saturating_sub(before) / count as u64;
    eprintln!("{count} idle connections: {each} octets each");
    polite.end();
    assert!(each <= 12 * 1024, "an idle connection costs {each} octets");
    assert_sound(&mut server);
    drop((first, crowd));
    // Places come back.
    server.client().send("sue@client.test", &["ann@example.test"], b"\r\nx\r\n").unwrap();
}

#[test]
fn clients_that_drip_at_any_stage_are_cut_off_and_cost_little() {
    let count = sized(500, 50);
    let patience = if is_full() { 10 } else { 2 };
    let times =
        format!("hello_timeout = \"{patience}s\"\ncommand_timeout = \"{patience}s\"\ndata_timeout = \"30s\"\ndata_pace = 100");
    let (_home, mut server) = server(&times);
    let before = memory(&mut server);
    let polite = Polite::start(server.address());
    let stages = [Visitor::Hello, Visitor::Mail, Visitor::Recipient, Visitor::Header, Visitor::Body];
    let mut crowds: Vec<Crowd> = stages.map(|stage| Crowd::open(server.address(), count, stage)).into();
    assert_memory("dripping clients", &mut server, before, (count * stages.len()) as u64 * 32 * 1024 + (8 << 20));
    let deadline = Instant::now() + Duration::from_secs(120);
    while crowds.iter_mut().any(|crowd| crowd.still_there() > 0) {
        assert!(Instant::now() < deadline, "dripping clients stay");
        // An octet each from time to time keeps nobody in.
        crowds.iter_mut().for_each(Crowd::drip);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    for (crowd, stage) in crowds.iter().zip(stages) {
        assert!(crowd.all_heard("421 4.4.2"), "{stage:?}: {:?}", crowd.last_words());
    }
    polite.end();
    assert_sound(&mut server);
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let size = sized(100_000_000, 20_000_000);
    let (_home, mut server) = server("message_size = \"1MiB\"");
    let before = memory(&mut server);
    let polite = Polite::start(server.address());
    let mut client = server.client();
    pour(&mut client, b"x", size);
    client.write(b"\r\n").unwrap();
    assert_eq!(client.reply().unwrap().code, 500);
    assert_memory("a command line without end", &mut server, before, 4 << 20);
    client.envelope("sue@client.test", &["ann@example.test"]).unwrap();
    pour(&mut client, b"x", size);
    client.write(b"\r\n.\r\n").unwrap();
    assert_eq!(client.reply().unwrap().code, 552);
    assert_memory("a content line without end", &mut server, before, 4 << 20);
    // The session is as good as ever.
    client.send("sue@client.test", &["ann@example.test"], b"\r\nx\r\n").unwrap();
    polite.end();
    assert_sound(&mut server);
}

fn pour(client: &mut crate::support::client::Client, what: &[u8], size: usize) {
    let piece = what.repeat(1 << 20);
    let mut left = size;
    while left > 0 {
        let now = left.min(piece.len());
        client.write(&piece[..now]).unwrap();
        left -= now;
    }
}

#[test]
fn ten_thousand_recipients_are_a_thousand_and_a_temporary_no() {
    let (_home, mut server) = server("");
    let before = memory(&mut server);
    let polite = Polite::start(server.address());
    let mut client = server.client();
    client.command("MAIL FROM:<sue@client.test>").unwrap();
    let mut codes = std::collections::BTreeMap::new();
    for n in 0..10_000 {
        client.say(&format!("RCPT TO:<ann+{n}@example.test>")).unwrap();
        // A client that pipelines reads, too, from time to time.
        if n % 100 == 99 {
            for _ in 0..100 {
                *codes.entry(client.reply().unwrap().code).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(250, 1000), (452, 9000)]);
    assert_memory("10,000 recipients", &mut server, before, 8 << 20);
    client.say("DATA").unwrap();
    client.expect(354).unwrap();
    client.write(b"\r\nhello\r\n.\r\n").unwrap();
    let id = client.expect(250).unwrap().id().to_owned();
    assert_eq!(server.event("accepted", |event| field(event, "id") == id)["recipients"], 1000);
    polite.end();
    assert_sound(&mut server);
}

#[test]
fn a_flood_of_commands_ends_the_sessions_that_send_it() {
    let count = sized(200, 20);
    let (_home, mut server) = server("");
    let before = memory(&mut server);
    let polite = Polite::start(server.address());
    let mut crowd = Crowd::open(server.address(), count, Visitor::Idle);
    // They don't read while they write: replies fill the socket's buffers, and then the server waits, and they do.
    crowd.write("RSET\r\nMAIL FROM:<>\r\n".repeat(2000).as_bytes());
    wait_until_gone(&mut crowd, 0, crate::support::PATIENCE);
    assert!(crowd.all_heard("421 4.7.0"), "{:?}", crowd.last_words());
    assert_memory("floods of RSET", &mut server, before, (8 << 20) + count as u64 * 64 * 1024);
    polite.end();
    assert_sound(&mut server);
    server.event("limited", |event| field(event, "limit") == "limits.commands");
}

#[test]
fn when_all_places_are_taken_the_next_hears_421_at_once() {
    crowd::raise_descriptors();
    let home = Home::new("[limits]\nconnections = 100\nconnections_per_client = 1000\nconnections_per_network = 1000\n");
    let mut server = Server::start(&home);
    let crowd = Crowd::open(server.address(), 100, Visitor::Idle);
    let before = memory(&mut server);
    let mut refused = Crowd::open(server.address(), sized(5000, 500), Visitor::Nobody);
    wait_until_gone(&mut refused, 0, Duration::from_secs(60));
    assert_memory("refused connections", &mut server, before, 8 << 20);
    let words = refused.last_words();
    assert!(words.iter().all(|word| word.is_empty() || word.starts_with("421 4.3.2")), "{words:?}");
    assert!(words.iter().filter(|word| !word.is_empty()).count() > words.len() / 2, "most are told why");
    drop(crowd);
    let deadline = Instant::now() + crate::support::PATIENCE;
    while crate::support::client::Client::open(server.address()).is_err() {
        assert!(Instant::now() < deadline, "places don't come back");
    }
    assert_sound(&mut server);
}

#[test]
fn a_low_limit_of_descriptors_is_raised_at_start() {
    crowd::raise_descriptors();
    let home = Home::new("[limits]\nconnections_per_client = 1000\n");
    let mut server = Server::launch_within(&home, |program| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -S -n 64; exec \"$0\" serve"]).arg(program);
        shell
    });
    server.wait_until_listening();
    let mut crowd = Crowd::open(server.address(), 300, Visitor::Idle);
    assert_eq!(crowd.still_there(), 300);
    server.client().send("sue@client.test", &["ann@example.test"], b"\r\nx\r\n").unwrap();
    assert!(server.events("accept-trouble").is_empty());
    assert_sound(&mut server);
}
