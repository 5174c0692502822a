//! What a setting and a section of the configuration are: kinds of values, defaults and samples.

/// What a setting's value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 1 or more.
    Count,
    /// The same, or 0 for none.
    CountOrNone,
    /// `"100/1m"`, or empty for none.
    RateOrNone,
    /// A login, a network or a pattern of domains.
    ShareOf,
    /// A TCP port, 1 to 65535.
    Port,
    /// How many leading bits of an address count: 1 to so many.
    Prefix(u8),
    /// A number from a least to a greatest value.
    Number(f64, f64),
    /// `"5m"`; zero is fine.
    Duration,
    /// `"5m"`; more than zero.
    Period,
    /// The same, or empty for one that follows from another setting.
    PeriodOrNone,
    /// `"50MiB"` or a number of bytes; more than zero.
    Size,
    /// The same, or empty for none.
    SizeOrNone,
    /// Any text.
    Text,
    /// A file or folder; with `true` it may be empty for none.
    Path(bool),
    /// A host's full name.
    Hostname,
    /// A domain that is no address literal; with `true` it may be empty for none.
    Domain(bool),
    /// A mail address; with `true` it may be empty for none.
    Address(bool),
    /// IP address and port; with `true` it may be empty for none.
    Socket(bool),
    /// Where to listen: IP address and port, or a Unix socket.
    Listen,
    /// Permissions of a file, in octal digits.
    Mode,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A Maildir template, or empty.
    Template,
    /// An LMTP server, or empty.
    Lmtp,
    /// `partner.test`, `*.partner.test` or `*`.
    Pattern,
    /// `*`, `<>`, a mail address, or all of a domain.
    SenderPattern,
    /// A mail address, or `*` for all.
    Login,
    /// A list of addresses, or all of a domain, at least one.
    AddressPatterns,
    /// A list of networks.
    Networks,
    /// A list of domains.
    Domains,
    /// A list of hosts.
    Hosts,
    /// An IP address, or empty for none.
    IpOrNone,
    /// A list of IP addresses.
    Addresses,
    /// A list of name servers.
    Servers,
    /// A list of ascending periods.
    Periods,
}

impl Kind {
    /// What the reference page says about the type.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Count => "whole number, at least 1".to_owned(),
            Self::CountOrNone => "whole number".to_owned(),
            Self::ShareOf => "mail address, network or `\"*.example.test\"`".to_owned(),
            Self::RateOrNone => "rate like `\"100/1m\"`, or `\"\"`".to_owned(),
            Self::Port => "port".to_owned(),
            Self::Prefix(max) => format!("whole number, 1 to {max}"),
            Self::Number(min, max) if max.is_finite() => format!("number, {min} to {max}"),
            Self::Number(min, _) => format!("number, at least {min}"),
            Self::Duration => "duration".to_owned(),
            Self::Period => "duration, more than zero".to_owned(),
            Self::PeriodOrNone => "duration, more than zero, or `\"\"`".to_owned(),
            Self::Size => "size".to_owned(),
            Self::SizeOrNone => "size, or `\"\"`".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Path(false) => "path".to_owned(),
            Self::Path(true) => "path, or `\"\"`".to_owned(),
            Self::Hostname => "host name in full".to_owned(),
            Self::Domain(false) => "domain".to_owned(),
            Self::Domain(true) => "domain, or `\"\"`".to_owned(),
            Self::Address(false) => "mail address".to_owned(),
            Self::Address(true) => "mail address, or `\"\"`".to_owned(),
            Self::Socket(false) => "IP address and port".to_owned(),
            Self::Socket(true) => "IP address and port, or `\"\"`".to_owned(),
            Self::Listen => "IP address and port, or `\"unix:/path\"`".to_owned(),
            Self::Mode => "octal digits".to_owned(),
            Self::Choice(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
            Self::Template => "path with `{user}`, or `\"\"`".to_owned(),
            Self::Lmtp => "`\"unix:/path\"` or IP address and port, or `\"\"`".to_owned(),
            Self::Pattern => "`\"partner.test\"`, `\"*.partner.test\"` or `\"*\"`".to_owned(),
            Self::SenderPattern => "`\"ann@example.test\"`, `\"*@example.test\"`, `\"<>\"` or `\"*\"`".to_owned(),
            Self::Login => "mail address, or `\"*\"`".to_owned(),
            Self::AddressPatterns => "list of `\"info@example.test\"` or `\"*@example.test\"`, at least one".to_owned(),
            Self::Networks => "list of networks".to_owned(),
            Self::Domains => "list of domains".to_owned(),
            Self::Hosts => "list of hosts, with a port or without; or `\"unix:/path\"`".to_owned(),
            Self::IpOrNone => "IP address, or `\"\"`".to_owned(),
            Self::Addresses => "list of IP addresses".to_owned(),
            Self::Servers => "list of IP addresses, with a port or without".to_owned(),
            Self::Periods => "list of durations, ascending".to_owned(),
        }
    }

    /// Whether the value is written in quotes: in the environment they may then be left out.
    pub(super) fn is_quoted(self) -> bool {
        !matches!(
            self,
            Self::Boolean
                | Self::Count
                | Self::CountOrNone
                | Self::Port
                | Self::Prefix(_)
                | Self::Number(..)
                | Self::AddressPatterns
                | Self::Networks
                | Self::Domains
                | Self::Hosts
                | Self::Addresses
                | Self::Servers
                | Self::Periods
        )
    }
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting {
    /// Its name within the section.
    pub(super) name: &'static str,
    /// What its value must be.
    pub(super) kind: Kind,
    /// The default, without quotes; none: it must be set.
    pub(super) default: Option<&'static str>,
    /// What the sample file says instead of the default.
    pub(super) sample: Option<&'static str>,
    /// The meaning, in a line.
    pub(super) doc: &'static str,
}

impl Setting {
    /// The default as TOML.
    pub(super) fn default_toml(&self) -> Option<String> {
        self.default.map(|text| self.toml(text))
    }

    /// The sample file's value as TOML; none: the sample leaves the key out.
    pub(super) fn sample_toml(&self) -> Option<String> {
        self.sample.or(self.default).map(|text| self.toml(text))
    }

    fn toml(&self, text: &str) -> String {
        if self.kind.is_quoted() { format!("\"{text}\"") } else { text.to_owned() }
    }
}

/// A table of the file, or the keys before the first one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Section {
    /// Its name; empty for the keys before the first table.
    pub(super) name: &'static str,
    /// Whether it is written `[[name]]` and may stand several times.
    pub(super) repeated: bool,
    /// What it is about, in a line.
    pub(super) doc: &'static str,
    /// Its settings.
    pub(super) settings: &'static [Setting],
}

impl Section {
    /// The setting of this name.
    pub(super) fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// The full key of a setting in it: `limits.hops`, `listener.address`, `hostname`.
    pub(super) fn key(&self, name: &str) -> String {
        if self.name.is_empty() { name.to_owned() } else { format!("{}.{name}", self.name) }
    }
}
