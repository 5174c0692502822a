//! One transaction after the other: commands, replies, what they make of each recipient.

use super::*;

#[test]
fn a_pipelined_transaction_goes_out_at_once_and_mixes_results() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(3));
    assert_eq!(
        sent(&mut session),
        "MAIL FROM:<ann@us.test> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<r0@peer.test>\r\nRCPT TO:<r1@peer.test>\r\n\
         RCPT TO:<r2@peer.test>\r\nDATA\r\n"
    );
    say(&mut session, "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 No such user\r\n450 Greylisted\r\n354 Go\r\n");
    assert_eq!(content(&mut session, ".a\r\nb"), "..a\r\nb\r\n.\r\n");
    say(&mut session, "250 2.0.0 Queued as 7\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "failed 5.1.1 Remote", "deferred 4.0.0 Remote"]);
    // The next one needs no RSET, since the last ended with its dot.
    assert!(matches!(session.next(), Step::Ready));
    session.begin(Duration::ZERO, to(1));
    assert!(sent(&mut session).starts_with("MAIL"));
}

#[test]
fn without_pipelining_every_command_waits_for_its_reply() {
    let mut session = ready("250 peer.test\r\n");
    session.begin(Duration::ZERO, to(2));
    assert_eq!(sent(&mut session), "MAIL FROM:<ann@us.test>\r\n");
    say(&mut session, "250\r\n");
    assert_eq!(sent(&mut session), "RCPT TO:<r0@peer.test>\r\n");
    say(&mut session, "251 Will forward\n");
    assert_eq!(sent(&mut session), "RCPT TO:<r1@peer.test>\r\n");
    say(&mut session, "550 No\r\n");
    assert_eq!(sent(&mut session), "DATA\r\n");
    say(&mut session, "354 Go\r\n");
    assert_eq!(content(&mut session, "a\r\n"), "a\r\n.\r\n");
    say(&mut session, "250 Ok\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "failed 5.0.0 Remote"]);
    session.quit(Duration::ZERO);
    assert_eq!(sent(&mut session), "QUIT\r\n");
    say(&mut session, "221 Bye\r\n");
    assert!(matches!(session.next(), Step::Closed));
}

#[test]
fn with_all_recipients_refused_there_is_no_data_and_then_a_reset() {
    let mut session = ready("250 peer.test\r\n");
    session.begin(Duration::ZERO, to(1));
    say(&mut session, "250 Ok\r\n");
    sent(&mut session);
    say(&mut session, "550 No\r\n");
    assert_eq!(sent(&mut session), "");
    assert_eq!(finished(&mut session), ["failed 5.0.0 Remote"]);
    session.begin(Duration::ZERO, to(1));
    assert_eq!(sent(&mut session), "RSET\r\n");
    say(&mut session, "250 Ok\r\n");
    assert!(sent(&mut session).starts_with("MAIL"));
}

#[test]
fn a_go_ahead_for_nobody_gets_a_dot_alone() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n550 No\r\n354 Go\r\n");
    assert_eq!(sent(&mut session), ".\r\n");
    say(&mut session, "554 No recipients\r\n");
    assert_eq!(finished(&mut session), ["failed 5.0.0 Remote"]);
    assert!(matches!(session.next(), Step::Ready));
    // Had the server accepted a recipient all the same, the dot would be an empty message to somebody.
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    say(&mut session, "450 4.7.1 Later\r\n250 Ok\r\n354 Go\r\n");
    assert_eq!(sent(&mut session), "");
    assert_eq!(finished(&mut session), ["deferred 4.7.1 Remote"]);
    assert!(matches!(session.next(), Step::Closed));
}

