//! Those who write by way of us: they log in, write as themselves, and aren't guessed at for long.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthouse::config::{AddressPattern, Config, ListenerTls, Sender};
use posthouse::event::Event;
use posthouse::mail::{Address, Service};
use posthouse::system::sim::{ANSWER, HELLO};

use crate::client::Client;
use crate::world::*;

/// `\0ida@example.test\0secret`
const RIGHT: &str = "AUTH PLAIN AGlkYUBleGFtcGxlLnRlc3QAc2VjcmV0";
/// `\0ida@example.test\0wrong`
const WRONG: &str = "AUTH PLAIN AGlkYUBleGFtcGxlLnRlc3QAd3Jvbmc=";
/// `\0eve@example.test\0secret`
const NOBODY: &str = "AUTH PLAIN AGV2ZUBleGFtcGxlLnRlc3QAc2VjcmV0";

/// ida has an account; the listener is for submission, without TLS.
pub(crate) fn setup() -> Setup {
    Setup::new().account("ida@example.test").config(|config| {
        config.auth.require_tls = false;
        config.listeners[0].service = Service::Submission;
        config.listeners[0].tls = ListenerTls::None;
    })
}

/// A client that logged in as ida.
pub(crate) async fn ida(server: &Server) -> Client {
    let mut client = server.client(STRANGER).await;
    assert_eq!(client.command(RIGHT).await.unwrap(), "235 2.7.0 Authentication succeeded");
    client
}

#[test]
fn without_a_login_nothing_is_submitted_not_even_from_a_relay_network() {
    story(async {
        let server = setup().start().await;
        for from in [STRANGER, TRUSTED] {
            let mut client = server.client(from).await;
            let reply = client.command("MAIL FROM:<ida@example.test>").await.unwrap();
            assert_eq!(reply, "530 5.7.0 Authentication required");
            let reply = client.command("RCPT TO:<ann@example.test>").await.unwrap();
            assert!(reply.starts_with("503 5.5.1"), "{reply}");
        }
        server.reload(|config| config.auth.require_tls = true).await.unwrap();
        let reply = server.client(STRANGER).await.command("MAIL FROM:<ida@example.test>").await.unwrap();
        assert_eq!(reply, "530 5.7.0 Must issue a STARTTLS command first");
    });
}

#[test]
fn who_logged_in_writes_to_anybody_and_the_log_says_who_it_was() {
    story(async {
        let server = setup().start().await;
        let far = server.domain("far.test", Default::default()).await;
        let mut client = ida(&server).await;
        let content = b"From: ida@example.test\r\n\r\nhello\r\n";
        let replies = client.transaction("ida@example.test", &["eve@far.test", "ann@example.test"], content).await.unwrap();
        let id = queue_id(&replies);
        server.empty().await;
        let received = String::from_utf8_lossy(&far.taken()[0].content).into_owned();
        assert!(received.contains(" with ESMTPA id ") && !received.contains("STARTTLS"), "{received}");
        let ida = Address::parse("ida@example.test").unwrap();
        let login = server.event("the login", |event| match event {
            Event::Authenticated { login, mechanism, service, .. } => Some((login.clone(), *mechanism, *service)),
            _ => None,
        });
        assert_eq!(login.await, (ida.clone(), "PLAIN", "submission"));
        let accepted = server.event("the message", |event| match event {
            Event::Accepted { id, login, protocol, .. } => Some((*id, login.clone(), *protocol)),
            _ => None,
        });
        assert_eq!(accepted.await, (id, Some(ida), "ESMTPA"));
    });
}

