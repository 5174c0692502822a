//! What the header fields of an entity say about its body: its type, its boundary, its encoding. Owns nothing.

use mail_parser::parsers::MessageStream;

use super::Obstacle;

/// Longest boundary taken; RFC 2046 section 5.1.1 allows 70 octets.
const BOUNDARY_SIZE_MAX: usize = 250;

/// What a body is, as far as encoding it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text: becomes quoted-printable.
    Text,
    /// Octets of any other kind: become base64.
    Other,
    /// Parts between lines with this boundary.
    Multipart { boundary: Vec<u8>, digest: bool },
    /// A message of its own.
    Message,
    /// Must stay as it is, for this reason.
    Frozen(Obstacle),
}

/// A Content-Transfer-Encoding (RFC 2045 section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// 7bit, also where the field is missing.
    #[default]
    SevenBit,
    EightBit,
    Binary,
    QuotedPrintable,
    Base64,
    /// One that we can't undo.
    Unknown,
}

impl Encoding {
    /// The body stands there as it is.
    pub(super) fn is_identity(self) -> bool {
        matches!(self, Self::SevenBit | Self::EightBit | Self::Binary)
    }
}

/// The fields that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Type,
    Encoding,
    Version,
}

impl Name {
    /// The field that a header line begins, if it is one of them.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let colon = memchr::memchr(b':', &line[..line.len().min(64)])?;
        let name = line[..colon].trim_ascii_end();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("Content-Type") {
            Some(Self::Type)
        } else if is("Content-Transfer-Encoding") {
            Some(Self::Encoding)
        } else {
            is("MIME-Version").then_some(Self::Version)
        }
    }
}

/// The value of a whole field, its line ends included.
fn value(field: &[u8]) -> &[u8] {
    let colon = memchr::memchr(b':', field).map_or(field.len(), |colon| colon + 1);
    &field[colon..]
}

/// Reads a whole Content-Transfer-Encoding field.
pub(super) fn encoding(field: &[u8]) -> Encoding {
    let value = String::from_utf8_lossy(value(field)).to_ascii_lowercase();
    // A comment behind the word is allowed, and seen.
    let word = value.split('(').next().unwrap_or("").trim();
    match word {
        "7bit" => Encoding::SevenBit,
        "8bit" => Encoding::EightBit,
        "binary" => Encoding::Binary,
        "quoted-printable" => Encoding::QuotedPrintable,
        "base64" => Encoding::Base64,
        _ => Encoding::Unknown,
    }
}

/// Reads a whole Content-Type field. With one that can't be read, RFC 2045 section 5.2 lets the body be plain text.
pub(super) fn kind(field: &[u8]) -> Kind {
    let value = [value(field), b"\r\n"].concat();
    let parsed = MessageStream::new(&value).parse_content_type();
    let Some(found) = parsed.as_content_type() else { return Kind::Text };
    let subtype = found.subtype().unwrap_or("");
    match (found.ctype(), subtype) {
        ("text", _) => Kind::Text,
        // What a signature covers would change; what is encrypted has been made for 7-bit transport (RFC 1847).
        ("multipart", "signed" | "encrypted") => Kind::Frozen(Obstacle::Signed),
        ("multipart", _) => match found.attribute("boundary") {
            Some(boundary) if !boundary.is_empty() && boundary.len() <= BOUNDARY_SIZE_MAX => {
                Kind::Multipart { boundary: boundary.as_bytes().to_vec(), digest: subtype == "digest" }
            }
            _ => Kind::Frozen(Obstacle::Malformed),
        },
        ("message", "rfc822" | "news") => Kind::Message,
        // RFC 6532 and RFC 6533 allow any encoding for these.
        ("message", "global" | "global-headers" | "global-delivery-status" | "global-disposition-notification") => Kind::Other,
        // A fragment can't be encoded without its siblings; for the rest RFC 2046 section 5.2 and their own RFCs allow 7bit alone.
        ("message", _) => Kind::Frozen(Obstacle::Fragment),
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_boundaries_are_read_in_all_their_spellings() {
        let multipart = |boundary: &str, digest| Kind::Multipart { boundary: boundary.as_bytes().to_vec(), digest };
        for (field, expected) in [
            ("Content-Type: text/plain", Kind::Text),
            ("CONTENT-TYPE : TEXT/HTML; charset=x", Kind::Text),
            ("Content-Type: image/png", Kind::Other),
            ("Content-Type: multipart/mixed; boundary=abc", multipart("abc", false)),
            ("Content-Type: Multipart/Digest;\r\n\tBoundary=\"a b:c\"", multipart("a b:c", true)),
            ("Content-Type: multipart/mixed; boundary*0=ab; boundary*1=cd", multipart("abcd", false)),
            ("Content-Type: multipart/mixed (really); boundary=\"x\\\"y\"", multipart("x\"y", false)),
            ("Content-Type: multipart/mixed", Kind::Frozen(Obstacle::Malformed)),
            ("Content-Type: multipart/signed; boundary=x", Kind::Frozen(Obstacle::Signed)),
            ("Content-Type: message/rfc822", Kind::Message),
            ("Content-Type: message/partial; id=x; number=1", Kind::Frozen(Obstacle::Fragment)),
            ("Content-Type: message/global", Kind::Other),
            ("Content-Type:", Kind::Text),
        ] {
            assert_eq!(kind(format!("{field}\r\n").as_bytes()), expected, "{field}");
        }
    }

    #[test]
    fn encodings_are_read_without_regard_to_case_and_comments() {
        for (value, expected) in [
            ("7bit", Encoding::SevenBit),
            (" 8BIT ", Encoding::EightBit),
            ("binary (as is)", Encoding::Binary),
            ("\r\n Quoted-Printable", Encoding::QuotedPrintable),
            ("base64", Encoding::Base64),
            ("x-uuencode", Encoding::Unknown),
            ("", Encoding::Unknown),
        ] {
            assert_eq!(encoding(format!("Content-Transfer-Encoding:{value}\r\n").as_bytes()), expected, "{value}");
        }
    }
}
