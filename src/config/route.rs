//! `[[route]]` as the server uses it: whose mail, to which domains, takes which way.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{AddressPattern, RemoteTls};
use crate::mail::{Domain, ReversePath};

/// `[[route]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Mail for which domains.
    pub domain: DomainPattern,
    /// Mail from whom.
    pub sender: SenderPattern,
    /// Tried in order; empty: the MX hosts of the recipient's domain.
    pub hosts: Vec<RouteHost>,
    /// The hosts speak LMTP, not SMTP.
    pub lmtp: bool,
    /// How its connections are encrypted.
    pub tls: RemoteTls,
    /// TLS from the first octet.
    pub implicit_tls: bool,
    /// Who we are to these hosts, if we log in there.
    pub login: Option<RouteLogin>,
    /// Which addresses of a host are called, and which first; none: as `remote.family` says.
    pub family: Option<Family>,
    /// Our own addresses that its hosts are called from; empty: `remote.sources`.
    pub sources: Vec<IpAddr>,
}

impl Route {
    /// For everybody's mail to these domains, by SMTP, and otherwise as by default.
    pub fn new(domain: DomainPattern, hosts: Vec<RouteHost>) -> Self {
        Self {
            domain,
            sender: SenderPattern::Any,
            hosts,
            lmtp: false,
            tls: RemoteTls::Opportunistic,
            implicit_tls: false,
            login: None,
            family: None,
            sources: Vec::new(),
        }
    }

    /// Whether mail from this sender to this domain takes it.
    pub fn matches(&self, sender: &ReversePath, domain: &Domain) -> bool {
        self.domain.matches(domain) && self.sender.matches(sender)
    }
}

/// A name at the hosts of a route, and where its password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLogin {
    /// The name.
    pub name: String,
    /// The password is this file's first line.
    pub password_file: PathBuf,
}

/// Longest password; octets.
const PASSWORD_SIZE_MAX: usize = 1024;

impl RouteLogin {
    /// The password in the file's octets, or what is wrong with them.
    pub fn password(octets: &[u8]) -> Result<&str, &'static str> {
        let line = octets.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Err(_) => Err("its first line is not UTF-8"),
            Ok("") => Err("its first line is empty"),
            Ok(line) if line.len() > PASSWORD_SIZE_MAX || line.contains('\0') => Err("its first line is not a password"),
            Ok(line) => Ok(line),
        }
    }
}

/// `partner.test`, `*.partner.test` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// Exactly this domain.
    Exact(Domain),
    /// Every domain below this one, not itself.
    Below(Domain),
    /// Every domain.
    Any,
}

impl DomainPattern {
    /// Whether the domain is meant.
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == domain,
            Self::Below(parent) => domain.as_str().strip_suffix(parent.as_str()).is_some_and(|head| head.ends_with('.')),
        }
    }

    /// Whether every domain of the other pattern is also one of this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Exact(domain)) => self.matches(domain),
            (Self::Below(parent), Self::Below(child)) => parent == child || self.matches(child),
            _ => false,
        }
    }
}

/// `partner.test`, `*.partner.test` or `*`, as in the file.
impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => domain.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// `*`, `<>`, `ann@example.test` or `*@example.test`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderPattern {
    /// Everybody.
    Any,
    /// Nobody: notices.
    Null,
    /// This one, or all of a domain.
    Address(AddressPattern),
}

impl SenderPattern {
    /// Whether mail with this reverse-path is meant.
    pub fn matches(&self, sender: &ReversePath) -> bool {
        match (self, sender.address()) {
            (Self::Any, _) | (Self::Null, None) => true,
            (Self::Address(pattern), Some(address)) => pattern.matches(address),
            (Self::Null, Some(_)) | (Self::Address(_), None) => false,
        }
    }

    /// Whether every sender of the other pattern is also one of this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (Self::Null, Self::Null) => true,
            (Self::Address(pattern), Self::Address(AddressPattern::Exact(address))) => pattern.matches(address),
            (Self::Address(pattern), Self::Address(all)) => pattern == all,
            _ => false,
        }
    }
}

