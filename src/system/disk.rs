//! Files as a seam: the few operations that durable mail needs, each one countable and failable in simulation.

use std::fs::{DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::syncfs;
use super::watch::{FolderWatch, Inotify};
use crate::mail::Timestamp;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reading only.
    Read,
    /// Must exist; reading and writing.
    Write,
    /// Must not exist; reading and writing, mode 0600.
    CreateNew,
}

/// Whose a file is that somebody else made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The system user that it belongs to.
    pub user: u32,
    /// Whether it is a plain file that has this name alone: another name could have been given to a file of somebody else's.
    pub is_plain: bool,
    /// When it was last written to.
    pub modified: Timestamp,
}

/// Names of files, read from the disk as they are asked for.
pub type FileNames = Box<dyn Iterator<Item = io::Result<String>> + Send + Sync>;

/// Whether a folder can't be synced because we may not open it, or because nobody can make anything in it: then nothing in it is ours.
pub fn is_not_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput)
}

/// A folder's path as it can be opened: what is above a relative path is where we are.
pub fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// Makes durable the names of a folder and of those above it, also of those that were there before: whoever made one may have been
/// killed before the sync.
pub fn sync_above(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    folder.ancestors().skip(1).try_for_each(|above| match disk.sync_dir(or_here(above)) {
        Err(error) if is_not_ours(&error) => Ok(()),
        synced => synced,
    })
}

/// Blocking file operations. A path's parent folder must exist. After a crash only what was synced is certain: a file's bytes
/// by `sync_data`, a name (created, renamed, linked, unlinked) by `sync_dir` on its folder.
pub trait Disk: Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a folder and its parents, mode 0700; fine if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Names of files in a folder that others may fill, one by one and in no order; no subfolders.
    fn files(&self, path: &Path) -> io::Result<FileNames> {
        Ok(Box::new(self.list(path)?.into_iter().map(Ok)))
    }
    /// Opens a file that somebody else made, for reading, and tells whose it is. Follows no link and waits for nothing: `InvalidInput`
    /// for what is a link or a socket.
    fn open_strange(&self, path: &Path) -> io::Result<(Box<dyn DiskFile>, Origin)> {
        Ok((self.open(path, OpenMode::Read)?, Origin { is_plain: true, ..Origin::default() }))
    }
    /// Makes a new file, as `CreateNew` does, that the group may read which its folder gives it.
    fn create_for_group(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path, OpenMode::CreateNew)
    }
    /// Lets every user of the machine put files into a folder, and nobody remove another's; the files belong to the folder's
    /// group. Nothing happens if that is so already.
    fn share_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Lets every user of the machine pass through a folder, without seeing what is in it.
    fn let_pass(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Tells when files are renamed into a folder; none if this disk can't.
    fn watch(&self, _path: &Path) -> io::Result<Option<Box<dyn FolderWatch>>> {
        Ok(None)
    }
    /// Adds bytes to the end of a file that others add to as well; it must exist.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(path, OpenMode::Write)?;
        file.write_at(file.len()?, bytes)
    }
    /// Renames; replaces what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames; `AlreadyExists` if the new name is taken, `Unsupported` where that can't be told.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.link(from, to)?;
        self.unlink(from)
    }
    /// Gives a file a second name; `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// What makes everything durable that is written from now on to the disk that holds a folder, names and all: much cheaper for
    /// many files than a sync of each. `Unsupported` where nobody can tell whether it does.
    fn syncer(&self, path: &Path) -> io::Result<Box<dyn DiskSyncer>>;
    /// Whether the path exists.
    fn exists(&self, path: &Path) -> bool;
    /// Tells disks apart: the same number for all that one `syncer` makes durable.
    fn device(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }
    /// Bytes that may still be written on the disk that holds `path`.
    fn available(&self, path: &Path) -> io::Result<u64>;
    /// Gives a file the owner of another, where we may, and its mode; of a folder only the owner.
    fn copy_access(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Waits until no other process holds the folder's lock, and holds it until the guard is dropped.
    fn lock_dir(&self, _path: &Path) -> io::Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }
    /// Locks a file for this process as long as the guard is held, and makes it if it isn't there; `WouldBlock` if another
    /// process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// A held lock; dropping it lets go.
pub trait DiskLock: Send + Sync {}

