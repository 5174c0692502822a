//! Domains whose mail goes to the same servers: one line, one bound, one set of connections, one memory of being down.

use std::time::Duration;

use posthouse::system::Endpoint;
use posthouse::system::sim::{Act, Fault, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// A provider with one server, and so many domains that have their mail there.
async fn provider(server: &Server, domains: usize, script: Script) -> Peer {
    for n in 0..domains {
        server.world.dns.mx(&format!("d{n}.test"), &[(10, "mx.provider.test")]);
    }
    server.host("mx.provider.test", "50.2.0.1", script).await
}

#[test]
fn all_domains_of_a_provider_share_their_connections() {
    story(async {
        let server = Setup::new().config(|config| config.remote.concurrency = 5).start().await;
        let peer = provider(&server, 50, Script::default()).await;
        for round in 0..4 {
            for n in 0..50 {
                server.relay("ann@example.test", &[&format!("eve{round}@d{n}.test")], CONTENT).await;
            }
        }
        server.empty().await;
        assert_eq!(peer.taken().len(), 200);
        assert!(peer.connections() <= 5, "{} connections", peer.connections());
    });
}

#[test]
fn a_thousand_messages_to_one_destination_take_no_more_connections_than_its_concurrency() {
    story(async {
        for concurrency in [1, 7, 20] {
            let server = Setup::new().config(|config| config.remote.concurrency = concurrency).start().await;
            let far = server.domain("far.test", Script::default()).await;
            let mut client = server.client(TRUSTED).await;
            for n in 0..1000 {
                if n == 500 {
                    server.handle.pause(None).await.unwrap();
                }
                client.transaction("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT.as_bytes()).await.unwrap();
            }
            server.handle.resume(None).await.unwrap();
            server.empty().await;
            assert_eq!(far.taken().len(), 1000);
            assert!(far.connections() <= concurrency as u64, "{} connections, at most {concurrency}", far.connections());
        }
    });
}

#[test]
fn a_provider_that_is_down_is_found_out_once_for_all_its_domains() {
    story(async {
        let server = Setup::new().start().await;
        let peer = provider(&server, 60, Script::default()).await;
        let at = Endpoint::Tcp(peer.address());
        server.world.net.fault(&at, Some(Fault::Refuse));
        for n in 0..60 {
            server.relay("ann@example.test", &[&format!("eve@d{n}.test")], CONTENT).await;
        }
        server.pass(MINUTE).await;
        assert_eq!((server.count("destination-down"), server.count("deferred"), server.count("postponed")), (1, 3, 57));
        server.pass(HOUR).await;
        assert!(server.count("deferred") < 12, "{} attempts", server.count("deferred"));
        // One probe, of one domain's mail, brings the mail of all of them back.
        server.world.net.fault(&at, None);
        server.event("the end of it", |event| (event.name() == "destination-up").then_some(())).await;
        server.pass(MINUTE).await;
        assert_eq!((peer.taken().len(), server.count("destination-up")), (60, 1));
    });
}

#[test]
fn a_message_for_several_domains_of_a_provider_goes_to_all_of_them_when_it_is_back() {
    story(async {
        let server = Setup::new().start().await;
        let peer = provider(&server, 3, Script::default()).await;
        let slow = server.domain("slow.test", Script::default().always(Stage::Greeting, Act::Stall)).await;
        let at = Endpoint::Tcp(peer.address());
        server.world.net.fault(&at, Some(Fault::Refuse));
        let to = ["eve@d0.test", "eve@d1.test", "eve@d2.test"];
        server.relay("ann@example.test", &to, CONTENT).await;
        server.pass(MINUTE).await;
        for n in 0..5 {
            server.relay("ann@example.test", &to, CONTENT).await;
            // And one that is here for another's sake.
            server.relay("ann@example.test", &[to[n % 3], to[(n + 1) % 3], &format!("eve{n}@slow.test")], CONTENT).await;
            server.pass(40 * MINUTE).await;
        }
        server.world.net.fault(&at, None);
        let taken = || peer.taken().iter().map(|taken| taken.recipients.len()).sum::<usize>();
        while server.count("destination-up") == 0 {
            server.pass(Duration::from_secs(1)).await;
        }
        server.pass(Duration::from_secs(2)).await;
        assert_eq!((taken(), slow.taken().len()), (28, 0));
    });
}

#[test]
fn a_domain_that_moves_away_from_a_dead_provider_takes_its_mail_along() {
    story(async {
        let server = Setup::new().start().await;
        let dead = provider(&server, 4, Script::default()).await;
        server.world.net.fault(&Endpoint::Tcp(dead.address()), Some(Fault::Refuse));
        for n in 0..4 {
            for user in ["eve", "kim", "lou"] {
                server.relay("ann@example.test", &[&format!("{user}@d{n}.test")], CONTENT).await;
            }
        }
        server.pass(MINUTE).await;
        assert_eq!(server.count("destination-down"), 1);
        let other = server.host("mx.other.test", "50.2.0.2", Script::default()).await;
        server.world.dns.mx("d3.test", &[(10, "mx.other.test")]);
        server.pass(30 * MINUTE).await;
        let taken = other.taken();
        assert_eq!((taken.len(), dead.taken().len()), (3, 0));
        assert!(taken.iter().all(|taken| taken.recipients[0].ends_with("@d3.test")));
        assert_eq!(server.count("destination-moved"), 1);
        assert_eq!(server.count("destination-up"), 0, "the dead provider is dead");
    });
}

#[test]
fn a_domain_whose_name_servers_are_silent_holds_up_nobody() {
    story(async {
        let server = Setup::new().start().await;
        server.world.dns.silent("silent.test");
        let far = server.domain("far.test", Script::default()).await;
        server.relay("ann@example.test", &["eve@silent.test"], CONTENT).await;
        let began = server.now();
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.until("the other's mail", || far.taken().len() == 1).await;
        assert!(server.now().since(began) < Duration::from_secs(1));
        let first = server.event("a reason", |event| (event.name() == "deferred").then(|| format!("{event:?}"))).await;
        assert!(first.contains("silent.test"), "{first}");
    });
}
