//! How many messages a second the spool accepts, beside the raw limit of the machine: group-committed appends and nothing else.
//!
//! `cargo bench --bench spool` in a folder on the disk that is meant. Settings by environment: `SPOOL_BENCH_DIR` (default: the
//! current folder), `SPOOL_BENCH_SECONDS` a run (3), `SPOOL_BENCH_SIZE` octets of content (4096).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that can't set itself up has failed")]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use posthouse::mail::{Address, BodyType, Recipient, ReversePath, Timestamp};
use posthouse::spool::index::RunIndexFactory;
use posthouse::spool::{Accept, Options, Spool};
use posthouse::system::System;
use tokio::sync::{mpsc, oneshot};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Messages a second, syncs a message, bytes that reached the device a byte of mail, and the slowest of the fastest half and of all but
/// the slowest hundredth, microseconds.
struct Figures {
    rate: f64,
    syncs: f64,
    written: Option<f64>,
    median: u64,
    high: u64,
}

/// Runs `writers` tasks for some seconds; each does one message after the other.
async fn measure<F>(writers: usize, seconds: u64, one: impl Fn() -> F + Clone + Send + Sync + 'static) -> (f64, Vec<u64>)
where
    F: Future<Output = ()> + Send,
{
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let one = one.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let begun = Instant::now();
                    one().await;
                    times.push(begun.elapsed().as_micros() as u64);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times)
}

fn figures(rate: f64, times: &[u64], size: usize, syncs: u64, written: Option<u64>) -> Figures {
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(0);
    let count = times.len().max(1) as f64;
    let written = written.map(|bytes| bytes as f64 / count / size as f64);
    Figures { rate, syncs: syncs as f64 / count, written, median: at(0.5), high: at(0.99) }
}

/// Bytes written so far to the device that holds the folder, journal and other people's included; none if the system doesn't say.
fn written(folder: &Path) -> Option<u64> {
    let opened = File::open(folder).ok()?;
    rustix::fs::syncfs(&opened).ok()?;
    let device = opened.metadata().ok()?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device));
    let sectors: u64 = std::fs::read_to_string(path).ok()?.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * 512)
}

fn grown(before: Option<u64>, folder: &Path) -> Option<u64> {
    Some(written(folder)? - before?)
}

/// Appends to one preallocated file; a thread writes and syncs what has gathered.
async fn raw(folder: &Path, writers: usize, size: usize, seconds: u64) -> Figures {
    let (send, mut receive) = mpsc::unbounded_channel::<(Arc<Vec<u8>>, oneshot::Sender<()>)>();
    let path = folder.join("raw");
    let syncs = Arc::new(AtomicU64::new(0));
    let counter = syncs.clone();
    let thread = std::thread::spawn(move || {
        let mut file = File::create(&path).unwrap();
        let (mut at, mut buffer, mut waiting) = (0, Vec::new(), Vec::new());
        while let Some((bytes, reply)) = receive.blocking_recv() {
            buffer.clear();
            buffer.extend_from_slice(&bytes);
            waiting.push(reply);
            while let Ok((bytes, reply)) = receive.try_recv() {
                buffer.extend_from_slice(&bytes);
                waiting.push(reply);
            }
            if at == 0 || at + buffer.len() as u64 > 64 << 20 {
                file = File::create(&path).unwrap();
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 64 << 20).unwrap();
                at = 0;
            }
            file.write_all_at(&buffer, at).unwrap();
            file.sync_data().unwrap();
            at += buffer.len() as u64;
            counter.fetch_add(1, Ordering::Relaxed);
            for reply in waiting.drain(..) {
                let _ = reply.send(());
            }
        }
        std::fs::remove_file(path).unwrap();
    });
    let bytes = Arc::new(vec![b'x'; size]);
    let before = written(folder);
    let (rate, times) = measure(writers, seconds, move || {
        let (send, bytes) = (send.clone(), bytes.clone());
        async move {
            let (reply, answer) = oneshot::channel();
            send.send((bytes, reply)).unwrap();
            answer.await.unwrap();
        }
    })
    .await;
    let bytes = grown(before, folder);
    thread.join().unwrap();
    figures(rate, &times, size, syncs.load(Ordering::Relaxed), bytes)
}

async fn open(path: &Path) -> Spool {
    let config = posthouse::config::Spool {
        path: path.to_owned(),
        min_free: 64 << 20,
        segment_size: 64 << 20,
        zeros_ahead: true,
        spares: 4,
        compaction_rate: 32 << 20,
        index_cache: 64 << 20,
        compression: posthouse::config::Compression::None,
    };
    let system = System::real(&["127.0.0.1:53".parse().unwrap()], Duration::from_secs(1)).unwrap();
    let factory = RunIndexFactory::new(path, system.disk.clone(), config.index_cache);
    Spool::open(Options::new(&config), &system, Box::new(factory)).await.unwrap().0
}

fn envelope() -> Accept {
    let now = Timestamp::from_millis(1_800_000_000_000);
    Accept {
        arrived: now,
        reverse_path: ReversePath::Address(Address::parse("sender@example.org").unwrap()),
        body: BodyType::EightBitMime,
        request: None,
        recipients: vec![Recipient::new(Address::parse("recipient@example.test").unwrap(), None, now)],
        updates: Vec::new(),
        origin: None,
    }
}

/// Accepts messages, and either forgets each at once (delivered at its first attempt) or parks it (deferred).
async fn spool(folder: &Path, writers: usize, size: usize, seconds: u64, park: bool) -> Figures {
    let path = folder.join("spool");
    let spool = open(&path).await;
    let content = Arc::new(vec![b'x'; size]);
    let worker = spool.clone();
    let before = written(folder);
    let (rate, times) = measure(writers, seconds, move || {
        let (spool, content) = (worker.clone(), content.clone());
        async move {
            let mut draft = spool.begin().unwrap();
            draft.write(&content).await.unwrap();
            let message = draft.commit(envelope()).await.unwrap();
            if park {
                spool.park(message.id, Timestamp::NEVER);
            } else {
                spool.done(message.id);
            }
        }
    })
    .await;
    let (bytes, syncs) = (grown(before, folder), spool.gauges().batches);
    spool.close().await.unwrap();
    std::fs::remove_dir_all(path).unwrap();
    figures(rate, &times, size, syncs, bytes)
}

fn main() {
    let folder = std::env::var_os("SPOOL_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from).join("spool-bench");
    let (size, seconds) = (setting("SPOOL_BENCH_SIZE", 4096) as usize, setting("SPOOL_BENCH_SECONDS", 3));
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{size} octets a message");
    println!("| writers | what | messages/s | share of raw | syncs a message | bytes written a byte | median us | 99 % us |");
    println!("|---|---|---|---|---|---|---|---|");
    for writers in [1, 20, 100] {
        let limit = runtime.block_on(raw(&folder, writers, size, seconds));
        let raw_rate = limit.rate;
        let line = |name: &str, f: Figures| {
            let Figures { rate, syncs, written, median, high } = f;
            let written = written.map_or_else(|| "-".to_owned(), |written| format!("{written:.2}"));
            let share = 100.0 * rate / raw_rate;
            println!("| {writers} | {name} | {rate:.0} | {share:.0} % | {syncs:.3} | {written} | {median} | {high} |");
        };
        line("raw appends", limit);
        line("spool", runtime.block_on(spool(&folder, writers, size, seconds, false)));
        line("spool, every one parked", runtime.block_on(spool(&folder, writers, size, seconds, true)));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
