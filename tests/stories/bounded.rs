//! What an admin bounds at a destination: at a time, and in a time; never local mail, never a notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use posthouse::config::{DestinationRule, DomainPattern, HostPort, Outgoing, RemoteTls, Route, RouteHost};
use posthouse::event::Event;
use posthouse::mail::{Domain, Rate};
use posthouse::system::sim::{Act, Calling, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

fn below(name: &str) -> DomainPattern {
    DomainPattern::Below(Domain::parse(name).unwrap())
}

/// Everything that goes to hosts below provider.test, within these bounds.
fn provider(outgoing: Outgoing) -> DestinationRule {
    DestinationRule { domain: DomainPattern::Any, mx: below("provider.test"), source: None, shared: false, outgoing }
}

fn rate(count: u32, seconds: u64) -> Option<Rate> {
    Some(Rate { count, period: Duration::from_secs(seconds) })
}

/// So many messages an hour.
fn hourly(count: u32) -> DestinationRule {
    provider(Outgoing { messages_rate: rate(count, 3600), ..Outgoing::default() })
}

/// A server, and the only host of far.test, within these bounds.
async fn far_at_provider(outgoing: Outgoing) -> (Server, Peer) {
    let server = Setup::new().config(|config| config.destinations = vec![provider(outgoing)]).start().await;
    let peer = server.host("mx.provider.test", "50.2.0.1", Script::default()).await;
    server.world.dns.mx("far.test", &[(10, "mx.provider.test")]);
    (server, peer)
}

/// The same when of five messages the first has gone, and the others wait for the next hours.
async fn one_of_five_an_hour() -> (Server, Peer) {
    let (server, peer) = far_at_provider(hourly(1).outgoing).await;
    for n in 0..5 {
        server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
    }
    server.pass(MINUTE).await;
    assert_eq!(peer.taken().len(), 1);
    (server, peer)
}

#[test]
fn outgoing_concurrency_is_that_of_all_domains_of_the_hosts() {
    story(async {
        let outgoing = Outgoing { concurrency: Some(2), ..Outgoing::default() };
        let server = Setup::new().config(|config| config.destinations = vec![provider(outgoing)]).start().await;
        let script = Script::default();
        let peer = server.host("mx.provider.test", "50.2.0.1", script).await;
        for n in 0..10 {
            server.world.dns.mx(&format!("d{n}.test"), &[(10, "mx.provider.test")]);
        }
        server.handle.pause(None).await.unwrap();
        for round in 0..20 {
            for n in 0..10 {
                server.relay("ann@example.test", &[&format!("eve{round}@d{n}.test")], CONTENT).await;
            }
        }
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        assert_eq!((peer.taken().len(), peer.connections()), (200, 2));
    });
}

/// The most connections to hosts below 50.2. that there are at a time from now on.
fn most_at_a_time(server: &Server) -> Arc<AtomicUsize> {
    let (open, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let told = Arc::clone(&most);
    server.world.net.watch(move |to, _, what| {
        match what {
            _ if !to.to_string().starts_with("50.2.") => {}
            Calling::Began => {}
            Calling::Made => _ = told.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed),
            Calling::Over => _ = open.fetch_sub(1, Ordering::Relaxed),
        };
    });
    most
}

#[test]
fn a_server_that_says_nothing_to_quit_holds_its_mail_up_for_seconds_only() {
    story(async {
        let outgoing = Outgoing { concurrency: Some(1), ..Outgoing::default() };
        let server = Setup::new().config(|config| config.destinations = vec![provider(outgoing)]).start().await;
        let mute = Script::default().always(Stage::Quit, Act::Stall);
        let peer = server.host("mx.provider.test", "50.2.0.1", mute).await;
        server.world.dns.mx("d.test", &[(10, "mx.provider.test")]);
        server.relay("ann@example.test", &["eve@d.test"], CONTENT).await;
        // Long enough for the connection to be let go.
        server.pass(Duration::from_secs(15)).await;
        assert_eq!(peer.commands().last().map(String::as_str), Some("QUIT"));
        server.relay("ann@example.test", &["eve@d.test"], CONTENT).await;
        server.pass(Duration::from_secs(6)).await;
        assert_eq!(peer.taken().len(), 2);
    });
}

#[test]
fn a_connection_counts_until_its_goodbye_is_over() {
    story(async {
        let outgoing = Outgoing { concurrency: Some(1), ..Outgoing::default() };
        let rule = DestinationRule { shared: true, ..provider(outgoing) };
        let server = Setup::new().config(|config| config.destinations = vec![rule]).start().await;
        let polite = || Script::default().always(Stage::Quit, Act::Slow(Duration::from_millis(300)));
        let mut peers = Vec::new();
        for n in 0..3 {
            server.world.dns.mx(&format!("d{n}.test"), &[(10, &format!("mx{n}.provider.test"))]);
            peers.push(server.host(&format!("mx{n}.provider.test"), &format!("50.2.0.{n}"), polite()).await);
        }
        let most = most_at_a_time(&server);
        for round in 0..10 {
            for n in 0..3 {
                server.relay("ann@example.test", &[&format!("eve{round}@d{n}.test")], CONTENT).await;
            }
            // What a reload closes is not gone at once either.
            if round % 3 == 2 {
                server.pass(Duration::from_millis(350)).await;
                server.reload(|_| {}).await.unwrap();
            }
        }
        server.empty().await;
        assert_eq!(peers.iter().map(|peer| peer.taken().len()).sum::<usize>(), 30);
        assert_eq!(most.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn outgoing_messages_rate_holds_the_destinations_mail_up_and_nobody_elses() {
    story(async {
        let outgoing = Outgoing { messages_rate: rate(5, 60), ..Outgoing::default() };
        let (server, peer) = far_at_provider(outgoing).await;
        let other = server.domain("other.test", Script::default()).await;
        for n in 0..20 {
            server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
            server.relay("ann@example.test", &[&format!("eve{n}@other.test"), "bob@example.test"], CONTENT).await;
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            server.pass(Duration::from_secs(30)).await;
            seen.push(peer.taken().len());
            server.pass(Duration::from_secs(30)).await;
        }
        assert_eq!(seen, [5, 10, 15, 20]);
        assert_eq!((other.taken().len(), server.mailbox("bob").len()), (20, 20));
        server.empty().await;
        assert_eq!(server.count("deferred"), 0, "to wait for one's turn is no failure");
    });
}

#[test]
fn a_domain_with_bounds_of_its_own_is_set_apart_from_others_at_the_same_hosts() {
    story(async {
        let outgoing = Outgoing { messages_rate: rate(1, 3600), ..Outgoing::default() };
        let domain = DomainPattern::Exact(Domain::parse("d0.test").unwrap());
        let rule = DestinationRule { domain, mx: DomainPattern::Any, ..provider(outgoing) };
        let server = Setup::new().config(|config| config.destinations = vec![rule]).start().await;
        let peer = server.host("mx.provider.test", "50.2.0.1", Script::default()).await;
        for n in 0..2 {
            server.world.dns.mx(&format!("d{n}.test"), &[(10, "mx.provider.test")]);
        }
        for n in 0..10 {
            server.relay("ann@example.test", &[&format!("eve{n}@d0.test")], CONTENT).await;
            server.relay("ann@example.test", &[&format!("eve{n}@d1.test")], CONTENT).await;
        }
        server.pass(MINUTE).await;
        let of = |domain: &str| peer.taken().iter().filter(|taken| taken.recipients[0].ends_with(domain)).count();
        assert_eq!((of("d0.test"), of("d1.test")), (1, 10));
        server.pass(HOUR).await;
        assert_eq!(of("d0.test"), 2);
    });
}

#[test]
fn a_reload_buys_no_connection() {
    story(async {
        let outgoing = Outgoing { connections_rate: rate(1, 3600), ..Outgoing::default() };
        let (server, peer) = far_at_provider(outgoing).await;
        for _ in 0..3 {
            server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
            server.pass(MINUTE).await;
            server.reload(|_| {}).await.unwrap();
        }
        server.pass(MINUTE).await;
        assert_eq!((peer.connections(), peer.taken().len()), (1, 1));
        server.empty().await;
        assert_eq!(peer.taken().len(), 3);
    });
}

#[test]
fn a_notice_and_local_mail_wait_for_no_rate() {
    story(async {
        // However it is written, it is for mail to others.
        let outgoing = Outgoing { messages_rate: rate(1, 3600), connections_rate: rate(1, 3600), concurrency: Some(1) };
        let all = DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: None, shared: false, outgoing };
        let server = Setup::new().config(|config| config.destinations = vec![all]).start().await;
        let no = Script::default().always(Stage::Recipient("nobody@far.test".to_owned()), Act::say("550 5.1.1 no such user"));
        let far = server.domain("far.test", no).await;
        server.relay("kim@far.test", &["nobody@far.test"], CONTENT).await;
        server.relay("kim@far.test", &["eve@far.test", "ann@example.test"], CONTENT).await;
        server.pass(MINUTE).await;
        let taken = far.taken();
        assert_eq!(taken.len(), 1, "the bounce, and not the second letter");
        assert_eq!((taken[0].reverse_path.as_str(), taken[0].recipients[0].as_str()), ("", "kim@far.test"));
        assert_eq!(server.mailbox("ann").len(), 1);
        server.pass(HOUR).await;
        assert_eq!(far.taken().len(), 2);
    });
}

#[test]
fn mail_of_others_without_a_sender_is_no_notice() {
    story(async {
        let outgoing = Outgoing { messages_rate: rate(2, 3600), concurrency: Some(1), ..Outgoing::default() };
        let all = DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: None, shared: false, outgoing };
        let server = Setup::new().config(|config| config.destinations = vec![all]).start().await;
        let far = server.domain("far.test", Script::default()).await;
        for n in 0..10 {
            server.relay("", &[&format!("eve{n}@far.test")], CONTENT).await;
        }
        server.pass(MINUTE).await;
        assert_eq!((far.taken().len(), far.connections()), (2, 1));
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("deferred")), (10, 0));
    });
}

#[test]
fn outgoing_connections_rate_counts_connections_and_not_messages() {
    story(async {
        let outgoing = Outgoing { connections_rate: rate(2, 60), ..Outgoing::default() };
        let (server, peer) = far_at_provider(outgoing).await;
        // Takes one message a connection.
        let short = Script::default().always(Stage::End, Act::SayAndClose("250 2.0.0 taken".to_owned()));
        server.handle.pause(None).await.unwrap();
        for n in 0..50 {
            server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
        }
        server.handle.resume(None).await.unwrap();
        server.pass(Duration::from_secs(5)).await;
        assert_eq!((peer.taken().len(), peer.connections()), (50, 2), "over the connections that there are");
        server.pass(10 * MINUTE).await;
        peer.script(|script| *script = short);
        for n in 0..5 {
            server.relay("ann@example.test", &[&format!("kim{n}@far.test")], CONTENT).await;
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            server.pass(Duration::from_secs(30)).await;
            seen.push(peer.connections() - 2);
            server.pass(Duration::from_secs(30)).await;
        }
        assert_eq!(seen, [2, 4, 5]);
        server.empty().await;
        assert_eq!((peer.taken().len(), server.count("deferred")), (55, 0));
    });
}

#[test]
fn a_reload_applies_to_what_waits() {
    story(async {
        let (server, peer) = one_of_five_an_hour().await;
        server.reload(|config| config.destinations.clear()).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!(peer.taken().len(), 5);
    });
}

#[test]
fn a_changed_bound_counts_what_went_before_it() {
    story(async {
        let (server, peer) = one_of_five_an_hour().await;
        server.reload(|config| config.destinations = vec![hourly(3)]).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!(peer.taken().len(), 3);
        // Set apart, it is another destination, and counts anew.
        let apart = DestinationRule { domain: DomainPattern::Exact(Domain::parse("far.test").unwrap()), ..hourly(1) };
        server.reload(|config| config.destinations = vec![apart]).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!(peer.taken().len(), 4);
    });
}

#[test]
fn who_waits_for_a_connection_is_said_to_and_not_to_be_attempted_twice() {
    story(async {
        let (server, peer) = far_at_provider(Outgoing { connections_rate: rate(1, 60), ..Outgoing::default() }).await;
        // Each message takes a connection of its own.
        peer.script(|script| *script = script.clone().always(Stage::End, Act::SayAndClose("250 2.0.0 taken".to_owned())));
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE / 2).await;
        let second = server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.empty().await;
        let life = server.events.recorded().into_iter().filter_map(|event| match event {
            Event::Attempting { id, recipients: 1, .. } if id == second => Some("attempting"),
            Event::Waiting { id, recipients: 1, next_attempt, .. } if id == second => {
                assert_eq!(next_attempt.since(server.started()).as_secs(), 60);
                Some("waiting")
            }
            Event::Delivered { id, attempts: 1, .. } if id == second => Some("delivered"),
            _ => None,
        });
        assert_eq!(life.collect::<Vec<_>>(), ["attempting", "waiting", "attempting", "delivered"]);
    });
}

