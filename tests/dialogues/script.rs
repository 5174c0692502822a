//! The scripts: what a client sends and what it must get. See `README.md` beside this file for the form.

use std::time::Duration;

use posthouse::mail::{EnhancedCode, Reply, Service};
use posthouse::smtp::extension::Parameters;
use posthouse::smtp::server::{Mechanism, Settings};

/// A script, read.
pub(crate) struct Script {
    pub file: String,
    pub title: String,
    pub settings: Settings,
    pub refusals: Vec<(&'static str, Reply)>,
    pub actions: Vec<(usize, Action)>,
}

/// One line of a script.
pub(crate) enum Action {
    /// Octets from the client.
    Send(Vec<u8>),
    /// A line of a reply, without CR LF; `…` at its end stands for anything.
    Expect(String),
    /// A whole reply with this code, of however many lines.
    ExpectReply(String),
    /// A fact about what came of it.
    Check(Check),
    /// Octets before the greeting.
    Early(Vec<u8>),
    /// Time passes.
    Wait(Duration),
    /// The server stops.
    Stop,
    Secure,
    Trust,
}

/// What can be looked at.
pub(crate) enum Check {
    Closed,
    Open,
    Messages(usize),
    Discarded(usize),
    Content(Vec<u8>),
    Size(usize),
    Sender(String),
    Recipients(Vec<String>),
    Asked(Vec<String>),
    Login(Option<String>),
}

/// What the client has done before the script starts.
const OPENINGS: [(&str, &str, &str); 5] = [
    ("greeting", "", "220"),
    ("hello", "EHLO client.test", "250"),
    ("mail", "MAIL FROM:<ann@sender.test>", "250"),
    ("rcpt", "RCPT TO:<bob@example.test>", "250"),
    ("data", "DATA", "354"),
];

/// Reads all scripts of a file. A mistake in a script ends the test with file and line.
pub(crate) fn read(file: &str, text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if let Some(title) = line.strip_prefix("=== ") {
            let settings = super::driver::settings();
            scripts.push(Script { file: file.into(), title: title.into(), settings, refusals: Vec::new(), actions: Vec::new() });
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            let script = scripts.last_mut().unwrap_or_else(|| panic!("{file}:{number}: no `===` yet"));
            script.line(number, line).unwrap_or_else(|| panic!("{file}:{number}: can't read {line:?}"));
        }
    }
    scripts
}

impl Script {
    fn line(&mut self, number: usize, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let action = match word {
            ">" => Action::Send([&unescape(rest)?[..], b"\r\n"].concat()),
            ">|" => Action::Send(unescape(rest)?),
            "<" => Action::Expect(rest.to_owned()),
            "<<" => Action::ExpectReply(rest.to_owned()),
            "=" => Action::Check(check(rest)?),
            "early" => Action::Early(unescape(rest)?),
            "wait" => Action::Wait(seconds(rest)?),
            "stop" => Action::Stop,
            "tls" => Action::Secure,
            "trust" => Action::Trust,
            "open" => return self.open(number, rest),
            "set" => return self.set(rest),
            "refuse" => return self.refuse(rest),
            _ => return None,
        };
        self.actions.push((number, action));
        Some(())
    }

    fn open(&mut self, number: usize, upto: &str) -> Option<()> {
        let last = OPENINGS.iter().position(|(name, ..)| *name == upto)?;
        for (_, command, code) in &OPENINGS[..=last] {
            if !command.is_empty() {
                self.actions.push((number, Action::Send(format!("{command}\r\n").into_bytes())));
            }
            self.actions.push((number, Action::ExpectReply((*code).to_owned())));
        }
        Some(())
    }

