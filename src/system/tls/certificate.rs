//! What a certificate says: for whom it is, until when, and its hash for channel bindings. It decides nothing; trust is
//! rustls' business.

use ring::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::mail::Timestamp;

/// As many names are taken from a certificate.
const NAMES_MAX: usize = 100;

/// A certificate, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Host names, `*.example.test` among them, in lower case.
    pub(super) hosts: Vec<String>,
    /// Mail addresses.
    pub(super) addresses: Vec<String>,
    /// The subject's common name.
    pub(super) common_name: Option<String>,
    /// Its last moment.
    pub(super) expires: Option<Timestamp>,
    /// Its hash as `tls-server-end-point` wants it (RFC 5929 section 4.1); none where the signature has no single hash.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Facts {
    /// Reads a certificate; what can't be read is left out.
    pub(super) fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Self::default() };
        let mut facts = Self {
            expires: u64::try_from(certificate.validity().not_after.timestamp()).ok().map(|s| Timestamp::from_millis(s * 1000)),
            end_point: end_point(&certificate, der),
            ..Self::default()
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in names.value.general_names.iter().take(NAMES_MAX) {
                match name {
                    GeneralName::DNSName(name) => facts.hosts.push(name.to_ascii_lowercase()),
                    GeneralName::RFC822Name(name) => facts.addresses.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        let subject = certificate.subject();
        let addresses = subject.iter_email().filter_map(|value| value.as_str().ok());
        facts.addresses.extend(addresses.take(NAMES_MAX).map(str::to_owned));
        facts.common_name = subject.iter_common_name().next().and_then(|value| value.as_str().ok()).map(str::to_owned);
        facts
    }

    /// What a client's certificate calls it: mail addresses, then the common name, each once.
    pub(super) fn client_names(self) -> Vec<String> {
        let mut names = self.addresses;
        names.extend(self.common_name);
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// Whether a host of this name is meant, which is in lower case: word for word, or by a `*` for the first label.
    pub(super) fn is_for(&self, name: &str, wildcard: bool) -> bool {
        let below = name.split_once('.').map(|(_, parent)| parent);
        self.hosts.iter().any(|host| match host.strip_prefix("*.") {
            None => !wildcard && host == name,
            Some(parent) => wildcard && Some(parent) == below,
        })
    }
}

/// RFC 5929 section 4.1: the hash of the certificate's signature, but nothing weaker than SHA-256.
fn end_point(certificate: &X509Certificate<'_>, der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5, SHA-1 and SHA-256 with RSA; SHA-1 and SHA-256 with ECDSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_its_names_its_end_and_its_hash() {
        let mut parameters =
            rcgen::CertificateParams::new(["Mail.Example.test".to_owned(), "*.example.test".to_owned()]).unwrap();
        parameters.subject_alt_names.push(rcgen::SanType::Rfc822Name("ann@example.test".try_into().unwrap()));
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "Ann");
        parameters.not_after = rcgen::date_time_ymd(2031, 5, 6);
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let facts = Facts::read(certificate.der());
        assert_eq!(facts.hosts, ["mail.example.test", "*.example.test"]);
        assert_eq!(facts.expires.unwrap().to_string(), "2031-05-06T00:00:00Z");
        assert_eq!(facts.end_point.as_deref(), Some(digest::digest(&digest::SHA256, certificate.der()).as_ref()));
        assert!(facts.is_for("mail.example.test", false) && !facts.is_for("other.example.test", false));
        assert!(facts.is_for("other.example.test", true) && !facts.is_for("a.b.example.test", true));
        assert!(!facts.is_for("example.test", true));
        assert_eq!(facts.client_names(), ["ann@example.test", "Ann"]);
    }

    #[test]
    fn rubbish_says_nothing() {
        assert_eq!(Facts::read(b"rubbish"), Facts::default());
        assert_eq!(Facts::read(b""), Facts::default());
    }
}
