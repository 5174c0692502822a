//! Who may log in: the seam for back ends (a users file; later SQL, LDAP, Dovecot), and the users file behind it.
//!
//! Whoever asks can't tell from the answer or from its time whether an account exists: for one that doesn't, another's work is done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ring::hmac;
use tokio::sync::Semaphore;

use super::scram::ScramKeys;
use super::users::Users;
use crate::mail::Address;
use crate::smtp::scram::prepare;
use crate::system::{BoxFuture, Workers};

/// Logins that wait for a worker, for each that has one; more are told to come back.
const WAITING_MAX: usize = 64;

/// Why a login could not be looked at: never the client's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountsError {
    /// Too many logins are waiting already.
    Busy,
    /// The back end has trouble; says what.
    Trouble(String),
}

impl fmt::Display for AccountsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too many logins at a time"),
            Self::Trouble(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for AccountsError {}

/// A back end. An account's name is the address that it writes from.
pub trait Accounts: Send + Sync + fmt::Debug {
    /// The account, if the password is its own.
    fn check_password<'a>(
        &'a self,
        name: &'a Address,
        password: Vec<u8>,
    ) -> BoxFuture<'a, Result<Option<Address>, AccountsError>>;

    /// The account and its SCRAM keys. Where there is none, or it has no keys: keys all the same, that no password fits.
    fn scram_keys<'a>(&'a self, name: &'a Address) -> BoxFuture<'a, Result<(Option<Address>, ScramKeys), AccountsError>>;

    /// The account of this name.
    fn find<'a>(&'a self, name: &'a Address) -> BoxFuture<'a, Result<Option<Address>, AccountsError>>;

    /// Whether there is no account at all.
    fn is_empty(&self) -> bool;

    /// Whether every account has SCRAM keys, so that offering SCRAM leads nobody astray.
    fn has_scram(&self) -> bool;
}

/// Seeds the decoys that stand for accounts which don't exist. To be the same for ever: an account that exists doesn't change by itself.
#[derive(Clone, Debug)]
pub struct DecoySeed(hmac::Key);

impl DecoySeed {
    /// Made from a secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

/// The accounts of a users file. Passwords are checked on worker threads, so many at a time.
#[derive(Debug)]
pub struct FileAccounts {
    users: Arc<Users>,
    seed: DecoySeed,
    workers: Workers,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl FileAccounts {
    /// `concurrency`: passwords checked at a time; each check takes a processor, and the memory that its hash asks for.
    pub fn new(users: Arc<Users>, seed: DecoySeed, workers: Workers, concurrency: usize) -> Self {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(concurrency));
        let waiting_max = concurrency.saturating_mul(WAITING_MAX);
        Self { users, seed, workers, places, waiting: AtomicUsize::new(0), waiting_max }
    }

    /// The user whose work is done for a name that is none: always the same for the same name.
    fn stand_in(&self, name: &Address, with_keys: bool) -> Option<usize> {
        let tag = hmac::sign(&self.seed.0, name.to_string().to_ascii_lowercase().as_bytes());
        let number = tag.as_ref().first_chunk().copied().map_or(0, u64::from_le_bytes);
        self.users.nth(number, with_keys)
    }
}

/// Counts a waiting login for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Accounts for FileAccounts {
    fn check_password<'a>(
        &'a self,
        name: &'a Address,
        password: Vec<u8>,
    ) -> BoxFuture<'a, Result<Option<Address>, AccountsError>> {
        Box::pin(async move {
            let waiting = Waiting(&self.waiting);
            if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
                return Err(AccountsError::Busy);
            }
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.map_err(|error| AccountsError::Trouble(error.to_string()))?;
            drop(waiting);
            let known = self.users.find(name);
            let (users, at) = (Arc::clone(&self.users), known.or_else(|| self.stand_in(name, false)));
            let check = move || {
                let _place = place;
                Ok(passwords(&password).iter().any(|password| users.verify_at(at, password)))
            };
            let right = self.workers.blocking(check).await.map_err(|error| AccountsError::Trouble(error.to_string()))?;
            Ok(known.filter(|_| right).and_then(|at| self.users.address_at(at)))
        })
    }

    fn scram_keys<'a>(&'a self, name: &'a Address) -> BoxFuture<'a, Result<(Option<Address>, ScramKeys), AccountsError>> {
        let keys_at = |at: Option<usize>| at.and_then(|at| self.users.keys_at(at));
        let known = self.users.find(name);
        let like = keys_at(self.stand_in(name, true));
        let decoy = ScramKeys::decoy(&self.seed.0, name.to_string().to_ascii_lowercase().as_bytes(), like);
        let found = match keys_at(known) {
            Some(keys) => (known.and_then(|at| self.users.address_at(at)), keys.clone()),
            None => (None, decoy),
        };
        Box::pin(async move { Ok(found) })
    }

    fn find<'a>(&'a self, name: &'a Address) -> BoxFuture<'a, Result<Option<Address>, AccountsError>> {
        let found = self.users.find(name).and_then(|at| self.users.address_at(at));
        Box::pin(async move { Ok(found) })
    }

    fn is_empty(&self) -> bool {
        self.users.iter().next().is_none()
    }

    fn has_scram(&self) -> bool {
        self.users.all_have_keys()
    }
}

