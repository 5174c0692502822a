//! What a server offers in its reply to EHLO, as far as we make use of it.

use super::Mechanisms;
use crate::mail::Reply;

/// The extensions that change what we say. Those of a server that only knows HELO are all absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// BINARYMIME (RFC 3030); worth something with CHUNKING only.
    pub binary_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// REQUIRETLS (RFC 8689); in clear text it counts for nothing.
    pub require_tls: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// DELIVERBY (RFC 2852), with the least time that is taken; seconds.
    pub deliver_by: Option<u32>,
    /// SIZE (RFC 1870).
    pub size: bool,
    /// SIZE's argument: octets of the largest message; none where the server names no limit.
    pub size_max: Option<u64>,
    /// LIMITS (RFC 9422).
    pub limits: Limits,
    /// AUTH (RFC 4954): what we know of its mechanisms.
    pub auth: Mechanisms,
}

/// What the server takes at the most; none where it names no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// RCPTMAX: recipients of a transaction.
    pub recipients: Option<usize>,
    /// RCPTDOMAINMAX: domains among them.
    pub recipient_domains: Option<usize>,
    /// MAILMAX: transactions of a session.
    pub transactions: Option<u32>,
}

impl Extensions {
    /// Reads them out of the reply to EHLO or LHLO: keywords without regard to case, one a line, from the second line on. `encrypted`: it came
    /// over verified TLS.
    pub fn parse(reply: &Reply, encrypted: bool) -> Self {
        let mut extensions = Self::default();
        for line in reply.text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or("").to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => extensions.pipelining = true,
                "8BITMIME" => extensions.eight_bit_mime = true,
                "CHUNKING" => extensions.chunking = true,
                "BINARYMIME" => extensions.binary_mime = true,
                "SMTPUTF8" => extensions.smtputf8 = true,
                "DSN" => extensions.dsn = true,
                "STARTTLS" => extensions.starttls = true,
                "REQUIRETLS" => extensions.require_tls = encrypted,
                "MT-PRIORITY" => extensions.mt_priority = true,
                "DELIVERBY" => {
                    // No number, or one that can't be read, is no limit.
                    extensions.deliver_by = Some(words.next().and_then(|min| min.parse().ok()).unwrap_or(0));
                }
                "SIZE" => {
                    extensions.size = true;
                    // Zero means that there is no fixed limit; a number that can't be read is no limit either.
                    extensions.size_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
                }
                "AUTH" => words.for_each(|word| extensions.auth.add(word)),
                // As some old servers write it, who have an equals sign there.
                old if old.starts_with("AUTH=") => {
                    let first = line.split_once('=').map_or("", |(_, rest)| rest);
                    first.split_ascii_whitespace().for_each(|word| extensions.auth.add(word));
                }
                "LIMITS" => words.for_each(|word| extensions.limits.read(word)),
                _ => {}
            }
        }
        extensions
    }

    /// Whether content may have any octets.
    pub fn takes_binary(&self) -> bool {
        self.binary_mime && self.chunking
    }
}

impl Limits {
    /// Reads `NAME=VALUE`. What can't be read, or is zero, is no limit (RFC 9422 section 3).
    fn read(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let Some(value) = value.parse::<u32>().ok().filter(|value| *value > 0) else { return };
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        match name.to_ascii_uppercase().as_str() {
            "RCPTMAX" => self.recipients = Some(count),
            "RCPTDOMAINMAX" => self.recipient_domains = Some(count),
            "MAILMAX" => self.transactions = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Extensions {
        Extensions::parse(&Reply::plain(250, text), true)
    }

    #[test]
    fn keywords_are_read_without_regard_to_case() {
        let all = Extensions {
            pipelining: true,
            eight_bit_mime: true,
            chunking: true,
            binary_mime: true,
            smtputf8: true,
            dsn: true,
            starttls: true,
            require_tls: true,
            mt_priority: true,
            deliver_by: Some(120),
            size: true,
            size_max: Some(1000),
            limits: Limits { recipients: Some(50), recipient_domains: Some(1), transactions: Some(20) },
            auth: Mechanisms { scram_sha_256: true, plain: false, login: true },
        };
        let lines = "mx.test\nPIPELINING\nSIZE 1000\n8BITMIME\nCHUNKING\nBINARYMIME\nHELP\nSMTPUTF8\nDSN\nSTARTTLS\nREQUIRETLS\n\
                     MT-PRIORITY MIXER\nDELIVERBY 120\nLIMITS RCPTMAX=50 MAILMAX=20 RCPTDOMAINMAX=1 X=3\nAUTH SCRAM-SHA-256 LOGIN X";
        assert_eq!(parse(lines), all);
        assert_eq!(parse(&lines.to_lowercase()), all);
        assert_eq!(Extensions::parse(&Reply::plain(250, lines), false), Extensions { require_tls: false, ..all });
        let old = Mechanisms { plain: true, login: true, scram_sha_256: false };
        assert_eq!(parse("mx\nAUTH=LOGIN PLAIN").auth, old);
        assert_eq!(parse("PIPELINING\nX"), Extensions::default(), "the first line is the server's name");
    }

    #[test]
    fn numbers_that_say_nothing_are_no_limits() {
        for unlimited in ["mx\nSIZE", "mx\nSIZE 0", "mx\nSIZE 99999999999999999999999", "mx\nSIZE big"] {
            assert_eq!(parse(unlimited), Extensions { size: true, ..Extensions::default() }, "{unlimited}");
        }
        for unlimited in
            ["mx\nLIMITS", "mx\nLIMITS RCPTMAX=0 MAILMAX= RCPTDOMAINMAX=-1", "mx\nLIMITS RCPTMAX MAILMAX=99999999999"]
        {
            assert_eq!(parse(unlimited), Extensions::default(), "{unlimited}");
        }
        for unlimited in ["mx\nDELIVERBY", "mx\nDELIVERBY 0", "mx\nDELIVERBY soon"] {
            assert_eq!(parse(unlimited), Extensions { deliver_by: Some(0), ..Extensions::default() }, "{unlimited}");
        }
    }
}
