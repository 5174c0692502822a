//! Sessions that end before their time: lost connections, time-outs, closing replies, words out of turn; and whose fault it was.

use super::*;

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
