//! Sessions joined by hand with what a server says, time included.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mail::{Address, BodyType, Cause, Diagnosis, Domain, EnhancedCode, Outcome, Passed, ReversePath};

const SECOND: Duration = Duration::from_secs(1);
const EHLO: &str = "250-peer.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";

fn settings(lmtp: bool) -> Settings {
    Settings {
        hello: Domain::parse("us.test").unwrap(),
        lmtp,
        starttls: StartTls::Never,
        timeouts: Timeouts::of(SECOND * 10),
        mark: None,
        login: None,
    }
}

fn to(count: usize) -> Transaction {
    Transaction {
        reverse_path: ReversePath::Address(Address::parse("ann@us.test").unwrap()),
        recipients: (0..count).map(|n| Address::parse(&format!("r{n}@peer.test")).unwrap().into()).collect(),
        size: 100,
        body: BodyType::EightBitMime,
        request: None,
    }
}

/// A session at `Ready`, past a greeting and this reply to EHLO.
fn ready(ehlo: &str) -> Session {
    let mut session = Session::new(Duration::ZERO, settings(false));
    say(&mut session, "220 peer.test\r\n");
    assert_eq!(sent(&mut session), "EHLO us.test\r\n");
    say(&mut session, ehlo);
    assert!(matches!(session.next(), Step::Ready), "{session:?}");
    assert_eq!(session.deadline(), None);
    session
}

fn say(session: &mut Session, text: &str) {
    session.receive(Duration::ZERO, text.as_bytes());
}

/// Everything that the session has to send now.
fn sent(session: &mut Session) -> String {
    let mut bytes = Vec::new();
    while session.has_output() {
        let Step::Send(more) = session.next() else { panic!("output, but nothing to send") };
        bytes.extend(more);
    }
    String::from_utf8(bytes).unwrap()
}

/// One word an outcome: class, code, cause.
fn finished(session: &mut Session) -> Vec<String> {
    let Step::Finished(outcomes) = session.next() else { panic!("not finished: {session:?}") };
    let short = |word: &str, d: &Diagnosis| format!("{word} {} {:?}", d.status, d.cause);
    let outcomes = outcomes.iter().map(|outcome| match outcome {
        Outcome::Delivered(d) => short("delivered", d),
        Outcome::Deferred(d) => short("deferred", d),
        Outcome::Failed(d) => short("failed", d),
        Outcome::InDoubt(d) => short("in doubt", d),
    });
    outcomes.collect()
}

