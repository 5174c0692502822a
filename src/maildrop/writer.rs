//! Puts a message into the drop folder: written under another name, made durable, renamed, the name made durable.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::file::{ENVELOPE_SIZE_MAX, trailer};
use super::{Layout, Named, UNFINISHED, WHOLE, named};
use crate::mail::{QueueId, Timestamp};
use crate::system::{Disk, DiskFile, Entropy};

/// Why a message can't be dropped.
#[derive(Debug)]
pub enum DropError {
    /// There is no drop folder: the server makes it when it starts.
    NoFolder(PathBuf),
    /// As many messages as may wait there do.
    TooMany(usize),
    /// The envelope is too large.
    Envelope,
    /// Something can't be written.
    Io(PathBuf, io::Error),
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFolder(folder) => write!(f, "there is no drop folder at {}", folder.display()),
            Self::TooMany(count) => write!(f, "{count} messages wait in the drop folder, and no more may"),
            Self::Envelope => f.write_str("the envelope is too large"),
            Self::Io(path, error) => write!(f, "can't write {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DropError {}

/// A message on its way into the drop folder. Dropped unfinished, it leaves nothing behind. Blocking, as all of it.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    layout: Layout,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    name: String,
    written: u64,
    hasher: Hasher,
    is_finished: bool,
}

impl<'a> Writer<'a> {
    /// Begins a message; at most `files_max` may wait in the folder.
    pub fn begin(
        disk: &'a dyn Disk,
        entropy: &dyn Entropy,
        now: Timestamp,
        folder: &Path,
        files_max: usize,
    ) -> Result<Self, DropError> {
        let layout = Layout::new(folder);
        let trouble = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => DropError::NoFolder(folder.to_owned()),
            _ => DropError::Io(path.to_owned(), error),
        };
        let names = disk.files(folder).and_then(|names| names.take(files_max.saturating_add(1)).collect::<io::Result<Vec<_>>>());
        let names = names.map_err(|error| trouble(folder, error))?;
        if names.iter().filter(|name| named(name) != Named::Foreign).count() >= files_max {
            return Err(DropError::TooMany(files_max));
        }
        // In the order of their names, files are in that of their making; nobody else can guess one.
        let time = QueueId::after(QueueId(0), now, entropy.next_u64());
        let name = format!("{time}-{:016x}", entropy.next_u64());
        let path = folder.join(format!("{UNFINISHED}{name}"));
        let file = disk.create_for_group(&path).map_err(|error| trouble(&path, error))?;
        Ok(Self { disk, layout, file, path, name, written: 0, hasher: Hasher::new(), is_finished: false })
    }

    /// Octets so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends content: whole lines in the end, with CR LF.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DropError> {
        self.file.write_at(self.written, bytes).map_err(|error| DropError::Io(self.path.clone(), error))?;
        self.written += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Ends the message with its envelope, `MAIL FROM:…` and `RCPT TO:…` without line ends. When this returns, it is durable and
    /// the server's to take up. Returns the file's name.
    pub fn finish(mut self, commands: &[String]) -> Result<String, DropError> {
        let content = self.written;
        let envelope: String = commands.iter().flat_map(|command| [command.as_str(), "\r\n"]).collect();
        let size = u32::try_from(envelope.len()).ok().filter(|size| u64::from(*size) <= ENVELOPE_SIZE_MAX);
        let size = size.ok_or(DropError::Envelope)?;
        self.write(envelope.as_bytes())?;
        let crc = self.hasher.clone().finalize();
        self.write(trailer(content, size, crc).as_bytes())?;
        let name = format!("{WHOLE}{}", self.name);
        let to = self.layout.folder.join(&name);
        let trouble = |error| DropError::Io(self.path.clone(), error);
        self.file.sync_data().map_err(trouble)?;
        self.disk.rename(&self.path, &to).map_err(trouble)?;
        // From here on the server may have it already; what can't be synced is still there as long as the power is.
        self.is_finished = true;
        self.disk.sync_dir(&self.layout.folder).map_err(|error| DropError::Io(self.layout.folder.clone(), error))?;
        Ok(name)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // The server removes what stays behind.
            let _ = self.disk.unlink(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Dropped, OpenError};
    use super::*;
    use crate::system::{SystemDisk, SystemEntropy};

    const NOW: Timestamp = Timestamp::from_millis(1_795_312_800_123);

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        layout.make(&SystemDisk).unwrap();
        layout.share(&SystemDisk, Path::new("elsewhere")).unwrap();
        folder
    }

