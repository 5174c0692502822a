//! What a sender asked for one recipient: the parameters of RCPT (RFC 3461), and the encoding that they travel in.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::Address;

/// Longest ORCPT: octets of its encoded form (RFC 3461 section 4.2).
const ORIGINAL_SIZE_MAX: usize = 500;

/// RCPT's parameters. Most recipients have none: a box, or none.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DsnRequest {
    /// NOTIFY; none: tell of failure, and of delay as the server likes.
    pub notify: Option<Notify>,
    /// ORCPT.
    pub orcpt: Option<OriginalRecipient>,
}

impl DsnRequest {
    /// In a box; none if nothing was asked for.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

/// What the sender wants to be told of; nothing at all is NEVER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// SUCCESS.
    pub success: bool,
    /// FAILURE.
    pub failure: bool,
    /// DELAY.
    pub delay: bool,
}

impl Notify {
    /// Tell of nothing.
    pub const NEVER: Notify = Notify { success: false, failure: false, delay: false };
}

/// NOTIFY's value.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("NEVER");
        }
        let names = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        for (index, (_, name)) in names.iter().filter(|(given, _)| *given).enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// The recipient as the sender knows it: a type and an address of that type, decoded. Nothing is to be concluded from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OriginalRecipient {
    kind: String,
    address: String,
}

impl OriginalRecipient {
    /// Checks type and decoded address: an atom, and printable text, ASCII except for the type `utf-8` (RFC 6533 section 3).
    pub fn new(kind: &str, address: &str) -> Option<Self> {
        let atom = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
        let kind_right = !kind.is_empty() && kind.bytes().all(atom);
        let printable = |c: char| !c.is_control() && (c.is_ascii() || is_unicode(kind));
        let right = kind_right && !address.is_empty() && address.chars().all(printable);
        let original = right.then(|| Self { kind: kind.to_owned(), address: address.to_owned() })?;
        (original.to_wire().len() <= ORIGINAL_SIZE_MAX).then_some(original)
    }

    /// Parses ORCPT's value: `rfc822;ann@example.test` in xtext.
    pub fn parse(value: &str) -> Option<Self> {
        let (kind, encoded) = value.split_once(';').filter(|_| value.len() <= ORIGINAL_SIZE_MAX)?;
        let address = if is_unicode(kind) { decode_unitext(encoded)? } else { decode_xtext(encoded)? };
        Self::new(kind, &address)
    }

    /// How an address is known to its sender who named it so, and said nothing else.
    pub fn of(address: &Address) -> Option<Self> {
        let text = address.to_string();
        Self::new(if text.is_ascii() { "rfc822" } else { "utf-8" }, &text)
    }

    /// The address type as it was written: `rfc822`, `utf-8`. No letter's case may change on the way (RFC 3461 section 5.2.1).
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether the address may have characters beyond ASCII.
    pub fn is_unicode(&self) -> bool {
        is_unicode(&self.kind)
    }

    /// The address, decoded.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// ORCPT's value, in ASCII.
    pub fn to_wire(&self) -> String {
        let encoded = if self.is_unicode() { encode_unitext(&self.address) } else { encode_xtext(&self.address) };
        format!("{};{encoded}", self.kind)
    }
}

impl TryFrom<String> for OriginalRecipient {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an address type, a semicolon and an address in xtext")
    }
}

impl From<OriginalRecipient> for String {
    fn from(original: OriginalRecipient) -> String {
        original.to_wire()
    }
}

/// Whether an address of this type may have characters beyond ASCII (RFC 6533 section 3).
fn is_unicode(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("utf-8")
}

/// Octets that stand for themselves in xtext.
fn is_plain(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'+' | b'=')
}

/// Encodes a text as xtext (RFC 3461 section 4).
pub fn encode_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if is_plain(octet) {
            encoded.push(char::from(octet));
        } else {
            // Writing to memory can't fail.
            let _ = write!(encoded, "+{octet:02X}");
        }
    }
    encoded
}