/// Makes a whole disk durable.
pub trait DiskSyncer: Send + Sync {
    /// After an error nothing about what was written since the syncer was made is certain.
    fn sync(&self) -> io::Result<()>;
    /// Which disk that is: what `Disk::device` says of all that is on it.
    fn device(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at an offset; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's bytes and length durable (fdatasync). After an error nothing about earlier writes is certain.
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves disk space up to a length without changing the file's length.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads a whole small file through a `Disk`.
impl dyn Disk + '_ {
    /// The whole file, up to `size_max` bytes; `FileTooLarge` beyond.
    pub fn read(&self, path: &Path, size_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let length = file.len()?;
        if length > size_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {size_max} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(filled as u64, &mut bytes[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Replaces a file whole: written beside it, given the old one's mode, synced, renamed over it, folder synced.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        if self.exists(&beside) {
            self.unlink(&beside)?;
        }
        let file = self.open(&beside, OpenMode::CreateNew)?;
        file.write_at(0, bytes)?;
        if self.exists(path) {
            self.copy_access(path, &beside)?;
        }
        file.sync_data()?;
        self.rename(&beside, path)?;
        self.sync_dir(or_here(path.parent().unwrap_or(path)))
    }
}

/// Everybody may write, files belong to the folder's group, and only their owner and the folder's may remove them.
const SHARED_MODE: u32 = 0o3777;

/// Changes a folder's mode, unless it is right.
fn set_mode(path: &Path, wanted: impl Fn(u32) -> u32) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.mode() & 0o7777;
    if wanted(mode) == mode {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(wanted(mode)))
}

/// Opens without waiting for anybody: others may put a pipe where we look for a file, with nobody at its other end. Such a one is empty
/// for who reads, and can't be opened by who writes.
fn unwaiting() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    options
}

/// The machine's file system.
#[derive(Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = unwaiting();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Box::new(SystemFile(options.open(path)?)))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // In one call, so that the system puts it behind what others add at the same time.
        io::Write::write_all(&mut unwaiting().append(true).open(path)?, bytes)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn files(&self, path: &Path) -> io::Result<FileNames> {
        let is_folder = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let files = std::fs::read_dir(path)?.filter(move |entry| !entry.as_ref().is_ok_and(is_folder));
        Ok(Box::new(files.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))))
    }

    fn open_strange(&self, path: &Path) -> io::Result<(Box<dyn DiskFile>, Origin)> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NXIO => {
                io::Error::new(io::ErrorKind::InvalidInput, "it is no file but a link or a socket")
            }
            error => error.into(),
        })?;
        let found = file.metadata()?;
        let modified = u64::try_from(found.mtime()).unwrap_or(0).saturating_mul(1000);
        let origin = Origin {
            user: found.uid(),
            is_plain: found.is_file() && found.nlink() == 1,
            modified: Timestamp::from_millis(modified),
        };
        Ok((Box::new(SystemFile(file)), origin))
    }

    fn create_for_group(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path)?;
        // The user's umask may have taken the group's right away.
        file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
        Ok(Box::new(SystemFile(file)))
    }

    fn share_folder(&self, path: &Path) -> io::Result<()> {
        set_mode(path, |_| SHARED_MODE)
    }

    fn let_pass(&self, path: &Path) -> io::Result<()> {
        set_mode(path, |mode| mode | 0o011)
    }

    fn watch(&self, path: &Path) -> io::Result<Option<Box<dyn FolderWatch>>> {
        Ok(Some(Box::new(Inotify::new(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system can; two names for a moment do no harm.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                self.link(from, to)?;
                self.unlink(from)
            }
            other => Ok(other?),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        unwaiting().read(true).open(path)?.sync_all()
    }

    fn syncer(&self, path: &Path) -> io::Result<Box<dyn DiskSyncer>> {
        // Opened now: the system reports errors that came after that.
        let folder = unwaiting().read(true).open(path)?;
        let file_system = rustix::fs::fstatfs(&folder)?.f_type as u32;
        if !syncfs::is_believed(file_system, &rustix::system::uname().release().to_string_lossy()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "what syncfs says here is not to be believed"));
        }
        Ok(Box::new(SystemSyncer(folder)))
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.dev())
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn copy_access(&self, from: &Path, to: &Path) -> io::Result<()> {
        let access = std::fs::metadata(from)?;
        // Only root gives files away; for others the new file is already theirs, as the old one mostly was.
        match std::os::unix::fs::chown(to, Some(access.uid()), Some(access.gid())) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
        if access.is_file() { std::fs::set_permissions(to, access.permissions()) } else { Ok(()) }
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        let folder = File::open(path)?;
        folder.lock()?;
        Ok(Box::new(folder))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(SystemLock(file)))
    }
}

/// The system lets go of the lock when the file is closed.
struct SystemLock(#[allow(dead_code, reason = "held, not used")] File);

impl DiskLock for SystemLock {}

struct SystemSyncer(File);

impl DiskSyncer for SystemSyncer {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    fn device(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.dev())
    }
}

struct SystemFile(File);

impl DiskFile for SystemFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length) {
            // Not every file system can reserve space; writing then finds out.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
