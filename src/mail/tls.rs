//! What a session's encryption is: for trace fields, the log, and whoever binds a login to the channel.

use std::fmt;

/// Facts about an established TLS session.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its IANA name: `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// What the client's verified certificate calls it: mail addresses first, then its common name. Empty: it showed none.
    pub client_names: Vec<String>,
    /// The channel binding `tls-exporter` (RFC 9266); TLS 1.3 only, where it is unique to the session.
    pub exporter: Option<[u8; 32]>,
    /// The channel binding `tls-server-end-point` (RFC 5929 section 4): the hash of our certificate.
    pub end_point: Option<Vec<u8>>,
}

/// Without the channel bindings: nobody needs them in a log.
impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut facts = f.debug_struct("TlsInfo");
        facts.field("version", &self.version).field("cipher", &self.cipher).field("client_names", &self.client_names);
        facts.finish_non_exhaustive()
    }
}
