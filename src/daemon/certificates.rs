//! The certificates in use: read at the start, made if none are configured, read again when they change. Owns what new
//! handshakes take; a bad pair never takes the place of a good one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::config::{Config, KeyPair, ListenerTls, Problem};
use crate::event::{Event, Events};
use crate::mail::Timestamp;
use crate::system::{CertificateFacts, Disk, PairSource, SelfSigned, ServerFiles, System, Tls, TlsError, TlsServer};

/// The folder in the spool for the self-signed pair.
const FOLDER: &str = "tls";
/// The self-signed pair: one file, so that there is never half of it.
const FILE: &str = "self-signed.pem";
/// Larger files aren't looked at for changes.
const FILE_SIZE_MAX: u64 = 1024 * 1024;

/// What handshakes are made with.
pub(super) struct Certificates {
    system: System,
    events: Events,
    server: watch::Sender<Option<Arc<dyn TlsServer>>>,
    seen: Mutex<Seen>,
}

/// What the files held when they were looked at.
#[derive(Default)]
struct Seen {
    /// The last time.
    last: Option<u64>,
    /// When they were used, or found to be of no use.
    tried: Option<u64>,
}

impl Certificates {
    /// Reads what the configuration names, as long as we may. Without a name nothing is read yet: see `complete`.
    pub(super) fn load(config: &Config, system: &System, events: &Events) -> Result<Self, TlsError> {
        let (server, seen) = (watch::channel(None).0, Mutex::default());
        let certificates = Self { system: system.clone(), events: events.clone(), server, seen };
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
        if is_wanted(config)
            && let Err(error) = self.apply(config)
        {
            self.refuse(&error);
        }
    }

    /// The certificates in use, each with the days that are left of it; fewer than none behind its end.
    pub(super) fn days_left(&self) -> Vec<(String, i64)> {
        const DAY: i128 = 86_400_000;
        let now = self.system.clock.now();
        let certificates = self.server.borrow().as_ref().map(|server| server.certificates()).unwrap_or_default();
        let left = |expires: Timestamp| i128::from(expires.as_millis()) - i128::from(now.as_millis());
        let days = |expires| i64::try_from(left(expires).div_euclid(DAY)).unwrap_or(i64::MAX);
        certificates.into_iter().filter_map(|facts| Some((facts.path, days(facts.expires?)))).collect()
    }

    /// Looks at the files every now and then, and takes up what has changed, until the stop.
    pub(super) async fn watch(self: Arc<Self>, config: watch::Receiver<Arc<Config>>, mut stop: watch::Receiver<bool>) {
        loop {
            let now = config.borrow().clone();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(now.tls.reload_interval) => {}
            }
            let (certificates, config) = (Arc::clone(&self), config.borrow().clone());
            let ServerFiles { pairs, client_ca } = named(&config);
            if !is_wanted(&config) || (pairs.is_empty() && client_ca.is_none()) {
                continue;
            }
            let looked = self.system.workers.blocking(move || {
                certificates.look(&config);
                Ok(())
            });
            // Nothing in it fails; a look that is lost is made up for by the next.
            let _ = looked.await;
        }
    }

    /// Takes up changed files once two looks have found the same: whoever replaces a certificate needs a moment for its key.
    fn look(&self, config: &Config) {
        let found = fingerprint(&*self.system.disk, config);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let settled = seen.last.replace(found) == Some(found);
            if !settled || seen.tried == Some(found) {
                return;
            }
        }
        self.renew(config);
    }

    /// Reads the files of a configuration and uses them from now on; after an error what was in use stays so.
    fn apply(&self, config: &Config) -> Result<(), TlsError> {
        let found = fingerprint(&*self.system.disk, config);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).tried = Some(found);
        let mut files = named(config);
        if config.tls.pair.is_none() {
            files.pairs.insert(0, self.self_signed(config)?);
        }
        let server = self.system.tls.server(&*self.system.disk, &files)?;
        let certificates = server.certificates();
        // In use before it is told: whoever reads of it is shown it.
        self.server.send_replace(Some(server));
        for facts in certificates {
            let (path, names, kind, expires) = (facts.path, facts.names.join(","), facts.kind, facts.expires);
            self.events.report(Event::Certificate { path, names, kind, expires });
        }
        Ok(())
    }

    fn refuse(&self, error: &TlsError) {
        let (path, reason) = (error.path().display().to_string(), format!("{}; {}", error.what(), error.remedy()));
        self.events.report(Event::CertificateRefused { path, reason });
    }

    /// The pair of the first start. If the disk doesn't take it, this start has a pair of its own: a full disk is no reason to
    /// refuse mail that is on its way out.
    fn self_signed(&self, config: &Config) -> Result<PairSource, TlsError> {
        let file = config.spool.path.join(FOLDER).join(FILE);
        if self.system.disk.exists(&file) {
            return Ok(PairSource::Files { certificate: file.clone(), key: file });
        }
        let pair = Arc::new(self.system.tls.self_signed(&config.hostname)?);
        let path = file.display().to_string();
        match self.keep(&config.spool.path, &file, &pair) {
            Ok(()) => self.events.report(Event::SelfSigned { path, hostname: config.hostname.clone() }),
            Err(error) => {
                let reason =
                    format!("{path}: the self-signed pair can't be kept and will be another one after a restart: {error}");
                self.events.report(Event::Warning { reason });
            }
        }
        Ok(PairSource::Made { path: file, pair })
    }

    fn keep(&self, spool: &Path, file: &Path, pair: &SelfSigned) -> io::Result<()> {
        let disk = &*self.system.disk;
        disk.create_dir_all(&spool.join(FOLDER))?;
        disk.sync_dir(spool)?;
        disk.replace(file, pair.pem().as_bytes())
    }
}

