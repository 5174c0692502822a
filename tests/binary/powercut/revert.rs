//! The cut itself: reads the journal that powercut.c kept and takes back, from a seed, some of what wasn't synced. Sectors, lengths
//! and names each for themselves, as a disk and a file system may: what was synced stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::random::Random;

/// What a drive writes whole or not at all.
const SECTOR: u64 = 512;
const HEADER: usize = 64;
const MAGIC: u32 = 0x5455_4350;

/// What was taken back below one folder.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "printed")]
pub struct Taken {
    /// Sectors that have older bytes now.
    pub sectors: u64,
    /// Files that have an older length now.
    pub lengths: u64,
    /// Names made, removed or changed that aren't any more.
    pub names: u64,
}

impl std::ops::AddAssign for Taken {
    fn add_assign(&mut self, more: Self) {
        self.sectors += more.sectors;
        self.lengths += more.lengths;
        self.names += more.names;
    }
}

/// What was taken back.
#[derive(Clone, Debug, Default)]
#[allow(dead_code, reason = "printed")]
pub struct Reverted {
    /// By folder: `spool/log`, `spool/index`, …
    pub taken: BTreeMap<PathBuf, Taken>,
    /// Syncs of a file or folder that were seen, and of a whole file system.
    pub syncs: (u64, u64),
    /// Sectors and names that weren't synced and stayed all the same.
    pub spared: u64,
}

impl std::ops::AddAssign for Reverted {
    fn add_assign(&mut self, more: Self) {
        for (folder, taken) in more.taken {
            *self.taken.entry(folder).or_default() += taken;
        }
        self.spared += more.spared;
        self.syncs = (self.syncs.0 + more.syncs.0, self.syncs.1 + more.syncs.1);
    }
}

impl Reverted {
    /// What was taken back below a folder.
    pub fn below(&self, folder: &str) -> Taken {
        self.taken.get(Path::new(folder)).copied().unwrap_or_default()
    }

    /// The count that a file or name is in: that of its folder, of those one and two levels below the root.
    fn at(&mut self, root: &Path, path: &Path) -> &mut Taken {
        let folder = path.strip_prefix(root).ok().and_then(Path::parent).unwrap_or(Path::new(""));
        self.taken.entry(folder.iter().take(2).collect()).or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Length,
    Sync,
    Create,
    Link,
    Unlink,
    Rename,
    MakeFolder,
    RemoveFolder,
    Failed,
    SyncAll,
}

const KINDS: [Kind; 11] = [
    Kind::Write,
    Kind::Length,
    Kind::Sync,
    Kind::Create,
    Kind::Link,
    Kind::Unlink,
    Kind::Rename,
    Kind::MakeFolder,
    Kind::RemoveFolder,
    Kind::Failed,
    Kind::SyncAll,
];

/// An entry of the journal; powercut.c says what the fields mean.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    number: u64,
    inode: u64,
    other: u64,
    offset: u64,
    size: u64,
    name: String,
    new_name: String,
    bytes: Vec<u8>,
}

impl Entry {
    fn parse(journal: &mut &[u8]) -> Option<Self> {
        let (header, rest) = journal.split_at_checked(HEADER)?;
        let small = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let large = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap());
        assert_eq!(small(0), MAGIC, "the journal is in order");
        let (name, rest) = rest.split_at_checked(small(48) as usize)?;
        let (new_name, rest) = rest.split_at_checked(small(52) as usize)?;
        let (bytes, rest) = rest.split_at_checked(small(56) as usize)?;
        *journal = rest;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("names are text");
        Some(Self {
            kind: KINDS[small(4) as usize - 1],
            number: large(8),
            inode: large(16),
            other: large(24),
            offset: large(32),
            size: large(40),
            name: text(name),
            new_name: text(new_name),
            bytes: bytes.to_vec(),
        })
    }

    /// The length of the file after it.
    fn length(&self) -> u64 {
        if self.kind == Kind::Length { self.offset } else { self.other.max(self.offset + self.size) }
    }

    /// The bytes that it changed.
    fn range(&self) -> std::ops::Range<u64> {
        if self.kind == Kind::Length { self.offset..self.offset.max(self.other) } else { self.offset..self.offset + self.size }
    }

    /// Puts back what was in one sector before.
    fn undo(&self, file: &mut [u8], sector: u64) {
        let range = self.range();
        for at in range.start.max(sector * SECTOR)..range.end.min((sector + 1) * SECTOR) {
            file[at as usize] = self.bytes.get((at - range.start) as usize).copied().unwrap_or(0);
        }
    }

    /// The names it is about, each with its folder.
    fn names(&self) -> Vec<(u64, String)> {
        let mut names = vec![(self.inode, self.name.clone())];
        if self.kind == Kind::Rename {
            names.push((self.other, self.new_name.clone()));
        }
        names
    }
}

