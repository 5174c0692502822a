//! Destinations and fairness over random stories: many senders, destinations of every kind, outages, bounds that change, crashes.
//!
//! Always true, at every moment (`lines_replay.rs`, `lines_leaving.rs`): no bound of a destination or of an address of ours is exceeded; one that is down is not tried message
//! by message; no line stands still while mail that may go waits for it; every sender has his turn, urgent mail comes first, and
//! nothing is tried, nor waits, behind its deadline. And at the end (`lines_notices.rs`): each sender was told what he asked for.
//!
//! `POSTHOUSE_SIM=ci` tells many stories; `POSTHOUSE_SIM_SEED=n` tells one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use posthouse::config::Outgoing;
use posthouse::mail::{Address, Timestamp};
use posthouse::queue::Verb;
use posthouse::system::Clock;
use posthouse::system::sim::{SimDisk, SimRandom, World};

use crate::lines_leaving::{BOUND, Bound, FREE};
use crate::lines_line::Counts;
use crate::lines_notices;
use crate::lines_replay::{Replay, Settings};
use crate::lines_world::{BOUNDED, JOINED, LOCAL, METERED, PLACES, Peers, Record, SHAKY, STRICT, Seen, Trouble, bounds, rules};
use crate::world::{HOUR, Server, Setup, Wreck, story};

/// Clients of ours, each in a network of its own.
const SENDERS: usize = 6;
/// This one writes much.
const BULK: usize = 0;
const FROM: [&str; 4] = ["ann@example.test", "bob@example.test", "kim@home.test", "sue@example.test"];

/// A message as its sender knows it.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) number: usize,
    pub(crate) sender: usize,
    pub(crate) from: &'static str,
    pub(crate) to: Vec<String>,
    pub(crate) priority: i8,
    /// In seconds, and what is to happen then.
    pub(crate) by: Option<(u64, char)>,
    /// What its sender wants to hear of.
    pub(crate) notify: Option<&'static str>,
    pub(crate) sent: Timestamp,
}

impl Letter {
    /// Whether this recipient is one of its own: the number is in the name.
    pub(crate) fn is_to(&self, to: &Address) -> bool {
        self.to.contains(&to.to_string())
    }

    /// When it is to be given up.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let (seconds, _) = self.by.filter(|(_, mode)| *mode == 'R')?;
        Some(self.sent.plus(Duration::from_secs(seconds)))
    }
}

/// A story as far as it has come.
struct Town {
    random: SimRandom,
    record: Record,
    letters: Vec<Letter>,
    bounds: Vec<Outgoing>,
    leaving: Bound,
    /// What is wrong, and where.
    trouble: Vec<Option<Trouble>>,
    peers: Peers,
    world: World,
    /// Where half of all mail goes for a while.
    fashion: usize,
}

/// Something wrong somewhere.
const TROUBLES: [Trouble; 3] = [Trouble::Refuses, Trouble::Silent, Trouble::Full];
/// Where it may be.
const ILL: [usize; 4] = [SHAKY, SHAKY, crate::lines_world::PROVIDER, JOINED];

impl Town {
    /// One life of the server: so many things happen. The next one begins with what it leaves, or this was the last and all mail is gone.
    async fn live(&mut self, server: &Server, steps: usize, last: bool) {
        for _ in 0..steps {
            self.step(server).await;
        }
        if last {
            for place in 0..LOCAL {
                self.recover(place);
            }
            server.empty().await;
        }
    }

    async fn step(&mut self, server: &Server) {
        match self.random.below(14) {
            0..6 => {
                let sender = self.random.below(SENDERS as u64) as usize;
                self.send(server, sender).await;
            }
            6 => self.bulk(server).await,
            7 | 8 => {
                let time = [2000, 30_000, 900_000][self.random.below(3) as usize];
                server.pass(Duration::from_millis(self.random.below(time))).await;
            }
            9 | 10 => self.fall_ill(),
            11 => {
                let place = ILL[self.random.below(4) as usize];
                self.recover(place);
            }
            12 => self.reload(server).await,
            _ => self.retry(server).await,
        }
        server.pass(Duration::from_millis(self.random.below(300))).await;
    }

