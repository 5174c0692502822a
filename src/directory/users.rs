//! The users file: `ADDRESS:HASH KEYS quota=SIZE` a line. Who has a mailbox here, the hash of the password (PHC string, argon2id), its
//! SCRAM keys (see `scram`) and how much the mailbox may hold, which both may be missing.
//!
//! Changes keep every other line as it is, comments too, and replace the file whole: a reader sees the old or the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};

use super::mailbox::check_name;
use super::scram::ScramKeys;
use crate::config::{Problem, ProblemClass, parse_size};
use crate::mail::{Address, Domain};
use crate::system::{Disk, Entropy, or_here};

/// Larger files aren't read: room for more than a million users.
const FILE_SIZE_MAX: u64 = 256 << 20;
/// More problems than this aren't told.
const PROBLEMS_MAX: usize = 100;

/// Stands before a user's quota, which ends its line.
const QUOTA: &str = " quota=";

/// A parsed users file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    lines: Vec<Line>,
    by_user: BTreeMap<(Domain, String), usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// A comment or an empty line, as it is.
    Other(String),
    User {
        address: Address,
        hash: String,
        /// For SCRAM; lines that older versions wrote have none.
        keys: Option<ScramKeys>,
        /// As it is written; a size.
        quota: Option<String>,
    },
}