fn content(session: &mut Session, text: &str) -> String {
    assert!(matches!(session.next(), Step::NeedContent), "{session:?}");
    session.content(Duration::ZERO, text.as_bytes());
    session.content_end(Duration::ZERO);
    sent(session)
}

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
fn hello_falls_back_and_refusals_name_the_next_host() {
    let mut session = Session::new(Duration::ZERO, settings(false));
    say(&mut session, "220-peer\r\n220 hello\r\n");
    sent(&mut session);
    say(&mut session, "502 What?\r\n");
    assert_eq!(sent(&mut session), "HELO us.test\r\n");
    say(&mut session, "250 peer\r\n");
    assert!(matches!(session.next(), Step::Ready));
    assert_eq!(session.extensions(), Extensions::default());

    for (replies, status) in [
        (&["554 5.7.1 Not you\r\n"][..], EnhancedCode(5, 7, 1)),
        (&["421 Busy\r\n"], EnhancedCode(4, 0, 0)),
        (&["220 x\r\n", "450 Busy\r\n"], EnhancedCode(4, 0, 0)),
        (&["220 x\r\n", "500 a\r\n", "550 b\r\n"], EnhancedCode(5, 0, 0)),
        (&["garbage\r\n"], EnhancedCode(4, 5, 0)),
    ] {
        let mut session = Session::new(Duration::ZERO, settings(false));
        for reply in replies {
            sent(&mut session);
            say(&mut session, reply);
        }
        sent(&mut session);
        let Step::Refused(diagnosis) = session.next() else { panic!("{replies:?}") };
        assert_eq!((diagnosis.status, diagnosis.cause), (status, Cause::Remote), "{replies:?}");
        assert!(matches!(session.next(), Step::Closed));
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
fn lost_connections_defer_before_the_dot_and_leave_doubt_behind_it() {
    let stages =
        ["", "250 Ok\r\n", "250 Ok\r\n250 a\r\n", "250 Ok\r\n250 a\r\n550 b\r\n", "250 Ok\r\n250 a\r\n550 b\r\n354 Go\r\n"];
    for (at, replies) in stages.into_iter().enumerate() {
        let mut session = ready(EHLO);
        session.begin(Duration::ZERO, to(2));
        sent(&mut session);
        say(&mut session, replies);
        session.closed(SECOND, "reset");
        let second = if at < 3 { "deferred 4.4.2 Connection" } else { "failed 5.0.0 Remote" };
        assert_eq!(finished(&mut session), ["deferred 4.4.2 Connection", second], "{replies}");
        assert!(session.is_unanswered(0));
        assert_eq!(session.is_unanswered(1), at < 3);
        assert_eq!(session.is_heard(), at > 0);
        assert!(matches!(session.next(), Step::Closed));
    }
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(2));
    sent(&mut session);
    say(&mut session, stages[4]);
    content(&mut session, "a\r\n");
    session.closed(SECOND, "reset");
    assert_eq!(finished(&mut session), ["in doubt 4.4.2 Connection", "failed 5.0.0 Remote"]);
    assert!(!session.is_unanswered(0));
}

#[test]
fn a_dot_that_never_went_out_leaves_no_doubt() {
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n250 a\r\n354 Go\r\n");
    session.content(Duration::ZERO, b"a\r\n");
    session.content_end(Duration::ZERO);
    session.closed(SECOND, "reset");
    assert_eq!(finished(&mut session), ["deferred 4.4.2 Connection"]);
    assert!(session.is_unanswered(0));
}

#[test]
fn each_stage_has_its_own_time() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let mut settings = settings(false);
    settings.timeouts = Timeouts::of(minutes(5));
    let rfc = |greeting, mail, recipient, data, block, end| Timeouts {
        greeting,
        mail,
        recipient,
        data,
        block,
        end,
        reply: minutes(5),
        transaction: minutes(120),
    };
    assert_eq!(settings.timeouts, rfc(minutes(5), minutes(5), minutes(5), minutes(2), minutes(3), minutes(10)));
    settings.timeouts = rfc(SECOND, SECOND * 2, SECOND * 3, SECOND * 4, SECOND * 5, SECOND * 6);
    let mut session = Session::new(Duration::ZERO, settings);
    let seconds = |session: &Session| session.deadline().unwrap().as_secs();
    let mut waits = vec![seconds(&session)];
    for reply in ["220 Hi", "250 peer.test", "250 Ok", "250 Ok", "354 Go"] {
        say(&mut session, &format!("{reply}\r\n"));
        sent(&mut session);
        if matches!(session.next(), Step::Ready) {
            session.begin(Duration::ZERO, to(1));
            sent(&mut session);
        }
        waits.push(seconds(&session));
    }
    content(&mut session, "a\r\n");
    waits.push(seconds(&session));
    assert_eq!(waits, [1, 300, 2, 3, 4, 5, 6]);
}

#[test]
fn time_outs_count_by_reply_and_double_for_the_final_dot() {
    let mut session = Session::new(SECOND, settings(false));
    assert_eq!(session.deadline(), Some(SECOND * 11));
    session.tick(SECOND * 10);
    assert!(matches!(session.next(), Step::NeedInput));
    session.tick(SECOND * 11);
    let Step::Refused(diagnosis) = session.next() else { panic!() };
    assert_eq!(diagnosis.text, "time-out while waiting for the greeting");

    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    session.receive(SECOND * 5, b"250 Ok\r\n");
    assert_eq!(session.deadline(), Some(SECOND * 15));
    // Half a reply buys no time.
    session.receive(SECOND * 6, b"250-a\r\n25");
    assert_eq!(session.deadline(), Some(SECOND * 15));
    session.receive(SECOND * 7, b"0 a\r\n354 Go\r\n");
    session.content(SECOND * 8, b"a\r\n");
    assert_eq!(session.deadline(), Some(SECOND * 14));
    session.content_end(SECOND * 9);
    assert_eq!(session.deadline(), Some(SECOND * 29));
    sent(&mut session);
    session.tick(SECOND * 29);
    assert_eq!(finished(&mut session), ["in doubt 4.4.2 Connection"]);
}

