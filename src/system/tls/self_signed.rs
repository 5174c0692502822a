//! A certificate that vouches for itself: it encrypts from the first day, and says nothing about who we are.

use std::fmt;
use std::path::Path;

use super::TlsError;
use crate::mail::Domain;

/// A certificate and its private key as PEM text.
pub struct SelfSigned(String);

/// Without the key.
impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfSigned")
    }
}

impl SelfSigned {
    /// From a text that has both.
    pub fn from_pem(pem: String) -> Self {
        Self(pem)
    }

    /// Both, the certificate first.
    pub fn pem(&self) -> &str {
        &self.0
    }

    /// Makes one for this host: ECDSA on P-256, which every client knows. It doesn't end within anybody's memory (rcgen's
    /// default is the year 4096): who trusts it has pinned it, and an end would only break that.
    pub(super) fn new(hostname: &Domain) -> Result<Self, TlsError> {
        let make = || -> Result<String, rcgen::Error> {
            let mut parameters = rcgen::CertificateParams::new([hostname.as_str().to_owned()])?;
            parameters.distinguished_name = rcgen::DistinguishedName::new();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, hostname.as_str());
            let key = rcgen::KeyPair::generate()?;
            let certificate = parameters.self_signed(&key)?;
            Ok(certificate.pem() + &key.serialize_pem())
        };
        let made = make().map_err(|error| {
            let what = format!("no self-signed certificate can be made for {hostname}: {error}");
            TlsError::wrong(Path::new("hostname"), what, "set tls.certificate and tls.key")
        })?;
        Ok(Self(made))
    }
}
