//! What an address means here: mailbox, alias, unknown, or not ours.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::aliases::{self, Aliases};
use super::mailbox::{Mailbox, check_name};
use super::users::Users;
use crate::config::{Config, LocalDomain, Problem};
use crate::mail::{Address, Domain};
use crate::system::Disk;

/// The name that every local domain has (RFC 5321 section 4.5.1).
const POSTMASTER: &str = "postmaster";
/// Larger aliases files aren't read.
const ALIASES_SIZE_MAX: u64 = 64 << 20;

/// What an address means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its domain isn't local.
    NotLocal,
    /// Its domain is local, but nobody has this name.
    Unknown,
    /// A mailbox here.
    Mailbox(Mailbox),
    /// Others get it: one step of expansion. An alias that names itself has its own address among them; for that one the
    /// mailbox is meant (`Directory::mailbox`).
    Alias(Vec<Address>),
}

/// The local domains with their users and aliases.
#[derive(Debug)]
pub struct Directory {
    domains: HashMap<Domain, Entry>,
    postmaster: Address,
    warnings: Vec<Problem>,
}

#[derive(Debug)]
struct Entry {
    config: LocalDomain,
    aliases: Aliases,
    users: HashSet<String>,
}

impl Entry {
    fn mailbox(&self, user: &str) -> Mailbox {
        Mailbox::new(user, &self.config.name, &self.config.store)
    }

    /// The name before the subaddress, if there is one: `ann` of `ann+lists`.
    fn base<'a>(&self, name: &'a str) -> Option<&'a str> {
        let separator = Some(self.config.subaddress.as_str()).filter(|separator| !separator.is_empty())?;
        name.split_once(separator).map(|(base, _)| base).filter(|base| !base.is_empty())
    }

    fn exact(&self, name: &str) -> Option<Resolution> {
        if let Some(targets) = self.aliases.get(name) {
            return Some(Resolution::Alias(targets.to_vec()));
        }
        self.users.contains(name).then(|| Resolution::Mailbox(self.mailbox(name)))
    }
}

