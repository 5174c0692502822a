//! What must be true of every message after a crash, whatever the crash: told from mailboxes, peers and clients alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthouse::event::Event;
use posthouse::system::sim::SimDisk;

use crate::daemon_world::USERS;
use crate::world::{below_our_fields, maildir};

/// What a client knows of a message that it sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Its subject.
    pub(crate) token: String,
    /// Empty for none.
    pub(crate) from: String,
    /// As given to RCPT.
    pub(crate) to: Vec<&'static str>,
    /// What each of those was given with.
    pub(crate) notify: Option<&'static str>,
    pub(crate) content: Vec<u8>,
    /// Whether the client saw the 250.
    pub(crate) accepted: bool,
    /// It was left in the drop folder, and comes back to its sender.
    pub(crate) is_bad: bool,
}

impl Sent {
    /// Whether somebody is to be told of that.
    fn wants(&self, what: &str) -> bool {
        self.notify.map_or(what != "SUCCESS", |notify| notify.contains(what))
    }

    /// Whom it really goes to, or comes back from.
    fn leaves(&self) -> Vec<&'static str> {
        if !self.is_bad {
            return expanded(&self.to);
        }
        let mut to = self.to.clone();
        to.sort_unstable();
        to.dedup();
        to
    }

    /// What is to become of one of those.
    fn fate(&self, address: &str) -> Fate {
        if self.is_bad { Fate::Bounce } else { fate(address) }
    }

    /// Whether an alias is among the recipients.
    fn is_expanded(&self) -> bool {
        self.to.iter().any(|to| ALIASES.contains(to))
    }
}

/// Those that stand for others.
const ALIASES: [&str; 2] = ["team@example.test", "mix@example.test"];

/// What is to become of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// In a mailbox here: its name is always the same, so never twice.
    Mailbox,
    /// At a peer; once more for each crash or cut.
    Peer,
    /// Nowhere: the sender is told.
    Bounce,
}

fn fate(address: &str) -> Fate {
    match address.split_once('@').unwrap() {
        (_, "example.test") => Fate::Mailbox,
        ("gone", _) | (_, "dead.test" | "busy.test") => Fate::Bounce,
        _ => Fate::Peer,
    }
}

