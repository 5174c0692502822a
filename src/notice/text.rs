//! The part for people: what happened to which message, what the other side said, what to do now; in the sender's language.

use std::time::Duration;

use super::phrases::{Part, Phrases};
use super::words::{clean, wrap};
use super::{Kind, Report, Success};
use crate::mail::{Cause, EnhancedCode, Recipient, RecipientStatus, Timestamp};

/// Recipients that are written about one by one; the part for machines has them all.
const RECIPIENTS_MAX: usize = 50;
/// Characters of remotes' words at the most, all together: more than the longest reply that is taken.
const WORDS_MAX: usize = 70_000;
/// So many of them each recipient has in any case.
const WORDS_SHARE_MIN: usize = 1000;

/// The notice's subject: one line.
pub(super) fn subject(report: &Report<'_>) -> String {
    let (titled, untitled) = match report.kind {
        Kind::Bounce => (Part::SubjectFailed, Part::SubjectFailedUntitled),
        Kind::DoubleBounce => (Part::SubjectLost, Part::SubjectLostUntitled),
        Kind::Delay { .. } => (Part::SubjectDelayed, Part::SubjectDelayedUntitled),
        Kind::DelayOver(_) => (Part::SubjectDelayOver, Part::SubjectDelayOverUntitled),
        Kind::Success(Success::Delivered) => (Part::SubjectDelivered, Part::SubjectDeliveredUntitled),
        Kind::Success(_) => (Part::SubjectPassedOn, Part::SubjectPassedOnUntitled),
    };
    let original = report.original.subject.as_str();
    let part = if original.is_empty() { untitled } else { titled };
    clean(&report.say(part, &[("subject", original)]), 300)
}

/// The whole part, CRLF line ends, wrapped.
pub(super) fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    wrap(&mut out, "", &opening(report));
    out.push_str("\r\n");
    if !report.original.subject.is_empty() {
        wrap(&mut out, "    ", &report.say(Part::MessageSubject, &[("subject", &report.original.subject)]));
    }
    wrap(&mut out, "    ", &report.say(Part::MessageArrived, &[("time", &time(report, report.message.arrived))]));
    for recipient in recipients(report).take(RECIPIENTS_MAX) {
        out.push_str("\r\n");
        paragraph(&mut out, report, recipient);
    }
    let further = recipients(report).count().saturating_sub(RECIPIENTS_MAX);
    if further > 0 {
        out.push_str("\r\n");
        wrap(&mut out, "", &report.say(Part::MessageMore, &[("count", &further.to_string())]));
    }
    out.push_str("\r\n");
    wrap(&mut out, "", &closing(report));
    out
}

fn recipients<'a>(report: &'a Report<'_>) -> impl Iterator<Item = &'a Recipient> {
    report.recipients.iter().filter_map(|index| report.message.recipients.get(*index as usize))
}

/// Characters of a remote's words that each recipient may have.
pub(super) fn words_max(report: &Report<'_>) -> usize {
    (WORDS_MAX / report.recipients.len().max(1)).max(WORDS_SHARE_MIN)
}

/// What happened, to whom, and whether it is over.
fn opening(report: &Report<'_>) -> String {
    let count = recipients(report).count();
    // The address that the sender wrote, where an alias led elsewhere: the only one that means something to people.
    let whom = match recipients(report).next() {
        Some(recipient) if count == 1 => recipient.original.as_ref().unwrap_or(&recipient.address).to_string(),
        _ => report.say(Part::Many, &[("count", &count.to_string())]),
    };
    let part = match report.kind {
        Kind::Bounce => Part::OpeningFailed,
        Kind::DoubleBounce => Part::OpeningLost,
        Kind::Success(Success::Delivered) => Part::OpeningDelivered,
        Kind::Success(Success::Relayed) => Part::OpeningRelayed,
        Kind::Success(Success::Expanded) => Part::OpeningExpanded,
        Kind::DelayOver(Success::Delivered) => Part::OpeningDelayOver,
        Kind::DelayOver(_) => Part::OpeningDelayOverRelayed,
        Kind::Delay { expires } => {
            let span = span(report, expires.since(report.context.now));
            let values = [("recipients", whom.as_str()), ("span", &span), ("time", &time(report, expires))];
            return report.say(Part::OpeningDelayed, &values);
        }
    };
    report.say(part, &[("recipients", &whom)])
}

/// One recipient: where it went, what was said, what helps.
fn paragraph(out: &mut String, report: &Report<'_>, recipient: &Recipient) {
    let status = &recipient.status;
    let address = recipient.address.to_string();
    match &recipient.original {
        None => wrap(out, "", &address),
        Some(original) => {
            let values = [("recipient", address.as_str()), ("original", &original.to_string())];
            wrap(out, "", &report.say(Part::MessageRecipient, &values));
        }
    }
    let done = matches!(report.kind, Kind::Success(_) | Kind::DelayOver(_));
    if done && (status.next_hop.is_empty() || status.last_cause != Some(Cause::Remote)) {
        return;
    }
    wrap(out, "    ", &finding(report, status));
    let words = clean(&status.last_reply, words_max(report));
    if !words.is_empty() {
        wrap(out, "        ", &words);
    }
    if report.kind == Kind::Bounce {
        wrap(out, "    ", &report.say(advice(status), &[]));
    }
}

