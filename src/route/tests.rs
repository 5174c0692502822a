//! Routing against a scripted DNS: tables, aliases, and every answer that a domain can give.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::config::{Family, RemoteTls};
use crate::mail::{Domain, DsnRequest, Message, Notify, OriginalRecipient, RecipientState, ReversePath, Timestamp};
use crate::system::sim::SimTls;
use crate::system::{BoxFuture, Disk, Dns, DnsError, Entropy, MxRecord, SystemClock, SystemDisk, SystemNet, Workers};

/// Answers as told; unknown names don't exist.
#[derive(Default)]
struct ScriptedDns {
    mx: BTreeMap<String, Result<Vec<MxRecord>, DnsError>>,
    hosts: BTreeMap<String, Result<Vec<IpAddr>, DnsError>>,
}

impl ScriptedDns {
    /// `10 mx1.x.test, 20 mx2.x.test`; `.` is the root.
    fn mx(mut self, domain: &str, records: &str) -> Self {
        let record = |text: &str| {
            let (preference, exchange) = text.trim().split_once(' ').unwrap();
            let exchange = (exchange != ".").then(|| Domain::parse(exchange).unwrap());
            MxRecord { preference: preference.parse().unwrap(), exchange }
        };
        let records = records.split(',').filter(|r| !r.is_empty()).map(record).collect();
        self.mx.insert(domain.to_owned(), Ok(records));
        self
    }

    fn mx_fails(mut self, domain: &str) -> Self {
        self.mx.insert(domain.to_owned(), Err(DnsError::Unavailable("SERVFAIL".to_owned())));
        self
    }

    /// Addresses of a host, both families.
    fn host(mut self, host: &str, addresses: &str) -> Self {
        let addresses = addresses.split_whitespace().map(|a| a.parse().unwrap()).collect();
        self.hosts.insert(host.to_owned(), Ok(addresses));
        self.mx.entry(host.to_owned()).or_insert(Ok(Vec::new()));
        self
    }

    /// `host/4` or `host/6`: one family fails.
    fn host_fails(mut self, host: &str) -> Self {
        self.hosts.insert(host.to_owned(), Err(DnsError::Unavailable("time-out".to_owned())));
        self
    }

    fn family(&self, host: &Domain, v4: bool) -> Result<Vec<IpAddr>, DnsError> {
        let only = self.hosts.get(&format!("{host}/{}", if v4 { 4 } else { 6 }));
        match only.or_else(|| self.hosts.get(host.as_str())) {
            None => Err(DnsError::NoSuchDomain),
            Some(answer) => answer.clone().map(|all| all.into_iter().filter(|ip| ip.is_ipv4() == v4).collect()),
        }
    }
}

impl Dns for ScriptedDns {
    fn mx<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<Vec<MxRecord>, DnsError>> {
        Box::pin(async move { self.mx.get(domain.as_str()).cloned().unwrap_or(Err(DnsError::NoSuchDomain)) })
    }
    fn ipv4<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move { self.family(host, true) })
    }
    fn ipv6<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move { self.family(host, false) })
    }
}

/// A row of numbers that start anywhere.
struct Sequence(AtomicU64);

impl Entropy for Sequence {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7
    }
}

const TABLES: &str = r#"
hostname = "mail.example.test"
postmaster = "postmaster@example.test"
[spool]
path = "FOLDER/spool"
[auth]
users = "FOLDER/users"
[[listener]]
address = "127.0.0.1:2525"
service = "mx"
[[listener]]
address = "8.8.8.8:2525"
service = "mx"
[[domain]]
name = "example.test"
maildir = "FOLDER/mail/{domain}/{user}"
aliases = "FOLDER/aliases"
[[domain]]
name = "lmtp.test"
lmtp = "127.0.0.1:2424"
[[route]]
domain = "partner.test"
hosts = ["127.0.0.1:2526", "relay.test"]
[[route]]
domain = "*.partner.test"
hosts = ["[::1]:2527"]
[[route]]
domain = "*"
sender = "*@out.test"
hosts = ["relay.test:587"]
tls = "require"
login = "ann"
password_file = "FOLDER/password"
[[route]]
domain = "*"
sender = "ann@other.test"
hosts = ["127.0.0.1:2526", "relay.test"]
tls = "none"
[[route]]
domain = "by-mx.test"
hosts = []
family = "ipv4"
sources = ["50.9.9.1"]
[[route]]
domain = "store.test"
protocol = "lmtp"
hosts = ["unix:/run/lmtp", "127.0.0.1:2525"]
[remote]
special_addresses = "SPECIAL"
"#;

