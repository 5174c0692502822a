//! How a client logs in (RFC 4954): SCRAM-SHA-256, else PLAIN, else LOGIN. Owns the password, and what was worked out of it.

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
    worked_out: Mutex<Option<WorkedOut>>,
}

struct WorkedOut {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    salted: [u8; KEY_SIZE],
}

impl Password {
    /// A password as it is typed.
    pub fn new(text: String) -> Self {
        Self { text, worked_out: Mutex::default() }
    }

    /// Whether this is it.
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// SCRAM's `SaltedPassword`. None: SASLprep forbids a character in it.
    pub(super) fn salted(&self, salt: &[u8], iterations: NonZeroU32) -> Option<[u8; KEY_SIZE]> {
        let mut worked_out = self.worked_out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = worked_out.as_ref().filter(|known| known.salt == salt && known.iterations == iterations) {
            return Some(known.salted);
        }
        let salted = salted(&prepare(&self.text)?, salt, iterations);
        *worked_out = Some(WorkedOut { salt: salt.to_vec(), iterations, salted });
        Some(salted)
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
    pub(super) fn answer(&mut self, login: &Login, challenge: &str) -> Result<String, &'static str> {
        match self {
            Self::Plain | Self::Login(2..) => Err("it asks for more than name and password"),
            Self::Login(said) => {
                *said += 1;
                Ok(STANDARD.encode(if *said == 1 { &login.name } else { &login.password.text }))
            }
            Self::Scram(exchange) => {
                let challenge = STANDARD.decode(challenge.trim()).map_err(|_| "its challenge is not base64")?;
                exchange.answer(login, &challenge).map(|answer| STANDARD.encode(answer))
            }
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
