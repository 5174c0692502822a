//! The rules of notices in the lines' simulation, held against what lies in mailboxes and at the peers at the end: each sender was told
//! what he asked for, once, and nothing else; nobody's mail came and failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use posthouse::system::sim::SimDisk;

use crate::lines::Letter;
use crate::lines_line::Counts;
use crate::lines_world::{LOCAL, PLACES, STRICT, place_of};
use crate::world::maildir;

/// What became of a letter for a recipient, and what its sender heard.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    delivered: usize,
    failed: usize,
    delayed: usize,
    /// "delivered" or "relayed".
    confirmed: usize,
}

/// By letter and recipient.
type Fates = BTreeMap<(usize, String), Fate>;

/// Reads everything and holds it against what was sent; `taken` is what came to each place, with its recipients.
pub(crate) fn check(
    letters: &[Letter],
    disk: &Arc<SimDisk>,
    taken: &[(usize, Vec<String>, Vec<u8>)],
    crashes: usize,
    counts: &mut Counts,
) {
    let all = letters.iter().flat_map(|letter| letter.to.iter().map(|to| (letter.number, to.clone())));
    let mut fates: Fates = all.map(|key| (key, Fate::default())).collect();
    let mut seen = BTreeSet::new();
    for user in ["ann", "bob", "sue"] {
        for mail in maildir(disk, &format!("/mail/{}/{user}", PLACES[LOCAL].domains[0])) {
            let text = String::from_utf8_lossy(&mail).into_owned();
            let to = value(&text, "Delivered-To: ").unwrap_or_else(|| panic!("for whom? {text}")).to_owned();
            assert!(is_first(&mut seen, &text), "a notice came twice into a mailbox: {text}");
            came(&mut fates, letters, &[to], &text);
        }
    }
    for (_, recipients, content) in taken {
        let text = String::from_utf8_lossy(content);
        let first = is_first(&mut seen, &text);
        assert!(first || crashes > 0, "a notice came twice: {text}");
        if first {
            came(&mut fates, letters, recipients, &text);
        }
    }
    for letter in letters {
        for to in &letter.to {
            judge(letter, to, fates[&(letter.number, to.clone())], crashes, counts);
        }
    }
}

/// Whether it is no notice, or one that didn't come before: one that goes to a peer may come once more after a crash.
fn is_first(seen: &mut BTreeSet<String>, text: &str) -> bool {
    let id = value(text, "Message-ID: ").filter(|_| is_notice(text));
    id.is_none_or(|id| seen.insert(id.to_owned()))
}

fn is_notice(text: &str) -> bool {
    text.contains("multipart/report")
}

/// A mail has come to some recipients: a letter, or a notice about one.
fn came(fates: &mut Fates, letters: &[Letter], recipients: &[String], text: &str) {
    let number = value(text, "Subject: l-").and_then(|number| number.parse().ok());
    let number: usize = number.unwrap_or_else(|| panic!("what is this? {text}"));
    let mut note = |to: &str, change: fn(&mut Fate)| match fates.get_mut(&(number, to.to_owned())) {
        Some(fate) => change(fate),
        None => panic!("l-{number} was never for {to}: {text}"),
    };
    if !is_notice(text) {
        return recipients.iter().for_each(|to| note(to, |fate| fate.delivered += 1));
    }
    assert_eq!(recipients, [letters[number].from.to_owned()], "the notice about l-{number} went astray");
    let mut about = None;
    for line in text.lines() {
        if let Some(to) = line.strip_prefix("Final-Recipient: rfc822; ") {
            about = Some(to.to_owned());
        } else if let Some(action) = line.strip_prefix("Action: ") {
            let to = about.clone().unwrap_or_else(|| panic!("about whom? {text}"));
            match action {
                "failed" => note(&to, |fate| fate.failed += 1),
                "delayed" => note(&to, |fate| fate.delayed += 1),
                "delivered" | "relayed" => note(&to, |fate| fate.confirmed += 1),
                _ => panic!("{text}"),
            }
        }
    }
}

/// The value of the first line that begins so.
fn value<'a>(text: &'a str, begins: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(begins)).map(str::trim)
}

/// Holds what became of a letter for one recipient against what its sender wanted to hear. Only a crash between delivery and its record
/// may bring a letter twice, or have it come and fail.
fn judge(letter: &Letter, to: &str, fate: Fate, crashes: usize, counts: &mut Counts) {
    let Fate { delivered, failed, delayed, confirmed } = fate;
    let what = format!("l-{} for {to} ({:?}, {:?}): {fate:?}", letter.number, letter.notify, letter.by);
    let place = place_of(to.split_once('@').unwrap().1);
    let wants = |wish: &str| letter.notify.map_or(wish != "SUCCESS", |notify| notify.contains(wish));
    assert!(delivered <= 1 + if place == LOCAL { 0 } else { crashes }, "too often: {what}");
    assert!(failed <= usize::from(wants("FAILURE")), "nobody asked, or once was enough: {what}");
    assert!(failed == 0 || delivered == 0 || crashes > 0, "both: {what}");
    assert!(failed + delivered > 0 || !wants("FAILURE"), "neither came nor failed: {what}");
    let by_age = usize::from(wants("DELAY"));
    // RFC 2852: who sets a time is told that it is over, whatever else he wants to hear.
    let by_deadline = usize::from(letter.notify != Some("NEVER") && letter.by.is_some_and(|(_, mode)| mode == 'N'));
    assert!(delayed <= by_age + by_deadline, "nobody asked, or told too often of a delay: {what}");
    // Who knows DSN confirms it himself.
    let ours = wants("SUCCESS") && place != STRICT;
    assert!(confirmed <= usize::from(ours && delivered > 0), "confirmed: {what}");
    assert!(confirmed == 1 || !ours || delivered == 0 || failed == 1, "not confirmed: {what}");
    counts.told_of_failure += failed;
    counts.told_of_delay += delayed;
    counts.told_of_success += confirmed;
    counts.silent += usize::from(delivered == 0 && failed == 0);
}
