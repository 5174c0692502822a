//! What there is is shared fairly: senders take turns, and none of them fills what all need.

use std::net::IpAddr;
use std::time::Duration;

use posthouse::config::{DestinationRule, DomainPattern, Outgoing, Share, ShareOf};
use posthouse::mail::{Address, Domain, Origin, Rate};
use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::world::*;
use crate::{drops, submission};

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";

/// Somebody in `relay.networks`, of another network than `TRUSTED`.
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(60, 0, 1, 1));

/// A server from which one message a second goes to far.test, whatever waits.
async fn slow(active: usize, shares: Vec<Share>) -> (Server, Peer) {
    one_in(Duration::from_secs(1), active, shares).await
}

/// The same with one message in such a time.
async fn one_in(period: Duration, active: usize, shares: Vec<Share>) -> (Server, Peer) {
    started(Setup::new(), period, active, shares).await
}

async fn started(setup: Setup, period: Duration, active: usize, shares: Vec<Share>) -> (Server, Peer) {
    let messages_rate = Some(Rate { count: 1, period });
    let outgoing = Outgoing { messages_rate, ..Outgoing::default() };
    let setup = setup.config(|config| {
        config.destinations =
            vec![DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: None, shared: false, outgoing }];
        config.queue.active = active;
        config.shares = shares;
    });
    let server = setup.start().await;
    let far = server.domain("far.test", Script::default()).await;
    (server, far)
}

async fn bulk(server: &Server, from: IpAddr, name: &str, count: usize) {
    let mut client = server.client(from).await;
    for n in 0..count {
        let to = format!("{name}{n}@far.test");
        client.transaction("news@example.test", &[&to], CONTENT.as_bytes()).await.unwrap();
    }
}

fn position(far: &Peer, to: &str) -> Option<usize> {
    far.taken().iter().position(|taken| taken.recipients[0] == to)
}

#[test]
fn a_single_letter_goes_before_the_rest_of_anothers_bulk() {
    story(async {
        let (server, far) = slow(20_000, Vec::new()).await;
        bulk(&server, TRUSTED, "n", 500).await;
        server.pass(Duration::from_secs(10)).await;
        let before = far.taken().len();
        let mut client = server.client(OTHER).await;
        client.transaction("news@example.test", &["eve@far.test"], CONTENT.as_bytes()).await.unwrap();
        server.until("the letter", || position(&far, "eve@far.test").is_some()).await;
        let after = position(&far, "eve@far.test").unwrap() - before;
        assert!(after <= 2, "{after} went before it");
    });
}

#[test]
fn bulk_without_a_sender_is_in_nobodys_way_either() {
    story(async {
        let (server, far) = slow(20_000, Vec::new()).await;
        let mut client = server.client(TRUSTED).await;
        for n in 0..100 {
            client.transaction("", &[&format!("n{n}@far.test")], CONTENT.as_bytes()).await.unwrap();
        }
        let mut client = server.client(OTHER).await;
        client.transaction("ann@example.test", &["eve@far.test"], CONTENT.as_bytes()).await.unwrap();
        server.until("the letter", || position(&far, "eve@far.test").is_some()).await;
        let before = position(&far, "eve@far.test").unwrap();
        assert!(before <= 3, "{before} went before it");
    });
}

#[test]
fn the_bulk_doesnt_fill_the_memory_that_all_need() {
    story(async {
        // Room for a hundred: nearly all of the bulk waits on disk, and goes in the end.
        let (server, far) = slow(100, Vec::new()).await;
        bulk(&server, TRUSTED, "n", 400).await;
        for n in 0..5 {
            server.pass(Duration::from_secs(20)).await;
            let before = far.taken().len();
            let to = format!("eve{n}@far.test");
            let mut client = server.client(OTHER).await;
            client.transaction("ann@example.test", &[&to], CONTENT.as_bytes()).await.unwrap();
            server.until("the letter", || position(&far, &to).is_some()).await;
            let after = position(&far, &to).unwrap() - before;
            assert!(after <= 2, "{after} went before letter {n}");
        }
        server.empty().await;
        assert_eq!((far.taken().len(), server.count("deferred")), (405, 0));
        let took = server.now().since(server.started());
        assert!(took < Duration::from_secs(600), "{took:?}: what waited on disk came back in time");
    });
}