#[test]
fn closing_replies_defer_at_every_point() {
    let stages = ["", "250 Ok\r\n", "250 Ok\r\n250 a\r\n", "250 Ok\r\n250 a\r\n354 Go\r\n"];
    for replies in stages {
        let mut session = ready(EHLO);
        session.begin(Duration::ZERO, to(1));
        sent(&mut session);
        say(&mut session, replies);
        say(&mut session, "421 4.3.2 Going down\r\n");
        let Step::Finished(outcomes) = session.next() else { panic!("{replies}") };
        let Outcome::Deferred(found) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!((found.status, found.cause, found.turned_away), (EnhancedCode(4, 3, 2), Cause::Remote, true), "{replies}");
        assert!(session.is_unanswered(0));
        assert!(matches!(session.next(), Step::Closed));
    }
    let mut session = ready(EHLO);
    session.begin(Duration::ZERO, to(1));
    say(&mut session, stages[3]);
    sent(&mut session);
    content(&mut session, "a\r\n");
    say(&mut session, "421 4.3.2 Going down\r\n");
    let Step::Finished(outcomes) = session.next() else { panic!("it isn't over") };
    let Outcome::Deferred(found) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((found.status, found.turned_away), (EnhancedCode(4, 3, 2), false));
    assert!(!session.is_unanswered(0), "it was told everything and said no to that");
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

const CHUNKING: &str = "250-peer.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

/// A session whose recipients were answered so, and that has content for BDAT.
fn ready_for_chunks(ehlo: &str, transaction: Transaction, replies: &str) -> Session {
    let mut session = ready(ehlo);
    session.begin(Duration::ZERO, transaction);
    for reply in replies.split_inclusive("\r\n") {
        sent(&mut session);
        say(&mut session, reply);
    }
    session
}

#[test]
fn where_chunking_is_offered_the_content_goes_out_as_it_is() {
    let mut session = ready(CHUNKING);
    session.begin(Duration::ZERO, Transaction { size: 5, ..to(2) });
    assert_eq!(sent(&mut session), "MAIL FROM:<ann@us.test>\r\nRCPT TO:<r0@peer.test>\r\nRCPT TO:<r1@peer.test>\r\n");
    say(&mut session, "250 Ok\r\n250 Ok\r\n");
    assert!(matches!(session.next(), Step::NeedInput), "not before the last recipient's reply");
    say(&mut session, "550 5.1.1 No\r\n");
    assert_eq!(content(&mut session, ".a\r\n."), "BDAT 5 LAST\r\n.a\r\n.");
    assert_eq!(session.deadline(), Some(SECOND * 20));
    say(&mut session, "250 2.0.0 Queued\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "failed 5.1.1 Remote"]);
    // No dot, no RSET: the next one follows at once, an empty one too.
    session.begin(Duration::ZERO, Transaction { size: 0, ..to(1) });
    assert!(sent(&mut session).starts_with("MAIL"));
    say(&mut session, "250 Ok\r\n250 Ok\r\n");
    assert_eq!(content(&mut session, ""), "BDAT 0 LAST\r\n");
    // And one that nobody wants costs no content.
    say(&mut session, "554 5.6.0 Empty\r\n");
    assert_eq!(finished(&mut session), ["failed 5.6.0 Remote"]);
    session.begin(Duration::ZERO, to(1));
    sent(&mut session);
    say(&mut session, "250 Ok\r\n550 No\r\n");
    assert_eq!(finished(&mut session), ["failed 5.0.0 Remote"]);
    assert!(matches!(session.next(), Step::Ready));
}

#[test]
fn chunks_follow_each_other_and_a_refused_one_is_the_last() {
    let piece = vec![b'x'; 1 << 20];
    let begun = || {
        let transaction = Transaction { size: 7 << 19, ..to(1) };
        let mut session = ready_for_chunks(CHUNKING, transaction, "250 Ok\r\n250 Ok\r\n");
        assert!(matches!(session.next(), Step::NeedContent));
        assert_eq!(session.content_wanted(), (0, 1 << 20));
        session.content(SECOND, &piece);
        assert_eq!(sent(&mut session).len(), piece.len() + "BDAT 1048576\r\n".len());
        assert!(matches!(session.next(), Step::NeedInput), "the second chunk waits for what is said to the first");
        session
    };
    let second = || {
        let mut session = begun();
        say(&mut session, "250 1048576 octets received\r\n");
        assert!(matches!(session.next(), Step::NeedContent));
        session.content(SECOND * 2, &piece);
        sent(&mut session);
        assert!(matches!(session.next(), Step::NeedContent), "the third doesn't wait");
        assert_eq!(session.content_wanted(), (2 << 20, 1 << 20));
        session
    };
    let mut session = second();
    session.content(SECOND * 3, &piece);
    assert_eq!(session.content_wanted(), (3 << 20, 1 << 19));
    session.content(SECOND * 4, &piece[..1 << 19]);
    session.content_end(SECOND * 4);
    assert!(sent(&mut session).contains("BDAT 524288 LAST\r\n"));
    say(&mut session, "250 a\r\n250 b\r\n250 2.0.0 Ok\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote"]);
    // Refused between two chunks: nothing more is sent, and the connection serves on.
    for mut session in [begun(), second()] {
        say(&mut session, "552 5.3.4 Too big\r\n");
        assert_eq!(finished(&mut session), ["failed 5.3.4 Remote"]);
        session.begin(Duration::ZERO, to(1));
        assert!(sent(&mut session).starts_with("RSET\r\nMAIL"));
    }
    // Refused with the next one complete on its way, which has a reply too.
    let mut session = second();
    session.content(SECOND, &piece);
    sent(&mut session);
    say(&mut session, "452 4.3.1 No room\r\n");
    assert!(matches!(session.next(), Step::NeedInput));
    say(&mut session, "503 5.5.1 No transaction\r\n");
    assert_eq!(finished(&mut session), ["deferred 4.3.1 Remote"]);
    assert!(matches!(session.next(), Step::Ready));
    // Refused in the middle of the next one: there is no way to say that it ends.
    let mut session = second();
    session.content(SECOND, &piece[..1000]);
    sent(&mut session);
    say(&mut session, "552 5.3.4 Too big\r\n");
    assert_eq!(finished(&mut session), ["failed 5.3.4 Remote"]);
    assert!(matches!(session.next(), Step::Closed));
}

#[test]
fn a_server_that_does_not_know_the_bdat_it_offers_gets_data() {
    let chunk = vec![b'x'; 1 << 20];
    for (size, code) in [(3, 500), (3 << 20, 502)] {
        let mut session = ready_for_chunks(CHUNKING, Transaction { size, ..to(2) }, "250 Ok\r\n250 Ok\r\n550 No\r\n");
        session.content(Duration::ZERO, if size == 3 { b"x\r\n" } else { &chunk });
        sent(&mut session);
        say(&mut session, &format!("{code} 5.5.1 What?\r\n"));
        let again = sent(&mut session);
        assert!(again.starts_with("RSET\r\nMAIL") && again.ends_with("RCPT TO:<r0@peer.test>\r\nDATA\r\n"), "{again}");
        say(&mut session, "250 Ok\r\n250 Ok\r\n250 Ok\r\n354 Go\r\n");
        assert_eq!(session.content_wanted().0, 0, "from the start");
        assert_eq!(content(&mut session, "x\r\n"), "x\r\n.\r\n");
        say(&mut session, "250 Ok\r\n");
        assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote", "failed 5.0.0 Remote"]);
        session.begin(Duration::ZERO, to(1));
        assert!(sent(&mut session).ends_with("DATA\r\n"), "and so does the next message");
    }
    // Binary content has no other way.
    let binary = Transaction { body: BodyType::BinaryMime, size: 1, ..to(1) };
    let mut session = ready_for_chunks("250-x\r\n250-BINARYMIME\r\n250 CHUNKING\r\n", binary, "250 Ok\r\n250 Ok\r\n");
    content(&mut session, "x");
    say(&mut session, "502 5.5.1 What?\r\n");
    assert_eq!(finished(&mut session), ["failed 5.5.1 Remote"]);
}

#[test]
fn a_server_with_chunking_alone_gets_one_chunk() {
    let ehlo = "250-peer.test\r\n250 CHUNKING\r\n";
    let mut session = ready_for_chunks(ehlo, Transaction { size: 2 << 20, ..to(1) }, "250 Ok\r\n250 Ok\r\n");
    let text = "x".repeat(2 << 20);
    assert!(content(&mut session, &text).starts_with("BDAT 2097152 LAST\r\nx"));
    say(&mut session, "250 Ok\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.0.0 Remote"]);
}