/// The addresses that the aliases lead to.
fn expanded(to: &[&'static str]) -> Vec<&'static str> {
    let mut leaves = Vec::new();
    for address in to {
        match *address {
            "team@example.test" => leaves.extend(["ann@example.test", "bob@example.test"]),
            "mix@example.test" => leaves.extend(["sue@example.test", "eve@far.test", "ann@example.test", "bob@example.test"]),
            other => leaves.push(other),
        }
    }
    leaves.sort_unstable();
    leaves.dedup();
    leaves
}

/// What the log says of waits: never shorter than the peer asked for, and longer than usual after a lost last reply, which may mean a
/// duplicate and is called so.
pub(crate) fn check_waits(events: &[Event]) {
    for event in events {
        let Event::Deferred { id, delay, next_attempt, reply, in_doubt, to, .. } = event else { continue };
        // An id begins with the millisecond in which it was made.
        let wait = Duration::from_millis(next_attempt.as_millis().saturating_sub(id.0 >> 20)).saturating_sub(*delay);
        let what = format!("{to} waits for {wait:?} after {reply:?}");
        if reply.contains("try again in 90 seconds") {
            assert!(wait >= Duration::from_secs(89) && wait < Duration::from_secs(120), "{what}");
        }
        assert_eq!(*in_doubt, reply.contains("possible duplicate"), "{what}");
        // Twice the shortest usual wait, less the jitter.
        assert!(!in_doubt || wait >= Duration::from_secs(9 * 60), "{what}");
        assert!(!in_doubt || matches!(to.domain().as_str(), "far.test" | "cut.test"), "{what}");
    }
}

/// What was found at the end: how often each token came to each recipient.
#[derive(Debug, Default)]
pub(crate) struct Found {
    delivered: BTreeMap<(String, String), usize>,
    failed: BTreeMap<(String, String), usize>,
    delayed: BTreeMap<(String, String), usize>,
    /// Deliveries that were told of.
    confirmed: BTreeMap<(String, String), usize>,
    expanded: BTreeMap<(String, String), usize>,
    contents: Vec<(String, Vec<u8>)>,
}

/// The value of the first such field anywhere in a text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

impl Found {
    /// Reads all mailboxes, and what the peers took.
    pub(crate) fn read(disk: &SimDisk, taken: Vec<(String, Vec<u8>)>) -> Self {
        let mut found = Self::default();
        let disk = Arc::new(disk.clone());
        for user in USERS.iter().chain(&["postmaster"]) {
            let address = format!("{user}@example.test");
            for mail in maildir(&disk, &format!("/mail/example.test/{user}")) {
                let text = String::from_utf8_lossy(&mail).into_owned();
                if text.contains("multipart/report") {
                    found.notice(&address, &text);
                } else {
                    found.mail(&address, &mail);
                }
            }
        }
        for (recipient, content) in taken {
            found.mail(&recipient, &content);
        }
        found
    }

    fn mail(&mut self, to: &str, mail: &[u8]) {
        let content = below_our_fields(mail).to_vec();
        let token = field(&String::from_utf8_lossy(&content), "Subject").unwrap_or("damaged").to_owned();
        *self.delivered.entry((token.clone(), to.to_owned())).or_default() += 1;
        self.contents.push((token, content));
    }

    /// A notice in a mailbox; its own subject never begins with a token.
    fn notice(&mut self, mailbox: &str, text: &str) {
        let tokens: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Subject: m-")).collect();
        assert_eq!(tokens.len(), 1, "a notice about something else than a message: {text}");
        let token = format!("m-{}", tokens[0]);
        let sender = field(text, "X-From").unwrap();
        let wanted = if sender.is_empty() { "postmaster@example.test" } else { sender };
        assert_eq!(mailbox, wanted, "a notice about {token} in the wrong mailbox");
        let mut recipient = String::new();
        for line in text.lines() {
            if let Some(address) = line.strip_prefix("Final-Recipient: rfc822; ") {
                address.clone_into(&mut recipient);
            } else if let Some(action) = line.strip_prefix("Action: ") {
                let counts = match action {
                    "failed" => &mut self.failed,
                    "delayed" => &mut self.delayed,
                    "delivered" | "relayed" => &mut self.confirmed,
                    "expanded" => &mut self.expanded,
                    _ => panic!("{text}"),
                };
                *counts.entry((token.clone(), recipient.clone())).or_default() += 1;
            }
        }
    }

    /// A delivery is confirmed once, together with being recorded, where that is wanted. What aliases lead to isn't.
    fn check_confirmed(&self, message: &Sent, confirmed: usize, delivered: usize, what: &str) {
        let wanted = message.wants("SUCCESS") && !message.from.is_empty();
        assert!(confirmed <= usize::from(wanted && delivered > 0), "confirmed {confirmed} times: {what}");
        let must = wanted && delivered > 0 && message.accepted && !message.is_expanded();
        assert!(!must || confirmed == 1, "not confirmed: {what}");
    }

    /// Holds what was found against what was sent. `crashes`: how often the power went.
    pub(crate) fn check(&self, sent: &[Sent], crashes: usize) {
        let mut known = Vec::new();
        for message in sent {
            let (mut outcomes, mut heard) = (0, 0);
            let recipients = message.leaves();
            for recipient in &recipients {
                let key = (message.token.clone(), (*recipient).to_owned());
                let count = |counts: &BTreeMap<_, usize>| counts.get(&key).copied().unwrap_or(0);
                let (delivered, failed, delayed) = (count(&self.delivered), count(&self.failed), count(&self.delayed));
                let what =
                    format!("{} for {recipient}: delivered {delivered}, bounced {failed}, delayed {delayed}", message.token);
                assert!(delivered == 0 || failed == 0, "both: {what}");
                assert!(delayed <= 1, "{what}");
                let delivered_max = match message.fate(recipient) {
                    Fate::Mailbox => 1,
                    // The peer at cut.test also loses its reply once.
                    Fate::Peer => 1 + crashes + usize::from(recipient.ends_with("cut.test")),
                    Fate::Bounce => 0,
                };
                assert!(delivered <= delivered_max && failed <= 1, "too often: {what}");
                assert!(message.fate(recipient) == Fate::Bounce || failed == 0, "bounced without cause: {what}");
                // Nobody can tell from outside what became of mail whose failure nobody wants to hear of.
                heard += usize::from(message.fate(recipient) != Fate::Bounce || message.wants("FAILURE"));
                outcomes += usize::from(delivered + failed > 0);
                assert!(failed == 0 || message.wants("FAILURE"), "nobody asked: {what}");
                assert!(delayed == 0 || message.wants("DELAY"), "nobody asked: {what}");
                self.check_confirmed(message, count(&self.confirmed), delivered, &what);
                known.push(key);
            }
            for alias in message.to.iter().filter(|to| ALIASES.contains(to)) {
                let count = self.expanded.get(&(message.token.clone(), (*alias).to_owned())).copied().unwrap_or(0);
                assert!(count == 0 || message.wants("SUCCESS") && !message.from.is_empty(), "nobody asked about {alias}");
                assert!(count <= 1, "too often: {count} for {alias}");
                let must = message.wants("SUCCESS") && !message.from.is_empty() && message.accepted && message.to.len() == 1;
                assert!(!must || count == 1, "its expansion wasn't told: {alias} of {}", message.token);
            }
            let whole = outcomes == heard;
            let what = format!("{} of the recipients of {} to {:?}", heard - outcomes, message.token, message.to);
            assert!(whole || !message.accepted, "lost: {what}");
            assert!(whole || outcomes == 0, "in part: {what}");
        }
        for key in self.delivered.keys().chain(self.failed.keys()).chain(self.delayed.keys()).chain(self.confirmed.keys()) {
            assert!(known.contains(key), "nobody sent {key:?}");
        }
        for (token, content) in &self.contents {
            let message = sent.iter().find(|message| message.token == *token);
            assert!(message.is_some_and(|message| message.content == *content), "{token} is damaged");
        }
    }
}
