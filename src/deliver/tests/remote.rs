//! Attempts at scripted servers.

use super::*;

#[test]
fn a_message_reaches_a_server_whole_and_the_connection_is_reused() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::default()).await;
        let content = b"Subject: x\r\n\r\n.dot\r\nno end".repeat(9000);
        let outcomes = scene.send(mx(), &["a@peer.test", "b@peer.test"], &content).await;
        assert_eq!(outcomes, ["delivered 2.0.0 mx1", "delivered 2.0.0 mx1"]);
        scene.send(mx(), &["a@peer.test"], b"\r\n").await;
        let taken = peer.taken();
        assert_eq!(taken[0].content, [&content[..], b"\r\n"].concat());
        assert_eq!(taken[0].recipients, ["a@peer.test", "b@peer.test"]);
        assert_eq!((taken[0].reverse_path.as_str(), taken[0].parameters.as_str()), ("ann@us.test", "SIZE=234000"));
        assert_eq!((taken[1].connection, &taken[1].content[..]), (1, &b"\r\n"[..]));
        // Nobody needs it any more: after a while we say goodbye.
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(peer.commands().last().unwrap(), "QUIT");
    });
}

#[test]
fn each_recipient_has_its_own_result() {
    run(async {
        let scene = scene();
        let script = Script::default()
            .always(Stage::Recipient("b@peer.test".to_owned()), Act::say("550 5.1.1 no such user"))
            .once(Stage::Recipient("c@peer.test".to_owned()), Act::say("451 4.7.1 greylisted"));
        let peer = scene.peer(&mx(), script).await;
        let to = ["a@peer.test", "b@peer.test", "c@peer.test"];
        let expected = ["delivered 2.0.0 mx1", "failed 5.1.1 mx1", "deferred 4.7.1 mx1"];
        assert_eq!(scene.send(mx(), &to, b"x\r\n").await, expected);
        assert_eq!(scene.send(mx(), &to[2..], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.taken().iter().map(|t| t.recipients.len()).collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn the_next_host_is_tried_when_one_cannot_serve() {
    run(async {
        let scene = scene();
        let dead: Endpoint = Endpoint::Tcp("192.0.2.9:25".parse().unwrap());
        let deaf: Endpoint = Endpoint::Tcp("192.0.2.8:25".parse().unwrap());
        scene.host(&mx(), dead);
        scene.host(&mx(), deaf.clone());
        scene.world.net.fault(&deaf, Some(Fault::Stall));
        for (stage, act) in [
            (Stage::Greeting, Act::say("554 5.7.1 not you")),
            (Stage::Greeting, Act::say("421 4.3.2 busy")),
            (Stage::Greeting, Act::Stall),
            (Stage::Ehlo, Act::Close),
            (Stage::Mail, Act::Close),
            (Stage::AnyRecipient, Act::SayAndClose("421 4.3.2 going down".to_owned())),
            (Stage::Data, Act::Close),
            (Stage::Content, Act::Close),
            (Stage::Mail, Act::say("nonsense")),
        ] {
            std::mem::forget(scene.peer(&mx(), Script::default().always(stage, act)).await);
        }
        let last = scene.peer(&mx(), Script::plain()).await;
        // Too long for the buffers between us: the final dot isn't out when a server leaves while the content comes.
        let outcomes = scene.send(mx(), &["a@peer.test"], &b"x\r\n".repeat(400_000)).await;
        assert_eq!(outcomes, ["delivered 2.0.0 mx12"]);
        assert_eq!(last.taken().len(), 1);
    });
}

#[test]
fn a_hosts_no_is_not_taken_to_the_next_host() {
    run(async {
        let scene = scene();
        let busy = Script::default().always(Stage::Mail, Act::say("451 4.3.2 too much load"));
        let first = scene.peer(&mx(), busy).await;
        let second = scene.peer(&mx(), Script::default()).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.3.2 mx1"]);
        first.script(|script| script.set_always(Stage::Mail, Act::say("550 5.7.1 no")));
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["failed 5.7.1 mx1"]);
        assert_eq!(second.connections(), 0);
    });
}

#[test]
fn without_any_host_the_attempt_says_why() {
    run(async {
        let scene = scene();
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["failed 5.1.2"]);
        scene.host(&mx(), Endpoint::Tcp("192.0.2.9:25".parse().unwrap()));
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.4.1 mx1"]);
        let no = Script::default().always(Stage::Greeting, Act::say("554 no mail here"));
        let peer = scene.peer(&mx(), no).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.4.1 mx1"]);
        // Only when every host says no for good, it is for good.
        scene.routes.hosts.lock().unwrap().get_mut(&mx()).unwrap().remove(0);
        assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["failed 5.0.0 mx2"]);
        // A host of our own choosing is another matter.
        let smarthost = Destination::Route("smarthost".to_owned());
        scene.host(&smarthost, Endpoint::Tcp(peer.address()));
        assert_eq!(scene.send(smarthost, &["a@peer.test"], b"x\r\n").await, ["deferred 4.0.0 mx1"]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(peer.commands(), ["QUIT", "QUIT", "QUIT"]);
    });
}

#[test]
fn cut_after_the_final_dot_is_in_doubt_and_no_other_host_hears_of_it() {
    run(async {
        let scene = scene();
        let script =
            Script::default().once(Stage::End, Act::TakeAndClose).once(Stage::End, Act::Close).once(Stage::End, Act::Stall);
        let peer = scene.peer(&mx(), script).await;
        let other = scene.peer(&mx(), Script::default()).await;
        for _ in 0..3 {
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["in doubt 4.4.2 mx1"]);
        }
        assert_eq!((peer.taken().len(), other.connections()), (1, 0));
        assert_eq!(scene.world.clock.monotonic(), Duration::from_secs(600), "the final dot has twice the time of a reply");
    });
}

#[test]
fn a_server_that_stops_reading_to_say_no_is_heard() {
    run(async {
        let scene = scene();
        let script = Script::default().once(Stage::Content, Act::SayAndClose("552 5.3.4 too big".to_owned()));
        let _peer = scene.peer(&mx(), script).await;
        assert_eq!(scene.send(mx(), &["a@peer.test"], &vec![b'x'; 1 << 20]).await, ["failed 5.3.4 mx1"]);
    });
}

#[test]
fn a_connection_that_died_in_idleness_costs_nothing() {
    run(async {
        let scene = scene();
        for dying in [Act::Close, Act::SayAndClose("421 4.4.2 idle too long".to_owned())] {
            let peer = scene.peer(&mx(), Script::default().once(Stage::Mail, Act::Usual).once(Stage::Mail, dying)).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(peer.taken().iter().map(|t| t.connection).collect::<Vec<_>>(), [1, 2]);
            scene.routes.hosts.lock().unwrap().clear();
        }
    });
}

#[test]
fn a_server_that_has_had_enough_of_a_session_gets_a_new_one() {
    run(async {
        for stage in [Stage::AnyRecipient, Stage::Data] {
            let scene = scene();
            let enough = Act::SayAndClose("421 4.7.0 too many messages in this session".to_owned());
            let peer = scene.peer(&mx(), Script::default().once(stage.clone(), Act::Usual).once(stage, enough)).await;
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(scene.send(mx(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(peer.taken().iter().map(|t| t.connection).collect::<Vec<_>>(), [1, 2]);
        }
    });
}

#[test]
fn connections_to_a_destination_stay_bounded() {
    run(async {
        let scene = Arc::new(scene());
        let peer = scene.peer(&mx(), Script::default()).await;
        for round in 1..4 {
            let sends = (0..3).map(|_| {
                let scene = scene.clone();
                tokio::spawn(async move { scene.send(mx(), &["a@peer.test"], b"x\r\n").await })
            });
            for send in sends.collect::<Vec<_>>() {
                assert_eq!(send.await.unwrap(), ["delivered 2.0.0 mx1"]);
            }
            assert_eq!(peer.connections(), 3, "round {round}");
        }
        // Another host of the same destination: the idle ones make room.
        scene.routes.hosts.lock().unwrap().clear();
        let other = scene.peer(&mx(), Script::default()).await;
        scene.send(mx(), &["a@peer.test"], b"x\r\n").await;
        assert_eq!(other.connections(), 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(peer.commands().iter().filter(|line| *line == "QUIT").count(), 1);
        scene.deliverer.close().await;
        assert_eq!(peer.commands().iter().filter(|line| *line == "QUIT").count(), 3);
        assert_eq!(other.commands().last().unwrap(), "QUIT");
    });
}

#[test]
fn a_connection_cut_at_any_octet_never_loses_or_doubles_silently() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::default()).await;
        let at = Endpoint::Tcp(peer.address());
        for cut in 0..420 {
            scene.world.net.fault(&at, Some(Fault::CutAfter(cut)));
            let before = peer.taken().len();
            let outcome = scene.send(mx(), &["a@peer.test"], b"x\r\n").await.remove(0);
            let took = peer.taken().len() - before;
            match outcome.split(' ').next().unwrap() {
                "delivered" => assert_eq!(took, 1, "cut after {cut}"),
                "deferred" => assert_eq!(took, 0, "cut after {cut}"),
                "in" => assert!(took <= 1),
                other => panic!("cut after {cut}: {other}"),
            }
            scene.deliverer.connections.close().await;
        }
        assert!(peer.taken().len() > 20, "some got through");
    });
}

#[test]
fn lmtp_over_a_unix_socket_has_results_by_recipient() {
    run(async {
        let scene = scene();
        let path = Path::new("/run/lmtp");
        let script = Script::lmtp().always(Stage::EndFor("b@us.test".to_owned()), Act::say("452 4.2.2 over quota"));
        let peer = Peer::start(scene.world.net.listen_unix(path).unwrap(), script);
        let destination = Destination::Lmtp("unix:/run/lmtp".to_owned());
        scene.host(&destination, Endpoint::Unix(path.to_owned()));
        let outcomes = scene.send(destination, &["a@us.test", "b@us.test", "c@us.test"], b"x\r\n").await;
        assert_eq!(outcomes, ["delivered 2.0.0", "deferred 4.2.2", "delivered 2.0.0"]);
        assert_eq!(peer.taken().len(), 2);
    });
}

#[test]
fn content_that_cannot_be_read_is_never_delivered_in_part() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&mx(), Script::default()).await;
        assert_eq!(scene.send_as(1, mx(), &["a@peer.test"], Arc::new(Broken)).await, ["deferred 4.3.0 mx1"]);
        let local = Destination::Local(Domain::parse("us.test").unwrap());
        assert_eq!(scene.send_as(1, local, &["ann@us.test"], Arc::new(Broken)).await, ["deferred 4.3.0"]);
        assert!(peer.taken().is_empty());
        assert!(scene.files("ann", "new").is_empty() && scene.files("ann", "tmp").is_empty());
    });
}

