//! One value at a time: from TOML to the type that the server uses, or what is wrong with it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use figment::value::Value;
use ipnet::IpNet;

use super::destination::rate;
use super::problem::Wrong;
use super::schema::Kind;
use super::share::share_of;
use super::{AddressPattern, DomainPattern, HostPort, ListenAddress, LmtpAddress, RouteHost, SenderPattern};
use crate::mail::{Address, Domain};

pub(super) type Parsed<T> = Result<T, Wrong>;

/// The port of a name server that is given without one.
const DNS_PORT: u16 = 53;
/// Longest path of a Unix socket, octets (`sun_path` with its final NUL).
pub(super) const SOCKET_PATH_SIZE_MAX: usize = 107;

/// Checks that a value is of its kind.
pub(super) fn check(kind: Kind, value: &Value) -> Parsed<()> {
    match kind {
        Kind::Boolean => boolean(value).map(drop),
        Kind::Count => count(value).map(drop),
        Kind::Port => port(value).map(drop),
        Kind::Prefix(max) => prefix(value, max).map(drop),
        Kind::Number(min, max) => number(value, min, max).map(drop),
        Kind::CountOrNone => count_or_none(value).map(drop),
        Kind::ShareOf => share_of(value).map(drop),
        Kind::RateOrNone => optional(value, rate).map(drop),
        Kind::Duration => duration(value).map(drop),
        Kind::Period => period(value).map(drop),
        Kind::PeriodOrNone => optional(value, period).map(drop),
        Kind::Size => size(value).map(drop),
        Kind::SizeOrNone => size_or_none(value).map(drop),
        Kind::Text => text(value).map(drop),
        Kind::Path(false) => path(value).map(drop),
        Kind::Path(true) => optional(value, path).map(drop),
        Kind::Hostname => hostname(value).map(drop),
        Kind::Domain(false) => domain(value).map(drop),
        Kind::Domain(true) => optional(value, domain).map(drop),
        Kind::Address(false) => address(value).map(drop),
        Kind::Address(true) => optional(value, address).map(drop),
        Kind::Socket(false) => socket(value).map(drop),
        Kind::Socket(true) => optional(value, socket).map(drop),
        Kind::Listen => listen(value).map(drop),
        Kind::Mode => mode(value).map(drop),
        Kind::Choice(words) => choice(value, words).map(drop),
        Kind::Template => optional(value, template).map(drop),
        Kind::Lmtp => optional(value, lmtp).map(drop),
        Kind::Pattern => pattern(value).map(drop),
        Kind::SenderPattern => sender_pattern(value).map(drop),
        Kind::Login => login(value).map(drop),
        Kind::AddressPatterns => address_patterns(value).map(drop),
        Kind::Networks => list(value, network).map(drop),
        Kind::Domains => list(value, domain).map(drop),
        Kind::Hosts => list(value, host).map(drop),
        Kind::IpOrNone => optional(value, ip).map(drop),
        Kind::Addresses => list(value, ip).map(drop),
        Kind::Servers => list(value, server).map(drop),
        Kind::Periods => periods(value).map(drop),
    }
}

