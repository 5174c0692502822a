//! Removes the content files of messages that are gone, beside whatever else the release loop does. A name that comes back after a power
//! cut is removed at start-up.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Note;
use super::shared::Shared;

/// What couldn't be removed is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the spool is closed.
pub(crate) async fn run(shared: &Shared) {
    let mut left: Vec<PathBuf> = Vec::new();
    loop {
        let closing = shared.lock().closing;
        left.retain(|path| remove(shared, path).is_err());
        let new = std::mem::take(&mut shared.lock().unlinks);
        for path in new {
            if let Err(error) = remove(shared, &path) {
                shared.report(Note::Trouble(format!("can't remove {}: {error}", path.display())));
                left.push(path);
            }
        }
        if closing {
            break;
        }
        let asked = shared.unlinking.notified();
        if left.is_empty() {
            asked.await;
        } else {
            let _ = tokio::time::timeout(RETRY, asked).await;
        }
    }
}

/// Removes a file, if it is there: after a failed sync of its folder it may be gone already.
pub(crate) fn remove(shared: &Shared, path: &Path) -> io::Result<()> {
    match shared.disk.unlink(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
