//! The spool on the real disk, with threads and sled: closed, opened, its index lost or broken, its records damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posthouse::mail::{Address, Message, QueueId, Recipient, RecipientState, ReversePath, Timestamp, Update};
use posthouse::spool::index::RunIndexFactory;
use posthouse::spool::{Accept, Filter, Note, Recovery, Spool, SpoolError, read_stopped};
use posthouse::system::{Content, Disk, SystemDisk, Workers};

use crate::spool_world::{SEGMENT_SIZE, START, envelope, options, system};

/// The longest wait for what is done in the background; reached only if it never is.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn open(path: &Path) -> Result<(Spool, Recovery), SpoolError> {
    let factory = RunIndexFactory::new(path, Arc::new(SystemDisk), 1 << 20);
    // A seed a folder: spools tell each other apart by a random number.
    let seed = path.to_string_lossy().bytes().fold(5, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte));
    Spool::open(options(path), &system(Arc::new(SystemDisk), seed, Workers::Threads), Box::new(factory)).await
}

fn content_of(number: usize) -> Vec<u8> {
    format!("Subject: {number}\r\n\r\n").into_bytes().into_iter().chain(std::iter::repeat_n(number as u8, number * 150)).collect()
}

async fn accept(spool: &Spool, number: usize) -> Message {
    let mut draft = spool.begin().unwrap();
    draft.write(&content_of(number)).await.unwrap();
    let to = Recipient::new(Address::parse(&format!("u{number}@d{}.test", number % 3)).unwrap(), None, START);
    let reverse_path = ReversePath::Address(Address::parse("s@from.test").unwrap());
    let accept = Accept { reverse_path, recipients: vec![to], ..envelope() };
    Message::clone(&*draft.commit(accept).await.unwrap())
}

fn deferred(message: &Message, next_attempt: Timestamp) -> Update {
    let mut status = message.recipients[0].status.clone();
    status.next_attempt = next_attempt;
    status.state = RecipientState::Deferred;
    status.attempts += 1;
    Update { statuses: vec![(0, status)], ..Update::new(message.id) }
}

async fn read(content: &dyn Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < content.size() {
        bytes.extend(content.read_at(bytes.len() as u64, 700).await.unwrap());
    }
    bytes
}

/// Forty messages, some done with, some parked; closed. What lives, by number.
async fn fill(path: &Path) -> Vec<(usize, Message)> {
    let (spool, recovery) = open(path).await.unwrap();
    assert_eq!(recovery.notes, []);
    let mut living = Vec::new();
    for number in 0..40 {
        let mut message = accept(&spool, number).await;
        match number % 4 {
            0 => spool.done(message.id),
            1 => {
                let due = START.plus(Duration::from_secs(number as u64));
                let update = deferred(&message, due);
                message.apply(&update);
                spool.update(update);
                spool.park(message.id, due);
                living.push((number, message));
            }
            _ => living.push((number, message)),
        }
    }
    same(&spool, &living).await;
    spool.close().await.unwrap();
    living
}

async fn same(spool: &Spool, living: &[(usize, Message)]) {
    let listed = spool.list(&Filter::default()).await.unwrap();
    assert_eq!(listed, living.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>());
    for (number, message) in living {
        assert_eq!(read(&*spool.content(message.id).await.unwrap()).await, content_of(*number));
    }
}

fn rebuilt(recovery: &Recovery) -> bool {
    recovery.notes.iter().any(|note| matches!(note, Note::IndexRebuilt { .. }))
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn everything_is_there_after_a_restart_and_only_one_may_have_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    runtime().block_on(async {
        let living = fill(path).await;
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let stopped = read_stopped(path, &disk).unwrap();
        assert_eq!(stopped.list(&Filter::default()).len(), living.len());
        assert_eq!(stopped.stats().domains.len(), 3);
        let (spool, recovery) = open(path).await.unwrap();
        assert_eq!(recovery.notes, []);
        assert_eq!(recovery.messages, living.len() as u64);
        same(&spool, &living).await;
        assert_eq!(open(path).await.err(), Some(SpoolError::Locked(path.to_owned())));
        assert_eq!(read_stopped(path, &disk).err(), Some(SpoolError::Locked(path.to_owned())));
        // All that was found is parked; what never was before is due at its next attempt.
        assert_eq!(spool.gauges().active, 0);
        let due = spool.due(START.plus(Duration::from_secs(9)), 100).await.unwrap();
        assert_eq!(due.len(), living.iter().filter(|(number, _)| number % 4 != 1 || *number <= 9).count());
        let domain = Filter { domain: Some("d1.test".to_owned().try_into().unwrap()), limit: Some(3), ..Filter::default() };
        assert_eq!(spool.list(&domain).await.unwrap().len(), 3);
        spool.close().await.unwrap();
    });
}