const ALIASES: &str = "team: ann, bob@far.test, deep\ndeep: ann, carl\nann: ann, copy@far.test\nround: about\nabout: round\nlost: nobody\none: bob@far.test\n";

fn router_with(dns: ScriptedDns, special: &str, seed: u64) -> Router {
    let folder = tempfile::tempdir().unwrap();
    let disk: &dyn Disk = &SystemDisk;
    let write = |name: &str, text: &str| disk.replace(&folder.path().join(name), text.as_bytes()).unwrap();
    let path = folder.path().display().to_string();
    write("posthouse.toml", &TABLES.replace("FOLDER", &path).replace("SPECIAL", special));
    write("aliases", ALIASES);
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaHNvbWVoYXNoc29tZWhhc2g";
    let users = ["ann@example.test", "carl@example.test", "dora@lmtp.test"].map(|user| format!("{user}:{hash}\n"));
    write("users", &users.concat());
    let config = crate::config::load(Some(&folder.path().join("posthouse.toml")), &BTreeMap::new()).unwrap().config;
    let directory = Directory::load(&config, &SystemDisk).unwrap();
    let system = System {
        clock: Arc::new(SystemClock::new()),
        disk: Arc::new(SystemDisk),
        dns: Arc::new(dns),
        net: Arc::new(SystemNet),
        entropy: Arc::new(Sequence(AtomicU64::new(seed))),
        tls: Arc::new(SimTls),
        workers: Workers::Inline,
    };
    Router::new(Arc::new(config), Arc::new(directory), system)
}

