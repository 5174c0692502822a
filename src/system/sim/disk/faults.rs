//! What goes wrong with the simulated disk, and how a test asks for it.

use super::*;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) crash_after: Option<u64>,
    pub(super) fail_writes: BTreeSet<u64>,
    pub(super) fail_syncs: BTreeSet<u64>,
    pub(super) fail_namings: BTreeSet<u64>,
    pub(super) wrong_reads: BTreeSet<u64>,
    pub(super) unopenable: Option<PathBuf>,
    /// Which bytes of files the medium doesn't give.
    pub(super) unreadable: BTreeMap<usize, Range<u64>>,
    pub(super) unchangeable: Option<i32>,
    pub(super) no_syncer: bool,
    pub(super) capacity: Option<u64>,
    pub(super) quota: Option<u64>,
}

impl SimDisk {
    /// The power goes with operation `count` (counted from now): that one may still reach the disk, but fails like all later ones.
    pub fn crash_after(&self, count: u64) {
        let mut world = self.world();
        world.faults.crash_after = Some(world.operations + count);
    }

    /// The `count`-th sync of a file from now (0 is the next) fails with EIO, and what it should have made durable is in doubt for ever.
    pub fn fail_sync(&self, count: u64) {
        let mut world = self.world();
        let at = world.syncs + count;
        world.faults.fail_syncs.insert(at);
    }

    /// The `count`-th write from now (0 is the next) fails with EIO after a part of it.
    pub fn fail_write(&self, count: u64) {
        let mut world = self.world();
        let at = world.writes + count;
        world.faults.fail_writes.insert(at);
    }

    /// The `count`-th change of a name, or sync of a folder, from now (0 is the next) fails with EIO and does nothing.
    pub fn fail_naming(&self, count: u64) {
        let mut world = self.world();
        let at = world.namings + count;
        world.faults.fail_namings.insert(at);
    }

    /// The `count`-th read from now (0 is the next) gives a wrong octet, which isn't on the disk.
    pub fn read_wrongly(&self, count: u64) {
        let mut world = self.world();
        let at = world.reads + count;
        world.faults.wrong_reads.insert(at);
    }

    /// This file can't be opened, as when a process has no descriptors left; none: every file can again.
    pub fn fail_opening(&self, path: Option<&Path>) {
        self.world().faults.unopenable = path.map(Path::to_owned);
    }

    /// Whoever reads of these bytes of a file gets EIO, by whatever name the file is opened; an empty range: nobody any more.
    pub fn fail_reading(&self, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.find(path)?;
        world.faults.unreadable.insert(inode, bytes);
        Ok(())
    }

    /// Every change and every sync fails with this error number of the system (30 is EROFS, 5 EIO) and does nothing; none: no longer.
    pub fn fail_changes(&self, error: Option<i32>) {
        self.world().faults.unchangeable = error;
    }

    /// It can't be told whether a sync of the whole disk makes it durable.
    pub fn refuse_syncers(&self) {
        self.world().faults.no_syncer = true;
    }

    /// The disk holds this many bytes, then it is full; none: it is endless.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world().faults.capacity = bytes;
    }

    /// Whoever uses the disk may take this many bytes of it, however many are free; none: all.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.world().faults.quota = bytes;
    }
}