#[test]
fn a_lost_or_broken_index_is_built_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    runtime().block_on(async {
        let living = fill(path).await;
        fs::remove_dir_all(path.join("index")).unwrap();
        let (spool, recovery) = open(path).await.unwrap();
        assert!(rebuilt(&recovery));
        same(&spool, &living).await;
        spool.close().await.unwrap();

        for wreck in [vec![0xa5; 300_000], Vec::new(), b"no database".to_vec()] {
            for folder in ["index/catalogue", "index/runs"] {
                let entries = fs::read_dir(path.join(folder)).unwrap().map(|entry| entry.unwrap().path());
                for file in entries.filter(|path| path.is_file()) {
                    fs::write(file, &wreck).unwrap();
                }
            }
            let (spool, recovery) = open(path).await.unwrap();
            assert!(rebuilt(&recovery), "{:?}", recovery.notes);
            same(&spool, &living).await;
            spool.close().await.unwrap();
        }

        // The index of another version.
        fs::write(path.join("index/db"), b"of before").unwrap();
        let (spool, recovery) = open(path).await.unwrap();
        assert!(rebuilt(&recovery), "{:?}", recovery.notes);
        assert!(!path.join("index/db").exists());
        same(&spool, &living).await;
        spool.close().await.unwrap();

        // The index of another spool.
        let other = tempfile::tempdir().unwrap();
        fill(other.path()).await;
        fs::remove_dir_all(path.join("index")).unwrap();
        fs::rename(other.path().join("index"), path.join("index")).unwrap();
        let (spool, recovery) = open(path).await.unwrap();
        assert!(rebuilt(&recovery));
        same(&spool, &living).await;
        spool.close().await.unwrap();
    });
}

#[test]
fn a_damaged_record_is_set_aside_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    runtime().block_on(async {
        let living = fill(path).await;
        // Everything gets into the index, which is marked with the log's end.
        open(path).await.unwrap().0.close().await.unwrap();
        // One bit in the content of a message that still lives, in a segment that is long sealed.
        let (number, victim) = living.iter().find(|(number, _)| *number == 11).unwrap();
        let wanted = content_of(*number);
        let damaged = segments(path).into_iter().find(|file| {
            let mut bytes = fs::read(file).unwrap();
            let at = bytes.windows(wanted.len()).position(|window| window == wanted);
            at.is_some_and(|at| {
                bytes[at + 700] ^= 4;
                fs::write(file, bytes).is_ok()
            })
        });
        assert!(damaged.is_some());
        // The index knows of the message; its content doesn't lie.
        let (spool, _) = open(path).await.unwrap();
        assert_eq!(spool.content(victim.id).await.err(), Some(SpoolError::Damaged(victim.id)));
        spool.close().await.unwrap();
        // Without the index the log is read as a whole.
        fs::remove_dir_all(path.join("index")).unwrap();
        let (spool, recovery) = open(path).await.unwrap();
        let quarantined: Vec<_> = recovery.notes.iter().filter(|note| matches!(note, Note::Quarantined { .. })).collect();
        assert_eq!(quarantined.len(), 1, "{:?}", recovery.notes);
        assert_eq!(fs::read_dir(path.join("quarantine")).unwrap().count(), 1);
        let rest: Vec<_> = living.iter().filter(|(_, message)| message.id != victim.id).cloned().collect();
        same(&spool, &rest).await;
        spool.close().await.unwrap();
    });
}

#[test]
fn space_comes_back_and_stragglers_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    runtime().block_on(async {
        let (spool, _) = open(path).await.unwrap();
        let mut kept = Vec::new();
        for number in 0..400 {
            let message = accept(&spool, number % 20).await;
            if number % 50 == 3 {
                spool.park(message.id, Timestamp::NEVER);
                kept.push((number % 20, message));
            } else {
                spool.done(message.id);
            }
        }
        spool.flush().await.unwrap();
        // What was written fills dozens of segments.
        let shrunk = async {
            loop {
                let gauges = spool.gauges();
                if gauges.log_bytes <= 2 * gauges.live_bytes + 3 * SEGMENT_SIZE {
                    break;
                }
                accept_and_forget(&spool).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, shrunk).await.is_ok(), "{:?}", spool.gauges());
        assert!(segments(path).len() < 30);
        let living: Vec<QueueId> = spool.list(&Filter::default()).await.unwrap().iter().map(|message| message.id).collect();
        assert_eq!(living, kept.iter().map(|(_, message)| message.id).collect::<Vec<_>>());
        same(&spool, &kept).await;
        spool.close().await.unwrap();
        let (spool, recovery) = open(path).await.unwrap();
        assert_eq!(recovery.notes, []);
        same(&spool, &kept).await;
        spool.close().await.unwrap();
    });
}

async fn accept_and_forget(spool: &Spool) {
    let message = accept(spool, 1).await;
    spool.done(message.id);
    spool.flush().await.unwrap();
}

#[test]
fn a_nearly_full_disk_takes_no_new_mail() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mut options = options(folder.path());
        options.min_free = u64::MAX;
        let factory = RunIndexFactory::new(folder.path(), Arc::new(SystemDisk), 1 << 20);
        let world = system(Arc::new(SystemDisk), 5, Workers::Threads);
        let (spool, _) = Spool::open(options, &world, Box::new(factory)).await.unwrap();
        assert_eq!(spool.begin().err(), Some(SpoolError::Full));
        assert_eq!(spool.space(), Err(SpoolError::Full));
        spool.close().await.unwrap();
        assert_eq!(spool.message(QueueId(1)).await, Err(SpoolError::Closed));
    });
}
