//! The way to other servers: MX records, their absence and their traps, routes, LMTP.

use std::time::Duration;

use posthouse::config::{DomainPattern, HostPort, LmtpAddress, MailStore, Route, RouteHost, SpecialAddresses};
use posthouse::event::Event;
use posthouse::mail::Domain;
use posthouse::system::sim::{Act, Fault, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

fn refusing() -> Script {
    Script::default().always(Stage::Greeting, Act::SayAndClose("421 4.3.2 busy".to_owned()))
}

/// The words of the only bounce, which went to ann.
async fn the_bounce(server: &Server) -> String {
    server.empty().await;
    let mails = server.mails("ann");
    assert_eq!(mails.len(), 1, "{mails:#?}");
    assert!(mails[0].starts_with("Return-Path: <>\r\n"));
    mails[0].replace("\r\n    ", " ")
}

/// The first deferral's words and code.
async fn the_deferral(server: &Server) -> String {
    let deferred = |event: &Event| match event {
        Event::Deferred { status, reply, .. } => Some(format!("{status} {reply}")),
        _ => None,
    };
    server.event("a deferral", deferred).await
}

#[test]
fn the_mx_with_the_lowest_preference_is_tried_first() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(20, "b.far.test"), (10, "a.far.test"), (30, "c.far.test")]);
        let a = server.host("a.far.test", "50.2.0.1", refusing()).await;
        let b = server.host("b.far.test", "50.2.0.2", refusing()).await;
        let c = server.host("c.far.test", "50.2.0.3", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!([&a, &b, &c].map(Peer::connections), [1, 1, 1]);
        assert_eq!(c.taken().len(), 1);
        a.script(|script| *script = Script::default());
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((a.taken().len(), c.taken().len()), (1, 1));
    });
}

#[test]
fn equal_mx_hosts_are_chosen_at_random() {
    let mut first = Vec::new();
    for seed in 0..12 {
        first.push(story(async {
            let server = Setup::seeded(seed).start().await;
            server.world.dns.mx("far.test", &[(10, "a.far.test"), (10, "b.far.test")]);
            let a = server.host("a.far.test", "50.2.0.1", Script::default()).await;
            let b = server.host("b.far.test", "50.2.0.2", Script::default()).await;
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            assert_eq!(a.taken().len() + b.taken().len(), 1);
            a.taken().len()
        }));
    }
    let a: usize = first.iter().sum();
    assert!((2..=10).contains(&a), "{first:?}");
}

#[test]
fn without_mx_the_domains_own_address_counts() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.host("far.test", "50.2.0.1", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(far.taken().len(), 1);
    });
}

#[test]
fn a_null_mx_bounces_at_once() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(0, ".")]);
        server.world.dns.addresses("far.test", &["50.2.0.1"]);
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let bounce = the_bounce(&server).await;
        assert!(bounce.contains("Status: 5.1.10"), "{bounce}");
        assert!(server.now().since(server.started()) < MINUTE);
    });
}

#[test]
fn a_domain_that_does_not_exist_bounces_at_once() {
    story(async {
        let server = Setup::new().start().await;
        server.relay("ann@example.test", &["eve@nowhere.test"], CONTENT).await;
        let bounce = the_bounce(&server).await;
        assert!(bounce.contains("Status: 5.1.2") && bounce.contains("nowhere.test"), "{bounce}");
        assert!(server.now().since(server.started()) < MINUTE);
    });
}

#[test]
fn a_dns_failure_defers_until_the_dns_is_back() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.unavailable("far.test", "DNS answer Server Failure");
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = the_deferral(&server).await;
        assert!(words.starts_with("4.4.3") && words.contains("Server Failure"), "{words}");
        let far = server.domain("far.test", Script::default()).await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.mails("ann").len()), (1, 0));
    });
}

#[test]
fn a_dns_that_never_answers_defers() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.silent("far.test");
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = the_deferral(&server).await;
        assert!(words.starts_with("4.4.3") && words.contains("time-out"), "{words}");
    });
}