/// Whether the pairs and authorities that a configuration names can be used.
pub fn check_certificates(config: &Config, disk: &dyn Disk, tls: &dyn Tls) -> Result<(), TlsError> {
    if is_wanted(config) { tls.server(disk, &named(config)).map(drop) } else { Ok(()) }
}

/// Pairs that no client is ever shown, because one before them is as good for all.
pub fn unseen_certificates(config: &Config, disk: &dyn Disk, tls: &dyn Tls) -> Vec<Problem> {
    let Ok(server) = tls.server(disk, &named(config)) else { return Vec::new() };
    let all = server.certificates();
    let unseen = all.iter().enumerate().filter_map(|(at, facts)| {
        let is_covered = |first: &&CertificateFacts| facts.names.iter().all(|name| first.names.contains(name));
        let first = all.iter().take(at).find(|first| first.kind == facts.kind && !facts.names.is_empty() && is_covered(first))?;
        let what = format!("no client is ever shown it: {} is for the same names, and its key is {} too", first.path, facts.kind);
        Some(Problem::new(facts.path.clone(), "", what, "remove its [[certificate]] table, or take a key of another kind"))
    });
    unseen.collect()
}

fn is_wanted(config: &Config) -> bool {
    config.listeners.iter().any(|listener| listener.tls != ListenerTls::None)
}

/// What the configuration names.
fn named(config: &Config) -> ServerFiles {
    let source = |pair: &KeyPair| PairSource::Files { certificate: pair.certificate.clone(), key: pair.key.clone() };
    let pairs = config.tls.pair.iter().chain(&config.tls.more).map(source).collect();
    ServerFiles { pairs, client_ca: config.tls.client_ca.clone() }
}

/// A number that is another when the files are, or whether they can be read.
fn fingerprint(disk: &dyn Disk, config: &Config) -> u64 {
    let pairs = config.tls.pair.iter().chain(&config.tls.more);
    let paths: Vec<&PathBuf> = pairs.flat_map(|pair| [&pair.certificate, &pair.key]).chain(&config.tls.client_ca).collect();
    let mut checksum = crc32fast::Hasher::new();
    let mut size = 0;
    for path in paths {
        let bytes = disk.read(path, FILE_SIZE_MAX).unwrap_or_default();
        checksum.update(&(bytes.len() as u64).to_le_bytes());
        checksum.update(&bytes);
        size += bytes.len() as u64;
    }
    (size << 32) | u64::from(checksum.finalize())
}