    fn put(folder: &Path, content: &[u8], commands: &[&str]) -> Result<String, DropError> {
        let mut writer = Writer::begin(&SystemDisk, &SystemEntropy, NOW, folder, 3)?;
        writer.write(content)?;
        writer.finish(&commands.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn names(folder: &Path) -> Vec<String> {
        SystemDisk.files(folder).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn what_is_dropped_can_be_read_by_the_group_and_by_nobody_else() {
        let folder = folder();
        let name = put(folder.path(), b"Subject: x\r\n\r\n.\r\n", &["MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>"]).unwrap();
        assert_eq!(named(&name), Named::Whole);
        assert_eq!(names(folder.path()), [name.as_str()]);
        let path = folder.path().join(&name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o7777, 0o3777);
        let dropped = Dropped::open(&SystemDisk, &path).unwrap();
        assert_eq!(dropped.content(0, 100).unwrap(), b"Subject: x\r\n\r\n.\r\n");
        assert_eq!(dropped.content(9, 2).unwrap(), b"x\r");
        let commands: Vec<_> = dropped.commands().collect();
        assert_eq!(commands, [&b"MAIL FROM:<a@b.test>\r\n"[..], b"RCPT TO:<c@d.test>\r\n"]);
        assert_eq!(dropped.origin().user, rustix::process::geteuid().as_raw());
        let all = [b"Subject: x\r\n\r\n.\r\n", dropped.envelope()].concat();
        assert_eq!(crc32fast::hash(&all), dropped.crc());
    }

    #[test]
    fn what_is_given_up_leaves_nothing_and_what_is_too_much_is_refused() {
        let folder = folder();
        drop(Writer::begin(&SystemDisk, &SystemEntropy, NOW, folder.path(), 1).unwrap());
        assert_eq!(names(folder.path()), [""; 0]);
        for _ in 0..3 {
            put(folder.path(), b"\r\n", &["MAIL FROM:<>"]).unwrap();
        }
        assert!(matches!(put(folder.path(), b"\r\n", &[]), Err(DropError::TooMany(3))));
        assert!(matches!(put(&folder.path().join("none"), b"", &[]), Err(DropError::NoFolder(_))));
    }

    #[test]
    fn files_that_are_no_messages_are_told_from_those_that_are() {
        let folder = folder();
        let good = put(folder.path(), b"x\r\n", &["MAIL FROM:<>"]).unwrap();
        let bytes = std::fs::read(folder.path().join(&good)).unwrap();
        let at = folder.path().join("mail-1");
        let wrong = |what: &str| match Dropped::open(&SystemDisk, &at) {
            Err(OpenError::Wrong(_)) => {}
            Err(OpenError::Io(error)) => panic!("{what}: {error}"),
            Ok(_) => panic!("{what} is taken for a message"),
        };
        std::fs::write(&at, [&bytes[..], b"\n"].concat()).unwrap();
        wrong("something behind the end");
        std::fs::write(&at, &bytes[1..]).unwrap();
        wrong("a lost octet");
        std::fs::write(&at, String::from_utf8(bytes).unwrap().to_uppercase()).unwrap();
        wrong("another way to write it");
        std::fs::write(&at, "x").unwrap();
        wrong("something short");
        std::fs::remove_file(&at).unwrap();
        std::fs::hard_link(folder.path().join(&good), &at).unwrap();
        wrong("a second name for somebody's file");
        std::fs::remove_file(&at).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &at, rustix::fs::Mode::RUSR).unwrap();
        wrong("a pipe");
        std::fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink(folder.path().join(&good), &at).unwrap();
        assert!(matches!(Dropped::open(&SystemDisk, &at), Err(OpenError::Io(_))), "a link");
    }
}
