//! A mailbox of ours, and where its mail goes: no name that a stranger or a users file can think of leaves its folder.

use std::path::PathBuf;

use crate::config::MailStore;
use crate::mail::{Address, Domain};

/// A mailbox here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The user's canonical name: the local part in lower case.
    pub user: String,
    /// Its domain.
    pub domain: Domain,
    /// Where its mail goes; a Maildir's path has `{domain}` and `{user}` filled in.
    pub store: MailStore,
}

impl Mailbox {
    /// The mailbox of a user whose name `check_name` found right.
    pub(super) fn new(user: &str, domain: &Domain, store: &MailStore) -> Self {
        let store = match store {
            MailStore::Maildir(template) => MailStore::Maildir(fill_in(template, domain, user)),
            MailStore::Lmtp(address) => MailStore::Lmtp(address.clone()),
        };
        Self { user: user.to_owned(), domain: domain.clone(), store }
    }

    /// The Maildir, if it is one.
    pub fn maildir(&self) -> Option<PathBuf> {
        match &self.store {
            MailStore::Maildir(path) => Some(PathBuf::from(path)),
            MailStore::Lmtp(_) => None,
        }
    }
}

/// Fills a template in one pass, so that braces in a user's name mean nothing.
fn fill_in(template: &str, domain: &Domain, user: &str) -> String {
    let mut path = String::with_capacity(template.len() + user.len() + domain.as_str().len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, behind) = rest.split_at(at);
        path.push_str(before);
        rest = if let Some(behind) = behind.strip_prefix("{user}") {
            path.push_str(user);
            behind
        } else if let Some(behind) = behind.strip_prefix("{domain}") {
            path.push_str(domain.as_str());
            behind
        } else {
            path.push('{');
            &behind[1..]
        };
    }
    path.push_str(rest);
    path
}

/// Whether a local part may be a user's name: a folder of that name must be possible, visible, and below its parent.
pub fn check_name(address: &Address) -> Result<String, &'static str> {
    let name = address.local();
    if name.starts_with('.') {
        return Err("a user's name must not begin with a dot");
    }
    if name.contains(['/', '\0']) {
        return Err("a user's name must not contain a slash");
    }
    if name.starts_with(' ') || name.ends_with(' ') {
        return Err("a user's name must not begin or end with a blank");
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for local in ["/etc", "a/b", "..", ".", ".hidden", "../x", " a", "a "] {
            let address = Address::new(local, Domain::parse("x.test").unwrap()).unwrap();
            assert!(check_name(&address).is_err(), "{local:?}");
        }
        let address = Address::parse("\"A b\"@x.test").unwrap();
        assert_eq!(check_name(&address), Ok("a b".to_owned()));
    }

    #[test]
    fn templates_are_filled_in_one_pass() {
        let domain = Domain::parse("x.test").unwrap();
        let filled = |template: &str, user: &str| fill_in(template, &domain, user);
        assert_eq!(filled("mail/{domain}/{user}/Maildir", "ann"), "mail/x.test/ann/Maildir");
        assert_eq!(filled("{user}-{user}", "{domain}"), "{domain}-{domain}");
        assert_eq!(filled("a{b/{user}", "ann"), "a{b/ann");
    }
}
