//! What is kept of a password for SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677): enough to recognise it, not enough to log in with.
//!
//! Written like a PHC string: `$scram-sha-256$i=ITERATIONS$SALT$KEYS`, where KEYS is StoredKey followed by ServerKey, and salt and
//! keys are base64 without padding.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::hmac;

use crate::smtp::scram::{KEY_SIZE, hash, prepare, salted, sign, to_array};

/// Rounds for new keys. RFC 7677 asks for 4096 at least; each login costs the client as many, and so does each guess of somebody who
/// stole the file.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).expect("more than nothing");
/// More than any client would bear.
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_SIZE_MIN: usize = 8;
const SALT_SIZE_MAX: usize = 64;
const NAME: &str = "$scram-sha-256$i=";

/// The keys of one password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Rounds of PBKDF2.
    pub iterations: NonZeroU32,
    /// The salt.
    pub salt: Vec<u8>,
    /// Recognises the client.
    pub stored_key: [u8; KEY_SIZE],
    /// Proves to the client who we are.
    pub server_key: [u8; KEY_SIZE],
}

/// Without the keys.
impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl ScramKeys {
    /// The keys of a password, with as many rounds as is usual here. None: SASLprep forbids a character in it.
    pub fn derive(password: &str, salt: &[u8]) -> Option<Self> {
        Self::derive_with(password, salt, ITERATIONS)
    }

    /// The keys of a password, with this many rounds.
    pub fn derive_with(password: &str, salt: &[u8], iterations: NonZeroU32) -> Option<Self> {
        let salted = salted(&prepare(password)?, salt, iterations);
        let client_key = sign(&salted, b"Client Key");
        Some(Self { iterations, salt: salt.to_vec(), stored_key: hash(&client_key), server_key: sign(&salted, b"Server Key") })
    }

    /// Reads the written form. None: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(NAME)?.split('$');
        let (iterations, salt, keys) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !iterations.bytes().all(|octet| octet.is_ascii_digit()) || iterations.starts_with('0') {
            return None;
        }
        let iterations: u32 = iterations.parse().ok().filter(|iterations| *iterations <= ITERATIONS_MAX)?;
        let salt = STANDARD_NO_PAD.decode(salt).ok()?;
        let keys = STANDARD_NO_PAD.decode(keys).ok()?;
        let (stored_key, server_key) = keys.split_at_checked(KEY_SIZE)?;
        (SALT_SIZE_MIN..=SALT_SIZE_MAX).contains(&salt.len()).then_some(())?;
        Some(Self {
            iterations: NonZeroU32::new(iterations)?,
            salt,
            stored_key: stored_key.try_into().ok()?,
            server_key: server_key.try_into().ok()?,
        })
    }

    /// A decoy for an account that has no keys: the same for the same seed, and nobody can log in with it.
    pub(super) fn decoy(seed: &hmac::Key, name: &[u8], like: Option<&Self>) -> Self {
        let part = |part: &[u8]| -> [u8; KEY_SIZE] { to_array(hmac::sign(seed, &[part, b"\0", name].concat()).as_ref()) };
        let salt_size = like.map_or(16, |keys| keys.salt.len());
        let salt: Vec<u8> = [part(b"salt"), part(b"more salt")].concat().into_iter().take(salt_size).collect();
        let iterations = like.map_or(ITERATIONS, |keys| keys.iterations);
        Self { iterations, salt, stored_key: part(b"stored"), server_key: part(b"server") }
    }
}

impl fmt::Display for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = STANDARD_NO_PAD.encode(&self.salt);
        let keys = STANDARD_NO_PAD.encode([self.stored_key, self.server_key].concat());
        write!(f, "{NAME}{}${salt}${keys}", self.iterations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 section 3: user "user", password "pencil".
    #[test]
    fn the_rfcs_example_gives_the_rfcs_keys() {
        let salt = base64::engine::general_purpose::STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive_with("pencil", &salt, NonZeroU32::new(4096).unwrap()).unwrap();
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = sign(&keys.server_key, message.as_bytes());
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(ScramKeys::parse(&keys.to_string()), Some(keys));
    }

    #[test]
    fn what_is_no_key_isnt_read() {
        let right = ScramKeys::derive("secret", b"saltsaltsaltsalt").unwrap().to_string();
        assert!(right.starts_with("$scram-sha-256$i=100000$c2FsdHNhbHRzYWx0c2FsdA$"), "{right}");
        for wrong in [
            "",
            "$scram-sha-256$i=100000",
            &right.replace("100000", "0"),
            &right.replace("100000", "+1"),
            &right.replace("100000", "01"),
            &right.replace("100000", "99999999999"),
            &right.replace("c2FsdHNhbHRzYWx0c2FsdA", "c2Fs"),
            &right.replace("sha-256", "sha-1"),
            &right[..right.len() - 4],
            &format!("{right}AAAA"),
            &format!("{right}$"),
            &format!("{right}="),
        ] {
            assert_eq!(ScramKeys::parse(wrong), None, "{wrong}");
        }
        assert!(ScramKeys::parse(&right).is_some());
    }

    #[test]
    fn passwords_that_look_the_same_are_the_same_and_control_characters_are_none() {
        let salt = b"saltsalt";
        assert_eq!(ScramKeys::derive("e\u{301}t\u{e9}", salt), ScramKeys::derive("\u{e9}t\u{e9}", salt));
        assert_eq!(ScramKeys::derive("a\u{7}b", salt), None);
    }

    #[test]
    fn decoys_last_and_differ() {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, b"seed");
        let like = ScramKeys::derive("x", b"twelve octets").unwrap();
        let decoy = ScramKeys::decoy(&seed, b"nobody@example.test", Some(&like));
        assert_eq!(decoy, ScramKeys::decoy(&seed, b"nobody@example.test", Some(&like)));
        assert_eq!((decoy.salt.len(), decoy.iterations), (like.salt.len(), like.iterations));
        assert_ne!(decoy.salt, ScramKeys::decoy(&seed, b"other@example.test", Some(&like)).salt);
        assert_ne!(decoy.salt, ScramKeys::decoy(&hmac::Key::new(hmac::HMAC_SHA256, b"other"), b"nobody@example.test", None).salt);
    }
}
