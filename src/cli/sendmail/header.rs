//! What becomes of a message's header when it is sent by `sendmail`: recipients read from it, blind copies taken out, addresses
//! completed, and what every message must have added. Pure: one block of fields in, another out.

use crate::mail::{Domain, Timestamp, addresses, fields};

/// Fields that name recipients; with `-t` they are read.
const RECIPIENTS: [&str; 3] = ["To", "Cc", "Bcc"];
/// Fields whose addresses get a domain if they have none.
const ADDRESSES: [&str; 5] = ["From", "Sender", "Reply-To", "To", "Cc"];
/// Fields that nobody may see, or that only the last server may write.
const REMOVED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];
/// Octets of a name that one encoded word has room for, three characters an octet (RFC 2047 section 2).
const ENCODED_WORD_MAX: usize = 18;

/// What is known besides the header.
#[derive(Clone, Debug)]
pub(super) struct Circumstances<'a> {
    /// The domain of addresses that have none.
    pub(super) domain: &'a Domain,
    /// For `From:`, if it is missing.
    pub(super) author: &'a str,
    /// The author's name; may be empty.
    pub(super) full_name: &'a str,
    /// For `Date:`.
    pub(super) now: Timestamp,
    /// For `Message-ID:`, with its angle brackets.
    pub(super) message_id: &'a str,
    /// Whether the header names recipients.
    pub(super) reads_recipients: bool,
}

/// A header that can be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Prepared {
    /// Its fields, each with its line end.
    pub(super) fields: Vec<u8>,
    /// The recipients that it names, each with a domain; doubles are possible.
    pub(super) recipients: Vec<String>,
}

/// Whether a line can be one of a header: a field, or the continuation of one.
pub(super) fn is_header_line(line: &[u8], is_first: bool) -> bool {
    match line.first() {
        Some(b' ' | b'\t') => !is_first,
        _ => fields(line).next().is_some(),
    }
}

/// Prepares a header: whole lines with CR LF, without the empty one behind them. Errors: what in it can't be read.
pub(super) fn prepare(block: &[u8], circumstances: &Circumstances<'_>) -> Result<Prepared, String> {
    let mut prepared = Prepared::default();
    let has = |name: &str| fields(block).any(|field| field.is(name));
    let is_resent = ["To", "Cc", "Bcc", "From", "Date", "Message-ID"].iter().any(|name| has(&format!("Resent-{name}")));
    for field in fields(block) {
        let name = String::from_utf8_lossy(field.name);
        let plain = strip_resent(&name);
        let counts = plain.is_some() == is_resent;
        let plain = plain.unwrap_or(&name);
        let is_one = |names: &[&str]| names.iter().any(|one| plain.eq_ignore_ascii_case(one));
        let listed = if is_one(&ADDRESSES) || is_one(&RECIPIENTS) { addresses(field.value) } else { Ok(Vec::new()) };
        if circumstances.reads_recipients && counts && is_one(&RECIPIENTS) {
            for to in listed.clone().map_err(|wrong| format!("{name}: {:?} is no address", wrong.0))? {
                prepared.recipients.push(qualified(&to.text, to.has_domain, circumstances.domain));
            }
        }
        if REMOVED.iter().any(|removed| field.is(removed)) {
            continue;
        }
        prepared.fields.extend_from_slice(field.name);
        prepared.fields.push(b':');
        let mut rest = 0;
        // What can't be read is left as it is: it names nobody whom we send to.
        for bare in listed.unwrap_or_default().iter().filter(|listed| !listed.has_domain) {
            prepared.fields.extend_from_slice(&field.value[rest..bare.end]);
            prepared.fields.extend_from_slice(format!("@{}", circumstances.domain).as_bytes());
            rest = bare.end;
        }
        prepared.fields.extend_from_slice(&field.value[rest..]);
        prepared.fields.extend_from_slice(b"\r\n");
    }
    for prefix in if is_resent { &["", "Resent-"][..] } else { &[""] } {
        let mut add = |name: &str, value: &str| {
            if !has(&format!("{prefix}{name}")) {
                prepared.fields.extend_from_slice(format!("{prefix}{name}: {value}\r\n").as_bytes());
            }
        };
        add("Message-ID", circumstances.message_id);
        add("Date", &circumstances.now.rfc5322());
        add("From", &mailbox(circumstances.full_name, circumstances.author));
    }
    Ok(prepared)
}

/// `To` of `Resent-To`.
fn strip_resent(name: &str) -> Option<&str> {
    let (prefix, rest) = name.split_at_checked("Resent-".len())?;
    prefix.eq_ignore_ascii_case("Resent-").then_some(rest)
}

/// An address with a domain.
pub(super) fn qualified(text: &str, has_domain: bool, domain: &Domain) -> String {
    if has_domain { text.to_owned() } else { format!("{text}@{domain}") }
}

/// `name <address>`, the name quoted or encoded as it needs.
fn mailbox(name: &str, address: &str) -> String {
    let name = name.trim();
    if name.is_empty() {
        return address.to_owned();
    }
    if !name.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        return format!("{} <{address}>", encoded(name));
    }
    if name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b" -_'".contains(&octet)) {
        return format!("{name} <{address}>");
    }
    let quoted: String = name.chars().flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c])).collect();
    format!("\"{quoted}\" <{address}>")
}

