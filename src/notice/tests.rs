//! Every notice parses back; nothing that strangers wrote changes its shape.

use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::*;
use crate::mail::{
    BodyType, Cause, DsnRequest, EnhancedCode, EnvelopeId, Notify, OriginalRecipient, Recipient, RecipientState, Request,
    ReversePath,
};

const ARRIVED: Timestamp = Timestamp::from_millis(1_795_312_800_000);
const HEADER: &[u8] = b"Received: from client.test ([192.0.2.7])\r\n\tby mail.example.test (Posthouse)\r\n\
    From: Ann <ann@example.test>\r\nTo: Team <team@example.test>\r\nSubject: Lunch on Friday?\r\n\
    Message-ID: <lunch.1@client.test>\r\n";

fn address(text: &str) -> Address {
    Address::parse_utf8(text).unwrap()
}

pub(super) fn context() -> Context {
    Context {
        hostname: Domain::parse("mail.example.test").unwrap(),
        postmaster: address("postmaster@example.test"),
        now: ARRIVED.plus(Duration::from_secs(4 * 3600)),
        seed: 0x0123_4567_89ab_cdef,
        languages: Arc::new(Languages::new("en", []).unwrap()),
    }
}

fn recipient(to: &str, state: RecipientState, code: EnhancedCode, cause: Cause, words: &str) -> Recipient {
    let mut recipient = Recipient::new(address(to), None, ARRIVED);
    let status = &mut recipient.status;
    status.state = state;
    status.attempts = 3;
    status.last_status = Some(code);
    status.last_cause = Some(cause);
    status.last_reply = words.to_owned();
    status.next_hop = "mx.example.org [192.0.2.25]:25".to_owned();
    recipient
}

fn failed(to: &str, words: &str) -> Recipient {
    recipient(to, RecipientState::Bounced, EnhancedCode(5, 1, 1), Cause::Remote, words)
}

fn message(from: &str, recipients: Vec<Recipient>) -> Message {
    Message { size: 1000, recipients, ..Message::sample(0x0123_4567_89ab_cdef, ARRIVED, from, &[]) }
}

fn indexes(message: &Message) -> Vec<u32> {
    (0..u32::try_from(message.recipients.len()).unwrap()).collect()
}

fn bounce_of(message: &Message, header: &[u8]) -> Notice {
    bounce(&context(), message, &indexes(message), header).unwrap()
}

/// Checks what holds for every notice; gives the three parts back, decoded.
fn parts(notice: &Notice) -> [String; 3] {
    let kinds = [("text", "plain"), ("message", "delivery-status"), ("text", "rfc822-headers")];
    let content = &notice.content;
    assert!(content.ends_with(b"\r\n") && content.is_ascii());
    for line in content.split_inclusive(|b| *b == b'\n') {
        assert!(line.ends_with(b"\r\n") && line.len() <= 1000, "{:?}", String::from_utf8_lossy(line));
        assert!(line[..line.len() - 2].iter().all(|b| *b == b'\t' || (b' '..=b'~').contains(b)));
    }
    let parsed = MessageParser::default().parse(content.as_slice()).unwrap();
    let names =
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Language", "MIME-Version", "Content-Type"];
    for name in names {
        let count = parsed.headers_raw().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
        assert_eq!(count, 1, "{name}");
    }
    let known = parsed.headers_raw().all(|(n, _)| names.contains(&n) || ["In-Reply-To", "References"].contains(&n));
    assert!(known, "no other field");
    let kind = parsed.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
    assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
    assert_eq!(parsed.to().unwrap().first().unwrap().address().unwrap(), notice.to.to_string());
    assert_eq!(parsed.from().unwrap().first().unwrap().address(), Some("MAILER-DAEMON@mail.example.test"));
    assert_eq!(parsed.parts.len(), 4, "the whole and three parts");
    std::array::from_fn(|n| {
        let part = &parsed.parts[n + 1];
        let kind = part.content_type().unwrap();
        assert_eq!((kind.ctype(), kind.subtype().unwrap()), kinds[n]);
        match &part.body {
            PartType::Text(text) => text.to_string(),
            PartType::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::from_utf8_lossy(part.contents()).into_owned(),
        }
    })
}

