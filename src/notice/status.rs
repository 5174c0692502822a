//! The part for machines: message/delivery-status (RFC 3464) in ASCII, or message/global-delivery-status (RFC 6533) beyond it.

use std::net::IpAddr;

use super::text::words_max;
use super::words::{ascii, clean, field};
use super::{Kind, Report, Success};
use crate::mail::{Address, Cause, Domain, EnhancedCode, OriginalRecipient, Recipient};

/// Characters of an address or a host at the most.
const NAME_MAX: usize = 1000;

/// The whole part, CRLF line ends; ASCII, unless `utf8`.
pub(super) fn status(report: &Report<'_>, utf8: bool) -> String {
    let mut out = String::new();
    if let Some(envid) = report.message.request.as_ref().and_then(|request| request.envid.as_ref()) {
        given(&mut out, "Original-Envelope-Id", envid.as_str());
    }
    field(&mut out, "Reporting-MTA", &format!("dns; {}", report.context.hostname));
    field(&mut out, "X-Posthouse-Queue-Id", &report.message.id.to_string());
    field(&mut out, "Arrival-Date", &report.message.arrived.rfc5322());
    if let Some((deadline, _)) = report.message.deadline() {
        field(&mut out, "Deliver-By-Date", &deadline.rfc5322());
    }
    for index in report.recipients {
        if let Some(recipient) = report.message.recipients.get(*index as usize) {
            out.push_str("\r\n");
            recipient_fields(&mut out, report, recipient, utf8);
        }
    }
    out
}

fn recipient_fields(out: &mut String, report: &Report<'_>, recipient: &Recipient, utf8: bool) {
    let status = &recipient.status;
    // As the sender named it; or, where an alias led here, as we know that it did, and tell the next hop. RFC 3461 section 6.3 allows
    // only the first, but 5.2.1 what we tell: then the next hop's notices have this field, and ours must not say less.
    match (recipient.dsn.as_ref().and_then(|dsn| dsn.orcpt.as_ref()), &recipient.original) {
        (Some(orcpt), _) if orcpt.is_unicode() && !utf8 => given(out, "Original-Recipient", &orcpt.to_wire()),
        (Some(orcpt), _) => given(out, "Original-Recipient", &format!("{}; {}", orcpt.kind(), orcpt.address())),
        (None, Some(original)) => given(out, "Original-Recipient", &typed(original, utf8)),
        (None, None) => {}
    }
    given(out, "Final-Recipient", &typed(&recipient.address, utf8));
    // The class follows the action, whatever the last words were (RFC 3464 section 2.3.4).
    let (action, class) = match report.kind {
        Kind::Delay { .. } => ("delayed", 4),
        Kind::Bounce | Kind::DoubleBounce => ("failed", 5),
        Kind::Success(Success::Delivered) | Kind::DelayOver(Success::Delivered) => ("delivered", 2),
        Kind::Success(Success::Relayed) | Kind::DelayOver(Success::Relayed) => ("relayed", 2),
        Kind::Success(Success::Expanded) | Kind::DelayOver(Success::Expanded) => ("expanded", 2),
    };
    field(out, "Action", action);
    let EnhancedCode(_, subject, detail) = status.last_status.unwrap_or(EnhancedCode(4, 0, 0));
    field(out, "Status", &EnhancedCode(class, subject, detail).to_string());
    let replied = status.is_replied();
    if let Some(host) = remote_host(&status.next_hop).filter(|_| replied || status.last_cause == Some(Cause::Remote)) {
        field(out, "Remote-MTA", &format!("dns; {host}"));
    }
    // The type "smtp" is for replies, code and all (RFC 3461 section 9.2); what we say ourselves about a failure has one of its own.
    let kind = if replied { "smtp" } else { "X-Posthouse" };
    if !status.last_reply.is_empty() && (replied || class != 2) {
        let words = if utf8 { clean } else { ascii };
        field(out, "Diagnostic-Code", &format!("{kind}; {}", words(&status.last_reply, words_max(report))));
    }
    match report.kind {
        Kind::Delay { expires } => field(out, "Will-Retry-Until", &expires.rfc5322()),
        // This notice follows the attempt at once, except where it was not an attempt that ended it.
        _ if status.attempts > 0 && !matches!(status.last_cause, Some(Cause::Expired | Cause::Operator)) => {
            field(out, "Last-Attempt-Date", &report.context.now.rfc5322());
        }
        _ => {}
    }
}

/// A field with an address or id: printable text that no folding may change, short enough for a line.
fn given(out: &mut String, name: &str, value: &str) {
    out.push_str(&format!("{name}: {value}\r\n"));
}

/// An address behind its type; one beyond ASCII as it is, or in the encoding for parts that are ASCII (RFC 6533 section 3).
fn typed(address: &Address, utf8: bool) -> String {
    let text = address.to_string();
    if text.is_ascii() {
        return format!("rfc822; {text}");
    }
    match OriginalRecipient::new("utf-8", &text) {
        Some(_) if utf8 => format!("utf-8; {text}"),
        Some(encoded) => encoded.to_wire(),
        None => format!("rfc822; {}", ascii(&text, NAME_MAX)),
    }
}

/// The host in a next hop such as `mx.example.org [192.0.2.1]:25`, `192.0.2.1:25` or `mx.example.org`; none in a path.
fn remote_host(next_hop: &str) -> Option<Domain> {
    let first = next_hop.split([' ', '/']).next().filter(|first| !first.is_empty())?;
    let host = match first.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => first,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(Domain::from_ip(ip)),
        Err(_) => Domain::parse(host).ok().filter(|_| !next_hop.starts_with("unix:")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_next_hops() {
        let host = |text: &str| remote_host(text).map(|d| d.to_string());
        assert_eq!(host("mx.example.org [192.0.2.1]:25").as_deref(), Some("mx.example.org"));
        assert_eq!(host("mx.example.org:25").as_deref(), Some("mx.example.org"));
        assert_eq!(host("192.0.2.1:25").as_deref(), Some("[192.0.2.1]"));
        assert_eq!(host("[2001:db8::1]:25").as_deref(), Some("[IPv6:2001:db8::1]"));
        assert_eq!(host("[192.0.2.1]").as_deref(), Some("[192.0.2.1]"));
        for none in ["", "/var/mail/ann", "unix:/run/lmtp", "mail store"] {
            assert!(host(none).is_none() || none == "mail store", "{none}");
        }
    }
}
