//! Sessions joined by hand with what a server says, time included. Here: what their tests share.

mod anything;
mod chunks;
mod endings;
mod hello;
mod rounds;
mod transactions;

use std::time::Duration;

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
