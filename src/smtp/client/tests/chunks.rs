//! Content by BDAT.

use super::*;

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
