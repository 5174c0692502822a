//! What compression of the spool saves and costs: zstd's levels on chunks, then the spool with it and without.
//!
//! `cargo bench --bench compression`. Settings by environment: `COMPRESSION_BENCH_DIR` (default: the current folder),
//! `COMPRESSION_BENCH_MESSAGES` (20000 of 4 KiB; of larger ones as many as give the same bytes).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't set itself up has failed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use posthouse::config::{self, Compression};
use posthouse::mail::{Address, BodyType, Recipient, ReversePath, Timestamp};
use posthouse::spool::index::MemoryIndexFactory;
use posthouse::spool::{Accept, Options, Spool};
use posthouse::system::System;

const WRITERS: usize = 20;
const CHUNK: usize = 64 * 1024;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Some different messages of one kind.
struct Kind {
    name: &'static str,
    messages: Vec<Vec<u8>>,
}

/// A header as it arrives, different for each message.
fn header(number: usize) -> String {
    format!(
        "Received: from mx{n}.client.test (mx{n}.client.test [192.0.2.{n}])\r\n\tby mail.example.test (Posthouse) with ESMTP id \
         1M80ZJ5{m:06}\r\n\tfor <recipient{n}@example.test>; Sun, 22 Nov 2026 06:{n:02}:00 +0000\r\n\
         DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=client.test; s=s{n};\r\n\th=from:to:subject:date;\r\n\tb={key}\r\n\
         Message-ID: <{m:x}.{n}@client.test>\r\nDate: Sun, 22 Nov 2026 06:{n:02}:00 +0000\r\nFrom: Sue Sender {n} <sue@client.test>\r\n\
         To: recipient{n}@example.test\r\nSubject: Number {m}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        n = number % 60,
        m = number * 7919,
        key = base64(&noise(256, number as u64 + 1)).replace("\r\n", "\r\n\t ").trim_end(),
    )
}