/// A value as TOML, for people.
pub(super) fn toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => quote(text),
        Value::Char(_, c) => quote(&c.to_string()),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, num) => match num.to_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => format!("{f:.1}"),
            Some(f) => f.to_string(),
            None => num.to_i128().map_or_else(|| num.to_u128().unwrap_or_default().to_string(), |n| n.to_string()),
        },
        Value::Empty(..) => quote(""),
        Value::Dict(_, dict) => {
            let pairs: Vec<_> = dict.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Array(_, items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
    }
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

pub(super) fn is_not(value: &Value, what: &str, remedy: &str) -> Wrong {
    Wrong::new(format!("{} is not {what}", toml(value)), remedy)
}

pub(super) fn text(value: &Value) -> Parsed<String> {
    match value {
        Value::String(_, text) => Ok(text.clone()),
        Value::Char(_, c) => Ok(c.to_string()),
        _ => Err(is_not(value, "a text", "put it in double quotes")),
    }
}

/// `None` for the empty text, otherwise what `parse` says.
pub(super) fn optional<T>(value: &Value, parse: impl Fn(&Value) -> Parsed<T>) -> Parsed<Option<T>> {
    if text(value)?.is_empty() { Ok(None) } else { parse(value).map(Some) }
}

pub(super) fn list<T>(value: &Value, parse: impl Fn(&Value) -> Parsed<T>) -> Parsed<Vec<T>> {
    let items = value.as_array().ok_or_else(|| is_not(value, "a list", "write it in brackets, like [\"…\", \"…\"]"))?;
    let (mut parsed, mut wrong) = (Vec::new(), Vec::new());
    for item in items {
        match parse(item) {
            Ok(item) => parsed.push(item),
            Err(fault) => wrong.push(fault),
        }
    }
    match wrong.first() {
        None => Ok(parsed),
        Some(first) => {
            let all: Vec<_> = wrong.iter().map(|fault| fault.what.as_str()).collect();
            Err(Wrong::new(all.join(", "), first.remedy.clone()))
        }
    }
}

pub(super) fn boolean(value: &Value) -> Parsed<bool> {
    value.to_bool().ok_or_else(|| is_not(value, "true or false", "write true or false, without quotes"))
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Num(_, num) => num.to_u128().and_then(|n| u64::try_from(n).ok()).or_else(|| {
            let signed = num.to_i128()?;
            u64::try_from(signed).ok()
        }),
        _ => None,
    }
}

pub(super) fn count(value: &Value) -> Parsed<u64> {
    let remedy = "write a whole number of 1 or more, without quotes";
    whole(value).filter(|n| (1..=u64::from(u32::MAX)).contains(n)).ok_or_else(|| is_not(value, "a possible number here", remedy))
}

/// None for 0.
pub(super) fn count_or_none(value: &Value) -> Parsed<Option<usize>> {
    match whole(value) {
        Some(0) => Ok(None),
        _ => count(value).map(|count| usize::try_from(count).ok()),
    }
}

pub(super) fn port(value: &Value) -> Parsed<u16> {
    let port = whole(value).and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| is_not(value, "a port", "write a number from 1 to 65535, without quotes"))
}

pub(super) fn prefix(value: &Value, max: u8) -> Parsed<u8> {
    let bits = whole(value).and_then(|n| u8::try_from(n).ok()).filter(|bits| (1..=max).contains(bits));
    let remedy = format!("write a whole number from 1 to {max}, without quotes");
    bits.ok_or_else(|| is_not(value, "a possible number of bits", &remedy))
}

pub(super) fn number(value: &Value, min: f64, max: f64) -> Parsed<f64> {
    let number = match value {
        Value::Num(_, num) => {
            num.to_f64().or_else(|| num.to_i128().map(|n| n as f64)).or_else(|| num.to_u128().map(|n| n as f64))
        }
        _ => None,
    };
    let remedy = match max.is_finite() {
        true => format!("write a number from {min} to {max}, without quotes"),
        false => format!("write a number of {min} or more, without quotes"),
    };
    number.filter(|n| n.is_finite() && *n >= min && *n <= max).ok_or_else(|| is_not(value, "a possible number here", &remedy))
}

/// Units of a duration in milliseconds, the largest first.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `"1h30m"`: whole numbers with `ms`, `s`, `m`, `h` or `d`, the larger unit first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    // Longer than any server lives; keeps sums of times within bounds.
    const MILLIS_MAX: u64 = 36_500 * 86_400_000;
    let mut rest = text;
    let mut units = DURATION_UNITS.as_slice();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..digits + letters];
        let at = units.iter().position(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &rest[digits + letters..];
    }
    (millis <= MILLIS_MAX).then(|| Duration::from_millis(millis))
}

/// A duration as it would be written: `1h30m`.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in DURATION_UNITS {
        if millis >= u128::from(length) {
            text.push_str(&format!("{}{unit}", millis / u128::from(length)));
            millis %= u128::from(length);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `"50MiB"`, `"10GB"`, or a plain number of bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = &text[digits..];
    let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor).filter(|bytes| *bytes <= i64::MAX as u64)
}

pub(super) fn duration(value: &Value) -> Parsed<Duration> {
    let parsed = value.as_str().and_then(parse_duration);
    parsed.ok_or_else(|| is_not(value, "a duration", "write it like \"30s\", \"5m\", \"1h30m\" or \"5d\""))
}

