//! The trace field that every accepted message gets on top (RFC 5321 section 4.4).

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Address, AddressLiteral, Domain, QueueId, Timestamp, TlsInfo, fields};

/// As much of a HELO name is shown; octets.
const HELO_SIZE_MAX: usize = 255;
/// Few fields are longer; octets.
const CAPACITY: usize = 384;

/// The `with` clause (RFC 3848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// LHLO.
    Lmtp,
    /// EHLO, and SMTPUTF8 in MAIL (RFC 6531 section 4.3).
    Utf8Smtp,
    /// LHLO, and SMTPUTF8 in MAIL.
    Utf8Lmtp,
    /// The drop folder.
    Local,
}

impl Protocol {
    /// As it stands in `Received:` and in the log: over TLS or not, logged in or not. HELO has no word for it (RFC 3848).
    pub fn keyword(self, tls: bool, logged_in: bool) -> &'static str {
        match (self, tls, logged_in) {
            (Self::Smtp, ..) => "SMTP",
            (Self::Esmtp, false, false) => "ESMTP",
            (Self::Esmtp, true, false) => "ESMTPS",
            (Self::Esmtp, false, true) => "ESMTPA",
            (Self::Esmtp, true, true) => "ESMTPSA",
            (Self::Lmtp, false, _) => "LMTP",
            (Self::Lmtp, true, _) => "LMTPS",
            (Self::Utf8Smtp, false, false) => "UTF8SMTP",
            (Self::Utf8Smtp, true, false) => "UTF8SMTPS",
            (Self::Utf8Smtp, false, true) => "UTF8SMTPA",
            (Self::Utf8Smtp, true, true) => "UTF8SMTPSA",
            (Self::Utf8Lmtp, false, _) => "UTF8LMTP",
            (Self::Utf8Lmtp, true, _) => "UTF8LMTPS",
            (Self::Local, ..) => "local",
        }
    }
}

/// What goes into our `Received:` field.
#[derive(Clone, Debug)]
pub struct TraceField<'a> {
    /// The name that the client gave itself.
    pub helo: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Our name.
    pub hostname: &'a Domain,
    /// How it came.
    pub protocol: Protocol,
    /// How the session was encrypted; none: it wasn't.
    pub tls: Option<&'a TlsInfo>,
    /// Whether the client logged in.
    pub logged_in: bool,
    /// The id it has here.
    pub id: QueueId,
    /// The recipient, only when it is the only one, because others must not learn of each other, and ASCII: an alias may lead where
    /// the header has to be.
    pub recipient: Option<&'a Address>,
    /// By what we know it if it comes again: a comment, folded; may be empty.
    pub marks: &'a str,
    /// When.
    pub at: Timestamp,
}

impl TraceField<'_> {
    /// The whole field, folded, ended by CRLF.
    pub fn to_header(&self) -> String {
        if self.protocol == Protocol::Local {
            return self.local();
        }
        let mut field = String::with_capacity(CAPACITY);
        field.push_str("Received: from ");
        // A HELO name goes in only as printable ASCII: it is a stranger's text in our header.
        let plain = self.helo.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '(' | ')'));
        field.extend(plain.take(HELO_SIZE_MAX));
        // Writing to memory can't fail.
        let _ = write!(field, " ({})\r\n\tby ", AddressLiteral(self.client));
        for part in
            [self.hostname.as_str(), " (Posthouse) with ", self.protocol.keyword(self.tls.is_some(), self.logged_in), " id "]
        {
            field.push_str(part);
        }
        self.end(&mut field);
        field
    }

    /// From no host but a user of this one: the name is its own, as for HELO.
    fn local(&self) -> String {
        let mut field = format!("Received: by {} (Posthouse, from {})\r\n\tid ", self.hostname, self.helo);
        self.end(&mut field);
        field
    }

    /// The clauses that every message has, and the end.
    fn end(&self, field: &mut String) {
        let _ = write!(field, "{}", self.id);
        if let Some(recipient) = self.recipient.filter(|recipient| recipient.is_ascii()) {
            let _ = write!(field, "\r\n\tfor <{recipient}>");
        }
        if let Some(tls) = self.tls {
            // RFC 8314 section 4.3 has a clause for the cipher suite, and none for the version.
            let _ = write!(field, "\r\n\ttls {} ({})", tls.cipher, tls.version);
        }
        if !self.marks.is_empty() {
            let _ = write!(field, "\r\n\t{}", self.marks);
        }
        field.push_str(";\r\n\t");
        field.push_str(&self.at.rfc5322());
        field.push_str("\r\n");
    }
}

/// How a message came here, as our own field on top of it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The client's address; none: a user of this machine.
    pub client: Option<IpAddr>,
    /// Whether the client logged in.
    pub logged_in: bool,
}