/// What stood in the way, up to the words of whoever said so.
fn finding(report: &Report<'_>, status: &RecipientStatus) -> String {
    let hop = clean(&status.next_hop, 300);
    let at = |named: Part, unnamed: Part| report.say(if hop.is_empty() { unnamed } else { named }, &[("hop", &hop)]);
    let last = |first: String| match status.last_reply.is_empty() {
        true => first,
        false => format!("{first} {}", at(Part::FindingLastAt, Part::FindingLast)),
    };
    match status.last_cause {
        Some(Cause::Remote) if status.is_replied() => at(Part::FindingAnsweredAt, Part::FindingAnswered),
        Some(Cause::Remote | Cause::Connection) => at(Part::FindingConnectionAt, Part::FindingConnection),
        Some(Cause::Dns) => report.say(Part::FindingDns, &[]),
        Some(Cause::Local) => at(Part::FindingLocalAt, Part::FindingLocal),
        Some(Cause::Expired) if status.attempts == 0 => report.say(Part::FindingExpiredUntried, &[]),
        Some(Cause::Expired) => {
            let waited = span(report, report.context.now.since(report.message.arrived));
            last(report.say(Part::FindingExpired, &[("span", &waited)]))
        }
        Some(Cause::Operator) => last(report.say(Part::FindingOperator, &[])),
        None => report.say(Part::FindingUntried, &[]),
    }
}

/// What the sender can do about a failure.
fn advice(status: &RecipientStatus) -> Part {
    if status.last_cause == Some(Cause::Operator) {
        return Part::AdviceOperator;
    }
    let EnhancedCode(_, subject, detail) = status.last_status.unwrap_or(EnhancedCode(5, 0, 0));
    match (subject, detail) {
        (1, 8) => Part::AdviceOwnDomain,
        (1, 7) => Part::AdviceOwnAddress,
        (1, 10) => Part::AdviceNoMail,
        (1, _) => Part::AdviceAddress,
        (2, 2) => Part::AdviceFull,
        (2, 3) | (3, 4) => Part::AdviceLarge,
        (2, _) => Part::AdviceMailbox,
        (4, 6) => Part::AdviceCircle,
        (4, 7) => Part::AdviceLater,
        (4, 4) => Part::AdviceDomain,
        (6, 7) => Part::AdviceLetters,
        (6, _) => Part::AdviceContent,
        // What the sender made a condition (REQUIRETLS, DELIVERBY), and we found that the server can't promise.
        (3, 3) | (7, 10 | 30) if !status.is_replied() => Part::AdviceDemand,
        (7, _) => Part::AdviceRules,
        _ => Part::AdviceOther,
    }
}

fn closing(report: &Report<'_>) -> String {
    let Report { context, message, .. } = report;
    let mut sentences = Vec::new();
    if report.kind != Kind::DoubleBounce {
        sentences.push(report.say(Part::ClosingHelp, &[("postmaster", &context.postmaster.to_string())]));
    }
    let values = [("hostname", context.hostname.as_str()), ("id", &message.id.to_string())];
    sentences.push(report.say(Part::ClosingSignature, &values));
    let below = if report.original.whole.is_some() { Part::ClosingMessage } else { Part::ClosingHeader };
    sentences.push(report.say(below, &[]));
    let spaced = |sentence: String| if sentence.ends_with('。') { sentence } else { sentence + " " };
    sentences.into_iter().map(spaced).collect::<String>().trim_end().to_owned()
}

/// A time as people say it.
fn time(report: &Report<'_>, time: Timestamp) -> String {
    time_in(&report.language.phrases, time)
}

/// A time in a language, to the minute.
pub(super) fn time_in(phrases: &Phrases, time: Timestamp) -> String {
    let text = time.to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or("");
    phrases.say(Part::Time, &[("year", part(0, 4)), ("month", part(5, 7)), ("day", part(8, 10)), ("clock", part(11, 16))])
}

/// A span of time as people say it.
fn span(report: &Report<'_>, time: Duration) -> String {
    let (part, count) = unit(time);
    report.say(part, &[("count", &count.to_string())])
}

/// A span's unit, and how many of it; rounded down.
fn unit(time: Duration) -> (Part, u64) {
    match time.as_secs() / 60 {
        1 => (Part::Minute, 1),
        minutes @ 0..120 => (Part::Minutes, minutes),
        minutes @ 120..2880 => (Part::Hours, minutes / 60),
        minutes => (Part::Days, minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_down_to_a_unit_that_says_enough() {
        let said = [0, 60, 7199, 7200, 172_799, 172_800, 432_000].map(|s| unit(Duration::from_secs(s)));
        let (minute, minutes, hours, days) = (Part::Minute, Part::Minutes, Part::Hours, Part::Days);
        assert_eq!(said, [(minutes, 0), (minute, 1), (minutes, 119), (hours, 2), (hours, 47), (days, 2), (days, 5)]);
    }
}
