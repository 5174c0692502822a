//! The passwords for next hops, as their files have them at the moment, and the keys that servers make us work out of them. State: what
//! was read last, a password a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::config::RouteLogin;
use crate::smtp::client::{Key, KeyWork, Password};
use crate::system::{System, Workers};

/// A password's file is read so far at the most; octets.
const FILE_SIZE_MAX: u64 = 4096;

/// The password may be all right.
const NO_WORKER: &str = "the password's key could not be worked out, for a failure here";

/// See the module. As many as routes name.
pub(super) struct Passwords {
    known: Mutex<BTreeMap<PathBuf, Arc<Password>>>,
    /// Keys are worked out one at a time: each may take a processor for a second, and mostly the next wants the same one.
    place: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { known: Mutex::default(), place: Arc::new(Semaphore::new(1)) }
    }
}

impl Passwords {
    /// Reads the file, which is small and rarely needed: once a connection. What was worked out of a password is kept as long as the
    /// file says the same.
    pub(super) async fn read(&self, system: &System, file: &Path) -> Result<Arc<Password>, String> {
        let (disk, path) = (Arc::clone(&system.disk), file.to_owned());
        let read = system.workers.blocking(move || disk.read(&path, FILE_SIZE_MAX)).await;
        let octets = read.map_err(|error| error.to_string())?;
        let text = RouteLogin::password(&octets)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(password) = known.get(file).filter(|password| password.is(text)) {
            return Ok(Arc::clone(password));
        }
        let password = Arc::new(Password::new(text.to_owned()));
        known.insert(file.to_owned(), Arc::clone(&password));
        Ok(password)
    }

    /// The key of a password, worked out on a worker thread unless it is known; or why there is none.
    pub(super) async fn key(&self, workers: Workers, password: &Arc<Password>, work: &KeyWork) -> Result<Key, &'static str> {
        if let Some(key) = password.key(work) {
            return Ok(key);
        }
        let place = Arc::clone(&self.place).acquire_owned().await.map_err(|_| NO_WORKER)?;
        // Whoever had the place before may have worked it out.
        if let Some(key) = password.key(work) {
            return Ok(key);
        }
        let (password, work) = (Arc::clone(password), work.clone());
        let work_out = move || {
            let _place = place;
            Ok(password.work_out(&work))
        };
        workers.blocking(work_out).await.unwrap_or(Err(NO_WORKER))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::system::SystemDisk;
    use crate::system::sim::World;

    #[tokio::test]
    async fn a_changed_file_is_taken_up_and_an_unchanged_one_is_the_same_password() {
        let folder = tempfile::tempdir().unwrap();
        let (file, passwords) = (folder.path().join("password"), Passwords::default());
        let system = World::new(1).system(Arc::new(SystemDisk));
        let read = || passwords.read(&system, &file);
        assert!(read().await.is_err());
        std::fs::write(&file, "secret\nnothing else counts\n").unwrap();
        let first = read().await.unwrap();
        assert!(first.is("secret") && Arc::ptr_eq(&first, &read().await.unwrap()));
        std::fs::write(&file, "other").unwrap();
        assert!(read().await.unwrap().is("other"));
        std::fs::write(&file, "\n").unwrap();
        assert!(read().await.unwrap_err().contains("empty"));
    }

    fn work(salt: &[u8], iterations: u32) -> KeyWork {
        KeyWork { salt: salt.to_vec(), iterations: NonZeroU32::new(iterations).unwrap() }
    }

    #[tokio::test]
    async fn a_key_is_worked_out_beside_the_runtime_one_at_a_time_and_once() {
        let (passwords, password) = (Passwords::default(), Arc::new(Password::new("secret".to_owned())));
        let (long, other) = (work(b"salt", 300_000), work(b"pepper", 4096));
        // On one thread: whatever else there is to do goes on meanwhile.
        let done = AtomicBool::new(false);
        let meanwhile = async {
            let mut turns = 0;
            while !done.load(Ordering::Relaxed) {
                turns += 1;
                tokio::task::yield_now().await;
            }
            turns
        };
        let key = async {
            let (first, second) = tokio::join!(
                passwords.key(Workers::Threads, &password, &long),
                passwords.key(Workers::Threads, &password, &long)
            );
            done.store(true, Ordering::Relaxed);
            assert!(first.is_ok() && first == second);
            first.ok()
        };
        let (key, turns) = tokio::join!(key, meanwhile);
        assert!(turns > 1, "{turns}");
        // It is kept until another is asked for.
        assert_eq!(password.key(&long), key);
        assert!(password.key(&other).is_none());
        let another = passwords.key(Workers::Threads, &password, &other).await;
        assert!(another.is_ok_and(|another| Some(another) != key) && password.key(&long).is_none());
    }

    #[tokio::test]
    async fn a_password_that_scram_forbids_has_no_key() {
        let password = Arc::new(Password::new("bell\u{7}".to_owned()));
        let key = Passwords::default().key(Workers::Threads, &password, &work(b"salt", 4096)).await;
        assert_eq!(key, Err("the password has characters that SCRAM forbids"));
    }

    #[tokio::test]
    async fn a_failure_here_is_not_said_to_be_the_passwords() {
        let (passwords, password) = (Passwords::default(), Arc::new(Password::new("secret".to_owned())));
        passwords.place.close();
        let key = passwords.key(Workers::Threads, &password, &work(b"salt", 4096)).await;
        assert_eq!(key, Err(NO_WORKER));
    }
}
