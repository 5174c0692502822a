//! Unix sockets: bound with permissions, their file gone with them. The control socket's door lets in only root and our own user.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::BoxStream;

/// A bound Unix socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
}

impl UnixSocket {
    /// Binds. A socket file at which nothing answers is replaced. `AddrInUse`: something answers there; `AlreadyExists`: the file is
    /// no socket, and is left alone.
    pub(super) async fn bind(path: &Path, mode: u32) -> io::Result<Self> {
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
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The control socket.
#[derive(Debug)]
pub struct UnixDoor(UnixSocket);

impl UnixDoor {
    /// Binds, mode 0600; else as for any other socket.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        UnixSocket::bind(path, 0o600).await.map(Self)
    }

    /// The next connection from root or our own user; others are closed at once.
    pub async fn accept(&self) -> io::Result<BoxStream> {
        loop {
            let (stream, _) = self.0.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            // The mode of the file says the same, but not yet in the moment between bind and chmod.
            if uid == 0 || uid == rustix::process::geteuid().as_raw() {
                return Ok(Box::new(stream));
            }
        }
    }
}