/// Why a change to the users file was not made.
#[derive(Debug)]
pub enum UsersError {
    /// The user is there already.
    Exists(Address),
    /// There is no such user.
    Unknown(Address),
    /// The address can't be a user's.
    BadName(Address, &'static str),
    /// The password can't be taken.
    BadPassword(&'static str),
    /// The file is wrong; nothing was changed.
    BadFile(Vec<Problem>),
    /// Reading or writing failed.
    Io(PathBuf, io::Error),
}

impl UsersError {
    /// The exit status for it (sysexits.h).
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Exists(_) | Self::Unknown(_) | Self::BadName(..) | Self::BadPassword(_) => 65,
            Self::BadFile(problems) => Problem::exit_status(problems),
            Self::Io(_, error) if error.kind() == io::ErrorKind::PermissionDenied => ProblemClass::Permission.exit_status(),
            Self::Io(..) => ProblemClass::Create.exit_status(),
        }
    }
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(address) => write!(f, "{address} exists already; `posthouse user passwd` changes its password"),
            Self::Unknown(address) => write!(f, "there is no user {address}; `posthouse user list` shows all"),
            Self::BadName(address, why) => write!(f, "{address} can't be a user: {why}"),
            Self::BadPassword(why) => write!(f, "the password can't be taken: {why}"),
            Self::BadFile(problems) => {
                let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for UsersError {}

impl Users {
    /// Parses a users file. Errors: every problem, up to a hundred; their `source` is for the caller to fill in.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut users = Self::default();
        let mut problems = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let problem = |what: String, remedy: &str| Problem::new("", format!("line {}", number + 1), what, remedy);
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                users.lines.push(Line::Other(line.to_owned()));
                continue;
            }
            match parse_user(line) {
                Ok((address, user, hash, keys, quota)) => {
                    let key = (address.domain().clone(), user);
                    if users.by_user.insert(key, users.lines.len()).is_some() {
                        problems.push(problem(format!("{address} stands twice"), "remove one of the two lines"));
                    }
                    users.lines.push(Line::User { address, hash, keys, quota });
                }
                Err((what, remedy)) => problems.push(problem(what, remedy)),
            }
            if problems.len() >= PROBLEMS_MAX {
                break;
            }
        }
        if problems.is_empty() { Ok(users) } else { Err(problems) }
    }

    /// Reads the file. A missing one is an error that names `posthouse user add`.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<Self, Vec<Problem>> {
        let remedy = "make it readable, or create the first user with `posthouse user add ADDRESS`";
        let bytes = disk.read(path, FILE_SIZE_MAX).map_err(|error| vec![Problem::unreadable(path, &error, remedy)])?;
        let source = path.display().to_string();
        let text = String::from_utf8(bytes)
            .map_err(|_| vec![Problem::new(source.clone(), "", "the file is not UTF-8", "write it as plain text")])?;
        Self::parse(&text).map_err(|problems| problems.into_iter().map(|p| Problem { source: source.clone(), ..p }).collect())
    }

    /// The users in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.lines.iter().filter_map(|line| match line {
            Line::User { address, .. } => Some(address),
            Line::Other(_) => None,
        })
    }

    /// Whether the password is the user's. An unknown user is answered sooner than a known one: logins go by `FileAccounts`.
    pub fn verify(&self, address: &Address, password: &str) -> bool {
        self.find(address).is_some_and(|at| self.verify_at(Some(at), password.as_bytes()))
    }

    /// Whether the password is that of the user in this line; without a line the work is done, too.
    pub(super) fn verify_at(&self, at: Option<usize>, password: &[u8]) -> bool {
        match at.and_then(|at| self.lines.get(at)) {
            Some(Line::User { hash, .. }) => {
                let hash = PasswordHash::new(hash);
                #[cfg(test)]
                work::count(hash.as_ref().ok());
                hash.is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
            _ => {
                let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password, &[0; 16]);
                #[cfg(test)]
                work::count(hash.as_ref().ok());
                drop(std::hint::black_box(hash));
                false
            }
        }
    }

    /// The first user at or behind the number-th line, counted round and round; with SCRAM keys if that is asked.
    pub(super) fn nth(&self, number: u64, with_keys: bool) -> Option<usize> {
        let count = self.lines.len().max(1);
        let start = usize::try_from(number % count as u64).ok()?;
        (start..count).chain(0..start).find(|at| match self.lines.get(*at) {
            Some(Line::User { keys, .. }) => keys.is_some() || !with_keys,
            _ => false,
        })
    }

    pub(super) fn address_at(&self, at: usize) -> Option<Address> {
        self.lines.get(at).and_then(address_of)
    }

    pub(super) fn keys_at(&self, at: usize) -> Option<&ScramKeys> {
        match self.lines.get(at) {
            Some(Line::User { keys, .. }) => keys.as_ref(),
            _ => None,
        }
    }

    /// How many users have SCRAM keys, and how many there are.
    pub(super) fn count_keys(&self) -> (usize, usize) {
        let with = self.lines.iter().filter(|line| matches!(line, Line::User { keys: Some(_), .. })).count();
        (with, self.by_user.len())
    }

    /// Whether there are users, and all of them have SCRAM keys.
    pub(super) fn all_have_keys(&self) -> bool {
        let (with, all) = self.count_keys();
        all > 0 && with == all
    }

    /// What a user's mailbox may hold, if that is said here; the name in lower case.
    pub fn quota(&self, domain: &Domain, user: &str) -> Option<u64> {
        match self.lines.get(*self.by_user.get(&(domain.clone(), user.to_owned()))?)? {
            Line::User { quota, .. } => parse_size(quota.as_ref()?),
            Line::Other(_) => None,
        }
    }

    /// Whether that is said for anybody.
    pub fn has_quotas(&self) -> bool {
        self.lines.iter().any(|line| matches!(line, Line::User { quota: Some(_), .. }))
    }

    pub(super) fn find(&self, address: &Address) -> Option<usize> {
        self.by_user.get(&(address.domain().clone(), address.local().to_ascii_lowercase())).copied()
    }

    fn put(&mut self, address: Address, user: String, secrets: Secrets) {
        let key = (address.domain().clone(), user);
        let line = Line::User { address, hash: secrets.hash, keys: Some(secrets.keys), quota: None };
        match self.by_user.get(&key) {
            Some(at) => self.lines[*at] = line,
            None => {
                self.by_user.insert(key, self.lines.len());
                self.lines.push(line);
            }
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Other(line) => text.push_str(line),
                Line::User { address, hash, keys, quota } => {
                    text.push_str(&format!("{address}:{hash}"));
                    keys.iter().for_each(|keys| text.push_str(&format!(" {keys}")));
                    quota.iter().for_each(|quota| text.push_str(&format!("{QUOTA}{quota}")));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// What is kept of a password.
struct Secrets {
    hash: String,
    keys: ScramKeys,
}

/// A user's line, taken apart: the address, its name in lower case, the hash, the SCRAM keys, the quota.
type User = (Address, String, String, Option<ScramKeys>, Option<String>);

fn parse_user(line: &str) -> Result<User, (String, &'static str)> {
    // Neither hash nor keys have a colon; a quoted local part may have one.
    let (address, secrets) = line
        .trim()
        .rsplit_once(':')
        .ok_or(("the line has no colon".to_owned(), "write it as ADDRESS:HASH; see `posthouse user add`"))?;
    let address = Address::parse_utf8(address)
        .map_err(|error| (format!("there is no address before the colon: {error}"), "write it like ann@example.test:HASH"))?;
    let user = check_name(&address).map_err(|why| (format!("{address} can't be a user: {why}"), "choose another name"))?;
    let (secrets, quota) = secrets.rsplit_once(QUOTA).map_or((secrets, None), |(secrets, quota)| (secrets, Some(quota)));
    if quota.is_some_and(|quota| parse_size(quota).is_none_or(|size| size == 0)) {
        return Err((format!("the quota of {address} is no size"), "write it like quota=2GiB, at the end of the line"));
    }
    let (hash, keys) = secrets.split_once(' ').map_or((secrets, None), |(hash, keys)| (hash, Some(keys)));
    let sound = hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok_and(|hash| hash.hash.is_some());
    if !sound {
        let remedy = "remove the line and add the user again with `posthouse user add`";
        return Err((format!("the password hash of {address} is not a PHC string of argon2id"), remedy));
    }
    let keys = match keys {
        None => None,
        Some(keys) => Some(ScramKeys::parse(keys).ok_or_else(|| {
            let what = format!("what stands behind the password hash of {address} is no SCRAM-SHA-256 key");
            (what, "give the user a password again with `posthouse user passwd`")
        })?),
    };
    Ok((address, user, hash.to_owned(), keys, quota.map(str::to_owned)))
}

/// Adds a user; creates the file and its folder if need be.
pub fn add(disk: &dyn Disk, entropy: &dyn Entropy, path: &Path, address: &Address, password: &str) -> Result<(), UsersError> {
    let user = check_name(address).map_err(|why| UsersError::BadName(address.clone(), why))?;
    let secrets = secrets(entropy, password)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !disk.exists(folder)) {
        disk.create_dir_all(folder).map_err(|error| UsersError::Io(folder.to_owned(), error))?;
    }
    change(disk, path, |users| {
        if users.find(address).is_some() {
            return Err(UsersError::Exists(address.clone()));
        }
        users.put(address.clone(), user, secrets);
        Ok(())
    })
}

/// Gives a user another password.
pub fn passwd(disk: &dyn Disk, entropy: &dyn Entropy, path: &Path, address: &Address, password: &str) -> Result<(), UsersError> {
    let secrets = secrets(entropy, password)?;
    change(disk, path, |users| match users.find(address).and_then(|at| users.lines.get_mut(at)) {
        Some(Line::User { hash, keys, .. }) => {
            *hash = secrets.hash;
            *keys = Some(secrets.keys);
            Ok(())
        }
        _ => Err(UsersError::Unknown(address.clone())),
    })
}

/// Removes a user. The mail stays where it is.
pub fn remove(disk: &dyn Disk, path: &Path, address: &Address) -> Result<(), UsersError> {
    change(disk, path, |users| {
        let at = users.find(address).ok_or_else(|| UsersError::Unknown(address.clone()))?;
        users.lines.remove(at);
        users.by_user.clear(); // its line numbers are no longer right, and only the lines are written
        Ok(())
    })
}

/// The users, sorted by domain and name; none if there is no file.
pub fn list(disk: &dyn Disk, path: &Path) -> Result<Vec<Address>, UsersError> {
    let users = read(disk, path)?;
    Ok(users.by_user.values().filter_map(|at| users.lines.get(*at)).filter_map(address_of).collect())
}

fn address_of(line: &Line) -> Option<Address> {
    match line {
        Line::User { address, .. } => Some(address.clone()),
        Line::Other(_) => None,
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Users, UsersError> {
    if !disk.exists(path) {
        return Ok(Users::default());
    }
    Users::load(disk, path).map_err(UsersError::BadFile)
}

/// Reads, changes and replaces the file, alone among those who change it.
fn change(disk: &dyn Disk, path: &Path, make: impl FnOnce(&mut Users) -> Result<(), UsersError>) -> Result<(), UsersError> {
    let io = |error| UsersError::Io(path.to_owned(), error);
    let folder = or_here(path.parent().unwrap_or(path));
    let lock = disk.lock_dir(folder).map_err(io)?;
    let mut users = read(disk, path)?;
    make(&mut users)?;
    let is_new = !disk.exists(path);
    disk.replace(path, users.to_text().as_bytes()).map_err(io)?;
    if is_new {
        // Made by root for a server that isn't root: whoever owns the folder is meant to read it.
        disk.copy_access(folder, path).map_err(io)?;
    }
    drop(lock);
    Ok(())
}

/// The PHC string of a password (argon2id with the crate's, OWASP's, costs) and its SCRAM keys, each with a random salt of its own.
fn secrets(entropy: &dyn Entropy, password: &str) -> Result<Secrets, UsersError> {
    if password.is_empty() {
        return Err(UsersError::BadPassword("it is empty"));
    }
    if password.len() > 1024 {
        return Err(UsersError::BadPassword("it has more than 1024 bytes"));
    }
    let keys = ScramKeys::derive(password, &salt(entropy));
    let keys = keys.ok_or(UsersError::BadPassword("it has control characters, or others that can't stand in a password"))?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt(entropy));
    let hash = hash.map(|hash: PasswordHash| hash.to_string()).map_err(|_| UsersError::BadPassword("it can't be hashed"))?;
    Ok(Secrets { hash, keys })
}

fn salt(entropy: &dyn Entropy) -> Vec<u8> {
    (0..2).flat_map(|_| entropy.next_u64().to_le_bytes()).collect()
}

/// Counts what checks of passwords cost, so that tests can compare that without a clock.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static DONE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// One more hash with the costs of this one.
    pub(super) fn count(hash: Option<&PasswordHash>) {
        let costs = hash.map(|hash| hash.params.to_string()).unwrap_or_default();
        DONE.with_borrow_mut(|done| done.push(costs));
    }

    /// The costs of all that this thread did since the last call, in order.
    pub(crate) fn done() -> Vec<String> {
        DONE.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{SystemDisk, SystemEntropy};

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

    #[test]
    fn changes_keep_comments_and_other_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/users");
        let ann = Address::parse("Ann@example.test").unwrap();
        let bob = Address::parse("bob@example.test").unwrap();
        let (disk, entropy) = (SystemDisk, SystemEntropy);
        assert_eq!(list(&disk, &path).unwrap(), []);
        add(&disk, &entropy, &path, &ann, "secret").unwrap();
        let with_comment = format!("# staff\n\n{} quota=2GiB\n", std::fs::read_to_string(&path).unwrap().trim_end());
        std::fs::write(&path, with_comment).unwrap();
        add(&disk, &entropy, &path, &bob, "other").unwrap();
        assert!(matches!(add(&disk, &entropy, &path, &bob, "x"), Err(UsersError::Exists(_))));
        passwd(&disk, &entropy, &path, &Address::parse("ANN@example.test").unwrap(), "changed").unwrap();
        let users = Users::load(&disk, &path).unwrap();
        let quotas = ["ann", "bob", "sue"].map(|user| users.quota(ann.domain(), user));
        assert_eq!(quotas, [Some(2 << 30), None, None]);
        assert!(users.verify(&ann, "changed") && !users.verify(&ann, "secret") && users.verify(&bob, "other"));
        remove(&disk, &path, &bob).unwrap();
        assert!(matches!(remove(&disk, &path, &bob), Err(UsersError::Unknown(_))));
        assert!(matches!(passwd(&disk, &entropy, &path, &bob, "x"), Err(UsersError::Unknown(_))));
        assert_eq!(list(&disk, &path).unwrap(), std::slice::from_ref(&ann));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# staff\n\nAnn@example.test:$argon2id$") && text.contains(" $scram-sha-256$i="), "{text}");
        let keys = users.find(&ann).and_then(|at| users.keys_at(at)).unwrap();
        assert_eq!(ScramKeys::derive("changed", &keys.salt).as_ref(), Some(keys));
    }

    #[test]
    fn unsafe_names_and_empty_passwords_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let bad = Address::parse("\"../../etc/x\"@example.test").unwrap();
        let ann = Address::parse("ann@example.test").unwrap();
        assert!(matches!(add(&SystemDisk, &SystemEntropy, &path, &bad, "x"), Err(UsersError::BadName(..))));
        assert!(matches!(add(&SystemDisk, &SystemEntropy, &path, &ann, ""), Err(UsersError::BadPassword(_))));
        assert!(!path.exists());
    }

    #[test]
    fn the_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        add(&SystemDisk, &SystemEntropy, &path, &Address::parse("ann@example.test").unwrap(), "secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn every_slip_is_named_with_its_line() {
        for (text, wanted) in [
            ("ann@x.test", "line 1: the line has no colon; write it as ADDRESS:HASH; see `posthouse user add`"),
            (
                "ann:x",
                "line 1: there is no address before the colon: the address has no domain; write it like ann@example.test:HASH",
            ),
            (
                "\"a/b\"@x.test:x",
                "line 1: a/b@x.test can't be a user: a user's name must not contain a slash; choose another name",
            ),
            (
                "# c\nann@x.test:secret",
                "line 2: the password hash of ann@x.test is not a PHC string of argon2id; remove the line and add the user \
                 again with `posthouse user add`",
            ),
        ] {
            let problems: Vec<_> = Users::parse(text).unwrap_err().iter().map(Problem::to_string).collect();
            assert_eq!(problems, [wanted]);
        }
        let keys = ScramKeys::derive("secret", b"saltsalt").unwrap();
        let problems = Users::parse(&format!("ann@x.test:{HASH} {keys}x")).unwrap_err();
        assert_eq!(problems[0].what, "what stands behind the password hash of ann@x.test is no SCRAM-SHA-256 key");
        let twice = format!("ann@x.test:{HASH}\nANN@X.test:{HASH}\n");
        assert_eq!(Users::parse(&twice).unwrap_err()[0].what, "ANN@x.test stands twice");
        assert_eq!(Users::parse(&"x\n".repeat(1000)).unwrap_err().len(), PROBLEMS_MAX);
    }
}
