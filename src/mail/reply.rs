//! What one SMTP server says to one command: code, enhanced status code, text.

use std::fmt;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

/// An enhanced status code (RFC 3463): class, subject, detail. The class of a failure says transient (4) or permanent (5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Parses `5.1.1`; only classes 2, 4 and 5 exist.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || {
            let part = parts.next().filter(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))?;
            part.parse::<u16>().ok()
        };
        let (class, subject, detail) = (number()?, number()?, number()?);
        if parts.next().is_some() {
            return None;
        }
        matches!(class, 2 | 4 | 5).then_some(Self(class as u8, subject, detail))
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl TryFrom<String> for EnhancedCode {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an enhanced status code (RFC 3463)")
    }
}

impl From<EnhancedCode> for String {
    fn from(code: EnhancedCode) -> String {
        code.to_string()
    }
}

/// A reply (RFC 5321 section 4.2), ours or a peer's. A peer may leave the enhanced code out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The three-digit code.
    pub code: u16,
    /// The enhanced status code, if there is one.
    pub enhanced: Option<EnhancedCode>,
    /// The text without codes; lines are separated by `\n`.
    pub text: String,
}

impl Reply {
    /// A reply of ours: always with an enhanced code.
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), text: text.into() }
    }

    /// A reply without enhanced code: greeting, EHLO, 354.
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, text: text.into() }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// The bytes on the wire: every line with the code, and with the enhanced code if there is one, ended by CRLF.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.text.len() + 16);
        let enhanced = self.enhanced.map(|enhanced| format!("{enhanced} ")).unwrap_or_default();
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            // Writing to memory can't fail.
            let _ = write!(wire, "{}{separator}{enhanced}", self.code);
            line.split('\r').for_each(|part| wire.extend_from_slice(part.as_bytes()));
            wire.extend_from_slice(b"\r\n");
        }
        wire
    }
}

/// One line for people and logs: `550 5.1.1 no such user`; line breaks become spaces.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n').filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_on_the_wire_and_in_the_log() {
        let reply = Reply::new(550, EnhancedCode(5, 1, 1), "No such user\nAsk postmaster");
        assert_eq!(reply.to_wire(), b"550-5.1.1 No such user\r\n550 5.1.1 Ask postmaster\r\n");
        assert_eq!(reply.to_string(), "550 5.1.1 No such user Ask postmaster");
        assert_eq!(Reply::plain(354, "Go").to_wire(), b"354 Go\r\n");
    }

    #[test]
    fn only_real_enhanced_codes_parse() {
        assert_eq!(EnhancedCode::parse("5.1.1"), Some(EnhancedCode(5, 1, 1)));
        for text in ["3.1.1", "5.1", "5.1.1.1", "5..1", "5.1111.1", "x.1.1", "5.+1.1"] {
            assert_eq!(EnhancedCode::parse(text), None, "{text}");
        }
    }
}