/// The groups of fields of a delivery-status part, unfolded.
fn groups(status: &str) -> Vec<Vec<(String, String)>> {
    let unfolded = status.replace("\r\n ", " ");
    let group = |text: &str| {
        let field = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).unwrap();
        text.lines().map(field).collect()
    };
    unfolded.trim_end().split("\r\n\r\n").map(group).collect()
}

fn value<'a>(group: &'a [(String, String)], name: &str) -> Option<&'a str> {
    group.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[test]
fn a_bounce_says_what_happened_to_people_and_to_machines() {
    let mut bob = failed("bob@example.org", "550 5.1.1 no such user");
    bob.original = Some(address("team@example.test"));
    let message = message("ann@example.test", vec![bob]);
    let notice = bounce_of(&message, HEADER);
    let [text, status, header] = parts(&notice);
    assert!(text.starts_with("Your message could not be delivered to team@example.test. It will not be"), "{text}");
    assert!(text.contains("550 5.1.1 no such user"));
    assert!(text.contains("Check the address"));
    let groups = groups(&status);
    assert_eq!(value(&groups[0], "Reporting-MTA"), Some("dns; mail.example.test"));
    assert_eq!(value(&groups[0], "Arrival-Date"), Some("Sun, 22 Nov 2026 02:00:00 +0000"));
    assert_eq!(value(&groups[1], "Original-Recipient"), Some("rfc822; team@example.test"));
    assert_eq!(value(&groups[1], "Final-Recipient"), Some("rfc822; bob@example.org"));
    assert_eq!(value(&groups[1], "Action"), Some("failed"));
    assert_eq!(value(&groups[1], "Status"), Some("5.1.1"));
    assert_eq!(value(&groups[1], "Remote-MTA"), Some("dns; mx.example.org"));
    assert_eq!(value(&groups[1], "Diagnostic-Code"), Some("smtp; 550 5.1.1 no such user"));
    assert_eq!(value(&groups[1], "Last-Attempt-Date"), Some("Sun, 22 Nov 2026 06:00:00 +0000"));
    assert_eq!(header.as_bytes(), HEADER);
    let parsed = MessageParser::default().parse(notice.content.as_slice()).unwrap();
    assert_eq!(parsed.in_reply_to().as_text(), Some("lunch.1@client.test"));
    assert_eq!(parsed.subject(), Some("Not delivered: Lunch on Friday?"));
}

#[test]
fn a_notice_stands_in_the_thread_of_the_message_that_it_is_about() {
    let message = message("ann@example.test", vec![failed("bob@example.org", "550 no")]);
    let header = [HEADER, b"References: <first@x.test>\r\n <second@x.test>\r\n"].concat();
    let notice = bounce_of(&message, &header);
    parts(&notice);
    let parsed = MessageParser::default().parse(notice.content.as_slice()).unwrap();
    let named = |value: &mail_parser::HeaderValue<'_>| value.as_text_list().unwrap().join(" ");
    assert_eq!(named(parsed.in_reply_to()), "lunch.1@client.test");
    assert_eq!(named(parsed.references()), "first@x.test second@x.test lunch.1@client.test");
}