/// Encoded words, each of whole characters; control characters become spaces.
fn encoded(name: &str) -> String {
    let mut words = vec![String::new()];
    let mut used = 0;
    for c in name.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if used + c.len_utf8() > ENCODED_WORD_MAX {
            words.push(String::new());
            used = 0;
        }
        used += c.len_utf8();
        if let Some(word) = words.last_mut() {
            if c.is_ascii_alphanumeric() {
                word.push(c);
            } else {
                word.extend(c.to_string().bytes().map(|octet| format!("={octet:02X}")));
            }
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances(domain: &Domain, reads_recipients: bool) -> Circumstances<'_> {
        Circumstances {
            domain,
            author: "root@example.test",
            full_name: "",
            now: Timestamp::from_millis(1_795_312_800_000),
            message_id: "<1@mail.example.test>",
            reads_recipients,
        }
    }

    fn run(block: &str, reads_recipients: bool) -> Result<(String, Vec<String>), String> {
        let domain = Domain::parse("example.test").unwrap();
        let prepared = prepare(block.as_bytes(), &circumstances(&domain, reads_recipients))?;
        Ok((String::from_utf8(prepared.fields).unwrap(), prepared.recipients))
    }

    const FULL: &str = "Message-ID: <x@y.test>\r\nDate: Sun, 22 Nov 2026 02:00:00 +0000\r\nFrom: a@b.test\r\n";

    #[test]
    fn a_complete_header_stays_as_it_is() {
        let block = format!("{FULL}To: Ann\r\n <ann@example.test>\r\nX-Odd:  two  spaces\r\n");
        assert_eq!(run(&block, false), Ok((block.clone(), vec![])));
        assert_eq!(run(&block, true), Ok((block, vec!["ann@example.test".to_owned()])));
    }

    #[test]
    fn what_is_missing_is_added() {
        let expected = "Subject: x\r\nMessage-ID: <1@mail.example.test>\r\nDate: Sun, 22 Nov 2026 02:00:00 +0000\r\n\
                        From: root@example.test\r\n";
        assert_eq!(run("Subject: x\r\n", false), Ok((expected.to_owned(), vec![])));
    }

    #[test]
    fn blind_copies_are_sent_and_not_shown() {
        let block =
            format!("{FULL}To: ann, x: Bob <bob@b.test>;\r\nBcc: eve@c.test\r\nBCC:\r\n zoe\r\nReturn-Path: <x@y.test>\r\n");
        let (fields, to) = run(&block, true).unwrap();
        assert_eq!(fields, format!("{FULL}To: ann@example.test, x: Bob <bob@b.test>;\r\n"));
        assert_eq!(to, ["ann@example.test", "bob@b.test", "eve@c.test", "zoe@example.test"]);
    }

    #[test]
    fn what_is_sent_again_goes_to_those_it_is_sent_to_now() {
        let block = format!("{FULL}To: ann@a.test\r\nResent-To: bob\r\nResent-Bcc: eve@c.test\r\n");
        let (fields, to) = run(&block, true).unwrap();
        assert_eq!(to, ["bob@example.test", "eve@c.test"]);
        for part in [
            "To: ann@a.test\r\n",
            "Resent-To: bob@example.test\r\n",
            "Resent-From: root@",
            "Resent-Date: ",
            "Resent-Message-ID: <",
        ] {
            assert!(fields.contains(part), "{part} in {fields}");
        }
        assert!(!fields.contains("eve"), "{fields}");
    }

    #[test]
    fn a_recipient_that_can_not_be_read_is_an_error_and_another_field_is_left_alone() {
        assert!(run("To: Ann Example\r\n", true).is_err());
        assert!(run("To: Ann Example\r\n", false).unwrap().0.starts_with("To: Ann Example\r\n"));
    }

    #[test]
    fn names_are_written_as_they_must_be() {
        for (name, expected) in [
            ("", "a@b.test"),
            ("Cron Daemon", "Cron Daemon <a@b.test>"),
            ("Example, Ann \"x\"", "\"Example, Ann \\\"x\\\"\" <a@b.test>"),
            ("Jürgen", "=?utf-8?Q?J=C3=BCrgen?= <a@b.test>"),
            ("a\r\nBcc: b", "=?utf-8?Q?a=20=20Bcc=3A=20b?= <a@b.test>"),
            (
                "ü ü ü ü ü ü ü ü",
                "=?utf-8?Q?=C3=BC=20=C3=BC=20=C3=BC=20=C3=BC=20=C3=BC=20=C3=BC=20?= =?utf-8?Q?=C3=BC=20=C3=BC?= <a@b.test>",
            ),
        ] {
            assert_eq!(mailbox(name, "a@b.test"), expected);
        }
    }

    #[test]
    fn lines_of_a_header_are_told_from_text() {
        for (line, is_first, expected) in [
            ("Subject: x\r\n", true, true),
            ("Subject:\r\n", true, true),
            (" folded\r\n", false, true),
            (" folded\r\n", true, false),
            ("Dear Ann, this: is text\r\n", true, false),
            ("hello\r\n", true, false),
        ] {
            assert_eq!(is_header_line(line.as_bytes(), is_first), expected, "{line}");
        }
    }
}
