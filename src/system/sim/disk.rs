//! A disk in memory that can lose power after any operation, and come back as a real one might.
//!
//! What was synced is there afterwards. Of what wasn't, each write may be there, missing or torn, and of each folder's changes a
//! first part is there. Which, is decided by a seed alone.

mod faults;
mod file;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::faults::Faults;
use self::file::{SimFile, SimLock, SimSyncer};
use self::watch::Watcher;
pub use self::watch::{Operation, OperationKind};
use super::SimRandom;
use super::change::{Change, Naming};
use crate::system::{Disk, DiskFile, DiskLock, DiskSyncer, OpenMode};

/// The simulated disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    /// Shared with the snapshots as long as they are the same.
    inodes: Vec<Arc<Inode>>,
    folders: BTreeMap<PathBuf, Arc<Folder>>,
    locks: BTreeSet<PathBuf>,
    /// How often each file is open.
    handles: BTreeMap<usize, usize>,
    /// Operations that change something or sync it, so far.
    operations: u64,
    reads: u64,
    writes: u64,
    syncs: u64,
    namings: u64,
    faults: Faults,
    watcher: Option<Watcher>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What everyone reads.
    current: Vec<u8>,
    /// What is certain to outlive a crash.
    durable: Vec<u8>,
    /// What isn't certain yet, in order.
    pending: Vec<Change>,
    /// What a failed sync left behind: no later sync makes it certain.
    doubtful: Vec<Change>,
    /// A sync of the whole disk lost what was pending: the file's own next sync says so too, as Linux does.
    unreported: bool,
    allocated: u64,
}

#[derive(Clone, Debug, Default)]
struct Folder {
    current: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Naming>,
    /// Whether the folder itself is certain to outlive a crash.
    kept: bool,
}

