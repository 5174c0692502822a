//! Attempts in the simulated world, against scripted servers and Maildirs in fresh folders.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::config;
use crate::mail::{Cause, Diagnosis, Domain, EnhancedCode, Timestamp};
use crate::system::sim::{Act, Fault, Peer, Script, Stage, World, run};
use crate::system::{Clock, Listener, Net, SystemDisk};

/// Hosts by destination, Maildirs by local part below a folder.
struct Fixed {
    hosts: Mutex<BTreeMap<Destination, Vec<Host>>>,
    folder: PathBuf,
}

impl Routes for Fixed {
    fn hosts<'a>(&'a self, destination: &'a Destination) -> BoxFuture<'a, Result<Vec<Host>, Outcome>> {
        let hosts = self.hosts.lock().unwrap().get(destination).cloned();
        let missing = || Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 2), Cause::Dns, "no such domain"));
        Box::pin(async move { hosts.ok_or_else(missing) })
    }

    fn maildir(&self, address: &Address) -> Result<PathBuf, Outcome> {
        if address.local() == "nobody" {
            return Err(Outcome::Failed(Diagnosis::new(EnhancedCode(5, 1, 1), Cause::Local, "no such user")));
        }
        Ok(self.folder.join(address.local()))
    }
}

struct Scene {
    world: World,
    deliverer: Arc<Deliverer>,
    routes: Arc<Fixed>,
    folder: tempfile::TempDir,
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn settings() -> Config {
    Config {
        hostname: Domain::parse("us.test").unwrap(),
        postmaster: address("postmaster@us.test"),
        shutdown_grace: Duration::from_secs(30),
        user: String::new(),
        spool: config::Spool { path: "spool".into(), min_free: 0, segment_size: 1 << 20, index_cache: 1 << 20 },
        listeners: Vec::new(),
        auth: config::Auth { users: "users".into() },
        limits: config::Limits {
            message_size: 1 << 20,
            recipients: 100,
            connections: 10,
            connections_per_client: 10,
            errors: 10,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(300),
            hops: 50,
        },
        domains: Vec::new(),
        relay: config::Relay { networks: Vec::new(), domains: Vec::new() },
        routes: Vec::new(),
        remote: config::Remote {
            port: 25,
            concurrency: 3,
            connect_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(300),
            special_addresses: config::SpecialAddresses::Allow,
        },
        queue: config::Queue { paused: false, attempts: 10, active: 100 },
        retry: config::Retry {
            first: Duration::from_secs(300),
            factor: 2.0,
            max: Duration::from_secs(3600),
            jitter: 0.0,
            lifetime: Duration::from_secs(86400),
            bounce_lifetime: Duration::from_secs(86400),
            delay_notice: Vec::new(),
        },
        dns: config::Dns { servers: Vec::new(), timeout: Duration::from_secs(5) },
        admin: config::Admin { socket: "socket".into(), http: None, tls: None },
        log: config::Log { format: config::LogFormat::Text, level: "info".to_owned() },
    }
}

fn scene() -> Scene {
    let world = World::new(7);
    let folder = tempfile::tempdir().unwrap();
    let routes = Arc::new(Fixed { hosts: Mutex::default(), folder: folder.path().join("mail/us.test") });
    let system = world.system(Arc::new(SystemDisk));
    let deliverer = Arc::new(Deliverer::new(Arc::new(settings()), routes.clone(), system));
    Scene { world, deliverer, routes, folder }
}

fn remote() -> Destination {
    Destination::Mx(Domain::parse("peer.test").unwrap())
}

impl Scene {
    /// Starts a server, and makes it one more host of the destination.
    async fn peer(&self, destination: &Destination, script: Script) -> Peer {
        let peer = Peer::start(self.listener("192.0.2.1:0").await, script);
        self.host(destination, Endpoint::Tcp(peer.address()));
        peer
    }

    async fn listener(&self, address: &str) -> Box<dyn Listener> {
        self.world.net.listen(address.parse().unwrap()).await.unwrap()
    }

    fn host(&self, destination: &Destination, endpoint: Endpoint) {
        let mut hosts = self.routes.hosts.lock().unwrap();
        let hosts = hosts.entry(destination.clone()).or_default();
        hosts.push(Host { name: format!("mx{}.peer.test", hosts.len() + 1), endpoint });
    }