#[test]
fn an_mx_host_whose_address_cannot_be_found_now_defers() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(10, "mx.far.test")]);
        server.world.dns.unavailable("mx.far.test", "DNS answer Refused");
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let words = the_deferral(&server).await;
        assert!(words.contains("Refused"), "{words}");
    });
}

#[test]
fn a_cname_is_followed() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.domain("far.test", Script::default()).await;
        server.world.dns.alias("other.test", "far.test");
        server.relay("ann@example.test", &["eve@other.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(far.taken()[0].recipients, ["eve@other.test"]);
    });
}

#[test]
fn special_addresses_of_strangers_are_not_called() {
    story(async {
        let server = Setup::new().start().await;
        let inside = server.listen("10.0.0.5", Script::default()).await;
        let loopback = server.listen("127.0.0.1", Script::default()).await;
        server.world.dns.addresses("far.test", &["10.0.0.5", "127.0.0.1", "::1", "fd00::1"]);
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let bounce = the_bounce(&server).await;
        assert!(bounce.contains("private or reserved"), "{bounce}");
        assert_eq!((inside.connections(), loopback.connections()), (0, 0));
    });
}

#[test]
fn special_addresses_are_called_where_the_admin_allows_it() {
    story(async {
        let allow = SpecialAddresses::Allow;
        let server = Setup::new().config(|c| c.remote.special_addresses = allow).start().await;
        let inside = server.host("far.test", "10.0.0.5", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(inside.taken().len(), 1);
    });
}

#[test]
fn an_mx_that_is_ourselves_is_a_loop() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.addresses("far.test", &[OURSELVES]);
        server.world.dns.mx("other.test", &[(10, "mail.example.test")]);
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        let bounce = the_bounce(&server).await;
        assert!(bounce.contains("Status: 5.4.6"), "{bounce}");
        server.relay("bob@example.test", &["eve@other.test"], CONTENT).await;
        server.empty().await;
        assert!(server.mails("bob")[0].contains("Status: 5.4.6"));
        assert_eq!(server.count("accepted"), 2);
    });
}

#[test]
fn a_backup_mx_passes_mail_only_to_better_ones() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.mx("far.test", &[(10, "a.far.test"), (20, "mail.example.test"), (30, "c.far.test")]);
        let a = server.host("a.far.test", "50.2.0.1", refusing()).await;
        let c = server.host("c.far.test", "50.2.0.3", Script::default()).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        the_deferral(&server).await;
        a.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!((a.taken().len(), c.connections()), (1, 0));
    });
}

#[test]
fn an_address_that_refuses_the_connection_gives_way_to_the_next() {
    story(async {
        let server = Setup::new().start().await;
        let far = server.listen("50.2.0.3", Script::default()).await;
        server.world.dns.addresses("far.test", &["50.2.0.1", "50.2.0.2", "50.2.0.3", "2a00::1"]);
        server.world.net.fault(&Server::endpoint("50.2.0.2"), Some(Fault::Stall));
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("deferred")), (1, 0));
    });
}

#[test]
fn a_greeting_of_4xx_leads_to_the_next_address() {
    story(async {
        let server = Setup::new().start().await;
        let a = server.listen("50.2.0.1", refusing()).await;
        let b = server.listen("50.2.0.2", refusing()).await;
        let c = server.listen("2a00::3", Script::default()).await;
        server.world.dns.addresses("far.test", &["50.2.0.1", "50.2.0.2", "2a00::3"]);
        for _ in 0..6 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.empty().await;
            server.pass(MINUTE).await;
        }
        assert_eq!((c.taken().len(), server.count("deferred")), (6, 0));
        assert_eq!(a.taken().len() + b.taken().len(), 0);
    });
}

fn host(name: &str, port: u16) -> RouteHost {
    RouteHost::Tcp(HostPort { host: Domain::parse(name).unwrap(), port: Some(port) })
}

