//! Attempts at servers that offer more, or less, than the message needs.

use super::*;
use crate::mail::{DeliverBy, DeliverByMode, DsnRequest, EnvelopeId, Notify, OriginalRecipient, Priority, Rate, Request, Ret};

const SIGNED: &[u8] = "Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\nGrüße\r\n--x--\r\n".as_bytes();

#[test]
fn content_goes_out_in_chunks_where_they_are_offered() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["PIPELINING", "SIZE", "8BITMIME", "CHUNKING"])).await;
        let content = b".\r\n..\r\nx".repeat(400_000);
        for content in [&content[..], b".\r\n", b""] {
            assert_eq!(scene.send(mx(), &["a@peer.test", "b@peer.test"], content).await, ["delivered 2.0.0 mx1"; 2]);
            assert!(peer.taken().last().unwrap().content == content);
        }
        let commands = peer.commands();
        let chunks: Vec<_> = commands.iter().filter(|line| line.starts_with("BDAT")).map(String::as_str).collect();
        assert_eq!(chunks, ["BDAT 1048576", "BDAT 1048576", "BDAT 1048576", "BDAT 54272 LAST", "BDAT 3 LAST", "BDAT 0 LAST"]);
        assert!(!commands.iter().any(|line| line == "DATA"));
        assert_eq!(peer.connections(), 1);
    });
}

#[test]
fn a_chunk_refused_ends_the_message_and_not_the_connection() {
    run(async {
        let scene = scene();
        let script = Script::offering(&["CHUNKING"]).once(Stage::End, Act::say("552 5.3.4 too big"));
        let peer = scene.peer(&mx(), script).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], &b"x\r\n".repeat(1_000_000)).await, ["failed 5.3.4 mx1"]);
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!((peer.connections(), peer.taken().len()), (1, 1));
        scene.routes.hosts.lock().unwrap().clear();
        let peer = scene
            .peer(&mx(), Script::offering(&["PIPELINING", "CHUNKING"]).once(Stage::Chunk, Act::say("451 4.3.0 later")))
            .await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], &b"x\r\n".repeat(1_000_000)).await, ["deferred 4.3.0 mx1"]);
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!((peer.connections(), peer.taken().len()), (1, 1));
        // One that offers what it doesn't know gets the content in the other way.
        for stage in [Stage::End, Stage::Chunk] {
            scene.routes.hosts.lock().unwrap().clear();
            let script = Script::offering(&["PIPELINING", "8BITMIME", "CHUNKING"]).once(stage, Act::say("502 5.5.1 what?"));
            let peer = scene.peer(&mx(), script).await;
            let content = b".\r\nx\r\n".repeat(400_000);
            assert_eq!(scene.send(mx(), &["a@peer.test"], &content).await, ["delivered 2.0.0 mx1"]);
            assert!(peer.taken()[0].content == content);
            assert!(peer.commands().iter().any(|line| line == "DATA"));
        }
    });
}

#[test]
fn content_that_cannot_be_read_is_never_whole_in_chunks_either() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["PIPELINING", "8BITMIME", "CHUNKING"])).await;
        assert_eq!(scene.send_as(1, mx(), &["a@peer.test"], Arc::new(Broken)).await, ["deferred 4.3.0 mx1"]);
        assert!(peer.taken().is_empty());
    });
}

#[test]
fn lmtp_takes_chunks_too() {
    run(async {
        let scene = scene();
        let destination = Destination::Lmtp("127.0.0.1:24".to_owned());
        let mut script = Script::offering(&["PIPELINING", "8BITMIME", "CHUNKING"]);
        script.lmtp = true;
        let script = script.always(Stage::EndFor("b@us.test".to_owned()), Act::say("452 4.2.2 over quota"));
        let peer = scene.peer(&destination, script).await;
        let outcomes = scene.send(destination, &["a@us.test", "b@us.test", "c@us.test"], b".\r\nx\r\n").await;
        assert_eq!(outcomes, ["delivered 2.0.0 mx1", "deferred 4.2.2 mx1", "delivered 2.0.0 mx1"]);
        assert!(peer.taken().iter().all(|taken| taken.content == b".\r\nx\r\n"));
    });
}

