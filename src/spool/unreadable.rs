//! Segments that the disk can't read. Such a segment leaves the log in its turn, like any other: its messages are accepted again, those whose
//! content can't be had as if that were lost. But its bytes stay, in `unreadable/`, beside a list of those messages, until each has its
//! content back or is gone. Owns that folder, and what memory knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SpoolError;
use super::index::Place;
use super::segment::{self, Layout};
use super::waits::Waits;
use crate::mail::QueueId;
use crate::system::Disk;

/// So many messages wait for such segments at the most: a bound on memory, some 20 MB. A segment with more stays in the log.
const CLAIMS_MAX: usize = 1 << 18;
/// A list is never longer.
const LIST_SIZE_MAX: u64 = 64 << 20;
/// A segment is tried again after this time,
const TRY_FIRST: Duration = Duration::from_secs(1);
/// and in the end so often: a disk may need long to say that it can't read, and does nothing else meanwhile.
const TRY_LONGEST: Duration = Duration::from_secs(3600);

/// A message that waits for its content, and the record that has it.
pub(crate) type Claim = (QueueId, Place);

/// The segments that were set aside because they can't be read.
#[derive(Default)]
pub(crate) struct Unreadable(Mutex<Books>);

#[derive(Default)]
struct Books {
    claims: BTreeSet<Claim>,
    segments: BTreeMap<u64, Tries>,
}

/// How a segment is tried.
struct Tries {
    waits: Waits,
    /// Whether it was told in this run that it can't be read.
    told: bool,
    /// The next try begins there, where the last one gave up.
    from: u64,
}

impl Tries {
    fn new() -> Self {
        Self { waits: Waits::new(TRY_FIRST, TRY_LONGEST), told: false, from: 0 }
    }
}

/// The list of a segment's claims.
fn list_name(segment: u64) -> String {
    format!("{segment:08}.list")
}

/// A claim a line, then the checksum of those lines.
fn written<'a>(claims: impl Iterator<Item = &'a Claim>) -> String {
    let mut text = String::new();
    for (id, Place { offset, length, .. }) in claims {
        // Into a string nothing fails.
        let _ = writeln!(text, "{id} {offset} {length}");
    }
    let crc = crc32fast::hash(text.as_bytes());
    let _ = writeln!(text, "end {crc:08x}");
    text
}

fn read(segment: u64, text: &str) -> Option<Vec<Claim>> {
    let (lines, end) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let crc = u32::from_str_radix(end.strip_prefix("end ")?, 16).ok()?;
    let claim = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (offset, length) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((id, Place { segment, offset, length }))
    };
    (crc32fast::hash(&text.as_bytes()[..=lines.len()]) == crc).then(|| lines.lines().map(claim).collect()).flatten()
}

impl Unreadable {
    /// What earlier runs set aside, and which lists can't be read: their segments are left alone.
    pub(crate) fn load(disk: &dyn Disk, layout: &Layout) -> (Self, Vec<String>) {
        let (mut books, mut troubles) = (Books::default(), Vec::new());
        let names = if disk.exists(&layout.unreadable) { disk.list(&layout.unreadable) } else { Ok(Vec::new()) };
        let names = names.unwrap_or_else(|error| {
            troubles.push(format!("can't list {}: {error}", layout.unreadable.display()));
            Vec::new()
        });
        for segment in names.iter().filter_map(|name| segment::number(name)) {
            let path = layout.unreadable.join(list_name(segment));
            let claims = disk.read(&path, LIST_SIZE_MAX).map_err(|error| error.to_string()).and_then(|bytes| {
                let claims = std::str::from_utf8(&bytes).ok().and_then(|text| read(segment, text));
                claims.ok_or_else(|| "it is damaged".to_owned())
            });
            match claims {
                Ok(claims) => {
                    books.claims.extend(claims);
                    books.segments.insert(segment, Tries::new());
                }
                Err(why) => troubles.push(format!("can't read {}: {why}", path.display())),
            }
        }
        (Self(Mutex::new(books)), troubles)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the content lies of a message that has it nowhere else.
    pub(crate) fn of(&self, id: QueueId) -> Option<Place> {
        // Of several records with the same content the last.
        let books = self.books();
        books.claims.range((id, Place::default())..).take_while(|claim| claim.0 == id).last().map(|(_, place)| *place)
    }

    /// Whether a segment's bytes are kept.
    pub(crate) fn holds(&self, segment: u64) -> bool {
        self.books().segments.contains_key(&segment)
    }

    /// Keeps a segment of the log under a second name for some messages more, durably. Nothing is read of it.
    pub(crate) fn keep(
        &self,
        disk: &dyn Disk,
        layout: &Layout,
        segment: u64,
        more: &[Claim],
        now: Duration,
    ) -> Result<(), SpoolError> {
        let (folder, to) = (&layout.unreadable, layout.unreadable_segment(segment));
        let list = {
            let books = self.books();
            if books.claims.len() + more.len() > CLAIMS_MAX {
                return Err(SpoolError::Io(format!("more than {CLAIMS_MAX} messages wait for segments that can't be read")));
            }
            if !books.segments.contains_key(&segment) && disk.exists(&to) {
                return Err(SpoolError::Io(format!("there is another {}", to.display())));
            }
            written(books.claims.iter().filter(|(_, place)| place.segment == segment).chain(more))
        };
        disk.create_dir_all(folder).map_err(|error| SpoolError::io("can't make", folder, &error))?;
        disk.sync_dir(&layout.root).map_err(|error| SpoolError::io("can't sync", &layout.root, &error))?;
        // First the list: a segment without one would never be removed.
        let path = folder.join(list_name(segment));
        disk.replace(&path, list.as_bytes()).map_err(|error| SpoolError::io("can't write", &path, &error))?;
        if !disk.exists(&to) {
            disk.link(&layout.segment(segment), &to).map_err(|error| SpoolError::io("can't make", &to, &error))?;
        }
        disk.sync_dir(folder).map_err(|error| SpoolError::io("can't sync", folder, &error))?;
        let mut books = self.books();
        books.claims.extend(more);
        let tries = books.segments.entry(segment).or_insert_with(Tries::new);
        tries.told = true;
        tries.waits.again(now);
        Ok(())
    }

    /// The segments whose time has come.
    pub(crate) fn due(&self, now: Duration) -> Vec<u64> {
        let books = self.books();
        books.segments.iter().filter(|(_, tries)| tries.waits.until() <= now).map(|(segment, _)| *segment).collect()
    }

    /// When the next one's time comes; none: there is none.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.books().segments.values().map(|tries| tries.waits.until()).min()
    }

