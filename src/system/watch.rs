//! Tells when files come into a folder, so that nobody has to look for them all the time. Owns an inotify descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::BoxFuture;

/// Large enough for any one event, and for many short ones; octets.
const EVENTS_SIZE: usize = 4096;

/// Watches one folder.
pub trait FolderWatch: Send + Sync {
    /// Waits until files came in since the last call. What came before is told at once, however much it was.
    fn changed(&mut self) -> BoxFuture<'_, io::Result<()>>;
}

/// The kernel's own watch.
pub(super) struct Inotify(AsyncFd<OwnedFd>);

impl Inotify {
    /// Watches for files that are renamed into the folder. Must be called within a runtime.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&descriptor, folder, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ONLYDIR)?;
        #[expect(deprecated, reason = "its trouble is with types that let go of their descriptor; an OwnedFd doesn't")]
        let descriptor = AsyncFd::new(descriptor)?;
        Ok(Self(descriptor))
    }
}

impl FolderWatch for Inotify {
    fn changed(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let mut events = [0; EVENTS_SIZE];
            loop {
                let mut ready = self.0.readable().await?;
                // What the events say doesn't matter: whoever asks looks into the folder himself.
                match ready.try_io(|descriptor| Ok(rustix::io::read(descriptor.get_ref(), &mut events[..])?)) {
                    Ok(read) => return read.map(|_| ()),
                    Err(_would_block) => {}
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_renamed_into_the_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Inotify::new(folder.path()).unwrap();
        std::fs::write(folder.path().join("new"), "x").unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("mail")).unwrap();
        watch.changed().await.unwrap();
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed()).await;
        assert!(quiet.is_err(), "nothing more came");
    }
}