#[test]
fn a_server_without_8bitmime_gets_7_bit_content() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["PIPELINING", "SIZE"])).await;
        let content = format!("Subject: x\r\n\r\n{}", "Grüße\r\n".repeat(30_000));
        assert_eq!(scene.send(mx(), &["a@peer.test"], content.as_bytes()).await, ["delivered 2.0.0 mx1"]);
        let taken = peer.taken().remove(0);
        assert!(taken.content.is_ascii());
        assert_eq!(taken.parameters, format!("SIZE={}", taken.content.len()));
        let parsed = mail_parser::MessageParser::default().parse(&taken.content).unwrap();
        assert_eq!(parsed.body_text(0).unwrap(), "Grüße\r\n".repeat(30_000));
        // What is ASCII goes out as it is, whatever its lines and its parts.
        let long = format!("Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\n{}\r\n--x--\r\n", "x".repeat(2000));
        assert_eq!(scene.send(mx(), &["a@peer.test"], long.as_bytes()).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.taken()[1].content, long.as_bytes());
    });
}

#[test]
fn what_cannot_be_converted_fails_before_a_word_is_said() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["PIPELINING"])).await;
        for _ in 0..2 {
            assert_eq!(scene.send(mx(), &["a@peer.test", "b@peer.test"], SIGNED).await, ["failed 5.6.3 mx1"; 2]);
        }
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"\r\nx\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!((peer.connections(), peer.taken().len()), (1, 1));
        scene.routes.hosts.lock().unwrap().clear();
        let peer = scene.peer(&mx(), Script::offering(&["8BITMIME"])).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], SIGNED).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.taken()[0].content, SIGNED);
    });
}

/// A message that asks for this.
fn asking(request: Request, content: &str) -> Attempt {
    Attempt { request: request.boxed(), content: Arc::new(content.as_bytes().to_vec()), ..attempt(1, mx(), &["a@peer.test"]) }
}

fn by(seconds: i32, mode: DeliverByMode) -> Request {
    Request { deliver_by: Some(DeliverBy { seconds, mode, trace: false, told: false }), ..Request::default() }
}

