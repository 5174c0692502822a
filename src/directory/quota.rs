//! Quotas of Maildirs, as Maildir++ has them: `maildirsize` in the mailbox says how much may be in it and, in a line for each change,
//! how much is. Other programs that know it (Dovecot among them) keep the same file. State: when each was last counted anew, and what was found.
//!
//! Everything here blocks. A count that is wrong for a moment, after a crash or because two wrote at a time, is put right by counting
//! anew, which happens before anything is refused. Who delivers keeps the file up; who only asks writes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Quota;
use crate::mail::Timestamp;
use crate::system::{Disk, OpenMode};

/// The file's name.
const NAME: &str = "maildirsize";
/// A file longer than this is written anew, with one line; octets.
const FILE_SIZE_MAX: usize = 5120;
/// A mailbox that is full is counted anew only so often, when nothing in the file says that something changed.
const COUNT_INTERVAL_MILLIS: u64 = 15 * 60 * 1000;
/// Mailboxes whose last count is remembered; beyond that all are forgotten, which only costs another count.
const COUNTED_MAX: usize = 16 * 1024;

/// A number of octets and of messages: what is there, or what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Octets.
    pub octets: i64,
    /// Messages.
    pub messages: i64,
}

impl Usage {
    /// One message.
    pub fn of(size: u64) -> Self {
        Self { octets: i64::try_from(size).unwrap_or(i64::MAX), messages: 1 }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { octets: self.octets.saturating_add(other.octets), messages: self.messages.saturating_add(other.messages) }
    }
}

/// What may be there; 0: as much as anybody likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Limit {
    octets: i64,
    messages: i64,
}

impl Limit {
    fn has_room_for(self, usage: Usage) -> bool {
        (self.octets == 0 || usage.octets <= self.octets) && (self.messages == 0 || usage.messages <= self.messages)
    }
}

/// `1000000S,100C`
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { octets, messages: 0 } => write!(f, "{octets}S"),
            Self { octets: 0, messages } => write!(f, "{messages}C"),
            Self { octets, messages } => write!(f, "{octets}S,{messages}C"),
        }
    }
}

/// A file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    limit: Limit,
    usage: Usage,
    /// Lines of usage: one means that nothing changed since it was counted.
    lines: usize,
}

/// There is no room in the mailbox.
#[derive(Debug)]
pub struct Full {
    text: String,
    /// The message goes back.
    pub bounce: bool,
}

impl Full {
    /// What an error says of a full mailbox, if it is about one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Full {}

/// What is known of mailboxes' quotas.
#[derive(Debug, Default)]
pub struct Quotas {
    counted: Mutex<BTreeMap<PathBuf, Counted>>,
}

/// A count: when, what the file said then, and what there was.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Timestamp,
    said: Sizes,
    usage: Usage,
}

impl Quotas {
    /// Whether there is a file to be kept up, for a message that is `coming` and fits into a mailbox: an error with `Full` inside if it
    /// doesn't. `configured` is the domain's quota; without one, that in a file that is there counts.
    pub fn check(&self, disk: &dyn Disk, folder: &Path, now: Timestamp, configured: Quota, coming: Usage) -> io::Result<bool> {
        let wanted = limit(configured);
        let (limit, known) = match (read(disk, folder)?, wanted) {
            // What can't be read limits nothing of itself.
            (None | Some(None), None) => return Ok(false),
            (Some(Some(sizes)), _) if wanted.is_none_or(|wanted| wanted == sizes.limit) => (sizes.limit, Some(sizes)),
            (_, wanted) => (wanted.unwrap_or_default(), None),
        };
        let mut sizes = match known.filter(|sizes| sizes.lines < LINES_MAX) {
            Some(sizes) => sizes,
            None => self.count(disk, folder, now, limit)?,
        };
        if !limit.has_room_for(sizes.usage.plus(coming)) && (sizes.lines > 1 || self.is_old(folder, now)) {
            sizes = self.count(disk, folder, now, limit)?;
        }
        if limit.has_room_for(sizes.usage.plus(coming)) {
            return Ok(true);
        }
        let Usage { octets, messages } = sizes.usage;
        let text = format!("the mailbox is full: {octets} octets in {messages} messages of {limit}, and {} more", coming.octets);
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, Full { text, bounce: configured.bounce }))
    }

    /// Whether a message of this size would not fit; changes nothing. A mailbox without a sound file will be counted when mail is
    /// delivered to it, and has room until then.
    pub fn is_full(&self, disk: &dyn Disk, folder: &Path, now: Timestamp, configured: Quota, coming: Usage) -> io::Result<bool> {
        let Some(Some(said)) = read(disk, folder)? else { return Ok(false) };
        let limit = limit(configured).unwrap_or(said.limit);
        if limit.has_room_for(said.usage.plus(coming)) {
            return Ok(false);
        }
        let known = self.counted().get(folder).copied().filter(|counted| counted.said == said && counted.is_fresh(now));
        let usage = match known {
            Some(counted) => counted.usage,
            None => {
                let usage = count_all(disk, folder)?;
                self.remember(folder, Counted { at: now, said, usage });
                usage
            }
        };
        Ok(!limit.has_room_for(usage.plus(coming)))
    }

    /// Notes what has come, where there is a file; what fails is made good by the next count.
    pub fn add(&self, disk: &dyn Disk, folder: &Path, come: Usage) {
        let _ = disk.append(&folder.join(NAME), format!("{} {}\n", come.octets, come.messages).as_bytes());
    }

    fn is_old(&self, folder: &Path, now: Timestamp) -> bool {
        !self.counted().get(folder).is_some_and(|counted| counted.is_fresh(now))
    }

    fn counted(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, folder: &Path, found: Counted) {
        let mut counted = self.counted();
        if counted.len() >= COUNTED_MAX {
            counted.clear();
        }
        counted.insert(folder.to_owned(), found);
    }

    /// Counts all messages, and writes the file anew; what fails at that, perhaps because another does the same, is made good by the next
    /// count.
    fn count(&self, disk: &dyn Disk, folder: &Path, now: Timestamp, limit: Limit) -> io::Result<Sizes> {
        let usage = count_all(disk, folder)?;
        let line = format!("{limit}\n{} {}\n", usage.octets, usage.messages);
        let _ = disk.replace(&folder.join(NAME), line.as_bytes());
        let said = Sizes { limit, usage, lines: 1 };
        self.remember(folder, Counted { at: now, said, usage });
        Ok(said)
    }
}

