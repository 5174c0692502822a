//! Whether a refusal is about our IPv6 address, so that the same mail may be welcome over IPv4. Owns nothing but the table of texts.

use crate::mail::{Cause, Diagnosis, EnhancedCode};

/// What servers say of IPv6 itself, whatever the code.
const ABOUT_IPV6: &[&str] = &[
    "over ipv6",
    "via ipv6",
    "ipv6 sending",
    "ipv6 address",
    "ipv6 client",
    "ipv6 connection",
    "ipv6 host",
    "ipv6 is not",
    "ipv6 not",
];

/// What they say of a client's address; with a code that speaks of policy.
const ABOUT_CLIENT: &[&str] = &[
    "reverse dns",
    "reverse hostname",
    "reverse lookup",
    "reverse name",
    "reverse record",
    "rdns",
    "ptr record",
    "no ptr",
    "ptr missing",
    "find your hostname",
    "client host rejected",
    "client host [",
    "client address",
    "sending ip",
    "your ip",
    "ip reputation",
    "blocked using",
    "blacklist",
    "blocklist",
    "black list",
    "block list",
    "dnsbl",
    "spamhaus",
    "listed at",
    "listed by",
    "listed in",
];

/// Whether a host that was called over IPv6 refuses us for that: no name for the address, or one of bad repute.
pub(super) fn is_refusal(diagnosis: &Diagnosis) -> bool {
    let EnhancedCode(class, subject, detail) = diagnosis.status;
    // An address that doesn't exist, or may not be written to, doesn't over IPv4 either.
    if diagnosis.cause != Cause::Remote || class == 2 || subject == 1 {
        return false;
    }
    let text = diagnosis.text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    // RFC 7372 section 3.3: reverse DNS validation failed.
    let nameless = (subject, detail) == (7, 25);
    nameless || says(ABOUT_IPV6) || (matches!(subject, 0 | 7) && says(ABOUT_CLIENT))
}

#[cfg(test)]
mod tests {
    use super::super::super::smtp::client::reply::Parser;
    use super::*;

    fn refusal(lines: &str) -> bool {
        let wire = format!("{}\r\n", lines.replace('\n', "\r\n"));
        let reply = Parser::default().next(&mut wire.as_bytes()).unwrap().unwrap();
        is_refusal(&Diagnosis::from_reply(&reply, ""))
    }

    #[test]
    fn refusals_for_the_address_are_known() {
        for reply in [
            // Gmail
            "550-5.7.1 [2a00:1::7] Our system has detected that this message does\n550-5.7.1 not meet IPv6 sending guidelines regarding PTR records and\n550-5.7.1 authentication. Please review\n550-5.7.1  https://support.google.com/mail/?p=IPv6AuthError for more information\n550 5.7.1 . a1-2002 - gsmtp",
            "550-5.7.25 [2a00:1::7] The IP address sending this message does not have a\n550-5.7.25 PTR record setup, or the corresponding forward DNS entry does not\n550 5.7.25 match the sending IP.",
            // Outlook.com, Exchange Online
            "450 4.7.25 Service unavailable, sending IPv6 address [2a00:1::7] must have reverse DNS record. [AM4PEPF]",
            "450 4.7.26 Service unavailable, message sent over IPv6 [2a00:1::7] must pass either SPF or DKIM validation, this message is not signed",
            "550 5.2.1 Service unavailable, [far.test] does not accept email over IPv6",
            // Postfix
            "450 4.7.25 Client host rejected: cannot find your hostname, [2a00:1::7]",
            "450 4.7.1 Client host rejected: cannot find your reverse hostname, [2a00:1::7]",
            "554 5.7.1 Service unavailable; Client host [2a00:1::7] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/2a00:1::7",
            // Exim
            "550 Rejected because 2a00:1::7 is in a black list at zen.spamhaus.org",
            "550 No PTR record for your address",
            // T-Online and others
            "554 IP=2a00:1::7 - A problem occurred: the reverse lookup of your IP failed",
        ] {
            assert!(refusal(reply), "{reply}");
        }
    }

    #[test]
    fn other_refusals_are_none() {
        for reply in [
            "550 5.1.1 <ipv6-address@far.test>: no such user: ipv6 address",
            "550 5.7.1 Relay access denied",
            "550 5.7.1 The message was refused as spam",
            "550 5.7.26 This mail has been blocked because the sender is unauthenticated. SPF [far.test] did not pass",
            "452 4.2.2 Mailbox full",
            "450 4.2.0 Greylisted, see http://postgrey.schweikert.ch/help/far.test.html",
            "552 5.2.2 <joe@far.test>: mailbox of blacklisted quota",
            "250 2.0.0 Ok over IPv6",
        ] {
            assert!(!refusal(reply), "{reply}");
        }
        let ours = Diagnosis::new(EnhancedCode(4, 4, 1), Cause::Connection, "no route over IPv6");
        assert!(!is_refusal(&ours));
    }
}
