//! A Unix socket that only root and our own user may use: the control socket's door.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::BoxStream;

/// A bound Unix socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixDoor {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixDoor {
    /// Binds, mode 0600. A socket file at which nothing answers is replaced. `AddrInUse`: something answers there;
    /// `AlreadyExists`: the file is no socket, and is left alone.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is no socket"));
            }
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server answers there"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection from root or our own user; others are closed at once.
    pub async fn accept(&self) -> io::Result<BoxStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            // The mode of the file says the same, but not yet in the moment between bind and chmod.
            if uid == 0 || uid == rustix::process::geteuid().as_raw() {
                return Ok(Box::new(stream));
            }
        }
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