    fn fall_ill(&mut self) {
        let place = ILL[self.random.below(4) as usize];
        let trouble = TROUBLES[self.random.below(3) as usize];
        if self.trouble[place].is_none() {
            self.trouble[place] = Some(trouble);
            self.peers.trouble(&self.world, place, Some(trouble));
            self.record.see(Seen::Trouble(place, true));
        }
    }

    fn recover(&mut self, place: usize) {
        if self.trouble[place].take().is_some() {
            self.peers.trouble(&self.world, place, None);
            self.record.see(Seen::Trouble(place, false));
        }
    }

    /// Somebody writes to one, two or three.
    async fn send(&mut self, server: &Server, sender: usize) {
        let count = 1 + self.random.below(3);
        let places: Vec<usize> = (0..count).map(|_| self.somewhere()).collect();
        let priority = [0, 0, 0, 4, -3][self.random.below(5) as usize];
        let time = [40, 900][self.random.below(2) as usize];
        let by = [None, None, Some((time, 'R')), Some((time, 'R')), Some((time, 'N'))][self.random.below(5) as usize];
        self.write(server, sender, &places, priority, by).await;
    }

    /// Much of one sender's for one place, which others write to as well.
    async fn bulk(&mut self, server: &Server) {
        self.fashion = self.random.below(PLACES.len() as u64) as usize;
        for _ in 0..40 + self.random.below(100) {
            self.write(server, BULK, &[self.fashion], 0, None).await;
        }
    }

    fn somewhere(&mut self) -> usize {
        match self.random.below(2) {
            0 => self.fashion,
            _ => self.random.below(PLACES.len() as u64) as usize,
        }
    }

    async fn write(&mut self, server: &Server, sender: usize, places: &[usize], priority: i8, by: Option<(u64, char)>) {
        let number = self.letters.len();
        let mut to = Vec::new();
        for (n, place) in places.iter().enumerate() {
            let domains = PLACES[*place].domains;
            let domain = domains[self.random.below(domains.len() as u64) as usize];
            let name = match *place {
                LOCAL => ["ann", "bob", "sue"][self.random.below(3) as usize].to_owned() + "+",
                STRICT if self.random.below(3) == 0 => "gone".to_owned(),
                _ => "m".to_owned(),
            };
            to.push(format!("{name}{number}x{n}@{domain}"));
            if name == "gone" {
                self.peers.refuse(*place, &to[n]);
            }
        }
        let wishes = [None, None, Some("NEVER"), Some("SUCCESS,FAILURE,DELAY"), Some("SUCCESS"), Some("FAILURE")];
        let notify = wishes[self.random.below(6) as usize];
        let from = FROM[sender % FROM.len()];
        let sent = self.world.clock.now();
        self.letters.push(Letter { number, sender, from, to, priority, by, notify, sent });
        let letter = self.letters[number].clone();
        let mut client = server.client(network(sender)).await;
        let mut mail = format!("<{from}>");
        if priority != 0 {
            mail.push_str(&format!(" MT-PRIORITY={priority}"));
        }
        if let Some((seconds, mode)) = by {
            mail.push_str(&format!(" BY={seconds};{mode}"));
        }
        let notify = notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let to: Vec<String> = letter.to.iter().map(|to| format!("<{to}>{notify}")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        client.ask(&mail, &to, &format!("Subject: l-{number}\r\n\r\nhello\r\n")).await;
    }

    /// Other bounds.
    async fn reload(&mut self, server: &Server) {
        let place = [BOUNDED, METERED, JOINED][self.random.below(3) as usize];
        self.bounds[place] = bounds(place, &mut self.random);
        self.record.see(Seen::Bounds(place, self.bounds[place]));
        let rules = rules(&self.bounds, self.leaving);
        server.reload(|config| config.destinations = rules).await.unwrap();
        self.record.see(Seen::Reloaded);
    }

    /// The admin can't wait.
    async fn retry(&mut self, server: &Server) {
        let queue = server.queue().await;
        if !queue.is_empty() {
            let id = queue[self.random.below(queue.len() as u64) as usize].id;
            // It may be through by now.
            let _ = server.handle.change(Verb::Retry, vec![id]).await;
        }
    }
}

/// The address of a sender's client.
fn network(sender: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(60, 0, u8::try_from(sender).unwrap(), 1))
}

