//! MAIL FROM: who may send, and how much.

use super::{Client, Policy};
use crate::mail::{Address, EnhancedCode, Priority, Reply, ReversePath, Service};

impl Policy {
    /// Whether mail from this reverse-path, with this declared size in octets, may come. The null reverse-path always may, from
    /// whoever may send at all.
    pub fn sender(&self, client: &Client, reverse_path: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        self.may_send(client)?;
        if let (Some(login), ReversePath::Address(address)) = (&client.login, reverse_path)
            && !self.owns(login, address)
        {
            return Err(not_owned(address, login));
        }
        // The path's syntax was checked when it was parsed; that its domain exists isn't asked.
        let limit = self.config.limits.message_size;
        if size.is_some_and(|size| size > limit) {
            return Err(Reply::new(552, EnhancedCode(5, 3, 4), format!("Message too big: the limit is {limit} bytes")));
        }
        Ok(())
    }

    /// The priority that a message gets for which this one is asked; none is that of ordinary mail. Strangers' mail can step back, but it
    /// doesn't overtake others'.
    pub fn priority(&self, client: &Client, asked: Priority) -> Option<Priority> {
        let known = client.login.is_some() || self.is_trusted(client);
        (known || asked < Priority::default()).then_some(asked)
    }

    /// Submission is for those who logged in (RFC 6409 section 4.3).
    fn may_send(&self, client: &Client) -> Result<(), Reply> {
        if client.service != Service::Submission || client.login.is_some() {
            return Ok(());
        }
        let text = match client.tls {
            None if self.config.auth.require_tls => "Must issue a STARTTLS command first",
            _ => "Authentication required",
        };
        Err(Reply::new(530, EnhancedCode(5, 7, 0), text))
    }

    /// Whether an address belongs to a login: it is the account's own, with a subaddress or without, or a `[[sender]]` says so.
    pub fn owns(&self, login: &Address, address: &Address) -> bool {
        is_same(login, address) || self.is_subaddress(login, address) || self.is_lent(login, address)
    }

    /// `ann+tag@` is ann's, unless somebody else has just that name.
    fn is_subaddress(&self, login: &Address, address: &Address) -> bool {
        let mailbox = self.directory.mailbox(address).filter(|_| !self.directory.is_listed(address));
        mailbox.is_some_and(|mailbox| mailbox.domain == *login.domain() && mailbox.user.eq_ignore_ascii_case(login.local()))
    }

    fn is_lent(&self, login: &Address, address: &Address) -> bool {
        let for_login = self.config.senders.iter().filter(|sender| match &sender.login {
            Some(only) => is_same(only, login),
            None => true,
        });
        for_login.flat_map(|sender| &sender.addresses).any(|pattern| pattern.matches(address))
    }
}

fn not_owned(address: &Address, login: &Address) -> Reply {
    Reply::new(553, EnhancedCode(5, 7, 1), format!("<{address}>: this sender address does not belong to {login}"))
}

/// Accounts' names don't differ by the case of their letters.
fn is_same(one: &Address, other: &Address) -> bool {
    one.domain() == other.domain() && one.local().eq_ignore_ascii_case(other.local())
}