#[test]
fn a_route_that_is_added_makes_nothing_forgotten_of_the_others() {
    story(async {
        let route = |domain: &str, tls| {
            let host = HostPort { host: Domain::parse("mx.provider.test").unwrap(), port: None };
            Route { tls, ..Route::new(DomainPattern::Exact(Domain::parse(domain).unwrap()), vec![RouteHost::Tcp(host)]) }
        };
        let (server, peer) = far_at_provider(hourly(1).outgoing).await;
        let old = route("far.test", RemoteTls::None);
        server.reload(|config| config.routes = vec![old.clone()]).await.unwrap();
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(MINUTE).await;
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.reload(|config| config.routes = vec![route("new.test", RemoteTls::Opportunistic), old.clone()]).await.unwrap();
        server.pass(MINUTE).await;
        assert_eq!(peer.taken().len(), 1);
        server.pass(HOUR).await;
        assert_eq!(peer.taken().len(), 2);
    });
}

#[test]
fn rates_of_more_destinations_than_are_remembered_are_told() {
    story(async {
        let all = Outgoing { messages_rate: rate(1, 86_400), ..Outgoing::default() };
        let rule = DestinationRule { mx: DomainPattern::Any, ..provider(all) };
        let server = Setup::new().config(|config| config.destinations = vec![rule]).start().await;
        let mut client = server.client(TRUSTED).await;
        for message in 0..820 {
            // Domains that don't exist: each is tried once.
            let to: Vec<String> = (0..25).map(|n| format!("eve@d{message}-{n}.test")).collect();
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            queue_id(&client.transaction_with("ann@example.test", &to, " NOTIFY=NEVER", CONTENT.as_bytes()).await.unwrap());
        }
        server.empty().await;
        server.pass(2 * MINUTE).await;
        let told = server.events.recorded().into_iter().filter_map(|event| match event {
            Event::RatesForgotten { destinations } => Some(destinations),
            _ => None,
        });
        assert_eq!(told.sum::<u64>(), 500);
    });
}