/// The first life begins.
async fn begin(seed: u64) -> (Town, Server, Settings) {
    let mut random = SimRandom::new(seed ^ 0x11_4e5);
    let bounds: Vec<Outgoing> = (0..PLACES.len()).map(|place| bounds(place, &mut random)).collect();
    let settings = Settings {
        concurrency: [3, 8, 20][random.below(3) as usize],
        attempts: [100, 200][random.below(2) as usize],
        active: [100, 300, 20_000][random.below(3) as usize],
        retry_first: Duration::from_secs(300),
        retry_max: Duration::from_secs(1200),
        bounds: bounds.clone(),
        leaving: Bound::draw(&mut random),
    };
    let setup = Setup::seeded(seed).user("kim@example.test").config(|config| {
        config.destinations = rules(&bounds, settings.leaving);
        config.remote.sources = vec![FREE, BOUND];
        config.queue.active = settings.active;
        (config.queue.attempts, config.remote.concurrency) = (settings.attempts, settings.concurrency);
        (config.retry.first, config.retry.max) = (settings.retry_first, settings.retry_max);
        (config.retry.lifetime, config.retry.bounce_lifetime) = (6 * HOUR, 6 * HOUR);
        config.retry.delay_notice = vec![HOUR];
    });
    let world = setup.world.clone();
    let record = Record::new(&world);
    record.watch(&world);
    let peers = Peers::start(&world, &record, &mut random).await;
    let server = setup.start().await;
    record.listen(&server.events);
    let trouble = vec![None; PLACES.len()];
    let leaving = settings.leaving;
    (Town { random, record, letters: Vec::new(), bounds, leaving, trouble, peers, world, fashion: 0 }, server, settings)
}

/// What is left when the power goes.
struct Left {
    town: Town,
    settings: Settings,
    wreck: Option<Wreck>,
    disk: Arc<SimDisk>,
}

/// Tells the story of a seed, with so many crashes.
fn tell(seed: u64, crashes: usize) -> Counts {
    let mut left = story(async {
        let (mut town, server, settings) = begin(seed).await;
        town.live(&server, 40, crashes == 0).await;
        Left { town, settings, wreck: (crashes > 0).then(|| server.wreck()), disk: server.disk }
    });
    for crash in 1..=crashes {
        left = story(async {
            let Left { mut town, settings, wreck, .. } = left;
            let wreck = wreck.unwrap();
            town.world = wreck.world();
            town.record.watch(&town.world);
            town.record.see(Seen::Begun);
            town.peers.restart(&town.world).await;
            let server = wreck.recover(seed + crash as u64).await;
            town.live(&server, 20, crash == crashes).await;
            Left { town, settings, wreck: (crash < crashes).then(|| server.wreck()), disk: server.disk }
        });
    }
    let Left { town, settings, disk, .. } = left;
    let mut counts = Replay::check(&town.letters, &settings, &town.record.all());
    lines_notices::check(&town.letters, &disk, &town.peers.taken(), crashes, &mut counts);
    counts
}

#[test]
fn bounds_hold_lines_move_and_everybody_has_his_turn() {
    let seeds = if crate::in_ci() { 0..150 } else { 0..9 };
    let seeds = match std::env::var("POSTHOUSE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => seeds,
    };
    let mut all = Counts::default();
    for seed in seeds.clone() {
        let counts = tell(seed, (seed % 3) as usize);
        println!("{seed}: {counts:?}");
        all.add(counts);
    }
    // Stories in which a rule has nothing to say prove nothing.
    let count = seeds.count();
    assert!(count == 1 || all.are_at_least(count), "{all:?} in {count} stories");
}
