//! The world of the lines' simulation: destinations of every kind, and a record of all that is seen of them, in its order and with its
//! time. State: the peers, the record.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse::config::{DestinationRule, DomainPattern, Outgoing};
use posthouse::event::{Event, Events};
use posthouse::mail::{Domain, Rate, Timestamp};
use posthouse::system::sim::{Act, Calling, Fault, Peer, Script, SimClock, SimRandom, Stage, World};
use posthouse::system::{Clock, Endpoint, Net};

use crate::lines_leaving::Bound;

/// A place that mail goes to: all domains there share everything.
pub(crate) struct Place {
    pub(crate) domains: &'static [&'static str],
    /// Name and address; each domain has them all as MX hosts of one preference.
    pub(crate) hosts: &'static [(&'static str, &'static str)],
}

/// One provider of many domains, with two hosts.
pub(crate) const PROVIDER: usize = 1;
/// Takes long for each message.
pub(crate) const SLOW: usize = 2;
/// Has bounds on what is under way and on messages.
pub(crate) const BOUNDED: usize = 3;
/// Has one on new connections.
pub(crate) const METERED: usize = 4;
/// Is out of order now and then.
pub(crate) const SHAKY: usize = 5;
/// A host for each domain, and one line for them all, by configuration.
pub(crate) const JOINED: usize = 6;
/// Knows nobody whose name begins with "gone", and DSN.
pub(crate) const STRICT: usize = 7;
/// Some senders live here: notices come.
pub(crate) const HOME: usize = 8;
/// Mailboxes of this server.
pub(crate) const LOCAL: usize = 9;

/// All of them.
pub(crate) const PLACES: [Place; 10] = [
    // Takes mail at once.
    Place { domains: &["quick.test"], hosts: &[("mx.quick.test", "50.1.0.1")] },
    Place {
        domains: &["p0.test", "p1.test", "p2.test"],
        hosts: &[("mx1.provider.test", "50.1.1.1"), ("mx2.provider.test", "50.1.1.2")],
    },
    Place { domains: &["slow.test"], hosts: &[("mx.slow.test", "50.1.2.1")] },
    Place { domains: &["b0.test", "b1.test"], hosts: &[("mx.bounded.test", "50.1.3.1")] },
    Place { domains: &["calls.test"], hosts: &[("mx.metered.test", "50.1.4.1")] },
    Place { domains: &["s0.test", "s1.test"], hosts: &[("mx.shaky.test", "50.1.5.1")] },
    Place { domains: &["j0.test", "j1.test"], hosts: &[("mx.j0.joined.test", "50.1.6.1"), ("mx.j1.joined.test", "50.1.6.2")] },
    Place { domains: &["strict.test"], hosts: &[("mx.strict.test", "50.1.7.1")] },
    Place { domains: &["home.test"], hosts: &[("mx.home.test", "50.1.8.1")] },
    Place { domains: &["example.test"], hosts: &[] },
];

/// The place of a domain.
pub(crate) fn place_of(domain: &str) -> usize {
    PLACES.iter().position(|place| place.domains.contains(&domain)).unwrap_or_else(|| panic!("nobody knows {domain}"))
}

/// What may be wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Refuses,
    Silent,
    /// Says 421 in place of a greeting.
    Full,
}

/// Something that was seen.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// A connection to a place, and where it comes from.
    Call(usize, IpAddr, Calling),
    /// A message begins to go over one.
    Message(usize, IpAddr),
    Event(Box<Event>),
    /// A place goes out of order, or comes back.
    Trouble(usize, bool),
    /// From here on a place may have these bounds, or those from before.
    Bounds(usize, Outgoing),
    /// And from here on only the last ones.
    Reloaded,
    /// The server begins anew, and has forgotten what was only in memory.
    Begun,
}

/// Everything that was seen. Cheap to share.
#[derive(Clone)]
pub(crate) struct Record(Arc<Mutex<Inner>>);

struct Inner {
    clock: Arc<SimClock>,
    seen: Vec<(Timestamp, Seen)>,
}

impl Record {
    pub(crate) fn new(world: &World) -> Self {
        Self(Arc::new(Mutex::new(Inner { clock: world.clock.clone(), seen: Vec::new() })))
    }

    /// Tells what happens in this world from now on.
    pub(crate) fn watch(&self, world: &World) {
        self.0.lock().unwrap().clock = world.clock.clone();
        let record = self.clone();
        world.net.watch(move |to, from, what| {
            let at = |place: &Place| place.hosts.iter().any(|(_, address)| to.to_string() == format!("{address}:25"));
            if let Some(place) = PLACES.iter().position(at) {
                record.see(Seen::Call(place, from, what));
            }
        });
    }

    /// And what this server reports.
    pub(crate) fn listen(&self, events: &Events) {
        let record = self.clone();
        events.watch(move |event| record.see(Seen::Event(Box::new(event.clone()))));
    }

    pub(crate) fn see(&self, seen: Seen) {
        let mut inner = self.0.lock().unwrap();
        let now = inner.clock.now();
        inner.seen.push((now, seen));
    }

    /// All of it.
    pub(crate) fn all(&self) -> Vec<(Timestamp, Seen)> {
        self.0.lock().unwrap().seen.clone()
    }
}

/// The servers at all places.
pub(crate) struct Peers(Vec<Vec<Peer>>);