/// The password as it was sent, and in SASLprep's form if that is another.
fn passwords(password: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![password.to_vec()];
    if let Some(prepared) = std::str::from_utf8(password).ok().and_then(prepare)
        && prepared.as_bytes() != password
    {
        forms.push(prepared.into_owned().into_bytes());
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The password is "secret".
    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$vk+JgWgZGbXHtEqPQPhzXbD+QxxkJR5Fq2AXLhDyYaY";

    fn accounts(text: &str) -> FileAccounts {
        let users = Arc::new(Users::parse(text).unwrap());
        FileAccounts::new(users, DecoySeed::new(b"secret"), Workers::Inline, 1)
    }

    fn address(name: &str) -> Address {
        Address::parse(name).unwrap()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn somebody_elses_work_is_done_for_a_name_that_is_none() {
        let accounts = accounts(&format!("# staff\n\nann@x.test:{HASH}\n# more\nbob@x.test:{HASH}\n"));
        let all = [2, 4];
        let stand_ins: Vec<_> = (0..40).map(|n| accounts.stand_in(&address(&format!("no{n}@x.test")), false).unwrap()).collect();
        assert!(all.iter().all(|at| stand_ins.contains(at)) && stand_ins.iter().all(|at| all.contains(at)), "{stand_ins:?}");
        assert_eq!(accounts.stand_in(&address("NO1@x.test"), false), Some(stand_ins[1]));
        assert_eq!(accounts.stand_in(&address("no1@x.test"), true), None);
        // The work ends as it would for the other, and is the stranger's all the same.
        assert!(accounts.users.verify_at(Some(stand_ins[1]), b"secret"));
        assert_eq!(run(accounts.check_password(&address("no1@x.test"), b"secret".to_vec())), Ok(None));
        assert_eq!(run(accounts.check_password(&address("ANN@x.test"), b"secret".to_vec())), Ok(Some(address("ann@x.test"))));
    }

    #[test]
    fn without_users_there_are_keys_and_work_but_no_account() {
        let accounts = accounts("");
        assert!(accounts.is_empty() && !accounts.has_scram());
        assert_eq!(accounts.stand_in(&address("ann@x.test"), false), None);
        assert_eq!(run(accounts.check_password(&address("ann@x.test"), Vec::new())), Ok(None));
        let (account, keys) = run(accounts.scram_keys(&address("ann@x.test"))).unwrap();
        assert!(account.is_none() && keys.salt.len() == 16);
    }

    #[test]
    fn scram_is_for_all_or_for_nobody() {
        let keys = ScramKeys::derive("secret", b"saltsalt").unwrap();
        assert!(accounts(&format!("ann@x.test:{HASH} {keys}\n")).has_scram());
        assert!(!accounts(&format!("ann@x.test:{HASH} {keys}\nbob@x.test:{HASH}\n")).has_scram());
    }

    #[test]
    fn too_many_at_a_time_are_told_to_come_back() {
        let accounts = accounts(&format!("ann@x.test:{HASH}\n"));
        run(async {
            let _place = Arc::clone(&accounts.places).acquire_owned().await.unwrap();
            let ann = address("ann@x.test");
            let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| accounts.check_password(&ann, b"secret".to_vec())).collect();
            for check in &mut waiting {
                let polled = std::future::poll_fn(|context| std::task::Poll::Ready(check.as_mut().poll(context))).await;
                assert!(polled.is_pending());
            }
            assert_eq!(accounts.check_password(&ann, b"secret".to_vec()).await, Err(AccountsError::Busy));
            waiting.pop();
            let mut check = accounts.check_password(&ann, b"secret".to_vec());
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(check.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "a place to wait has come back");
        });
    }
}