/// How much of a file, or of all names, is lost.
#[derive(Clone, Copy)]
enum Loss {
    None,
    All,
    Some,
}

impl Loss {
    fn draw(random: &mut Random) -> Self {
        match random.between(0, 3) {
            0 => Self::None,
            1 => Self::All,
            _ => Self::Some,
        }
    }

    fn hits(self, random: &mut Random) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some => random.between(0, 1) == 0,
        }
    }
}

/// What the journal says is certain.
struct Certain {
    all: u64,
    by_inode: BTreeMap<u64, u64>,
}

impl Certain {
    fn of(journal: &[Entry]) -> Self {
        let mut certain = Self { all: 0, by_inode: BTreeMap::new() };
        for entry in journal {
            match entry.kind {
                Kind::Sync => {
                    let covered = certain.by_inode.entry(entry.inode).or_default();
                    *covered = entry.offset.max(*covered);
                }
                Kind::SyncAll => certain.all = certain.all.max(entry.offset),
                _ => {}
            }
        }
        certain
    }

    fn has(&self, inode: u64, number: u64) -> bool {
        number <= self.all || self.by_inode.get(&inode).is_some_and(|covered| number <= *covered)
    }
}

/// Cuts the power: what the killed process left below `root` becomes what a disk might show then. The notes are gone afterwards.
pub fn cut(root: &Path, notes: &Path, random: &mut Random) -> Reverted {
    let bytes = fs::read(notes.join("journal")).unwrap_or_default();
    let mut rest = &bytes[..];
    let journal: Vec<Entry> = std::iter::from_fn(|| Entry::parse(&mut rest)).collect();
    let certain = Certain::of(&journal);
    let count = |kind| journal.iter().filter(|entry| entry.kind == kind).count() as u64;
    let mut reverted = Reverted { syncs: (count(Kind::Sync), count(Kind::SyncAll)), ..Reverted::default() };
    let (mut files, mut folders) = (BTreeMap::new(), BTreeMap::new());
    walk(notes, &mut files, &mut folders);
    walk(root, &mut files, &mut folders);
    let mut changes: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for entry in &journal {
        if matches!(entry.kind, Kind::Write | Kind::Length) && !certain.has(entry.inode, entry.number) {
            changes.entry(entry.inode).or_default().push(entry);
        }
    }
    for (inode, changes) in changes {
        // One without a name left is gone anyway.
        if let Some(path) = files.get(&inode) {
            let spared = revert_bytes(path, &changes, random, reverted.at(root, path));
            reverted.spared += spared;
        }
    }
    revert_names(root, notes, &journal, &certain, random, &mut reverted);
    for entry in fs::read_dir(notes).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    reverted
}

/// Makes the journal what it is if the process is killed before each change that failed.
pub fn forget_failures(notes: &Path) {
    let bytes = fs::read(notes.join("journal")).unwrap();
    let (mut rest, mut kept) = (&bytes[..], Vec::new());
    loop {
        let from = bytes.len() - rest.len();
        let Some(entry) = Entry::parse(&mut rest) else { break };
        if entry.kind != Kind::Failed {
            kept.extend_from_slice(&bytes[from..bytes.len() - rest.len()]);
        }
    }
    fs::write(notes.join("journal"), kept).unwrap();
}

/// Files and folders by their inode.
fn walk(folder: &Path, files: &mut BTreeMap<u64, PathBuf>, folders: &mut BTreeMap<u64, PathBuf>) {
    folders.insert(fs::metadata(folder).unwrap().ino(), folder.to_owned());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            walk(&path, files, folders);
        } else if found.is_file() {
            files.insert(found.ino(), path);
        }
    }
}