pub(super) fn period(value: &Value) -> Parsed<Duration> {
    let parsed = duration(value)?;
    if parsed.is_zero() {
        return Err(Wrong::new("the duration is zero", "write more than zero, like \"30s\" or \"5m\""));
    }
    Ok(parsed)
}

pub(super) fn periods(value: &Value) -> Parsed<Vec<Duration>> {
    let ages = list(value, period)?;
    if ages.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Wrong::new("the durations don't ascend", "sort them, the shortest first, each once"));
    }
    Ok(ages)
}

/// A size, or an empty text for none.
pub(super) fn size_or_none(value: &Value) -> Parsed<Option<u64>> {
    if value.as_str() == Some("") { Ok(None) } else { size(value).map(Some) }
}

pub(super) fn size(value: &Value) -> Parsed<u64> {
    let parsed = value.as_str().map_or_else(|| whole(value), parse_size);
    parsed
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| is_not(value, "a possible size", "write it like \"50MiB\" or \"64KiB\", more than zero"))
}

pub(super) fn path(value: &Value) -> Parsed<PathBuf> {
    let path = text(value)?;
    if path.is_empty() || path.contains('\0') {
        return Err(is_not(value, "a path", "name a file or folder, from the working directory or from /"));
    }
    Ok(PathBuf::from(path))
}

pub(super) fn hostname(value: &Value) -> Parsed<Domain> {
    let remedy = "write the host's full name, like \"mail.example.test\"";
    let name = Domain::parse(&text(value)?).ok().filter(|name| name.literal().is_none() && name.as_str().contains('.'));
    name.ok_or_else(|| is_not(value, "a host name in full", remedy))
}

pub(super) fn domain(value: &Value) -> Parsed<Domain> {
    let name = Domain::parse(&text(value)?).ok().filter(|name| name.literal().is_none());
    name.ok_or_else(|| is_not(value, "a domain", "write it like \"example.test\""))
}

pub(super) fn address(value: &Value) -> Parsed<Address> {
    let remedy = "write it like \"ann@example.test\"";
    Address::parse(&text(value)?).map_err(|error| Wrong::new(format!("{} is not a mail address: {error}", toml(value)), remedy))
}

pub(super) fn socket(value: &Value) -> Parsed<SocketAddr> {
    let remedy = "write it like \"127.0.0.1:2525\", \"0.0.0.0:25\" or \"[::]:25\"";
    text(value)?.parse().map_err(|_| is_not(value, "an IP address with a port", remedy))
}

pub(super) fn server(value: &Value) -> Parsed<SocketAddr> {
    let text = text(value)?;
    let alone = || text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
    text.parse().or_else(|_| alone()).map_err(|_| {
        is_not(value, "a name server's IP address", "write it like \"127.0.0.1:5300\", \"192.0.2.53\" or \"[2001:db8::53]:53\"")
    })
}

pub(super) fn choice(value: &Value, words: &[&str]) -> Parsed<String> {
    let text = text(value)?;
    if words.contains(&text.as_str()) {
        return Ok(text);
    }
    let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    Err(is_not(value, "a known word here", &format!("write one of {}", words.join(", "))))
}

/// A Maildir template: `{user}` must be in it, `{domain}` may be.
pub(super) fn template(value: &Value) -> Parsed<String> {
    let template = text(value)?;
    let remedy = "write it like \"mail/{domain}/{user}\"";
    if !template.contains("{user}") {
        return Err(Wrong::new(format!("{} has no {{user}}: all users would share one Maildir", toml(value)), remedy));
    }
    let rest = template.replace("{user}", "").replace("{domain}", "");
    if rest.contains(['{', '}', '\0']) {
        return Err(Wrong::new(format!("{} has something else than {{domain}} and {{user}} in braces", toml(value)), remedy));
    }
    Ok(template)
}

/// The path behind `unix:`, if the text begins so.
fn unix_socket(value: &Value, text: &str, remedy: &str) -> Parsed<Option<PathBuf>> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() && path.len() <= SOCKET_PATH_SIZE_MAX && !path.contains('\0') => {
            Ok(Some(PathBuf::from(path)))
        }
        Some(_) => Err(is_not(value, "a Unix socket's path of at most 107 bytes", remedy)),
        None => Ok(None),
    }
}

