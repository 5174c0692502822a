//! A mail address and the reverse-path, parsed once at the edge (RFC 5321 section 4.1.2).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Domain, DomainError};

/// Longest local part that RFC 5321 section 4.5.3.1.1 obliges us to take, and the longest that we take; octets.
const LOCAL_PART_SIZE_MAX: usize = 64;

/// `local-part@domain`. The local part is kept as meant, without quotes; `Display` puts quotes back where they are needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: Domain,
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// No `@` between a local part and a domain.
    NoDomain,
    /// The local part is empty, has a character it may not have, or a broken quoted string.
    BadLocalPart,
    /// The local part has more than 64 octets.
    LocalPartTooLong,
    /// The local part isn't ASCII, and the SMTPUTF8 extension (RFC 6531) wasn't asked for.
    NotAscii,
    /// The domain is wrong.
    BadDomain(DomainError),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDomain => f.write_str("the address has no domain"),
            Self::BadLocalPart => f.write_str("the local part is malformed"),
            Self::LocalPartTooLong => f.write_str("the local part is longer than 64 octets"),
            Self::NotAscii => f.write_str("the local part is not ASCII"),
            Self::BadDomain(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AddressError {}

impl Address {
    /// Parses `local-part@domain`, without angle brackets. The whole text must be the address. The local part is ASCII.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let address = Self::parse_utf8(text)?;
        if address.is_ascii() { Ok(address) } else { Err(AddressError::NotAscii) }
    }

    /// The same, where the local part may have characters beyond ASCII, as in mail with SMTPUTF8 (RFC 6531 section 3.3).
    pub fn parse_utf8(text: &str) -> Result<Self, AddressError> {
        let (local, rest) = parse_local_part(text)?;
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        let domain = Domain::parse(domain).map_err(AddressError::BadDomain)?;
        Ok(Self { local, domain })
    }

    /// An address from a local part as meant (unquoted) and a domain. The local part may have characters beyond ASCII.
    pub fn new(local: &str, domain: Domain) -> Result<Self, AddressError> {
        if local.is_empty() || !local.chars().all(is_printable) {
            return Err(AddressError::BadLocalPart);
        }
        if local.len() > LOCAL_PART_SIZE_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        Ok(Self { local: local.to_owned(), domain })
    }

    /// Whether any server can be told of it: without SMTPUTF8 local parts are ASCII, and domains are here in any case.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii()
    }

    /// The local part as meant: `a b` for `"a b"@example.test`.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }
}

/// Splits the leading local part off, dot-string or quoted string; returns it unquoted, and the rest.
fn parse_local_part(text: &str) -> Result<(String, &str), AddressError> {
    let (local, rest) = match text.strip_prefix('"') {
        Some(quoted) => parse_quoted(quoted)?,
        None => {
            let end = text.find('@').ok_or(AddressError::NoDomain)?;
            let local = &text[..end];
            if !is_dot_string(local) {
                return Err(AddressError::BadLocalPart);
            }
            (local.to_owned(), &text[end..])
        }
    };
    if local.is_empty() {
        return Err(AddressError::BadLocalPart);
    }
    if local.len() > LOCAL_PART_SIZE_MAX {
        return Err(AddressError::LocalPartTooLong);
    }
    Ok((local, rest))
}

/// Parses behind the opening quote: RFC 5321 `Quoted-string`, printable ASCII and quoted pairs only.
fn parse_quoted(quoted: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' => return Ok((local, &quoted[at + 1..])),
            '\\' => chars.next().ok_or(AddressError::BadLocalPart)?.1,
            c => c,
        };
        if !is_printable(c) {
            return Err(AddressError::BadLocalPart);
        }
        local.push(c);
    }
    Err(AddressError::BadLocalPart)
}

/// RFC 5321 `Dot-string`: atoms of RFC 5322 `atext`, joined by single dots; with RFC 6531 all that isn't ASCII is `atext`, too.
fn is_dot_string(local: &str) -> bool {
    let atoms = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atext));
    atoms && (local.is_ascii() || local.chars().all(is_printable))
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte) || !byte.is_ascii()
}

/// What a local part may have, be it in quotes: no control character, of ASCII or beyond.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            return write!(f, "{}@{}", self.local, self.domain);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse_utf8(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

/// Where trouble with a message is reported: MAIL's argument. A notice has the null reverse-path, `<>`, so that nothing is
/// ever told about it (RFC 5321 section 4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReversePath {
    /// `<>`.
    Null,
    /// The sender's address.
    Address(Address),
}

impl ReversePath {
    /// The address, if there is one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// Whether this is `<>`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// The bare address, or nothing for the null reverse-path: what goes between the angle brackets.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for ReversePath {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Address::parse_utf8(&text).map(Self::Address) }
    }
}

impl From<ReversePath> for String {
    fn from(path: ReversePath) -> String {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["ann@example.test", "\"a b\"@example.test", "\"a\\\"b\"@example.test", "x@[192.0.2.1]", "\"a@b\"@c.test"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in ["пример@example.test", "用户@xn--fsqu00a.test", "\"é à\"@example.test", "a.é.b@[192.0.2.1]"] {
            let address = Address::parse_utf8(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_ascii()), (text, false));
        }
        assert!(Address::parse("ann@bücher.example").unwrap().is_ascii());
        assert_eq!(Address::parse("\"ann\"@Example.Test").unwrap(), Address::parse("ann@example.test").unwrap());
        assert_eq!(Address::parse("\"a b\"@x.test").unwrap().local(), "a b");
    }

    #[test]
    fn bad_addresses_are_named() {
        for (text, error) in [
            ("ann", AddressError::NoDomain),
            ("@x.test", AddressError::BadLocalPart),
            ("a..b@x.test", AddressError::BadLocalPart),
            (".a@x.test", AddressError::BadLocalPart),
            ("a b@x.test", AddressError::BadLocalPart),
            ("\"a@x.test", AddressError::BadLocalPart),
            ("\"a\r\"@x.test", AddressError::BadLocalPart),
            ("\"\"@x.test", AddressError::BadLocalPart),
            ("é@x.test", AddressError::NotAscii),
            ("a@", AddressError::BadDomain(DomainError::Empty)),
            ("a@b@c", AddressError::BadDomain(DomainError::Malformed)),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Address::parse_utf8("a\u{85}b@x.test"), Err(AddressError::BadLocalPart));
        assert_eq!(Address::parse(&format!("{}@x.test", "a".repeat(65))), Err(AddressError::LocalPartTooLong));
    }
}