impl Arrival {
    /// Reads our field on top of a header; none if it isn't the one that was put there with this id. Nothing that a client says
    /// reads like another one: its name has no parentheses and no spaces there.
    pub fn read(header: &[u8], id: QueueId) -> Option<Self> {
        let field = fields(header).next().filter(|field| field.is("Received"))?;
        let mut lines = std::str::from_utf8(field.value).ok()?.split("\r\n\t");
        let (first, second) = (lines.next()?, lines.next()?);
        let end = format!("id {id}");
        let is_ours = |text: &str| text.strip_suffix(';').unwrap_or(text) == end;
        let Some(from) = first.strip_prefix(" from ") else {
            let local = first.starts_with(" by ") && first.contains(" (Posthouse, from ") && is_ours(second);
            return local.then_some(Self { client: None, logged_in: false });
        };
        let client = from.split_once(" (")?.1.strip_suffix(')')?;
        let (keyword, id) = second.strip_prefix("by ")?.split_once(" (Posthouse) with ")?.1.split_once(' ')?;
        // Of the keywords only those of a login end so (RFC 3848).
        let logged_in = keyword.ends_with('A');
        is_ours(id).then_some(Self { client: Some(Domain::parse(client).ok()?.literal()?), logged_in })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(helo: &str, client: &str, protocol: Protocol, logged_in: bool, tls: bool) -> Option<Arrival> {
        let hostname = Domain::parse("mail.example.test").unwrap();
        let info = TlsInfo { version: "TLSv1.3", cipher: "X", client_names: Vec::new(), exporter: None, end_point: None };
        let at = Timestamp::from_millis(1_795_312_800_123);
        let (client, tls) = (client.parse().unwrap(), tls.then_some(&info));
        let id = QueueId(1);
        let field = TraceField {
            helo,
            client,
            hostname: &hostname,
            protocol,
            tls,
            logged_in,
            id,
            recipient: None,
            marks: "(loop-marks 1 2)",
            at,
        };
        let header = field.to_header() + "Received: from x\r\n";
        assert_eq!(Arrival::read(header.as_bytes(), QueueId(2)), None);
        assert_eq!(Arrival::read(format!("X: y\r\n{header}").as_bytes(), QueueId(1)), None);
        Arrival::read(header.as_bytes(), QueueId(1))
    }

    #[test]
    fn what_we_wrote_on_top_says_how_a_message_came() {
        let protocols = [Protocol::Smtp, Protocol::Esmtp, Protocol::Lmtp, Protocol::Utf8Smtp, Protocol::Utf8Lmtp];
        for protocol in protocols {
            for (client, tls) in [("192.0.2.7", false), ("2001:db8::1", true)] {
                let found = read("client.test", client, protocol, false, tls);
                assert_eq!(found, Some(Arrival { client: client.parse().ok(), logged_in: false }), "{protocol:?}");
            }
        }
        for protocol in [Protocol::Esmtp, Protocol::Utf8Smtp] {
            assert!(read("x", "192.0.2.7", protocol, true, true).unwrap().logged_in);
            assert!(read("x", "192.0.2.7", protocol, true, false).unwrap().logged_in);
        }
        let client = None;
        assert_eq!(read("uid-33", "127.0.0.1", Protocol::Local, false, false), Some(Arrival { client, logged_in: false }));
        let sly = "x ([10.0.0.1])\r\n\tby h (Posthouse) with ESMTPA id 0000000000001;";
        let found = read(sly, "192.0.2.7", Protocol::Esmtp, false, false);
        assert_eq!(found, Some(Arrival { client: "192.0.2.7".parse().ok(), logged_in: false }));
        assert_eq!(Arrival::read(b"", QueueId(1)), None);
    }

    #[test]
    fn the_field_names_client_server_protocol_id_and_time() {
        let hostname = Domain::parse("mail.example.test").unwrap();
        let ann = Address::parse("ann@example.test").unwrap();
        let mut field = TraceField {
            helo: "client.test\r\n(x",
            client: "192.0.2.7".parse().unwrap(),
            hostname: &hostname,
            protocol: Protocol::Esmtp,
            tls: None,
            logged_in: false,
            id: QueueId(1),
            recipient: Some(&ann),
            marks: "",
            at: Timestamp::from_millis(1_795_312_800_123),
        };
        assert_eq!(
            field.to_header(),
            "Received: from client.testx ([192.0.2.7])\r\n\tby mail.example.test (Posthouse) with ESMTP id 0000000000001\r\n\
             \tfor <ann@example.test>;\r\n\tSun, 22 Nov 2026 02:00:00 +0000\r\n"
        );
        let local = TraceField { helo: "uid-33", protocol: Protocol::Local, ..field.clone() };
        assert_eq!(
            local.to_header(),
            "Received: by mail.example.test (Posthouse, from uid-33)\r\n\tid 0000000000001\r\n\tfor <ann@example.test>;\r\n\t\
             Sun, 22 Nov 2026 02:00:00 +0000\r\n"
        );
        let tls = TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            client_names: Vec::new(),
            exporter: None,
            end_point: None,
        };
        (field.tls, field.marks) = (Some(&tls), "(loop-marks 1 2)");
        assert_eq!(
            field.to_header(),
            "Received: from client.testx ([192.0.2.7])\r\n\tby mail.example.test (Posthouse) with ESMTPS id 0000000000001\r\n\
             \tfor <ann@example.test>\r\n\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3)\r\n\t(loop-marks 1 2);\r\n\tSun, 22 Nov 2026 02:00:00 +0000\r\n"
        );
    }

    proptest::proptest! {
        /// Whatever a client calls itself, and whatever it sends below, it isn't taken for another.
        #[test]
        fn no_name_and_no_header_passes_for_a_login(helo in "[ -~]{0,60}", below in "\\PC{0,100}") {
            let found = read(&helo, "192.0.2.7", Protocol::Esmtp, false, true);
            proptest::prop_assert_eq!(found, Some(Arrival { client: "192.0.2.7".parse().ok(), logged_in: false }));
            proptest::prop_assert_eq!(Arrival::read(below.as_bytes(), QueueId(1)), None);
        }
    }
}