#[test]
fn no_folding_changes_an_address() {
    let domain = vec!["d".repeat(60); 4].join(".");
    let long = format!("{}@{domain}", "l".repeat(64));
    let spaced = format!("\"{}\"@{domain}", "a  b ".repeat(12));
    for to in [long, spaced] {
        let mut bob = failed(&to, "550 no");
        bob.original = Some(address(&to));
        let [_, status, _] = parts(&bounce_of(&message("ann@example.test", vec![bob]), HEADER));
        // Unfolded as RFC 5322 section 2.2.3 says.
        let unfolded = status.replace("\r\n ", " ");
        for name in ["Original", "Final"] {
            let field = format!("\r\n{name}-Recipient: rfc822; {to}\r\n");
            assert!(unfolded.contains(&field), "{field} is not in\n{unfolded}");
        }
    }
}

#[test]
fn a_delay_says_until_when_it_goes_on() {
    let later = recipient("bob@example.org", RecipientState::Deferred, EnhancedCode(5, 2, 2), Cause::Remote, "452 full");
    let mut fresh = Recipient::new(address("eve@example.org"), None, ARRIVED);
    fresh.status.next_attempt = ARRIVED;
    let message = message("ann@example.test", vec![later, fresh]);
    let expires = ARRIVED.plus(Duration::from_secs(5 * 86400));
    let notice = delay(&context(), &message, &[0, 1], expires, HEADER).unwrap();
    let [text, status, _] = parts(&notice);
    assert!(text.starts_with("Your message could not be delivered to 2 recipients yet."), "{text}");
    let groups = groups(&status);
    assert_eq!(value(&groups[1], "Action"), Some("delayed"));
    assert_eq!(value(&groups[1], "Status"), Some("4.2.2"));
    assert_eq!(value(&groups[1], "Will-Retry-Until"), Some("Fri, 27 Nov 2026 02:00:00 +0000"));
    assert_eq!(value(&groups[2], "Status"), Some("4.0.0"));
    assert_eq!(value(&groups[2], "Diagnostic-Code"), None);
    let from_nobody = Message { reverse_path: ReversePath::Null, ..message };
    assert_eq!(delay(&context(), &from_nobody, &[0], expires, HEADER), None);
}

#[test]
fn expiry_keeps_the_last_words() {
    let gone = recipient("bob@example.org", RecipientState::Bounced, EnhancedCode(5, 4, 7), Cause::Expired, "451 4.3.0 later");
    let message = message("ann@example.test", vec![gone]);
    let [text, status, _] = parts(&bounce_of(&message, HEADER));
    assert!(text.contains("Every attempt in 4 hours failed. The last result at"), "{text}");
    let groups = groups(&status);
    assert_eq!(value(&groups[1], "Status"), Some("5.4.7"));
    assert_eq!(value(&groups[1], "Diagnostic-Code"), Some("smtp; 451 4.3.0 later"));
    assert_eq!(value(&groups[1], "Last-Attempt-Date"), None);
}

#[test]
fn what_the_dns_said_is_no_smtp_diagnostic() {
    let mut bob = recipient("bob@gone.test", RecipientState::Bounced, EnhancedCode(5, 1, 2), Cause::Dns, "no such domain");
    bob.status.next_hop = String::new();
    let message = message("ann@example.test", vec![bob]);
    let [text, status, _] = parts(&bounce_of(&message, HEADER));
    assert!(text.contains("no such domain"));
    assert_eq!(value(&groups(&status)[1], "Diagnostic-Code"), Some("X-Posthouse; no such domain"));
    assert!(!status.contains("Remote-MTA"), "{status}");
}

#[test]
fn what_we_say_about_a_server_is_not_said_to_be_its_answer() {
    let bob = failed("bob@example.org", "the server doesn't offer SMTPUTF8");
    let [text, status, _] = parts(&bounce_of(&message("ann@example.test", vec![bob]), HEADER));
    assert!(text.contains("No delivery came about at mx.example.org [192.0.2.25]:25:") && !text.contains("answered"), "{text}");
    let groups = groups(&status);
    assert_eq!(value(&groups[1], "Remote-MTA"), Some("dns; mx.example.org"));
    assert_eq!(value(&groups[1], "Diagnostic-Code"), Some("X-Posthouse; the server doesn't offer SMTPUTF8"));
}

