//! What an address means here: mailbox, alias, unknown, or not ours.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aliases::{self, Aliases};
use super::mailbox::{Mailbox, check_name};
use super::users::Users;
use crate::config::{Config, LocalDomain, Problem, Quota};
use crate::mail::{Address, Domain, Service};
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
    users: Arc<Users>,
    /// Whether there is a mailbox that has one.
    has_quotas: bool,
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
    /// Reads the users file and the aliases files. Without a local domain neither is needed, but for logins the first. Errors: every
    /// problem.
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
        let mut directory = Self {
            domains,
            postmaster: config.postmaster.clone(),
            users: Arc::default(),
            has_quotas: false,
            warnings: Vec::new(),
        };
        let wants_logins = config.listeners.iter().any(|listener| listener.service == Service::Submission);
        if !config.domains.is_empty() || wants_logins {
            match Users::load(disk, &config.auth.users) {
                Ok(users) => {
                    directory.add_users(&users, &config.auth.users);
                    directory.users = Arc::new(users);
                }
                Err(wrong) => problems.extend(wrong),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        directory.find_dead_ends(config);
        let domains = config.domains.iter().any(|domain| domain.quota.octets.is_some());
        directory.has_quotas = domains || directory.users.has_quotas();
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
        let (with, all) = users.count_keys();
        if (1..all).contains(&with) {
            let what = format!("{} of {all} users have no SCRAM keys: SCRAM isn't offered to anybody", all - with);
            let remedy = "give them a password again with `posthouse user passwd`";
            self.warnings.push(Problem::new(path.display().to_string(), "", what, remedy));
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

    /// Those who can log in.
    pub fn users(&self) -> &Arc<Users> {
        &self.users
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

    /// The Maildir that mail for this address goes to, and what it may hold, where that is said: for its user, or else for the domain.
    pub fn quota(&self, address: &Address) -> Option<(PathBuf, Quota)> {
        if !self.has_quotas {
            return None;
        }
        let Resolution::Mailbox(mailbox) = self.resolve(address) else { return None };
        let domain = self.domains.get(&mailbox.domain)?.config.quota;
        let octets = self.users.quota(&mailbox.domain, &mailbox.user).or(domain.octets)?;
        Some((mailbox.maildir()?, Quota { octets: Some(octets), ..domain }))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{MailStore, load};
    use crate::system::SystemDisk;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

    fn directory(postmaster: &str, domains: &str, users: &[&str], aliases: &str) -> Directory {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("users"), users.iter().map(|user| format!("{user}:{HASH}\n")).collect::<String>()).unwrap();
        std::fs::write(at("aliases"), aliases).unwrap();
        let domains = domains.replace("ALIASES", &format!("{:?}", at("aliases")));
        let text = format!(
            "hostname = \"mx.test.example\"\npostmaster = {postmaster:?}\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [auth]\nusers = {:?}\n{domains}",
            at("users")
        );
        std::fs::write(at("posthouse.toml"), text).unwrap();
        let loaded = load(Some(&at("posthouse.toml")), &BTreeMap::new()).unwrap();
        Directory::load(&loaded.config, &SystemDisk).unwrap()
    }

    const ONE: &str = "[[domain]]\nname = \"x.test\"\nmaildir = \"mail/{domain}/{user}\"\naliases = ALIASES\n";

    /// What an address means, in short.
    fn means(directory: &Directory, address: &str) -> String {
        match directory.resolve(&Address::parse(address).unwrap()) {
            Resolution::NotLocal => "not local".to_owned(),
            Resolution::Unknown => "unknown".to_owned(),
            Resolution::Mailbox(mailbox) => match mailbox.store {
                MailStore::Maildir(path) => path,
                MailStore::Lmtp(_) => format!("lmtp {}", mailbox.user),
            },
            Resolution::Alias(targets) => {
                format!("alias {}", targets.iter().map(Address::to_string).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn aliases_users_tags_postmaster_in_this_order() {
        let users = ["ann@x.test", "bob@x.test", "c+d@x.test", "both@x.test"];
        let directory = directory("postmaster@x.test", ONE, &users, "team: ann, bob\nboth: bob\nann+sales: bob\n");
        for (address, meaning) in [
            ("ann@x.test", "mail/x.test/ann"),
            ("ANN@X.TEST", "mail/x.test/ann"),
            ("ann+tag@x.test", "mail/x.test/ann"),
            ("ann+tag+more@x.test", "mail/x.test/ann"),
            ("ann+SALES@x.test", "alias bob@x.test"),
            ("team@x.test", "alias ann@x.test bob@x.test"),
            ("Team+x@x.test", "alias ann@x.test bob@x.test"),
            ("both@x.test", "alias bob@x.test"),
            ("c+d@x.test", "mail/x.test/c+d"),
            ("c@x.test", "unknown"),
            ("+tag@x.test", "unknown"),
            ("nobody@x.test", "unknown"),
            ("\"../ann\"@x.test", "unknown"),
            ("\"../../etc/x\"@x.test", "unknown"),
            ("postmaster@x.test", "mail/x.test/postmaster"),
            ("PostMaster+x@x.test", "mail/x.test/postmaster"),
            ("ann@y.test", "not local"),
            ("postmaster@y.test", "not local"),
            ("ann@sub.x.test", "not local"),
        ] {
            assert_eq!(means(&directory, address), meaning, "{address}");
        }
        assert!(directory.is_local(&Domain::parse("X.test").unwrap()));
    }

    #[test]
    fn postmaster_is_always_somebody() {
        let two = ONE.to_owned() + "[[domain]]\nname = \"y.test\"\n";
        let listed = directory("ann@x.test", &two, &["ann@x.test", "postmaster@x.test"], "");
        assert_eq!(means(&listed, "postmaster@x.test"), "mail/x.test/postmaster");
        assert_eq!(means(&listed, "postmaster@y.test"), "alias ann@x.test");
        let elsewhere = directory("admin@far.test", &two, &[], "");
        assert_eq!(means(&elsewhere, "postmaster@x.test"), "alias admin@far.test");
        let other = directory("postmaster@y.test", &two, &[], "");
        assert_eq!(means(&other, "postmaster@x.test"), "alias postmaster@y.test");
        assert_eq!(means(&other, "postmaster@y.test"), "mail/y.test/postmaster");
        let nobody = directory("root@x.test", &two, &[], "");
        assert_eq!(means(&nobody, "postmaster@x.test"), "alias root@x.test");
        assert_eq!(means(&nobody, "root@x.test"), "mail/x.test/postmaster");
    }

    #[test]
    fn a_catch_all_gets_what_nobody_else_does_and_never_loops() {
        let domains = "[[domain]]\nname = \"x.test\"\ncatch_all = \"ann@x.test\"\nsubaddress = \"\"\n\
                       [[domain]]\nname = \"y.test\"\ncatch_all = \"nobody@y.test\"\n\
                       [[domain]]\nname = \"z.test\"\ncatch_all = \"away@far.test\"\n";
        let directory = directory("ann@x.test", domains, &["ann@x.test", "ann@z.test"], "");
        assert_eq!(means(&directory, "who@x.test"), "alias ann@x.test");
        assert_eq!(means(&directory, "ann+tag@x.test"), "alias ann@x.test");
        assert_eq!(means(&directory, "who@y.test"), "unknown");
        assert_eq!(means(&directory, "nobody@y.test"), "unknown");
        assert_eq!(means(&directory, "who@z.test"), "alias away@far.test");
        assert_eq!(means(&directory, "ann@z.test"), "mail/z.test/ann");
        assert_eq!(means(&directory, "postmaster@z.test"), "alias ann@x.test");
        assert_eq!(directory.warnings().len(), 1);
        let wanted = "domain y.test: catch_all nobody@y.test is nobody here: mail for unknown users is refused; \
                      correct catch_all, or create the mailbox with `posthouse user add`";
        assert_eq!(directory.warnings()[0].to_string(), wanted);
    }

    #[test]
    fn a_mailbox_lies_behind_an_alias_of_its_own_name() {
        let directory = directory("ann@x.test", ONE, &["ann@x.test"], "ann: ann, away@far.test\nlost: gone\nloop: loop\n");
        assert_eq!(means(&directory, "ann@x.test"), "alias ann@x.test away@far.test");
        let mailbox = |address: &str| directory.mailbox(&Address::parse(address).unwrap()).map(|mailbox| mailbox.user);
        assert_eq!(mailbox("Ann@x.test").as_deref(), Some("ann"));
        assert_eq!(mailbox("ann+x@x.test").as_deref(), Some("ann"));
        assert_eq!(mailbox("loop@x.test"), None);
        let warned: Vec<_> = directory.warnings().iter().map(|w| format!("{}: {}", w.key, w.what)).collect();
        assert_eq!(
            warned,
            ["alias loop of x.test: loop@x.test is nobody here", "alias lost of x.test: gone@x.test is nobody here"]
        );
    }

    #[test]
    fn users_of_foreign_domains_are_warned_of() {
        let directory = directory("ann@x.test", ONE, &["ann@x.test", "bob@q.test", "ann@q.test"], "");
        assert_eq!(directory.warnings().len(), 1);
        assert_eq!(directory.warnings()[0].what, "there are users of q.test, which is not a local domain");
    }
}