#[test]
fn what_the_sender_asked_for_is_passed_on_where_it_is_offered() {
    run(async {
        let everything = Request {
            smtputf8: true,
            ret: Some(Ret::Full),
            envid: EnvelopeId::new("QQ314159"),
            deliver_by: Some(DeliverBy { seconds: 1000, mode: DeliverByMode::Notify, trace: true, told: false }),
            priority: Priority::new(4),
            ..Request::default()
        };
        let notify = Notify { success: true, failure: false, delay: true };
        let dsn = DsnRequest { notify: Some(notify), orcpt: OriginalRecipient::new("rfc822", "joe@old.test") };
        let mut asked = asking(everything, "\r\nx\r\n");
        asked.recipients[0].1.dsn = Some(Box::new(dsn));
        let scene = scene();
        let extensions = ["SMTPUTF8", "8BITMIME", "DSN", "DELIVERBY", "MT-PRIORITY", "FUTURERELEASE 9 9"];
        let peer = scene.peer(&mx(), Script::offering(&extensions)).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let again = Attempt { recipients: asked.recipients.clone(), request: asked.request.clone(), ..attempt(1, mx(), &[]) };
        assert_eq!(scene.attempt(asked).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(
            peer.commands()[1..3],
            [
                "MAIL FROM:<ann@us.test> SMTPUTF8 RET=FULL ENVID=QQ314159 BY=970;NT MT-PRIORITY=4",
                "RCPT TO:<a@peer.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;joe@old.test"
            ]
        );
        // Nothing of it is a condition: a server without extensions gets the message all the same.
        scene.routes.hosts.lock().unwrap().clear();
        let peer = scene.peer(&mx(), Script::plain()).await;
        assert_eq!(scene.attempt(again).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.commands()[1..3], ["MAIL FROM:<ann@us.test>", "RCPT TO:<a@peer.test>"]);
    });
}

#[test]
fn what_requires_tls_never_goes_out_without_it() {
    run(async {
        let scene = scene();
        let asked = || asking(Request { require_tls: true, ..Request::default() }, "\r\nx\r\n");
        let peer = scene.peer(&mx(), Script::offering(&["REQUIRETLS"])).await;
        let other = scene.peer(&mx(), Script::default()).await;
        // Neither has STARTTLS.
        assert_eq!(scene.attempt(asked()).await, ["failed 5.7.10 mx2"]);
        assert_eq!((peer.taken().len(), other.taken().len(), other.connections()), (0, 0, 1));
        // A host that can't be reached now may be the one that does.
        scene.host(&mx(), Endpoint::Tcp("192.0.2.9:25".parse().unwrap()));
        assert_eq!(scene.attempt(asked()).await, ["deferred 4.4.1 mx3"]);
        let destination = Destination::Lmtp("127.0.0.1:24".to_owned());
        let mailbox = scene.peer(&destination, Script::lmtp()).await;
        assert_eq!(scene.attempt(Attempt { destination, ..asked() }).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(mailbox.taken().len(), 1);
    });
}

#[test]
fn an_lmtp_server_on_another_machine_that_is_not_the_store_has_to_promise_the_same() {
    let elsewhere = || Destination::Lmtp("192.0.2.1:24".to_owned());
    for (request, refused) in [
        (Request { require_tls: true, ..Request::default() }, "failed 5.7.10 mx1"),
        (by(60, DeliverByMode::Return), "failed 5.3.3 mx1"),
    ] {
        run(async {
            let scene = scene();
            let asked = |destination| Attempt { destination, ..asking(request.clone(), "\r\nx\r\n") };
            let peer = scene.peer(&elsewhere(), Script::lmtp()).await;
            assert_eq!(scene.attempt(asked(elsewhere())).await, [refused]);
            assert_eq!(peer.taken().len(), 0);
            // The store is the end of the way, and so is what runs on this machine.
            let store = Destination::Lmtp("127.0.0.1:24".to_owned());
            let mailbox = scene.peer(&store, Script::lmtp()).await;
            assert_eq!(scene.attempt(asked(store)).await, ["delivered 2.0.0 mx1"]);
            let here = Destination::Lmtp("filter:24".to_owned());
            let filter = Peer::start(scene.listener("127.0.0.1:24").await, Script::lmtp());
            scene.host(&here, Endpoint::Tcp(filter.address()));
            assert_eq!(scene.attempt(asked(here)).await, ["delivered 2.0.0 mx1"]);
            assert_eq!((mailbox.taken().len(), filter.taken().len()), (1, 1));
        });
    }
}

#[test]
fn a_host_that_a_rate_keeps_from_being_asked_may_be_the_one_that_takes_it() {
    run(async {
        let scene = scene();
        let _unfit = scene.peer(&mx(), Script::plain()).await;
        let _rude = scene.peer(&mx(), Script::default().always(Stage::Greeting, Act::say("554 5.7.1 not you"))).await;
        let fit = scene.peer(&mx(), Script::offering(&["DELIVERBY 60"])).await;
        let rate = Rate { count: 2, period: Duration::from_secs(60) };
        let outgoing = Outgoing { connections_rate: Some(rate), ..Outgoing::default() };
        let asked = Attempt { outgoing, ..asking(by(60, DeliverByMode::Return), "\r\n") };
        assert_eq!(scene.attempt(asked).await, ["deferred 4.3.3 mx1"]);
        assert_eq!(fit.connections(), 0);
    });
}

#[test]
fn what_is_to_come_back_in_time_goes_only_to_servers_that_see_to_it() {
    use DeliverByMode::{Notify, Return};
    run(async {
        for (extensions, request, expected) in [
            (&["DELIVERBY 60"][..], by(60, Return), "delivered 2.0.0 mx1"),
            (&["DELIVERBY 60"], by(59, Return), "failed 5.3.3 mx1"),
            (&["DELIVERBY 60"], by(1, Notify), "delivered 2.0.0 mx1"),
            (&["DELIVERBY"], by(0, Return), "failed 5.4.7 mx1"),
            (&["DELIVERBY"], by(-9, Notify), "delivered 2.0.0 mx1"),
            (&[], by(60, Return), "failed 5.3.3 mx1"),
            (&[], by(60, Notify), "delivered 2.0.0 mx1"),
        ] {
            let scene = scene();
            let peer = scene.peer(&mx(), Script::offering(extensions)).await;
            let summary = scene.attempt(asking(request.clone(), "\r\n")).await;
            assert_eq!(summary, [expected], "{extensions:?} {request:?}");
            assert_eq!(peer.taken().len(), usize::from(expected.starts_with("delivered")));
        }
    });
}

#[test]
fn mail_that_needs_smtputf8_fails_without_it_and_other_mail_goes_as_such() {
    run(async {
        let utf8 = || Request { smtputf8: true, ..Request::default() };
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["8BITMIME"])).await;
        assert_eq!(scene.attempt(asking(utf8(), "Subject: Grüße\r\n\r\nx\r\n")).await, ["failed 5.6.9 mx1"]);
        let within = "Content-Type: message/rfc822\r\n\r\nSubject: Grüße\r\n\r\nx\r\n";
        assert_eq!(scene.attempt(asking(utf8(), within)).await, ["failed 5.6.9 mx1"]);
        assert_eq!(scene.attempt(asking(utf8(), "Subject: x\r\n\r\nGrüße\r\n")).await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.taken()[0].content, "Subject: x\r\n\r\nGrüße\r\n".as_bytes());
        assert!(!peer.commands().iter().any(|line| line.contains("SMTPUTF8")));
        scene.routes.hosts.lock().unwrap().clear();
        let peer = scene.peer(&mx(), Script::plain()).await;
        assert_eq!(scene.attempt(asking(utf8(), "Subject: x\r\n\r\nGrüße\r\n")).await, ["delivered 2.0.0 mx1"]);
        assert!(peer.taken()[0].content.ends_with(b"\r\nGr=C3=BC=C3=9Fe\r\n"));
    });
}

