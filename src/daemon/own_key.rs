//! The server's own secret: a small file in the spool, made at the first start. What is kept from others is derived from it.

use std::io;
use std::path::Path;

use ring::hmac;

use crate::directory::DecoySeed;
use crate::mail::OwnMark;
use crate::system::System;

/// The file's name in the spool.
pub(super) const FILE_NAME: &str = "own.key";
/// Far more than the key; bytes.
const FILE_SIZE_MAX: u64 = 4096;
/// As many random bits as the hash can make use of, in hexadecimal digits.
const KEY_SIZE: usize = 64;

/// See the module.
pub(super) struct OwnKey(hmac::Key);

impl OwnKey {
    /// Reads the key, or makes one. A file that has none is replaced: all that is lost is that mail under way isn't known.
    pub(super) fn load(system: &System, spool: &Path) -> io::Result<Self> {
        let file = spool.join(FILE_NAME);
        if system.disk.exists(&file) {
            let octets = system.disk.read(&file, FILE_SIZE_MAX)?;
            if octets.len() >= KEY_SIZE {
                return Ok(Self::new(octets.trim_ascii_end()));
            }
        }
        let key: String = (0..KEY_SIZE / 16).map(|_| format!("{:016x}", system.entropy.next_u64())).collect();
        system.disk.replace(&file, format!("{key}\n").as_bytes())?;
        Ok(Self::new(key.as_bytes()))
    }

    fn new(octets: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, octets))
    }

    /// By which we know ourselves.
    pub(super) fn mark(&self) -> OwnMark {
        OwnMark::new(self.derived("marks").as_ref())
    }

    /// For accounts that don't exist.
    pub(super) fn decoys(&self) -> DecoySeed {
        DecoySeed::new(self.derived("decoys").as_ref())
    }

    fn derived(&self, what: &str) -> hmac::Tag {
        hmac::sign(&self.0, what.as_bytes())
    }
}
