//! RCPT TO: whom we take mail for. Here it is decided that this is no open relay.

use super::{Client, Policy};
use crate::directory::Resolution;
use crate::mail::{Address, EnhancedCode, Reply, ReversePath, Service};
use crate::smtp::server::ForwardPath;

/// What in a local part asks for further routing: percent hack, bang path, an address or a source route within quotes.
const ROUTING: [char; 3] = ['%', '!', '@'];

impl Policy {
    /// Whether mail for this path may come, and for which address it then is. `already` counts the recipients accepted before.
    pub fn recipient(
        &self,
        client: &Client,
        _reverse_path: &ReversePath,
        path: &ForwardPath,
        already: usize,
    ) -> Result<Address, Reply> {
        let limit = self.config.limits.recipients;
        if already >= limit {
            let text = format!("Too many recipients: at most {limit} a message");
            return Err(Reply::new(452, EnhancedCode(4, 5, 3), text));
        }
        let address = match path {
            ForwardPath::Postmaster => return Ok(self.config.postmaster.clone()),
            ForwardPath::Address(address) => address,
        };
        // Whoever left it in the drop folder isn't there to hear a refusal: what can't be delivered comes back as a notice.
        if client.service == Service::Local {
            return Ok(address.clone());
        }
        match self.directory.resolve(address) {
            Resolution::NotLocal => self.remote(client, address),
            Resolution::Unknown if asks_for_routing(address) => Err(relay_denied(address)),
            Resolution::Unknown => Err(no_such_user(address)),
            // A catch-all or a tag would swallow `user%other.test@here`; who sends that means other.test.
            _ if asks_for_routing(address) && !self.directory.is_listed(address) => Err(relay_denied(address)),
            Resolution::Mailbox(_) | Resolution::Alias(_) => Ok(address.clone()),
        }
    }

    /// The domain isn't a local one.
    fn remote(&self, client: &Client, address: &Address) -> Result<Address, Reply> {
        let for_anyone = self.config.relay.domains.contains(address.domain());
        if self.is_this_host(address) && !for_anyone {
            // Only the postmaster is reached by the host's own name or address: anything else would come back to us.
            if address.local().eq_ignore_ascii_case("postmaster") {
                return Ok(self.config.postmaster.clone());
            }
            return Err(if asks_for_routing(address) { relay_denied(address) } else { no_such_user(address) });
        }
        // By LMTP mail is delivered here, and nowhere else: no relay, not even for relay.domains.
        if client.service == Service::Lmtp {
            return Err(relay_denied(address));
        }
        // Who logged in may write to anybody.
        if self.is_trusted(client) || client.login.is_some() {
            return Ok(address.clone());
        }
        // The host behind us may trust us, and route `user%other.test` further: strangers don't get that far.
        if for_anyone && !asks_for_routing(address) {
            return Ok(address.clone());
        }
        Err(relay_denied(address))
    }

    /// Whether the domain is our host name, or the address literal of a listener.
    fn is_this_host(&self, address: &Address) -> bool {
        match address.domain().literal() {
            Some(ip) => {
                let ip = ip.to_canonical();
                let mut ours = self.config.listeners.iter().filter_map(|listener| listener.address.tcp());
                ours.any(|address| address.ip().to_canonical() == ip)
            }
            None => address.domain() == &self.config.hostname,
        }
    }
}

fn asks_for_routing(address: &Address) -> bool {
    address.local().contains(ROUTING)
}

fn no_such_user(address: &Address) -> Reply {
    Reply::new(550, EnhancedCode(5, 1, 1), format!("<{address}>: no such user here"))
}