#[test]
fn chunks_leave_doubt_only_once_the_last_is_whole() {
    for (given, expected) in [(&b"ab"[..], "deferred 4.4.2 Connection"), (b"abc", "in doubt 4.4.2 Connection")] {
        let mut session = ready_for_chunks(CHUNKING, Transaction { size: 3, ..to(1) }, "250 Ok\r\n250 Ok\r\n");
        session.content(Duration::ZERO, given);
        sent(&mut session);
        session.closed(Duration::ZERO, "reset");
        assert_eq!(finished(&mut session), [expected]);
    }
    // Content of another size than was announced is never taken for whole.
    for given in [&b"ab"[..], b"abcd"] {
        let mut session = ready_for_chunks(CHUNKING, Transaction { size: 3, ..to(1) }, "250 Ok\r\n250 Ok\r\n");
        session.content(Duration::ZERO, given);
        session.content_end(Duration::ZERO);
        assert_eq!(finished(&mut session), ["deferred 4.3.0 Local"]);
        assert!(matches!(session.next(), Step::Closed));
    }
    // A yes to a chunk that isn't whole, or a go-ahead as to DATA, is no reply to it.
    for reply in ["250 Ok\r\n", "354 Go\r\n"] {
        let mut session = ready_for_chunks(CHUNKING, Transaction { size: 3 << 20, ..to(1) }, "250 Ok\r\n250 Ok\r\n");
        session.content(Duration::ZERO, if reply.starts_with('3') { &[b'x'; 1 << 20] } else { b"ab" });
        sent(&mut session);
        say(&mut session, reply);
        assert_eq!(finished(&mut session), ["deferred 4.5.0 Remote"]);
    }
}

