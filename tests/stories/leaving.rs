//! What an admin bounds by our own addresses: so much leaves from each, and the rest from others, or later.

use std::net::IpAddr;
use std::time::Duration;

use posthouse::config::{AddressPattern, Config, DestinationRule, DomainPattern, Outgoing, Route, SenderPattern};
use posthouse::mail::{Destination, Domain, Rate, ReversePath};
use posthouse::queue::Why;
use posthouse::system::sim::{Act, Peer, Script, Stage};

use crate::world::*;

const CONTENT: &str = "Subject: hi\r\n\r\nhello\r\n";
const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Everything that leaves from an address: to each destination, or to all together.
fn leaving(source: &str, shared: bool, outgoing: Outgoing) -> DestinationRule {
    DestinationRule { domain: DomainPattern::Any, mx: DomainPattern::Any, source: Some(ip(source)), shared, outgoing }
}

fn hourly(count: u32) -> Option<Rate> {
    Some(Rate { count, period: Duration::from_secs(3600) })
}

fn from(peers: &[&Peer], source: &str) -> usize {
    peers.iter().flat_map(|peer| peer.taken()).filter(|taken| taken.client == ip(source)).count()
}

/// A letter a day keeps a new address from being blocked: the others of the pool take the rest.
#[test]
fn a_new_address_of_a_pool_sends_as_little_as_it_may_and_the_others_the_rest() {
    story(async {
        let new = Outgoing { messages_rate: hourly(3), ..Outgoing::default() };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1"), ip("50.9.9.2")];
            config.destinations = vec![leaving("50.9.9.2", true, new)];
        };
        let server = Setup::new().config(configure).start().await;
        let far = server.domain("far.test", Script::default()).await;
        let other = server.domain("other.test", Script::default()).await;
        for n in 0..20 {
            server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
            server.relay("ann@example.test", &[&format!("eve{n}@other.test")], CONTENT).await;
        }
        server.empty().await;
        let all = [&far, &other];
        assert_eq!((from(&all, "50.9.9.1"), from(&all, "50.9.9.2")), (37, 3));
        server.pass(HOUR).await;
        for n in 0..20 {
            server.relay("ann@example.test", &[&format!("joe{n}@far.test")], CONTENT).await;
        }
        server.empty().await;
        assert_eq!((from(&all, "50.9.9.1"), from(&all, "50.9.9.2")), (54, 6), "and as many in the next hour");
        assert_eq!(server.count("deferred"), 0, "nobody's mail has failed");
    });
}

#[test]
fn what_may_leave_from_the_only_address_waits_and_local_mail_and_notices_do_not() {
    story(async {
        let slow = Outgoing { messages_rate: hourly(2), connections_rate: hourly(2), concurrency: Some(1) };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1")];
            config.destinations = vec![leaving("50.9.9.1", true, slow)];
        };
        let server = Setup::new().config(configure).start().await;
        let no = Script::default().always(Stage::Recipient("nobody@far.test".to_owned()), Act::say("550 5.1.1 no such user"));
        let far = server.domain("far.test", no).await;
        let other = server.domain("other.test", Script::default()).await;
        server.relay("kim@other.test", &["nobody@far.test", "bob@example.test"], CONTENT).await;
        for _ in 0..4 {
            server.relay("ann@example.test", &["eve@far.test", "bob@example.test"], CONTENT).await;
        }
        server.pass(MINUTE).await;
        assert_eq!((far.taken().len(), server.mailbox("bob").len()), (1, 5), "one was refused, one taken");
        assert_eq!(other.taken()[0].reverse_path, "", "the notice has gone");
        let state = server.handle.site(Destination::Mx(Domain::parse("far.test").unwrap()), ReversePath::Null).await.unwrap();
        let state = state.unwrap();
        assert_eq!((state.name.as_str(), state.why), ("hosts:mx.far.test from 50.9.9.1", Some(Why::Source)));
        assert!(state.until.is_some() && state.sources[0].outgoing_messages_rate.as_deref() == Some("2/1h"), "{state:?}");
        let mut seen = Vec::new();
        for _ in 0..2 {
            server.pass(HOUR).await;
            seen.push(far.taken().len());
        }
        assert_eq!(seen, [3, 4]);
        server.empty().await;
        assert_eq!(server.count("deferred"), 0);
    });
}

