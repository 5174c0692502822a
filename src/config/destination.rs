//! `[[destination]]`: what an admin bounds in mail to other servers. Owns nothing but values.

use std::net::IpAddr;
use std::sync::Arc;

use figment::value::Value;

use super::DomainPattern;
use super::values::{Parsed, is_not, parse_duration, text};
use crate::mail::{Domain, Rate};

/// `[[destination]]`
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Which recipients' domains.
    pub domain: DomainPattern,
    /// Which MX hosts, or hosts of routes: one of them has to match.
    pub mx: DomainPattern,
    /// What leaves from this address of ours; none: the bounds are the destination's, whatever address its mail leaves from.
    pub source: Option<IpAddr>,
    /// Everything that matches is one destination; by `source`: it has one set of bounds.
    pub shared: bool,
    /// What is bounded.
    pub outgoing: Outgoing,
}

/// Bounds on what goes out to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Attempts at a time; none: `remote.concurrency`. Never more than that.
    pub concurrency: Option<usize>,
    /// Messages.
    pub messages_rate: Option<Rate>,
    /// New connections.
    pub connections_rate: Option<Rate>,
}

/// One of our own addresses that mail may leave from, and what bounds what does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub ip: IpAddr,
    /// What the bounds are for: all with the same name share them.
    pub scope: Arc<str>,
    /// The bounds.
    pub outgoing: Outgoing,
}

impl DestinationRule {
    /// Whether it is meant for mail to these hosts; `domain` is the recipients', where they have one destination for themselves.
    pub fn matches(&self, domain: Option<&Domain>, hosts: &[Domain]) -> bool {
        let by_domain = self.domain == DomainPattern::Any || domain.is_some_and(|domain| self.domain.matches(domain));
        let by_host = self.mx == DomainPattern::Any || hosts.iter().any(|host| self.mx.matches(host));
        by_domain && by_host
    }
}

/// `"100/1m"`: so many in any such time.
pub(super) fn rate(value: &Value) -> Parsed<Rate> {
    let text = text(value)?;
    let parsed = text.split_once('/').and_then(|(count, period)| {
        let count = count.parse().ok().filter(|count| *count > 0)?;
        // "100/m" is as clear as "100/1m".
        let period = parse_duration(period).or_else(|| parse_duration(&format!("1{period}")))?;
        (!period.is_zero()).then_some(Rate { count, period })
    });
    parsed.ok_or_else(|| is_not(value, "a rate", "write it like \"100/1m\": so many in any such time"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_a_count_in_a_time() {
        let minute = Duration::from_secs(60);
        assert_eq!(rate(&Value::from("100/1m")).unwrap(), Rate { count: 100, period: minute });
        assert_eq!(rate(&Value::from("5/m")).unwrap(), Rate { count: 5, period: minute });
        for wrong in ["", "100", "0/1m", "100/0s", "-1/1m", "100/1x", "/1m", "1/"] {
            assert!(rate(&Value::from(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_rule_is_for_domains_and_for_hosts() {
        let name = |name: &str| Domain::parse(name).unwrap();
        let rule = |domain, mx| DestinationRule { domain, mx, source: None, shared: false, outgoing: Outgoing::default() };
        let below = DomainPattern::Below(name("p.test"));
        let by_host = rule(DomainPattern::Any, below.clone());
        assert!(by_host.matches(Some(&name("a.test")), &[name("mx.other.test"), name("mx.p.test")]));
        assert!(by_host.matches(None, &[name("mx.p.test")]));
        assert!(!by_host.matches(Some(&name("x.p.test")), &[name("mx.other.test")]));
        let by_domain = rule(DomainPattern::Exact(name("a.test")), DomainPattern::Any);
        assert!(by_domain.matches(Some(&name("a.test")), &[]));
        assert!(!by_domain.matches(None, &[]) && !by_domain.matches(Some(&name("b.test")), &[]));
    }
}