#[test]
fn lmtp_with_chunks_has_a_reply_for_each_accepted_recipient() {
    let mut session = Session::new(Duration::ZERO, settings(true));
    say(&mut session, "220 peer\r\n");
    say(&mut session, CHUNKING);
    session.begin(Duration::ZERO, Transaction { size: 1, ..to(3) });
    sent(&mut session);
    say(&mut session, "250 Ok\r\n250 a\r\n550 b\r\n250 c\r\n");
    assert_eq!(content(&mut session, "x"), "BDAT 1 LAST\r\nx");
    say(&mut session, "250 2.1.5 a has it\r\n552 5.2.2 c is full\r\n");
    assert_eq!(finished(&mut session), ["delivered 2.1.5 Remote", "failed 5.0.0 Remote", "failed 5.2.2 Remote"]);
    assert!(matches!(session.next(), Step::Ready));
}

#[test]
fn words_out_of_turn_end_an_idle_session() {
    for word in ["421 4.4.2 Idle\r\n", "250 Ok\r\n", "rubbish\r\n"] {
        let mut session = ready(EHLO);
        say(&mut session, word);
        assert!(matches!(session.next(), Step::Closed), "{word}");
        session.begin(Duration::ZERO, to(1));
        assert_eq!(finished(&mut session), ["deferred 4.4.2 Connection"]);
        assert!(session.is_unanswered(0) && !session.is_heard());
    }
}