#[test]
fn connections_from_an_address_are_never_more_than_may_be_wherever_they_lead() {
    story(async {
        let one = Outgoing { concurrency: Some(1), ..Outgoing::default() };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1")];
            let of_news = SenderPattern::Address(AddressPattern::All(Domain::parse("news.test").unwrap()));
            let news = Route { sender: of_news, ..Route::new(DomainPattern::Any, Vec::new()) };
            config.routes = vec![Route { sources: vec![ip("50.9.9.2")], ..news }];
            config.destinations = vec![leaving("50.9.9.2", true, one)];
        };
        let server = Setup::new().config(configure).start().await;
        let far = server.domain("far.test", Script::default()).await;
        let other = server.domain("other.test", Script::default()).await;
        server.relay("x@news.test", &["eve@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        assert!(!far.commands().contains(&"QUIT".to_owned()), "the connection is kept for the next message");
        server.relay("x@news.test", &["eve@other.test"], CONTENT).await;
        server.pass(SECOND).await;
        assert_eq!((other.taken().len(), from(&[&far, &other], "50.9.9.2")), (1, 2));
        assert!(far.commands().contains(&"QUIT".to_owned()), "it had to go before another was made");
        // One that hangs keeps the rest of the newsletter waiting, and nobody else.
        far.script(|script| *script = Script::default().always(Stage::Greeting, Act::Stall));
        server.relay("x@news.test", &["eve@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        server.relay("x@news.test", &["joe@other.test"], CONTENT).await;
        server.relay("ann@example.test", &["joe@other.test"], CONTENT).await;
        server.pass(MINUTE).await;
        let senders: Vec<String> = other.taken().into_iter().skip(1).map(|taken| taken.reverse_path).collect();
        assert_eq!(senders, ["ann@example.test"]);
        server.pass(10 * MINUTE).await;
        assert_eq!(other.taken().len(), 3, "it was given up, and the next had its turn");
        far.script(|script| *script = Script::default());
        server.empty().await;
        assert_eq!(far.taken().len(), 2);
    });
}

#[test]
fn an_address_that_may_make_no_more_connections_leaves_them_to_the_others() {
    story(async {
        let few = Outgoing { connections_rate: hourly(2), ..Outgoing::default() };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1"), ip("50.9.9.2")];
            config.destinations = vec![leaving("50.9.9.2", false, few)];
        };
        let server = Setup::new().config(configure).start().await;
        let far = server.domain("far.test", Script::default()).await;
        for n in 0..20 {
            server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
            // Long enough for connections to be closed.
            server.pass(MINUTE).await;
        }
        assert_eq!((from(&[&far], "50.9.9.1"), from(&[&far], "50.9.9.2"), far.connections()), (18, 2, 20));
        assert_eq!(server.count("deferred"), 0);
    });
}

#[test]
fn what_is_bounded_at_a_destination_is_so_wherever_it_leaves_from() {
    story(async {
        let all = DestinationRule {
            source: None,
            ..leaving("50.9.9.1", false, Outgoing { messages_rate: hourly(4), ..Outgoing::default() })
        };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1")];
            let of_news = SenderPattern::Address(AddressPattern::All(Domain::parse("news.test").unwrap()));
            let news = Route { sender: of_news, ..Route::new(DomainPattern::Any, Vec::new()) };
            config.routes = vec![Route { sources: vec![ip("50.9.9.2")], ..news }];
            config.destinations = vec![leaving("50.9.9.2", false, Outgoing { concurrency: Some(2), ..Outgoing::default() }), all];
        };
        let server = Setup::new().config(configure).start().await;
        let far = server.domain("far.test", Script::default()).await;
        for n in 0..10 {
            server.relay("ann@example.test", &[&format!("eve{n}@far.test")], CONTENT).await;
            server.relay("x@news.test", &[&format!("eve{n}@far.test")], CONTENT).await;
        }
        let mut seen = Vec::new();
        server.pass(MINUTE).await;
        for _ in 0..4 {
            seen.push(far.taken().len());
            server.pass(HOUR).await;
        }
        assert_eq!(seen, [4, 8, 12, 16]);
        let both = (from(&[&far], "50.9.9.1"), from(&[&far], "50.9.9.2"));
        assert_eq!(both, (10, 10), "each has its turns");
    });
}

/// A letter to a mailbox here, whose delivery kim@other.test is told of.
async fn confirmed(server: &Server) {
    server.client(TRUSTED).await.ask("<kim@other.test>", &["<bob@example.test> NOTIFY=SUCCESS"], CONTENT).await;
}

#[test]
fn a_notice_leaves_at_once_and_its_connection_doesnt_stay_beyond_the_bound() {
    story(async {
        let one = Outgoing { concurrency: Some(1), ..Outgoing::default() };
        let configure = |config: &mut Config| {
            config.remote.sources = vec![ip("50.9.9.1")];
            config.destinations = vec![leaving("50.9.9.1", true, one)];
        };
        let server = Setup::new().config(configure).start().await;
        let no = Script::default().always(Stage::Recipient("nobody@far.test".to_owned()), Act::say("550 5.1.1 no such user"));
        let far = server.domain("far.test", no).await;
        let other = server.domain("other.test", Script::default()).await;
        let left = |peer: &Peer| peer.commands().contains(&"QUIT".to_owned());
        server.relay("kim@other.test", &["nobody@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        assert_eq!(
            (other.taken().len(), left(&far), left(&other)),
            (1, false, true),
            "the one that there may be is that to far.test"
        );
        // Where there is room it waits for the next message, and goes when another place needs it.
        server.pass(MINUTE).await;
        far.script(|script| *script = Script::default());
        confirmed(&server).await;
        server.pass(SECOND).await;
        let goodbyes = || other.commands().iter().filter(|command| *command == "QUIT").count();
        assert_eq!((other.taken().len(), goodbyes()), (2, 1));
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        assert_eq!((far.taken().len(), goodbyes()), (1, 2));
        // While another's connection is in use there is none.
        server.pass(MINUTE).await;
        far.script(|script| *script = Script::default().always(Stage::Data, Act::Slow(MINUTE)));
        server.relay("ann@example.test", &["eve@far.test"], CONTENT).await;
        server.pass(SECOND).await;
        confirmed(&server).await;
        server.pass(SECOND).await;
        assert_eq!((far.taken().len(), other.taken().len(), goodbyes()), (1, 3, 3));
        server.empty().await;
        assert_eq!(far.taken().len(), 2);
    });
}
