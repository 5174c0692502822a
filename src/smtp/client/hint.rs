//! How long a server wants us to wait before the next attempt, read out of what it says. Owns nothing but the table of its words.
//!
//! Two ways: a time that stands behind a word like "in" or "after" in a reply that speaks of another attempt; or a text that is known
//! to mean a certain time. No hint is better than a wrong one: numbers in other places (addresses, sizes, limits) are none.

use std::time::Duration;

use crate::mail::{EnhancedCode, Reply};

/// Longer ones are no waits: "will be retried for 5 days".
const HINT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a reply says that speaks of another attempt; the starts of words.
const ABOUT: &[&str] = &[
    "again",
    "retry",
    "retries",
    "resend",
    "resubmit",
    "reconnect",
    "come back",
    "wait",
    "greylist",
    "graylist",
    "deferred",
    "delayed",
    "throttl",
    "rate limit",
    "too many",
    "too much",
    "erneut",
    "versuchen",
    "reessay",
    "réessay",
    "reinten",
    "riprov",
];

/// What may stand right before a time: "in 5 minutes".
const BEFORE: &[&str] = &[
    "in", "after", "for", "wait", "least", "about", "another", "within", "last", "every", "next", "past", "dans", "apres",
    "après", "en", "nach", "tra", "fra",
];

/// What may stand right before a number that has no unit: seconds.
const BEFORE_SECONDS: &[(&str, &str)] =
    &[("retry", "after"), ("again", "in"), ("again", "after"), ("back", "in"), ("retry", "in")];

/// Units, and how many seconds one is.
const UNITS: &[(u64, &[&str])] = &[
    (
        1,
        &[
            "s", "sec", "secs", "second", "seconds", "sekunde", "sekunden", "seconde", "secondes", "segundo", "segundos",
            "secondi",
        ],
    ),
    (60, &["m", "min", "mins", "minute", "minutes", "minuten", "minuto", "minutos", "minuti"]),
    (3600, &["h", "hr", "hrs", "hour", "hours", "stunde", "stunden", "heure", "heures", "hora", "horas", "ora", "ore"]),
    (86_400, &["day", "days"]),
];

/// Numbers in words.
const NUMBERS: &[(u64, &[&str])] = &[
    (1, &["a", "an", "one", "einer", "une", "una"]),
    (2, &["two"]),
    (5, &["five"]),
    (10, &["ten"]),
    (15, &["fifteen"]),
    (30, &["thirty"]),
];

/// Texts that name no time, but mean one; the first that occurs counts.
const KNOWN: &[(&str, u64)] = &[
    // Cisco ESA: "Too many recipients received this hour", and others that count by the hour.
    ("this hour", 3600),
    ("per hour", 3600),
    ("hourly", 3600),
    // greylistd, beside Exim: "is not yet authorized to deliver mail from"; 10 minutes by default.
    ("is not yet authorized to deliver mail from", 600),
    // Yahoo's greylisting.
    ("[gl01]", 300),
    // postgrey, sqlgrey, milter-greylist, rspamd, policyd and their kin: 5 minutes or less by default.
    ("greylist", 300),
    ("graylist", 300),
    ("grey list", 300),
    ("grey-list", 300),
    ("gray list", 300),
    ("gray-list", 300),
];

/// The same for texts that could mean anything if they weren't all that is said, of policy (4.7.1).
const KNOWN_WHOLE: &[(&str, u64)] = &[
    // rspamd's greylisting.
    ("try again later", 300),
    // Plesk's.
    ("service unavailable - try again later", 300),
];

/// A piece of a reply's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Number(u64),
    /// A time like `00:04:59`; seconds.
    Clock(u64),
}

/// How long to wait before the next attempt, if a transient reply says so.
pub(super) fn wait(reply: &Reply) -> Option<Duration> {
    if !reply.is_transient() {
        return None;
    }
    let text = reply.text.to_lowercase();
    let tokens = tokens(&text);
    let said = if ABOUT.iter().any(|about| text.contains(about)) { said(&tokens) } else { None };
    let policy = reply.enhanced == Some(EnhancedCode(4, 7, 1));
    let whole = KNOWN_WHOLE.iter().filter(|(known, _)| policy && text.trim_end_matches('.') == *known);
    let known = || KNOWN.iter().filter(|(known, _)| text.contains(known)).chain(whole).next().map(|(_, seconds)| *seconds);
    said.or_else(known).map(Duration::from_secs).filter(|wait| !wait.is_zero() && *wait <= HINT_MAX)
}

