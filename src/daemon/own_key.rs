//! The key of our own marks: a small file in the spool, made at the first start. Owns nothing.

use std::io;
use std::path::Path;

use crate::mail::OwnMark;
use crate::system::System;

/// Far more than the key; bytes.
const FILE_SIZE_MAX: u64 = 4096;
/// As many random bits as the marks' hash can make use of, in hexadecimal digits.
const KEY_SIZE: usize = 64;

/// Reads the key, or makes one. A file that has none is replaced: all that is lost is that mail under way isn't known.
pub(super) fn load(system: &System, spool: &Path) -> io::Result<OwnMark> {
    let file = spool.join("mark.key");
    if system.disk.exists(&file) {
        let octets = system.disk.read(&file, FILE_SIZE_MAX)?;
        if octets.len() >= KEY_SIZE {
            return Ok(OwnMark::new(octets.trim_ascii_end()));
        }
    }
    let key: String = (0..KEY_SIZE / 16).map(|_| format!("{:016x}", system.entropy.next_u64())).collect();
    system.disk.replace(&file, format!("{key}\n").as_bytes())?;
    Ok(OwnMark::new(key.as_bytes()))
}
