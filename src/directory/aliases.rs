//! The classic aliases file: `name: target, target…`. Strict, so that a slip of the pen doesn't lose mail.

use std::collections::BTreeMap;

use crate::config::Problem;
use crate::mail::{Address, AddressError, Domain};

/// More problems than this aren't told.
const PROBLEMS_MAX: usize = 100;
/// More targets than this are a mailing list, and its manager's work.
const TARGETS_MAX: usize = 10_000;

/// The aliases of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    targets: BTreeMap<String, Vec<Address>>,
}

impl Aliases {
    /// The targets of a name in lower case.
    pub fn get(&self, name: &str) -> Option<&[Address]> {
        self.targets.get(name).map(Vec::as_slice)
    }

    /// Every name with its targets, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Address])> {
        self.targets.iter().map(|(name, targets)| (name.as_str(), targets.as_slice()))
    }
}

/// A logical line: an entry with its continuation lines.
struct Entry {
    line: usize,
    text: String,
}

/// Parses the aliases of a domain. A target without domain gets this one. Errors: every problem, up to a hundred; their
/// `source` is for the caller to fill in.
pub fn parse(text: &str, domain: &Domain) -> Result<Aliases, Vec<Problem>> {
    let mut aliases = Aliases::default();
    let mut problems = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries(text, &mut problems) {
        match parse_entry(&entry.text, domain) {
            Ok((name, targets)) => {
                if let Some(first) = lines.insert(name.clone(), entry.line) {
                    let what = format!("\"{name}\" stands already in line {first}");
                    problems.push(problem(entry.line, what, "put all targets into one entry"));
                }
                aliases.targets.insert(name, targets);
            }
            Err((what, remedy)) => problems.push(problem(entry.line, what, remedy)),
        }
        if problems.len() >= PROBLEMS_MAX {
            break;
        }
    }
    if problems.is_empty() { Ok(aliases) } else { Err(problems) }
}

fn problem(line: usize, what: impl Into<String>, remedy: &str) -> Problem {
    Problem::new("", format!("line {line}"), what, remedy)
}

/// Joins continuation lines, which begin with a blank, and drops empty lines and comments.
fn entries(text: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            entries.push(Entry { line: number + 1, text: trimmed.to_owned() });
            continue;
        }
        match entries.last_mut() {
            Some(entry) => {
                entry.text.push(' ');
                entry.text.push_str(trimmed);
            }
            None if problems.len() < PROBLEMS_MAX => {
                problems.push(problem(number + 1, "the line continues nothing", "remove the blanks at its start"));
            }
            None => {}
        }
    }
    entries
}

type Fault = (String, &'static str);

fn parse_entry(text: &str, domain: &Domain) -> Result<(String, Vec<Address>), Fault> {
    let colon = find_outside_quotes(text, ':')
        .ok_or_else(|| (format!("{} has no colon", shown(text)), "write it like name: target, target"))?;
    let name = text[..colon].trim();
    let local = match Address::parse_utf8(&format!("{name}@{domain}")) {
        Ok(address) => address.local().to_ascii_lowercase(),
        Err(_) => {
            let what = format!("{} is not an alias' name", shown(name));
            return Err((what, "write the part before the @ only, in double quotes if it has blanks"));
        }
    };
    let mut targets = Vec::new();
    for target in split_outside_quotes(&text[colon + 1..]) {
        let address = parse_target(target, &local, domain)?;
        if !targets.contains(&address) {
            if targets.len() == TARGETS_MAX {
                return Err((format!("\"{local}\" has more than {TARGETS_MAX} targets"), "use a mailing list manager"));
            }
            targets.push(address);
        }
    }
    Ok((local, targets))
}

fn parse_target(target: &str, name: &str, domain: &Domain) -> Result<Address, Fault> {
    if target.is_empty() {
        return Err((format!("\"{name}\" has an empty target"), "name a target, or remove the comma or the entry"));
    }
    refuse_delivery_commands(target)?;
    // `\ann` in the entry for ann is the old way to say "and into the mailbox, too".
    let plain = target.strip_prefix('\\').unwrap_or(target);
    let address = match Address::parse_utf8(plain) {
        Err(AddressError::NoDomain) => Address::parse_utf8(&format!("{plain}@{domain}")),
        other => other,
    };
    let address = address
        .map_err(|error| (format!("{} is not an address: {error}", shown(target)), "write it like ann or ann@example.test"))?;
    if plain.len() < target.len() && (!address.local().eq_ignore_ascii_case(name) || address.domain() != domain) {
        return Err((format!("{} is not the alias' own name", shown(target)), "remove the backslash"));
    }
    Ok(address)
}

fn refuse_delivery_commands(target: &str) -> Result<(), Fault> {
    let bare = target.trim_start_matches('"').trim_start();
    let what = if bare.starts_with('|') {
        "runs a program"
    } else if bare.starts_with('/') {
        "writes to a file"
    } else if bare.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(":include:")) {
        "includes a file"
    } else {
        return Ok(());
    };
    let remedy = "Posthouse delivers to mailboxes, LMTP and other servers only: name an address";
    Err((format!("{} {what}, which aliases here can't", shown(target)), remedy))
}