#[test]
fn a_double_bounce_goes_to_the_postmaster_but_never_in_a_circle() {
    let lost = message("", vec![failed("ann@gone.test", "550 no")]);
    let notice = bounce_of(&lost, HEADER);
    assert_eq!(notice.to, context().postmaster);
    let [text, _, _] = parts(&notice);
    assert!(text.starts_with("A message that has no sender"));
    let mut expanded = failed("bob@example.org", "550 no");
    expanded.original = Some(address("Postmaster@example.test"));
    let circle = message("", vec![failed("POSTMASTER@example.test", "550 no"), expanded]);
    assert_eq!(bounce(&context(), &circle, &[0, 1], HEADER), None);
    assert_eq!(addressee(&lost, &[], &context().postmaster), None);
}

#[test]
fn eight_bit_headers_and_replies_stay_valid() {
    let header = "Subject: Grüße\r\nX-Raw: \u{0}\u{1b}\r\n".as_bytes();
    let message = message("ann@example.test", vec![failed("bob@example.org", "550 Empfänger unbekannt")]);
    let [text, status, original] = parts(&bounce_of(&message, header));
    assert!(text.contains("550 Empfänger unbekannt"));
    assert!(status.contains("550 Empf?nger unbekannt"));
    assert_eq!(original.as_bytes(), header);
    let latin1 = bounce_of(&message, b"Subject: Gr\xfc\xdfe\r\n");
    parts(&latin1);
}

#[test]
fn a_thousand_recipients_fit() {
    let words = "550 ".to_owned() + &"word ".repeat(5000);
    let message = message("ann@example.test", (0..1000).map(|n| failed(&format!("r{n}@example.org"), &words)).collect());
    let notice = bounce_of(&message, HEADER);
    let [text, status, _] = parts(&notice);
    assert!(text.contains("950 more recipients"));
    assert_eq!(groups(&status).len(), 1001);
    assert!(notice.content.len() < 2_000_000, "{}", notice.content.len());
}

#[test]
fn odd_senders_are_written_as_they_must_be() {
    for sender in ["\"a b\"@example.test", "x@[192.0.2.1]", "\"a, b <c>\"@example.test"] {
        let message = message(sender, vec![failed("bob@example.org", "550 no")]);
        let content = String::from_utf8(bounce_of(&message, HEADER).content).unwrap();
        assert!(content.contains(&format!("To: <{sender}>\r\n")), "{content}");
    }
}

fn asks(recipient: Recipient, notify: Notify, orcpt: Option<&str>) -> Recipient {
    let orcpt = orcpt.map(|value| OriginalRecipient::parse(value).unwrap());
    Recipient { dsn: DsnRequest { notify: Some(notify), orcpt }.boxed(), ..recipient }
}

#[test]
fn only_what_the_sender_wants_to_know_is_told() {
    let notify = |success, failure, delay| Notify { success, failure, delay };
    let asked = [notify(true, false, false), notify(false, true, false), notify(false, false, true), Notify::NEVER];
    let mut recipients: Vec<_> = asked.map(|notify| asks(failed("bob@example.org", "550 no"), notify, None)).into();
    recipients.push(failed("eve@example.org", "550 no"));
    let message = message("ann@example.test", recipients);
    for (topic, expected) in [(Topic::Success, &[0][..]), (Topic::Failure, &[1, 4]), (Topic::Delay, &[2, 4])] {
        assert_eq!(wanted(&message, 0..9, topic), expected, "{topic:?}");
    }
}