/// As in the file.
impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("<>"),
            Self::Address(AddressPattern::Exact(address)) => address.fmt(f),
            Self::Address(AddressPattern::All(domain)) => write!(f, "*@{domain}"),
        }
    }
}

/// A host of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteHost {
    /// A name or an IP address.
    Tcp(HostPort),
    /// `unix:/path`, for LMTP.
    Unix(PathBuf),
}

impl RouteHost {
    /// Whether what is said to it doesn't leave this machine, as far as the configuration tells.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(HostPort { host, .. }) => host.literal().is_some_and(|ip| ip.is_loopback()) || host.as_str() == "localhost",
        }
    }
}

/// As in the file: `127.0.0.1:2526`, `relay.test`, `unix:/run/lmtp`.
impl fmt::Display for RouteHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(HostPort { host, port }) => match (host.literal(), port) {
                (Some(ip), Some(port)) => SocketAddr::new(ip, *port).fmt(f),
                (Some(ip), None) => ip.fmt(f),
                (None, Some(port)) => write!(f, "{host}:{port}"),
                (None, None) => host.fmt(f),
            },
        }
    }
}

/// A host to call: a name or an address, with a port or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A host name, or an address literal for an IP address.
    pub host: Domain,
    /// The port; none: `remote.port`.
    pub port: Option<u16>,
}

/// Which IP addresses of a host are called, and which first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both in turn, an IPv6 address first.
    Any,
    /// IPv4 addresses first, the IPv6 addresses behind them.
    Ipv4First,
    /// The other way round.
    Ipv6First,
    /// Only IPv4 addresses.
    Ipv4,
    /// Only IPv6 addresses.
    Ipv6,
}

impl Family {
    /// Whether this address may be called.
    pub fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::Any | Self::Ipv4First | Self::Ipv6First => true,
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
        }
    }

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Ipv4First => "ipv4-first",
            Self::Ipv6First => "ipv6-first",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;

    fn address(text: &str) -> AddressPattern {
        AddressPattern::Exact(Address::parse(text).unwrap())
    }

    #[test]
    fn a_password_is_the_first_line() {
        for (file, password) in [(&b"secret"[..], "secret"), (b"s e=\r\nmore\n", "s e="), ("\u{fc}\n".as_bytes(), "\u{fc}")] {
            assert_eq!(RouteLogin::password(file), Ok(password));
        }
        for wrong in [&b""[..], b"\nsecret\n", b"\xff\n", b"a\0b\n", &[b'x'; 2000]] {
            assert!(RouteLogin::password(wrong).is_err());
        }
    }

    #[test]
    fn senders_are_matched_and_covered() {
        let of = |pattern: &str| match pattern {
            "*" => SenderPattern::Any,
            "<>" => SenderPattern::Null,
            all if all.starts_with("*@") => SenderPattern::Address(AddressPattern::All(Domain::parse(&all[2..]).unwrap())),
            one => SenderPattern::Address(address(one)),
        };
        let patterns = ["*", "<>", "*@a.test", "ann@a.test", "*@b.test"];
        for (sender, matching) in [
            ("", &["*", "<>"][..]),
            ("Ann@A.test", &["*", "*@a.test", "ann@a.test"]),
            ("bob@a.test", &["*", "*@a.test"]),
            ("ann@sub.a.test", &["*"]),
        ] {
            let path = if sender.is_empty() { ReversePath::Null } else { ReversePath::Address(Address::parse(sender).unwrap()) };
            let found: Vec<_> = patterns.into_iter().filter(|pattern| of(pattern).matches(&path)).collect();
            assert_eq!(found, matching, "{sender}");
        }
        for first in patterns {
            assert_eq!(of(first).to_string(), first);
            for second in patterns {
                let covers = first == "*" || first == second || first == "*@a.test" && second == "ann@a.test";
                assert_eq!(of(first).covers(&of(second)), covers, "{first} {second}");
            }
        }
    }
}
