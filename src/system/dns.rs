//! Name look-ups as a seam: MX, A and AAAA, with exactly the distinctions that delivery needs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as ProtoError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::BoxFuture;
use crate::mail::Domain;

/// One MX record. An exchange of `None` is the root: with preference 0 and alone it is the null MX (RFC 7505).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// The host.
    pub exchange: Option<Domain>,
}

/// Why a look-up has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The name does not exist (NXDOMAIN): permanent.
    NoSuchDomain,
    /// SERVFAIL, REFUSED, no server reached, time-out: transient. The text is for people.
    Unavailable(String),
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchDomain => f.write_str("no such domain"),
            Self::Unavailable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DnsError {}

/// Looks names up. An existing name without such records gives an empty list. CNAMEs are followed.
pub trait Dns: Send + Sync {
    /// MX records, in no particular order.
    fn mx<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<Vec<MxRecord>, DnsError>>;
    /// IPv4 addresses.
    fn ipv4<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>>;
    /// IPv6 addresses.
    fn ipv6<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>>;
}

/// Real DNS through hickory-resolver.
pub struct SystemDns {
    resolver: TokioResolver,
}

impl SystemDns {
    /// Asks `servers`, or those of resolv.conf if there are none; `timeout` is for one try at one server.
    pub fn new(servers: &[SocketAddr], timeout: Duration) -> Result<Self, String> {
        let mut builder = if servers.is_empty() {
            Resolver::builder_tokio().map_err(|error| format!("resolv.conf: {error}"))?
        } else {
            let servers = servers.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        set_options(builder.options_mut(), timeout);
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver })
    }

    async fn lookup(&self, name: &Domain, kind: RecordType) -> Result<Vec<RData>, DnsError> {
        // The final dot keeps search lists out of it.
        match self.resolver.lookup(format!("{name}."), kind).await {
            Ok(lookup) => Ok(lookup.answers().iter().map(|record| record.data.clone()).collect()),
            Err(error) => absent_or_error(&error),
        }
    }
}

fn set_options(options: &mut ResolverOpts, timeout: Duration) {
    options.timeout = timeout;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 8192;
}

/// For NXDOMAIN hickory says both "no such name" and "no records": the first must be asked first.
fn absent_or_error(error: &NetError) -> Result<Vec<RData>, DnsError> {
    if error.is_nx_domain() {
        return Err(DnsError::NoSuchDomain);
    }
    if error.is_no_records_found() {
        return Ok(Vec::new());
    }
    Err(DnsError::Unavailable(match error {
        NetError::Timeout => "DNS time-out".to_owned(),
        NetError::Dns(ProtoError::ResponseCode(code)) => format!("DNS answer {code}"),
        other => format!("DNS: {other}"),
    }))
}

impl Dns for SystemDns {
    fn mx<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Result<Vec<MxRecord>, DnsError>> {
        Box::pin(async move {
            let mut records = Vec::new();
            let mut impossible = None;
            for data in self.lookup(domain, RecordType::MX).await? {
                if let RData::MX(mx) = data {
                    let exchange =
                        if mx.exchange.is_root() { Ok(None) } else { Domain::parse(&mx.exchange.to_ascii()).map(Some) };
                    // A host name that isn't one can't be called; the other records still count.
                    match exchange {
                        Ok(exchange) => records.push(MxRecord { preference: mx.preference, exchange }),
                        Err(_) => impossible = Some(mx.exchange),
                    }
                }
            }
            match impossible {
                // Not the same as no MX: the domain's own address must not be tried instead (RFC 5321 section 5.1).
                Some(name) if records.is_empty() => Err(DnsError::Unavailable(format!("the MX names no possible host: {name}"))),
                _ => Ok(records),
            }
        })
    }

    fn ipv4<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            let data = self.lookup(host, RecordType::A).await?;
            Ok(data.into_iter().filter_map(|d| if let RData::A(a) = d { Some(IpAddr::V4(a.0)) } else { None }).collect())
        })
    }

    fn ipv6<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        Box::pin(async move {
            let data = self.lookup(host, RecordType::AAAA).await?;
            Ok(data.into_iter().filter_map(|d| if let RData::AAAA(a) = d { Some(IpAddr::V6(a.0)) } else { None }).collect())
        })
    }
}
