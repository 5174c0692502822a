//! Wall-clock time in milliseconds: ages and retry times outlive restarts, so they are never monotonic instants.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// Milliseconds since 1970-01-01T00:00:00Z. Displays as RFC 3339 in UTC with seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The start of the epoch.
    pub const ZERO: Timestamp = Timestamp(0);
    /// A time that never comes.
    pub const NEVER: Timestamp = Timestamp(u64::MAX);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time since `earlier`, zero if that is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time and `wait` more.
    pub fn plus(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time and `seconds` more, or less.
    pub fn plus_seconds(self, seconds: i64) -> Timestamp {
        Timestamp(self.0.saturating_add_signed(seconds.saturating_mul(1000)))
    }

    /// `Sun, 22 Nov 2026 02:00:00 +0000`: the date-time of RFC 5322 section 3.3.
    pub fn rfc5322(self) -> String {
        self.date_time().format(&Rfc2822).unwrap_or_default()
    }

    /// `2026-11-22T02:00:00.123Z`: RFC 3339 without loss.
    pub fn rfc3339_millis(self) -> String {
        let date = self.date_time();
        let (hour, minute, second) = (date.hour(), date.minute(), date.second());
        format!("{}T{hour:02}:{minute:02}:{second:02}.{:03}Z", date.date(), self.0 % 1000)
    }

    /// Reads RFC 3339, down to milliseconds; none for anything else, and for times before 1970.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(date.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    fn date_time(self) -> OffsetDateTime {
        let seconds = i64::try_from(self.0 / 1000).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.date_time().format(&Rfc3339).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let date = OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)?;
        let millis = date.unix_timestamp_nanos() / 1_000_000;
        Ok(Self(u64::try_from(millis).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_date_forms() {
        let time = Timestamp::from_millis(1_795_312_800_123);
        assert_eq!(time.to_string(), "2026-11-22T02:00:00Z");
        assert_eq!(time.rfc5322(), "Sun, 22 Nov 2026 02:00:00 +0000");
        assert_eq!(time.rfc3339_millis(), "2026-11-22T02:00:00.123Z");
        assert_eq!(Timestamp::parse_rfc3339("2026-11-22T02:00:00.123Z"), Some(time));
        assert_eq!(Timestamp::parse_rfc3339("2026-11-22T03:00:00.123456+01:00"), Some(time));
        for wrong in ["", "2026-11-22", "1969-12-31T23:59:59Z", "1795312800123"] {
            assert_eq!(Timestamp::parse_rfc3339(wrong), None, "{wrong}");
        }
        assert_eq!(time.plus(Duration::from_secs(5)).since(time), Duration::from_secs(5));
        assert_eq!(time.since(Timestamp::NEVER), Duration::ZERO);
    }
}
