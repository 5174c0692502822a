//! Open files and locks of the simulated disk.

use super::*;

pub(super) struct SimLock {
    pub(super) disk: SimDisk,
    pub(super) path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.world().locks.remove(&self.path);
    }
}

pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: usize,
    pub(super) writable: bool,
    pub(super) path: Arc<Path>,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let handles = &mut self.disk.world().handles;
        match handles.get_mut(&self.inode) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(handles.remove(&self.inode)),
        }
    }
}

impl SimFile {
    fn writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

/// Syncs the whole disk.
pub(super) struct SimSyncer {
    pub(super) disk: SimDisk,
    pub(super) folder: Arc<Path>,
}

impl DiskSyncer for SimSyncer {
    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let on = world.count()?;
        let number = world.syncs;
        world.syncs += 1;
        let fails = world.faults.fail_syncs.contains(&number);
        world.tell(OperationKind::SyncFolder, &self.folder, (0, &[]), fails.then_some(io::ErrorKind::Other));
        if !on {
            return Err(power_lost());
        }
        for inode in world.inodes.iter_mut().filter(|inode| !inode.pending.is_empty()) {
            let inode = Arc::make_mut(inode);
            let pending = std::mem::take(&mut inode.pending);
            if fails {
                inode.doubtful.extend(pending);
                inode.unreported = true;
            } else {
                pending.into_iter().for_each(|change| change.apply(&mut inode.durable));
            }
        }
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        for folder in world.folders.values_mut().map(Arc::make_mut) {
            folder.durable = folder.current.clone();
            folder.pending.clear();
            folder.kept = true;
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.check()?;
        world.reads += 1;
        let is_wrong = world.faults.wrong_reads.contains(&(world.reads - 1));
        let rest = world.inodes[self.inode].current.get(offset as usize..).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        let is_bad = |bad: &Range<u64>| offset < bad.end && bad.start < offset + count as u64;
        if world.faults.unreadable.get(&self.inode).is_some_and(is_bad) {
            return Err(io::Error::from_raw_os_error(5));
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        if let Some(octet) = buffer[..count].last_mut().filter(|_| is_wrong) {
            *octet ^= 1;
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        let number = world.writes;
        world.writes += 1;
        let fails = world.faults.fail_writes.contains(&number);
        let part = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        if !fails && let Err(error) = world.room(self.inode, offset + bytes.len() as u64) {
            world.tell(OperationKind::Write, &self.path, (offset, &[]), Some(error.kind()));
            return Err(error);
        }
        world.change(self.inode, Change::Write { offset, bytes: part.to_vec() });
        world.tell(OperationKind::Write, &self.path, (offset, part), fails.then_some(io::ErrorKind::Other));
        match (fails, on) {
            (true, _) => Err(io::Error::from_raw_os_error(5)),
            (false, true) => Ok(()),
            (false, false) => Err(power_lost()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let on = world.count()?;
        let number = world.syncs;
        world.syncs += 1;
        let unreported = world.inodes[self.inode].unreported;
        let fails = world.faults.fail_syncs.contains(&number) || unreported;
        if fails {
            let inode = Arc::make_mut(&mut world.inodes[self.inode]);
            inode.unreported = false;
            let pending = std::mem::take(&mut inode.pending);
            inode.doubtful.extend(pending);
        }
        world.tell(OperationKind::Sync, &self.path, (0, &[]), fails.then_some(io::ErrorKind::Other));
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        if !on {
            return Err(power_lost());
        }
        if !world.inodes[self.inode].pending.is_empty() {
            let inode = Arc::make_mut(&mut world.inodes[self.inode]);
            for change in std::mem::take(&mut inode.pending) {
                change.apply(&mut inode.durable);
            }
        }
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        let room = world.room(self.inode, length);
        if room.is_ok() {
            let inode = Arc::make_mut(&mut world.inodes[self.inode]);
            inode.allocated = inode.allocated.max(length);
        }
        world.tell(OperationKind::Allocate, &self.path, (length, &[]), room.as_ref().err().map(io::Error::kind));
        room?;
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        let room = world.room(self.inode, length);
        if room.is_ok() {
            world.change(self.inode, Change::Length(length));
            Arc::make_mut(&mut world.inodes[self.inode]).allocated = length;
        }
        world.tell(OperationKind::Length, &self.path, (length, &[]), room.as_ref().err().map(io::Error::kind));
        room?;
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.disk.world();
        world.check()?;
        Ok(world.inodes[self.inode].current.len() as u64)
    }
}
