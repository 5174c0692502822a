//! Notices that nobody got because their senders aren't known here: how many, and the postmaster's summary of them. State: the counts.

use std::collections::BTreeMap;

use super::phrases::Part;
use super::text::time_in;
use super::words::{clean, wrap};
use super::{Context, Notice, Title};
use crate::mail::{Domain, Timestamp};

/// Domains that are counted one by one; the rest is counted together.
const DOMAINS_MAX: usize = 1000;
/// Domains that a summary names.
const NAMED_MAX: usize = 50;

/// How many notices weren't sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    since: Timestamp,
    from: Timestamp,
    count: u64,
    /// By the domain of who would have got them.
    domains: BTreeMap<Domain, u64>,
}

impl Digest {
    /// Nothing counted yet.
    pub fn new(since: Timestamp) -> Self {
        Self { since, from: since, count: 0, domains: BTreeMap::new() }
    }

    /// When the wait for the next summary began.
    pub fn waits_from(&self) -> Timestamp {
        self.from
    }

    /// A summary couldn't be sent: the wait begins anew.
    pub fn wait_from(&mut self, from: Timestamp) {
        self.from = from;
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One more that would have gone to this domain. With the first the wait begins.
    pub fn add(&mut self, domain: &Domain, now: Timestamp) {
        if self.is_empty() {
            self.from = now;
        }
        self.count += 1;
        let has_room = self.domains.len() < DOMAINS_MAX;
        if let Some(count) = self.domains.get_mut(domain) {
            *count += 1;
        } else if has_room {
            self.domains.insert(domain.clone(), 1);
        }
    }

    /// The postmaster's summary, in our usual language.
    pub fn notice(&self, context: &Context) -> Notice {
        let Context { hostname, postmaster, languages, .. } = context;
        let language = languages.usual();
        let say = |part, values: &[(&str, &str)]| language.phrases.say(part, values);
        let count = self.count.to_string();
        let mut text = String::new();
        let since = time_in(&language.phrases, self.since);
        wrap(&mut text, "", &say(Part::DigestOpening, &[("time", &since), ("count", &count)]));
        text.push_str("\r\n");
        let mut domains: Vec<(&Domain, u64)> = self.domains.iter().map(|(domain, count)| (domain, *count)).collect();
        domains.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        domains.truncate(NAMED_MAX);
        for (domain, count) in &domains {
            text.push_str(&format!("{count:>8}  {domain}\r\n"));
        }
        let others = self.count - domains.iter().map(|(_, count)| count).sum::<u64>();
        if others > 0 {
            wrap(&mut text, "    ", &say(Part::DigestMore, &[("count", &others.to_string())]));
        }
        text.push_str("\r\n");
        wrap(&mut text, "", &say(Part::DigestClosing, &[("hostname", hostname.as_str())]));
        let subject = clean(&say(Part::DigestSubject, &[("count", &count)]), 300);
        Title { to: postmaster, subject, name: "digest", origin: "auto-generated", language: &language.tag }.letter(context, text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use mail_parser::MessageParser;

    use super::super::Languages;
    use super::*;
    use crate::mail::Address;

    #[test]
    fn a_summary_names_the_domains_with_the_most_and_counts_the_rest() {
        let (begun, first) = (Timestamp::from_millis(1_795_312_800_000), Timestamp::from_millis(1_795_400_000_000));
        let mut digest = Digest::new(begun);
        assert!(digest.is_empty());
        for n in 0..1200 {
            digest.add(&Domain::parse(&format!("d{n}.test")).unwrap(), first);
        }
        for _ in 0..9 {
            digest.add(&Domain::parse("d77.test").unwrap(), first.plus(Duration::from_secs(60)));
        }
        assert_eq!((digest.waits_from(), digest.domains.len()), (first, DOMAINS_MAX));
        let mut context = super::super::tests::context();
        let read = |context: &Context| {
            let notice = digest.notice(context);
            assert_eq!((notice.to.clone(), notice.request.is_none()), (context.postmaster.clone(), true));
            assert!(notice.content.is_ascii());
            let parsed = MessageParser::default().parse(&notice.content).unwrap();
            assert_eq!(parsed.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
            (parsed.subject().unwrap().to_owned(), parsed.body_text(0).unwrap().into_owned())
        };
        let (subject, text) = read(&context);
        assert_eq!(subject, "Notices that were not sent: 1209");
        assert!(text.starts_with("Since 2026-11-22 02:00 UTC, 1209 notices were not sent"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.ends_with("d77.test")).unwrap();
        assert_eq!((lines[at], lines[at - 1]), ("      10  d77.test", ""));
        assert!(text.contains("    1150 to other domains"), "{text}");
        context.languages = Arc::new(Languages::new("ja", []).unwrap());
        assert_eq!(read(&context).0, "送らなかった通知: 1209 件");
        context.postmaster = Address::parse_utf8("chéf@example.test").unwrap();
        assert!(digest.notice(&context).request.is_some_and(|request| request.smtputf8));
    }
}