#[test]
fn the_envelopes_sender_belongs_to_the_login() {
    let lend = |config: &mut Config| {
        let address = |text: &str| Address::parse(text).unwrap();
        config.senders = vec![
            Sender {
                login: Some(address("IDA@example.test")),
                addresses: vec![AddressPattern::Exact(address("info@example.test"))],
            },
            Sender { login: None, addresses: vec![AddressPattern::All(address("x@team.test").domain().clone())] },
            Sender {
                login: Some(address("ann@example.test")),
                addresses: vec![AddressPattern::Exact(address("ceo@example.test"))],
            },
        ];
    };
    story(async move {
        let server = setup().user("ida+x@example.test").aliases("ida+list: bob\n").config(lend).start().await;
        let mut client = ida(&server).await;
        for (sender, code) in [
            ("ida@example.test", "250"),
            ("Ida@EXAMPLE.test", "250"),
            ("ida+tag@example.test", "250"),
            ("", "250"),
            ("INFO@example.test", "250"),
            ("anybody@team.test", "250"),
            ("ida+x@example.test", "553 5.7.1"),
            ("ida+list@example.test", "553 5.7.1"),
            ("ann@example.test", "553 5.7.1"),
            ("ceo@example.test", "553 5.7.1"),
            ("ida@far.test", "553 5.7.1"),
            ("idah@example.test", "553 5.7.1"),
            ("anybody@sub.team.test", "553 5.7.1"),
        ] {
            let reply = client.command(&format!("MAIL FROM:<{sender}>")).await.unwrap();
            assert!(reply.starts_with(code), "{sender}: {reply}");
            client.command("RSET").await.unwrap();
        }
    });
}

#[test]
fn guesses_are_answered_ever_more_slowly_and_then_not_at_all() {
    story(async {
        let server = setup().config(|config| config.auth.failures_per_client = 4).start().await;
        let mut waits = Vec::new();
        let mut client = server.client(STRANGER).await;
        for (guess, code) in [(WRONG, "535 5.7.8"), (NOBODY, "535 5.7.8"), (WRONG, "421 4.7.0 Too many failed logins; closing")] {
            let begun = server.now();
            let reply = client.command(guess).await.unwrap();
            assert!(reply.starts_with(code), "{reply}");
            waits.push(server.now().since(begun).as_secs());
        }
        assert_eq!(waits, [1, 2, 4]);
        assert!(server.client(STRANGER).await.command(NOBODY).await.unwrap().starts_with("535 5.7.8"));
        // Now not even the right password is looked at, but others aren't shut out.
        let refused = "421 4.7.0 Too many failed logins from your address; try again later";
        assert_eq!(server.client(STRANGER).await.command(RIGHT).await.unwrap(), refused);
        assert!(server.client(TRUSTED).await.command(RIGHT).await.unwrap().starts_with("235"));
        assert_eq!((server.count("auth-failed"), server.count("limited"), server.count("authenticated")), (5, 1, 1));
        server.pass(Duration::from_secs(15 * 60)).await;
        assert!(server.client(STRANGER).await.command(RIGHT).await.unwrap().starts_with("235"));
    });
}

#[test]
fn an_account_that_is_guessed_at_is_shut_for_strangers_and_open_for_its_owner() {
    story(async {
        let server = setup().config(|config| config.auth.failures_per_account = 2).start().await;
        server.client(TRUSTED).await.command(RIGHT).await.unwrap();
        for guess in [WRONG, NOBODY] {
            let mut client = server.client(STRANGER).await;
            for _ in 0..2 {
                assert!(client.command(guess).await.unwrap().starts_with("535 5.7.8"));
            }
            let reply = client.command(guess).await.unwrap();
            assert_eq!(reply, "454 4.7.0 Too many failed logins to this account; try again later");
        }
        assert!(server.client(STRANGER).await.command(RIGHT).await.unwrap().starts_with("454 4.7.0"));
        assert!(server.client(TRUSTED).await.command(RIGHT).await.unwrap().starts_with("235"));
        // A reload doesn't forgive.
        server.reload(|config| config.limits.hops = 7).await.unwrap();
        assert!(server.client(STRANGER).await.command(RIGHT).await.unwrap().starts_with("454 4.7.0"));
    });
}

