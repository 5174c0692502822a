//! Routes in all their parts: by sender, by LMTP, from our own addresses, by one family; and changed while mail waits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use posthouse::config::{
    AddressPattern, Config, DomainPattern, Family, HostPort, ListenAddress, Listener, ListenerTls, LmtpAddress, MailStore,
    RemoteTls, Route, RouteHost, RouteLogin, SenderPattern, SpecialAddresses,
};
use posthouse::event::Event;
use posthouse::mail::{Address, Domain, Service};
use posthouse::system;
use posthouse::system::sim::{Act, Peer, Script, SimTls, Stage};
use posthouse::system::{BoxFuture, BoxStream, Net, TlsServer};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A route to a host at this address, port 25.
fn route(domain: &str, address: &str) -> Route {
    let host = HostPort { host: Domain::from_ip(ip(address)), port: Some(25) };
    Route::new(pattern(domain), vec![RouteHost::Tcp(host)])
}

fn pattern(domain: &str) -> DomainPattern {
    if domain == "*" { DomainPattern::Any } else { DomainPattern::Exact(Domain::parse(domain).unwrap()) }
}

fn all_of(domain: &str) -> SenderPattern {
    SenderPattern::Address(AddressPattern::All(Domain::parse(domain).unwrap()))
}

fn recipients(peer: &Peer) -> Vec<String> {
    peer.taken().iter().map(|taken| taken.recipients.join(" ")).collect()
}

#[test]
fn a_sender_who_does_without_tls_is_heard_where_no_route_asks_for_it() {
    story(async {
        let strict = Route { tls: RemoteTls::Verify, ..route("strict.test", "10.0.0.1") };
        let by_mx = Route { tls: RemoteTls::Require, ..Route::new(pattern("named.test"), Vec::new()) };
        let of_sender = Route { sender: all_of("nobody.test"), ..Route::new(pattern("*"), Vec::new()) };
        let server = Setup::new()
            .config(|c| {
                c.remote.tls = RemoteTls::Verify;
                c.routes = vec![strict, by_mx, of_sender];
            })
            .start()
            .await;
        let strict = server.listen("10.0.0.1", Script::default()).await;
        let (far, named) =
            (server.domain("far.test", Script::default()).await, server.domain("named.test", Script::default()).await);
        let content = "Subject: report\r\nTLS-Required: No\r\n\r\nhello\r\n";
        let to = ["joe@far.test", "joe@strict.test", "joe@named.test"];
        server.relay("ann@example.test", &to, CONTENT).await;
        server.until("three waits", || server.count("deferred") == 3).await;
        server.relay("ann@example.test", &to, content).await;
        server.until("two more", || server.count("deferred") + server.count("postponed") == 5 && far.taken().len() == 1).await;
        assert_eq!((strict.taken().len(), named.taken().len()), (0, 0));
        assert!(far.taken()[0].content.ends_with(content.as_bytes()), "the field goes on with the message");
    });
}

