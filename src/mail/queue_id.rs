//! The queue id: ours, unique, sortable by time, thirteen characters in every log line and reply.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Crockford's base 32: digits and capitals without I, L, O and U; read without regard to case.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Bits below the milliseconds: they tell apart what arrives within one.
const LOW_BITS: u32 = 20;

/// A message's name while it lives in this spool. Never used twice; later messages compare greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueId(pub u64);

/// The text is not thirteen characters of Crockford's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIdError;

impl QueueId {
    /// The next id: from the time and some randomness, but always greater than `last`, whatever the clock does.
    pub fn after(last: QueueId, now: Timestamp, random: u64) -> QueueId {
        let fresh = (now.as_millis() << LOW_BITS) | (random & ((1 << LOW_BITS) - 1));
        QueueId(fresh.max(last.0.saturating_add(1)))
    }

    /// When it was made, unless the clock had jumped back before: never earlier than that.
    pub fn time(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> LOW_BITS)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 13];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest % 32) as usize];
            rest /= 32;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;
    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        if text.len() != 13 {
            return Err(QueueIdError);
        }
        let mut value: u64 = 0;
        for byte in text.bytes() {
            let byte = match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                byte => byte,
            };
            let digit = ALPHABET.iter().position(|a| *a == byte).ok_or(QueueIdError)? as u64;
            value = value.checked_mul(32).and_then(|v| v.checked_add(digit)).ok_or(QueueIdError)?;
        }
        Ok(QueueId(value))
    }
}

impl fmt::Display for QueueIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue id: it has 13 letters and digits, like 0CZ2K8M4G5T3B")
    }
}

impl std::error::Error for QueueIdError {}

impl TryFrom<String> for QueueId {
    type Error = QueueIdError;
    fn try_from(text: String) -> Result<Self, QueueIdError> {
        text.parse()
    }
}

impl From<QueueId> for String {
    fn from(id: QueueId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_grow_even_when_the_clock_jumps_back() {
        let first = QueueId::after(QueueId(0), Timestamp::from_millis(1_800_000_000_000), 7);
        let second = QueueId::after(first, Timestamp::from_millis(5), 9);
        assert!(second > first);
        for id in [first, second, QueueId(0), QueueId(u64::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "ZZZZZZZZZZZZZ", "U000000000000", "00000000000000"] {
            assert_eq!(text.parse::<QueueId>(), Err(QueueIdError), "{text}");
        }
    }
}