#[test]
fn the_senders_names_for_things_come_back() {
    let bob = asks(failed("bob@example.org", "550 no"), Notify::NEVER, Some("rfc822;Old+20Name@example.test"));
    let eve = asks(failed("eve@example.org", "550 no"), Notify::NEVER, Some("utf-8;gr\\x{FC}n@example.test"));
    let mut message = message("ann@example.test", vec![bob, eve]);
    message.request = Request { envid: EnvelopeId::new("QQ  31+4"), ..Request::default() }.boxed();
    let [_, status, _] = parts(&bounce_of(&message, HEADER));
    assert!(status.starts_with("Original-Envelope-Id: QQ  31+4\r\nReporting-MTA:"), "{status}");
    let groups = groups(&status);
    assert_eq!(value(&groups[1], "Original-Recipient"), Some("rfc822; Old Name@example.test"));
    assert_eq!(value(&groups[2], "Original-Recipient"), Some("utf-8;gr\\x{FC}n@example.test"));
}

#[test]
fn successes_are_confirmed_as_what_they_are() {
    let mut bob =
        recipient("bob@example.org", RecipientState::Delivered, EnhancedCode(2, 6, 0), Cause::Remote, "250 2.6.0 got it");
    bob.original = Some(address("team@example.test"));
    let message = message("ann@example.test", vec![bob]);
    for (what, action, words) in [
        (Success::Delivered, "delivered", "was delivered to team@example.test"),
        (Success::Relayed, "relayed", "was passed on to a server that confirms no delivery"),
        (Success::Expanded, "expanded", "was passed on to all for whom that stands"),
    ] {
        let notice = success(&context(), &message, &[0], what, HEADER).unwrap();
        let [text, status, header] = parts(&notice);
        assert!(text.replace("\r\n", " ").contains(words), "{text}");
        assert!(text.contains("The server mx.example.org [192.0.2.25]:25 answered:\r\n        250 2.6.0 got it"), "{text}");
        let groups = groups(&status);
        assert_eq!((value(&groups[1], "Action"), value(&groups[1], "Status")), (Some(action), Some("2.6.0")));
        assert_eq!(value(&groups[1], "Diagnostic-Code"), Some("smtp; 250 2.6.0 got it"));
        assert_eq!(header.as_bytes(), HEADER);
        let from_nobody = Message { reverse_path: ReversePath::Null, ..message.clone() };
        assert_eq!(success(&context(), &from_nobody, &[0], what, HEADER), None);
    }
}

#[test]
fn the_whole_message_goes_back_where_it_can_stand_in_a_notice() {
    let message = message("ann@example.test", vec![failed("bob@example.org", "550 no")]);
    let bounce = |content: &[u8]| bounce(&context(), &message, &[0], Returned::Whole(content)).unwrap();
    for (text, body, encoding) in [("hello\r\n.\r\n", BodyType::SevenBit, "7bit"), ("Grüße\r\n", BodyType::EightBitMime, "8bit")]
    {
        let content = [HEADER, b"\r\n", text.as_bytes()].concat();
        let notice = bounce(&content);
        assert_eq!(notice.body, body);
        let raw = String::from_utf8(notice.content.clone()).unwrap();
        let part = format!(
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{}",
            String::from_utf8_lossy(&content)
        );
        assert!(raw.contains(&part), "{raw}");
        let parsed = MessageParser::default().parse(&notice.content).unwrap();
        assert_eq!(parsed.subject(), Some("Not delivered: Lunch on Friday?"));
        let PartType::Message(original) = &parsed.parts[3].body else { panic!("{raw}") };
        assert_eq!(original.body_text(0).unwrap(), text);
        let outer = parsed.root_part().content_transfer_encoding();
        assert_eq!(outer, (body == BodyType::EightBitMime).then_some("8bit"));
        assert!(raw.replace("\r\n", " ").contains("The message follows below"));
    }
    for text in [&b"a\nb\r\n"[..], b"a\0b\r\n", b"no end", &[b'x'; 1000]] {
        parts(&bounce(&[HEADER, b"\r\n", text].concat()));
    }
}

