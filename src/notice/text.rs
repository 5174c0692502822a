//! The part for people: what happened to which message, what the other side said, what to do now.

use std::time::Duration;

use super::words::{clean, wrap};
use super::{Kind, Report, Success};
use crate::mail::{Cause, EnhancedCode, Recipient, RecipientStatus};

/// Recipients that are written about one by one; the part for machines has them all.
const RECIPIENTS_MAX: usize = 50;
/// Characters of a remote's words at the most.
const WORDS_MAX: usize = 1000;

/// The notice's subject.
pub(super) fn subject(report: &Report<'_>) -> String {
    let original = &report.original.subject;
    match (report.kind, original.is_empty()) {
        (Kind::Bounce, true) => "Your message was not delivered".to_owned(),
        (Kind::Bounce, false) => format!("Not delivered: {original}"),
        (Kind::DoubleBounce, true) => "Mail without sender was not delivered".to_owned(),
        (Kind::DoubleBounce, false) => format!("Not delivered, without sender: {original}"),
        (Kind::Delay { .. }, true) => "Your message is delayed".to_owned(),
        (Kind::Delay { .. }, false) => format!("Delayed: {original}"),
        (Kind::Success(Success::Delivered), true) => "Your message was delivered".to_owned(),
        (Kind::Success(Success::Delivered), false) => format!("Delivered: {original}"),
        (Kind::Success(_), true) => "Your message was passed on".to_owned(),
        (Kind::Success(_), false) => format!("Passed on: {original}"),
    }
}

/// The whole part, CRLF line ends, wrapped.
pub(super) fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    wrap(&mut out, "", &opening(report));
    out.push_str("\r\n");
    if !report.original.subject.is_empty() {
        wrap(&mut out, "    ", &format!("Subject: {}", report.original.subject));
    }
    wrap(&mut out, "    ", &format!("Arrived: {}", report.message.arrived.rfc5322()));
    for recipient in recipients(report).take(RECIPIENTS_MAX) {
        out.push_str("\r\n");
        paragraph(&mut out, report, recipient);
    }
    let further = recipients(report).count().saturating_sub(RECIPIENTS_MAX);
    if further > 0 {
        out.push_str("\r\n");
        wrap(&mut out, "", &format!("{further} more recipients are listed in the second part of this notice."));
    }
    out.push_str("\r\n");
    wrap(&mut out, "", &closing(report));
    out
}

fn recipients<'a>(report: &'a Report<'_>) -> impl Iterator<Item = &'a Recipient> {
    report.recipients.iter().filter_map(|index| report.message.recipients.get(*index as usize))
}

/// What happened, to whom, and whether it is over.
fn opening(report: &Report<'_>) -> String {
    let count = recipients(report).count();
    // The address that the sender wrote, where an alias led elsewhere: the only one that means something to people.
    let whom = match recipients(report).next() {
        Some(recipient) if count == 1 => recipient.original.as_ref().unwrap_or(&recipient.address).to_string(),
        _ => format!("{count} recipients"),
    };
    match report.kind {
        Kind::Success(Success::Delivered) => format!("Your message was delivered to {whom}, as you wanted to know."),
        Kind::Success(Success::Relayed) => format!(
            "Your message to {whom} was passed on to a server that confirms no delivery. You hear from us no more, unless it comes back."
        ),
        Kind::Success(Success::Expanded) => format!(
            "Your message to {whom} was passed on to all for whom that stands. You are told of none of them, unless it fails."
        ),
        Kind::Bounce => format!("Your message could not be delivered to {whom}. It will not be tried again."),
        Kind::DoubleBounce => format!(
            "A message that has no sender, most likely a notice itself, could not be delivered to {whom}. There is nobody else \
             to tell, so you are told as postmaster. It will not be tried again."
        ),
        Kind::Delay { expires } => {
            let now = report.context.now;
            format!(
                "Your message could not be delivered to {whom} yet. You need not do anything and should not send it again: it is \
                 tried for {} more, until {}.",
                span(expires.since(now)),
                expires.rfc5322()
            )
        }
    }
}