impl Inode {
    /// Whether a crash can't change it.
    fn is_certain(&self) -> bool {
        self.pending.is_empty() && self.doubtful.is_empty()
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the power is gone")
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file", path.display()))
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far that change something or sync it: the points at which power can be lost.
    pub fn operations(&self) -> u64 {
        self.world().operations
    }

    /// Whether the power is gone.
    pub fn is_off(&self) -> bool {
        self.world().off()
    }

    /// Bytes in use: lengths of files with a name, and what is reserved for them.
    pub fn used(&self) -> u64 {
        self.world().used()
    }

    /// Inverts one bit of a file, on disk and for readers.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.find(path)?;
        let at = (bit / 8) as usize;
        let inode = Arc::make_mut(&mut world.inodes[inode]);
        for bytes in [&mut inode.current, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// Removes a folder with all below it, for good, as an operator does who syncs it, too.
    pub fn remove_folder(&self, path: &Path) {
        let mut world = self.world();
        world.folders.retain(|folder, _| !folder.starts_with(path));
        world.forget_nameless();
    }

    /// The disk as it comes back after the power went: without faults, nothing locked, everything on it certain.
    pub fn crashed(&self, seed: u64) -> SimDisk {
        let world = self.world();
        let mut random = SimRandom::new(seed);
        let mut after = World::default();
        for inode in &world.inodes {
            if inode.is_certain() {
                after.inodes.push(inode.clone());
                continue;
            }
            let mut bytes = inode.durable.clone();
            for change in inode.doubtful.iter().chain(&inode.pending) {
                change.survive(&mut bytes, &mut random);
            }
            let allocated = inode.allocated.max(bytes.len() as u64);
            after.inodes.push(Arc::new(Inode { current: bytes.clone(), durable: bytes, allocated, ..Inode::default() }));
        }
        for (path, folder) in &world.folders {
            // A folder is as certain as the names in it: those that nothing synced may be gone, and with them all below.
            let kept = random.below(folder.pending.len() as u64 + 1) as usize;
            if !folder.kept && random.below(2) > 0 {
                continue;
            }
            if folder.kept && folder.pending.is_empty() {
                after.folders.insert(path.clone(), folder.clone());
                continue;
            }
            let mut names = folder.durable.clone();
            folder.pending.iter().take(kept).for_each(|naming| naming.apply(&mut names));
            let folder = Folder { current: names.clone(), durable: names, kept: true, ..Folder::default() };
            after.folders.insert(path.clone(), Arc::new(folder));
        }
        let orphans = after.folders.keys().filter(|path| !has_parents(path, &after.folders)).cloned();
        for path in orphans.collect::<Vec<_>>() {
            after.folders.remove(&path);
        }
        after.forget_nameless();
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// The disk after the process was killed and the power stayed: everything written is there, synced or not. No faults.
    pub fn killed(&self) -> SimDisk {
        let mut after = self.world().snapshot();
        after.forget_nameless();
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// How many changes of files and names a crash may still take back.
    pub fn uncertain(&self) -> usize {
        let world = self.world();
        let files = world.inodes.iter().map(|inode| inode.pending.len() + inode.doubtful.len());
        files.chain(world.folders.values().map(|folder| folder.pending.len())).sum()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether all simulated folders above one are there too; a path's first part needs none.
fn has_parents(path: &Path, folders: &BTreeMap<PathBuf, Arc<Folder>>) -> bool {
    path.ancestors().skip(1).all(|parent| is_top(parent) || folders.contains_key(parent))
}

fn is_top(path: &Path) -> bool {
    path.parent().is_none() || path.as_os_str().is_empty()
}

impl World {
    fn off(&self) -> bool {
        self.faults.crash_after.is_some_and(|last| self.operations > last)
    }

    /// Nothing works without power.
    fn check(&self) -> io::Result<()> {
        if self.off() { Err(power_lost()) } else { Ok(()) }
    }

    /// Counts an operation. An error: the power went before it. `false`: the power goes with it.
    fn count(&mut self) -> io::Result<bool> {
        self.check()?;
        self.faults.unchangeable.map_or(Ok(()), |error| Err(io::Error::from_raw_os_error(error)))?;
        self.operations += 1;
        Ok(!self.off())
    }

    /// Files and names, without anything else.
    fn snapshot(&self) -> World {
        World { inodes: self.inodes.clone(), folders: self.folders.clone(), ..World::default() }
    }

    /// Bytes that no name leads to any more need no memory.
    fn forget_nameless(&mut self) {
        let names = |folder: &Arc<Folder>| {
            let pending = folder.pending.iter().filter_map(Naming::inode);
            folder.current.values().chain(folder.durable.values()).copied().chain(pending).collect::<Vec<_>>()
        };
        let named: BTreeSet<usize> = self.folders.values().flat_map(names).collect();
        let nothing = Arc::new(Inode::default());
        for (inode, bytes) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&inode) && !self.handles.contains_key(&inode) {
                *bytes = nothing.clone();
            }
        }
    }

    /// Tells who watches what was done; before a sync, which the power wouldn't let come to its end.
    fn tell(&self, kind: OperationKind, path: &Path, data: (u64, &[u8]), failed: Option<io::ErrorKind>) {
        if let Some(watcher) = self.watcher.clone() {
            let (offset, bytes) = data;
            watcher.call(&Operation { number: self.operations - 1, kind, path, offset, bytes, failed, world: self });
        }
    }

    fn folder(&self, path: &Path) -> io::Result<(&Folder, String)> {
        let name = path.file_name().ok_or_else(|| missing(path))?.to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = self.folders.get(folder).ok_or_else(|| missing(folder))?;
        Ok((folder, name))
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let (folder, name) = self.folder(path)?;
        folder.current.get(&name).copied().ok_or_else(|| missing(path))
    }

    /// Changes names; what the power still lets through is decided by `crashed`.
    fn name(&mut self, path: &Path, kind: OperationKind, naming: Naming) -> io::Result<()> {
        let on = self.count()?;
        if self.naming_fails() {
            self.tell(kind, path, (0, &[]), Some(io::ErrorKind::Other));
            return Err(io::Error::from_raw_os_error(5));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = Arc::make_mut(self.folders.get_mut(parent).ok_or_else(|| missing(parent))?);
        naming.apply(&mut folder.current);
        folder.pending.push(naming);
        self.tell(kind, path, (0, &[]), None);
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn naming_fails(&mut self) -> bool {
        self.namings += 1;
        self.faults.fail_namings.contains(&(self.namings - 1))
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<usize> = self.folders.values().flat_map(|folder| folder.current.values().copied()).collect();
        named.into_iter().map(|inode| self.inodes[inode].allocated.max(self.inodes[inode].current.len() as u64)).sum()
    }

    fn room(&self, inode: usize, length: u64) -> io::Result<()> {
        let Faults { capacity, quota, .. } = self.faults;
        if capacity.is_none() && quota.is_none() {
            return Ok(());
        }
        let inode = &self.inodes[inode];
        let more = length.saturating_sub(inode.allocated.max(inode.current.len() as u64));
        let passes = |bound: Option<u64>| more > 0 && bound.is_some_and(|bound| self.used() + more > bound);
        if passes(capacity) {
            Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"))
        } else if passes(quota) {
            Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the quota is used up"))
        } else {
            Ok(())
        }
    }

    fn change(&mut self, inode: usize, change: Change) {
        let inode = Arc::make_mut(&mut self.inodes[inode]);
        change.apply(&mut inode.current);
        inode.pending.push(change);
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.world();
        world.check()?;
        if mode != OpenMode::CreateNew && world.faults.unopenable.as_deref() == Some(path) {
            return Err(io::Error::other("too many open files"));
        }
        let inode = match mode {
            OpenMode::Read | OpenMode::Write => world.find(path)?,
            OpenMode::CreateNew => {
                let (folder, name) = world.folder(path)?;
                if folder.current.contains_key(&name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = world.inodes.len();
                world.inodes.push(Arc::default());
                world.name(path, OperationKind::Create, Naming::Add(name, inode))?;
                inode
            }
        };
        *world.handles.entry(inode).or_default() += 1;
        Ok(Box::new(SimFile { disk: self.clone(), inode, writable: mode != OpenMode::Read, path: path.into() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check()?;
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !world.folders.contains_key(folder) {
                if !is_top(folder) && world.find(folder).is_ok() {
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{}: not a folder", folder.display())));
                }
                let on = world.count()?;
                world.folders.insert(folder.to_owned(), Arc::new(Folder { kept: is_top(folder), ..Folder::default() }));
                world.tell(OperationKind::CreateFolder, folder, (0, &[]), None);
                if !on {
                    return Err(power_lost());
                }
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.world();
        world.check()?;
        let folder = world.folders.get(path).ok_or_else(|| missing(path))?;
        let mut names: Vec<String> = folder.current.keys().cloned().collect();
        let below = world.folders.keys().filter(|folder| folder.parent() == Some(path));
        names.extend(below.filter_map(|folder| folder.file_name()).map(|name| name.to_string_lossy().into_owned()));
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check()?;
        let inode = world.find(from)?;
        let (_, old) = world.folder(from)?;
        let (_, new) = world.folder(to)?;
        if from.parent() == to.parent() {
            return world.name(to, OperationKind::Rename, Naming::Rename { from: old, to: new, inode });
        }
        // Across folders a crash may leave both names, never none.
        world.name(to, OperationKind::Rename, Naming::Add(new.clone(), inode))?;
        if let Some(folder) = to.parent().and_then(|parent| world.folders.get_mut(parent)) {
            Arc::make_mut(folder).durable.insert(new, inode);
        }
        world.name(from, OperationKind::Unlink, Naming::Remove(old))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check()?;
        let inode = world.find(from)?;
        let (folder, name) = world.folder(to)?;
        if folder.current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.name(to, OperationKind::Create, Naming::Add(name, inode))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.check()?;
        world.find(path)?;
        let (_, name) = world.folder(path)?;
        world.name(path, OperationKind::Unlink, Naming::Remove(name))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path == Path::new(".") { Path::new("") } else { path };
        let mut world = self.world();
        let on = world.count()?;
        if !world.folders.contains_key(path) {
            return Err(missing(path));
        }
        let fails = world.naming_fails();
        world.tell(OperationKind::SyncFolder, path, (0, &[]), fails.then_some(io::ErrorKind::Other));
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        if !on {
            return Err(power_lost());
        }
        for (name, folder) in &mut world.folders {
            if name == path && !folder.pending.is_empty() {
                let folder = Arc::make_mut(folder);
                folder.durable = folder.current.clone();
                folder.pending.clear();
            } else if name.parent() == Some(path) && !folder.kept {
                Arc::make_mut(folder).kept = true;
            }
        }
        world.forget_nameless();
        Ok(())
    }

    fn syncer(&self, path: &Path) -> io::Result<Box<dyn DiskSyncer>> {
        let world = self.world();
        world.check()?;
        if !world.folders.contains_key(path) {
            return Err(missing(path));
        }
        if world.faults.no_syncer {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Box::new(SimSyncer { disk: self.clone(), folder: path.into() }))
    }

    fn exists(&self, path: &Path) -> bool {
        let world = self.world();
        // A lock file that is held is there, though the simulation has no bytes for it.
        world.check().is_ok() && (world.folders.contains_key(path) || world.find(path).is_ok() || world.locks.contains(path))
    }

    fn available(&self, _: &Path) -> io::Result<u64> {
        let world = self.world();
        world.check()?;
        Ok(world.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(world.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut world = self.world();
        world.check()?;
        if !world.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(path: &str) -> (SimDisk, Box<dyn DiskFile>) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("a")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let file = disk.open(Path::new(path), OpenMode::CreateNew).unwrap();
        (disk, file)
    }

    #[test]
    fn what_is_synced_outlives_every_crash_and_nothing_else_is_certain() {
        let (disk, file) = disk_with("a/f");
        file.write_at(0, b"certain").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("a")).unwrap();
        file.write_at(7, b" or not").unwrap();
        let after = |seed| {
            let disk: Arc<dyn Disk> = Arc::new(disk.crashed(seed));
            disk.read(Path::new("a/f"), 100).unwrap()
        };
        let outcomes: BTreeSet<_> = (0..50).map(after).collect();
        assert!(outcomes.iter().all(|bytes| bytes.starts_with(b"certain")));
        assert_eq!(outcomes.len(), 2, "kept and lost");
        assert_eq!(after(3), after(3));
    }

    #[test]
    fn a_name_that_was_not_synced_may_vanish() {
        let (disk, file) = disk_with("a/f");
        file.sync_data().unwrap();
        let there = (0..50).filter(|seed| disk.crashed(*seed).exists(Path::new("a/f"))).count();
        assert!((1..50).contains(&there));
    }

    #[test]
    fn after_the_crash_nothing_works() {
        let (disk, file) = disk_with("a/f");
        disk.crash_after(1);
        file.write_at(0, b"x").unwrap();
        assert!(file.sync_data().is_err());
        assert!(file.write_at(0, b"x").is_err() && file.len().is_err() && disk.list(Path::new("a")).is_err());
        assert!(disk.is_off() && !disk.crashed(1).is_off());
    }

    #[test]
    fn a_failed_sync_leaves_its_bytes_in_doubt_for_ever() {
        let (disk, file) = disk_with("a/f");
        disk.sync_dir(Path::new("a")).unwrap();
        disk.fail_sync(0);
        file.write_at(0, b"x").unwrap();
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        let lengths: BTreeSet<u64> =
            (0..50).map(|seed| disk.crashed(seed).open(Path::new("a/f"), OpenMode::Read).unwrap().len().unwrap()).collect();
        assert_eq!(lengths, BTreeSet::from([0, 1]));
    }

    #[test]
    fn what_a_sync_of_the_whole_disk_lost_is_told_by_each_files_own_sync_too() {
        let (disk, file) = disk_with("a/f");
        file.write_at(0, b"x").unwrap();
        disk.fail_sync(0);
        assert!(disk.syncer(Path::new("a")).unwrap().sync().is_err());
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
    }

    #[test]
    fn a_full_disk_says_so() {
        let (disk, file) = disk_with("a/f");
        disk.set_capacity(Some(10));
        file.write_at(0, &[0; 10]).unwrap();
        assert_eq!(file.write_at(10, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.available(Path::new("a")).unwrap(), 0);
    }
}
