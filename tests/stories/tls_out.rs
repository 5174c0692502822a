//! TLS with other servers: a wish by default, and never in the way of mail; a condition where a route says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use posthouse::config::{
    Config, DestinationRule, DomainPattern, HostPort, ListenAddress, Listener, ListenerTls, Outgoing, RemoteTls, Route, RouteHost,
};
use posthouse::event::Event;
use posthouse::mail::{Domain, Rate, TlsInfo};
use posthouse::queue::Verb;
use posthouse::system::sim::{Act, DUBIOUS_ANSWER, HELLO, Peer, Script, SimTls, Stage};
use posthouse::system::tls::CertificateFacts;
use posthouse::system::{BoxFuture, BoxStream, Net, TlsServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";
const SECOND: Duration = Duration::from_secs(1);

/// Breaks every handshake off.
struct Broken;

/// Breaks every handshake off until it is mended.
#[derive(Default)]
struct Mended(AtomicBool);

/// Says nothing in the handshake, for ever.
struct Stalled;

/// Has a certificate that shows nothing.
struct Dubious;

impl TlsServer for Broken {
    fn accept(&self, _: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionReset.into()) })
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        Vec::new()
    }
}

impl TlsServer for Stalled {
    fn accept(&self, stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async move {
            let _open = stream;
            std::future::pending().await
        })
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        Vec::new()
    }
}

impl TlsServer for Mended {
    fn accept(&self, stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        if self.0.load(Ordering::Relaxed) { SimTls.accept(stream) } else { Broken.accept(stream) }
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        Vec::new()
    }
}

impl TlsServer for Dubious {
    fn accept(&self, mut stream: BoxStream) -> BoxFuture<'_, io::Result<(BoxStream, TlsInfo)>> {
        Box::pin(async move {
            stream.read_exact(&mut [0; HELLO.len()]).await?;
            stream.write_all(DUBIOUS_ANSWER.as_bytes()).await?;
            Ok((stream, SimTls::info()))
        })
    }

    fn certificates(&self) -> Vec<CertificateFacts> {
        Vec::new()
    }
}

/// Mail for a domain goes to this address, encrypted so well.
fn route(domain: &str, address: &str, tls: RemoteTls) -> Route {
    let host = HostPort { host: Domain::from_ip(address.parse().unwrap()), port: Some(25) };
    Route { tls, ..Route::new(DomainPattern::Exact(Domain::parse(domain).unwrap()), vec![RouteHost::Tcp(host)]) }
}

async fn secure_peer(server: &Server, address: &str, tls: Arc<dyn TlsServer>) -> Peer {
    scripted_peer(server, address, Script::offering(&["PIPELINING", "STARTTLS"]), tls).await
}

async fn scripted_peer(server: &Server, address: &str, script: Script, tls: Arc<dyn TlsServer>) -> Peer {
    let listener = server.world.net.listen(format!("{address}:25").parse().unwrap()).await.unwrap();
    Peer::start_with_tls(listener, script, tls)
}

#[test]
fn a_handshake_that_fails_is_followed_by_one_connection_in_the_clear_and_the_log_says_so() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.addresses("far.test", &["50.2.0.1"]);
        let far = secure_peer(&server, "50.2.0.1", Arc::new(Broken)).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        let encrypted: Vec<bool> = far.taken().iter().map(|taken| taken.encrypted).collect();
        assert_eq!((encrypted, far.connections()), (vec![false], 2));
        assert_eq!((server.count("tls-fallback"), server.count("secured"), server.count("deferred")), (1, 0, 0));
    });
}

