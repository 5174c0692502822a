//! A long queue: how long the spool takes to open with so many deferred messages, to build its index anew, to list and to count them,
//! and how much memory that needs.
//!
//! `cargo bench --bench backlog`. Settings by environment: `BACKLOG_DIR` (default: `target/backlog`, made anew, 4.5 GB for a million
//! messages, and left there: `posthouse` can serve it), `BACKLOG_MESSAGES` (1,000,000), `BACKLOG_SIZE` octets of content (4096).
//! Each phase is a process of its own, so that its memory is its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't set itself up has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use posthouse::mail::{
    Address, BodyType, Cause, Domain, EnhancedCode, Recipient, RecipientState, RecipientStatus, ReversePath, Timestamp, Update,
};
use posthouse::spool::index::RunIndexFactory;
use posthouse::spool::{Accept, Filter, Options, Recovery, Spool};
use posthouse::system::System;

/// Messages go to so many domains,
const DOMAINS: u64 = 1000;
/// and come from so many senders.
const SENDERS: u64 = 100;
/// So many are written at the same time while the queue is filled.
const WRITERS: u64 = 100;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Resident memory now and at its peak; megabytes.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (field("VmRSS"), field("VmHWM"))
}

fn say(what: &str, begun: Instant, count: u64) {
    let time = begun.elapsed();
    let rate = if count > 0 { format!("{:.0}/s", count as f64 / time.as_secs_f64()) } else { String::new() };
    let (now, peak) = memory();
    println!("| {what} | {:.1} ms | {rate} | {now} MB | {peak} MB |", time.as_secs_f64() * 1000.0);
}

async fn open(path: &Path) -> (Spool, Recovery) {
    let config = posthouse::config::Spool {
        path: path.to_owned(),
        min_free: 64 << 20,
        segment_size: 64 << 20,
        zeros_ahead: true,
        spares: 4,
        compaction_rate: 32 << 20,
        index_cache: 32 << 20,
        compression: posthouse::config::Compression::None,
    };
    let system = System::real(&["127.0.0.1:53".parse().unwrap()], Duration::from_secs(1)).unwrap();
    let factory = RunIndexFactory::new(path, system.disk.clone(), config.index_cache);
    Spool::open(Options::new(&config), &system, Box::new(factory)).await.unwrap()
}

fn deferred(number: u64, now: Timestamp) -> RecipientStatus {
    RecipientStatus {
        state: RecipientState::Deferred,
        attempts: 1,
        next_attempt: now.plus(Duration::from_secs(3600) + Duration::from_millis(number % 600_000)),
        last_status: Some(EnhancedCode(4, 4, 1)),
        last_cause: Some(Cause::Connection),
        last_reply: "connection refused".to_owned(),
        next_hop: format!("mx.d{}.test[127.0.0.1]:25", number % DOMAINS),
    }
}

async fn defer(spool: &Spool, number: u64, content: &[u8]) {
    let now = Timestamp::from_millis(1_800_000_000_000 + number);
    let to = Address::parse(&format!("user{number}@d{}.test", number % DOMAINS)).unwrap();
    let mut draft = spool.begin().unwrap();
    draft.write(content).await.unwrap();
    let accept = Accept {
        arrived: now,
        reverse_path: ReversePath::Address(Address::parse(&format!("sender{}@example.org", number % SENDERS)).unwrap()),
        body: BodyType::SevenBit,
        request: None,
        recipients: vec![Recipient::new(to, None, now)],
        updates: Vec::new(),
        origin: None,
    };
    let message = draft.commit(accept).await.unwrap();
    let status = deferred(number, now);
    let due = status.next_attempt;
    spool.update(Update { statuses: vec![(0, status)], ..Update::new(message.id) });
    spool.park(message.id, due);
}

async fn fill(path: &Path, messages: u64) {
    let content = vec![b'x'; setting("BACKLOG_SIZE", 4096) as usize];
    let (spool, _) = open(path).await;
    let begun = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let (spool, content) = (spool.clone(), content.clone());
        tokio::spawn(async move {
            for number in (writer..messages).step_by(WRITERS as usize) {
                defer(&spool, number, &content).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    spool.flush().await.unwrap();
    say("accepted and deferred", begun, messages);
    survey(&spool).await;
    let begun = Instant::now();
    spool.close().await.unwrap();
    say("close", begun, 0);
}

async fn survey(spool: &Spool) {
    let begun = Instant::now();
    let domain = Some(Domain::parse("d7.test").unwrap());
    let found = spool.list(&Filter { domain, limit: Some(10), ..Filter::default() }).await.unwrap();
    assert_eq!(found.len(), 10);
    say("list --domain D --limit 10", begun, 0);
    let begun = Instant::now();
    let stats = spool.stats().await.unwrap();
    say("stats", begun, 0);
    let counted: u64 = stats.states.values().map(|count| count.messages).sum();
    assert_eq!(counted, spool.gauges().messages);
}

async fn reopen(path: &Path, what: &str) {
    let begun = Instant::now();
    let (spool, recovery) = open(path).await;
    say(what, begun, if recovery.records >= recovery.messages { recovery.messages } else { 0 });
    survey(&spool).await;
    let begun = Instant::now();
    let due = spool.due(Timestamp::NEVER, 1000).await.unwrap();
    assert_eq!(due.len() as u64, recovery.messages.min(1000));
    say("due: 1,000 messages", begun, 0);
    spool.close().await.unwrap();
}

fn phase(name: &str) {
    let done = Command::new(std::env::current_exe().unwrap()).args(["--phase", name]).status().unwrap();
    assert!(done.success(), "{name}");
}

fn main() {
    let path = PathBuf::from(std::env::var("BACKLOG_DIR").unwrap_or_else(|_| "target/backlog".to_owned()));
    let messages = setting("BACKLOG_MESSAGES", 1_000_000);
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.iter().skip_while(|argument| *argument != "--phase").nth(1).map(String::as_str) {
        Some("fill") => runtime().block_on(fill(&path, messages)),
        Some("open") => runtime().block_on(reopen(&path, "open")),
        Some("rebuild") => {
            std::fs::remove_dir_all(path.join("index")).unwrap();
            runtime().block_on(reopen(&path, "rebuild of the index, with open"));
        }
        _ => {
            let _ = std::fs::remove_dir_all(&path);
            println!("{messages} messages\n\n| what | time | messages | memory | peak |\n|---|---|---|---|---|");
            ["fill", "open", "rebuild", "open"].into_iter().for_each(phase);
        }
    }
}