/// One recipient: where it went, what was said, what helps.
fn paragraph(out: &mut String, report: &Report<'_>, recipient: &Recipient) {
    let status = &recipient.status;
    let led_from = recipient.original.as_ref().map(|original| format!(" (written to {original})")).unwrap_or_default();
    wrap(out, "", &format!("{}{led_from}", recipient.address));
    let done = matches!(report.kind, Kind::Success(_));
    if !done {
        wrap(out, "    ", &finding(report, status));
    } else if !status.next_hop.is_empty() && status.last_cause == Some(Cause::Remote) {
        wrap(out, "    ", &format!("The server {} answered:", clean(&status.next_hop, 300)));
    } else {
        return;
    }
    let words = clean(&status.last_reply, WORDS_MAX);
    if !words.is_empty() {
        wrap(out, "        ", &words);
    }
    if report.kind == Kind::Bounce {
        wrap(out, "    ", advice(status));
    }
}

/// What stood in the way, up to the words of whoever said so.
fn finding(report: &Report<'_>, status: &RecipientStatus) -> String {
    let hop = clean(&status.next_hop, 300);
    let said = !status.last_reply.is_empty();
    let colon = if said { ":" } else { "." };
    let at = if hop.is_empty() { String::new() } else { format!(" at {hop}") };
    match status.last_cause {
        Some(Cause::Remote) if hop.is_empty() => format!("The receiving server answered{colon}"),
        Some(Cause::Remote) => format!("The server {hop} answered{colon}"),
        Some(Cause::Connection) => format!("No delivery came about{at}{colon}"),
        Some(Cause::Dns) => format!("Looking up the domain's mail servers failed{colon}"),
        Some(Cause::Local) => format!("Our own server could not deliver it{at}{colon}"),
        Some(Cause::Expired) if status.attempts == 0 => "It could not be delivered in the time that was set for it.".to_owned(),
        Some(Cause::Expired) => {
            let waited = span(report.context.now.since(report.message.arrived));
            let last = if said { format!(" The last result{at} was:") } else { String::new() };
            format!("Every attempt in {waited} failed.{last}")
        }
        Some(Cause::Operator) => {
            let last = if said { format!(" The last result{at} was:") } else { String::new() };
            format!("An administrator of this server ended the attempts.{last}")
        }
        None => "It has not been attempted yet.".to_owned(),
    }
}

/// What the sender can do about a failure.
fn advice(status: &RecipientStatus) -> &'static str {
    if status.last_cause == Some(Cause::Operator) {
        return "Ask the postmaster if you want to know why.";
    }
    let EnhancedCode(_, subject, detail) = status.last_status.unwrap_or(EnhancedCode(5, 0, 0));
    match (subject, detail) {
        (1, 8) => "Your own address's domain was not accepted; ask the postmaster.",
        (1, 7) => "Your own address was not accepted; check it in your mail program.",
        (1, 10) => "This domain takes no mail. Ask the recipient for another address.",
        (1, _) => "Check the address for mistakes, correct it and send the message again.",
        (2, 2) => "The mailbox is full. Send the message again later, or reach the recipient in another way.",
        (2, 3) | (3, 4) => "The message is too large. Send a smaller one, or share the attachment in another way.",
        (2, _) => "The mailbox takes no mail now. Reach the recipient in another way.",
        (4, 6) => "Mail to this address runs in a circle. Tell the postmaster.",
        (4, 7) => "Send the message again later, or reach the recipient in another way.",
        (4, 4) => "No server takes mail for this domain. Check the part behind the @ for mistakes.",
        (6, _) => "The content was not accepted. Send it in another form.",
        (7, _) => "The receiving side's rules forbid it. Reach the recipient in another way, or ask the postmaster.",
        _ => "If the answer above doesn't help, reach the recipient in another way, or ask the postmaster.",
    }
}

fn closing(report: &Report<'_>) -> String {
    let Report { context, message, .. } = report;
    let help = match report.kind {
        Kind::DoubleBounce => String::new(),
        _ => format!("If you need help, forward this notice to {}. ", context.postmaster),
    };
    let below = if report.original.whole.is_some() { "message" } else { "message's header" };
    format!(
        "{help}This notice was written by the mail server {}, where the message had the queue id {}. The {below} follows below.",
        context.hostname, message.id
    )
}

/// A span of time as people say it.
fn span(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (count, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2880 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_down_to_a_unit_that_says_enough() {
        let said = [0, 60, 7199, 7200, 172_799, 172_800, 432_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(said, ["0 minutes", "1 minute", "119 minutes", "2 hours", "47 hours", "2 days", "5 days"]);
    }
}