/// What may go wrong with TLS: how the server answers STARTTLS, how it makes the handshake, how long that is waited for, how many
/// connections there are until mail went in the clear, and our words about it.
type Failure = (Act, Arc<dyn TlsServer>, Duration, u64, &'static str);

fn failures() -> Vec<Failure> {
    let (now, good) = (Duration::ZERO, || Arc::new(SimTls));
    let later = || "454 4.7.0 TLS not available due to temporary reason".to_owned();
    vec![
        (Act::Say(later()), good(), now, 1, "the server answered STARTTLS with 454 4.7.0 TLS not available"),
        (Act::say("502 5.5.1 What?"), good(), now, 1, "the server answered STARTTLS with 502 5.5.1 What?"),
        (Act::SayAndClose("421 4.3.2 busy".to_owned()), good(), now, 2, "421 4.3.2 busy"),
        (Act::Close, good(), now, 2, "connection lost while waiting for the reply to STARTTLS"),
        (Act::Stall, good(), 5 * MINUTE, 2, "time-out while waiting for the reply to STARTTLS"),
        (Act::Usual, Arc::new(Broken), now, 2, "TLS can't be established: "),
        (Act::Usual, Arc::new(Stalled), Duration::from_secs(30), 2, "TLS can't be established: the handshake took too long"),
    ]
}

fn failing(act: Act) -> Script {
    Script::offering(&["PIPELINING", "STARTTLS"]).always(Stage::StartTls, act)
}

/// Waits so long: then it is so, and shortly before it isn't yet.
async fn after(server: &Server, time: Duration, words: &str, is_so: impl Fn() -> bool) {
    if time > SECOND {
        server.pass(time - SECOND).await;
        assert!(!is_so(), "{words}: before {time:?}");
        server.pass(SECOND).await;
    }
    server.pass(SECOND).await;
    assert!(is_so(), "{words}: not after {time:?}");
}

#[test]
fn however_starttls_fails_mail_goes_in_the_clear_where_tls_is_a_wish() {
    for (act, tls, time, connections, words) in failures() {
        story(async {
            let server = Setup::new().start().await;
            server.world.dns.addresses("far.test", &["50.2.0.1"]);
            let far = scripted_peer(&server, "50.2.0.1", failing(act), tls).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            after(&server, time, words, || far.taken().len() == 1).await;
            assert_eq!((encrypted(&far), far.connections(), server.count("deferred")), (vec![false], connections, 0), "{words}");
            let reason = |event: &Event| match event {
                Event::TlsFallback { reason, .. } => Some(reason.clone()),
                _ => None,
            };
            let reason = server.event("a word on it", reason).await;
            assert!(reason.contains(words) && server.count("tls-fallback") == 1, "{reason}");
        });
    }
}

#[test]
fn however_starttls_fails_the_next_host_is_asked_and_then_mail_waits_where_tls_is_required() {
    for (act, tls, time, _, words) in failures() {
        for another in [false, true] {
            story(async {
                let mut way = route("far.test", "10.0.0.1", RemoteTls::Require);
                way.hosts.extend(route("far.test", "10.0.0.2", RemoteTls::Require).hosts);
                let server = Setup::new().config(|c| c.routes = vec![way]).start().await;
                let first = scripted_peer(&server, "10.0.0.1", failing(act.clone()), tls.clone()).await;
                let busy = Script::default().always(Stage::Greeting, Act::say("421 4.3.2 busy"));
                let second = match another {
                    true => secure_peer(&server, "10.0.0.2", Arc::new(SimTls)).await,
                    false => server.listen("10.0.0.2", busy).await,
                };
                server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
                after(&server, time, words, || second.taken().len() + server.count("deferred") == 1).await;
                assert_eq!((encrypted(&second), server.count("tls-fallback")), (vec![true; usize::from(another)], 0), "{words}");
                let said = first.commands().join("\n");
                assert!(!said.contains("MAIL") && first.connections() == 1, "{words}: {said}");
            });
        }
    }
}

#[test]
fn mail_that_waits_for_tls_says_why() {
    for (act, tls, time, _, words) in failures() {
        story(async {
            let way = route("far.test", "10.0.0.1", RemoteTls::Require);
            let server = Setup::new().config(|c| c.routes = vec![way]).start().await;
            let far = scripted_peer(&server, "10.0.0.1", failing(act), tls).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            let said = |event: &Event| match event {
                Event::Deferred { reply, status, .. } => Some(format!("{status} {reply}")),
                _ => None,
            };
            after(&server, time, words, || server.count("deferred") == 1).await;
            let said = server.event("a deferral", said).await;
            assert!(said.starts_with("4.") && said.contains(words), "{said}");
            // Once TLS is in order, so is the mail.
            drop(far);
            server.pass(SECOND).await;
            let far = secure_peer(&server, "10.0.0.1", Arc::new(SimTls)).await;
            server.empty().await;
            assert_eq!((encrypted(&far), server.mails("ann").len()), (vec![true], 0), "{words}");
        });
    }
}

#[test]
fn a_connection_in_the_clear_serves_no_mail_that_is_to_be_encrypted() {
    story(async {
        let server = Setup::new().config(|config| config.remote.tls = RemoteTls::Require).start().await;
        let far = server.domain("far.test", Script::default()).await;
        // This one's sender does without, and leaves a connection behind.
        server.relay("ann@example.test", &["eve@far.test"], &format!("TLS-Required: No\r\n{CONTENT}")).await;
        server.pass(SECOND).await;
        assert_eq!((far.taken().len(), far.commands().last().map(String::as_str)), (1, Some("DATA")), "it is still there");
        server.relay("ann@example.test", &["joe@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        assert_eq!((far.taken().len(), server.count("deferred")), (1, 1));
        // While the next such letter finds it.
        server.relay("ann@example.test", &["kim@far.test"], &format!("TLS-Required: No\r\n{CONTENT}")).await;
        server.pass(SECOND).await;
        assert_eq!((far.taken().len(), far.taken().last().unwrap().connection), (2, 1));
    });
}

/// To each destination one new connection a minute.
fn one_a_minute() -> DestinationRule {
    let connections_rate = Some(Rate { count: 1, period: MINUTE });
    let outgoing = Outgoing { connections_rate, ..Outgoing::default() };
    DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: None, shared: false, outgoing }
}

#[test]
fn a_rate_of_connections_delays_the_one_in_the_clear_and_does_not_prevent_it() {
    story(async {
        let server = Setup::new().config(|config| config.destinations = vec![one_a_minute()]).start().await;
        server.world.dns.addresses("far.test", &["50.2.0.1"]);
        let far = secure_peer(&server, "50.2.0.1", Arc::new(Broken)).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE * 2).await;
        assert_eq!((far.taken().len(), far.connections()), (1, 2));
        assert_eq!((server.count("tls-fallback"), server.count("deferred")), (1, 0));
    });
}

#[test]
fn who_waits_for_the_connection_in_the_clear_makes_it_though_others_go_there_meanwhile() {
    // Another domain's mail, and notices: neither is bounded.
    for (from, to) in [("ann@example.test", "eve@busy.test"), ("eve@far.test", "eve@nowhere.test")] {
        story(async {
            let domain = DomainPattern::Exact(Domain::parse("far.test").unwrap());
            let rule = DestinationRule { domain, ..one_a_minute() };
            let server = Setup::new().config(|config| config.destinations = vec![rule]).start().await;
            for domain in ["far.test", "busy.test"] {
                server.world.dns.mx(domain, &[(10, "mx.far.test")]);
            }
            server.world.dns.addresses("mx.far.test", &["50.2.0.1"]);
            let far = secure_peer(&server, "50.2.0.1", Arc::new(Broken)).await;
            server.relay("ann@example.test", &["kim@far.test"], CONTENT).await;
            for _ in 0..7 {
                server.pass(MINUTE / 4).await;
                server.relay(from, &[to], CONTENT).await;
            }
            let taken = far.taken();
            assert!(taken.iter().any(|taken| taken.recipients[0].starts_with("kim@")), "{to}: {}", taken.len());
            assert!(taken.len() > 6, "{to}: {}", taken.len());
        });
    }
}

/// A letter whose connection in the clear would be next, but it is taken back; and the server's TLS is in order again.
async fn taken_back(server: &Server) -> Peer {
    server.world.dns.addresses("far.test", &["50.2.0.1"]);
    let tls = Arc::new(Mended::default());
    let far = secure_peer(server, "50.2.0.1", tls.clone()).await;
    let id = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
    server.pass(Duration::from_secs(1)).await;
    assert_eq!((far.connections(), far.taken().len()), (1, 0));
    server.verb(Verb::Remove, id).await;
    tls.0.store(true, Ordering::Relaxed);
    far
}

fn encrypted(peer: &Peer) -> Vec<bool> {
    peer.taken().iter().map(|taken| taken.encrypted).collect()
}

#[test]
fn a_handshake_of_yesterday_sends_nobodys_letter_in_the_clear() {
    story(async {
        let server = Setup::new().config(|config| config.destinations = vec![one_a_minute()]).start().await;
        let far = taken_back(&server).await;
        server.pass(HOUR / 4).await;
        server.relay("kim@example.test", &["joe@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((encrypted(&far), server.count("tls-fallback")), (vec![true], 0));
    });
}

#[test]
fn a_server_whose_tls_was_seen_to_work_again_gets_nothing_in_the_clear() {
    story(async {
        let configure = |config: &mut Config| {
            config.destinations = vec![one_a_minute()];
            config.routes = vec![route("near.test", "50.2.0.1", RemoteTls::Require)];
        };
        let server = Setup::new().config(configure).start().await;
        let far = taken_back(&server).await;
        for to in ["eve@near.test", "joe@far.test"] {
            server.relay("kim@example.test", &[to], CONTENT).await;
            server.pass(2 * MINUTE).await;
        }
        assert_eq!((encrypted(&far), server.count("tls-fallback")), (vec![true, true], 0));
    });
}

#[test]
fn mail_goes_encrypted_where_that_is_offered_and_the_next_hops_received_field_shows_it() {
    story(async {
        // The next hop is a Posthouse itself, in the same world.
        let next = Setup::new().without_users().user("eve@next.test").config(|c| {
            let address = ListenAddress::Tcp("50.9.9.8:25".parse().unwrap());
            c.listeners = vec![Listener { address, tls: ListenerTls::StartTls, ..c.listeners[0].clone() }];
            c.domains[0].name = Domain::parse("next.test").unwrap();
        });
        let world = next.world.clone();
        let next = next.start().await;
        let mut setup = Setup::new().config(|c| c.routes = vec![route("next.test", "50.9.9.8", RemoteTls::Opportunistic)]);
        setup.world = world;
        let server = setup.start().await;
        server.relay("ann@example.test", &["eve@next.test"], CONTENT).await;
        server.empty().await;
        next.empty().await;
        let mails = maildir(&next.disk, "/mail/next.test/eve");
        let text = String::from_utf8_lossy(&mails[0]).replace("\r\n\t", " ").replace("\r\n ", " ");
        let received = text.lines().find(|line| line.starts_with("Received: ")).unwrap();
        assert!(received.contains("TLSv1.3") && received.contains(" with ESMTPS id "), "{received}");
        assert_eq!((server.count("secured"), server.count("tls-fallback")), (1, 0));
    });
}

#[test]
fn a_route_says_how_well_mail_is_encrypted() {
    // To one without TLS, one whose certificate shows nothing, and a good one: whether mail comes, and encrypted or not.
    let (clear, secure, waits) = (Some(false), Some(true), None);
    for (tls, expected) in [
        (RemoteTls::None, [clear, clear, clear]),
        (RemoteTls::Opportunistic, [clear, secure, secure]),
        (RemoteTls::Require, [waits, secure, secure]),
        (RemoteTls::Verify, [waits, waits, secure]),
    ] {
        story(async {
            let hosts = [("plain.test", "10.0.0.1"), ("dubious.test", "10.0.0.2"), ("good.test", "10.0.0.3")];
            let routes = hosts.map(|(domain, address)| route(domain, address, tls));
            let server = Setup::new().config(|c| c.routes = routes.to_vec()).start().await;
            let peers = [
                server.listen("10.0.0.1", Script::default()).await,
                secure_peer(&server, "10.0.0.2", Arc::new(Dubious)).await,
                secure_peer(&server, "10.0.0.3", Arc::new(SimTls)).await,
            ];
            for (domain, _) in hosts {
                server.relay("ann@example.test", &[&format!("eve@{domain}")], CONTENT).await;
            }
            server.pass(MINUTE).await;
            let found = peers.each_ref().map(|peer| peer.taken().first().map(|taken| taken.encrypted));
            assert_eq!(found, expected, "{tls:?}");
            let waiting = expected.iter().filter(|outcome| outcome.is_none()).count();
            assert_eq!((server.count("deferred"), server.queue().await.len()), (waiting, waiting), "{tls:?}");
        });
    }
}
