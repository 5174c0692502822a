//! Routes that change and mail that comes back, over random stories: what is delivered where, and how often.
//!
//! Always true afterwards: each attempt goes where the route then says, and what it says is where the mail is; a message leaves us once
//! for each recipient, whatever comes back and with whom; each recipient of what came back gets one bounce, or its bringer a refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use posthouse::config::{DomainPattern, HostPort, Route, RouteHost};
use posthouse::event::Event;
use posthouse::mail::{Destination, Domain, QueueId};
use posthouse::system::sim::{Act, Peer, Script, SimRandom, Stage};

use crate::world::{MINUTE, Server, Setup, TRUSTED, story};

const USERS: [&str; 3] = ["ann", "bob", "sue"];
/// Where mail for routed.test goes in turn.
const HOSTS: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

fn route_to(host: usize) -> Vec<Route> {
    let domain = Domain::parse("routed.test").unwrap();
    let host = HostPort { host: Domain::from_ip(HOSTS[host].parse().unwrap()), port: Some(25) };
    vec![Route::new(DomainPattern::Exact(domain), vec![RouteHost::Tcp(host)])]
}

/// A server that says something else than usual, once.
fn trouble(random: &mut SimRandom) -> Script {
    let stages = [Stage::Greeting, Stage::Mail, Stage::AnyRecipient, Stage::Data];
    let stage = stages[random.below(4) as usize].clone();
    let acts = [Act::Usual, Act::Close, Act::say("451 4.3.0 not now"), Act::SayAndClose("421 4.3.2 going down".to_owned())];
    Script::default().once(stage, acts[random.below(4) as usize].clone())
}

/// A stretch of the story in which the route may have been either of two: events recorded so far, and those hosts.
struct Stretch {
    from: usize,
    hosts: Vec<usize>,
}

/// What happened in a world with a server, three hosts of a route, and one that gives everything back.
struct Ways {
    server: Server,
    random: SimRandom,
    routed: Vec<Peer>,
    returner: Peer,
    /// How much of what that took it has given back.
    given_back: usize,
    route: usize,
    stretches: Vec<Stretch>,
    messages: usize,
    /// By subject and recipient: how often it came back and was taken in company, and how often it was refused.
    in_company: BTreeMap<(String, String), usize>,
    refused: usize,
}