/// Of each sector any state since the last sync may be what the disk has, and any length. Says how many sectors stayed.
fn revert_bytes(path: &Path, changes: &[&Entry], random: &mut Random, taken: &mut Taken) -> u64 {
    let mut spared = 0;
    let loss = Loss::draw(random);
    let mut bytes = fs::read(path).unwrap();
    let now = bytes.len() as u64;
    let mut lengths = vec![changes[0].other];
    lengths.extend(changes.iter().map(|change| change.length()));
    // The last change may not have been carried out.
    *lengths.last_mut().unwrap() = now;
    let ends = changes.iter().map(|change| change.range().end).chain(lengths.iter().copied());
    bytes.resize(ends.max().unwrap() as usize, 0);
    let mut sectors: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for change in changes {
        let range = change.range();
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            sectors.entry(sector).or_default().push(change);
        }
    }
    for (sector, changes) in sectors {
        if loss.hits(random) {
            let kept = if matches!(loss, Loss::All) { 0 } else { random.between(0, changes.len() as u64 - 1) as usize };
            changes[kept..].iter().rev().for_each(|change| change.undo(&mut bytes, sector));
            taken.sectors += 1;
        } else {
            spared += 1;
        }
    }
    let length = match loss {
        Loss::None => now,
        Loss::All => lengths[0],
        Loss::Some => lengths[random.between(0, lengths.len() as u64 - 1) as usize],
    };
    taken.lengths += u64::from(length != now);
    bytes.truncate(length as usize);
    // The inode stays the same: other names may lead to it.
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_len(length).unwrap();
    spared
}

/// Names are taken back from the last on; an earlier change of a name only if all later ones of it are.
fn revert_names(root: &Path, notes: &Path, journal: &[Entry], certain: &Certain, random: &mut Random, reverted: &mut Reverted) {
    let failed: BTreeSet<u64> = journal.iter().filter(|entry| entry.kind == Kind::Failed).map(|entry| entry.offset).collect();
    let loss = Loss::draw(random);
    let mut settled = BTreeSet::new();
    let mut folders = Folders::new(root);
    for entry in journal.iter().rev() {
        let folder = match entry.kind {
            Kind::Create | Kind::Link | Kind::Unlink | Kind::MakeFolder | Kind::RemoveFolder => entry.inode,
            Kind::Rename => entry.other,
            _ => continue,
        };
        if failed.contains(&entry.number) {
            continue;
        }
        let names = entry.names();
        let stays = certain.has(folder, entry.number) || names.iter().any(|name| settled.contains(name));
        if !stays && loss.hits(random) {
            let path = folders.path(entry.inode, &entry.name);
            let names = u64::from(revert_name(notes, entry, &mut folders));
            reverted.at(root, &path.unwrap_or_default()).names += names;
        } else {
            reverted.spared += u64::from(!stays);
            settled.extend(names);
        }
    }
}

/// Folders by their inode.
struct Folders {
    root: PathBuf,
    found: BTreeMap<u64, PathBuf>,
    /// Those that were removed and are there again, under another inode.
    again: BTreeMap<u64, u64>,
}

impl Folders {
    fn new(root: &Path) -> Self {
        let mut folders = Self { root: root.to_owned(), found: BTreeMap::new(), again: BTreeMap::new() };
        folders.look();
        folders
    }

    fn look(&mut self) {
        self.found.clear();
        walk(&self.root, &mut BTreeMap::new(), &mut self.found);
    }

    fn path(&self, inode: u64, name: &str) -> Option<PathBuf> {
        Some(self.found.get(self.again.get(&inode).unwrap_or(&inode))?.join(name))
    }
}

/// Takes one name back; says whether there was anything to do.
fn revert_name(notes: &Path, entry: &Entry, folders: &mut Folders) -> bool {
    let Some(path) = folders.path(entry.inode, &entry.name) else { return false };
    let kept = (entry.offset > 0).then(|| notes.join(format!("kept-{}", entry.offset)));
    let mut moved = matches!(entry.kind, Kind::MakeFolder | Kind::RemoveFolder);
    let done = match entry.kind {
        Kind::Create | Kind::Link => fs::remove_file(&path),
        Kind::Unlink => kept.map_or(Ok(()), |kept| fs::hard_link(kept, &path)),
        Kind::MakeFolder => fs::remove_dir_all(&path),
        Kind::RemoveFolder => fs::create_dir(&path).map(|()| {
            folders.again.insert(entry.other, fs::metadata(&path).unwrap().ino());
        }),
        _ => {
            let Some(new) = folders.path(entry.other, &entry.new_name) else { return false };
            // A rename that was announced and never made leaves both names as they were.
            if fs::symlink_metadata(&new).map_or(0, |found| found.ino()) != *folders.again.get(&entry.size).unwrap_or(&entry.size)
            {
                return false;
            }
            moved = new.is_dir();
            let back = fs::rename(&new, &path);
            back.and_then(|()| kept.map_or(Ok(()), |kept| fs::hard_link(kept, &new)))
        }
    };
    if moved {
        folders.look();
    }
    match done {
        Ok(()) => true,
        // The change that the entry announces was never made.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => false,
        Err(error) => panic!("can't take back {entry:?} at {}: {error}", path.display()),
    }
}