pub(super) fn listen(value: &Value) -> Parsed<ListenAddress> {
    let remedy = "write it like \"127.0.0.1:2525\", \"0.0.0.0:25\", \"[::]:25\" or \"unix:/run/posthouse/lmtp\"";
    let text = text(value)?;
    match unix_socket(value, &text, remedy)? {
        Some(path) => Ok(ListenAddress::Unix(path)),
        None => text.parse().map(ListenAddress::Tcp).map_err(|_| is_not(value, "an IP address with a port", remedy)),
    }
}

pub(super) fn mode(value: &Value) -> Parsed<u32> {
    let text = text(value)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let bits = u32::from_str_radix(&text, 8).ok().filter(|bits| digits && *bits <= 0o777);
    bits.ok_or_else(|| is_not(value, "a file's permissions", "write three octal digits, like \"0660\" or \"666\""))
}

pub(super) fn lmtp(value: &Value) -> Parsed<LmtpAddress> {
    let text = text(value)?;
    let remedy = "write it like \"unix:/run/dovecot/lmtp\" or \"127.0.0.1:2424\"";
    match unix_socket(value, &text, remedy)? {
        Some(path) => Ok(LmtpAddress::Unix(path)),
        None => text.parse().map(LmtpAddress::Tcp).map_err(|_| is_not(value, "an LMTP server's address", remedy)),
    }
}

pub(super) fn pattern(value: &Value) -> Parsed<DomainPattern> {
    let text = text(value)?;
    let remedy = "write it like \"partner.test\", \"*.partner.test\" or \"*\"";
    let parsed = match text.strip_prefix("*.") {
        _ if text == "*" => Ok(DomainPattern::Any),
        Some(parent) => Domain::parse(parent).map(DomainPattern::Below),
        None => Domain::parse(&text).map(DomainPattern::Exact),
    };
    match parsed {
        Ok(DomainPattern::Below(parent)) if parent.literal().is_some() => Err(is_not(value, "a pattern of domains", remedy)),
        Ok(pattern) => Ok(pattern),
        Err(_) => Err(is_not(value, "a pattern of domains", remedy)),
    }
}

pub(super) fn sender_pattern(value: &Value) -> Parsed<SenderPattern> {
    match text(value)?.as_str() {
        "*" => Ok(SenderPattern::Any),
        "<>" => Ok(SenderPattern::Null),
        _ => address_pattern(value).map(SenderPattern::Address),
    }
}

/// An address, or none for `*`.
pub(super) fn login(value: &Value) -> Parsed<Option<Address>> {
    if text(value)? == "*" { Ok(None) } else { address(value).map(Some) }
}

pub(super) fn address_patterns(value: &Value) -> Parsed<Vec<AddressPattern>> {
    let patterns = list(value, address_pattern)?;
    if patterns.is_empty() {
        return Err(Wrong::new("the list is empty", "name at least one address"));
    }
    Ok(patterns)
}

fn address_pattern(value: &Value) -> Parsed<AddressPattern> {
    let text = text(value)?;
    let parsed = match text.strip_prefix("*@") {
        Some(all) => Domain::parse(all).ok().map(AddressPattern::All),
        None => Address::parse(&text).ok().map(AddressPattern::Exact),
    };
    parsed.ok_or_else(|| {
        is_not(value, "an address or all of a domain", "write it like \"info@example.test\" or \"*@example.test\"")
    })
}

pub(super) fn network(value: &Value) -> Parsed<IpNet> {
    let text = text(value)?;
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| alone());
    network
        .map(|network| network.trunc())
        .map_err(|_| is_not(value, "a network", "write it like \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.7\""))
}

/// `relay.test`, `relay.test:587`, `192.0.2.1:25`, `[2001:db8::1]:25`, `[IPv6:2001:db8::1]`, `unix:/run/lmtp`.
pub(super) fn host(value: &Value) -> Parsed<RouteHost> {
    let text = text(value)?;
    let remedy = "write it like \"relay.example.test\", \"relay.example.test:587\" or \"[2001:db8::1]:25\"";
    match unix_socket(value, &text, remedy)? {
        Some(path) => Ok(RouteHost::Unix(path)),
        None => parse_host(&text).map(RouteHost::Tcp).ok_or_else(|| is_not(value, "a host", remedy)),
    }
}

