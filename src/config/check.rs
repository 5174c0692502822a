//! What settings must be to each other: checked once each value alone is right.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::load::Settings;
use super::problem::{Problem, Wrong};
use super::values::{self, SOCKET_PATH_SIZE_MAX, format_duration};
use super::{
    Config, DestinationRule, DomainPattern, HostPort, KeyPair, ListenAddress, ListenerTls, Outgoing, RemoteTls, Route, RouteHost,
    RouteLogin,
};
use crate::mail::{Domain, Service};

/// Collects problems, but none about a key that already has one.
struct Findings<'a> {
    settings: &'a Settings,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn add(&mut self, key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) {
        let key = key.into();
        if self.settings.is_sound(&key) {
            let origin = self.settings.origin(&key);
            self.problems.push(Wrong::new(what, remedy).at(origin, key));
        }
    }
}

/// Every problem between settings.
pub(super) fn together(config: &Config, settings: &Settings) -> Vec<Problem> {
    let mut findings = Findings { settings, problems: Vec::new() };
    postmaster(config, &mut findings);
    listeners(config, &mut findings);
    domains(config, &mut findings);
    relay(config, &mut findings);
    routes(config, &mut findings);
    destinations(config, &mut findings);
    let retry = &config.retry;
    if retry.max < retry.first {
        let what = format!("{} is shorter than retry.first, {}", format_duration(retry.max), format_duration(retry.first));
        findings.add("retry.max", what, "make it at least as long");
    }
    if retry.hint_max < retry.hint_min && !retry.hint_max.is_zero() {
        let what =
            format!("{} is shorter than retry.hint_min, {}", format_duration(retry.hint_max), format_duration(retry.hint_min));
        findings.add("retry.hint_max", what, "make it at least as long, or \"0s\" to ignore hints");
    }
    pair("tls", "certificate", "key", &mut findings);
    admin(config, &mut findings);
    findings.problems
}

fn postmaster(config: &Config, findings: &mut Findings<'_>) {
    let domain = config.postmaster.domain();
    let local = local_domains(config).contains(domain);
    let routed = config.routes.iter().any(|route| route.domain.matches(domain));
    if domain == &config.hostname && !local && !routed {
        let what = format!("{domain} is this host, but no local domain: the mail would come back to us");
        findings.add("postmaster", what, "name an address of a [[domain]], or elsewhere");
    }
}

fn listeners(config: &Config, findings: &mut Findings<'_>) {
    if config.listeners.is_empty() {
        findings.add("listener", "there is no listener", "add one: [[listener]] with address = \"127.0.0.1:2525\"");
    }
    let mut seen = BTreeSet::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let key = format!("listener[{index}].address");
        // Of port 0 the system makes a different one each time.
        let chosen = listener.address.tcp().is_some_and(|address| address.port() == 0);
        if !chosen && findings.settings.is_sound(&key) && !seen.insert(listener.address.clone()) {
            findings.add(&key, format!("{} is already listened on", listener.address), "remove one of the two listeners");
        }
        match listener.address.tcp() {
            Some(address) if listener.service == Service::Lmtp && address.port() == 25 => {
                findings.add(key, "port 25 is for SMTP, never for LMTP (RFC 2033 section 5)", "choose another port");
            }
            None if listener.service != Service::Lmtp => {
                findings.add(key, "only LMTP is served on a Unix socket", "set service = \"lmtp\", or an IP address with a port");
            }
            _ => {}
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let in_clear = listener.tls == ListenerTls::None && config.auth.require_tls;
        if listener.service == Service::Submission && in_clear {
            let what = "nobody could log in here: sessions aren't encrypted, and auth.require_tls is on";
            findings.add(format!("listener[{index}].tls"), what, "set it to \"starttls\" or \"implicit\"");
        }
    }
    if let Some(http) = config.admin.http.filter(|http| seen.contains(&ListenAddress::Tcp(*http))) {
        findings.add("admin.http", format!("{http} is already a listener's address"), "choose another port");
    }
}

fn domains(config: &Config, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (index, domain) in config.domains.iter().enumerate() {
        let key = format!("domain[{index}].name");
        if findings.settings.is_sound(&key) && !seen.insert(&domain.name) {
            findings.add(key, format!("{} stands twice", domain.name), "remove one of the two [[domain]] tables");
        }
    }
    for table in findings.settings.repeated("domain") {
        let maildir = table.read("maildir", values::text).is_ok_and(|text| !text.is_empty());
        let lmtp = table.read("lmtp", values::text).is_ok_and(|text| !text.is_empty());
        let remedy = "set exactly one of maildir and lmtp";
        if maildir && lmtp && findings.settings.is_sound(&table.key("maildir")) {
            findings.add(table.key("lmtp"), "the domain has a maildir as well", remedy);
        } else if !maildir && !lmtp && findings.settings.is_sound(&table.key("lmtp")) {
            findings.add(table.key("maildir"), "the domain has neither maildir nor lmtp", remedy);
        }
        if lmtp && table.read("quota", values::size_or_none).is_ok_and(|quota| quota.is_some()) {
            findings.add(table.key("quota"), "its mailboxes are the LMTP server's, and so are their quotas", "set it there");
        }
    }
}

