//! A DNS whose answers a test writes down, and changes while the server runs. State: the answers, and the questions asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::mail::Domain;
use crate::system::{BoxFuture, Dns, DnsError, MxRecord};

/// How long a question without answer is waited for, as the real resolver does.
const SILENCE: Duration = Duration::from_secs(10);
/// CNAMEs followed for a name.
const ALIASES_MAX: usize = 8;

/// Names without an entry don't exist.
#[derive(Debug, Default)]
pub struct SimDns {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<Domain, Name>,
    questions: Vec<String>,
}

#[derive(Clone, Debug)]
enum Name {
    Records { mx: Vec<MxRecord>, addresses: Vec<IpAddr> },
    Alias(Domain),
    Unavailable(String),
    Silent,
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).expect("tests write real names")
}

impl SimDns {
    /// Gives a name MX records, in place of those it had: preference and host; the host `.` is the root.
    pub fn mx(&self, name: &str, records: &[(u16, &str)]) {
        let records = records
            .iter()
            .map(|(preference, host)| MxRecord { preference: *preference, exchange: (*host != ".").then(|| domain(host)) });
        let new = records.collect();
        self.change(name, |mx, _| *mx = new);
    }

    /// Gives a name addresses, in place of those it had.
    pub fn addresses(&self, name: &str, list: &[&str]) {
        let new = list.iter().map(|ip| ip.parse().expect("tests write real addresses")).collect();
        self.change(name, |_, addresses| *addresses = new);
    }

    /// Makes a name an alias of another (CNAME).
    pub fn alias(&self, name: &str, target: &str) {
        self.set(name, Name::Alias(domain(target)));
    }

    /// Questions about the name fail transiently: SERVFAIL, say.
    pub fn unavailable(&self, name: &str, why: &str) {
        self.set(name, Name::Unavailable(why.to_owned()));
    }

    /// Questions about the name are never answered: after ten seconds that counts as a failure.
    pub fn silent(&self, name: &str) {
        self.set(name, Name::Silent);
    }

    /// The name no longer exists.
    pub fn remove(&self, name: &str) {
        self.state().names.remove(&domain(name));
    }

    /// All questions so far, in order: `MX example.org`.
    pub fn questions(&self) -> Vec<String> {
        self.state().questions.clone()
    }

    fn set(&self, name: &str, entry: Name) {
        self.state().names.insert(domain(name), entry);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<MxRecord>, &mut Vec<IpAddr>)) {
        let mut state = self.state();
        let entry = state.names.entry(domain(name)).or_insert(Name::Silent);
        if !matches!(entry, Name::Records { .. }) {
            *entry = Name::Records { mx: Vec::new(), addresses: Vec::new() };
        }
        if let Name::Records { mx, addresses } = entry {
            change(mx, addresses);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, kind: &str, name: &Domain) -> Result<(Vec<MxRecord>, Vec<IpAddr>), DnsError> {
        self.state().questions.push(format!("{kind} {name}"));
        let mut name = name.clone();
        for _ in 0..ALIASES_MAX {
            let entry = self.state().names.get(&name).cloned();
            match entry {
                None => return Err(DnsError::NoSuchDomain),
                Some(Name::Records { mx, addresses }) => return Ok((mx, addresses)),
                Some(Name::Alias(target)) => name = target,
                Some(Name::Unavailable(why)) => return Err(DnsError::Unavailable(why)),
                Some(Name::Silent) => {
                    tokio::time::sleep(SILENCE).await;
                    return Err(DnsError::Unavailable("DNS time-out".to_owned()));
                }
            }
        }
        Err(DnsError::Unavailable("too many CNAMEs".to_owned()))
    }
}

impl Dns for SimDns {
    fn mx<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<Vec<MxRecord>, DnsError>> {
        Box::pin(async move { Ok(self.ask("MX", domain).await?.0) })
    }

    fn ipv4<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move { Ok(self.ask("A", host).await?.1.into_iter().filter(IpAddr::is_ipv4).collect()) })
    }

    fn ipv6<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move { Ok(self.ask("AAAA", host).await?.1.into_iter().filter(IpAddr::is_ipv6).collect()) })
    }
}