    async fn send(&self, destination: Destination, recipients: &[&str], content: &[u8]) -> Vec<String> {
        self.send_as(1, destination, recipients, Arc::new(content.to_vec())).await
    }

    async fn send_as(&self, id: u64, to: Destination, recipients: &[&str], content: Arc<dyn Content>) -> Vec<String> {
        let attempt = Attempt {
            id: QueueId((1_795_312_800_123 << 20) + id),
            reverse_path: ReversePath::Address(address("ann@us.test")),
            body: BodyType::SevenBit,
            destination: to,
            recipients: (0..).zip(recipients.iter().map(|text| address(text))).collect(),
            content,
        };
        let outcomes = self.deliverer.attempt(attempt).await;
        assert!(outcomes.iter().map(|(index, _)| *index).eq(0..recipients.len() as u32));
        outcomes.iter().map(|(_, outcome)| summary(outcome)).collect()
    }

    fn files(&self, user: &str, folder: &str) -> Vec<String> {
        let path = self.routes.folder.join(user).join(folder);
        let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn read(&self, user: &str) -> Vec<u8> {
        let files = self.files(user, "new");
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read(self.routes.folder.join(user).join("new").join(&files[0])).unwrap()
    }
}

fn summary(outcome: &Outcome) -> String {
    let word = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(_) => "deferred",
        Outcome::Failed(_) => "failed",
        Outcome::InDoubt(_) => "in doubt",
    };
    let found = outcome.diagnosis();
    let host = found.next_hop.split(' ').next().unwrap_or("");
    format!("{word} {} {}", found.status, host.strip_suffix(".peer.test").unwrap_or("")).trim_end().to_owned()
}

#[test]
fn a_message_reaches_a_server_whole_and_the_connection_is_reused() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&remote(), Script::default()).await;
        let content = b"Subject: x\r\n\r\n.dot\r\nno end".repeat(9000);
        let outcomes = scene.send(remote(), &["a@peer.test", "b@peer.test"], &content).await;
        assert_eq!(outcomes, ["delivered 2.0.0 mx1", "delivered 2.0.0 mx1"]);
        scene.send(remote(), &["a@peer.test"], b"\r\n").await;
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
        let peer = scene.peer(&remote(), script).await;
        let to = ["a@peer.test", "b@peer.test", "c@peer.test"];
        let expected = ["delivered 2.0.0 mx1", "failed 5.1.1 mx1", "deferred 4.7.1 mx1"];
        assert_eq!(scene.send(remote(), &to, b"x\r\n").await, expected);
        assert_eq!(scene.send(remote(), &to[2..], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
        assert_eq!(peer.taken().iter().map(|t| t.recipients.len()).collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn the_next_host_is_tried_when_one_cannot_serve() {
    run(async {
        let scene = scene();
        let dead: Endpoint = Endpoint::Tcp("192.0.2.9:25".parse().unwrap());
        let deaf: Endpoint = Endpoint::Tcp("192.0.2.8:25".parse().unwrap());
        scene.host(&remote(), dead);
        scene.host(&remote(), deaf.clone());
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
            std::mem::forget(scene.peer(&remote(), Script::default().always(stage, act)).await);
        }
        let last = scene.peer(&remote(), Script::plain()).await;
        // Too long for the buffers between us: the final dot isn't out when a server leaves while the content comes.
        let outcomes = scene.send(remote(), &["a@peer.test"], &b"x\r\n".repeat(400_000)).await;
        assert_eq!(outcomes, ["delivered 2.0.0 mx12"]);
        assert_eq!(last.taken().len(), 1);
    });
}

#[test]
fn a_hosts_no_is_not_taken_to_the_next_host() {
    run(async {
        let scene = scene();
        let busy = Script::default().always(Stage::Mail, Act::say("451 4.3.2 too much load"));
        let first = scene.peer(&remote(), busy).await;
        let second = scene.peer(&remote(), Script::default()).await;
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.3.2 mx1"]);
        first.script(|script| script.set_always(Stage::Mail, Act::say("550 5.7.1 no")));
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["failed 5.7.1 mx1"]);
        assert_eq!(second.connections(), 0);
    });
}

#[test]
fn without_any_host_the_attempt_says_why() {
    run(async {
        let scene = scene();
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["failed 5.1.2"]);
        scene.host(&remote(), Endpoint::Tcp("192.0.2.9:25".parse().unwrap()));
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.4.1 mx1"]);
        let no = Script::default().always(Stage::Greeting, Act::say("554 no mail here"));
        let peer = scene.peer(&remote(), no).await;
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["deferred 4.4.1 mx1"]);
        // Only when every host says no for good, it is for good.
        scene.routes.hosts.lock().unwrap().get_mut(&remote()).unwrap().remove(0);
        assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["failed 5.0.0 mx2"]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(peer.commands(), ["QUIT", "QUIT"]);
    });
}

