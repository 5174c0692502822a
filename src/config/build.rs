//! Builds the typed configuration out of checked values.

use super::destination::{DestinationRule, Outgoing, rate};
use super::load::{Settings, Table};
use super::problem::{Problem, Wrong};
use super::remote::{Remote, SpecialAddresses, StageTimeouts};
use super::share::{Share, share_of};
use super::typed::*;
use super::values;
use super::{Family, Route, RouteLogin};
use super::{Notice, NoticeTo};
use crate::mail::Service;

type Built<T> = Result<T, Problem>;

/// The whole configuration. An error means that the schema and this file disagree, which the tests rule out.
pub(super) fn config(settings: &Settings) -> Built<Config> {
    let top = section(settings, "")?;
    Ok(Config {
        hostname: top.read("hostname", values::hostname)?,
        postmaster: top.read("postmaster", values::address)?,
        shutdown_grace: top.read("shutdown_grace", values::duration)?,
        user: top.read("user", values::text)?,
        spool: spool(section(settings, "spool")?)?,
        listeners: settings.repeated("listener").map(listener).collect::<Built<_>>()?,
        tls: tls(settings)?,
        auth: auth(section(settings, "auth")?)?,
        senders: settings.repeated("sender").map(sender).collect::<Built<_>>()?,
        limits: limits(section(settings, "limits")?)?,
        domains: settings.repeated("domain").map(domain).collect::<Built<_>>()?,
        relay: relay(section(settings, "relay")?)?,
        routes: settings.repeated("route").map(route).collect::<Built<_>>()?,
        remote: remote(section(settings, "remote")?)?,
        destinations: settings.repeated("destination").map(destination).collect::<Built<_>>()?,
        queue: queue(section(settings, "queue")?)?,
        shares: settings.repeated("share").map(share).collect::<Built<_>>()?,
        retry: retry(section(settings, "retry")?)?,
        notice: notice(section(settings, "notice")?)?,
        dns: dns(section(settings, "dns")?)?,
        sendmail: sendmail(section(settings, "sendmail")?)?,
        admin: admin(section(settings, "admin")?)?,
        log: log(section(settings, "log")?)?,
    })
}

fn section<'a>(settings: &'a Settings, name: &str) -> Built<&'a Table> {
    settings.section(name).ok_or_else(|| Problem::new("", name, "there is no such section", ""))
}