#[test]
fn who_gives_his_bulk_a_low_priority_has_his_letters_go_before_it() {
    story(async {
        // Room for a hundred: most of the bulk waits on disk.
        let (server, far) = slow(100, Vec::new()).await;
        let mut client = server.client(TRUSTED).await;
        for n in 0..300 {
            client.ask("<news@example.test> MT-PRIORITY=-3", &[&format!("<n{n}@far.test>")], CONTENT).await;
        }
        for n in 0..5 {
            let before = far.taken().len();
            let to = format!("eve{n}@far.test");
            client.transaction("ann@example.test", &[&to], CONTENT.as_bytes()).await.unwrap();
            server.until("the letter", || position(&far, &to).is_some()).await;
            let after = position(&far, &to).unwrap() - before;
            assert!(after <= 2, "{after} went before letter {n}");
            server.pass(Duration::from_secs(10)).await;
        }
    });
}

#[test]
fn a_senders_bulk_for_slow_places_is_not_in_the_way_of_his_mail_for_places_that_are_new() {
    story(async {
        let (server, _far) = one_in(HOUR, 100, Vec::new()).await;
        let mut slow = Vec::new();
        for n in 0..8 {
            slow.push(server.domain(&format!("slow{n}.test"), Script::default()).await);
        }
        for n in 0..400 {
            server.relay("news@example.test", &[&format!("n{n}@slow{}.test", n % 8)], CONTENT).await;
        }
        for n in 0..5 {
            let new = server.domain(&format!("new{n}.test"), Script::default()).await;
            let began = server.now();
            server.relay("ann@example.test", &[&format!("eve@new{n}.test")], CONTENT).await;
            server.until("the letter", || new.taken().len() == 1).await;
            let took = server.now().since(began);
            assert!(took < Duration::from_secs(1), "{took:?} for letter {n}");
            server.pass(Duration::from_secs(10)).await;
        }
    });
}