/// Runs a whole session against bytes that come in pieces, whatever the session says; all its outcomes.
fn converse(bytes: &[u8], size: usize, lmtp: bool, recipients: usize) -> Vec<Vec<Outcome>> {
    let mut session = Session::new(Duration::ZERO, settings(lmtp));
    let mut pieces = bytes.chunks(size);
    let (mut now, mut begun, mut all) = (Duration::ZERO, 0, Vec::new());
    for _ in 0..100_000 {
        now += Duration::from_millis(1);
        match session.next() {
            Step::Send(bytes) => assert!(!bytes.is_empty()),
            Step::NeedInput => match pieces.next() {
                Some(piece) => session.receive(now, piece),
                None => {
                    now = session.deadline().expect("what waits has a deadline");
                    session.tick(now);
                }
            },
            Step::NeedContent => {
                let (position, room) = session.content_wanted();
                assert_eq!((position, room.min(100)), (0, 100));
                session.content(now, &[b'x'; 100]);
                session.content_end(now);
            }
            Step::StartTls => session.secured(now, false),
            Step::WorkOut(_) => session.worked_out(now, Err("it has none")),
            Step::Ready if begun < 3 => {
                begun += 1;
                session.begin(now, to(recipients));
            }
            Step::Ready => session.quit(now),
            Step::Finished(outcomes) => all.push(outcomes),
            Step::Refused(_) => assert_eq!(begun, 0),
            Step::Closed => {
                assert_eq!(all.len(), begun, "an end for each beginning");
                return all;
            }
        }
    }
    panic!("no end: {session:?}");
}

#[test]
fn byte_by_byte_makes_no_difference() {
    let whole = [
        "220 hi\r\n",
        EHLO,
        "250 Ok\r\n250 a\r\n550-5.1.1 b\r\n550 5.1.1 c\r\n354 Go\r\n",
        "250 2.0.0 done\r\n",
        "250 Ok\r\n450 a\r\n550 b\r\n503 c\r\n",
        "250 reset\r\n250 Ok\r\n250 a\r\n250 b\r\n354 Go\n",
        "554 5.7.1 Spam\n",
        "221 Bye\r\n",
    ]
    .concat();
    let outcomes = converse(whole.as_bytes(), 1, false, 2);
    assert_eq!(outcomes.len(), 3);
    assert!(matches!(outcomes[0][..], [Outcome::Delivered(_), Outcome::Failed(_)]));
    assert!(matches!(outcomes[1][..], [Outcome::Deferred(_), Outcome::Failed(_)]));
    assert!(matches!(outcomes[2][..], [Outcome::Failed(_), Outcome::Failed(_)]));
}