/// The first `wanted` that is not inside double quotes.
fn find_outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == wanted && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The parts between commas that are not inside double quotes, trimmed.
fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = find_outside_quotes(text, ',');
        rest = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim())
    })
}

/// A stranger's text in a message of ours: cut, and without control characters.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect();
    let more = if text.chars().nth(60).is_some() { "…" } else { "" };
    format!("{cut}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain() -> Domain {
        Domain::parse("example.test").unwrap()
    }

    fn targets(aliases: &Aliases, name: &str) -> Vec<String> {
        aliases.get(name).unwrap_or_default().iter().map(Address::to_string).collect()
    }

    #[test]
    fn the_classic_form_is_read() {
        let text = "# comment\n\npostmaster: ann\nTeam:ann,\n\tBob@Other.TEST ,\n# between\n  \"a, b\"\n\"odd name\": ann\nann: \\ann, bob\n\
                    twice: ann, ann\n";
        let aliases = parse(text, &domain()).unwrap();
        assert_eq!(targets(&aliases, "postmaster"), ["ann@example.test"]);
        assert_eq!(targets(&aliases, "team"), ["ann@example.test", "Bob@other.test", "\"a, b\"@example.test"]);
        assert_eq!(targets(&aliases, "odd name"), ["ann@example.test"]);
        assert_eq!(targets(&aliases, "ann"), ["ann@example.test", "bob@example.test"]);
        assert_eq!(targets(&aliases, "twice"), ["ann@example.test"]);
        assert_eq!(aliases.get("nobody"), None);
        assert_eq!(aliases.iter().count(), 5);
    }

    #[test]
    fn every_slip_is_named_with_its_line() {
        for (text, wanted) in [
            ("a", "line 1: a has no colon; write it like name: target, target"),
            ("a:", "line 1: \"a\" has an empty target; name a target, or remove the comma or the entry"),
            ("\na: b,,c", "line 2: \"a\" has an empty target; name a target, or remove the comma or the entry"),
            ("  a: b", "line 1: the line continues nothing; remove the blanks at its start"),
            ("a: b\nA: c", "line 2: \"a\" stands already in line 1; put all targets into one entry"),
            (
                "a: |/bin/cat",
                "line 1: |/bin/cat runs a program, which aliases here can't; Posthouse delivers to mailboxes, LMTP and other servers \
                 only: name an address",
            ),
            (
                "a: \"| cat\"",
                "line 1: \"| cat\" runs a program, which aliases here can't; Posthouse delivers to mailboxes, LMTP and other servers \
                 only: name an address",
            ),
            (
                "a: /dev/null",
                "line 1: /dev/null writes to a file, which aliases here can't; Posthouse delivers to mailboxes, LMTP and other \
                 servers only: name an address",
            ),
            (
                "a: :Include:/x",
                "line 1: :Include:/x includes a file, which aliases here can't; Posthouse delivers to mailboxes, LMTP and other \
                 servers only: name an address",
            ),
            ("a: b c", "line 1: b c is not an address: the local part is malformed; write it like ann or ann@example.test"),
            ("a: b@", "line 1: b@ is not an address: the domain is empty; write it like ann or ann@example.test"),
            (
                "a: b@other.test c",
                "line 1: b@other.test c is not an address: the domain is malformed; write it like ann or ann@example.test",
            ),
            ("a: \\b", "line 1: \\b is not the alias' own name; remove the backslash"),
            (
                "a@example.test: b",
                "line 1: a@example.test is not an alias' name; write the part before the @ only, in double quotes if it has blanks",
            ),
            ("a b: c", "line 1: a b is not an alias' name; write the part before the @ only, in double quotes if it has blanks"),
            (": c", "line 1:  is not an alias' name; write the part before the @ only, in double quotes if it has blanks"),
        ] {
            let problems: Vec<_> = parse(text, &domain()).unwrap_err().iter().map(Problem::to_string).collect();
            assert_eq!(problems, [wanted], "{text:?}");
        }
    }

    #[test]
    fn a_file_full_of_nonsense_gives_a_bounded_list() {
        assert_eq!(parse(&"x\n".repeat(10_000), &domain()).unwrap_err().len(), PROBLEMS_MAX);
        assert_eq!(parse(&" x\n".repeat(10_000), &domain()).unwrap_err().len(), PROBLEMS_MAX);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-c:,@\"\\\\ \t\n#|é.]{0,60}") {
            let _ = parse(&text, &domain());
        }
    }
}