impl Ways {
    async fn start(seed: u64) -> Self {
        let mut random = SimRandom::new(seed ^ 0x10_0e5);
        let setup = Setup::seeded(seed).config(|config| (config.routes, config.queue.active) = (route_to(0), 8));
        let server = setup.start().await;
        let mut routed = Vec::new();
        for host in HOSTS {
            routed.push(server.listen(host, trouble(&mut random)).await);
        }
        let returner = server.domain("loop.test", Script::default()).await;
        let stretches = vec![Stretch { from: 0, hosts: vec![0] }];
        Self {
            server,
            random,
            routed,
            returner,
            given_back: 0,
            route: 0,
            stretches,
            messages: 0,
            in_company: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Somebody sends something, to one domain or both.
    async fn send(&mut self) {
        let user = USERS[self.random.below(3) as usize];
        let n = self.messages;
        self.messages += 1;
        let all = [format!("r{n}@routed.test"), format!("l{n}@loop.test"), format!("m{n}@loop.test")];
        let chosen = [&all[..1], &all[1..2], &all[1..], &all[..]][self.random.below(4) as usize];
        let to: Vec<&str> = chosen.iter().map(String::as_str).collect();
        let content = format!("Subject: m-{n}\r\n\r\nhello\r\n");
        self.server.relay(&format!("{user}@example.test"), &to, &content).await;
    }

    /// The host at loop.test knows no better than to give us what we gave it, for all or some, with and without others.
    async fn give_back(&mut self) {
        for taken in self.returner.taken().split_off(self.given_back) {
            self.given_back += 1;
            let content = format!("Received: from us by loop.test id 1\r\n{}", String::from_utf8(taken.content.clone()).unwrap());
            let subject = content.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
            let mut to = taken.recipients.clone();
            to.truncate(1 + self.random.below(to.len() as u64) as usize);
            let company = self.random.below(2) == 0;
            let stranger = format!("new{}@routed.test", self.given_back);
            if company {
                to.push(stranger.clone());
            }
            let names: Vec<&str> = to.iter().map(String::as_str).collect();
            let mut client = self.server.client(TRUSTED).await;
            let replies = client.transaction(&taken.reverse_path, &names, content.as_bytes()).await.unwrap();
            let last = replies.last().unwrap();
            assert_eq!(last.starts_with("250 2.0.0 "), company, "{subject} for {to:?}: {last}");
            assert!(company || last.starts_with("554 5.4.6 "), "{last}");
            self.refused += usize::from(!company);
            for to in to.into_iter().filter(|to| company && *to != stranger) {
                *self.in_company.entry((subject.clone(), to)).or_default() += 1;
            }
        }
    }

    /// The admin sends routed.test's mail elsewhere.
    async fn reroute(&mut self) {
        let before = self.route;
        self.route = self.random.below(3) as usize;
        let from = self.server.events.recorded().len();
        self.stretches.push(Stretch { from, hosts: vec![before, self.route] });
        let routes = route_to(self.route);
        self.server.reload(|config| config.routes = routes).await.unwrap();
        let from = self.server.events.recorded().len();
        self.stretches.push(Stretch { from, hosts: vec![self.route] });
    }

    /// Each attempt at routed.test went where the route then said.
    fn check_attempts(&self) -> usize {
        let mut going: BTreeMap<QueueId, String> = BTreeMap::new();
        let mut attempts = 0;
        for (at, event) in self.server.events.recorded().iter().enumerate() {
            match event {
                Event::Attempting { id, destination: Destination::Route(name), .. } => {
                    let stretch = self.stretches.iter().rfind(|stretch| stretch.from <= at).unwrap();
                    let allowed: Vec<String> = stretch.hosts.iter().map(|host| format!("{}:25", HOSTS[*host])).collect();
                    assert!(allowed.contains(name), "{id} went to {name}, and not to {allowed:?}");
                    going.insert(*id, name.clone());
                    attempts += 1;
                }
                Event::Delivered { id, to, next_hop, .. } if to.domain().as_str() == "routed.test" => {
                    let (host, _) = going[id].split_once(':').unwrap();
                    assert!(next_hop.contains(&format!("[{host}]")), "{id} for {to} went to {next_hop}, and not to {host}");
                }
                _ => {}
            }
        }
        attempts
    }

    /// Nothing left us twice for anybody, and whoever is concerned heard of each loop once.
    fn check_loops(&self) {
        let mut left: BTreeMap<(String, String), usize> = BTreeMap::new();
        for taken in self.routed.iter().chain([&self.returner]).flat_map(Peer::taken) {
            let content = String::from_utf8_lossy(&taken.content).into_owned();
            let subject = content.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned();
            for to in taken.recipients {
                *left.entry((subject.clone(), to)).or_default() += 1;
            }
        }
        assert!(left.values().all(|count| *count == 1), "{left:?}");
        let mut bounced: BTreeMap<(String, String), usize> = BTreeMap::new();
        for mail in USERS.iter().flat_map(|user| self.server.mails(user)) {
            assert!(mail.contains("Status: 5.4.6"), "{mail}");
            let subject = mail.lines().find_map(|line| line.strip_prefix("Subject: m-")).unwrap();
            for to in mail.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; ")) {
                *bounced.entry((format!("m-{subject}"), to.trim().to_owned())).or_default() += 1;
            }
        }
        assert_eq!(bounced, self.in_company);
    }
}

/// Tells the story of a seed. How many attempts it had at the route, how many loops it ended by bounce and by refusal.
fn tell(seed: u64) -> (usize, usize, usize) {
    story(async move {
        let mut ways = Ways::start(seed).await;
        for _ in 0..30 {
            match ways.random.below(6) {
                0..3 => ways.send().await,
                3 => ways.reroute().await,
                4 => ways.give_back().await,
                _ => {
                    let time = Duration::from_secs(ways.random.below(600));
                    ways.server.pass(time).await;
                }
            }
        }
        // Until nothing goes round any more.
        while ways.server.handle.spool().gauges().messages > 0 || ways.given_back < ways.returner.taken().len() {
            ways.give_back().await;
            ways.server.pass(MINUTE).await;
        }
        ways.check_loops();
        (ways.check_attempts(), ways.in_company.values().sum(), ways.refused)
    })
}

#[test]
fn attempts_follow_the_route_and_nothing_goes_round_twice() {
    let seeds = if crate::in_ci() { 200 } else { 20 };
    let told: Vec<_> = (0..seeds).map(tell).collect();
    let sum = |of: fn(&(usize, usize, usize)) -> usize| told.iter().map(of).sum::<usize>();
    let (attempts, bounced, refused) = (sum(|t| t.0), sum(|t| t.1), sum(|t| t.2));
    assert!(attempts > 10 * told.len() && bounced > told.len() && refused > told.len(), "{attempts} {bounced} {refused}");
}