#[test]
fn nobody_is_asked_for_a_password_in_the_clear_and_nothing_said_there_outlives_starttls() {
    story(async {
        let setup = setup().config(|config| {
            config.auth.require_tls = true;
            config.listeners[0].tls = ListenerTls::StartTls;
        });
        let server = setup.start().await;
        let mut client = call(&server, STRANGER).await.unwrap();
        let hello = client.hello().await.unwrap();
        assert!(hello.contains("STARTTLS") && !hello.contains("AUTH"), "{hello}");
        assert!(client.command(RIGHT).await.unwrap().starts_with("538 5.7.11"));
        assert!(client.command("STARTTLS").await.unwrap().starts_with("220"));
        client.send(HELLO.as_bytes()).await.unwrap();
        client.octets(ANSWER.len()).await.unwrap();
        assert!(client.command(RIGHT).await.unwrap().starts_with("503"));
        let hello = client.command("EHLO client.test").await.unwrap();
        assert!(hello.contains("AUTH PLAIN LOGIN") && !hello.contains("STARTTLS"), "{hello}");
        assert!(client.command(RIGHT).await.unwrap().starts_with("235"));

        // Where logins are allowed in the clear, one made there is over with STARTTLS.
        server.reload(|config| config.auth.require_tls = false).await.unwrap();
        let mut client = ida(&server).await;
        assert!(client.command("STARTTLS").await.unwrap().starts_with("220"));
        client.send(HELLO.as_bytes()).await.unwrap();
        client.octets(ANSWER.len()).await.unwrap();
        client.command("EHLO client.test").await.unwrap();
        assert_eq!(client.command("MAIL FROM:<ida@example.test>").await.unwrap(), "530 5.7.0 Authentication required");
        assert!(client.command(RIGHT).await.unwrap().starts_with("235"));
    });
}

#[test]
fn at_the_mx_a_login_is_allowed_and_lets_relay() {
    story(async {
        let server = setup().config(|config| config.listeners[0].service = Service::Mx).start().await;
        server.domain("far.test", Default::default()).await;
        server.send("eve@far.test", &["ann@example.test"], "\r\nno login\r\n").await;
        let refused = server.try_send("ida@example.test", &["eve@far.test"], "\r\nno login\r\n").await;
        assert!(refused[1].starts_with("550 5.7.1"), "{refused:?}");
        let mut client = ida(&server).await;
        queue_id(&client.transaction("ida@example.test", &["eve@far.test"], b"\r\nlogin\r\n").await.unwrap());
        server.empty().await;
    });
}

#[test]
fn what_is_missing_in_the_header_is_added_and_bcc_goes_at_submission_only() {
    story(async {
        let server = setup().start().await;
        let content = b"Subject: x\r\nBcc: ann@example.test,\r\n bob@example.test\r\nTo: y\r\n\r\nBcc: stays\r\n";
        let mut client = ida(&server).await;
        let id = queue_id(&client.transaction("ida+x@example.test", &["ann@example.test"], content).await.unwrap());
        server.empty().await;
        let mail = server.mailbox("ann").remove(0);
        let date = server.now().rfc5322();
        let expected = format!(
            "Subject: x\r\nTo: y\r\nDate: {date}\r\nMessage-ID: <{id}@mail.example.test>\r\nFrom: <ida+x@example.test>\r\n\r\nBcc: stays\r\n"
        );
        assert_eq!(String::from_utf8_lossy(below_our_fields(&mail)), expected);

        // Bigger than what is taken at a time, and nothing missing: not an octet changes.
        let line = "The quick brown fox jumps over the lazy dog, again and again and again.\r\n";
        let whole = format!("From: ida@example.test\r\nDate: d\r\nMessage-ID: <m>\r\n\r\n{}", line.repeat(5000));
        queue_id(&client.transaction("", &["bob@example.test"], whole.as_bytes()).await.unwrap());
        server.empty().await;
        assert!(below_our_fields(&server.mailbox("bob")[0]) == whole.as_bytes());

        server.reload(|config| config.listeners[0].service = Service::Mx).await.unwrap();
        for client in [&mut ida(&server).await, &mut server.client(STRANGER).await] {
            queue_id(&client.transaction("ida@example.test", &["sue@example.test"], content).await.unwrap());
        }
        server.empty().await;
        assert!(server.mailbox("sue").iter().all(|mail| below_our_fields(mail) == content));
    });
}

