//! What a sender asked for a whole message: the parameters of MAIL, kept from reception to the next hop.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Longest ENVID: octets before their encoding (RFC 3461 section 4.4).
const ENVELOPE_ID_SIZE_MAX: usize = 100;

/// What MAIL's BODY parameter declared (RFC 6152, RFC 3030).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyType {
    /// No octet above 127 was announced.
    #[default]
    #[serde(rename = "7BIT")]
    SevenBit,
    /// Lines with octets above 127.
    #[serde(rename = "8BITMIME")]
    EightBitMime,
    /// Any octets, in no lines at all; only ever sent with BDAT.
    #[serde(rename = "BINARYMIME")]
    BinaryMime,
}

impl BodyType {
    /// As BODY names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }

    /// The type that BODY names, in any case of letters.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::SevenBit, Self::EightBitMime, Self::BinaryMime].into_iter().find(|body| body.as_str().eq_ignore_ascii_case(name))
    }
}

/// What else the sender asked of whoever carries the message. Most mail asks for nothing: a message has it in a box, or none.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// SMTPUTF8 (RFC 6531): addresses or header have characters beyond ASCII, or may have.
    pub smtputf8: bool,
    /// REQUIRETLS (RFC 8689): only over verified TLS, and only to servers that promise the same.
    pub require_tls: bool,
    /// RET (RFC 3461): how much of the message a bounce is to bring back.
    pub ret: Option<Ret>,
    /// ENVID (RFC 3461): what the sender calls this transaction.
    pub envid: Option<EnvelopeId>,
    /// BY (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// HOLDFOR or HOLDUNTIL (RFC 4865).
    pub hold: Option<Hold>,
    /// MT-PRIORITY (RFC 6710).
    pub priority: Option<Priority>,
}

impl Request {
    /// In a box; none if nothing was asked for.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// When delivery of a message may begin that arrived then: at once, or later if that is asked for.
    pub fn released_at(&self, arrived: Timestamp) -> Timestamp {
        match self.hold {
            None => arrived,
            Some(Hold::For(seconds)) => arrived.plus_seconds(seconds.into()),
            Some(Hold::Until(time)) => time.max(arrived),
        }
    }

    /// The same said `elapsed` seconds later: less of `DeliverBy::seconds` is left.
    pub fn later(&self, elapsed: u64) -> Self {
        let elapsed = i32::try_from(elapsed).unwrap_or(i32::MAX);
        let left = |by: DeliverBy| DeliverBy { seconds: by.seconds.saturating_sub(elapsed), ..by };
        Self { deliver_by: self.deliver_by.map(left), ..self.clone() }
    }
}

/// How much of the message a bounce is to bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
    Hdrs,
}

impl Ret {
    /// As RET names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Hdrs => "HDRS",
        }
    }
}

/// The envelope identifier: 1 to 100 printable ASCII characters, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvelopeId(String);

impl EnvelopeId {
    /// Checks it; none if it isn't one.
    pub fn new(text: &str) -> Option<Self> {
        let right = (1..=ENVELOPE_ID_SIZE_MAX).contains(&text.len()) && text.bytes().all(|octet| (b' '..=b'~').contains(&octet));
        right.then(|| Self(text.to_owned()))
    }

    /// The text, decoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EnvelopeId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("not 1 to 100 printable characters")
    }
}

impl From<EnvelopeId> for String {
    fn from(id: EnvelopeId) -> String {
        id.0
    }
}

/// Until when delivery is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverBy {
    /// Seconds after the message's arrival here. Not above zero only for `Notify`: the time was over before.
    pub seconds: i32,
    /// What is to happen then.
    pub mode: DeliverByMode,
    /// Each relay is to report that it passed the message on.
    pub trace: bool,
    /// The sender was told that the time is over.
    pub told: bool,
}

/// What is to happen when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliverByMode {
    /// The message goes back.
    Return,
    /// The sender is told, and delivery goes on.
    Notify,
}

/// Not to be delivered before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Seconds after the message's arrival.
    For(u32),
    /// A time; whole seconds.
    Until(Timestamp),
}

/// How urgent: from -9 to 9, where 0 is ordinary mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "i8", into = "i8")]
pub struct Priority(i8);

impl Priority {
    /// Checks it; none if it is beyond 9 either way.
    pub fn new(priority: i8) -> Option<Self> {
        (-9..=9).contains(&priority).then_some(Self(priority))
    }

    /// The number.
    pub fn as_i8(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i8> for Priority {
    type Error = &'static str;
    fn try_from(priority: i8) -> Result<Self, Self::Error> {
        Self::new(priority).ok_or("not a number from -9 to 9")
    }
}

impl From<Priority> for i8 {
    fn from(priority: Priority) -> i8 {
        priority.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_mail_has_no_box() {
        assert_eq!(Request::default().boxed(), None);
        assert!(Request { smtputf8: true, ..Request::default() }.boxed().is_some());
        assert!(size_of::<Option<Box<Request>>>() == size_of::<usize>());
    }

    #[test]
    fn values_are_checked() {
        assert_eq!(EnvelopeId::new("QQ314159").unwrap().as_str(), "QQ314159");
        for wrong in ["", "a\r\nb", "é", &"x".repeat(101)] {
            assert_eq!(EnvelopeId::new(wrong), None, "{wrong:?}");
        }
        assert_eq!([-10, -9, 9, 10].map(|number| Priority::new(number).is_some()), [false, true, true, false]);
        assert_eq!(BodyType::parse("binarymime"), Some(BodyType::BinaryMime));
        assert_eq!(BodyType::parse("9bit"), None);
    }
}
