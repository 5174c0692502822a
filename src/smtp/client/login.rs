//! How a client logs in (RFC 4954): SCRAM-SHA-256, else PLAIN, else LOGIN. Owns the password, and the key last worked out of it.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scram;
use crate::smtp::scram::{KEY_SIZE, prepare, salted};

/// Who we are to a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Arc<Password>,
    /// Random, new for each session: printable ASCII without a comma.
    pub nonce: String,
    /// The connection never leaves this machine: it needn't be encrypted.
    pub in_clear: bool,
}

/// A password, and what a server last made us work out of it: the same for each session, as long as the salt is.
pub struct Password {
    text: String,
    key: Mutex<Option<(KeyWork, Key)>>,
}

/// SCRAM's `SaltedPassword`.
pub type Key = [u8; KEY_SIZE];

/// What a key is worked out with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWork {
    /// The server's salt.
    pub salt: Vec<u8>,
    /// Rounds: up to a second's work.
    pub iterations: NonZeroU32,
}

impl Password {
    /// A password as it is typed.
    pub fn new(text: String) -> Self {
        Self { text, key: Mutex::default() }
    }

    /// Whether this is it.
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// Its key, if it is the one that was worked out last.
    pub fn key(&self, work: &KeyWork) -> Option<Key> {
        let known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(known, _)| known == work).map(|(_, key)| *key)
    }

    /// Works its key out, which takes long, and keeps it; or says why it has none.
    pub fn work_out(&self, work: &KeyWork) -> Result<Key, &'static str> {
        // By SASLprep.
        let prepared = prepare(&self.text).ok_or("the password has characters that SCRAM forbids")?;
        let key = salted(&prepared, &work.salt, work.iterations);
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some((work.clone(), key));
        Ok(key)
    }
}

/// Without the password.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").finish_non_exhaustive()
    }
}

/// What a server offers behind AUTH, as far as we know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mechanisms {
    /// SCRAM-SHA-256.
    pub scram_sha_256: bool,
    /// PLAIN.
    pub plain: bool,
    /// LOGIN.
    pub login: bool,
}

impl Mechanisms {
    /// Adds one by its name.
    pub(super) fn add(&mut self, name: &str) {
        match name.to_ascii_uppercase().as_str() {
            "SCRAM-SHA-256" => self.scram_sha_256 = true,
            "PLAIN" => self.plain = true,
            "LOGIN" => self.login = true,
            _ => {}
        }
    }
}

/// What comes of a challenge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This is said.
    Say(String),
    /// First a key is needed: `Exchange::prove` has the answer then.
    Work(KeyWork),
}

/// A login under way.
#[derive(Debug)]
pub(super) enum Exchange {
    /// All is said.
    Plain,
    /// What was said so far: nothing, the name, the password.
    Login(u8),
    Scram(Box<scram::Exchange>),
}

impl Exchange {
    /// Begins with the best that the server offers; also returns the command's arguments. None: there is nothing that we know.
    pub(super) fn begin(offered: Mechanisms, login: &Login) -> Option<(Self, String)> {
        if offered.scram_sha_256
            && let Some(exchange) = scram::Exchange::begin(login)
        {
            let arguments = format!("SCRAM-SHA-256 {}", STANDARD.encode(exchange.first()));
            return Some((Self::Scram(Box::new(exchange)), arguments));
        }
        if offered.plain {
            let response = format!("\0{}\0{}", login.name, login.password.text);
            return Some((Self::Plain, format!("PLAIN {}", STANDARD.encode(response))));
        }
        offered.login.then(|| (Self::Login(0), "LOGIN".to_owned()))
    }

    /// The answer to what the server wants to know; or why it gets none.
    pub(super) fn answer(&mut self, login: &Login, challenge: &str) -> Result<Answer, &'static str> {
        match self {
            Self::Plain | Self::Login(2..) => Err("it asks for more than name and password"),
            Self::Login(said) => {
                *said += 1;
                Ok(Answer::Say(STANDARD.encode(if *said == 1 { &login.name } else { &login.password.text })))
            }
            Self::Scram(exchange) => {
                let challenge = STANDARD.decode(challenge.trim()).map_err(|_| "its challenge is not base64")?;
                exchange.answer(login, &challenge)
            }
        }
    }

    /// The answer for which a key was needed; or why there is none.
    pub(super) fn prove(&mut self, key: &Key) -> Result<String, &'static str> {
        match self {
            Self::Scram(exchange) => exchange.prove(key).map(|proof| STANDARD.encode(proof)),
            Self::Plain | Self::Login(_) => Err("it asked for nothing"),
        }
    }

    /// Whether the server may say by now that we are logged in: where it has to show that it knows the password, it has.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Plain => true,
            Self::Login(said) => *said == 2,
            Self::Scram(exchange) => exchange.is_complete(),
        }
    }
}