fn relay(config: &Config, findings: &mut Findings<'_>) {
    let local = local_domains(config);
    for domain in config.relay.domains.iter().filter(|domain| local.contains(domain)) {
        let what = format!("{domain} is a local domain");
        findings.add("relay.domains", what, "remove it here, or its [[domain]] table");
    }
}

fn routes(config: &Config, findings: &mut Findings<'_>) {
    let local = local_domains(config);
    for (index, route) in config.routes.iter().enumerate() {
        let key = format!("route[{index}].domain");
        if let DomainPattern::Exact(domain) = &route.domain
            && local.contains(domain)
        {
            let what = format!("{domain} is a local domain: its mail never takes a route");
            findings.add(&key, what, "remove the route, or the [[domain]] table");
        }
        let earlier = config.routes[..index].iter().enumerate();
        let covering = earlier.filter(|(at, earlier)| {
            let sound = |key: &str| findings.settings.is_sound(&format!("route[{at}].{key}"));
            sound("domain") && sound("sender") && earlier.domain.covers(&route.domain) && earlier.sender.covers(&route.sender)
        });
        if let Some((at, _)) = covering.into_iter().next() {
            findings.add(key, format!("never reached: route[{at}] matches first"), "remove one, or put this one before it");
        }
        route_hosts(index, route, findings);
    }
    route_logins(config, findings);
}

/// What is spoken to a route's hosts, and how it is encrypted.
fn route_hosts(index: usize, route: &Route, findings: &mut Findings<'_>) {
    let key = |name: &str| format!("route[{index}].{name}");
    if route.lmtp && route.hosts.is_empty() {
        findings.add(key("hosts"), "LMTP isn't spoken with MX hosts", "name the LMTP server, like [\"unix:/run/dovecot/lmtp\"]");
    }
    for host in &route.hosts {
        match host {
            RouteHost::Unix(_) if !route.lmtp => {
                findings.add(key("hosts"), format!("{host}: only LMTP is spoken over a Unix socket"), "set protocol = \"lmtp\"");
            }
            RouteHost::Tcp(HostPort { port: None, .. }) if route.lmtp => {
                findings.add(key("hosts"), format!("{host}: LMTP has no port of its own"), "name it, like \"127.0.0.1:24\"");
            }
            RouteHost::Tcp(HostPort { port: Some(25), .. }) if route.lmtp => {
                let what = format!("{host}: port 25 is for SMTP, never for LMTP (RFC 2033 section 5)");
                findings.add(key("hosts"), what, "choose another port");
            }
            _ => {}
        }
    }
    if route.implicit_tls && (route.hosts.is_empty() || route.tls == RemoteTls::None) {
        let what = if route.hosts.is_empty() { "MX hosts don't speak TLS from the first octet" } else { "tls is \"none\"" };
        findings.add(key("implicit_tls"), what, "set it to false, or name hosts and set tls to \"require\" or \"verify\"");
    }
}

/// A password goes nowhere but to the hosts that it is meant for, and never over the network in the clear.
fn route_logins(config: &Config, findings: &mut Findings<'_>) {
    for (table, route) in findings.settings.repeated("route").zip(&config.routes) {
        let set = |name: &str| table.read(name, values::text).is_ok_and(|text| !text.is_empty());
        match (set("login"), set("password_file")) {
            (true, false) => findings.add(table.key("password_file"), "the login has no password", "name the file that has it"),
            (false, true) => findings.add(table.key("login"), "the password has no login", "name it, or remove password_file"),
            (false, false) => continue,
            (true, true) if route.hosts.is_empty() => {
                findings.add(table.key("login"), "nobody logs in at MX hosts", "name the hosts, or remove login");
            }
            (true, true) if route.tls == RemoteTls::None && !route.hosts.iter().all(RouteHost::is_here) => {
                findings.add(table.key("tls"), "the password would go over the network in the clear", "set it to \"verify\"");
            }
            (true, true) if route.tls == RemoteTls::Opportunistic => {
                let remedy = "set it to \"verify\", or to \"require\" where the host has no certificate that can be checked";
                findings.add(table.key("tls"), "the password could go over a connection that isn't encrypted", remedy);
            }
            (true, true) => {}
        }
    }
}