proptest! {
    #[test]
    fn whatever_a_server_says_every_recipient_gets_an_outcome(
        replies in prop::collection::vec(
            prop_oneof![
                4 => "(2[0-5]0|354|4[0-5][0-4]|5[0-5][0-4]|421|452)( [245]\\.[0-9]\\.[0-9])? [a-z]{0,3}\r\n",
                1 => "250-PIPELINING\r\n|250-SIZE 9\r\n|250-x\n|250-CHUNKING\r\n",
                1 => "[ -~\r\n\u{e9}]{0,8}",
            ],
            0..40,
        ),
        friendly in any::<bool>(),
        chunking in any::<bool>(),
        size in 1..200usize,
        lmtp in any::<bool>(),
        recipients in 1..5usize,
    ) {
        let start = match (friendly, chunking) {
            (true, true) => "220 x\r\n250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            (true, false) => "220 x\r\n250-x\r\n250 PIPELINING\r\n",
            (false, _) => "",
        };
        let bytes = [start, &replies.concat()].concat();
        for outcomes in converse(bytes.as_bytes(), size, lmtp, recipients) {
            prop_assert_eq!(outcomes.len(), recipients);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1..100usize, lmtp in any::<bool>()) {
        converse(&bytes, size, lmtp, 2);
    }
}

fn secure(starttls: StartTls) -> Session {
    let mut session = Session::new(Duration::ZERO, Settings { starttls, ..settings(false) });
    say(&mut session, "220 peer.test\r\n");
    assert_eq!(sent(&mut session), "EHLO us.test\r\n");
    session
}

const SECURE_EHLO: &str = "250-peer.test\r\n250-REQUIRETLS\r\n250 STARTTLS\r\n";

fn refused(session: &mut Session) -> String {
    match session.next() {
        Step::Refused(found) => format!("{} {}", found.status, found.text),
        step => panic!("{step:?}"),
    }
}

#[test]
fn with_starttls_everything_is_said_again_and_what_was_said_before_is_forgotten() {
    for (verified, offered) in [(false, false), (true, true)] {
        let mut session = secure(StartTls::IfOffered);
        say(&mut session, "250-peer.test\r\n250-SIZE 10\r\n250-REQUIRETLS\r\n250 STARTTLS\r\n");
        assert_eq!(sent(&mut session), "STARTTLS\r\n");
        say(&mut session, "220 Go\r\n");
        assert!(matches!(session.next(), Step::StartTls));
        session.secured(Duration::ZERO, verified);
        assert_eq!(sent(&mut session), "EHLO us.test\r\n");
        say(&mut session, SECURE_EHLO);
        assert!(matches!(session.next(), Step::Ready));
        let extensions = session.extensions();
        assert_eq!((extensions.size, extensions.require_tls), (false, offered));
    }
}

#[test]
fn what_comes_behind_the_reply_to_starttls_ends_the_session() {
    for injected in ["220 Go\r\n250 peer.test\r\n", "220 Go\r\n2"] {
        let mut session = secure(StartTls::Always);
        say(&mut session, SECURE_EHLO);
        sent(&mut session);
        say(&mut session, injected);
        assert!(refused(&mut session).contains("said more behind its reply to STARTTLS"));
        assert!(matches!(session.next(), Step::Closed));
    }
}

#[test]
fn without_starttls_a_session_goes_on_only_where_it_may() {
    let mut session = secure(StartTls::IfOffered);
    say(&mut session, "250 peer.test\r\n");
    assert!(matches!(session.next(), Step::Ready));
    let mut session = secure(StartTls::Never);
    say(&mut session, SECURE_EHLO);
    assert!(matches!(session.next(), Step::Ready));
    let mut session = secure(StartTls::Always);
    say(&mut session, "250 peer.test\r\n");
    assert_eq!(sent(&mut session), "QUIT\r\n");
    assert_eq!(refused(&mut session), "4.7.4 the server doesn't offer STARTTLS, and TLS is required");
    // A server that only knows HELO is no exception.
    let mut session = secure(StartTls::Always);
    say(&mut session, "502 What\r\n");
    assert_eq!(sent(&mut session), "HELO us.test\r\n");
    say(&mut session, "250 peer.test\r\n");
    assert_eq!(sent(&mut session), "QUIT\r\n");
    assert!(refused(&mut session).starts_with("4.7.4"));
}

#[test]
fn a_server_that_declines_starttls_is_left_where_it_matters() {
    let mut session = secure(StartTls::IfOffered);
    say(&mut session, SECURE_EHLO);
    sent(&mut session);
    say(&mut session, "454 4.7.0 Not now\r\n");
    assert!(matches!(session.next(), Step::Ready));
    assert_eq!(session.declined(), Some("the server answered STARTTLS with 454 4.7.0 Not now"));
    let mut session = secure(StartTls::Always);
    say(&mut session, SECURE_EHLO);
    sent(&mut session);
    say(&mut session, "454 4.7.0 Not now\r\n");
    assert_eq!(sent(&mut session), "QUIT\r\n");
    assert_eq!(refused(&mut session), "4.7.4 the server answered STARTTLS with 454 4.7.0 Not now");
}

#[test]
fn a_handshake_that_fails_is_told() {
    let mut session = secure(StartTls::IfOffered);
    say(&mut session, SECURE_EHLO);
    sent(&mut session);
    say(&mut session, "220 Go\r\n");
    assert!(matches!(session.next(), Step::StartTls));
    session.unsecured(Duration::ZERO, "no");
    assert_eq!(refused(&mut session), "4.7.5 TLS can't be established: no");
    assert!(matches!(session.next(), Step::Closed));
}

/// What is said until a session that logs in is ready, or how it ends; `replies` from the greeting on.
fn logging_in(offer: &str, encrypted: bool, in_clear: bool, replies: &[&str]) -> (Vec<String>, Result<(), String>) {
    let password = std::sync::Arc::new(Password::new("pencil".to_owned()));
    let login = Login {
        name: "user".to_owned(),
        password: std::sync::Arc::clone(&password),
        nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
        in_clear,
    };
    let mut session = Session::new(Duration::ZERO, Settings { login: Some(login), ..settings(false) });
    if encrypted {
        session.encrypted(true);
    }
    say(&mut session, "220 peer.test\r\n");
    sent(&mut session);
    say(&mut session, &format!("250-peer.test\r\n250 {offer}\r\n"));
    let mut lines = vec![sent(&mut session)];
    for reply in replies {
        say(&mut session, &format!("{reply}\r\n"));
        let mut said = sent(&mut session);
        if said.is_empty() && reply.starts_with("334") {
            let Step::WorkOut(work) = session.next() else { panic!("{reply} got no answer") };
            assert_eq!(session.deadline(), None, "that time is ours");
            session.worked_out(Duration::ZERO, password.work_out(&work));
            said = sent(&mut session);
        }
        lines.push(said);
    }
    let end = match session.next() {
        Step::Ready => Ok(()),
        Step::Refused(d) => Err(format!("{} {:?} {}", d.status, d.cause, d.text)),
        step => panic!("{step:?}"),
    };
    (lines.into_iter().map(|line| line.trim_end().replace("\r\n", " ")).collect(), end)
}

#[test]
fn it_logs_in_with_the_best_that_is_offered() {
    let (lines, end) = logging_in("AUTH LOGIN PLAIN X", true, false, &["235 2.7.0 Welcome"]);
    assert_eq!((lines, end), (vec!["AUTH PLAIN AHVzZXIAcGVuY2ls".to_owned(), String::new()], Ok(())));
    let (lines, end) = logging_in("AUTH LOGIN", true, false, &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 Ok"]);
    assert_eq!(lines, ["AUTH LOGIN", "dXNlcg==", "cGVuY2ls", ""]);
    assert_eq!(end, Ok(()));
    let challenge = "334 cj1yT3ByTkdmd0ViZVJXZ2JORWtxTyVodllEcFdVYTJSYVRDQWZ1eEZJbGopaE5sRiRrMCxzPVcyMlphSjBTTlk3c29Fc1VFamI2Z1E9PSxpPTQwOTY=";
    let proved = "334 dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==";
    let (lines, end) = logging_in("AUTH PLAIN SCRAM-SHA-256", true, false, &[challenge, proved, "235 Ok"]);
    assert_eq!(lines[0], "AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8=");
    assert!(lines[1].starts_with("Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8l") && lines[2..] == ["", ""], "{lines:?}");
    assert_eq!(end, Ok(()));
    // A server that lets everybody in, or can't show that it knows the password, isn't believed.
    let (lines, end) = logging_in("AUTH SCRAM-SHA-256", true, false, &["235 Ok"]);
    assert_eq!(lines[1], "QUIT");
    assert!(end.unwrap_err().ends_with("it doesn't show that it knows the password"));
    let (lines, end) = logging_in("AUTH SCRAM-SHA-256", true, false, &[challenge, "334 dj1YWFhY"]);
    assert_eq!(lines[2], "* QUIT");
    assert!(end.unwrap_err().starts_with("4.7.0 Connection"));
}

#[test]
fn a_login_that_fails_is_transient_and_says_so() {
    for (reply, expected) in [
        ("535 5.7.8 Authentication failed", "4.7.8 Connection the server refuses our login as user: "),
        ("534 5.7.9 Too weak", "4.7.8 Connection the server refuses our login as user: "),
        ("454 4.7.0 Try later", "4.7.0 Connection the server refuses our login as user: "),
        ("334 bW9yZQ==", "4.7.0 Connection our login as user comes to nothing: it asks for more"),
        ("421 4.3.2 Going down", "4.3.2 "),
    ] {
        let (_, end) = logging_in("AUTH PLAIN", true, false, &[reply]);
        let told = end.unwrap_err();
        assert!(told.starts_with(expected) && !told.contains("pencil"), "{reply}: {told}");
    }
    for offer in ["8BITMIME", "AUTH CRAM-MD5 GSSAPI"] {
        let (lines, end) = logging_in(offer, true, false, &[]);
        assert_eq!(lines, ["QUIT"]);
        assert!(end.unwrap_err().starts_with("4.7.4 Connection the server offers no login that we know"), "{offer}");
    }
}

#[test]
fn a_password_never_goes_out_in_the_clear_unless_it_stays_on_this_machine() {
    let (lines, end) = logging_in("AUTH PLAIN LOGIN SCRAM-SHA-256", false, false, &[]);
    assert_eq!(lines, ["QUIT"]);
    assert!(end.unwrap_err().contains("isn't encrypted"));
    assert_eq!(logging_in("AUTH PLAIN", false, true, &["235 Ok"]).1, Ok(()));
}
