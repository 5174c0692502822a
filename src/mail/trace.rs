//! The trace field that every accepted message gets on top (RFC 5321 section 4.4).

use std::net::IpAddr;

use super::{Address, Domain, QueueId, Timestamp};

/// The `with` clause (RFC 3848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
    /// LHLO.
    Lmtp,
}

impl Protocol {
    /// As it stands in `Received:` and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "SMTP",
            Self::Esmtp => "ESMTP",
            Self::Lmtp => "LMTP",
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
    /// The id it has here.
    pub id: QueueId,
    /// The recipient, only when it is the only one: others must not learn of each other.
    pub recipient: Option<&'a Address>,
    /// When.
    pub at: Timestamp,
}

impl TraceField<'_> {
    /// The whole field, folded, ended by CRLF.
    pub fn to_header(&self) -> String {
        let client = Domain::from_ip(self.client);
        // A HELO name goes in only as printable ASCII: it is a stranger's text in our header.
        let helo: String = self.helo.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '(' | ')')).take(255).collect();
        let recipient = self.recipient.map(|r| format!("\r\n\tfor <{r}>")).unwrap_or_default();
        format!(
            "Received: from {helo} ({client})\r\n\tby {} (Posthouse) with {} id {}{recipient};\r\n\t{}\r\n",
            self.hostname,
            self.protocol.as_str(),
            self.id,
            self.at.rfc5322(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_names_client_server_protocol_id_and_time() {
        let hostname = Domain::parse("mail.example.test").unwrap();
        let ann = Address::parse("ann@example.test").unwrap();
        let field = TraceField {
            helo: "client.test\r\n(x",
            client: "192.0.2.7".parse().unwrap(),
            hostname: &hostname,
            protocol: Protocol::Esmtp,
            id: QueueId(1),
            recipient: Some(&ann),
            at: Timestamp::from_millis(1_795_312_800_123),
        };
        assert_eq!(
            field.to_header(),
            "Received: from client.testx ([192.0.2.7])\r\n\tby mail.example.test (Posthouse) with ESMTP id 0000000000001\r\n\
             \tfor <ann@example.test>;\r\n\tSun, 22 Nov 2026 02:00:00 +0000\r\n"
        );
    }
}