#[test]
fn binary_content_goes_out_as_it_is_or_in_the_form_that_is_taken() {
    run(async {
        let content = b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\n\xff";
        let binary = |content: &[u8]| {
            let content = Arc::new(content.to_vec());
            Attempt { body: BodyType::BinaryMime, content, ..attempt(1, mx(), &["a@peer.test"]) }
        };
        let encoded = b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAr/\r\n";
        for (extensions, parameters, expected) in [
            (&["BINARYMIME", "CHUNKING", "8BITMIME"][..], "BODY=BINARYMIME", &content[..]),
            (&["BINARYMIME", "8BITMIME"], "BODY=8BITMIME", encoded),
            (&["CHUNKING", "8BITMIME"], "BODY=8BITMIME", encoded),
            (&[], "", encoded),
        ] {
            let scene = scene();
            let peer = scene.peer(&mx(), Script::offering(extensions)).await;
            assert_eq!(scene.attempt(binary(content)).await, ["delivered 2.0.0 mx1"], "{extensions:?}");
            let taken = peer.taken().remove(0);
            assert_eq!((taken.parameters.as_str(), &taken.content[..]), (parameters, expected), "{extensions:?}");
        }
        let scene = scene();
        let _peer = scene.peer(&mx(), Script::default()).await;
        let signed = b"Content-Type: multipart/signed; boundary=x\r\n\r\n--x\r\n\r\na\nb\r\n--x--\r\n";
        assert_eq!(scene.attempt(binary(signed)).await, ["failed 5.6.3 mx1"]);
    });
}

#[test]
fn a_servers_limits_are_kept() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::offering(&["PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2"])).await;
        let to: Vec<String> = (0..9).map(|n| format!("r{n}@peer.test")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        assert_eq!(scene.send(mx(), &to, b"\r\nx\r\n").await, ["delivered 2.0.0 mx1"; 9]);
        let taken: Vec<_> = peer.taken().iter().map(|taken| (taken.connection, taken.recipients.len())).collect();
        assert_eq!(taken, [(1, 2), (1, 2), (2, 2), (2, 2), (3, 1)]);
        // The last connection takes one more.
        scene.send(mx(), &to[..1], b"\r\nx\r\n").await;
        scene.send(mx(), &to[..1], b"\r\nx\r\n").await;
        assert_eq!(peer.taken()[5..].iter().map(|taken| taken.connection).collect::<Vec<_>>(), [3, 4]);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(peer.commands().iter().filter(|line| *line == "QUIT").count(), 3);
    });
}
