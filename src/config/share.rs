//! `[[share]]`: who has more than one part of the queue. Owns nothing but values.

use figment::value::Value;
use ipnet::IpNet;

use super::DomainPattern;
use super::values::{Parsed, is_not, pattern, text};
use crate::mail::{Address, Origin};

/// `[[share]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Whose.
    pub sender: ShareOf,
    /// So many parts, where others have one.
    pub weight: u32,
}

/// Whose part it is.
#[derive(Clone, Debug, PartialEq)]
pub enum ShareOf {
    /// Who logged in.
    Login(Address),
    /// Clients of a network.
    Client(IpNet),
    /// Where nothing else is known: reverse-paths of a domain.
    Domain(DomainPattern),
}

impl ShareOf {
    /// Whether this origin is meant.
    pub fn matches(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Login(login), Origin::Login(address)) => *login == **address,
            (Self::Client(network), Origin::Client(client)) => network.contains(client),
            (Self::Domain(pattern), Origin::Domain(domain)) => pattern.matches(domain),
            _ => false,
        }
    }
}

/// `"ann@example.test"`, `"192.0.2.0/24"`, `"example.test"` or `"*.example.test"`.
pub(super) fn share_of(value: &Value) -> Parsed<ShareOf> {
    let text = text(value)?;
    let parsed = match (text.contains('@'), text.parse()) {
        (true, _) => Address::parse(&text).ok().map(ShareOf::Login),
        (false, Ok(network)) => Some(ShareOf::Client(network)),
        (false, Err(_)) => pattern(value).ok().map(ShareOf::Domain),
    };
    parsed.ok_or_else(|| {
        let remedy = "write it like \"ann@example.test\", \"192.0.2.0/24\" or \"example.test\"";
        is_not(value, "a login, a network or a domain", remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_logins_a_networks_or_a_domains() {
        for (text, is, is_not) in [
            ("ann@example.test", "login:ann@example.test", "domain:example.test"),
            ("192.0.0.0/16", "client:192.0.2.0/24", "client:198.51.100.0/24"),
            ("2001:db8::/32", "client:2001:db8:1::/64", "client:192.0.2.0/24"),
            ("example.test", "domain:example.test", "domain:sub.example.test"),
            ("*.example.test", "domain:sub.example.test", "login:ann@sub.example.test"),
        ] {
            let share = share_of(&Value::from(text)).unwrap();
            assert!(share.matches(&Origin::parse(is).unwrap()) && !share.matches(&Origin::parse(is_not).unwrap()), "{text}");
            assert!(!share.matches(&Origin::Notice));
        }
        for wrong in ["", "@", "192.0.2.0/33", "a b"] {
            assert!(share_of(&Value::from(wrong)).is_err(), "{wrong:?}");
        }
    }
}