fn count(table: &Table, name: &str) -> Built<usize> {
    let count = table.read(name, values::count)?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn number(table: &Table, name: &str) -> Built<u32> {
    Ok(u32::try_from(table.read(name, values::count)?).unwrap_or(u32::MAX))
}

/// One of several words, each with its meaning.
fn word<T: Copy>(table: &Table, name: &str, words: &[(&str, T)]) -> Built<T> {
    table.read(name, |value| {
        let text = values::text(value)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        found.ok_or_else(|| Wrong::new(format!("{text:?} is not a known word here"), ""))
    })
}

fn spool(table: &Table) -> Built<Spool> {
    Ok(Spool {
        path: table.read("path", values::path)?,
        min_free: table.read("min_free", values::size)?,
        segment_size: table.read("segment_size", values::size)?,
        zeros_ahead: table.read("zeros_ahead", values::boolean)?,
        spares: table.read("spares", values::count_or_none)?.unwrap_or(0),
        compaction_rate: table.read("compaction_rate", values::size)?,
        index_cache: table.read("index_cache", values::size)?,
        compression: word(table, "compression", &[("none", Compression::None), ("zstd", Compression::Zstd)])?,
    })
}

fn listener(table: &Table) -> Built<Listener> {
    let services = [Service::Mx, Service::Submission, Service::Lmtp].map(|service| (service.as_str(), service));
    let service = word(table, "service", &services)?;
    let modes = [("none", ListenerTls::None), ("starttls", ListenerTls::StartTls), ("implicit", ListenerTls::Implicit)];
    Ok(Listener {
        address: table.read("address", values::listen)?,
        mode: table.read("mode", values::mode)?,
        service,
        tls: word(table, "tls", &modes)?,
        proxy: table.read("proxy", |value| values::list(value, values::network))?,
        xclient: table.read("xclient", |value| values::list(value, values::network))?,
    })
}

fn tls(settings: &Settings) -> Built<Tls> {
    let table = section(settings, "tls")?;
    let certificate = table.read("certificate", |value| values::optional(value, values::path))?;
    let key = table.read("key", |value| values::optional(value, values::path))?;
    let more = settings
        .repeated("certificate")
        .map(|table| Ok(KeyPair { certificate: table.read("file", values::path)?, key: table.read("key", values::path)? }));
    Ok(Tls {
        // One without the other is a problem of its own; see `check`.
        pair: certificate.zip(key).map(|(certificate, key)| KeyPair { certificate, key }),
        more: more.collect::<Built<_>>()?,
        reload_interval: table.read("reload_interval", values::period)?,
        client_ca: table.read("client_ca", |value| values::optional(value, values::path))?,
    })
}

fn auth(table: &Table) -> Built<Auth> {
    Ok(Auth {
        users: table.read("users", values::path)?,
        require_tls: table.read("require_tls", values::boolean)?,
        failures: number(table, "failures")?,
        failures_per_client: number(table, "failures_per_client")?,
        failures_per_account: number(table, "failures_per_account")?,
        failure_period: table.read("failure_period", values::period)?,
        failure_delay: table.read("failure_delay", values::duration)?,
        concurrency: count(table, "concurrency")?,
    })
}

fn sender(table: &Table) -> Built<Sender> {
    Ok(Sender { login: table.read("login", values::login)?, addresses: table.read("addresses", values::address_patterns)? })
}

fn limits(table: &Table) -> Built<Limits> {
    Ok(Limits {
        message_size: table.read("message_size", values::size)?,
        recipients: count(table, "recipients")?,
        connections: count(table, "connections")?,
        connections_per_client: count(table, "connections_per_client")?,
        connections_per_network: count(table, "connections_per_network")?,
        network_ipv4: table.read("network_ipv4", |value| values::prefix(value, 32))?,
        network_ipv6: table.read("network_ipv6", |value| values::prefix(value, 128))?,
        submission_reserve: table.read("submission_reserve", |value| values::number(value, 0.0, 1.0))?,
        in_flight: table.read("in_flight", values::size)?,
        in_flight_per_network: table.read("in_flight_per_network", values::size)?,
        errors: number(table, "errors")?,
        commands: number(table, "commands")?,
        greeting_delay: table.read("greeting_delay", values::duration)?,
        hello_timeout: table.read("hello_timeout", values::period)?,
        command_timeout: table.read("command_timeout", values::period)?,
        data_timeout: table.read("data_timeout", values::period)?,
        data_pace: number(table, "data_pace")?,
        transaction_timeout: table.read("transaction_timeout", values::period)?,
        hold: table.read("hold", values::period)?,
        handshake_timeout: table.read("handshake_timeout", values::period)?,
        hops: count(table, "hops")?,
    })
}

fn domain(table: &Table) -> Built<LocalDomain> {
    let maildir = table.read("maildir", |value| values::optional(value, values::template))?;
    let lmtp = table.read("lmtp", |value| values::optional(value, values::lmtp))?;
    // Both or neither is a problem of its own; see `check`.
    let store = match (maildir, lmtp) {
        (_, Some(lmtp)) => MailStore::Lmtp(lmtp),
        (maildir, None) => MailStore::Maildir(maildir.unwrap_or_default()),
    };
    let octets = table.read("quota", values::size_or_none)?;
    let bounce = word(table, "over_quota", &[("bounce", true), ("wait", false)])?;
    Ok(LocalDomain {
        quota: Quota { octets, bounce },
        name: table.read("name", values::domain)?,
        store,
        subaddress: table.read("subaddress", values::text)?,
        catch_all: table.read("catch_all", |value| values::optional(value, values::address))?,
        aliases: table.read("aliases", |value| values::optional(value, values::path))?,
    })
}

fn relay(table: &Table) -> Built<Relay> {
    Ok(Relay {
        networks: table.read("networks", |value| values::list(value, values::network))?,
        domains: table.read("domains", |value| values::list(value, values::domain))?,
    })
}

fn route(table: &Table) -> Built<Route> {
    let name = table.read("login", values::text)?;
    let password_file = table.read("password_file", |value| values::optional(value, values::path))?;
    Ok(Route {
        domain: table.read("domain", values::pattern)?,
        sender: table.read("sender", values::sender_pattern)?,
        hosts: table.read("hosts", |value| values::list(value, values::host))?,
        lmtp: word(table, "protocol", &[("smtp", false), ("lmtp", true)])?,
        tls: remote_tls(table)?,
        implicit_tls: table.read("implicit_tls", values::boolean)?,
        // One without the other is a problem of its own; see `check`.
        login: password_file.filter(|_| !name.is_empty()).map(|password_file| RouteLogin { name, password_file }),
        family: family(table)?,
        sources: table.read("sources", |value| values::list(value, values::ip))?,
    })
}

fn family(table: &Table) -> Built<Option<Family>> {
    let words = [Family::Any, Family::Ipv4First, Family::Ipv6First, Family::Ipv4, Family::Ipv6].map(|it| (it.as_str(), Some(it)));
    word(table, "family", &[&[("", None)][..], &words].concat())
}

fn destination(table: &Table) -> Built<DestinationRule> {
    let rate = |name| table.read(name, |value| values::optional(value, rate));
    Ok(DestinationRule {
        domain: table.read("domain", values::pattern)?,
        mx: table.read("mx", values::pattern)?,
        source: table.read("source", |value| values::optional(value, values::ip))?,
        shared: table.read("shared", values::boolean)?,
        outgoing: Outgoing {
            concurrency: table.read("outgoing_concurrency", values::count_or_none)?,
            messages_rate: rate("outgoing_messages_rate")?,
            connections_rate: rate("outgoing_connections_rate")?,
        },
    })
}

fn share(table: &Table) -> Built<Share> {
    Ok(Share { sender: table.read("sender", share_of)?, weight: number(table, "weight")? })
}

fn remote_tls(table: &Table) -> Built<RemoteTls> {
    let words = [RemoteTls::None, RemoteTls::Opportunistic, RemoteTls::Require, RemoteTls::Verify].map(|it| (it.as_str(), it));
    word(table, "tls", &words)
}

fn stage_timeouts(table: &Table) -> Built<StageTimeouts> {
    let read = |name| table.read(name, |value| values::optional(value, values::period));
    Ok(StageTimeouts {
        greeting: read("greeting_timeout")?,
        mail: read("mail_timeout")?,
        recipient: read("recipient_timeout")?,
        data: read("data_timeout")?,
        block: read("block_timeout")?,
        end: read("final_timeout")?,
    })
}

fn remote(table: &Table) -> Built<Remote> {
    let special = [("refuse", SpecialAddresses::Refuse), ("allow", SpecialAddresses::Allow)];
    Ok(Remote {
        port: table.read("port", values::port)?,
        concurrency: count(table, "concurrency")?,
        connect_timeout: table.read("connect_timeout", values::period)?,
        reply_timeout: table.read("reply_timeout", values::period)?,
        transaction_timeout: table.read("transaction_timeout", values::period)?,
        stage_timeouts: stage_timeouts(table)?,
        special_addresses: word(table, "special_addresses", &special)?,
        tls: remote_tls(table)?,
        tls_ca: table.read("tls_ca", |value| values::optional(value, values::path))?,
        family: family(table)?.unwrap_or(Family::Any),
        sources: table.read("sources", |value| values::list(value, values::ip))?,
    })
}

fn queue(table: &Table) -> Built<Queue> {
    let paused = table.read("paused", values::boolean)?;
    Ok(Queue { paused, attempts: count(table, "attempts")?, active: count(table, "active")? })
}

fn retry(table: &Table) -> Built<Retry> {
    Ok(Retry {
        first: table.read("first", values::period)?,
        factor: table.read("factor", |value| values::number(value, 1.0, f64::INFINITY))?,
        max: table.read("max", values::period)?,
        jitter: table.read("jitter", |value| values::number(value, 0.0, 1.0))?,
        lifetime: table.read("lifetime", values::period)?,
        bounce_lifetime: table.read("bounce_lifetime", values::period)?,
        delay_notice: table.read("delay_notice", values::periods)?,
        hint_min: table.read("hint_min", values::duration)?,
        hint_max: table.read("hint_max", values::duration)?,
    })
}

fn notice(table: &Table) -> Built<Notice> {
    Ok(Notice {
        language: table.read("language", values::text)?,
        templates: table.read("templates", |value| values::optional(value, values::path))?,
        to: word(table, "to", &[("everyone", NoticeTo::Everyone), ("known", NoticeTo::Known)])?,
        digest: table.read("digest", values::duration)?,
        delay_over: table.read("delay_over", values::boolean)?,
    })
}

fn dns(table: &Table) -> Built<Dns> {
    let servers = table.read("servers", |value| values::list(value, values::server))?;
    Ok(Dns { servers, timeout: table.read("timeout", values::period)? })
}

fn sendmail(table: &Table) -> Built<Sendmail> {
    Ok(Sendmail {
        drop: table.read("drop", |value| values::optional(value, values::path))?,
        waiting: count(table, "waiting")?,
        domain: table.read("domain", |value| values::optional(value, values::domain))?,
    })
}

fn admin(table: &Table) -> Built<Admin> {
    let certificate = table.read("tls_certificate", |value| values::optional(value, values::path))?;
    let key = table.read("tls_key", |value| values::optional(value, values::path))?;
    Ok(Admin {
        socket: table.read("socket", values::path)?,
        http: table.read("http", |value| values::optional(value, values::socket))?,
        // One without the other is a problem of its own; see `check`.
        tls: certificate.zip(key).map(|(certificate, key)| KeyPair { certificate, key }),
    })
}

fn log(table: &Table) -> Built<Log> {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
    Ok(Log { format: word(table, "format", &formats)?, level: table.read("level", values::text)? })
}
