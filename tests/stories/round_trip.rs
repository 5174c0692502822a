//! The round trip of a delivery status notification: who hears what, and what the next hop is told.

use super::trip::{Beyond, Case, Expected, Hop, Wish, about};
use super::world::*;

#[test]
fn every_sender_hears_what_he_asked_for_and_nothing_else() {
    for case in Case::all() {
        let (notices, commands) = story(case.play());
        let mut total = 0;
        for wish in Wish::all() {
            let expected = case.expected(&wish);
            let found = about(&notices, &wish);
            assert_eq!(found.len(), expected.len(), "{case:?} {wish:?}");
            for expected in &expected {
                let action = format!("\r\nAction: {}\r\n", expected.action);
                let notice = found.iter().map(|notice| String::from_utf8_lossy(notice)).find(|notice| notice.contains(&action));
                check(&case, expected, &notice.unwrap_or_else(|| panic!("{case:?} {wish:?}: no {expected:?}")));
            }
            total += expected.len();
            if case.hop == Hop::Dsn {
                check_passed(&case, &wish, &commands);
            }
        }
        assert_eq!(notices.len(), total, "{case:?}");
        let asked = |command: &&String| ["ENVID", "RET=", "NOTIFY", "ORCPT"].iter().any(|word| command.contains(word));
        assert!(case.hop == Hop::Dsn || commands.iter().find(asked).is_none(), "{case:?}: {commands:?}");
    }
}

fn check(case: &Case, expected: &Expected, notice: &str) {
    let (utf8, global) = (case.beyond == Beyond::Sender, case.beyond != Beyond::Nothing);
    let recipient = match (case.beyond, utf8) {
        _ if case.hop == Hop::Group => "rfc822; team@example.test\r\nAction: expanded\r\n",
        (Beyond::Recipient, _) => "utf-8;\\x{437}\\x{43E}\\x{44F}@",
        (_, true) => "utf-8; \u{437}\u{43e}\u{44f}@",
        _ => "rfc822; ",
    };
    let original = match case.beyond {
        Beyond::Nothing | Beyond::Content => "rfc822; old+name@old.test",
        Beyond::Recipient => "utf-8;alt\\x{FC}@old.test",
        Beyond::Sender => "utf-8; alt\u{fc}@old.test",
    };
    let kind = match (expected.whole, global) {
        (true, true) => "message/global",
        (true, false) => "message/rfc822",
        (false, true) => "message/global-headers",
        (false, false) => "text/rfc822-headers",
    };
    let status = if utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
    for part in [
        format!("\r\nFinal-Recipient: {recipient}"),
        format!("\r\nOriginal-Recipient: {original}\r\n"),
        format!("\r\nContent-Type: {kind}\r\n"),
        format!("\r\nContent-Type: {status}\r\n"),
    ] {
        assert!(notice.contains(&part), "{case:?} {expected:?}: {part} is not in\n{notice}");
    }
    assert_eq!(notice.contains("secret words"), expected.whole, "{case:?} {expected:?}\n{notice}");
    assert!(notice.split_once("\r\n\r\n").unwrap().0.is_ascii() != utf8, "the header of\n{notice}");
}

/// All of the wish went on to a server that sees to it.
fn check_passed(case: &Case, wish: &Wish, commands: &[String]) {
    let id = format!("ENVID={}", wish.envelope_id());
    let at =
        commands.iter().position(|command| command.contains(&id)).unwrap_or_else(|| panic!("{case:?} {wish:?}: {commands:?}"));
    assert_eq!(wish.ret, commands[at].split(' ').find_map(|word| word.strip_prefix("RET=")), "{case:?} {wish:?}");
    let rcpt = commands[at..].iter().find(|command| command.starts_with("RCPT")).unwrap();
    assert_eq!(wish.notify, rcpt.split(' ').find_map(|word| word.strip_prefix("NOTIFY=")), "{case:?} {wish:?}: {rcpt}");
    assert!(rcpt.contains("ORCPT=rfc822;old+2Bname@old.test") || rcpt.contains("ORCPT=utf-8;alt"), "{rcpt}");
}
