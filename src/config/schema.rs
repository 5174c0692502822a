//! The one table of every setting: key, kind, default, sample and meaning. Defaults, the check for unknown keys, the sample
//! file, the reference page and `config show` all come from here, so they can't differ.

pub(super) use super::nearest::nearest;
pub(super) use super::setting::{Kind, Section, Setting};

/// The section of this name; empty for the keys before the first table.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

const fn set(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, kind, default: Some(default), sample: None, doc }
}

const fn must(name: &'static str, kind: Kind, sample: &'static str, doc: &'static str) -> Setting {
    Setting { name, kind, default: None, sample: Some(sample), doc }
}

const fn sampled(mut setting: Setting, sample: &'static str) -> Setting {
    setting.sample = Some(sample);
    setting
}

/// Every section, in the order of the sample file.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "",
        repeated: false,
        doc: "who we are",
        settings: &[
            must("hostname", Kind::Hostname, "mail.example.test", "our name: greeting, EHLO, Received, Reporting-MTA"),
            must(
                "postmaster",
                Kind::Address(false),
                "postmaster@example.test",
                "gets double bounces; also \"postmaster\" without a domain",
            ),
            set("shutdown_grace", Kind::Duration, "30s", "how long a stop waits for what is in flight"),
            set(
                "user",
                Kind::Text,
                "",
                "started as root: the system user to become once ports are bound; \"\" stays, with a warning",
            ),
        ],
    },
    Section {
        name: "spool",
        repeated: false,
        doc: "where accepted mail is kept until it is delivered",
        settings: &[
            set("path", Kind::Path(false), "spool", "the folder; one server at a time"),
            set("min_free", Kind::Size, "64MiB", "less than this free on the disk: 452 4.3.1, nothing accepted"),
            set("segment_size", Kind::Size, "64MiB", "size of a file of the log"),
            set(
                "zeros_ahead",
                Kind::Boolean,
                "true",
                "the log's blocks are written before they are used: syncs are faster; of no use if the file system copies on write",
            ),
            set(
                "spares",
                Kind::CountOrNone,
                "4",
                "released files of the log that are kept to be written again: syncs are faster, less is written; 0 if the file system copies on write",
            ),
            set("compaction_rate", Kind::Size, "32MiB", "copied a second to give space back; faster only if it runs out"),
            set(
                "index_cache",
                Kind::Size,
                "32MiB",
                "memory for the index of deferred mail; twice as much and 32MiB may wait for it if it is slow or can't be written, then mail is refused",
            ),
            set(
                "compression",
                Kind::Choice(&["none", "zstd"]),
                "none",
                "of new mail in the spool, where it saves a tenth or more",
            ),
        ],
    },
    Section {
        name: "listener",
        repeated: true,
        doc: "where mail comes in; at least one",
        settings: &[
            must(
                "address",
                Kind::Listen,
                "127.0.0.1:2525",
                "where to listen; port 0 lets the system choose; for lmtp also \"unix:/run/posthouse/lmtp\"",
            ),
            set("mode", Kind::Mode, "0660", "permissions of a Unix socket; it belongs to the user that starts the server"),
            set(
                "service",
                Kind::Choice(&["mx", "submission", "lmtp"]),
                "mx",
                "what is spoken there: \"mx\", \"submission\" or \"lmtp\"",
            ),
            set(
                "tls",
                Kind::Choice(&["none", "starttls", "implicit"]),
                "starttls",
                "encryption: \"none\", \"starttls\" on the client's wish, or \"implicit\" from the first octet",
            ),
            set("proxy", Kind::Networks, "[]", "load balancers: their connections begin with the PROXY protocol (1 or 2)"),
            set("xclient", Kind::Networks, "[]", "go-betweens that may say who their clients are (XCLIENT)"),
        ],
    },
    Section {
        name: "tls",
        repeated: false,
        doc: "the certificate that clients see; without one a self-signed pair is made at first start",
        settings: &[
            set("certificate", Kind::Path(true), "", "PEM file, our own certificate first; \"\" for the self-signed pair"),
            set("key", Kind::Path(true), "", "PEM file, the certificate's private key"),
            set("reload_interval", Kind::Period, "1m", "how often the files are looked at; changed ones are taken up"),
            set(
                "client_ca",
                Kind::Path(true),
                "",
                "PEM file: clients may log in (AUTH EXTERNAL) with certificates of these authorities; \"\" asks for none",
            ),
        ],
    },
    Section {
        name: "certificate",
        repeated: true,
        doc: "more certificates: for other names, of which the one that a client asks for (SNI) is shown; or with other kinds of keys",
        settings: &[
            must("file", Kind::Path(false), "conf/tls/other.pem", "PEM file, our own certificate first"),
            must("key", Kind::Path(false), "conf/tls/other-key.pem", "PEM file, the certificate's private key"),
        ],
    },
    Section {
        name: "auth",
        repeated: false,
        doc: "the mailboxes and their passwords",
        settings: &[
            set("users", Kind::Path(false), "conf/users", "ADDRESS:HASH a line (PHC strings, argon2id); see `posthouse user`"),
            set("require_tls", Kind::Boolean, "true", "AUTH is offered on encrypted sessions only"),
            set("failures", Kind::Count, "3", "failed logins in a session; the last of them gets 421"),
            set("failures_per_client", Kind::Count, "20", "failed logins from one client address in a period; more are refused"),
            set("failures_per_account", Kind::Count, "50", "failed logins to one account in a period; more are refused"),
            set("failure_period", Kind::Period, "15m", "the period: so long failed logins count, from the first"),
            set(
                "failure_delay",
                Kind::Duration,
                "1s",
                "a failed login's answer waits so long, the next ones up to 8 times as long",
            ),
            set("concurrency", Kind::Count, "2", "passwords checked at a time; each takes a processor and some 20 MiB"),
        ],
    },
    Section {
        name: "sender",
        repeated: true,
        doc: "who may write as whom, besides as themselves",
        settings: &[
            must("login", Kind::Login, "ann@example.test", "who logged in; \"*\" for all who do"),
            must(
                "addresses",
                Kind::AddressPatterns,
                "[\"postmaster@example.test\"]",
                "what may stand in MAIL FROM and From: \"info@example.test\" or \"*@example.test\"",
            ),
        ],
    },
    Section {
        name: "limits",
        repeated: false,
        doc: "what a client may ask of us",
        settings: &[
            set("message_size", Kind::Size, "50MiB", "of a message's content"),
            set("recipients", Kind::Count, "1000", "per message"),
            set("connections", Kind::Count, "10000", "at a time, all listeners together"),
            set("connections_per_client", Kind::Count, "200", "at a time from one client address"),
            set("connections_per_network", Kind::Count, "500", "at a time from one network"),
            set("network_ipv4", Kind::Prefix(32), "24", "how many leading bits of an IPv4 address name its network"),
            set("network_ipv6", Kind::Prefix(128), "64", "the same for IPv6"),
            set(
                "submission_reserve",
                Kind::Number(0.0, 1.0),
                "0.1",
                "share of connections and in_flight that mx leaves to submission and lmtp, where there are such listeners",
            ),
            set("in_flight", Kind::Size, "512MiB", "of mail that is coming in, all sessions together; beyond it 452 4.3.1"),
            set("in_flight_per_network", Kind::Size, "128MiB", "the same from one network"),
            set("errors", Kind::Count, "20", "bad commands in a session before 421"),
            set("commands", Kind::Count, "1000", "commands without a message before 421; accepted recipients don't count"),
            set("greeting_delay", Kind::Duration, "200ms", "how long mx waits for strangers who talk before its greeting"),
            set("hello_timeout", Kind::Period, "5m", "how long a client may take to introduce itself"),
            set("command_timeout", Kind::Period, "5m", "how long a client may take for a command"),
            set("data_timeout", Kind::Period, "10m", "how long a client may take for the content"),
            set("data_pace", Kind::Count, "100", "octets of content a second, on average, once command_timeout is over"),
            set("transaction_timeout", Kind::Period, "30m", "from the greeting or the last message to the end of the next"),
            set("hold", Kind::Period, "30d", "how long submitted mail may ask to be held back (FUTURERELEASE)"),
            set("handshake_timeout", Kind::Period, "30s", "how long a client may take for the TLS handshake"),
            set("hops", Kind::Count, "50", "Received fields: more is a loop, 5.4.6"),
        ],
    },
    Section {
        name: "domain",
        repeated: true,
        doc: "a domain whose mailboxes are here: those of `auth.users`",
        settings: &[
            must("name", Kind::Domain(false), "example.test", "the domain"),
            set(
                "maildir",
                Kind::Template,
                "mail/{domain}/{user}",
                "a Maildir for each user; not beside `lmtp`, whose setting turns this default off",
            ),
            set("lmtp", Kind::Lmtp, "", "instead of maildir: \"unix:/run/dovecot/lmtp\" or \"127.0.0.1:2424\""),
            set("subaddress", Kind::Text, "+", "ends a mailbox's name: user+tag@ goes to user@; \"\" turns it off"),
            set("catch_all", Kind::Address(true), "", "gets mail for users that don't exist; \"\" for nobody"),
            sampled(
                set("aliases", Kind::Path(true), "", "classic aliases file: name: target, target…; \"\" for none"),
                "conf/aliases",
            ),
            set(
                "quota",
                Kind::SizeOrNone,
                "",
                "what each Maildir may hold, \"1GiB\"; \"\" for what its maildirsize file says, if there is one",
            ),
            set(
                "over_quota",
                Kind::Choice(&["bounce", "wait"]),
                "bounce",
                "mail that doesn't fit: \"bounce\" sends it back (5.2.2), \"wait\" tries again (4.2.2)",
            ),
        ],
    },
    Section {
        name: "relay",
        repeated: false,
        doc: "mail for others that we pass on",
        settings: &[
            set("networks", Kind::Networks, "[]", "clients that may relay without AUTH"),
            set("domains", Kind::Domains, "[]", "domains relayed for anyone (backup MX)"),
        ],
    },
    Section {
        name: "route",
        repeated: true,
        doc: "before MX look-up; the first that matches counts",
        settings: &[
            must("domain", Kind::Pattern, "partner.test", "\"partner.test\", \"*.partner.test\" or \"*\""),
            set("sender", Kind::SenderPattern, "*", "only mail from this address, or all of a domain; \"<>\": notices"),
            sampled(
                set("hosts", Kind::Hosts, "[]", "tried in order; [] for the MX hosts of the recipient's domain"),
                "[\"127.0.0.1:2526\"]",
            ),
            set(
                "protocol",
                Kind::Choice(&["smtp", "lmtp"]),
                "smtp",
                "what is spoken there; for lmtp name the port, or \"unix:/run/dovecot/lmtp\"",
            ),
            set(
                "tls",
                Kind::Choice(&["none", "opportunistic", "require", "verify"]),
                "opportunistic",
                "encryption to these hosts; see `remote.tls`, which MX hosts get at the least",
            ),
            set("implicit_tls", Kind::Boolean, "false", "TLS from the first octet, as on port 465"),
            set("login", Kind::Text, "", "log in as (SCRAM-SHA-256, PLAIN or LOGIN); \"\" for not at all"),
            set("password_file", Kind::Path(true), "", "its first line is the login's password"),
            set(
                "family",
                Kind::Choice(&["", "any", "ipv4-first", "ipv6-first", "ipv4", "ipv6"]),
                "",
                "which addresses of a host are called; \"\": as `remote.family` says",
            ),
            set("sources", Kind::Addresses, "[]", "our own addresses that these hosts are called from; []: `remote.sources`"),
        ],
    },
    Section {
        name: "remote",
        repeated: false,
        doc: "how other servers are called",
        settings: &[
            set("port", Kind::Port, "25", "the port MX hosts are called on"),
            set("concurrency", Kind::Count, "20", "connections to one destination at the most"),
            set("connect_timeout", Kind::Period, "30s", "for one connection"),
            set("reply_timeout", Kind::Period, "5m", "for one reply; the final dot's gets twice this (RFC 5321 4.5.3.2)"),
            set("greeting_timeout", Kind::PeriodOrNone, "", "for the greeting; \"\" for `reply_timeout`"),
            set("mail_timeout", Kind::PeriodOrNone, "", "for the reply to MAIL; \"\" for `reply_timeout`"),
            set("recipient_timeout", Kind::PeriodOrNone, "", "for each reply to RCPT; \"\" for `reply_timeout`"),
            set(
                "data_timeout",
                Kind::PeriodOrNone,
                "",
                "for the reply to DATA; \"\" for two fifths of `reply_timeout`: 2m of 5m",
            ),
            set("block_timeout", Kind::PeriodOrNone, "", "to send 64 KiB; \"\" for three fifths of `reply_timeout`: 3m of 5m"),
            set(
                "final_timeout",
                Kind::PeriodOrNone,
                "",
                "for the reply to the final dot; \"\" for twice `reply_timeout`: too short a time means duplicates",
            ),
            set(
                "transaction_timeout",
                Kind::Period,
                "2h",
                "for one message, from MAIL to the final dot, however slowly a server takes its recipients",
            ),
            set(
                "tls",
                Kind::Choice(&["none", "opportunistic", "require", "verify"]),
                "opportunistic",
                "encryption to MX hosts: \"none\"; where it can be had; always; always, with a certificate that is the host's",
            ),
            set("tls_ca", Kind::Path(true), "", "PEM file: authorities of other servers' certificates; \"\" for the system's"),
            set(
                "family",
                Kind::Choice(&["any", "ipv4-first", "ipv6-first", "ipv4", "ipv6"]),
                "any",
                "which addresses of a host are called: both families in turn, one first, or one alone",
            ),
            set(
                "sources",
                Kind::Addresses,
                "[]",
                "our own addresses that MX hosts are called from, in turn; []: the system's choice",
            ),
            set(
                "special_addresses",
                Kind::Choice(&["refuse", "allow"]),
                "refuse",
                "MX hosts that resolve to loopback, private or our own addresses: \"refuse\" or \"allow\"",
            ),
        ],
    },
    Section {
        name: "destination",
        repeated: true,
        doc: "bounds on mail to other servers, for each MX set; the first that matches counts; none ever hits notices",
        settings: &[
            sampled(
                set("domain", Kind::Pattern, "*", "of recipients; set apart from other mail to the same hosts"),
                "*.partner.test",
            ),
            sampled(set("mx", Kind::Pattern, "*", "of MX hosts, or of a route's; one has to match"), "*.provider.test"),
            set("source", Kind::IpOrNone, "", "bounds what leaves from this address of ours, beside what bounds the destination"),
            set("shared", Kind::Boolean, "false", "all that matches is one destination, with one set of bounds"),
            sampled(
                set(
                    "outgoing_concurrency",
                    Kind::CountOrNone,
                    "0",
                    "connections at a time; 0 for `remote.concurrency`, the most there is",
                ),
                "5",
            ),
            sampled(
                set("outgoing_messages_rate", Kind::RateOrNone, "", "messages in any such time; \"\" for any number"),
                "100/1m",
            ),
            sampled(
                set("outgoing_connections_rate", Kind::RateOrNone, "", "new connections in any such time; \"\" for any number"),
                "10/1m",
            ),
        ],
    },
    Section {
        name: "queue",
        repeated: false,
        doc: "how much is done at a time",
        settings: &[
            set("paused", Kind::Boolean, "false", "start with delivery paused"),
            set("attempts", Kind::Count, "1000", "attempts in flight, all destinations together"),
            set("active", Kind::Count, "20000", "messages planned in memory; the rest waits on disk"),
        ],
    },
    Section {
        name: "share",
        repeated: true,
        doc: "who has more of the queue than others: senders take turns; the first that matches counts",
        settings: &[
            must(
                "sender",
                Kind::ShareOf,
                "shop@example.test",
                "who logged in, else the client's network, else the reverse-path's domain: \"192.0.2.0/24\", \"*.example.test\"",
            ),
            sampled(set("weight", Kind::Count, "1", "turns where others have one"), "4"),
        ],
    },
    Section {
        name: "retry",
        repeated: false,
        doc: "when deferred mail is tried again, and when we give up",
        settings: &[
            set("first", Kind::Period, "5m", "wait after the first failure"),
            set("factor", Kind::Number(1.0, f64::INFINITY), "2.0", "each wait is the last times this"),
            set("max", Kind::Period, "4h", "and never longer than this"),
            set("jitter", Kind::Number(0.0, 1.0), "0.1", "plus or minus this share"),
            set("lifetime", Kind::Period, "5d", "then the recipient bounces"),
            set("bounce_lifetime", Kind::Period, "1d", "the same for notices"),
            set("delay_notice", Kind::Periods, "[\"4h\"]", "ages at which the sender is told; [] for never"),
            set("hint_min", Kind::Duration, "30s", "a wait that the other server asks for (\"try again in…\") is at least this"),
            set("hint_max", Kind::Duration, "4h", "and at most this; \"0s\" ignores such hints"),
        ],
    },
    Section {
        name: "notice",
        repeated: false,
        doc: "what senders are told about mail that is late or can't be delivered; docs/notices.md",
        settings: &[
            set(
                "language",
                Kind::Text,
                "en",
                "where the message names none that there is: \"de\", \"en\", \"es\", \"fr\", \"ja\", \"pt\", or one of your own",
            ),
            set("templates", Kind::Path(true), "", "folder of texts of your own, a file a language: \"en.toml\"; \"\" for none"),
            set(
                "to",
                Kind::Choice(&["everyone", "known"]),
                "everyone",
                "\"known\": only senders with a mailbox here, and those whose mail came from this machine, with a login or from relay.networks",
            ),
            set(
                "digest",
                Kind::Duration,
                "1d",
                "how often the postmaster is told how many notices weren't sent; \"0s\" for never",
            ),
            set("delay_over", Kind::Boolean, "false", "who was told of a delay is also told when it is over"),
        ],
    },
    Section {
        name: "dns",
        repeated: false,
        doc: "who is asked for MX and addresses",
        settings: &[
            set("servers", Kind::Servers, "[]", "\"127.0.0.1:5300\"; empty: the system's resolv.conf"),
            set("timeout", Kind::Period, "5s", "for one question to one server"),
        ],
    },
    Section {
        name: "sendmail",
        repeated: false,
        doc: "mail from this machine's own users and programs, by way of `posthouse sendmail`",
        settings: &[
            set(
                "drop",
                Kind::Path(true),
                "spool/drop",
                "folder where it waits for the server; in `spool.path` by default; \"\" turns it off",
            ),
            set("waiting", Kind::Count, "10000", "messages that may wait there"),
            set(
                "domain",
                Kind::Domain(true),
                "",
                "of addresses without one; \"\" for the first [[domain]], or else the hostname",
            ),
        ],
    },
    Section {
        name: "admin",
        repeated: false,
        doc: "for the operator",
        settings: &[
            set("socket", Kind::Path(false), "spool/control.sock", "for the command line; in `spool.path` by default"),
            set("http", Kind::Socket(true), "127.0.0.1:8025", "/metrics, /healthz, /readyz; \"\" turns it off"),
            set("tls_certificate", Kind::Path(true), "", "PEM file, turns http into HTTPS; \"\" for plain HTTP"),
            set("tls_key", Kind::Path(true), "", "PEM file, the certificate's private key"),
        ],
    },
    Section {
        name: "log",
        repeated: false,
        doc: "the mail log, on standard error",
        settings: &[
            set("format", Kind::Choice(&["text", "json", "journald"]), "text", "\"text\", \"json\" or \"journald\""),
            set(
                "level",
                Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
                "info",
                "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
            ),
        ],
    },
];
