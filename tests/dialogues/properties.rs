//! Random dialogues: what a session says and accepts depends on the client's octets, never on how they were cut up.

use proptest::prelude::*;

use posthouse::mail::{QueueId, Service};
use posthouse::smtp::extension::Parameters;
use posthouse::smtp::server::Mechanism;

use super::driver::{Driver, Received, settings};

/// Pieces that dialogues are made of; some end a line, some don't.
const PIECES: [&str; 44] = [
    "STARTTLS\r\n",
    "EHLO client.test\r\n",
    "HELO client.test\r\n",
    "MAIL FROM:<ann@sender.test>\r\n",
    "MAIL FROM:<> SIZE=20 BODY=8BITMIME\r\n",
    "MAIL FROM:<ann@sender.test> SIZE=5000\r\n",
    "RCPT TO:<bob@example.test>\r\n",
    "MAIL FROM:<ann@sender.test> BODY=BINARYMIME RET=HDRS\r\n",
    "RCPT TO:<bob@example.test> NOTIFY=NEVER\r\n",
    "BDAT 7\r\n",
    "BDAT 12 LAST\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 250\r\n",
    "BDAT\r\n",
    "RCPT TO:<Postmaster>\r\n",
    "RCPT TO:<nobody@example.test>\r\n",
    "RCPT TO:<x@elsewhere.test>\r\n",
    "DATA\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "HELP\r\n",
    "VRFY ann\r\n",
    "RUBBISH\r\n",
    "QUIT\r\n",
    "AUTH LOGIN\r\n",
    "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    "YW5u\r\n",
    "*\r\n",
    "Subject: x\r\n",
    "\r\n",
    ".\r\n",
    "\r\n.\r\n",
    "..\r\n",
    ".",
    "\r",
    "\n",
    "\n.\n",
    "\r.\r",
    "\0",
    "text",
    "text that goes on for longer than the others do\r\n",
    "text\r\nEHLO client.test\r\nMAIL FROM:<ann@sender.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\ntext\r\n.\r\n",
    "EHLO client.test\r\nMAIL FROM:<ann@sender.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n",
    "\u{fc}",
];

/// What came of a dialogue: replies, messages, whether it was closed.
fn hold(pieces: impl Iterator<Item = Vec<u8>>) -> (String, Vec<Received>, bool) {
    hold_as(Service::Mx, pieces)
}

fn hold_as(service: Service, pieces: impl Iterator<Item = Vec<u8>>) -> (String, Vec<Received>, bool) {
    let mut settings = settings();
    settings.service = service;
    settings.size_max = 200;
    settings.recipients_max = 3;
    settings.errors_max = 8;
    settings.starttls = true;
    settings.mechanisms = vec![Mechanism::Plain, Mechanism::Login];
    settings.auth_in_clear = true;
    settings.parameters = Parameters::ALL;
    let mut driver = Driver::new(settings);
    driver.run();
    pieces.for_each(|piece| driver.receive(&piece));
    (String::from_utf8_lossy(&driver.output).into_owned(), driver.messages, driver.closed)
}

/// A dialogue that mostly gets somewhere.
fn dialogue() -> impl Strategy<Value = Vec<u8>> {
    let pieces = proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..30);
    (any::<bool>(), pieces).prop_map(|(opened, pieces)| {
        let opening = if opened { PIECES[PIECES.len() - 2] } else { "" };
        format!("{opening}{}", pieces.concat()).into_bytes()
    })
}

proptest! {
    #[test]
    fn the_cuts_change_nothing(octets in dialogue(), cuts in proptest::collection::vec(1usize..40, 1..20)) {
        let whole = hold(std::iter::once(octets.clone()));
        let single = hold(octets.iter().map(|octet| vec![*octet]));
        prop_assert_eq!(&whole, &single);
        let mut rest = &octets[..];
        let mut sizes = cuts.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, behind) = rest.split_at((*sizes.next()?).min(rest.len()));
            rest = behind;
            (!piece.is_empty()).then(|| piece.to_vec())
        });
        prop_assert_eq!(&whole, &hold(pieces));
    }

    #[test]
    fn every_reply_but_the_plain_ones_has_an_enhanced_code(octets in dialogue()) {
        let (replies, ..) = hold(std::iter::once(octets));
        for line in replies.lines() {
            let plain = line.starts_with("220 ") || line.starts_with("334 ") || line.starts_with("354 ") || line.starts_with("250-")
                || line == "250 AUTH PLAIN LOGIN" || line == "250 mail.example.test";
            let (code, rest) = line.split_at(3);
            prop_assert!(plain || rest[1..].starts_with(&format!("{}.", &code[..1])), "{}", line);
        }
    }

    #[test]
    fn by_lmtp_every_recipient_of_a_message_has_its_reply(octets in dialogue()) {
        let octets = String::from_utf8(octets).unwrap().replace("EHLO", "LHLO").into_bytes();
        let whole = hold_as(Service::Lmtp, std::iter::once(octets.clone()));
        prop_assert_eq!(&whole, &hold_as(Service::Lmtp, octets.iter().map(|octet| vec![*octet])));
        let (replies, messages, _) = whole;
        for (at, message) in messages.iter().enumerate() {
            let reply = format!("250 2.0.0 Ok: queued as {}", QueueId(at as u64 + 1));
            prop_assert_eq!(replies.lines().filter(|line| *line == reply).count(), message.recipients.len());
        }
    }
}
