//! The MX hosts of a domain (RFC 5321 section 5.1, RFC 7505), and what it means when there are none.

use super::addresses::{ADDRESSES_MAX, to_hosts};
use super::special::is_special;
use super::{Host, Router, Way};
use crate::config::SpecialAddresses;
use crate::mail::{Cause, Diagnosis, Domain, EnhancedCode, Outcome};
use crate::system::{DnsError, MxRecord};

/// MX hosts that are looked up at the most.
const HOSTS_MAX: usize = 10;

/// What was found out on the way, for the verdict if no address is left.
#[derive(Default)]
struct Findings {
    trouble: Option<String>,
    special: bool,
    ourselves: bool,
    unwanted: bool,
}

impl Router {
    /// The hosts that take mail for a domain, in the order in which they are to be tried.
    pub(super) async fn mx_hosts(&self, domain: &Domain, way: &Way) -> Result<Vec<Host>, Outcome> {
        let mut findings = Findings::default();
        let candidates = self.candidates(domain, &mut findings).await?;
        let mut found: Vec<Host> = Vec::new();
        for (preference, exchange) in candidates.iter().take(HOSTS_MAX) {
            let mut lookup = self.addresses(exchange, way).await;
            findings.trouble = findings.trouble.or(lookup.trouble);
            findings.unwanted |= lookup.unwanted;
            if self.config.remote.special_addresses == SpecialAddresses::Refuse {
                if lookup.addresses.iter().any(|ip| self.is_own(ip)) {
                    // We are one of the mail servers: only better ones may get it from us (RFC 5321 section 5.1).
                    findings.ourselves = true;
                    found.retain(|better| better.preference < *preference);
                    break;
                }
                let before = lookup.addresses.len();
                lookup.addresses.retain(|ip| !is_special(*ip));
                findings.special |= lookup.addresses.len() < before;
            }
            found.extend(to_hosts(exchange, *preference, lookup.addresses, self.config.remote.port));
            if found.len() >= ADDRESSES_MAX {
                break;
            }
        }
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() {
            return Err(no_host(domain, findings));
        }
        Ok(found)
    }

    /// The names of the hosts that take mail for a domain, as `mx_hosts` would look them up; none if there are none, or the DNS can't say.
    pub async fn exchanges(&self, domain: &Domain) -> Option<Vec<Domain>> {
        let candidates = self.candidates(domain, &mut Findings::default()).await.ok()?;
        Some(candidates.into_iter().take(HOSTS_MAX).map(|(_, exchange)| exchange).collect())
    }

    /// The names to look up, best first, equals in random order; the domain itself where it has no MX.
    async fn candidates(&self, domain: &Domain, findings: &mut Findings) -> Result<Vec<(u16, Domain)>, Outcome> {
        if domain.literal().is_some() {
            return Ok(vec![(0, domain.clone())]);
        }
        let mut records = match self.system.dns.mx(domain).await {
            Ok(records) if records.is_empty() => vec![MxRecord { preference: 0, exchange: Some(domain.clone()) }],
            Ok(records) => records,
            Err(DnsError::NoSuchDomain) => {
                return Err(failed(EnhancedCode(5, 1, 2), format!("no such domain: {domain}")));
            }
            Err(DnsError::Unavailable(why)) => return Err(deferred(format!("looking up the MX of {domain}: {why}"))),
        };
        // The order of an answer means nothing.
        records.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
        self.shuffle_equals(&mut records);
        let ours = |record: &MxRecord| record.exchange.as_ref() == Some(&self.config.hostname);
        if let Some(own) = records.iter().find(|record| ours(record)).map(|record| record.preference) {
            findings.ourselves = true;
            records.retain(|record| record.preference < own);
        } else if records.iter().all(|record| record.exchange.is_none()) {
            return Err(failed(EnhancedCode(5, 1, 10), format!("{domain} takes no mail (null MX)")));
        }
        Ok(records.into_iter().filter_map(|record| Some((record.preference, record.exchange?))).collect())
    }

    fn shuffle_equals(&self, records: &mut [MxRecord]) {
        for equals in records.chunk_by_mut(|a, b| a.preference == b.preference) {
            self.shuffle(equals);
        }
    }

    /// Whether a listener of ours has the address. One bound to all addresses doesn't tell which they are; the count of
    /// `Received:` fields ends loops that this doesn't see.
    fn is_own(&self, ip: &std::net::IpAddr) -> bool {
        let mut ours = self.config.listeners.iter().filter_map(|listener| listener.address.tcp());
        ours.any(|address| address.ip() == *ip && !ip.is_unspecified() && !ip.is_loopback())
    }
}

/// Why no address was left: what may change first, then what is certain.
fn no_host(domain: &Domain, findings: Findings) -> Outcome {
    if let Some(trouble) = findings.trouble {
        return deferred(trouble);
    }
    if findings.unwanted {
        // Our own settings stand in the way, not the domain.
        return deferred(format!(
            "{domain} has no mail server with an address that our own settings (family, sources) let us call"
        ));
    }
    if findings.ourselves {
        let text = format!("{domain} names this server as its best mail server, but its mail isn't delivered here");
        return failed(EnhancedCode(5, 4, 6), text);
    }
    let text = if findings.special {
        format!("{domain} has only mail servers with private or reserved addresses")
    } else {
        format!("{domain} has no mail server with an address")
    };
    failed(EnhancedCode(5, 4, 4), text)
}

fn failed(status: EnhancedCode, text: String) -> Outcome {
    Outcome::Failed(Diagnosis::new(status, Cause::Dns, text))
}

fn deferred(text: String) -> Outcome {
    Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 4, 3), Cause::Dns, text))
}