/// What is right and yet may do harm.
pub(super) fn warnings(config: &Config, settings: &Settings) -> Vec<Problem> {
    let mut findings = Findings { settings, problems: Vec::new() };
    for (index, route) in config.routes.iter().enumerate() {
        let anybody = route.tls == RemoteTls::Require && !route.hosts.iter().all(RouteHost::is_here);
        if route.login.is_some() && anybody {
            let what = "whoever gets between us and the host can take the password: with \"require\" it may show any certificate, \
                        and ask for PLAIN or LOGIN";
            let remedy = "set it to \"verify\", with remote.tls_ca if the host's authority is one of your own";
            findings.add(format!("route[{index}].tls"), what, remedy);
        }
    }
    for (index, rule) in config.destinations.iter().enumerate() {
        let all = rule.domain == DomainPattern::Any && rule.mx == DomainPattern::Any;
        if rule.shared && all && rule.source.is_none() {
            let what = "all mail to other servers that no table before matches is one destination: one of them that is down or slow holds up \
                        the mail for all";
            let remedy = "name the MX hosts that belong together, like mx = \"*.provider.test\", or set shared to false";
            findings.add(format!("destination[{index}].shared"), what, remedy);
        }
    }
    findings.problems
}

fn destinations(config: &Config, findings: &mut Findings<'_>) {
    for (index, rule) in config.destinations.iter().enumerate() {
        if rule.outgoing == Outgoing::default() && !rule.shared {
            let what = "this [[destination]] bounds nothing";
            findings.add(format!("destination[{index}].outgoing_concurrency"), what, "set a bound, or remove the table");
        }
        if let Some(source) = rule.source.filter(|source| !leaves_from(config, *source)) {
            let what = format!("no mail leaves from {source}");
            let remedy = "correct it, or add it to remote.sources or to the sources of a [[route]] that isn't by LMTP";
            findings.add(format!("destination[{index}].source"), what, remedy);
        }
        let covers = |at: &DestinationRule| at.source == rule.source && at.domain.covers(&rule.domain) && at.mx.covers(&rule.mx);
        if let Some(at) = config.destinations[..index].iter().position(covers) {
            let what = format!("never reached: destination[{at}] matches first");
            findings.add(format!("destination[{index}].mx"), what, "remove one, or put this one before it");
        }
    }
}

/// Whether mail to other servers may leave from this address of ours.
fn leaves_from(config: &Config, source: IpAddr) -> bool {
    let routes = config.routes.iter().filter(|route| !route.lmtp).flat_map(|route| &route.sources);
    config.remote.sources.iter().chain(routes).any(|ours| *ours == source)
}

fn local_domains(config: &Config) -> BTreeSet<&Domain> {
    config.domains.iter().map(|domain| &domain.name).collect()
}

/// A certificate is of use only with its key, and the other way round.
fn pair(section: &str, certificate: &str, key: &str, findings: &mut Findings<'_>) {
    let set = |name: &str| {
        let table = findings.settings.section(section);
        table.is_some_and(|table| table.read(name, values::text).is_ok_and(|text| !text.is_empty()))
    };
    let there = (set(certificate), set(key));
    let (certificate, key) = (format!("{section}.{certificate}"), format!("{section}.{key}"));
    match there {
        (true, false) => findings.add(&*key, "the certificate has no key", format!("set {key}, or remove {certificate}")),
        (false, true) => findings.add(&*certificate, "the key has no certificate", format!("set {certificate}, or remove {key}")),
        _ => {}
    }
}

fn admin(config: &Config, findings: &mut Findings<'_>) {
    pair("admin", "tls_certificate", "tls_key", findings);
    if config.admin.socket.as_os_str().len() > SOCKET_PATH_SIZE_MAX {
        findings.add("admin.socket", "a socket's path has at most 107 bytes", "choose a shorter path");
    }
}

/// Checks the files that the configuration names and that no other module reads at start: the console's certificate and key, and
/// the passwords of routes.
pub fn check_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for login in config.routes.iter().filter_map(|route| route.login.as_ref()) {
        problems.extend(check_password(&login.password_file));
    }
    let Some(KeyPair { certificate, key }) = &config.admin.tls else { return problems };
    problems.extend(check_pem(certificate, "certificate", |bytes| {
        CertificateDer::pem_slice_iter(bytes).next().is_some_and(|first| first.is_ok())
    }));
    problems.extend(check_pem(key, "private key", |bytes| PrivateKeyDer::from_pem_slice(bytes).is_ok()));
    problems
}

fn check_password(path: &Path) -> Option<Problem> {
    match std::fs::read(path) {
        Err(error) => Some(Problem::unreadable(path, &error, "correct route.password_file, or remove it and route.login")),
        Ok(bytes) => {
            let what = RouteLogin::password(&bytes).err()?;
            Some(Problem::new(path.display().to_string(), "", what, "put the password there, in the first line"))
        }
    }
}

fn check_pem(path: &Path, what: &str, is_right: impl Fn(&[u8]) -> bool) -> Option<Problem> {
    match std::fs::read(path) {
        Err(error) => Some(Problem::unreadable(path, &error, "correct admin.tls_certificate and admin.tls_key, or remove both")),
        Ok(bytes) if is_right(&bytes) => None,
        Ok(_) => {
            let remedy = "put one there in PEM form";
            Some(Problem::new(path.display().to_string(), "", format!("there is no {what} in the file"), remedy))
        }
    }
}