    /// Who waits for a segment, in the order in which it is to be tried.
    pub(crate) fn claims(&self, segment: u64) -> Vec<Claim> {
        let books = self.books();
        let mut claims: Vec<Claim> = books.claims.iter().filter(|(_, place)| place.segment == segment).copied().collect();
        claims.sort_unstable_by_key(|(_, place)| *place);
        let from = books.segments.get(&segment).map_or(0, |tries| tries.from);
        let first = claims.partition_point(|(_, place)| place.offset < from);
        claims.rotate_left(first);
        claims
    }

    /// A message has its content back, or is gone.
    pub(crate) fn settle(&self, claim: &Claim) {
        self.books().claims.remove(claim);
    }

    /// A try has ended, perhaps without a look at some; it is due again later, sooner if content came back. Whether it is to be told that
    /// the rest didn't.
    pub(crate) fn tried(&self, segment: u64, untried: Option<Place>, restored: bool, now: Duration) -> bool {
        let mut books = self.books();
        let Some(tries) = books.segments.get_mut(&segment) else { return false };
        tries.from = untried.map_or(0, |place| place.offset);
        if restored {
            tries.waits.reset();
        }
        let is_rare = tries.waits.again(now);
        is_rare || !std::mem::replace(&mut tries.told, true)
    }

    /// Nobody waits for a segment any more: it is removed, its list last.
    pub(crate) fn remove(&self, disk: &dyn Disk, layout: &Layout, segment: u64) -> Result<(), SpoolError> {
        let folder = &layout.unreadable;
        for path in [layout.unreadable_segment(segment), folder.join(list_name(segment))] {
            match disk.unlink(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SpoolError::io("can't remove", &path, &error));
                }
                _ => disk.sync_dir(folder).map_err(|error| SpoolError::io("can't sync", folder, &error))?,
            }
        }
        self.books().segments.remove(&segment);
        Ok(())
    }
}

/// At start-up: lists whose segment isn't there belong to none that was set aside, and are removed.
pub(crate) fn remove_leftovers(disk: &dyn Disk, layout: &Layout) {
    let folder = &layout.unreadable;
    let names = if disk.exists(folder) { disk.list(folder).unwrap_or_default() } else { Vec::new() };
    for name in names {
        let segment = name.split_once(".list").map(|(number, _)| format!("{number}.seg"));
        if segment.is_some_and(|segment| !disk.exists(&folder.join(segment))) {
            // Another time.
            let _ = disk.unlink(&folder.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: u64, segment: u64, offset: u64) -> Claim {
        (QueueId(id), Place { segment, offset, length: 100 })
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_not_at_all_if_anything_is_damaged() {
        for count in [0, 1, 3] {
            let claims: Vec<Claim> = (0..count).map(|number| claim(7 + number, 3, 4096 * number)).collect();
            let text = written(claims.iter());
            if count > 0 {
                assert_eq!(read(3, &text), Some(claims));
            }
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                assert_eq!(read(3, std::str::from_utf8(&bytes).unwrap()), None, "{at}");
                assert_eq!(read(3, &text[..at]), None, "{at}");
            }
        }
    }

    #[test]
    fn a_try_begins_where_the_last_one_gave_up() {
        let unreadable = Unreadable::default();
        let all = [claim(3, 1, 10), claim(2, 1, 20), claim(1, 1, 30), claim(1, 2, 5)];
        unreadable.books().claims.extend(all);
        unreadable.books().segments.insert(1, Tries::new());
        assert_eq!(unreadable.claims(1), all[..3]);
        assert_eq!((unreadable.of(QueueId(1)), unreadable.of(QueueId(9))), (Some(all[3].1), None));
        assert!(unreadable.tried(1, Some(all[1].1), false, Duration::ZERO), "it is told once in a run");
        assert_eq!(unreadable.claims(1), [all[1], all[2], all[0]]);
        assert!(!unreadable.tried(1, None, true, Duration::ZERO));
        assert_eq!((unreadable.claims(1), unreadable.next_due()), (all[..3].to_vec(), Some(TRY_FIRST)));
    }
}