pub(super) fn ip(value: &Value) -> Parsed<IpAddr> {
    text(value)?.parse().map_err(|_| is_not(value, "an IP address", "write it like \"192.0.2.7\" or \"2001:db8::7\""))
}

fn parse_host(text: &str) -> Option<HostPort> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(HostPort { host: Domain::from_ip(ip), port: None });
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| HostPort { host: Domain::from_ip(socket.ip()), port: Some(socket.port()) });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok().filter(|port: &u16| *port != 0)?)),
        _ => (text, None),
    };
    let host = Domain::parse(host).ok()?;
    // `192.0.2.300` is a valid domain's form, but meant as an address.
    let numeric = host.as_str().rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (!numeric).then_some(HostPort { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_as_written() {
        let hour = Duration::from_secs(3600);
        for (text, duration) in [
            ("0s", Some(Duration::ZERO)),
            ("500ms", Some(Duration::from_millis(500))),
            ("1h30m", Some(hour + hour / 2)),
            ("5d", Some(hour * 120)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1m1h", None),
            ("1h1h", None),
            ("-1s", None),
            ("1.5h", None),
            ("5 m", None),
            ("99999999999999999999s", None),
            ("999999999d", None),
        ] {
            assert_eq!(parse_duration(text), duration, "{text:?}");
        }
        for (text, size) in [
            ("50MiB", Some(50 << 20)),
            ("64KiB", Some(64 << 10)),
            ("10GB", Some(10_000_000_000)),
            ("123", Some(123)),
            ("1kb", Some(1000)),
            ("1.5MiB", None),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_size(text), size, "{text:?}");
        }
    }

    #[test]
    fn hosts_as_written() {
        for (text, host, port) in [
            ("relay.test", "relay.test", None),
            ("relay.test:587", "relay.test", Some(587)),
            ("192.0.2.1", "[192.0.2.1]", None),
            ("192.0.2.1:25", "[192.0.2.1]", Some(25)),
            ("2001:db8::1", "[IPv6:2001:db8::1]", None),
            ("[2001:db8::1]:25", "[IPv6:2001:db8::1]", Some(25)),
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]", None),
            ("[IPv6:2001:db8::1]:25", "[IPv6:2001:db8::1]", Some(25)),
            ("[192.0.2.1]:25", "[192.0.2.1]", Some(25)),
        ] {
            assert_eq!(parse_host(text), Some(HostPort { host: Domain::parse(host).unwrap(), port }), "{text}");
        }
        for text in ["", "a:0", "a:b", "a:99999", ":25", "192.0.2.300", "192.0.2.1:0", "a b"] {
            assert_eq!(parse_host(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(days in 0u64..1000, hours in 0u64..24, minutes in 0u64..60, seconds in 0u64..60, millis in 0u64..1000) {
            let text = format!("{days}d{hours}h{minutes}m{seconds}s{millis}ms");
            let all = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + millis;
            let duration = Duration::from_millis(all);
            prop_assert_eq!(parse_duration(&text), Some(duration));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn sizes_round_trip(number in 0u64..1_000_000, unit in prop::sample::select(vec![("KiB", 1u64 << 10), ("MB", 1_000_000), ("", 1)])) {
            prop_assert_eq!(parse_size(&format!("{number}{}", unit.0)), Some(number * unit.1));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
            let value = Value::from(text);
            for kind in [Kind::Duration, Kind::Size, Kind::Hostname, Kind::Address(true), Kind::Socket(true), Kind::Template,
                Kind::Lmtp, Kind::Pattern, Kind::SenderPattern, Kind::Login, Kind::RateOrNone, Kind::ShareOf] {
                let _ = check(kind, &value);
            }
            let list = Value::from(vec![value]);
            for kind in [Kind::AddressPatterns, Kind::Networks, Kind::Domains, Kind::Hosts, Kind::Addresses, Kind::Servers,
                Kind::Periods] {
                let _ = check(kind, &list);
            }
        }
    }
}