fn relay_denied(address: &Address) -> Reply {
    Reply::new(550, EnhancedCode(5, 7, 1), format!("<{address}>: relay access denied"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load;
    use crate::directory::Directory;
    use crate::mail::HeaderScan;
    use crate::system::SystemDisk;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

    fn policy() -> Policy {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let users = ["ann@here.test", "real%mailbox@here.test", "ann@all.test"];
        std::fs::write(at("users"), users.map(|user| format!("{user}:{HASH}\n")).concat()).unwrap();
        std::fs::write(at("aliases"), "team: ann, bob@far.test\n").unwrap();
        let text = format!(
            "hostname = \"mx.here.test\"\npostmaster = \"ann@here.test\"\n\
             [[listener]]\naddress = \"127.0.0.1:2525\"\n[[listener]]\naddress = \"[2001:db8::25]:2525\"\n\
             [auth]\nusers = {:?}\n[limits]\nrecipients = 3\nmessage_size = 1000\nhops = 2\n\
             [[domain]]\nname = \"here.test\"\naliases = {:?}\n\
             [[domain]]\nname = \"all.test\"\ncatch_all = \"ann@all.test\"\n\
             [relay]\nnetworks = [\"192.0.2.0/24\"]\ndomains = [\"backup.test\"]\n",
            at("users"),
            at("aliases")
        );
        std::fs::write(at("posthouse.toml"), text).unwrap();
        let config = load(Some(&at("posthouse.toml")), &BTreeMap::new()).unwrap().config;
        let directory = Directory::load(&config, &SystemDisk).unwrap();
        crate::policy::tests::policy(config, directory)
    }

    fn client(address: &str) -> Client {
        Client {
            service: Service::Mx,
            address: address.parse().unwrap(),
            helo: "client.test".to_owned(),
            extended: true,
            login: None,
            tls: None,
        }
    }

    /// `accept ADDRESS`, or the codes of the refusal.
    fn decide(policy: &Policy, client: &Client, path: &str) -> String {
        let path = match path {
            "postmaster" => ForwardPath::Postmaster,
            path => ForwardPath::Address(Address::parse(path).unwrap()),
        };
        match policy.recipient(client, &ReversePath::Null, &path, 0) {
            Ok(address) => format!("accept {address}"),
            Err(reply) => format!("{} {}", reply.code, reply.enhanced.unwrap()),
        }
    }

    #[test]
    fn everybody_may_write_to_those_who_are_here_and_to_nobody_else_here() {
        let policy = policy();
        for client in [client("203.0.113.9"), client("192.0.2.7")] {
            for (path, decision) in [
                ("ann@here.test", "accept ann@here.test"),
                ("Ann+tag@HERE.test", "accept Ann+tag@here.test"),
                ("team@here.test", "accept team@here.test"),
                ("who@here.test", "550 5.1.1"),
                ("who@all.test", "accept who@all.test"),
                ("postmaster", "accept ann@here.test"),
                ("postmaster@here.test", "accept postmaster@here.test"),
                ("POSTMASTER@all.test", "accept POSTMASTER@all.test"),
                ("postmaster@mx.here.test", "accept ann@here.test"),
                ("Postmaster@[127.0.0.1]", "accept ann@here.test"),
                ("postmaster@[IPv6:2001:db8::25]", "accept ann@here.test"),
                ("postmaster@[IPv6:::ffff:127.0.0.1]", "accept ann@here.test"),
                ("ann@mx.here.test", "550 5.1.1"),
                ("ann@[127.0.0.1]", "550 5.1.1"),
                ("real%mailbox@here.test", "accept real%mailbox@here.test"),
            ] {
                assert_eq!(decide(&policy, &client, path), decision, "{path} from {}", client.address);
            }
        }
    }

    /// Every way to ask a server to pass mail on to far.test. Source routes (`@here.test:who@far.test`) come here as the address
    /// at their end.
    const SPELLINGS: [&str; 18] = [
        "who@far.test",
        "who@[198.51.100.1]",
        "who@sub.here.test",
        "who%far.test@here.test",
        "who%far.test%here.test@here.test",
        "who%far.test@all.test",
        "who%far.test@mx.here.test",
        "who%far.test@[127.0.0.1]",
        "who%far.test@backup.test",
        "far.test!who@here.test",
        "a.test!far.test!who@here.test",
        "far.test!who@backup.test",
        "far.test!who%b.test@all.test",
        "\"who@far.test\"@here.test",
        "\"who@far.test\"@all.test",
        "\"@here.test:who@far.test\"@here.test",
        "ann+who%far.test@here.test",
        "\"who@far.test\"@[127.0.0.1]",
    ];

    #[test]
    fn no_spelling_makes_us_relay_for_strangers() {
        let policy = policy();
        for address in ["203.0.113.9", "127.0.0.1", "192.0.3.1", "2001:db8::1", "::ffff:203.0.113.9"] {
            for path in SPELLINGS {
                assert_eq!(decide(&policy, &client(address), path), "550 5.7.1", "{path} from {address}");
            }
        }
    }

    #[test]
    fn trusted_clients_reach_the_domain_they_name_and_no_other() {
        let policy = policy();
        for address in ["192.0.2.7", "::ffff:192.0.2.7"] {
            for path in SPELLINGS {
                let named = Address::parse(path).unwrap().domain().clone();
                let outside = ["far.test", "[198.51.100.1]", "sub.here.test", "backup.test"].contains(&named.as_str());
                let wanted = if outside { format!("accept {path}") } else { "550 5.7.1".to_owned() };
                assert_eq!(decide(&policy, &client(address), path), wanted, "{path} from {address}");
            }
        }
    }

    #[test]
    fn relay_domains_are_relayed_for_anyone_but_not_their_subdomains() {
        let policy = policy();
        let stranger = client("203.0.113.9");
        assert_eq!(decide(&policy, &stranger, "who@backup.test"), "accept who@backup.test");
        assert_eq!(decide(&policy, &stranger, "who@sub.backup.test"), "550 5.7.1");
    }

    #[test]
    fn each_limit_has_its_reply() {
        let policy = policy();
        let client = client("203.0.113.9");
        let ann = ForwardPath::Address(Address::parse("ann@here.test").unwrap());
        assert!(policy.recipient(&client, &ReversePath::Null, &ann, 2).is_ok());
        let refused = policy.recipient(&client, &ReversePath::Null, &ann, 3).unwrap_err();
        assert_eq!(refused.to_string(), "452 4.5.3 Too many recipients: at most 3 a message");
        assert_eq!(policy.sender(&client, &ReversePath::Null, Some(1000)), Ok(()));
        let refused = policy.sender(&client, &ReversePath::Null, Some(1001)).unwrap_err();
        assert_eq!(refused.to_string(), "552 5.3.4 Message too big: the limit is 1000 bytes");
        let mut scan = HeaderScan::new(1000);
        scan.receive(b"Received: a\r\nreceived: b\r\n");
        assert_eq!(policy.message(&client, &scan), Ok(()));
        scan.receive(b"Received: c\r\n\r\n");
        let refused = policy.message(&client, &scan).unwrap_err();
        assert_eq!(refused.to_string(), "554 5.4.6 Mail loop: 3 Received fields, the limit is 2");
    }

    #[test]
    fn any_printable_name_says_hello() {
        let policy = policy();
        let named = |helo: &str| Client { helo: helo.to_owned(), ..client("203.0.113.9") };
        for helo in ["client.test", "[192.0.2.1]", "localhost", "mx.here.test", "under_score"] {
            assert_eq!(policy.hello(&named(helo)), Ok(()), "{helo}");
        }
        for helo in ["", "a b", "a\tb", "é"] {
            assert_eq!(policy.hello(&named(helo)).unwrap_err().code, 501, "{helo:?}");
        }
    }
}