impl Directory {
    /// Reads the users file and the aliases files. Without a local domain neither is needed. Errors: every problem.
    pub fn load(config: &Config, disk: &dyn Disk) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut domains = HashMap::new();
        for domain in &config.domains {
            let aliases = match domain.aliases.as_deref().map(|path| load_aliases(disk, path, &domain.name)) {
                None => Aliases::default(),
                Some(Ok(aliases)) => aliases,
                Some(Err(wrong)) => {
                    // Domains that share a file share its problems.
                    problems.extend(wrong.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
                    Aliases::default()
                }
            };
            domains.insert(domain.name.clone(), Entry { config: domain.clone(), aliases, users: HashSet::new() });
        }
        let mut directory = Self { domains, postmaster: config.postmaster.clone(), warnings: Vec::new() };
        if !config.domains.is_empty() {
            match Users::load(disk, &config.auth.users) {
                Ok(users) => directory.add_users(&users, &config.auth.users),
                Err(wrong) => problems.extend(wrong),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        directory.find_dead_ends(config);
        Ok(directory)
    }

    fn add_users(&mut self, users: &Users, path: &Path) {
        let mut strangers = BTreeSet::new();
        for address in users.iter() {
            // `Users` has checked the name already.
            let Ok(user) = check_name(address) else { continue };
            match self.domains.get_mut(address.domain()) {
                Some(entry) => {
                    entry.users.insert(user);
                }
                None => {
                    strangers.insert(address.domain());
                }
            }
        }
        for domain in strangers {
            let what = format!("there are users of {domain}, which is not a local domain");
            self.warnings.push(Problem::new(
                path.display().to_string(),
                "",
                what,
                "add a [[domain]] table for it, or remove them",
            ));
        }
    }

    /// Warns of names that lead to nobody here.
    fn find_dead_ends(&mut self, config: &Config) {
        let mut warnings = Vec::new();
        for domain in &config.domains {
            let Some(entry) = self.domains.get(&domain.name) else { continue };
            let source = domain.aliases.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
            for (name, target) in entry.aliases.iter().flat_map(|(name, targets)| targets.iter().map(move |t| (name, t))) {
                let own = target.domain() == &domain.name && target.local().eq_ignore_ascii_case(name);
                let found = if own { entry.users.contains(name) } else { self.resolve(target) != Resolution::Unknown };
                if !found {
                    let what = format!("{target} is nobody here");
                    let remedy = "correct the target, or create the mailbox with `posthouse user add`";
                    warnings.push(Problem::new(source.clone(), format!("alias {name} of {}", domain.name), what, remedy));
                }
            }
            if let Some(target) = entry.config.catch_all.as_ref().filter(|target| self.resolve(target) == Resolution::Unknown) {
                let what = format!("catch_all {target} is nobody here: mail for unknown users is refused");
                let remedy = "correct catch_all, or create the mailbox with `posthouse user add`";
                warnings.push(Problem::new("", format!("domain {}", domain.name), what, remedy));
            }
        }
        self.warnings.append(&mut warnings);
    }

    /// What doesn't hinder the server, but is hardly meant: names that lead to nobody. For `check` to print.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Whether the domain's mailboxes are here.
    pub fn is_local(&self, domain: &Domain) -> bool {
        self.domains.contains_key(domain)
    }

    /// Whether the address stands literally among aliases or users: no subaddress, no catch-all.
    pub fn is_listed(&self, address: &Address) -> bool {
        let name = lower(address.local());
        let entry = self.domains.get(address.domain());
        entry.is_some_and(|entry| entry.aliases.get(&name).is_some() || entry.users.contains(name.as_ref()))
    }

    /// What the address means: exact alias, exact user, the same without the subaddress, postmaster, catch-all.
    pub fn resolve(&self, address: &Address) -> Resolution {
        let Some(entry) = self.domains.get(address.domain()) else { return Resolution::NotLocal };
        let name = lower(address.local());
        let base = entry.base(&name);
        let listed = entry.exact(&name).or_else(|| entry.exact(base?));
        if let Some(found) = listed {
            return found;
        }
        if name == POSTMASTER || base == Some(POSTMASTER) {
            return self.postmaster_of(address, entry);
        }
        match &entry.config.catch_all {
            Some(target) if !same(target, address) && self.is_somebody(target) => Resolution::Alias(vec![target.clone()]),
            // The postmaster that the configuration names gets mail even without a mailbox: double bounces end there.
            _ if same(&self.postmaster, address) => Resolution::Mailbox(entry.mailbox(POSTMASTER)),
            _ => Resolution::Unknown,
        }
    }

    /// The mailbox of an address, with its aliases left aside: what is meant by an alias' own name among its targets, and the way
    /// out of a loop of aliases.
    pub fn mailbox(&self, address: &Address) -> Option<Mailbox> {
        let entry = self.domains.get(address.domain())?;
        let name = lower(address.local());
        let user = [Some(name.as_ref()), entry.base(&name)].into_iter().flatten().find(|name| entry.users.contains(*name))?;
        Some(entry.mailbox(user))
    }

    /// `postmaster@` a local domain where nobody has that name.
    fn postmaster_of(&self, address: &Address, entry: &Entry) -> Resolution {
        let to = &self.postmaster;
        let is_this = to.domain() == &entry.config.name && to.local().eq_ignore_ascii_case(POSTMASTER);
        if is_this || same(to, address) {
            return Resolution::Mailbox(entry.mailbox(POSTMASTER));
        }
        Resolution::Alias(vec![to.clone()])
    }

    /// Whether a catch-all's target leads on: its own domain's catch-all doesn't count.
    fn is_somebody(&self, target: &Address) -> bool {
        let Some(entry) = self.domains.get(target.domain()) else { return true };
        let name = lower(target.local());
        let base = entry.base(&name);
        name == POSTMASTER || entry.exact(&name).is_some() || base.is_some_and(|base| entry.exact(base).is_some())
    }
}

/// The local part as names are compared. ASCII only: addresses here have no other letters.
fn lower(local: &str) -> Cow<'_, str> {
    if local.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(local.to_ascii_lowercase()) } else { Cow::Borrowed(local) }
}

fn same(a: &Address, b: &Address) -> bool {
    a.domain() == b.domain() && a.local().eq_ignore_ascii_case(b.local())
}

fn load_aliases(disk: &dyn Disk, path: &Path, domain: &Domain) -> Result<Aliases, Vec<Problem>> {
    let remedy = "create the file or correct `aliases` of the [[domain]]";
    let bytes = disk.read(path, ALIASES_SIZE_MAX).map_err(|error| vec![Problem::unreadable(path, &error, remedy)])?;
    let source = path.display().to_string();
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(vec![Problem::new(source, "", "the file is not UTF-8", "write it as plain text")]);
    };
    aliases::parse(&text, domain)
        .map_err(|problems| problems.into_iter().map(|p| Problem { source: source.clone(), ..p }).collect())
}
