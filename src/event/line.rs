//! One log line from one event: the three forms, and the escaping that lets nobody forge a line.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};

use crate::mail::Timestamp;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time level event field=value…`
    Text,
    /// One JSON document.
    Json,
    /// `<priority>event field=value…`: what systemd reads from standard error.
    Journald,
}

/// Writes an event's line, field by field, straight into the output.
pub(super) struct Line<'a> {
    format: Format,
    out: &'a mut dyn Write,
    /// A value as text before it is escaped; reused from field to field.
    value: String,
    result: fmt::Result,
}

impl<'a> Line<'a> {
    /// Begins the line. `library` is the source of a line that isn't an event of ours.
    pub(super) fn new(
        format: Format,
        out: &'a mut dyn Write,
        now: Timestamp,
        level: tracing::Level,
        library: Option<&str>,
    ) -> Self {
        let mut line = Self { format, out, value: String::new(), result: Ok(()) };
        line.result = line.begin(now, level, library);
        line
    }

    fn begin(&mut self, now: Timestamp, level: tracing::Level, library: Option<&str>) -> fmt::Result {
        match self.format {
            Format::Text => write!(self.out, "{} {}", Precise(now), name_of(level))?,
            Format::Json => write!(self.out, "{{\"time\":\"{}\",\"level\":\"{}\"", Precise(now), name_of(level))?,
            Format::Journald => write!(self.out, "<{}>", priority_of(level))?,
        }
        match library {
            None => Ok(()),
            Some(target) => {
                self.put_name("library")?;
                self.put_text("target", target)
            }
        }
    }

    /// Ends the line. An error is the output's.
    pub(super) fn end(self) -> fmt::Result {
        self.result?;
        self.out.write_str(if self.format == Format::Json { "}\n" } else { "\n" })
    }

    /// The event's name: the first thing after time and level.
    fn put_name(&mut self, name: &str) -> fmt::Result {
        match self.format {
            Format::Text => write!(self.out, " {name}"),
            Format::Json => write!(self.out, ",\"event\":\"{name}\""),
            Format::Journald => self.out.write_str(name),
        }
    }

    /// A number or a flag: never in need of quotes.
    fn put_plain(&mut self, field: &str, value: impl fmt::Display) {
        let written = match self.format {
            Format::Json => write!(self.out, ",\"{field}\":{value}"),
            _ => write!(self.out, " {field}={value}"),
        };
        self.result = self.result.and(written);
    }

    fn put_text(&mut self, field: &str, value: &str) -> fmt::Result {
        match self.format {
            Format::Json => {
                write!(self.out, ",\"{field}\":")?;
                write_json(self.out, value)
            }
            _ => {
                write!(self.out, " {field}=")?;
                match field {
                    "from" | "to" | "into" => write_token(self.out, &format!("<{value}>")),
                    _ => write_token(self.out, value),
                }
            }
        }
    }
}

impl Visit for Line<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put_plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put_plain(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put_plain(field.name(), if value.is_finite() { value } else { 0.0 });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let written = self.put_text(field.name(), value);
        self.result = self.result.and(written);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        let mut written = write!(text, "{value:?}");
        if written.is_ok() {
            written = match field.name() {
                // `tracing` calls it the message; with us it is the event's name, always one of the table's.
                "message" if is_name(&text) => self.put_name(&text),
                name => self.put_text(name, &text),
            };
        }
        self.value = text;
        self.result = self.result.and(written);
    }
}

/// Whether a text is a plain event name; another library's message is none and goes out as a value.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
}

/// A value of the text form: bare if it is plain, else in double quotes with everything unusual escaped.
fn write_token(out: &mut dyn Write, value: &str) -> fmt::Result {
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    if plain {
        return out.write_str(value);
    }
    out.write_str("\"")?;
    for c in value.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if is_shown(c) => out.write_char(c)?,
            c => write!(out, "\\u{{{:x}}}", u32::from(c))?,
        }
    }
    out.write_str("\"")
}

/// A JSON string in which nothing moves a terminal's cursor either.
fn write_json(out: &mut dyn Write, value: &str) -> fmt::Result {
    out.write_str("\"")?;
    for c in value.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if is_shown(c) => out.write_char(c)?,
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
    }
    out.write_str("\"")
}

/// Whether a character may stand as itself: printable ASCII, and letters and digits of any script. Everything else might be a
/// control, a line end or a change of direction somewhere.
fn is_shown(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && c.is_alphanumeric())
}

fn name_of(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

/// The syslog priority (RFC 5424 section 6.2.1).
fn priority_of(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 3,
        tracing::Level::WARN => 4,
        tracing::Level::INFO => 6,
        tracing::Level::DEBUG | tracing::Level::TRACE => 7,
    }
}

/// RFC 3339 in UTC with milliseconds.
struct Precise(Timestamp);

impl fmt::Display for Precise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.to_string();
        write!(f, "{}.{:03}Z", seconds.trim_end_matches('Z'), self.0.as_millis() % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_are_bare_and_others_quoted_and_escaped() {
        for (value, token) in [
            ("ann@example.test", "ann@example.test"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("x\r\n2026 info delivered", "\"x\\r\\n2026 info delivered\""),
            ("\u{1b}[2Jé\u{202e}\u{9b}\u{2028}", "\"\\u{1b}[2Jé\\u{202e}\\u{9b}\\u{2028}\""),
        ] {
            let mut out = String::new();
            write_token(&mut out, value).unwrap();
            assert_eq!(out, token);
            assert!(!out.chars().any(char::is_control));
            let mut json = String::new();
            write_json(&mut json, value).unwrap();
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
            assert!(!json.chars().any(char::is_control));
        }
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(Precise(Timestamp::from_millis(1_795_312_800_007)).to_string(), "2026-11-22T02:00:00.007Z");
    }
}