#[test]
fn mail_and_data_refused() {
    for (replies, outcome) in [
        ("550 5.7.1 No\r\n503 a\r\n503 b\r\n503 c\r\n", "failed 5.7.1 Remote"),
        ("450 No\r\n503 a\r\n503 b\r\n503 c\r\n", "deferred 4.0.0 Remote"),
        ("250 Ok\r\n250 a\r\n250 b\r\n554 5.6.0 c\r\n", "failed 5.6.0 Remote"),
        ("250 Ok\r\n250 a\r\n250 b\r\n451 c\r\n", "deferred 4.0.0 Remote"),
    ] {
        let mut session = ready(EHLO);
        session.begin(Duration::ZERO, to(2));
        say(&mut session, replies);
        sent(&mut session);
        assert_eq!(finished(&mut session), [outcome; 2], "{replies}");
        assert!(matches!(session.next(), Step::Ready));
    }
}

#[test]
fn a_message_bigger_than_the_server_takes_fails_without_a_word() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, Transaction { size: 1001, ..to(1) });
    assert_eq!(sent(&mut session), "");
    assert_eq!(finished(&mut session), ["failed 5.3.4 Remote"]);
    assert!(matches!(session.next(), Step::Ready));
}

#[test]
fn early_words_during_the_content_count_only_as_no() {
    for (early, outcome) in [
        ("552 5.3.4 Too big\r\n", "failed 5.3.4 Remote"),
        ("250 Ok\r\n", "deferred 4.5.0 Remote"),
        ("x\r\n", "deferred 4.5.0 Remote"),
    ] {
        let mut session = ready(EHLO);
        session.begin(Duration::ZERO, to(1));
        say(&mut session, "250 Ok\r\n250 a\r\n354 Go\r\n");
        sent(&mut session);
        session.content(Duration::ZERO, b"a\r\n");
        say(&mut session, early);
        // The driver may not have noticed yet.
        session.content(Duration::ZERO, b"b\r\n");
        session.content_end(Duration::ZERO);
        assert_eq!(sent(&mut session), "");
        assert_eq!(finished(&mut session), [outcome]);
        assert!(matches!(session.next(), Step::Closed));
    }
}

#[test]
fn a_failed_read_of_our_own_never_ends_with_a_dot() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    say(&mut session, "250 Ok\r\n250 a\r\n354 Go\r\n");
    sent(&mut session);
    session.content(Duration::ZERO, b"a\r\n");
    session.content_failed(Duration::ZERO);
    assert_eq!(sent(&mut session), "");
    assert_eq!(finished(&mut session), ["deferred 4.3.0 Local"]);
    assert!(!session.is_unanswered(0));
    assert!(matches!(session.next(), Step::Closed));
}

#[test]
fn lmtp_has_a_reply_for_each_accepted_recipient() {
    let mut session = Session::new(Duration::ZERO, settings(true));
    say(&mut session, "220 peer\r\n");
    assert_eq!(sent(&mut session), "LHLO us.test\r\n");
    say(&mut session, EHLO);
    session.begin(Duration::ZERO, to(4));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n250 a\r\n550 b\r\n250 c\r\n250 d\r\n354 Go\r\n");
    content(&mut session, "a\r\n");
    say(&mut session, "250 2.1.5 a has it\r\n");
    say(&mut session, "552 5.2.2 c is full\r\n");
    session.closed(Duration::ZERO, "gone");
    let expected = ["delivered 2.1.5 Remote", "failed 5.0.0 Remote", "failed 5.2.2 Remote", "in doubt 4.4.2 Connection"];
    assert_eq!(finished(&mut session), expected);
}

#[test]
fn what_the_server_took_over_is_told_with_the_outcome() {
    for (ehlo, dsn, deliver_by) in [("250-x\r\n250-DSN\r\n250 DELIVERBY\r\n", true, true), ("250 x\r\n", false, false)] {
        let mut session = ready(ehlo);
        session.begin(Duration::ZERO, to(1));
        for reply in ["250 Ok\r\n", "250 Ok\r\n", "354 Go\r\n"] {
            sent(&mut session);
            say(&mut session, reply);
        }
        content(&mut session, "x\r\n");
        say(&mut session, "250 Ok\r\n");
        let Step::Finished(outcomes) = session.next() else { panic!("{session:?}") };
        assert_eq!(outcomes[0].diagnosis().passed, Passed { dsn, deliver_by });
    }
}