    fn set(&mut self, rest: &str) -> Option<()> {
        let (name, value) = rest.split_once(' ')?;
        match name {
            "size_max" => self.settings.size_max = value.parse().ok()?,
            "recipients_max" => self.settings.recipients_max = value.parse().ok()?,
            "starttls" => self.settings.starttls = value.parse().ok()?,
            "auth_in_clear" => self.settings.auth_in_clear = value.parse().ok()?,
            "mechanisms" => {
                let names = value.split(' ').filter(|name| *name != "none");
                self.settings.mechanisms = names.map(|name| Mechanism::parse(name.as_bytes())).collect::<Option<_>>()?;
            }
            "service" => {
                self.settings.service = *[Service::Mx, Service::Submission, Service::Lmtp].iter().find(|s| s.as_str() == value)?
            }
            "offer" => self.settings.parameters = offer(value)?,
            "failed_logins_max" => self.settings.failed_logins_max = value.parse().ok()?,
            "errors_max" => self.settings.errors_max = value.parse().ok()?,
            "commands_max" => self.settings.commands_max = value.parse().ok()?,
            "hello_timeout" => self.settings.hello_timeout = seconds(value)?,
            "command_timeout" => self.settings.command_timeout = seconds(value)?,
            "data_timeout" => self.settings.data_timeout = seconds(value)?,
            "data_pace" => self.settings.data_pace = value.parse().ok()?,
            "transaction_timeout" => self.settings.transaction_timeout = seconds(value)?,
            _ => return None,
        }
        Some(())
    }

    fn refuse(&mut self, rest: &str) -> Option<()> {
        let mut words = rest.splitn(4, ' ');
        let question = words.next()?;
        let question = *["connect", "presented", "hello", "login", "sender", "recipient", "begin", "commit"]
            .iter()
            .find(|name| **name == question)?;
        let reply = Reply::new(words.next()?.parse().ok()?, EnhancedCode::parse(words.next()?)?, words.next()?);
        self.refusals.push((question, reply));
        Some(())
    }
}

fn seconds(text: &str) -> Option<Duration> {
    Some(Duration::from_secs(text.strip_suffix('s')?.parse().ok()?))
}

/// Extensions by name, or `all`.
fn offer(names: &str) -> Option<Parameters> {
    let mut offered = Parameters::default();
    for name in names.split(' ') {
        match name {
            "all" => return Some(Parameters::ALL),
            "CHUNKING" => offered.binary = true,
            "DSN" => offered.dsn = true,
            "SMTPUTF8" => offered.utf8 = true,
            "DELIVERBY" => offered.deliver_by = true,
            "FUTURERELEASE" => offered.future_release = true,
            "MT-PRIORITY" => offered.priority = true,
            "REQUIRETLS" => offered.require_tls = true,
            _ => return None,
        }
    }
    Some(offered)
}

fn check(text: &str) -> Option<Check> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "closed" => Check::Closed,
        "open" => Check::Open,
        "messages" => Check::Messages(rest.parse().ok()?),
        "discarded" => Check::Discarded(rest.parse().ok()?),
        "content" => Check::Content(unescape(rest)?),
        "size" => Check::Size(rest.parse().ok()?),
        "sender" => Check::Sender(rest.trim_matches(['<', '>']).to_owned()),
        "login" => Check::Login((rest != "none").then(|| rest.to_owned())),
        "asked" => Check::Asked(rest.split(' ').filter(|word| *word != "nothing").map(str::to_owned).collect()),
        "recipients" => Check::Recipients(rest.split(' ').map(str::to_owned).collect()),
        _ => return None,
    })
}

/// `\r`, `\n`, `\t`, `\\`, `\xHH`, and `\{TEXT*COUNT}` for a repeated text.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        octets.extend_from_slice(plain.as_bytes());
        let letter = escaped.chars().next()?;
        rest = &escaped[letter.len_utf8()..];
        match letter {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            't' => octets.push(b'\t'),
            '\\' => octets.push(b'\\'),
            'x' => {
                octets.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            '{' => {
                let (inner, behind) = rest.split_once('}')?;
                let (repeated, count) = inner.rsplit_once('*')?;
                octets.extend_from_slice(&unescape(repeated)?.repeat(count.parse().ok()?));
                rest = behind;
            }
            _ => return None,
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Some(octets)
}
