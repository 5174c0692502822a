//! Servers that take only so many recipients, domains or transactions at a time.

use super::*;

#[test]
fn too_many_recipients_get_another_round() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(3));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n250 a\r\n452 4.5.3 Too many\r\n552 Too many\r\n354 Go\r\n");
    content(&mut session, "a\r\n");
    say(&mut session, "250 Ok\r\n");
    assert!(sent(&mut session).ends_with("RCPT TO:<r1@peer.test>\r\nRCPT TO:<r2@peer.test>\r\nDATA\r\n"));
    say(&mut session, "250 Ok\r\n250 b\r\n452 4.2.2 Full\r\n354 Go\r\n");
    assert_eq!(content(&mut session, "a\r\n"), "a\r\n.\r\n");
    say(&mut session, "250 Ok\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "delivered 2.0.0 Remote", "deferred 4.2.2 Remote"]);
    // Where none was accepted before, it can't be that there are too many.
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n552 Too many\r\n503 None\r\n");
    assert_eq!(finished(&mut session), ["failed 5.0.0 Remote"]);
}

#[test]
fn a_thousand_recipients_go_out_in_batches() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1000));
    let (mut commands, mut batches) = (0, 0);
    loop {
        let batch = sent(&mut session);
        let count = batch.lines().count();
        assert!(count <= 100, "{count}");
        commands += count;
        batches += 1;
        say(&mut session, &"250 Ok\r\n".repeat(count - usize::from(batch.ends_with("DATA\r\n"))));
        if batch.ends_with("DATA\r\n") {
            break;
        }
    }
    assert_eq!(commands, 1002);
    assert!(batches < 25, "{batches}");
    say(&mut session, "354 Go\r\n");
    content(&mut session, "a\r\n");
    say(&mut session, "250 Ok\r\n");
    assert_eq!(finished(&mut session), vec!["delivered 2.0.0 Remote"; 1000]);
}

const LIMITS: &str = "250-peer.test\r\n250-PIPELINING\r\n250 LIMITS ";

#[test]
fn a_server_that_bounds_recipients_gets_them_in_rounds() {
    let mut session = ready(&format!("{LIMITS}RCPTMAX=2\r\n"));
    session.begin(Duration::ZERO, to(5));
    assert!(sent(&mut session).ends_with("RCPT TO:<r0@peer.test>\r\nRCPT TO:<r1@peer.test>\r\nDATA\r\n"));
    say(&mut session, "250 Ok\r\n250 a\r\n550 b\r\n354 Go\r\n");
    content(&mut session, "x\r\n");
    // What is said about this round's message is said about its recipients.
    say(&mut session, "554 5.7.1 Not for these\r\n");
    assert_eq!(sent(&mut session), "MAIL FROM:<ann@us.test>\r\nRCPT TO:<r2@peer.test>\r\nRCPT TO:<r3@peer.test>\r\nDATA\r\n");
    say(&mut session, "250 Ok\r\n450 a\r\n450 b\r\n503 None\r\n");
    assert_eq!(sent(&mut session), "RSET\r\nMAIL FROM:<ann@us.test>\r\nRCPT TO:<r4@peer.test>\r\nDATA\r\n");
    say(&mut session, "250 Ok\r\n250 Ok\r\n250 a\r\n354 Go\r\n");
    content(&mut session, "x\r\n");
    say(&mut session, "250 Ok\r\n");
    let expected = [
        "failed 5.7.1 Remote",
        "failed 5.0.0 Remote",
        "deferred 4.0.0 Remote",
        "deferred 4.0.0 Remote",
        "delivered 2.0.0 Remote",
    ];
    assert_eq!(finished(&mut session), expected);
    // MAIL refused is said about all.
    session.begin(Duration::ZERO, to(3));
    sent(&mut session);
    say(&mut session, "451 Later\r\n503 a\r\n503 b\r\n503 None\r\n");
    assert_eq!(finished(&mut session), ["deferred 4.0.0 Remote"; 3]);
}

#[test]
fn a_server_that_bounds_domains_gets_those_of_each_in_a_round() {
    let mut session = ready(&format!("{LIMITS}RCPTDOMAINMAX=1\r\n"));
    let recipients = ["a@x.test", "b@y.test", "c@x.test"].map(|text| Address::parse(text).unwrap().into()).into();
    session.begin(Duration::ZERO, Transaction { recipients, ..to(0) });
    assert!(sent(&mut session).ends_with("RCPT TO:<a@x.test>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n"));
    say(&mut session, "250 Ok\r\n250 a\r\n250 b\r\n354 Go\r\n");
    content(&mut session, "x\r\n");
    say(&mut session, "250 Ok\r\n");
    assert!(sent(&mut session).ends_with("RCPT TO:<b@y.test>\r\nDATA\r\n"));
}

#[test]
fn a_server_that_bounds_transactions_gets_no_more_in_a_session() {
    let mut session = ready(&format!("{LIMITS}RCPTMAX=1 MAILMAX=2\r\n"));
    session.begin(Duration::ZERO, to(3));
    for _ in 0..2 {
        sent(&mut session);
        say(&mut session, "250 Ok\r\n250 a\r\n354 Go\r\n");
        content(&mut session, "x\r\n");
        say(&mut session, "250 Ok\r\n");
    }
    assert!(session.is_used_up());
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "delivered 2.0.0 Remote", "deferred 4.5.3 Remote"]);
    assert_eq!([0, 1, 2].map(|at| session.is_unanswered(at)), [false, false, true]);
    assert!(matches!(session.next(), Step::Ready));
}
