//! What AUTH (RFC 4954) has of its own: the mechanisms' names, base64, and octets that must not show up in a log. Owns nothing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest line in an exchange, CR LF included; octets (RFC 4954 section 4).
pub const RESPONSE_SIZE_MAX: usize = 12_288;

/// A SASL mechanism of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// RFC 7677, bound to the TLS session.
    ScramSha256Plus,
    /// RFC 7677.
    ScramSha256,
    /// RFC 4616.
    Plain,
    /// Never standardised; what many devices know.
    Login,
    /// RFC 4422 appendix A: by the client's TLS certificate.
    External,
}

impl Mechanism {
    /// Every mechanism, the best first: the order of the EHLO line.
    pub const ALL: [Self; 5] = [Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login, Self::External];

    /// The registered name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::External => "EXTERNAL",
        }
    }

    /// The mechanism of this name, in any case of letters.
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| name.eq_ignore_ascii_case(mechanism.as_str().as_bytes()))
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a client sent in an exchange: perhaps a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

/// Nothing of what is in it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Decodes base64 as RFC 4648 section 4 writes it, with nothing before, behind or between.
    pub fn decode(text: &[u8]) -> Option<Self> {
        STANDARD.decode(text).ok().map(Self)
    }
}

/// The 334 line of a challenge, with CR LF.
pub fn challenge_line(challenge: &[u8]) -> String {
    format!("334 {}\r\n", STANDARD.encode(challenge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_taken_in_its_one_form() {
        for (text, octets) in [("", Some("")), ("YQ==", Some("a")), ("YWI=", Some("ab")), ("YWJj", Some("abc")), ("+/8=", None)] {
            let decoded = Secret::decode(text.as_bytes()).unwrap();
            assert_eq!(decoded.0, octets.map_or(&[0xfb, 0xff][..], str::as_bytes), "{text}");
        }
        for text in ["Y", "YQ", "YQ=", "YR==", "YQ==YQ==", "Y Q==", "YQ==\r", "-_8=", "=", "====", "YWJj=", "\u{e9}\u{e9}"] {
            assert_eq!(Secret::decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(challenge_line(b""), "334 \r\n");
        assert_eq!(challenge_line(b"Username:"), "334 VXNlcm5hbWU6\r\n");
    }

    #[test]
    fn names_are_found_in_any_case_and_secrets_never_shown() {
        assert_eq!(Mechanism::parse(b"scram-sha-256-plus"), Some(Mechanism::ScramSha256Plus));
        assert_eq!(Mechanism::parse(b"Plain"), Some(Mechanism::Plain));
        assert_eq!(Mechanism::parse(b"CRAM-MD5"), None);
        assert_eq!(format!("{:?}", Secret(b"opensesame".to_vec())), "Secret");
    }
}