#[test]
fn cut_after_the_final_dot_is_in_doubt_and_no_other_host_hears_of_it() {
    run(async {
        let scene = scene();
        let script =
            Script::default().once(Stage::End, Act::TakeAndClose).once(Stage::End, Act::Close).once(Stage::End, Act::Stall);
        let peer = scene.peer(&remote(), script).await;
        let other = scene.peer(&remote(), Script::default()).await;
        for _ in 0..3 {
            assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["in doubt 4.4.2 mx1"]);
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
        let _peer = scene.peer(&remote(), script).await;
        assert_eq!(scene.send(remote(), &["a@peer.test"], &vec![b'x'; 1 << 20]).await, ["failed 5.3.4 mx1"]);
    });
}

#[test]
fn a_connection_that_died_in_idleness_costs_nothing() {
    run(async {
        let scene = scene();
        for dying in [Act::Close, Act::SayAndClose("421 4.4.2 idle too long".to_owned())] {
            let peer = scene.peer(&remote(), Script::default().once(Stage::Mail, Act::Usual).once(Stage::Mail, dying)).await;
            assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(scene.send(remote(), &["a@peer.test"], b"x\r\n").await, ["delivered 2.0.0 mx1"]);
            assert_eq!(peer.taken().iter().map(|t| t.connection).collect::<Vec<_>>(), [1, 2]);
            scene.routes.hosts.lock().unwrap().clear();
        }
    });
}

