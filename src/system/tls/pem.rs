//! Certificates and private keys from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::super::Disk;
use super::{TlsError, provider};

/// Largest PEM file, octets: a long chain has a few dozen KiB.
pub(super) const SIZE_MAX: u64 = 1024 * 1024;

/// What the console takes HTTPS connections with: TLS 1.2 and 1.3 without client certificates.
pub fn load_pair(disk: &dyn Disk, certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pair = read_pair(disk, certificate, key)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| TlsError::wrong(certificate, error.to_string(), "report this as a bug"))?;
    Ok(Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))))
}

/// Reads a certificate chain and its private key, and checks that they fit together.
pub(super) fn read_pair(disk: &dyn Disk, certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let read = |path: &Path| disk.read(path, SIZE_MAX).map_err(|error| TlsError::unreadable(path, &error));
    parse_pair(&read(certificate)?, certificate, &read(key)?, key)
}

/// The same of what was read already.
pub(super) fn parse_pair(chain: &[u8], certificate: &Path, private: &[u8], key: &Path) -> Result<CertifiedKey, TlsError> {
    let pair = CertifiedKey::from_der(parse_chain(chain, certificate)?, parse_key(private, key)?, &provider());
    pair.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = format!("does not belong to the certificate in {}", certificate.display());
            TlsError::wrong(key, what, "name the key that the certificate was made for")
        }
        error => {
            TlsError::wrong(certificate, error.to_string(), "put the server's own certificate first, then the intermediate ones")
        }
    })
}

fn parse_chain(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const REMEDY: &str = "it must hold certificates between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.map_err(|error| TlsError::wrong(path, format!("is no PEM file: {error}"), REMEDY))?;
    if chain.is_empty() {
        return Err(TlsError::wrong(path, "has no certificate", REMEDY));
    }
    Ok(chain)
}

fn parse_key(bytes: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const REMEDY: &str =
        "it must hold one unencrypted private key between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----";
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::wrong(path, "has no private key", REMEDY),
        // The error's own words may quote the file; a key belongs in no message.
        _ => TlsError::wrong(path, "is no PEM file", REMEDY),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::SystemDisk;
    use super::*;

    const CERTIFICATE: &str = include_str!("../../../tests/tls/cert.pem");
    const KEY: &str = include_str!("../../../tests/tls/key.pem");
    const OTHER_KEY: &str = include_str!("../../../tests/tls/other-key.pem");

    #[test]
    fn a_pair_loads_and_what_is_wrong_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = path("cert.pem", CERTIFICATE);
        let key = path("key.pem", KEY);
        assert!(load_pair(&SystemDisk, &certificate, &key).is_ok());
        for (certificate, key, file, what) in [
            (&certificate, &path("other.pem", OTHER_KEY), "other.pem", "does not belong to"),
            (&certificate, &path("empty.pem", ""), "empty.pem", "no private key"),
            (&path("text.pem", "hello"), &key, "text.pem", "no certificate"),
            (&certificate, &folder.path().join("absent.pem"), "absent.pem", "can't be read"),
        ] {
            let error = load_pair(&SystemDisk, certificate, key).unwrap_err();
            assert_eq!(error.path().file_name().unwrap(), file);
            assert!(error.to_string().contains(what), "{error}");
            assert!(!error.remedy().is_empty());
        }
    }
}
