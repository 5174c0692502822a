//! Servers that say anything at all, in pieces of any size.

use proptest::prelude::*;

use super::*;

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