#[test]
fn from_and_sender_belong_to_the_login_too() {
    let long = format!("X: {}\r\nFrom: ann@example.test\r\n", "x\r\n ".repeat(90_000));
    let cases = [
        ("From: Ida <ida@example.test>\r\n", "250"),
        ("From: \"ann@example.test\" <IDA+x@example.test>\r\n", "250"),
        ("From: ida@example.test\r\nSender: ida+tag@example.test\r\n", "250"),
        ("From: info@example.test, Ida <ida@example.test>\r\n", "250"),
        ("Subject: no From\r\n", "250"),
        (
            "From: Ann <ann@example.test>\r\n",
            "553 5.7.1 <ann@example.test>: this From address does not belong to ida@example.test",
        ),
        ("From: ida@example.test, ann@example.test\r\n", "553 5.7.1"),
        ("From: ida@example.test\r\nSender: ann@example.test\r\n", "553 5.7.1"),
        ("From : ann@example.test\r\n", "553 5.7.1"),
        ("fRoM: <@ida:ann@example.test>\r\n", "553 5.7.1"),
        ("From: ida@example.test\r\nFrom: ida@example.test\r\n", "554 5.6.0"),
        ("From: ida@example.test <\r\n", "554 5.6.0"),
        ("From:\r\n", "554 5.6.0"),
        ("From: nobody:;\r\n", "554 5.6.0"),
        (&long, "552 5.3.4"),
    ];
    story(async move {
        let lend = |config: &mut Config| {
            let info = Address::parse("info@example.test").unwrap();
            config.senders = vec![Sender { login: None, addresses: vec![AddressPattern::Exact(info)] }];
        };
        let server = setup().config(lend).start().await;
        for service in [Service::Submission, Service::Mx] {
            server.reload(move |config| config.listeners[0].service = service).await.unwrap();
            let mut client = ida(&server).await;
            for (header, code) in &cases {
                let content = format!("{header}\r\nbody\r\n");
                let replies = client.transaction("ida@example.test", &["ann@example.test"], content.as_bytes()).await.unwrap();
                let reply = replies.last().unwrap();
                assert!(reply.starts_with(code), "{:.99}: {reply}", header);
            }
            // A line that is no field hides no From behind it.
            let content = b"Subject: x\r\nno field\r\nFrom: ann@example.test\r\n\r\nbody\r\n";
            let replies = client.transaction("ida@example.test", &["bob@example.test"], content).await.unwrap();
            let code = if service == Service::Mx { "554 5.6.0" } else { "250" };
            assert!(replies.last().unwrap().starts_with(code), "{replies:?}");
        }
        server.empty().await;
        let mail = server.mails("bob").remove(0);
        assert!(mail.contains("From: <ida@example.test>\r\n\r\nno field\r\nFrom: ann@example.test\r\n\r\nbody"), "{mail}");
    });
}

/// What somebody who isn't logged in is told of the name's password in the middle of a SCRAM exchange: salt and iterations.
async fn scram_terms(server: &Server, name: &str) -> String {
    let mut client = server.client(STRANGER).await;
    let first = STANDARD.encode(format!("n,,n={name},r=x"));
    let reply = client.command(&format!("AUTH SCRAM-SHA-256 {first}")).await.unwrap();
    let challenge = String::from_utf8(STANDARD.decode(reply.strip_prefix("334 ").unwrap()).unwrap()).unwrap();
    challenge.split_once(",s=").unwrap().1.to_owned()
}

#[test]
fn an_account_that_does_not_exist_looks_the_same_after_a_restart_as_one_that_does() {
    story(async {
        let mut server = setup().without_users().start().await;
        let mut terms = Vec::new();
        for _ in 0..2 {
            terms.push((scram_terms(&server, "ida@example.test").await, scram_terms(&server, "eve@example.test").await));
            server = server.restart().await;
        }
        assert_eq!(terms[0], terms[1]);
        assert_ne!(terms[0].0, terms[0].1);
    });
}
