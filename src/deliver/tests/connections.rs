//! Connections kept, taken and closed while several attempts of a site end or begin at one time: the bound holds in between, too.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::connection::{Call, Connection};
use super::super::connections::{Permit, Wanted};
use super::*;
use crate::config::Source;
use crate::smtp::client::{Settings, StartTls, Timeouts};
use crate::system::sim::Calling;

/// Two connections at the most, to the site or from an address of ours.
const TWO: Outgoing = Outgoing { concurrency: Some(2), messages_rate: None, connections_rate: None };

impl Scene {
    fn permit(&self, outgoing: Outgoing, sources: &[Source]) -> Permit {
        self.deliverer.connections.permit(&Site::Own(mx()), outgoing, sources.to_vec())
    }

    /// What an attempt does that finds no idle connection: waits until there is room for another.
    async fn open(&self, permit: &Permit, host: &Host, source: Option<IpAddr>) -> Connection {
        permit.make_room(source).await;
        let Deliverer { config, system, tls, passwords, .. } = &*self.deliverer;
        let settings = Settings {
            hello: config.hostname.clone(),
            lmtp: false,
            starttls: StartTls::Never,
            timeouts: Timeouts::of(config.remote.reply_timeout),
            mark: None,
            login: None,
        };
        let call = Call {
            system,
            tls: &**tls,
            passwords,
            settings,
            connect_timeout: config.remote.connect_timeout,
            source,
            implicit_tls: false,
            verify: false,
            certain: false,
        };
        Connection::open(call, host).await.unwrap_or_else(|unopened| panic!("{:?}", unopened.diagnosis))
    }

    /// The hosts of the destination.
    fn hosts(&self) -> Vec<Host> {
        self.routes.hosts.lock().unwrap()[&mx()].clone()
    }

    /// The connections that there are now, and, in the other, how many there were at the most.
    fn counted(&self) -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, max) = (open.clone(), most.clone());
        self.world.net.watch(move |_, _, what| match what {
            Calling::Began => {}
            Calling::Made => _ = max.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed),
            Calling::Over => _ = now.fetch_sub(1, Ordering::Relaxed),
        });
        (open, most)
    }
}

fn load(count: &AtomicUsize) -> usize {
    count.load(Ordering::Relaxed)
}

/// Whether it is done without anybody having to leave.
async fn at_once(future: impl Future) -> bool {
    tokio::select! {
        biased;
        _ = future => true,
        () = std::future::ready(()) => false,
    }
}

/// Two attempts have left their connections, and neither is over yet; then others want connections, at the same time too.
async fn two_end_at_once(outgoing: Outgoing, sources: &[Source]) {
    let scene = scene();
    let goodbye = Script::default().always(Stage::Quit, Act::Slow(Duration::from_secs(1)));
    let first = scene.peer(&mx(), goodbye.clone()).await;
    let _second = scene.peer(&mx(), goodbye).await;
    let (open, most) = scene.counted();
    let hosts = scene.hosts();
    let ips: Vec<IpAddr> = sources.iter().map(|source| source.ip).collect();
    let from = ips.first().copied();
    let permit = || scene.permit(outgoing, sources);
    let (one, two) = (permit(), permit());
    let connections = [scene.open(&one, &hosts[0], from).await, scene.open(&two, &hosts[0], from).await];
    for (permit, connection) in [&one, &two].into_iter().zip(connections) {
        permit.keep(connection);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(!first.commands().contains(&"QUIT".to_owned()), "neither is closed for the other's sake");
    assert_eq!(load(&open), 2);

    let (three, four) = (permit(), permit());
    let wanted = Wanted { host: &hosts[0], tls: RemoteTls::None, sources: &ips, certain: false };
    let reused = three.reuse(&wanted);
    assert!(reused.is_some(), "one that ended left it");
    assert!(!at_once(four.make_room(from)).await, "one in use and one that leaves are as many as there may be");
    assert_eq!((load(&open), load(&most)), (2, 2));
    let other = scene.open(&four, &hosts[1], from).await;
    assert_eq!((load(&open), load(&most)), (2, 2), "it was made once the other had gone");
    // These end at once, too, and two that begin want another host each.
    three.keep(reused.unwrap());
    four.keep(other);
    let (five, six) = (permit(), permit());
    let made = tokio::join!(scene.open(&five, &hosts[1], from), scene.open(&six, &hosts[1], from));
    assert_eq!((load(&open), load(&most)), (2, 2));
    drop(made);
}

#[test]
fn attempts_that_end_at_once_keep_the_bound_on_a_site() {
    run(two_end_at_once(TWO, &[]));
}

#[test]
fn attempts_that_end_at_once_keep_the_bound_on_an_address_of_ours() {
    let source = Source { ip: "192.0.2.77".parse().unwrap(), scope: "from 192.0.2.77".into(), outgoing: TWO };
    run(two_end_at_once(Outgoing::default(), &[source]));
}

#[test]
fn what_a_deliverer_closes_takes_the_place_of_what_the_next_one_makes() {
    run(async {
        let scene = scene();
        let goodbye = Script::default().always(Stage::Quit, Act::Slow(Duration::from_secs(1)));
        let peer = scene.peer(&mx(), goodbye).await;
        let (open, most) = scene.counted();
        let one = scene.permit(TWO, &[]);
        let two = scene.permit(TWO, &[]);
        let host = &scene.hosts()[0];
        let (idle, busy) = (scene.open(&one, host, None).await, scene.open(&two, host, None).await);
        one.keep(idle);
        // Nobody waits for it.
        drop(scene.deliverer.close());
        let Deliverer { config, system, events, mark, .. } = &*scene.deliverer;
        let routes = scene.routes.clone();
        let next = Deliverer::new(config.clone(), routes, system.clone(), events.clone(), mark.clone(), scene.memory.clone());
        let three = next.connections.permit(&Site::Own(mx()), TWO, Vec::new());
        assert!(!at_once(three.make_room(None)).await, "one in use, and one that leaves");
        // What ends now is closed, and counts as long as that takes.
        two.keep(busy);
        assert!(!at_once(three.make_room(None)).await, "two that leave");
        three.make_room(None).await;
        assert_eq!((load(&open), load(&most)), (0, 2));
        assert_eq!(peer.commands().iter().filter(|line| *line == "QUIT").count(), 2);
    });
}