#[test]
fn mail_takes_the_route_of_its_sender() {
    story(async {
        let ann = SenderPattern::Address(AddressPattern::Exact(Address::parse("ann@example.test").unwrap()));
        let routes = vec![
            Route { sender: ann, ..route("*", "10.0.0.1") },
            Route { sender: all_of("example.test"), ..route("*", "10.0.0.2") },
            Route { sender: SenderPattern::Null, ..route("*", "10.0.0.3") },
        ];
        let server = Setup::new().config(|c| c.routes = routes).start().await;
        let of_ann = server.listen("10.0.0.1", Script::default()).await;
        let of_all = server.listen("10.0.0.2", Script::default()).await;
        let of_notices = server.listen("10.0.0.3", Script::default()).await;
        let far = server.domain("far.test", Script::default()).await;
        for sender in ["Ann@example.test", "bob@example.test", "joe@sub.example.test"] {
            server
                .relay(
                    sender,
                    &[&format!("for-{}", sender.to_lowercase().replace('@', "-at-")), "eve"]
                        .map(|l| format!("{l}@far.test"))
                        .each_ref()
                        .map(String::as_str),
                    CONTENT,
                )
                .await;
        }
        server.empty().await;
        assert_eq!(recipients(&of_ann), ["for-ann-at-example.test@far.test eve@far.test"]);
        assert_eq!(recipients(&of_all), ["for-bob-at-example.test@far.test eve@far.test"]);
        assert_eq!(recipients(&far), ["for-joe-at-sub.example.test@far.test eve@far.test"]);
        // What comes of mail to nobody goes back on the way of notices.
        server.relay("joe@far.test", &["x@nowhere.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(recipients(&of_notices), ["joe@far.test"]);
        assert!(of_notices.taken()[0].reverse_path.is_empty());
    });
}

#[test]
fn an_lmtp_route_gives_each_recipient_a_result_over_tcp_and_over_a_unix_socket() {
    for unix in [false, true] {
        story(async {
            let hosts = vec![RouteHost::Unix("/run/lmtp".into())];
            let way = if unix { Route::new(pattern("far.test"), hosts) } else { route("far.test", "10.0.0.1") };
            let server = Setup::new().config(|c| c.routes = vec![Route { lmtp: true, ..way }]).start().await;
            let script = Script::lmtp().always(Stage::EndFor("eve@far.test".to_owned()), Act::say("552 5.2.2 full"));
            let peer = if unix {
                Peer::start(server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap(), script)
            } else {
                server.listen("10.0.0.1", script).await
            };
            server.relay("ann@example.test", &["joe@far.test", "eve@far.test"], CONTENT).await;
            server.empty().await;
            assert_eq!(recipients(&peer), ["joe@far.test"]);
            assert!(peer.commands()[0].starts_with("LHLO "), "{:?}", peer.commands());
            let bounce = &server.mails("ann")[0];
            assert!(bounce.contains("5.2.2") && !bounce.contains("joe@far.test"), "{bounce}");
            assert!(server.world.dns.questions().is_empty());
        });
    }
}

#[test]
fn the_store_of_this_site_needs_no_tls_whatever_others_need() {
    story(async {
        let configure = |c: &mut Config| {
            c.remote.tls = RemoteTls::Verify;
            c.remote.family = Family::Ipv6;
            c.remote.sources = vec![ip("2a00::9")];
            c.domains[0].store = MailStore::Lmtp(LmtpAddress::Tcp("10.0.0.1:25".parse().unwrap()));
        };
        let server = Setup::new().config(configure).start().await;
        let store = server.listen("10.0.0.1", Script::lmtp()).await;
        server.send("eve@far.test", &["ann@example.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((recipients(&store), server.count("deferred")), (vec!["ann@example.test".to_owned()], 0));
    });
}

#[test]
fn hosts_are_called_from_the_addresses_that_are_configured() {
    story(async {
        let sources = |c: &mut Config| {
            c.remote.sources = vec![ip("50.9.9.1"), ip("50.9.9.2")];
            let of_bob = Route { sender: all_of("bob.test"), hosts: Vec::new(), ..route("*", "10.0.0.1") };
            c.routes = vec![Route { sources: vec![ip("50.9.9.3")], ..of_bob }];
        };
        let server = Setup::new().config(sources).start().await;
        let far = server.listen("50.2.0.1", Script::default()).await;
        let six = server.listen("2a00::1", Script::default()).await;
        server.world.dns.addresses("far.test", &["2a00::1", "50.2.0.1"]);
        for number in 0..20 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            server.relay("x@bob.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            if number % 2 == 0 {
                // Long enough for connections to be closed.
                server.pass(MINUTE).await;
            }
        }
        let from = |sender: &str| {
            let mut from: Vec<IpAddr> = far.taken().iter().filter(|t| t.reverse_path == sender).map(|t| t.client).collect();
            assert_eq!(from.len(), 20, "{sender}");
            from.sort_unstable();
            from.dedup();
            from
        };
        assert_eq!(from("ann@example.test"), [ip("50.9.9.1"), ip("50.9.9.2")]);
        assert_eq!(from("x@bob.test"), [ip("50.9.9.3")], "nobody's connection is used for others");
        assert!(far.connections() < 40, "connections are used again");
        assert_eq!(six.connections(), 0, "we have no address for IPv6");
    });
}

#[test]
fn what_stays_on_this_machine_needs_no_address_of_ours() {
    story(async {
        let configure = |c: &mut Config| {
            c.remote.sources = vec![ip("50.9.9.1")];
            c.routes = vec![route("filter.test", "127.0.0.1"), route("six.test", "::1")];
        };
        let server = Setup::new().config(configure).start().await;
        let four = server.listen("127.0.0.1", Script::default()).await;
        let six = server.listen("::1", Script::default()).await;
        for _ in 0..2 {
            server.relay("ann@example.test", &["eve@filter.test", "eve@six.test"], CONTENT).await;
            server.empty().await;
        }
        assert!(four.taken().iter().chain(&six.taken()).all(|taken| taken.client != ip("50.9.9.1")));
        assert_eq!((four.taken().len(), four.connections()), (2, 1), "and the connection is used again");
        assert_eq!((six.taken().len(), six.connections()), (2, 1));
    });
}

#[test]
fn a_family_comes_first_or_alone() {
    let cases = [
        (Family::Any, "2a00::1 50.2.0.1"),
        (Family::Ipv6First, "2a00::1 50.2.0.1"),
        (Family::Ipv4First, "50.2.0.1 2a00::1"),
        (Family::Ipv4, "50.2.0.1"),
        (Family::Ipv6, "2a00::1"),
    ];
    for (family, order) in cases {
        for by_route in [false, true] {
            story(async {
                let of_route = Route { family: Some(family), hosts: Vec::new(), ..route("far.test", "10.0.0.1") };
                let configure = |c: &mut Config| if by_route { c.routes = vec![of_route] } else { c.remote.family = family };
                let server = Setup::new().config(configure).start().await;
                let busy = Script::default().always(Stage::Greeting, Act::SayAndClose("421 4.3.2 busy".to_owned()));
                let four = server.listen("50.2.0.1", busy.clone()).await;
                let six = server.listen("2a00::1", busy).await;
                server.world.dns.addresses("far.test", &["50.2.0.1", "2a00::1"]);
                server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
                // The last one called is named.
                let words = server
                    .event("a deferral", |event| match event {
                        Event::Deferred { next_hop, .. } => Some(next_hop.clone()),
                        _ => None,
                    })
                    .await;
                let last = order.split(' ').next_back().unwrap();
                assert!(words.contains(&format!("[{last}]")), "{family:?}: {words}");
                assert_eq!(
                    (four.connections(), six.connections()),
                    (u64::from(order.contains("50.")), u64::from(order.contains("2a")))
                );
            });
        }
    }
}

#[test]
fn a_domain_without_an_address_that_may_be_called_waits() {
    story(async {
        let server = Setup::new().config(|c| c.remote.family = Family::Ipv6).start().await;
        server.host("far.test", "50.2.0.1", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = server
            .event("a deferral", |event| match event {
                Event::Deferred { reply, .. } => Some(reply.clone()),
                _ => None,
            })
            .await;
        assert!(words.contains("our own settings"), "{words}");
    });
}

#[test]
fn a_changed_route_applies_to_mail_that_waits_on_disk() {
    story(async {
        let server = Setup::new().start().await;
        let busy = Script::default().always(Stage::Greeting, Act::SayAndClose("421 4.3.2 busy".to_owned()));
        let far = server.domain("far.test", busy).await;
        let smarthost = server.listen("10.0.0.1", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.until("mail that waits", || server.count("deferred") == 1).await;
        server.pass(MINUTE).await;
        server.reload(|c| c.routes = vec![route("*", "10.0.0.1")]).await.unwrap();
        let asked = far.connections();
        server.empty().await;
        assert_eq!((recipients(&smarthost), far.connections()), (vec!["eve@far.test".to_owned()], asked));
    });
}

#[test]
fn a_changed_route_applies_to_mail_that_waits_for_its_turn() {
    story(async {
        let change = |c: &mut Config| {
            c.remote.concurrency = 1;
            c.remote.special_addresses = SpecialAddresses::Allow;
        };
        let server = Setup::new().config(change).start().await;
        let far = server.domain("far.test", Script::default().once(Stage::AnyRecipient, Act::Stall)).await;
        let smarthost = server.listen("10.0.0.1", Script::default()).await;
        for number in 0..5 {
            server.relay("ann@example.test", &[&format!("eve{number}@far.test")], CONTENT).await;
        }
        server.pass(MINUTE).await;
        assert_eq!((far.taken().len(), far.connections()), (0, 1), "one is under way, the others wait behind it");
        server.reload(|c| c.routes = vec![route("*", "10.0.0.1")]).await.unwrap();
        server.pass(MINUTE).await;
        let expected: Vec<String> = (1..5).map(|number| format!("eve{number}@far.test")).collect();
        assert_eq!(recipients(&smarthost), expected);
        // What was under way ends where it was, and is then tried on the new way.
        server.empty().await;
        assert_eq!((smarthost.taken().len(), far.taken().len()), (5, 0));
    });
}

/// A route to a host where we log in as ann, whose password is "secret".
fn with_login(tls: RemoteTls, address: &str) -> Route {
    let login = RouteLogin { name: "ann@smart.test".to_owned(), password_file: "/conf/password".into() };
    Route { tls, login: Some(login), ..route("*", address) }
}

async fn start_with(password: &str, route: Route) -> Server {
    let setup = Setup::new().config(|c| c.routes = vec![route]);
    write(&setup.disk, "/conf/password", password);
    setup.start().await
}

fn deferral(event: &Event) -> Option<String> {
    match event {
        Event::Deferred { status, reply, .. } => Some(format!("{status} {reply}")),
        _ => None,
    }
}

/// base64 of a NUL, `ann@smart.test`, a NUL, `secret`.
const PLAIN: &str = "AUTH PLAIN AGFubkBzbWFydC50ZXN0AHNlY3JldA==";

#[test]
fn a_smarthost_gets_the_login_over_tls_once_a_connection() {
    for implicit_tls in [false, true] {
        story(async {
            let way = Route { implicit_tls, ..with_login(RemoteTls::Verify, "10.0.0.1") };
            let server = start_with("secret\n", way).await;
            let script = Script::offering(&["PIPELINING", "STARTTLS", "AUTH PLAIN LOGIN"]);
            let listener = server.world.net.listen("10.0.0.1:25".parse().unwrap()).await.unwrap();
            let tls = Arc::new(SimTls);
            let smarthost = match implicit_tls {
                false => Peer::start_with_tls(listener, script, tls),
                true => Peer::start(Box::new(Secured { listener, tls }), script),
            };
            for _ in 0..3 {
                server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
                server.empty().await;
            }
            let commands = smarthost.commands();
            let logins = commands.iter().filter(|command| *command == PLAIN).count();
            assert_eq!((smarthost.taken().len(), smarthost.connections(), logins), (3, 1, 1), "{commands:#?}");
            let (login, mail) = (at(&commands, "AUTH"), at(&commands, "MAIL"));
            let tls = commands.iter().position(|command| command == "STARTTLS");
            assert!(login < mail && tls.is_none_or(|tls| tls < login) && tls.is_some() != implicit_tls, "{commands:#?}");
        });
    }
}

fn at(commands: &[String], verb: &str) -> usize {
    commands.iter().position(|command| command.starts_with(verb)).unwrap()
}

/// A listener whose connections are encrypted from the first octet.
struct Secured {
    listener: Box<dyn system::Listener>,
    tls: Arc<dyn TlsServer>,
}

impl system::Listener for Secured {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            Ok((self.tls.accept(stream).await?.0, peer))
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.listener.local_address()
    }
}

#[test]
fn a_wrong_password_waits_says_so_and_is_not_tried_for_each_message() {
    story(async {
        let server = start_with("secret", with_login(RemoteTls::Require, "10.0.0.1")).await;
        let script = Script::offering(&["STARTTLS", "AUTH PLAIN"]).always(Stage::Auth, Act::say("535 5.7.8 Wrong"));
        let listener = server.world.net.listen("10.0.0.1:25".parse().unwrap()).await.unwrap();
        let smarthost = Peer::start_with_tls(listener, script, Arc::new(SimTls));
        for number in 0..20 {
            server.relay("ann@example.test", &[&format!("eve{number}@far.test")], CONTENT).await;
        }
        let words = server.event("a deferral", deferral).await;
        assert!(words.starts_with("4.7.8 the server refuses our login as ann@smart.test: "), "{words}");
        server.pass(HOUR).await;
        let logins = smarthost.commands().iter().filter(|command| *command == PLAIN).count();
        assert!((1..20).contains(&logins), "{logins}");
        assert_eq!((server.queue().await.len(), server.mails("ann").len()), (20, 0));
        // The file is put right: nobody has to reload.
        write(&server.disk, "/conf/password", "better");
        smarthost.script(|script| *script = Script::offering(&["STARTTLS", "AUTH PLAIN"]));
        server.empty().await;
        assert_eq!(smarthost.taken().len(), 20);
        assert!(smarthost.commands().iter().any(|command| command.starts_with("AUTH PLAIN") && command != PLAIN));
        let told = format!("{:?}", server.events.recorded());
        assert!(!told.contains("secret") && !told.contains("c2VjcmV0"), "no password in the log");
    });
}

#[test]
fn a_password_that_cannot_be_read_is_named_and_mail_waits() {
    story(async {
        let server = Setup::new().config(|c| c.routes = vec![with_login(RemoteTls::Verify, "10.0.0.1")]).start().await;
        let smarthost = server.listen("10.0.0.1", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = server.event("a deferral", deferral).await;
        assert!(words.starts_with("4.3.5") && words.contains("/conf/password"), "{words}");
        assert_eq!(smarthost.connections(), 0);
    });
}

#[test]
fn a_password_goes_out_in_the_clear_only_within_this_machine() {
    let (none, wish) = (RemoteTls::None, RemoteTls::Opportunistic);
    for (tls, address, logged_in) in [(none, "10.0.0.1", false), (none, "127.0.0.1", true), (wish, "10.0.0.1", false)] {
        story(async {
            let server = start_with("secret", with_login(tls, address)).await;
            let script = Script::offering(&["STARTTLS", "AUTH LOGIN"]);
            let smarthost = server.listen(address, script).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.pass(MINUTE).await;
            let said = smarthost.commands().join("\n");
            assert_eq!(
                (said.contains("AUTH LOGIN"), said.contains("c2VjcmV0"), smarthost.taken().len() == 1),
                (logged_in, logged_in, logged_in)
            );
            if !logged_in {
                let words = server.event("a deferral", deferral).await;
                assert!(words.contains("isn't encrypted"), "{words}");
            }
        });
    }
}

#[test]
fn two_servers_of_ours_know_each_other_by_scram() {
    story(async {
        // The smarthost is a Posthouse itself, in the same world.
        let smart = Setup::new().without_users().account("ida@example.test").config(|c| {
            let address = ListenAddress::Tcp("50.9.9.8:25".parse().unwrap());
            let service = Service::Submission;
            c.listeners = vec![Listener { address, service, tls: ListenerTls::StartTls, ..c.listeners[0].clone() }];
        });
        let world = smart.world.clone();
        let smart = smart.start().await;
        let login = RouteLogin { name: "ida@example.test".to_owned(), password_file: "/conf/password".into() };
        let way = Route { tls: RemoteTls::Require, login: Some(login), ..route("*", "50.9.9.8") };
        let mut setup = Setup::new().config(|c| c.routes = vec![way]);
        setup.world = world;
        write(&setup.disk, "/conf/password", "secret");
        let server = setup.start().await;
        let content = "From: ida@example.test\r\nSubject: hi\r\n\r\nhello\r\n";
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ida@example.test", &["eve@far.test"], content).await;
        server.empty().await;
        smart.empty().await;
        let login = smart
            .event("a login", |event| match event {
                Event::Authenticated { mechanism, .. } => Some(mechanism.to_string()),
                _ => None,
            })
            .await;
        assert_eq!(login, "SCRAM-SHA-256");
        let taken = &far.taken()[0];
        let trace = String::from_utf8_lossy(&taken.content).into_owned();
        assert!(taken.reverse_path == "ida@example.test" && trace.contains(" with ESMTPSA id "), "{trace}");
    });
}
