//! The path in MAIL and RCPT: what stands between the angle brackets (RFC 5321 section 4.1.2), and the address in it.

use super::CommandError;
use crate::mail::{Address, AddressError, Domain};

/// Splits `FROM:<path> parameters` into what stands between the angle brackets and what follows them. White space behind
/// the colon isn't in the grammar but in so many clients that refusing it would only lose mail.
pub(super) fn split_path<'a>(argument: Option<&'a [u8]>, keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let argument = argument?;
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    let end = path_end(rest)?;
    let parameters = &rest[end + 1..];
    (parameters.is_empty() || parameters[0] == b' ').then_some((&rest[..end], parameters))
}

/// Where the closing bracket is: the first one outside a quoted string.
fn path_end(path: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    path.iter().position(|octet| {
        let end = *octet == b'>' && !quoted;
        if escaped {
            escaped = false;
        } else if *octet == b'"' {
            quoted = !quoted;
        } else {
            escaped = quoted && *octet == b'\\';
        }
        end
    })
}

/// The text between the brackets; beyond ASCII only if `utf8` (RFC 6531).
pub(super) fn path_text(path: &[u8], utf8: bool) -> Result<&str, CommandError> {
    if !utf8 && !path.is_ascii() {
        return Err(CommandError::NotAscii);
    }
    std::str::from_utf8(path).map_err(|_| CommandError::NotAscii)
}

/// An address, perhaps behind a source route: `@a.test,@b.test:user@c.test`.
pub(super) fn parse_address(path: &str, wrong: fn(AddressError) -> CommandError) -> Result<Address, CommandError> {
    let Some(routed) = path.strip_prefix('@') else { return Address::parse_utf8(path).map_err(wrong) };
    let (route, address) = split_route(routed).ok_or(wrong(AddressError::BadLocalPart))?;
    for (index, hop) in route.split(',').enumerate() {
        let hop = if index == 0 { Some(hop) } else { hop.strip_prefix('@') };
        let hop = hop.ok_or(wrong(AddressError::BadLocalPart))?;
        Domain::parse(hop).map_err(|error| wrong(AddressError::BadDomain(error)))?;
    }
    Address::parse_utf8(address).map_err(wrong)
}

/// Cuts at the colon that ends the route; the colons of an IPv6 literal are no such thing.
fn split_route(routed: &str) -> Option<(&str, &str)> {
    let mut in_literal = false;
    let colon = routed.bytes().position(|octet| {
        in_literal = octet == b'[' || (in_literal && octet != b']');
        octet == b':' && !in_literal
    })?;
    Some((&routed[..colon], &routed[colon + 1..]))
}