/// Every kind of notice about one recipient, or two.
fn every_kind(message: &Message, recipients: &[u32], header: &[u8]) -> Vec<Notice> {
    let context = context();
    let expires = ARRIVED.plus(Duration::from_secs(5 * 86400));
    let all = [Success::Delivered, Success::Relayed, Success::Expanded];
    let mut notices = vec![bounce(&context, message, recipients, header), delay(&context, message, recipients, expires, header)];
    notices.extend(all.map(|what| success(&context, message, recipients, what, header)));
    notices.extend(all[..2].iter().map(|what| delay_over(&context, message, recipients, *what, header)));
    notices.into_iter().map(Option::unwrap).collect()
}

#[test]
fn every_language_says_everything() {
    let words = "550 5.1.1 no such user";
    let causes = [Cause::Remote, Cause::Connection, Cause::Dns, Cause::Local, Cause::Expired, Cause::Operator];
    let mut recipients: Vec<_> =
        causes.map(|cause| recipient("bob@example.org", RecipientState::Bounced, EnhancedCode(5, 1, 1), cause, words)).into();
    recipients.push(Recipient::new(address("bob@example.org"), Some(address("team@example.test")), ARRIVED));
    let message = message("ann@example.test", recipients);
    for language in ["de", "en", "es", "fr", "ja", "pt"] {
        for subject in ["", "Subject: Lunch on Friday?\r\n"] {
            let header = format!("Content-Language: {language}\r\n{subject}");
            let all: Vec<u32> = (0..7).collect();
            for notice in
                all.iter().map(|n| vec![*n]).chain([all.clone()]).flat_map(|n| every_kind(&message, &n, header.as_bytes()))
            {
                let [text, _, _] = parts(&notice);
                let parsed = MessageParser::default().parse(&notice.content).unwrap();
                assert_eq!(parsed.header_raw("Content-Language").unwrap().trim(), language);
                let title = parsed.subject().unwrap();
                assert!(title.contains("Lunch on Friday?") != subject.is_empty(), "{title}");
                assert!(!text.contains(['{', '}']) && !title.contains(['{', '}', '\n']), "{title}\n{text}");
                assert!(language == "en" || !text.contains("Your message"), "{text}");
                assert!(text.contains("postmaster@example.test") && text.contains("mail.example.test"), "{text}");
            }
        }
    }
}

/// In words that a person would write; the files are for those who speak the language to read.
#[test]
fn bounces_and_delays_read_as_the_golden_files_say_in_each_language() {
    let full = recipient("bob@example.org", RecipientState::Bounced, EnhancedCode(5, 2, 2), Cause::Remote, "552 5.2.2 full");
    let late =
        recipient("eve@example.org", RecipientState::Deferred, EnhancedCode(4, 4, 7), Cause::Expired, "connection refused");
    let message = message("ann@example.test", vec![full, late]);
    for (language, golden) in [
        ("de", include_str!("../../tests/golden/notice/texts.de.txt")),
        ("es", include_str!("../../tests/golden/notice/texts.es.txt")),
        ("fr", include_str!("../../tests/golden/notice/texts.fr.txt")),
        ("ja", include_str!("../../tests/golden/notice/texts.ja.txt")),
        ("pt", include_str!("../../tests/golden/notice/texts.pt.txt")),
    ] {
        let header = format!("Subject: Lunch\r\nContent-Language: {language}\r\n");
        let written =
            every_kind(&message, &[0], header.as_bytes()).into_iter().chain(every_kind(&message, &[0, 1], header.as_bytes()));
        let text: String = written
            .take(9)
            .map(|notice| {
                let title = MessageParser::default().parse(&notice.content).unwrap().subject().unwrap().to_owned();
                format!("=== {title}\n\n{}\n", parts(&notice)[0].replace("\r\n", "\n"))
            })
            .collect();
        check_golden(&format!("texts.{language}.txt"), golden.as_bytes(), text.as_bytes());
    }
}

