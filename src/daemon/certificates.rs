//! The certificates in use: read at the start, made if none are configured, read again when they change. Owns what new
//! handshakes take; a bad pair never takes the place of a good one.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, ListenerTls};
use crate::event::{Event, Events};
use crate::system::{PairFiles, ServerFiles, System, TlsError, TlsServer};

/// The folder in the spool for the self-signed pair.
const FOLDER: &str = "tls";
/// The self-signed pair: one file, so that there is never half of it.
const FILE: &str = "self-signed.pem";

/// What handshakes are made with.
pub(super) struct Certificates {
    system: System,
    events: Events,
    server: watch::Sender<Option<Arc<dyn TlsServer>>>,
}

impl Certificates {
    /// Reads what the configuration names. Without a name nothing is read yet: see `complete`.
    pub(super) fn load(config: &Config, system: &System, events: &Events) -> Result<Self, TlsError> {
        let certificates = Self { system: system.clone(), events: events.clone(), server: watch::channel(None).0 };
        if is_wanted(config) && config.tls.pair.is_some() {
            certificates.apply(config)?;
        }
        Ok(certificates)
    }

    /// What sessions take their certificates from.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<dyn TlsServer>>> {
        self.server.subscribe()
    }

    /// With a self-signed pair if no other is configured: made at the first start, in the spool, which is the server's own.
    pub(super) fn complete(&self, config: &Config) -> Result<(), TlsError> {
        if !is_wanted(config) || self.server.borrow().is_some() {
            return Ok(());
        }
        self.apply(config)
    }

    /// Reads everything again, after a reload; what can't be used is told and changes nothing.
    pub(super) fn renew(&self, config: &Config) {
        if !is_wanted(config) {
            return;
        }
        if let Err(error) = self.apply(config) {
            let (path, reason) = (error.path().display().to_string(), format!("{}; {}", error.what(), error.remedy()));
            self.events.report(Event::CertificateRefused { path, reason });
        }
    }

    /// Reads the files of a configuration and uses them from now on; after an error what was in use stays so.
    fn apply(&self, config: &Config) -> Result<(), TlsError> {
        let pair = match &config.tls.pair {
            Some(pair) => PairFiles { certificate: pair.certificate.clone(), key: pair.key.clone() },
            None => self.self_signed(config)?,
        };
        let server = self.system.tls.server(&*self.system.disk, &ServerFiles { pair })?;
        self.server.send_replace(Some(server));
        Ok(())
    }

    fn self_signed(&self, config: &Config) -> Result<PairFiles, TlsError> {
        let folder = config.spool.path.join(FOLDER);
        let file = folder.join(FILE);
        if !self.system.disk.exists(&file) {
            let made = self.system.tls.self_signed(&config.hostname)?;
            self.keep(&folder, &file, made.pem()).map_err(|error| {
                TlsError::wrong(&file, format!("can't be written: {error}"), "let the server's user write to the spool")
            })?;
            let (path, hostname) = (file.display().to_string(), config.hostname.clone());
            self.events.report(Event::SelfSigned { path, hostname });
        }
        Ok(PairFiles { certificate: file.clone(), key: file })
    }

    fn keep(&self, folder: &Path, file: &Path, pem: &str) -> std::io::Result<()> {
        let disk = &*self.system.disk;
        disk.create_dir_all(folder)?;
        disk.replace(file, pem.as_bytes())?;
        disk.sync_dir(folder.parent().unwrap_or(folder))
    }
}

fn is_wanted(config: &Config) -> bool {
    config.listeners.iter().any(|listener| listener.tls != ListenerTls::None)
}
