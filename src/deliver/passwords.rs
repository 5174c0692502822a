//! The passwords for next hops, as their files have them at the moment. State: what was read last, a password a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::RouteLogin;
use crate::smtp::client::Password;
use crate::system::Disk;

/// A password's file is read so far at the most; octets.
const FILE_SIZE_MAX: u64 = 4096;

/// See the module. As many as routes name.
#[derive(Default)]
pub(super) struct Passwords(Mutex<BTreeMap<PathBuf, Arc<Password>>>);

impl Passwords {
    /// Reads the file, which is small and rarely needed: once a connection. What was worked out of a password is kept as long as the
    /// file says the same.
    pub(super) fn read(&self, disk: &dyn Disk, file: &Path) -> Result<Arc<Password>, String> {
        let octets = disk.read(file, FILE_SIZE_MAX).map_err(|error| error.to_string())?;
        let text = RouteLogin::password(&octets)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(password) = known.get(file).filter(|password| password.is(text)) {
            return Ok(Arc::clone(password));
        }
        let password = Arc::new(Password::new(text.to_owned()));
        known.insert(file.to_owned(), Arc::clone(&password));
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemDisk;

    #[test]
    fn a_changed_file_is_taken_up_and_an_unchanged_one_is_the_same_password() {
        let folder = tempfile::tempdir().unwrap();
        let (file, passwords) = (folder.path().join("password"), Passwords::default());
        let read = || passwords.read(&SystemDisk, &file);
        assert!(read().is_err());
        std::fs::write(&file, "secret\nnothing else counts\n").unwrap();
        let first = read().unwrap();
        assert!(first.is("secret") && Arc::ptr_eq(&first, &read().unwrap()));
        std::fs::write(&file, "other").unwrap();
        assert!(read().unwrap().is("other"));
        std::fs::write(&file, "\n").unwrap();
        assert!(read().unwrap_err().contains("empty"));
    }
}