/// The same over real sockets and threads.
#[test]
fn real_sockets_serve_as_well() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let real = |world: &World| System {
            clock: Arc::new(SystemClock::new()),
            net: Arc::new(SystemNet),
            workers: Workers::Threads,
            ..world.system(Arc::new(SystemDisk))
        };
        let scene = scene_on(real);
        let listener = SystemNet.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let peer = Peer::start(listener, Script::default().once(Stage::End, Act::TakeAndClose));
        scene.host(&mx(), Endpoint::Tcp(peer.address()));
        let content = b"Subject: x\r\n\r\n.dot\r\n".repeat(100_000);
        assert_eq!(scene.send(mx(), &["a@peer.test"], &content).await, ["in doubt 4.4.2 mx1"]);
        for _ in 0..2 {
            assert_eq!(scene.send(mx(), &["a@peer.test"], &content).await, ["delivered 2.0.0 mx1"]);
        }
        assert!(peer.taken().iter().all(|taken| taken.content == content));
        assert_eq!(peer.taken().iter().map(|taken| taken.connection).collect::<Vec<_>>(), [1, 2, 2]);
        assert_eq!(scene.send(local(), &["ann@us.test"], &content).await, ["delivered 2.0.0"]);
        assert_eq!(scene.read("ann")[55..], content[..]);
    });
}