#[test]
fn a_smarthost_gets_everything_that_is_not_ours() {
    story(async {
        let smarthost = Route::new(DomainPattern::Any, vec![host("[10.0.0.7]", 25)]);
        let server = Setup::new().config(|c| c.routes = vec![smarthost]).start().await;
        let peer = server.listen("10.0.0.7", Script::default()).await;
        let to = ["eve@far.test", "joe@nowhere.test", "bob@example.test"];
        server.relay("ann@example.test", &to, CONTENT).await;
        server.empty().await;
        assert_eq!(peer.taken()[0].recipients, ["eve@far.test", "joe@nowhere.test"]);
        assert_eq!((peer.taken().len(), server.mailbox("bob").len()), (1, 1));
        assert!(server.world.dns.questions().is_empty());
    });
}

#[test]
fn a_route_for_a_domain_goes_before_its_mx() {
    story(async {
        let below = DomainPattern::Below(Domain::parse("partner.test").unwrap());
        let exact = DomainPattern::Exact(Domain::parse("partner.test").unwrap());
        let routes = vec![
            Route::new(exact, vec![host("first.route.test", 25), host("second.route.test", 25)]),
            Route::new(below, vec![host("[10.0.0.9]", 25)]),
        ];
        let server = Setup::new().config(|c| c.routes = routes).start().await;
        let second = server.host("second.route.test", "10.0.0.8", Script::default()).await;
        let other = server.listen("10.0.0.9", Script::default()).await;
        let by_mx = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["a@partner.test", "b@sub.partner.test", "c@far.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(second.taken()[0].recipients, ["a@partner.test"]);
        assert_eq!(other.taken()[0].recipients, ["b@sub.partner.test"]);
        assert_eq!(by_mx.taken()[0].recipients, ["c@far.test"]);
    });
}

#[test]
fn an_address_literal_is_called_as_it_stands() {
    story(async {
        let server = Setup::new().start().await;
        let peer = server.listen("50.3.0.1", Script::default()).await;
        server.relay("ann@example.test", &["eve@[50.3.0.1]"], CONTENT).await;
        server.empty().await;
        assert_eq!(peer.taken()[0].recipients, ["eve@[50.3.0.1]"]);
        assert!(server.world.dns.questions().is_empty());
    });
}

#[test]
fn a_domain_with_lmtp_gets_its_mail_there_with_a_result_for_each() {
    story(async {
        let lmtp = MailStore::Lmtp(LmtpAddress::Unix("/run/lmtp".into()));
        let server = Setup::new().config(|c| c.domains[0].store = lmtp).start().await;
        let listener = server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap();
        let full = Act::say("452 4.2.2 mailbox full");
        let script = Script::lmtp().once(Stage::EndFor("bob@example.test".to_owned()), full);
        let peer = Peer::start(listener, script);
        server.send("eve@far.test", &["ann@example.test", "bob@example.test"], CONTENT).await;
        server.empty().await;
        let taken: Vec<_> = peer.taken().iter().map(|taken| taken.recipients.join(" ")).collect();
        assert_eq!(taken, ["ann@example.test", "bob@example.test"]);
        assert_eq!((server.count("deferred"), server.count("delivered")), (1, 2));
        assert!(peer.commands()[0].starts_with("LHLO "));
    });
}

#[test]
fn an_lmtp_store_gets_many_messages_over_one_connection() {
    story(async {
        let lmtp = MailStore::Lmtp(LmtpAddress::Unix("/run/lmtp".into()));
        let server = Setup::new().config(|c| c.domains[0].store = lmtp).start().await;
        let listener = server.world.net.listen_unix("/run/lmtp".as_ref()).unwrap();
        let peer = Peer::start(listener, Script::lmtp());
        for _ in 0..20 {
            server.send("eve@far.test", &["ann@example.test", "bob@example.test"], CONTENT).await;
            server.pass(Duration::from_secs(1)).await;
        }
        assert_eq!((peer.taken().len(), peer.connections()), (40, 1));
    });
}

#[test]
fn a_domain_with_letters_beyond_ascii_is_looked_up_by_its_a_label() {
    story(async {
        let server = Setup::new().aliases("far: eve@b\u{fc}cher.test\n").start().await;
        let far = server.domain("xn--bcher-kva.test", Script::default()).await;
        server.send("eve@other.test", &["far@example.test"], CONTENT).await;
        server.empty().await;
        assert_eq!(far.taken()[0].recipients, ["eve@xn--bcher-kva.test"]);
    });
}
