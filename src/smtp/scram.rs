//! The arithmetic of SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677), which both sides do. Owns nothing.

use std::borrow::Cow;
use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};

/// Octets of SHA-256.
pub const KEY_SIZE: usize = digest::SHA256_OUTPUT_LEN;

/// SASLprep (RFC 4013): one form for what looks the same. None: a character in it is forbidden.
pub fn prepare(password: &str) -> Option<Cow<'_, str>> {
    stringprep::saslprep(password).ok()
}

/// `SaltedPassword`: what the password becomes, with as much work as the iterations ask for.
pub fn salted(password: &str, salt: &[u8], iterations: NonZeroU32) -> [u8; KEY_SIZE] {
    let mut salted = [0; KEY_SIZE];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    salted
}

/// HMAC-SHA-256.
pub fn sign(key: &[u8], octets: &[u8]) -> [u8; KEY_SIZE] {
    to_array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), octets).as_ref())
}

/// SHA-256.
pub fn hash(octets: &[u8]) -> [u8; KEY_SIZE] {
    to_array(digest::digest(&digest::SHA256, octets).as_ref())
}

/// As many octets as a key has.
pub fn to_array(octets: &[u8]) -> [u8; KEY_SIZE] {
    let mut array = [0; KEY_SIZE];
    array.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    array
}