#[test]
fn a_double_bounce_is_in_our_own_language() {
    let lost = message("", vec![failed("ann@gone.test", "550 no")]);
    let notice = bounce_of(&lost, b"Content-Language: de\r\n");
    assert!(parts(&notice)[0].starts_with("A message that has no sender"));
}

#[test]
fn the_longest_reply_stands_in_full_where_there_is_one() {
    let lines: Vec<String> = (0..100).map(|n| format!("550-5.7.1 line {n} {}", "x y ".repeat(150))).collect();
    // As `Reply` writes it.
    let words = lines.join(" ");
    let [text, status, _] = parts(&bounce_of(&message("ann@example.test", vec![failed("bob@example.org", &words)]), HEADER));
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.len() > 60_000 && flat(&text).contains(&flat(&words)));
    assert!(flat(&status).contains(&flat(&words)));
}

/// A message that needed SMTPUTF8, to an address beyond ASCII.
fn international(from: &str) -> Message {
    let mut gruen = failed("grün@example.org", "550 5.1.1 <grün@example.org> kennt hier niemand");
    gruen.original = Some(address("bäume@example.test"));
    Message { request: Request { smtputf8: true, ..Request::default() }.boxed(), ..message(from, vec![gruen]) }
}

const INTERNATIONAL: &[u8] = "From: =?utf-8?q?x?= <ann@example.test>\r\nTo: <grün@example.org>\r\nSubject: Grüße\r\n".as_bytes();

#[test]
fn who_has_an_address_in_ascii_gets_ascii_but_for_what_comes_back() {
    let message = international("ann@example.test");
    let notice = bounce_of(&message, INTERNATIONAL);
    let raw = String::from_utf8(notice.content.clone()).unwrap();
    let (ours, back) = raw.split_once("Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n\r\n").unwrap();
    assert!(ours.is_ascii() && back.as_bytes().starts_with(INTERNATIONAL), "{raw}");
    assert!(notice.request.is_none() && notice.body == BodyType::EightBitMime, "no SMTPUTF8");
    for part in [
        "Content-Type: message/delivery-status\r\n",
        "Original-Recipient: utf-8;b\\x{E4}ume@example.test\r\nFinal-Recipient: utf-8;gr\\x{FC}n@example.org\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 <gr?n@example.org> kennt hier niemand\r\n",
    ] {
        assert!(ours.contains(part), "{part} is not in\n{raw}");
    }
    let parsed = MessageParser::default().parse(&notice.content).unwrap();
    assert!(parsed.body_text(0).unwrap().contains("bäume@example.test"));
    let content = [INTERNATIONAL, "\r\nGrüße\r\n".as_bytes()].concat();
    let notice = bounce(&context(), &message, &[0], Returned::Whole(&content)).unwrap();
    assert!(notice.request.is_none() && notice.body == BodyType::EightBitMime);
    let raw = String::from_utf8(notice.content).unwrap();
    assert!(raw.contains("Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\nFrom:"), "{raw}");
    // A header that can't stand there as it is goes back encoded, as text.
    let raw = String::from_utf8(bounce_of(&message, b"Subject: gr\xc3\xbcn\0\r\n").content).unwrap();
    assert!(raw.contains("Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n"), "{raw}");
}