#[test]
fn connections_to_a_destination_stay_bounded() {
    run(async {
        let scene = Arc::new(scene());
        let peer = scene.peer(&remote(), Script::default()).await;
        for round in 1..4 {
            let sends = (0..3).map(|_| {
                let scene = scene.clone();
                tokio::spawn(async move { scene.send(remote(), &["a@peer.test"], b"x\r\n").await })
            });
            for send in sends.collect::<Vec<_>>() {
                assert_eq!(send.await.unwrap(), ["delivered 2.0.0 mx1"]);
            }
            assert_eq!(peer.connections(), 3, "round {round}");
        }
        // Another host of the same destination: the idle ones make room.
        scene.routes.hosts.lock().unwrap().clear();
        let other = scene.peer(&remote(), Script::default()).await;
        scene.send(remote(), &["a@peer.test"], b"x\r\n").await;
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
        let peer = scene.peer(&remote(), Script::default()).await;
        let at = Endpoint::Tcp(peer.address());
        for cut in 0..420 {
            scene.world.net.fault(&at, Some(Fault::CutAfter(cut)));
            let before = peer.taken().len();
            let outcome = scene.send(remote(), &["a@peer.test"], b"x\r\n").await.remove(0);
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

/// Content that can't be read beyond its middle.
struct Broken;

impl Content for Broken {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, offset: u64, size_max: usize) -> BoxFuture<'_, std::io::Result<Vec<u8>>> {
        Box::pin(
            async move { if offset < 1 << 19 { Ok(vec![b'x'; size_max]) } else { Err(std::io::ErrorKind::InvalidData.into()) } },
        )
    }
}

#[test]
fn content_that_cannot_be_read_is_never_delivered_in_part() {
    run(async {
        let scene = scene();
        let peer = scene.peer(&remote(), Script::default()).await;
        assert_eq!(scene.send_as(1, remote(), &["a@peer.test"], Arc::new(Broken)).await, ["deferred 4.3.0 mx1"]);
        let local = Destination::Local(Domain::parse("us.test").unwrap());
        assert_eq!(scene.send_as(1, local, &["ann@us.test"], Arc::new(Broken)).await, ["deferred 4.3.0"]);
        assert!(peer.taken().is_empty());
        assert!(scene.files("ann", "new").is_empty() && scene.files("ann", "tmp").is_empty());
    });
}

fn local() -> Destination {
    Destination::Local(Domain::parse("us.test").unwrap())
}

#[test]
fn a_maildir_gets_the_message_byte_for_byte_below_two_fields() {
    run(async {
        let scene = scene();
        for content in [b"Subject: x\r\n\r\n.dot\r\nno end".to_vec(), b"Subject: y\r\n\r\n\xff\x00".repeat(60_000)] {
            let size = content.len();
            let id = size as u64;
            let outcomes =
                scene.send_as(id, local(), &["ann@us.test", "nobody@us.test", "bob@us.test"], Arc::new(content.clone())).await;
            assert_eq!(outcomes, ["delivered 2.0.0", "failed 5.1.1", "delivered 2.0.0"]);
            for user in ["ann", "bob"] {
                let fields = format!("Return-Path: <ann@us.test>\r\nDelivered-To: {user}@us.test\r\n");
                assert_eq!(scene.read(user), [fields.as_bytes(), &content].concat());
                assert!(scene.files(user, "tmp").is_empty());
                let name = scene.files(user, "new").remove(0);
                assert!(name.starts_with("1795312800.M123000_"), "{name}");
                assert!(name.ends_with(&format!(".us.test,S={}", size + fields.len())), "{name}");
                std::fs::remove_file(scene.routes.folder.join(user).join("new").join(name)).unwrap();
            }
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &str| std::fs::metadata(scene.folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("mail"), mode("mail/us.test/ann/cur")), (0o700, 0o700));
    });
}

#[test]
fn a_second_try_after_a_lost_record_makes_no_double() {
    run(async {
        let scene = scene();
        for _ in 0..2 {
            assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
            assert_eq!(scene.files("ann", "new").len(), 1);
        }
        // The same name with other content is another message, and neither is lost.
        assert_eq!(scene.send(local(), &["ann@us.test"], b"y\r\n").await, ["delivered 2.0.0"]);
        assert_eq!(scene.files("ann", "new").len(), 2);
        assert!(scene.files("ann", "tmp").is_empty());
    });
}

#[test]
fn a_message_that_was_here_before_is_a_loop() {
    run(async {
        let scene = scene();
        let content = b"Received: x\r\nDelivered-To: Ann@us.test\r\n\r\nDelivered-To: bob@us.test\r\n";
        assert_eq!(scene.send(local(), &["ann@us.test", "bob@us.test"], content).await, ["failed 5.4.6", "delivered 2.0.0"]);
    });
}

#[test]
fn leftovers_of_crashes_go_after_a_day_and_a_half() {
    run(async {
        let scene = scene();
        let tmp = scene.routes.folder.join("ann/tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let now = scene.world.clock.now().as_millis() / 1000;
        let name = |age: u64| format!("{}.X0123456789abcdef_0CZ2K8M4G5T3BR0.us.test", now - age);
        let foreign = "1000000000.M1P2.other.test".to_owned();
        for name in [name(60), name(35 * 3600), name(37 * 3600), foreign.clone()] {
            std::fs::write(tmp.join(name), b"x").unwrap();
        }
        let left = || scene.files("ann", "tmp").into_iter().collect::<std::collections::BTreeSet<_>>();
        scene.send(local(), &["ann@us.test"], b"x\r\n").await;
        assert_eq!(left(), [name(60), name(35 * 3600), foreign.clone()].into());
        scene.world.clock.set(Timestamp::from_millis((now + 40 * 3600) * 1000));
        scene.send(local(), &["ann@us.test"], b"x\r\n").await;
        assert_eq!(left(), [foreign].into());
    });
}

#[test]
fn a_mailbox_that_cannot_be_written_defers_and_one_that_was_removed_comes_back() {
    run(async {
        let scene = scene();
        std::fs::create_dir_all(&scene.routes.folder).unwrap();
        std::fs::write(scene.routes.folder.join("bob"), b"not a folder").unwrap();
        assert_eq!(scene.send(local(), &["bob@us.test", "ann@us.test"], b"x\r\n").await, ["deferred 4.3.0", "delivered 2.0.0"]);
        std::fs::remove_dir_all(scene.routes.folder.join("ann")).unwrap();
        assert_eq!(scene.send(local(), &["ann@us.test"], b"x\r\n").await, ["delivered 2.0.0"]);
        assert_eq!(scene.read("ann").len(), 58);
    });
}