#[test]
fn what_came_during_a_pause_goes_at_once_afterwards_though_most_of_it_waits_on_disk() {
    story(async {
        let domain = || Some(posthouse::mail::Domain::parse("far.test").unwrap());
        for (paused, restarted) in [(None, false), (domain(), false), (None, true)] {
            let setup = Setup::new().config(|config| config.queue.active = 100);
            let mut server = setup.start().await;
            let far = server.domain("far.test", Script::default()).await;
            server.handle.pause(paused.clone()).await.unwrap();
            bulk(&server, TRUSTED, "n", 400).await;
            // Long enough for everything to have settled on disk.
            server.pass(Duration::from_secs(300)).await;
            if restarted {
                server = server.restart().await;
            }
            let resumed = server.now();
            server.handle.resume(paused).await.unwrap();
            server.until("all of it", || far.taken().len() == 400).await;
            let took = server.now().since(resumed);
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
    });
}

#[test]
fn urgent_mail_goes_first_and_then_what_its_sender_wants_delivered_sooner() {
    story(async {
        let (server, far) = slow(20_000, Vec::new()).await;
        far.script(|script| *script = Script::offering(&["PIPELINING", "DELIVERBY"]));
        server.handle.pause(None).await.unwrap();
        bulk(&server, TRUSTED, "n", 10).await;
        let mut client = server.client(TRUSTED).await;
        for (mail, to) in [("BY=90000;R", "late"), ("BY=3600;R", "soon"), ("MT-PRIORITY=4", "urgent"), ("MT-PRIORITY=-4", "idle")]
        {
            client.ask(&format!("<ann@example.test> {mail}"), &[&format!("<{to}@far.test>")], CONTENT).await;
        }
        server.handle.resume(None).await.unwrap();
        server.empty().await;
        let order: Vec<String> = far.taken().iter().map(|taken| taken.recipients[0].replace("@far.test", "")).collect();
        assert_eq!(
            (&order[..4], &order[13..]),
            (&["urgent", "soon", "late", "n0"].map(str::to_owned)[..], &["idle".to_owned()][..])
        );
    });
}

#[test]
fn a_sender_with_mail_for_one_place_beyond_measure_has_his_other_mail_go_at_once() {
    story(async {
        // Nearly all attempts could be one place's: it takes each message half a minute.
        let bounds = |c: &mut posthouse::config::Config| (c.queue.attempts, c.remote.concurrency) = (16, 16);
        let server = Setup::new().config(bounds).start().await;
        let _slow = server.domain("slow.test", Script::default().always(Stage::End, Act::Slow(Duration::from_secs(30)))).await;
        for n in 0..200 {
            server.relay("ann@example.test", &[&format!("n{n}@slow.test")], CONTENT).await;
        }
        server.pass(10 * MINUTE).await;
        for n in 0..5 {
            let place = server.domain(&format!("d{n}.test"), Script::default()).await;
            let began = server.now();
            server.relay("ann@example.test", &[&format!("eve@d{n}.test")], CONTENT).await;
            server.until("the letter", || place.taken().len() == 1).await;
            let took = server.now().since(began);
            assert!(took < Duration::from_secs(1), "{took:?} for letter {n}");
        }
    });
}

/// Forty of sixty messages for far.test of each of two senders, who differ in nothing but what the name says: how many are the other's.
async fn turns(setup: Setup, kind: &str, heavy: ShareOf) -> usize {
    let share = Share { sender: heavy, weight: 3 };
    let (server, far) = started(setup, Duration::from_secs(1), 20_000, vec![share]).await;
    server.handle.pause(None).await.unwrap();
    for name in ["one", "three"] {
        let mut client = match (kind, name) {
            ("client", "three") => server.client(OTHER).await,
            _ => server.client(TRUSTED).await,
        };
        if kind == "login" {
            // base64 of a NUL, the name, a NUL, `secret`.
            let word = if name == "three" { "AGtpbUBleGFtcGxlLnRlc3QAc2VjcmV0" } else { "AGlkYUBleGFtcGxlLnRlc3QAc2VjcmV0" };
            assert!(client.command(&format!("AUTH PLAIN {word}")).await.unwrap().starts_with("235"));
        }
        let from = match (kind, name) {
            ("domain", _) => format!("news@{name}.test"),
            ("login", "three") => "kim@example.test".to_owned(),
            _ => "ida@example.test".to_owned(),
        };
        for n in 0..60 {
            let to = format!("{name}{n}@far.test");
            match kind {
                "domain" => _ = drops::leave(&server, CONTENT, &[&format!("MAIL FROM:<{from}>"), &format!("RCPT TO:<{to}>")]),
                _ => _ = queue_id(&client.transaction(&from, &[&to], CONTENT.as_bytes()).await.unwrap()),
            }
        }
    }
    server.until("all of it", || server.count("accepted") == 120).await;
    server.handle.resume(None).await.unwrap();
    server.until("forty of them", || far.taken().len() >= 40).await;
    far.taken()[..40].iter().filter(|taken| taken.recipients[0].starts_with("three")).count()
}

#[test]
fn two_senders_take_turns_by_their_weights() {
    let logins = || submission::setup().account("kim@example.test");
    let login = ShareOf::Login(Address::parse("kim@example.test").unwrap());
    let domain = ShareOf::Domain(DomainPattern::Exact(Domain::parse("three.test").unwrap()));
    for (kind, setup, heavy) in [
        ("login", logins(), login),
        ("client", Setup::new(), ShareOf::Client("60.0.1.0/24".parse().unwrap())),
        ("domain", Setup::new(), domain),
    ] {
        let heavy = story(turns(setup, kind, heavy));
        assert!((28..=32).contains(&heavy), "{heavy} of 40, by {kind}");
    }
}

#[test]
fn whose_mail_it_is_outlives_a_restart() {
    story(async {
        let origins = async |server: &Server| {
            let queue = server.queue().await;
            queue.iter().map(|message| Origin::of(message).to_string()).collect::<Vec<_>>()
        };
        let server = submission::setup().start().await;
        server.handle.pause(None).await.unwrap();
        let mut ida = submission::ida(&server).await;
        ida.transaction("ida@example.test", &["ann@example.test"], CONTENT.as_bytes()).await.unwrap();
        assert_eq!(origins(&server).await, ["login:ida@example.test"]);
        let server = Setup::new().start().await;
        server.handle.pause(None).await.unwrap();
        server.send("kim@far.test", &["ann@example.test"], CONTENT).await;
        let server = server.restart().await;
        assert_eq!(origins(&server).await, ["client:70.0.0.0/24"]);
    });
}