/// The first time that stands where a hint stands; seconds.
fn said(tokens: &[Token<'_>]) -> Option<u64> {
    (0..tokens.len()).find_map(|at| {
        let before = |back: usize| match at.checked_sub(back).and_then(|at| tokens.get(at)) {
            Some(Token::Word(word)) => *word,
            _ => "",
        };
        if BEFORE.contains(&before(1)) {
            if let Token::Clock(seconds) = tokens[at] {
                return Some(seconds);
            }
            if let Some(seconds) = with_units(&tokens[at..]) {
                return Some(seconds);
            }
        }
        match (tokens[at], tokens.get(at + 1)) {
            (Token::Number(seconds), None | Some(Token::Word(_))) => {
                BEFORE_SECONDS.contains(&(before(2), before(1))).then_some(seconds)
            }
            _ => None,
        }
    })
}

/// `5 minutes`, `1 hour 30 minutes`, `an hour`; seconds.
fn with_units(mut tokens: &[Token<'_>]) -> Option<u64> {
    let mut sum = None;
    while let [number, Token::Word(unit), rest @ ..] = tokens {
        let number = match number {
            Token::Number(number) => Some(*number),
            Token::Word(word) => value(NUMBERS, word),
            Token::Clock(_) => None,
        };
        let Some(seconds) = number.zip(value(UNITS, unit)).map(|(number, unit)| number.saturating_mul(unit)) else { break };
        sum = Some(sum.unwrap_or(0_u64).saturating_add(seconds));
        tokens = rest;
    }
    sum
}

fn value(table: &[(u64, &[&str])], word: &str) -> Option<u64> {
    table.iter().find(|(_, names)| names.contains(&word)).map(|(value, _)| *value)
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    // Points and colons hold versions, addresses, codes and times together, which aren't numbers.
    for piece in text.split(|c: char| !(c.is_alphanumeric() || matches!(c, ':' | '.'))) {
        let piece = piece.trim_matches([':', '.']);
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        match number.parse() {
            _ if piece.is_empty() => {}
            Ok(number) if rest.is_empty() => tokens.push(Token::Number(number)),
            // `300s`
            Ok(number) if rest.chars().all(char::is_alphabetic) => tokens.extend([Token::Number(number), Token::Word(rest)]),
            _ => tokens.push(clock(piece).map_or(Token::Word(piece), Token::Clock)),
        }
    }
    tokens
}

/// Hours, minutes and seconds.
fn clock(text: &str) -> Option<u64> {
    let mut fields = text.split(':').map(|field| field.parse::<u64>().ok().filter(|_| field.len() == 2));
    let mut field = || fields.next().flatten();
    let (hours, minutes, seconds) = (field()?, field()?, field()?);
    fields.next().is_none().then_some(hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reply::Parser;
    use super::*;

    /// The hint in a reply as it comes over the wire.
    fn hint(lines: &str) -> Option<u64> {
        let wire = format!("{}\r\n", lines.replace('\n', "\r\n"));
        let reply = Parser::default().next(&mut wire.as_bytes()).unwrap_or_else(|| panic!("no reply: {lines}")).unwrap();
        wait(&reply).map(|wait| wait.as_secs())
    }

    /// Replies as servers give them.
    const REPLIES: &[(&str, Option<u64>)] = &[
        // postgrey, with the text of its first versions, and with that of later ones
        (
            "450 4.2.0 <joe@example.org>: Recipient address rejected: Greylisted for 300 seconds (see http://isg.ee.ethz.ch/tools/postgrey/help/example.org.html)",
            Some(300),
        ),
        (
            "450 4.2.0 <joe@example.org>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/example.org.html",
            Some(300),
        ),
        ("450 4.2.0 <joe@example.org>: Recipient address rejected: Greylisted for 42 sec.", Some(42)),
        (
            "450 4.2.0 <joe@example.org>: Recipient address rejected: Greylisted, see http://example.org/greylisted or wait 300 seconds",
            Some(300),
        ),
        // sqlgrey
        ("450 4.7.1 <joe@example.org>: Recipient address rejected: Greylisted for 5 minutes", Some(300)),
        // milter-greylist
        ("451 4.7.1 Greylisting in action, please come back in 00:04:59", Some(299)),
        ("451 4.7.1 Greylisting in action, please come back in 01:00:00", Some(3600)),
        ("451 4.7.1 Greylisting in action, please come back later", Some(300)),
        // greylistd beside Exim
        (
            "451 192.0.2.7 is not yet authorized to deliver mail from <ann@example.test> to <joe@example.org>. Please try later.",
            Some(600),
        ),
        // rspamd
        ("451 4.7.1 Try again later", Some(300)),
        ("451 4.3.0 Try again later", None),
        ("451 4.7.1 Try again later, or not", None),
        // Plesk
        ("451 4.7.1 Service unavailable - try again later", Some(300)),
        // Mimecast
        ("451 Internal resource temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451", None),
        // policyd, cluebringer
        ("450 4.7.1 <joe@example.org>: Recipient address rejected: Greylisting in effect, please come back later", Some(300)),
        ("450 4.7.1 <joe@example.org>: Recipient address rejected: Policy Rejection- Please try again in 4 minutes.", Some(240)),
        // Stalwart
        ("452 4.2.2 Greylisted, please try again in a few moments.", Some(300)),
        // Cisco ESA
        ("452 Too many recipients received this hour", Some(3600)),
        ("452 #4.5.3 Too many messages this hour, try again later.", Some(3600)),
        // Yahoo
        (
            "451 4.7.1 [GL01] Message from (192.0.2.7) temporarily deferred - 4.16.50. Please refer to https://postmaster.yahooinc.com/error-codes",
            Some(300),
        ),
        (
            "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
            None,
        ),
        // Gmail
        (
            "450-4.2.1 The user you are trying to contact is receiving mail at a rate that\n450-4.2.1 prevents additional messages from being delivered. Please resend your\n450-4.2.1 message at a later time. If the user is able to receive mail at that\n450-4.2.1 time, your message will be delivered. For more information, please\n450-4.2.1 visit\n450 4.2.1  https://support.google.com/mail/?p=ReceivingRate d9443c01a7336-20d0ef5d5e1si12345678.1 - gsmtp",
            None,
        ),
        (
            "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from\n421-4.7.28 your IP address 192.0.2.7. To protect our users from spam, mail\n421 4.7.28 sent from your IP address has been temporarily rate limited.",
            None,
        ),
        // Outlook.com, Exchange Online
        (
            "451 4.7.500 Server busy. Please try again later from [192.0.2.7]. (S77719) [AM4PEPF00025F9A.EURPRD83.prod.outlook.com 2026-11-22T12:00:00.000Z 08DE]",
            None,
        ),
        (
            "451 4.7.650 The mail server [192.0.2.7] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://aka.ms/postmaster (S775)",
            None,
        ),
        // Postfix
        ("452 4.3.1 Insufficient system storage", None),
        ("450 4.7.1 Error: too much mail from 192.0.2.7", None),
        ("421 4.7.0 mail.example.org Error: too many connections from 192.0.2.7", None),
        ("450 4.4.2 mail.example.org Error: timeout exceeded after 300 seconds", None),
        // Exim
        ("451 Temporary local problem - please try later", None),
        ("421 mail.example.org: Too many concurrent SMTP connections; please try again later.", None),
        // OpenBSD spamd
        ("451 Temporary failure, please try again later.", None),
        // Various
        ("421 Too many connections, retry after 30 sec", Some(30)),
        ("450 4.7.1 Please try again in 15 mins", Some(900)),
        ("451 4.3.0 Temporary lookup failure. Retry-After: 120", Some(120)),
        ("451 4.7.1 Please try again in 1 hour 30 minutes", Some(5400)),
        ("451 You have been greylisted, please wait at least 60s before reconnecting", Some(60)),
        ("451 4.7.1 Sending rate too high: 100 messages in the last 10 minutes, try again later", Some(600)),
        ("450 4.7.0 You may send 200 messages per hour, please retry later", Some(3600)),
        ("450 Please wait an hour and try again", Some(3600)),
        ("450 4.7.1 Bitte versuchen Sie es in 5 Minuten erneut", Some(300)),
        ("450 4.7.1 Veuillez réessayer dans 10 minutes", Some(600)),
        ("450 4.7.1 Inténtelo de nuevo en 5 minutos (try again)", Some(300)),
        ("451 4.4.7 Message delayed, it will be retried for 5 days", None),
        ("452 4.2.2 Mailbox full: 300 MB in 5000 messages; try again once there is room", None),
        ("450 4.7.1 try again in 0 seconds", None),
        ("450 4.7.1 try again in 99999999999999999999 seconds", None),
        // What is permanent isn't tried again.
        ("550 5.7.1 Greylisted for 300 seconds", None),
        ("250 2.0.0 Ok: try again in 300 seconds", None),
    ];

    #[test]
    fn what_servers_say_gives_the_wait_they_mean() {
        let wrong: Vec<_> = REPLIES.iter().filter(|(reply, expected)| hint(reply) != *expected).collect();
        assert!(wrong.is_empty(), "{:#?}", wrong.iter().map(|(reply, _)| (reply, hint(reply))).collect::<Vec<_>>());
    }

    #[test]
    fn the_issues_own_example() {
        assert_eq!(hint("450 try again in 300 seconds"), Some(300));
    }

    proptest! {
        #[test]
        fn a_time_in_any_unit_is_understood(number in 1u64..=600, unit in prop::sample::select(UNITS)) {
            for name in unit.1 {
                let said = hint(&format!("450 4.7.1 Please try again in {number} {name}"));
                prop_assert_eq!(said, Some(number * unit.0).filter(|seconds| *seconds <= HINT_MAX.as_secs()));
            }
        }

        #[test]
        fn no_text_does_harm(text in "\\PC{0,80}", number in any::<u64>()) {
            let _ = wait(&Reply::plain(450, format!("{text} try again in {number} days {text} {number} hours 1 day")));
        }
    }
}