impl Peers {
    /// Enters all into the DNS, and starts them.
    pub(crate) async fn start(world: &World, record: &Record, random: &mut SimRandom) -> Self {
        let mut all = Vec::new();
        for (number, Place { domains, hosts }) in PLACES.iter().enumerate() {
            for (n, domain) in domains.iter().enumerate() {
                let hosts = if number == JOINED { &hosts[n..=n] } else { hosts };
                let records: Vec<(u16, &str)> = hosts.iter().map(|(name, _)| (10, *name)).collect();
                world.dns.mx(domain, &records);
            }
            let mut peers = Vec::new();
            for (name, address) in *hosts {
                world.dns.addresses(name, &[address]);
                let listener = world.net.listen(socket(address)).await.unwrap();
                let peer = Peer::start(listener, script(number, random));
                let record = record.clone();
                peer.watch(move |from, command| {
                    if command.starts_with("MAIL ") {
                        record.see(Seen::Message(number, from));
                    }
                });
                peers.push(peer);
            }
            all.push(peers);
        }
        Self(all)
    }

    /// The same in another runtime.
    pub(crate) async fn restart(&mut self, world: &World) {
        for (place, peers) in PLACES.iter().zip(&mut self.0) {
            for ((_, address), peer) in place.hosts.iter().zip(peers) {
                peer.restart(world.net.listen(socket(address)).await.unwrap());
            }
        }
    }

    /// Nobody of that name is known at a place.
    pub(crate) fn refuse(&self, place: usize, name: &str) {
        for peer in &self.0[place] {
            peer.script(|script| script.set_always(Stage::Recipient(name.to_owned()), Act::say("550 5.1.1 nobody")));
        }
    }

    /// What came to each place: recipients and content.
    pub(crate) fn taken(&self) -> Vec<(usize, Vec<String>, Vec<u8>)> {
        let of = |(place, peers): (usize, &Vec<Peer>)| {
            let taken: Vec<_> = peers.iter().flat_map(Peer::taken).collect();
            taken.into_iter().map(move |taken| (place, taken.recipients, taken.content))
        };
        self.0.iter().enumerate().flat_map(of).collect()
    }

    /// Something goes wrong with all hosts of a place, or is well again.
    pub(crate) fn trouble(&self, world: &World, place: usize, trouble: Option<Trouble>) {
        let fault = match trouble {
            Some(Trouble::Refuses) => Some(Fault::Refuse),
            Some(Trouble::Silent) => Some(Fault::Stall),
            _ => None,
        };
        let full = trouble == Some(Trouble::Full);
        for peer in &self.0[place] {
            world.net.fault(&Endpoint::Tcp(peer.address()), fault);
            let act = if full { Act::SayAndClose("421 4.3.2 too many connections".to_owned()) } else { Act::Usual };
            peer.script(|script| script.set_always(Stage::Greeting, act));
        }
    }
}

fn socket(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), 25)
}

fn script(place: usize, random: &mut SimRandom) -> Script {
    let time = match place {
        SLOW => 10_000 + random.below(40_000),
        // On both sides of what counts as near.
        _ => [0, 2, 50, 300][random.below(4) as usize],
    };
    let script = match place {
        STRICT => Script::offering(&["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DELIVERBY", "DSN"]),
        _ => Script::offering(&["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DELIVERBY"]),
    };
    let script = script.always(Stage::End, Act::Slow(Duration::from_millis(time)));
    match place {
        // One message a connection.
        METERED if random.below(4) != 0 => script.always(Stage::End, Act::SayAndClose("250 2.0.0 taken".to_owned())),
        _ => script,
    }
}

/// No rate has a longer period.
pub(crate) const PERIOD_MAX: Duration = Duration::from_secs(64);

/// Bounds for a place that has some.
pub(crate) fn bounds(place: usize, random: &mut SimRandom) -> Outgoing {
    let mut rate = |count: u64, seconds: u64| {
        let count = u32::try_from(1 + random.below(count)).unwrap();
        Some(Rate { count, period: Duration::from_secs(1 + random.below(seconds)) })
    };
    match place {
        BOUNDED => {
            Outgoing { messages_rate: rate(8, 30), concurrency: Some(1 + random.below(4) as usize), connections_rate: None }
        }
        METERED => Outgoing { connections_rate: rate(4, 30), ..Outgoing::default() },
        JOINED => Outgoing { concurrency: Some(1 + random.below(3) as usize), ..Outgoing::default() },
        _ => Outgoing::default(),
    }
}

/// The tables for them: by domain, by host, for several hosts together, and for what leaves from an address.
pub(crate) fn rules(bounds: &[Outgoing], leaving: Bound) -> Vec<DestinationRule> {
    let below = |name: &str| DomainPattern::Below(Domain::parse(name).unwrap());
    let exact = |name: &str| DomainPattern::Exact(Domain::parse(name).unwrap());
    let rule = |place: usize, domain: DomainPattern, mx: DomainPattern| DestinationRule {
        domain,
        mx,
        source: None,
        shared: place == JOINED,
        outgoing: bounds[place],
    };
    vec![
        rule(BOUNDED, DomainPattern::Any, exact("mx.bounded.test")),
        rule(METERED, exact("calls.test"), DomainPattern::Any),
        rule(JOINED, DomainPattern::Any, below("joined.test")),
        leaving.rule(),
    ]
}
