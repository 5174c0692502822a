//! What is said before the first transaction: greeting, EHLO and its fallback, STARTTLS, login.

use super::*;

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