impl Counted {
    fn is_fresh(&self, now: Timestamp) -> bool {
        now.since(self.at).as_millis() < u128::from(COUNT_INTERVAL_MILLIS)
    }
}

fn limit(configured: Quota) -> Option<Limit> {
    configured.octets.map(|octets| Limit { octets: i64::try_from(octets).unwrap_or(i64::MAX), messages: 0 })
}

/// What the file says, if it can be understood; none if there is no file.
fn read(disk: &dyn Disk, folder: &Path) -> io::Result<Option<Option<Sizes>>> {
    match disk.read(&folder.join(NAME), 16 * FILE_SIZE_MAX as u64) {
        Ok(bytes) => Ok(Some(parse(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Some(None)),
        Err(error) => Err(error),
    }
}

/// All messages of a mailbox.
fn count_all(disk: &dyn Disk, folder: &Path) -> io::Result<Usage> {
    let mut usage = count_folder(disk, folder)?;
    for name in disk.list(folder)? {
        // Folders below are `.Name`; what is in the trash doesn't count.
        let is_folder = name.starts_with('.') && name != ".Trash" && disk.exists(&folder.join(&name).join("cur"));
        if is_folder {
            usage = usage.plus(count_folder(disk, &folder.join(name))?);
        }
    }
    Ok(usage)
}

/// The messages of one folder.
fn count_folder(disk: &dyn Disk, folder: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for part in ["new", "cur"].map(|part| folder.join(part)) {
        let names = match disk.list(&part) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for name in names.iter().filter(|name| !name.starts_with('.') && !is_trashed(name)) {
            let size = match size_in(name) {
                Some(size) => size,
                // It may have been renamed or removed by a reader meanwhile.
                None => disk.open(&part.join(name), OpenMode::Read).and_then(|file| file.len()).unwrap_or(0),
            };
            usage = usage.plus(Usage::of(size));
        }
    }
    Ok(usage)
}

/// The size that a name tells: `,S=123`.
fn size_in(name: &str) -> Option<u64> {
    let (_, behind) = name.split_once(",S=")?;
    let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
    behind[..end].parse().ok()
}

/// Whether a reader marked it for removal.
fn is_trashed(name: &str) -> bool {
    name.rsplit_once(":2,").is_some_and(|(_, flags)| flags.contains('T'))
}

/// Lines of a file that isn't written anew: shorter ones than `0 0` there aren't, and few are longer than 25 octets.
const LINES_MAX: usize = FILE_SIZE_MAX / 25;

/// Reads a file; none if it is malformed.
fn parse(bytes: &[u8]) -> Option<Sizes> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let limit = parse_limit(lines.next()?)?;
    let mut sizes = Sizes { limit, usage: Usage::default(), lines: 0 };
    for line in lines {
        let (octets, messages) = line.trim().split_once(' ')?;
        let change = Usage { octets: octets.parse().ok()?, messages: messages.trim().parse().ok()? };
        sizes.usage = sizes.usage.plus(change);
        sizes.lines += 1;
    }
    Some(sizes)
}

fn parse_limit(line: &str) -> Option<Limit> {
    let mut limit = Limit::default();
    for part in line.trim().split(',') {
        let (at, kind) = part.char_indices().last()?;
        let number = part[..at].parse::<i64>().ok().filter(|number| *number >= 0)?;
        match kind {
            'S' => limit.octets = number,
            'C' => limit.messages = number,
            _ => {}
        }
    }
    Some(limit)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::system::sim::SimDisk;

    const BOX: &str = "/mail/ann";

    fn disk(files: &[(&str, usize)]) -> Arc<SimDisk> {
        let disk = Arc::new(SimDisk::new());
        let on: &dyn Disk = &*disk;
        for folder in ["new", "cur", ".Sent/cur", ".Sent/new", ".Trash/cur", ".other"] {
            on.create_dir_all(&Path::new(BOX).join(folder)).unwrap();
        }
        for (name, size) in files {
            put(on, name, &vec![b'x'; *size]);
        }
        disk
    }

    fn put(disk: &dyn Disk, name: &str, bytes: &[u8]) {
        disk.open(&Path::new(BOX).join(name), OpenMode::CreateNew).unwrap().write_at(0, bytes).unwrap();
    }

    fn file(disk: &dyn Disk) -> String {
        String::from_utf8(disk.read(&Path::new(BOX).join(NAME), 1 << 20).unwrap()).unwrap()
    }

    const NONE: Quota = Quota { octets: None, bounce: false };

    fn quota(octets: u64) -> Quota {
        Quota { octets: Some(octets), bounce: true }
    }

    #[test]
    fn files_are_read_as_others_write_them() {
        let sizes = parse(b"1000S,10C\n 100 2\n-30 -1\n").unwrap();
        assert_eq!((sizes.limit, sizes.lines), (Limit { octets: 1000, messages: 10 }, 2));
        assert_eq!(sizes.usage, Usage { octets: 70, messages: 1 });
        for (text, said) in [("5C,7S", "7S,5C"), ("0S", "0S"), ("12S", "12S"), ("3C", "3C"), ("1S,2X", "1S")] {
            assert_eq!(parse_limit(text).map(|limit| limit.to_string()).as_deref(), Some(said), "{text}");
        }
        for wrong in ["", "S", "x", "-1S", "1S\nx y\n", "1S\n1\n", "1S\n\n", "\u{e9}"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(
            (size_in("1.M2_3R0.host,S=123:2,S"), size_in("1.host,S=9"), size_in("1.host"), size_in("a,S=x")),
            (Some(123), Some(9), None, None)
        );
        assert_eq!(["1:2,ST", "1:2,S", "1T"].map(is_trashed), [true, false, false]);
    }

    #[test]
    fn what_is_there_is_counted_once_and_kept_up() {
        let disk = disk(&[
            ("cur/1.host,S=100:2,S", 100),
            ("new/2.host", 50),
            (".Sent/cur/3.host,S=7", 7),
            ("cur/4.host,S=1000:2,T", 1000),
            (".Trash/cur/5.host,S=1000", 1000),
        ]);
        let (disk, quotas, folder): (&dyn Disk, _, _) = (&*disk, Quotas::default(), Path::new(BOX));
        let now = Timestamp::from_millis(1_000_000_000);
        assert!(!quotas.check(disk, folder, now, NONE, Usage::of(1 << 40)).unwrap(), "no quota");
        assert!(quotas.check(disk, folder, now, quota(200), Usage::of(43)).unwrap());
        assert_eq!(file(disk), "200S\n157 3\n");
        quotas.add(disk, folder, Usage::of(43));
        assert_eq!(file(disk), "200S\n157 3\n43 1\n");
        // The file says that it is full; a count says that it isn't, for nothing was written.
        quotas.check(disk, folder, now, quota(200), Usage::of(43)).unwrap();
        assert_eq!(file(disk), "200S\n157 3\n");
        // Another quota: counted anew. Without one, the file's counts.
        quotas.check(disk, folder, now, quota(300), Usage::of(143)).unwrap();
        assert_eq!(file(disk), "300S\n157 3\n");
        let full = quotas.check(disk, folder, now, NONE, Usage::of(144)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(full.to_string(), "the mailbox is full: 157 octets in 3 messages of 300S, and 144 more");
        assert!(!full.get_ref().unwrap().downcast_ref::<Full>().unwrap().bounce);
        // A reader that doesn't know the file makes room: that is found out after a while.
        disk.unlink(&folder.join("cur/1.host,S=100:2,S")).unwrap();
        assert!(quotas.check(disk, folder, now, NONE, Usage::of(144)).is_err());
        let later = now.plus(Duration::from_secs(15 * 60));
        quotas.check(disk, folder, later, NONE, Usage::of(144)).unwrap();
        // One that knows it is believed at once.
        assert!(quotas.check(disk, folder, later, NONE, Usage::of(244)).is_err());
        disk.unlink(&folder.join("new/2.host")).unwrap();
        quotas.add(disk, folder, Usage { octets: -50, messages: -1 });
        quotas.check(disk, folder, later, NONE, Usage::of(293)).unwrap();
    }

    #[test]
    fn who_only_asks_counts_where_the_file_says_full_and_writes_nothing() {
        let disk = disk(&[("cur/1.host,S=100", 100), ("new/2.host,S=50", 50)]);
        let (disk, quotas, folder): (&dyn Disk, _, _) = (&*disk, Quotas::default(), Path::new(BOX));
        let now = Timestamp::from_millis(1_000_000_000);
        let is_full = |at, wanted, coming| quotas.is_full(disk, folder, at, wanted, Usage::of(coming)).unwrap();
        assert!(!is_full(now, quota(10), 1), "nobody counted yet");
        put(disk, NAME, b"200S\n140 2\n70 1\n");
        // Two were removed by a reader that doesn't know the file.
        assert!(
            !is_full(now, quota(200), 50)
                && is_full(now, quota(200), 51)
                && is_full(now, NONE, 51)
                && !is_full(now, quota(300), 51)
        );
        assert_eq!(file(disk), "200S\n140 2\n70 1\n");
        disk.unlink(&folder.join("cur/1.host,S=100")).unwrap();
        assert!(is_full(now, quota(200), 51), "counted a moment ago");
        assert!(!is_full(now.plus(Duration::from_secs(15 * 60)), quota(200), 51));
        // A reader that knows the file is believed at once.
        quotas.add(disk, folder, Usage { octets: -100, messages: -1 });
        assert!(!is_full(now, quota(200), 51));
    }

    #[test]
    fn messages_count_where_the_file_says_so_and_long_or_broken_files_are_written_anew() {
        let disk = disk(&[("cur/1.host,S=100", 100)]);
        let (disk, quotas, folder): (&dyn Disk, _, _) = (&*disk, Quotas::default(), Path::new(BOX));
        let now = Timestamp::from_millis(1_000_000_000);
        put(disk, NAME, b"0S,2C\n100 1\n");
        quotas.check(disk, folder, now, NONE, Usage::of(1 << 40)).unwrap();
        assert!(quotas.check(disk, folder, now, NONE, Usage::of(1).plus(Usage::of(1))).is_err());
        for broken in ["no quota\n1 1\n".to_owned(), format!("500S\n{}", "1 1\n".repeat(400)), "x".repeat(200_000)] {
            disk.replace(&folder.join(NAME), broken.as_bytes()).unwrap();
            quotas.check(disk, folder, now, quota(500), Usage::of(400)).unwrap();
            assert_eq!(file(disk), "500S\n100 1\n");
        }
        disk.replace(&folder.join(NAME), b"rubbish").unwrap();
        quotas.check(disk, folder, now, NONE, Usage::of(1 << 40)).unwrap();
    }

    #[test]
    fn a_file_that_can_not_be_written_anew_stops_no_delivery() {
        for failing in 0..3 {
            let disk = disk(&[("cur/1.host,S=100", 100)]);
            disk.fail_naming(failing);
            let check = |coming| Quotas::default().check(&*disk, Path::new(BOX), Timestamp::ZERO, quota(200), Usage::of(coming));
            assert!(check(100).unwrap());
            assert!(check(101).is_err_and(|error| Full::of(&error).is_some()));
        }
    }

    #[test]
    fn who_counts_a_mailbox_at_the_same_time_as_another_disturbs_nobody() {
        let disk = disk(&[("cur/1.host,S=100", 100)]);
        let quotas = Quotas::default();
        // A quota that is never the one in the file is counted for each time.
        let check = |octets| quotas.check(&*disk, Path::new(BOX), Timestamp::ZERO, quota(octets), Usage::of(100)).unwrap();
        std::thread::scope(|scope| {
            for octets in [200, 300] {
                scope.spawn(move || (0..200).for_each(|more| assert!(check(octets + more % 2))));
            }
        });
    }

    proptest::proptest! {
        /// The file is whoever's mailbox it is: nothing in it stops a delivery but a limit that is really there.
        #[test]
        fn no_file_makes_the_check_fail(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), lines in "([0-9SC,-]{0,20}\n){0,4}") {
            for content in [bytes, lines.into_bytes()] {
                let disk = disk(&[]);
                put(&*disk, NAME, &content);
                let checked = Quotas::default().check(&*disk, Path::new(BOX), Timestamp::ZERO, NONE, Usage::of(1));
                let full = checked.as_ref().err().is_some_and(|error| error.kind() == io::ErrorKind::QuotaExceeded);
                proptest::prop_assert!(checked.is_ok() || full, "{:?}", checked);
            }
        }
    }
}