fn router(dns: ScriptedDns) -> Router {
    router_with(dns, "refuse", 1)
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn hosts_of(router: &Router, to: &str) -> Result<Vec<String>, Outcome> {
    let Route::Deliver(destination) = router.route(&ReversePath::Null, &address(to)) else { panic!("{to} isn't delivered") };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let hosts = runtime.block_on(router.hosts(&destination, &ReversePath::Null))?;
    Ok(hosts.iter().map(|host| format!("{} {}", host.name, host.endpoint)).collect())
}

fn failure(router: &Router, to: &str) -> (&'static str, String) {
    match hosts_of(router, to).unwrap_err() {
        Outcome::Failed(d) => ("failed", format!("{} {}", d.status, d.text)),
        Outcome::Deferred(d) => ("deferred", format!("{} {}", d.status, d.text)),
        other => panic!("{other:?}"),
    }
}

fn fails(router: &Router, to: &str, class: &str, code: &str) {
    let (found, text) = failure(router, to);
    assert!(found == class && text.starts_with(code), "{to}: {found} {text}");
}

#[test]
fn tables_come_first() {
    let router = router(ScriptedDns::default());
    let destination = |to: &str| match router.route(&ReversePath::Null, &address(to)) {
        Route::Deliver(destination) => destination.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(destination("Carl@Example.test"), "local:example.test");
    assert_eq!(destination("dora@lmtp.test"), "lmtp:127.0.0.1:2424");
    assert_eq!(destination("nobody@example.test"), "Unknown");
    assert_eq!(destination("x@partner.test"), "route:127.0.0.1:2526,relay.test");
    assert_eq!(destination("x@sub.partner.test"), "route:[::1]:2527");
    assert_eq!(destination("x@notpartner.test"), "mx:notpartner.test");
    assert!(
        matches!(router.route(&ReversePath::Null, &address("team@example.test")), Route::Alias(targets) if targets.len() == 3)
    );
    assert_eq!(hosts_of(&router, "dora@lmtp.test").unwrap(), ["127.0.0.1:2424 127.0.0.1:2424"]);
    assert!(router.maildir(&address("carl@example.test")).unwrap().ends_with("mail/example.test/carl"));
    assert!(matches!(router.maildir(&address("nobody@example.test")), Err(Outcome::Failed(_))));
    assert!(matches!(router.maildir(&address("dora@lmtp.test")), Err(Outcome::Deferred(_))));
}

fn from(sender: &str) -> ReversePath {
    if sender.is_empty() { ReversePath::Null } else { ReversePath::Address(address(sender)) }
}

#[test]
fn a_destination_has_one_way_and_a_sender_its_own() {
    let dns = ScriptedDns::default().host("by-mx.test", "1.1.1.1 2a00::1").host("relay.test", "1.1.2.1");
    let router = router(dns);
    let way = |sender: &str, to: &str| match router.route(&from(sender), &address(to)) {
        Route::Deliver(destination) => (destination.to_string(), router.way(&destination, &from(sender))),
        other => panic!("{other:?}"),
    };
    let (name, smarthost) = way("x@out.test", "x@far.test");
    assert_eq!((name.as_str(), smarthost.tls), ("route:ann@relay.test:587#require", RemoteTls::Require));
    assert_eq!(smarthost.login.unwrap().name, "ann");
    // The first match counts, and other ways to the same hosts are other destinations.
    assert_eq!(way("x@out.test", "x@partner.test").0, "route:127.0.0.1:2526,relay.test");
    let (name, other) = way("Ann@other.test", "x@far.test");
    assert_eq!((name.as_str(), other.tls), ("route:127.0.0.1:2526,relay.test#none", RemoteTls::None));
    assert_eq!(way("", "x@far.test").0, "mx:far.test");
    let (name, by_mx) = way("", "x@by-mx.test");
    assert_eq!((name.as_str(), by_mx.family, by_mx.sources.len()), ("mx:by-mx.test", Family::Ipv4, 1));
    assert_eq!(hosts_of(&router, "x@by-mx.test").unwrap(), ["by-mx.test 1.1.1.1:25"]);
    assert_eq!(way("", "x@store.test").0, "lmtp:unix:/run/lmtp,127.0.0.1:2525");
    let hosts = ["unix:/run/lmtp unix:/run/lmtp", "[127.0.0.1] 127.0.0.1:2525"];
    assert_eq!(hosts_of(&router, "x@store.test").unwrap(), hosts);
    let stores = ["x@store.test", "dora@lmtp.test"].map(|to| (way("", to).1.store, way("", to).1.tls));
    assert_eq!(stores[1], (true, RemoteTls::None), "an LMTP server of this site");
    assert!(!stores[0].0, "a route's is what the route says");
}

#[test]
fn mx_hosts_come_by_preference_and_equals_in_any_order() {
    let dns = || {
        ScriptedDns::default()
            .mx("x.test", "20 last.x.test, 10 a.x.test, 10 b.x.test, 5 first.x.test")
            .host("first.x.test", "1.1.1.1 1.1.1.2 2a00::1")
            .host("a.x.test", "1.1.2.1")
            .host("b.x.test", "1.1.3.1")
            .host("last.x.test", "1.1.4.1")
    };
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let hosts = hosts_of(&router_with(dns(), "refuse", seed), "u@x.test").unwrap();
        assert_eq!(hosts[0], "first.x.test [2a00::1]:25", "IPv6 and IPv4 in turn");
        assert!(hosts[1].starts_with("first.x.test 1.1.1.") && hosts[2].starts_with("first.x.test 1.1.1."));
        assert_eq!(hosts[5], "last.x.test 1.1.4.1:25");
        orders.insert(hosts[3].clone());
    }
    assert_eq!(orders.len(), 2, "{orders:?}");
}

#[test]
fn a_domain_without_mx_is_its_own_mail_server() {
    let dns = ScriptedDns::default().host("x.test", "1.1.1.1").host("bare.test", "");
    let router = router(dns);
    assert_eq!(hosts_of(&router, "u@x.test").unwrap(), ["x.test 1.1.1.1:25"]);
    fails(&router, "u@bare.test", "failed", "5.4.4");
}

#[test]
fn what_the_dns_says_decides_between_now_later_and_never() {
    let dns = ScriptedDns::default()
        .mx("null.test", "0 .")
        .mx("mixed.test", "0 ., 10 ok.test")
        .host("ok.test", "1.1.1.1")
        .mx_fails("broken.test")
        .mx("half.test", "10 dead.test, 20 ok.test")
        .host_fails("dead.test")
        .mx("dead-only.test", "10 dead.test, 20 gone.test")
        .mx("gone-only.test", "10 gone.test")
        .mx("family.test", "10 v4.test")
        .host("v4.test/4", "1.1.1.4")
        .host_fails("v4.test/6")
        .mx("nov4.test", "10 empty6.test")
        .host("empty6.test/6", "")
        .host_fails("empty6.test/4");
    let router = router(dns);
    fails(&router, "u@null.test", "failed", "5.1.10");
    fails(&router, "u@nowhere.test", "failed", "5.1.2");
    fails(&router, "u@broken.test", "deferred", "4.4.3");
    fails(&router, "u@dead-only.test", "deferred", "4.4.3");
    fails(&router, "u@gone-only.test", "failed", "5.4.4");
    fails(&router, "u@nov4.test", "deferred", "4.4.3");
    assert_eq!(hosts_of(&router, "u@mixed.test").unwrap(), ["ok.test 1.1.1.1:25"]);
    assert_eq!(hosts_of(&router, "u@half.test").unwrap(), ["ok.test 1.1.1.1:25"]);
    assert_eq!(hosts_of(&router, "u@family.test").unwrap(), ["v4.test 1.1.1.4:25"]);
}

#[test]
fn mail_never_goes_to_ourselves_or_to_worse_servers_than_ourselves() {
    let dns = ScriptedDns::default()
        .mx("backup.test", "10 better.test, 20 mail.example.test, 20 equal.test, 30 worse.test")
        .mx("loop.test", "10 mail.example.test, 20 worse.test")
        .mx("byaddress.test", "10 better.test, 10 alias-of-us.test, 30 worse.test")
        .host("better.test", "1.1.1.1")
        .host("equal.test", "1.1.1.2")
        .host("worse.test", "1.1.1.3")
        .host("alias-of-us.test", "8.8.8.8");
    let router = router(dns);
    assert_eq!(hosts_of(&router, "u@backup.test").unwrap(), ["better.test 1.1.1.1:25"]);
    fails(&router, "u@loop.test", "failed", "5.4.6");
    fails(&router, "u@byaddress.test", "failed", "5.4.6");
    fails(&router, "u@[8.8.8.8]", "failed", "5.4.6");
}

#[test]
fn special_addresses_are_left_out_unless_allowed() {
    let dns = || {
        ScriptedDns::default()
            .mx("x.test", "10 inside.test, 20 outside.test")
            .mx("private.test", "10 inside.test")
            .host("inside.test", "127.0.0.1 10.1.2.3 ::1")
            .host("outside.test", "1.1.1.1")
    };
    let refusing = router(dns());
    assert_eq!(hosts_of(&refusing, "u@x.test").unwrap(), ["outside.test 1.1.1.1:25"]);
    fails(&refusing, "u@private.test", "failed", "5.4.4");
    assert!(failure(&refusing, "u@private.test").1.contains("private or reserved"));
    fails(&refusing, "u@[127.0.0.1]", "failed", "5.4.4");
    let allowing = router_with(dns(), "allow", 1);
    assert_eq!(hosts_of(&allowing, "u@private.test").unwrap().len(), 3);
    assert_eq!(hosts_of(&allowing, "u@[127.0.0.1]").unwrap(), ["[127.0.0.1] 127.0.0.1:25"]);
    assert_eq!(hosts_of(&refusing, "u@[9.9.9.9]").unwrap(), ["[9.9.9.9] 9.9.9.9:25"]);
}

#[test]
fn the_number_of_addresses_and_questions_is_bounded() {
    let names: Vec<String> = (0..40).map(|n| format!("{n} mx{n}.x.test")).collect();
    let mut dns = ScriptedDns::default().mx("x.test", &names.join(",")).mx("none.test", &names.join(","));
    for n in 20..40 {
        let many: Vec<String> = (1..50).map(|a| format!("1.1.{n}.{a}")).collect();
        dns = dns.host(&format!("mx{n}.x.test"), &many.join(" "));
    }
    let router = router(dns);
    fails(&router, "u@x.test", "failed", "5.4.4");
    let mut dns = ScriptedDns::default().mx("x.test", &names.join(","));
    for n in 0..40 {
        let many: Vec<String> = (1..50).map(|a| format!("1.1.{n}.{a}")).collect();
        dns = dns.host(&format!("mx{n}.x.test"), &many.join(" "));
    }
    let hosts = hosts_of(&router_with(dns, "refuse", 1), "u@x.test").unwrap();
    assert_eq!(hosts.len(), 12);
    assert!(hosts[11].starts_with("mx1.x.test"), "one host doesn't take every place: {hosts:?}");
}

#[test]
fn configured_hosts_keep_their_order_and_may_be_anywhere() {
    let dns = ScriptedDns::default().host("relay.test", "10.0.0.1 fd00::1");
    let router_now = router(dns);
    let hosts = hosts_of(&router_now, "u@partner.test").unwrap();
    assert_eq!(hosts, ["[127.0.0.1] 127.0.0.1:2526", "relay.test [fd00::1]:25", "relay.test 10.0.0.1:25"]);
    assert_eq!(hosts_of(&router_now, "u@a.b.partner.test").unwrap(), ["[IPv6:::1] [::1]:2527"]);
    let gone = Destination::Route("old.test".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(matches!(runtime.block_on(router_now.hosts(&gone, &ReversePath::Null)), Err(Outcome::Deferred(_))));
    let router_later = router(ScriptedDns::default());
    let lost = Destination::Route("lost.test".to_owned());
    let outcome = runtime.block_on(router_later.hosts(&lost, &ReversePath::Null)).unwrap_err();
    assert!(matches!(outcome, Outcome::Deferred(_)), "the admin's slip bounces nothing");
}

fn message(to: &[&str]) -> Message {
    Message::sample(1, Timestamp::ZERO, "", to)
}

fn states(message: &Message) -> Vec<(String, RecipientState)> {
    message.recipients.iter().map(|r| (r.address.to_string(), r.status.state)).collect()
}

#[test]
fn what_the_sender_wants_to_be_told_goes_along_with_aliases() {
    let router = router(ScriptedDns::default());
    let notify = Notify { success: true, failure: true, delay: false };
    let orcpt = OriginalRecipient::parse("rfc822;x@old.test");
    let dsn = DsnRequest { notify: Some(notify), orcpt }.boxed();
    // A single one behind the alias takes it over; of several only failures are told, and of the alias that it was expanded.
    for (to, expanded, success) in [("one@example.test", &[][..], true), ("team@example.test", &[0], false)] {
        let mut message = message(&[to]);
        message.recipients[0].dsn = dsn.clone();
        let plan = router.plan(&message, Timestamp::from_millis(7));
        assert_eq!(plan.expanded, expanded, "{to}");
        let taken_over = Notify { success, ..notify };
        for added in &plan.update.added {
            let asked = added.dsn.as_ref().unwrap();
            assert_eq!((asked.notify, &asked.orcpt), (Some(taken_over), &dsn.as_ref().unwrap().orcpt), "{to}");
        }
        message.recipients[0].dsn = None;
        let plan = router.plan(&message, Timestamp::from_millis(7));
        assert!(plan.expanded.is_empty() && plan.update.added.iter().all(|added| added.dsn.is_none()));
    }
    // An alias for nobody who doesn't get it anyway has nobody to take anything over.
    let mut message = message(&["one@example.test", "bob@far.test"]);
    message.recipients[0].dsn = dsn;
    assert_eq!(router.plan(&message, Timestamp::from_millis(7)).expanded, [0]);
}

#[test]
fn aliases_are_expanded_once_and_nobody_gets_it_twice() {
    use RecipientState::{Expanded, Pending};
    let router = router(ScriptedDns::default());
    let mut message = message(&["team@example.test", "carl@example.test", "x@far.test"]);
    let plan = router.plan(&message, Timestamp::from_millis(7));
    assert!(plan.changes());
    message.apply(&plan.update);
    let expected = [
        ("team@example.test", Expanded),
        ("carl@example.test", Pending),
        ("x@far.test", Pending),
        ("ann@example.test", Pending),
        ("copy@far.test", Pending),
        ("bob@far.test", Pending),
    ];
    assert_eq!(states(&message), expected.map(|(a, s)| (a.to_owned(), s)));
    assert_eq!(message.recipients[3].original, Some(address("team@example.test")));
    let destinations: Vec<_> = plan.destinations.iter().map(|(i, d)| (*i, d.to_string())).collect();
    let expected =
        [(3, "local:example.test"), (4, "mx:far.test"), (5, "mx:far.test"), (1, "local:example.test"), (2, "mx:far.test")];
    assert_eq!(destinations, expected.map(|(i, d)| (i, d.to_owned())));
    let again = router.plan(&message, Timestamp::from_millis(8));
    assert!(!again.changes(), "{again:?}");
    assert_eq!(again.destinations.len(), 5);
}

#[test]
fn who_is_nobody_goes_to_the_local_domain_and_fails_there() {
    let router = router(ScriptedDns::default());
    let mut message = message(&["round@example.test", "lost@example.test", "gone@example.test"]);
    let plan = router.plan(&message, Timestamp::ZERO);
    message.apply(&plan.update);
    let expected = ["round@example.test", "lost@example.test", "gone@example.test", "nobody@example.test"];
    assert_eq!(message.recipients.iter().map(|r| r.address.to_string()).collect::<Vec<_>>(), expected);
    assert_eq!(plan.destinations.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 3, 2]);
    let code = |n: usize| match router.maildir(&message.recipients[n].address) {
        Err(Outcome::Failed(diagnosis)) => diagnosis.status,
        other => panic!("{other:?}"),
    };
    assert_eq!([0, 3, 2].map(code), [EnhancedCode(5, 4, 6), EnhancedCode(5, 1, 1), EnhancedCode(5, 1, 1)]);
}

#[test]
fn an_explanation_names_every_step() {
    let dns = ScriptedDns::default().mx("far.test", "10 mx.far.test").host("mx.far.test", "1.1.1.1");
    let router = router(dns);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let lines = runtime.block_on(router.explain(&ReversePath::Null, &address("team@example.test")));
    let expected = [
        "team@example.test: alias for ann@example.test, bob@far.test, deep@example.test",
        "ann@example.test: alias for ann@example.test, copy@far.test",
        "deep@example.test: alias for ann@example.test, carl@example.test",
        "ann@example.test: example.test is local, Maildir ",
        "copy@far.test: no [[route]] matches, so by MX of far.test",
        "  TLS where it can be had",
        "  1. mx.far.test at 1.1.1.1:25",
        "bob@far.test: no [[route]] matches, so by MX of far.test",
        "  TLS where it can be had",
        "  1. mx.far.test at 1.1.1.1:25",
        "carl@example.test: example.test is local, Maildir ",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{lines:#?}");
    let explain = |to: &str| runtime.block_on(router.explain(&ReversePath::Null, &address(to))).join("\n");
    assert!(explain("x@nobody.test").contains("would bounce: 5.1.2"));
    assert!(explain("nobody@example.test").contains("no such user"));
    assert!(explain("round@example.test").contains("leads in a circle"));
    let told = explain("x@partner.test");
    let expected = "x@partner.test: route[0] (partner.test from *) leads by SMTP to 127.0.0.1:2526,relay.test\n  \
                    TLS where it can be had\n  1. [127.0.0.1] at 127.0.0.1:2526";
    assert!(told.contains(expected), "{told}");
    let told = explain("x@by-mx.test");
    let expected = "x@by-mx.test: route[4] (by-mx.test from *) leads to the MX of by-mx.test\n  TLS where it can be had\n  \
                    only IPv4 addresses\n  called from 50.9.9.1\n  would bounce: 5.1.2";
    assert!(told.contains(expected), "{told}");
    assert!(explain("x@store.test").contains("(store.test from *) leads by LMTP to unix:/run/lmtp,127.0.0.1:2525\n"));
    assert!(explain("dora@lmtp.test").contains("lmtp.test is local, by LMTP to 127.0.0.1:2424"));
    let told = runtime.block_on(router.explain(&from("x@out.test"), &address("x@far.test"))).join("\n");
    assert!(told.contains("route[2] (* from *@out.test) leads by SMTP to ann@relay.test:587#require\n"), "{told}");
    assert!(told.contains("TLS always, with whatever certificate\n  logged in as ann, with the password in "), "{told}");
}