#[test]
fn who_has_an_address_beyond_ascii_gets_it_as_it_is() {
    let message = international("jörg@example.test");
    let content = [INTERNATIONAL, "\r\nGrüße\r\n".as_bytes()].concat();
    let notice = bounce(&context(), &message, &[0], Returned::Whole(&content)).unwrap();
    assert_eq!(notice.body, BodyType::EightBitMime);
    assert!(notice.request.as_ref().is_some_and(|request| request.smtputf8));
    let raw = String::from_utf8(notice.content.clone()).unwrap();
    for part in [
        "To: <jörg@example.test>\r\n",
        "Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Original-Recipient: utf-8; bäume@example.test\r\nFinal-Recipient: utf-8; grün@example.org\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 <grün@example.org> kennt hier niemand\r\n",
        "Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\nFrom:",
    ] {
        assert!(raw.contains(part), "{part} is not in\n{raw}");
    }
    let asked = Recipient {
        dsn: DsnRequest { orcpt: OriginalRecipient::new("utf-8", "grau@example.test").map(Some).unwrap(), notify: None }.boxed(),
        ..failed("bob@example.org", "550 no")
    };
    let plain = Message { recipients: vec![asked], ..message };
    let notice = bounce_of(&plain, HEADER);
    let raw = String::from_utf8(notice.content).unwrap();
    assert!(raw.contains("message/global-delivery-status\r\nContent-Transfer-Encoding: 7bit"), "{raw}");
    assert!(raw.contains("Original-Recipient: utf-8; grau@example.test\r\nFinal-Recipient: rfc822; bob@example.org"), "{raw}");
}

#[test]
fn the_documented_parts_are_those_that_there_are() {
    let rows: String = phrases::tests::listing()
        .into_iter()
        .map(|(name, words, text)| format!("| `{name}` | {words} | {} |\n", text.replace('|', "\\|")))
        .collect();
    let docs = include_str!("../../docs/notices.md");
    assert!(docs.contains(&rows), "docs/notices.md should have the rows\n{rows}");
}

fn check_golden(name: &str, golden: &[u8], content: &[u8]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/notice").join(name);
        return std::fs::write(path, content).unwrap();
    }
    assert_eq!(String::from_utf8_lossy(content), String::from_utf8_lossy(golden), "UPDATE_GOLDEN=1 if it is meant");
}

#[test]
fn notices_read_as_the_golden_files_say() {
    let mut bob = failed("bob@example.org", "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown");
    bob.original = Some(address("team@example.test"));
    let eve = recipient("eve@gone.test", RecipientState::Bounced, EnhancedCode(5, 1, 2), Cause::Dns, "no such domain: gone.test");
    let eve = Recipient { status: crate::mail::RecipientStatus { next_hop: String::new(), ..eve.status }, ..eve };
    check_golden(
        "bounce.eml",
        include_bytes!("../../tests/golden/notice/bounce.eml"),
        &bounce_of(&message("ann@example.test", vec![bob, eve]), HEADER).content,
    );
    let words = "connection refused";
    let later = recipient("bob@example.org", RecipientState::Deferred, EnhancedCode(4, 4, 1), Cause::Connection, words);
    let late = message("ann@example.test", vec![later]);
    let expires = ARRIVED.plus(Duration::from_secs(5 * 86400));
    check_golden(
        "delay.eml",
        include_bytes!("../../tests/golden/notice/delay.eml"),
        &delay(&context(), &late, &[0], expires, HEADER).unwrap().content,
    );
    let lost = message("", vec![failed("ann@gone.test", "554 5.7.1 no")]);
    check_golden(
        "double_bounce.eml",
        include_bytes!("../../tests/golden/notice/double_bounce.eml"),
        &bounce_of(&lost, HEADER).content,
    );
}

proptest! {
    #[test]
    fn no_reply_and_no_header_changes_the_shape(
        words in "(?s).{0,200}",
        hop in "(?s).{0,60}",
        header in proptest::collection::vec(any::<u8>(), 0..300),
        subject in "(?s).{0,300}",
    ) {
        let mut bob = failed("bob@example.org", &words);
        bob.status.next_hop = hop;
        let message = message("ann@example.test", vec![bob]);
        let mut whole = format!("Subject: {subject}\r\nMessage-ID: <{subject}>\r\n").into_bytes();
        whole.extend_from_slice(&header);
        let notice = bounce_of(&message, &whole);
        let [_, status, _] = parts(&notice);
        prop_assert_eq!(groups(&status).len(), 2);
        prop_assert_eq!(notice, bounce_of(&message, &whole));
    }
}