/// Octets that look random, as those of images and archives do.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// Lines of 76 characters.
fn base64(octets: &[u8]) -> String {
    let mut text = String::new();
    for line in octets.chunks(57) {
        for group in line.chunks(3) {
            let word = group.iter().fold(0u32, |word, octet| word << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
            text.extend([18, 12, 6, 0].map(|shift| char::from(BASE64[(word >> shift & 63) as usize])));
        }
        text.push_str("\r\n");
    }
    text
}

fn kinds() -> Vec<Kind> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["docs/spool.md", "docs/configuration.md", "docs/events.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
    let prose: Vec<String> =
        pages.iter().map(|page| std::fs::read_to_string(root.join(page)).unwrap().replace('\n', "\r\n")).collect();
    let prose = prose.concat().into_bytes();
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let mail = |number: usize, body: &[u8], size: usize| {
        let mut mail = [header(number).as_bytes(), body].concat();
        mail.truncate(size);
        mail
    };
    let slice = |of: &[u8], number: usize, size: usize| of[number * 1999 % (of.len() - size)..][..size].to_vec();
    let make = |name, one: &dyn Fn(usize) -> Vec<u8>| Kind { name, messages: (0..64).map(one).collect() };
    vec![
        make("text, 4 KiB", &|n| mail(n, &slice(&prose, n, 4096), 4096)),
        make("text, 32 KiB", &|n| mail(n, &slice(&prose, n, 32 << 10), 32 << 10)),
        make("base64 of a program, 100 KiB", &|n| mail(n, base64(&slice(&program, n * 100, 75 << 10)).as_bytes(), 100 << 10)),
        make("base64 of noise, 100 KiB", &|n| mail(n, base64(&noise(75 << 10, n as u64)).as_bytes(), 100 << 10)),
        make("base64 of a program, 2 MiB", &|n| mail(n, base64(&slice(&program, n * 100, 1536 << 10)).as_bytes(), 2 << 20)),
        make("noise, 2 MiB", &|n| mail(n, &noise(2 << 20, n as u64), 2 << 20)),
    ]
}

/// Processor time of this process so far, all threads, in and outside the kernel; in steps of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

/// Share that remains, and microseconds a message.
fn level(kind: &Kind, level: i32) -> (f64, f64) {
    let mut compressor = zstd::bulk::Compressor::new(level).unwrap();
    let (mut from, mut to, mut count) = (0, 0, 0);
    let begun = cpu();
    while cpu() - begun < Duration::from_millis(500) {
        for message in &kind.messages {
            for chunk in message.chunks(CHUNK) {
                from += chunk.len();
                to += chunk.len().min(compressor.compress(chunk).unwrap().len()) + 4;
            }
            count += 1;
        }
    }
    (to as f64 / from as f64, (cpu() - begun).as_secs_f64() * 1e6 / f64::from(count))
}

/// Bytes stored and processor time a message, all of it: reception into the spool, commit, syncs.
async fn spool(folder: &Path, kind: &Kind, compression: Compression, count: usize) -> (f64, f64) {
    let path = folder.join("spool");
    let config = config::Spool {
        path: path.clone(),
        min_free: 1 << 20,
        segment_size: 64 << 20,
        zeros_ahead: true,
        spares: 4,
        index_cache: 1 << 20,
        compression,
        compaction_rate: 64 << 20,
    };
    let system = System::real(&["127.0.0.1:53".parse().unwrap()], Duration::from_secs(1)).unwrap();
    let (spool, _) = Spool::open(Options::new(&config), &system, Box::new(MemoryIndexFactory::default())).await.unwrap();
    let messages: Arc<Vec<Vec<u8>>> = Arc::new(kind.messages.clone());
    let next = Arc::new(AtomicUsize::new(0));
    let begun = cpu();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (spool, messages, next) = (spool.clone(), messages.clone(), next.clone());
            tokio::spawn(async move {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && number < count
                {
                    let mut draft = spool.begin().unwrap();
                    for piece in messages[number % messages.len()].chunks(16 << 10) {
                        draft.write(piece).await.unwrap();
                    }
                    let now = Timestamp::from_millis(1_800_000_000_000);
                    let to = Recipient::new(Address::parse("recipient@example.test").unwrap(), None, now);
                    let reverse_path = ReversePath::Address(Address::parse("sender@example.org").unwrap());
                    let body = BodyType::EightBitMime;
                    let accept = Accept {
                        arrived: now,
                        reverse_path,
                        body,
                        request: None,
                        recipients: vec![to],
                        updates: Vec::new(),
                        origin: None,
                    };
                    draft.commit(accept).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let spent = cpu() - begun;
    let files = std::fs::read_dir(path.join("content")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let stored = spool.gauges().log_bytes + files.sum::<u64>();
    spool.close().await.unwrap();
    std::fs::remove_dir_all(path).unwrap();
    (stored as f64 / count as f64, spent.as_secs_f64() * 1e6 / count as f64)
}

fn main() {
    let folder =
        std::env::var_os("COMPRESSION_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from).join("compression-bench");
    let count = std::env::var("COMPRESSION_BENCH_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    std::fs::create_dir_all(&folder).unwrap();
    let kinds = kinds();
    println!("| zstd alone, 64 KiB chunks | level | stored a byte | CPU us a message |");
    println!("|---|---|---|---|");
    for kind in &kinds {
        for number in [-3, 1, 2, 3, 6] {
            let (share, cost) = level(kind, number);
            println!("| {} | {number} | {share:.3} | {cost:.0} |", kind.name);
        }
    }
    println!();
    println!("| the spool, {WRITERS} writers | messages | bytes stored, none | zstd | saved | CPU us a message, none | zstd |");
    println!("|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for kind in &kinds {
        let count = (count * 4096 / kind.messages[0].len()).max(100);
        let (plain, plain_cost) = runtime.block_on(spool(&folder, kind, Compression::None, count));
        let (packed, packed_cost) = runtime.block_on(spool(&folder, kind, Compression::Zstd, count));
        let saved = 100.0 * (1.0 - packed / plain);
        println!("| {} | {count} | {plain:.0} | {packed:.0} | {saved:.1} % | {plain_cost:.0} | {packed_cost:.0} |", kind.name);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