/// Decodes xtext; none if it is malformed or holds anything but ASCII.
pub fn decode_xtext(encoded: &str) -> Option<String> {
    let mut text = String::with_capacity(encoded.len());
    let mut octets = encoded.bytes();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'+' {
            // Capital letters only, says the grammar.
            let mut digit = || octets.next().filter(|digit| !digit.is_ascii_lowercase()).and_then(|d| char::from(d).to_digit(16));
            u8::try_from(digit()? << 4 | digit()?).ok()?
        } else {
            Some(octet).filter(|octet| is_plain(*octet))?
        };
        text.push(Some(char::from(octet)).filter(char::is_ascii)?);
    }
    Some(text)
}

/// `utf-8-addr-xtext` (RFC 6533 section 3): what isn't plain becomes `\x{HEX}`.
fn encode_unitext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() && !matches!(c, '+' | '=' | '\\') {
            encoded.push(c);
        } else {
            let _ = write!(encoded, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    encoded
}

/// Both of RFC 6533's forms: `\x{HEX}` and characters as they are.
fn decode_unitext(encoded: &str) -> Option<String> {
    let mut text = String::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some(c) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("\\x{") {
            let (digits, behind) = behind.split_once('}')?;
            let right =
                (2..=6).contains(&digits.len()) && digits.bytes().all(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(&d));
            text.push(char::from_u32(u32::from_str_radix(digits, 16).ok().filter(|_| right)?)?);
            rest = behind;
        } else if matches!(c, '\\' | '+' | '=' | ' ') {
            return None;
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rfcs_examples_are_read() {
        let original = OriginalRecipient::parse("rfc822;Bob@Big-Bucks.com").unwrap();
        assert_eq!((original.kind(), original.address()), ("rfc822", "Bob@Big-Bucks.com"));
        let tagged = OriginalRecipient::parse("rfc822;user+2Btag@example.com").unwrap();
        assert_eq!((tagged.address(), tagged.to_wire().as_str()), ("user+tag@example.com", "rfc822;user+2Btag@example.com"));
        let unicode = OriginalRecipient::parse("UTF-8;f\\x{E9}e@x.test").unwrap();
        assert_eq!((unicode.address(), unicode.to_wire().as_str()), ("fée@x.test", "UTF-8;f\\x{E9}e@x.test"));
        assert_eq!(OriginalRecipient::parse("UTF-8;fée@x.test"), Some(unicode));
    }

    #[test]
    fn what_is_malformed_is_none() {
        let long = format!("rfc822;{}", "x".repeat(500));
        for wrong in [
            "",
            "rfc822",
            "rfc822;",
            ";a@x",
            "rf c;a@x",
            "rfc822;a+2",
            "rfc822;a+2b@x",
            "rfc822;a+GG",
            "rfc822;a=b",
            "rfc822;é",
            "rfc822;a+0D+0Ab",
            "rfc822;a+E9",
            "rfc822;a b",
            "utf-8;\\x{D800}",
            "utf-8;\\x{0D}\\x{0A}",
            "utf-8;\\",
            "utf-8;\\x{e9}",
            &long,
        ] {
            assert_eq!(OriginalRecipient::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn notify_is_written_as_it_is_asked_for() {
        assert_eq!(Notify::NEVER.to_string(), "NEVER");
        assert_eq!(Notify { success: true, failure: false, delay: true }.to_string(), "SUCCESS,DELAY");
    }

    proptest! {
        #[test]
        fn xtext_round_trips(text in "[ -~]{0,60}") {
            prop_assert_eq!(decode_xtext(&encode_xtext(&text)), Some(text));
        }

        #[test]
        fn originals_round_trip(unicode: bool, ascii in "[ -~]{1,60}", text in "\\PC{1,30}") {
            let (kind, address) = if unicode { ("utf-8", text) } else { ("rfc822", ascii) };
            if let Some(original) = OriginalRecipient::new(kind, &address) {
                prop_assert_eq!(OriginalRecipient::parse(&original.to_wire()), Some(original));
            }
        }
    }
}
