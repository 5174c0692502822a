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
}

impl SimFile {
    fn writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

pub(super) struct SimSyncer(pub(super) SimDisk);

impl DiskSyncer for SimSyncer {
    fn sync(&self) -> io::Result<()> {
        let mut world = self.0.world();
        if !world.count()? {
            return Err(power_lost());
        }
        let number = world.syncs;
        world.syncs += 1;
        let fails = world.faults.fail_syncs.contains(&number);
        for inode in &mut world.inodes {
            let pending = std::mem::take(&mut inode.pending);
            if fails {
                inode.doubtful.extend(pending);
            } else {
                pending.into_iter().for_each(|change| change.apply(&mut inode.durable));
            }
        }
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        for folder in world.folders.values_mut() {
            folder.durable = folder.current.clone();
            folder.pending.clear();
            folder.kept = true;
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = self.disk.world();
        world.check()?;
        let rest = world.inodes[self.inode].current.get(offset as usize..).unwrap_or(&[]);
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        let number = world.writes;
        world.writes += 1;
        if world.faults.fail_writes.contains(&number) {
            let part = bytes[..bytes.len() / 2].to_vec();
            world.change(self.inode, Change::Write { offset, bytes: part });
            return Err(io::Error::from_raw_os_error(5));
        }
        world.room(self.inode, offset + bytes.len() as u64)?;
        world.change(self.inode, Change::Write { offset, bytes: bytes.to_vec() });
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let on = world.count()?;
        let number = world.syncs;
        world.syncs += 1;
        let fails = world.faults.fail_syncs.contains(&number);
        let inode = &mut world.inodes[self.inode];
        if fails {
            let pending = std::mem::take(&mut inode.pending);
            inode.doubtful.extend(pending);
            return Err(io::Error::from_raw_os_error(5));
        }
        if !on {
            return Err(power_lost());
        }
        for change in std::mem::take(&mut inode.pending) {
            change.apply(&mut inode.durable);
        }
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        world.room(self.inode, length)?;
        let inode = &mut world.inodes[self.inode];
        inode.allocated = inode.allocated.max(length);
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.world();
        let on = world.count()?;
        world.room(self.inode, length)?;
        world.change(self.inode, Change::Length(length));
        world.inodes[self.inode].allocated = length;
        if on { Ok(()) } else { Err(power_lost()) }
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.disk.world();
        world.check()?;
        Ok(world.inodes[self.inode].current.len() as u64)
    }
}
