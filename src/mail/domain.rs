//! A mail domain, parsed once: lower-case A-labels, or an address literal in brackets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A domain as RFC 5321 section 4.1.2 knows it, in one canonical form: lower-case ASCII (U-labels become A-labels), no
/// final dot; or an address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

/// An IP address as it is written where a domain could stand (RFC 5321 section 4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLiteral(pub IpAddr);

impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => write!(f, "[{ip}]"),
            IpAddr::V6(ip) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

/// Why a text is not a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// Nothing where a domain should be.
    Empty,
    /// More than 253 octets, or a label of more than 63.
    TooLong,
    /// An empty label, a label that starts or ends with a hyphen, or a character that host names don't have.
    Malformed,
    /// Brackets without a valid IPv4 or `IPv6:` address between them.
    BadLiteral,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the domain is empty",
            Self::TooLong => "the domain is longer than DNS allows",
            Self::Malformed => "the domain is malformed",
            Self::BadLiteral => "the address literal is malformed",
        })
    }
}

impl std::error::Error for DomainError {}

/// Maps with domains as keys can be asked with a text in the form that `as_str` gives.
impl std::borrow::Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Domain {
    /// Parses a domain or an address literal.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(DomainError::BadLiteral)?;
            return Ok(Self::from_ip(parse_literal(inner)?));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        if text.is_ascii() {
            check_labels(text)?;
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| DomainError::Malformed)?;
        check_labels(&ascii)?;
        Ok(Self(ascii.to_ascii_lowercase()))
    }

    /// The address literal of an IP address.
    pub fn from_ip(ip: IpAddr) -> Self {
        Self(AddressLiteral(ip).to_string())
    }

    /// The canonical text, brackets included for an address literal.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The IP address, if this is an address literal.
    pub fn literal(&self) -> Option<IpAddr> {
        let inner = self.0.strip_prefix('[')?.strip_suffix(']')?;
        parse_literal(inner).ok()
    }
}

fn parse_literal(inner: &str) -> Result<IpAddr, DomainError> {
    let tag = inner.get(..5).unwrap_or("");
    if tag.eq_ignore_ascii_case("ipv6:") {
        return inner[5..].parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| DomainError::BadLiteral);
    }
    inner.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| DomainError::BadLiteral)
}

fn check_labels(text: &str) -> Result<(), DomainError> {
    if text.len() > 253 {
        return Err(DomainError::TooLong);
    }
    for label in text.split('.') {
        if label.len() > 63 {
            return Err(DomainError::TooLong);
        }
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if label.is_empty() || !inner || label.starts_with('-') || label.ends_with('-') {
            return Err(DomainError::Malformed);
        }
    }
    Ok(())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;
    fn try_from(text: String) -> Result<Self, DomainError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> String {
        domain.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_get_one_canonical_form() {
        assert_eq!(Domain::parse("Example.TEST.").unwrap().as_str(), "example.test");
        assert_eq!(Domain::parse("bücher.example").unwrap().as_str(), "xn--bcher-kva.example");
        assert_eq!(Domain::parse("[IPv6:2001:DB8::1]").unwrap().as_str(), "[IPv6:2001:db8::1]");
        assert_eq!(Domain::parse("[192.0.2.1]").unwrap().literal(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(Domain::parse("example.test").unwrap().literal(), None);
    }

    #[test]
    fn malformed_domains_are_named() {
        for (text, error) in [
            ("", DomainError::Empty),
            (".", DomainError::Empty),
            ("a..b", DomainError::Malformed),
            ("-a.b", DomainError::Malformed),
            ("a b", DomainError::Malformed),
            ("[300.1.1.1]", DomainError::BadLiteral),
            ("[IPv6:::g]", DomainError::BadLiteral),
            ("[]", DomainError::BadLiteral),
        ] {
            assert_eq!(Domain::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Domain::parse(&"a".repeat(64)), Err(DomainError::TooLong));
        assert_eq!(Domain::parse(&"a.".repeat(130)), Err(DomainError::TooLong));
    }
}
