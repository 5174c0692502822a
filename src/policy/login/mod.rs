//! AUTH: who a client is. Owns nothing but the state of one exchange between two of its lines; accounts are looked up by way of
//! the `directory` seam, and every failure costs the same whether the account exists or not.

mod plain;
mod scram;
mod stage;
mod throttle;

use std::net::IpAddr;
use std::time::Duration;

use crate::directory::Accounts;
use crate::mail::{Address, EnhancedCode, Reply};
use crate::smtp::server::Mechanism;
use crate::system::Entropy;

pub use crate::directory::AccountsError;
pub use stage::Logins;
pub use throttle::{Bounds, Throttle};

/// Longest name or password that is looked at; octets.
const CREDENTIAL_SIZE_MAX: usize = 1024;

/// What a login is decided by.
pub struct Desk<'a> {
    /// Who has an account.
    pub accounts: &'a dyn Accounts,
    /// Who failed too often.
    pub throttle: &'a Throttle,
    /// The client's address.
    pub client: IpAddr,
    /// Monotonic.
    pub now: Duration,
    /// Where nonces come from.
    pub entropy: &'a dyn Entropy,
    /// What TLS says about the client.
    pub channel: Channel<'a>,
}

/// What a login may be bound to, or follow from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Channel<'a> {
    /// RFC 9266.
    pub exporter: Option<&'a [u8]>,
    /// RFC 5929 section 4.
    pub end_point: Option<&'a [u8]>,
    /// The names in the client's certificate, which was verified.
    pub names: &'a [String],
}

impl<'a> Channel<'a> {
    /// The data of the channel binding of this name.
    fn binding(&self, name: &str) -> Option<&'a [u8]> {
        match name {
            "tls-exporter" => self.exporter,
            "tls-server-end-point" => self.end_point,
            _ => None,
        }
    }

    fn can_bind(&self) -> bool {
        self.exporter.is_some() || self.end_point.is_some()
    }
}

/// What comes of a line of the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The client must answer this.
    Challenge(Vec<u8>),
    /// It is this account.
    Done(Address),
    /// It isn't.
    Failed(Failure),
}

/// A login that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The account that was named, as far as it has the form of one.
    pub name: Option<Address>,
    /// Why.
    pub why: Why,
}

/// Why a login failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// What came isn't what the mechanism asks for.
    Malformed,
    /// Name, password or proof is wrong.
    Credentials,
    /// The client wants to act for another account.
    NotPermitted,
    /// The login isn't bound to this TLS session: somebody may stand between.
    Binding,
    /// The client failed too often.
    ClientBlocked,
    /// Logins to the account failed too often.
    AccountBlocked,
    /// The back end could not be asked.
    Unavailable(AccountsError),
}

impl Why {
    /// For the log.
    pub fn reason(&self) -> String {
        match self {
            Self::Malformed => "malformed exchange".to_owned(),
            Self::Credentials => "wrong name or password".to_owned(),
            Self::NotPermitted => "asked to act for another account".to_owned(),
            Self::Binding => "not bound to this TLS session".to_owned(),
            Self::ClientBlocked => "too many failed logins from the client".to_owned(),
            Self::AccountBlocked => "too many failed logins to the account".to_owned(),
            Self::Unavailable(error) => error.to_string(),
        }
    }

    /// What the client is told.
    pub fn reply(&self) -> Reply {
        let (code, enhanced, text) = match self {
            Self::Malformed => (501, (5, 5, 2), "Malformed authentication exchange"),
            Self::Credentials | Self::NotPermitted | Self::Binding => (535, (5, 7, 8), "Authentication credentials invalid"),
            Self::ClientBlocked => (421, (4, 7, 0), "Too many failed logins from your address; try again later"),
            Self::AccountBlocked => (454, (4, 7, 0), "Too many failed logins to this account; try again later"),
            Self::Unavailable(_) => (454, (4, 7, 0), "Temporary authentication failure"),
        };
        Reply::new(code, EnhancedCode(enhanced.0, enhanced.1, enhanced.2), text)
    }

    /// Whether it was a guess, to be counted against client and account.
    pub fn counts(&self) -> bool {
        matches!(self, Self::Credentials | Self::NotPermitted | Self::Binding)
    }
}

impl Failure {
    fn turn(name: Option<Address>, why: Why) -> Turn {
        Turn::Failed(Self { name, why })
    }
}

/// An exchange, between two of the client's lines.
#[derive(Debug)]
pub struct Exchange(Stage);

#[derive(Debug)]
enum Stage {
    Plain,
    LoginName,
    LoginPassword(Vec<u8>),
    External,
    ScramFirst {
        plus: bool,
    },
    ScramFinal(Box<scram::Waiting>),
    /// All is proved; the client has only to take note of our proof.
    Proven(Address),
    Over,
}

impl Exchange {
    /// The exchange of a mechanism, and what the client gets if it sent no initial response.
    pub fn begin(mechanism: Mechanism) -> (Self, &'static [u8]) {
        let (stage, first): (_, &[u8]) = match mechanism {
            Mechanism::Plain => (Stage::Plain, b""),
            Mechanism::Login => (Stage::LoginName, b"Username:"),
            Mechanism::External => (Stage::External, b""),
            Mechanism::ScramSha256 => (Stage::ScramFirst { plus: false }, b""),
            Mechanism::ScramSha256Plus => (Stage::ScramFirst { plus: true }, b""),
        };
        (Self(stage), first)
    }

    /// Takes the client's next line, decoded.
    pub async fn respond(&mut self, desk: &Desk<'_>, response: &[u8]) -> Turn {
        let turn = match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Plain => match plain::parse(response) {
                Some(claim) => desk.password(claim.name, claim.authorization, claim.password).await,
                None => Err(Failure::turn(None, Why::Malformed)),
            },
            Stage::LoginName => {
                self.0 = Stage::LoginPassword(response.to_vec());
                Ok(Turn::Challenge(b"Password:".to_vec()))
            }
            Stage::LoginPassword(name) => match std::str::from_utf8(&name) {
                Ok(name) => desk.password(name, "", response).await,
                Err(_) => Err(Failure::turn(None, Why::Malformed)),
            },
            Stage::External => desk.external(response).await,
            Stage::ScramFirst { plus } => self.scram_first(desk, plus, response).await,
            Stage::ScramFinal(waiting) => self.scram_final(&waiting, response),
            Stage::Proven(account) if response.is_empty() => Ok(Turn::Done(account)),
            Stage::Proven(account) => Err(Failure::turn(Some(account), Why::Malformed)),
            Stage::Over => Err(Failure::turn(None, Why::Malformed)),
        };
        turn.unwrap_or_else(|failed| failed)
    }

    async fn scram_first(&mut self, desk: &Desk<'_>, plus: bool, response: &[u8]) -> Result<Turn, Turn> {
        let first = scram::ClientFirst::parse(response).ok_or_else(|| Failure::turn(None, Why::Malformed))?;
        let name = address(&first.name).ok_or_else(|| Failure::turn(None, Why::Credentials))?;
        let fail = |why| Failure::turn(Some(name.clone()), why);
        let binding = match first.flag {
            scram::Flag::Used(binding) if plus => desk.channel.binding(binding).ok_or_else(|| fail(Why::Binding))?,
            // RFC 5802 section 6: a client that could bind and was told that we can't has been lied to.
            scram::Flag::Supported if !plus && !desk.channel.can_bind() => &[],
            scram::Flag::Unsupported if !plus => &[],
            _ => return Err(fail(Why::Binding)),
        };
        desk.admit(&name)?;
        act_for(&name, &first.authorization)?;
        let (account, keys) = desk.accounts.scram_keys(&name).await.map_err(|error| fail(Why::Unavailable(error)))?;
        let (waiting, challenge) = scram::Waiting::new(&first, binding, &scram::nonce(desk.entropy), name, account, keys);
        self.0 = Stage::ScramFinal(Box::new(waiting));
        Ok(Turn::Challenge(challenge.into_bytes()))
    }

    fn scram_final(&mut self, waiting: &scram::Waiting, response: &[u8]) -> Result<Turn, Turn> {
        let (account, proof) = waiting.prove(response).map_err(|why| Failure::turn(Some(waiting.name.clone()), why))?;
        self.0 = Stage::Proven(account);
        Ok(Turn::Challenge(proof.into_bytes()))
    }
}

impl Desk<'_> {
    /// A name and a password; `authorization`: whom the client wants to act for, or nothing.
    async fn password(&self, name: &str, authorization: &str, password: &[u8]) -> Result<Turn, Turn> {
        let name = address(name).ok_or_else(|| Failure::turn(None, Why::Credentials))?;
        self.admit(&name)?;
        act_for(&name, authorization)?;
        let fail = |why| Failure::turn(Some(name.clone()), why);
        if password.len() > CREDENTIAL_SIZE_MAX {
            return Err(fail(Why::Credentials));
        }
        match self.accounts.check_password(&name, password.to_vec()).await {
            Ok(Some(account)) => Ok(Turn::Done(account)),
            Ok(None) => Err(fail(Why::Credentials)),
            Err(error) => Err(fail(Why::Unavailable(error))),
        }
    }

    /// The client's certificate names one or more accounts; `authorization` says which is meant.
    async fn external(&self, authorization: &[u8]) -> Result<Turn, Turn> {
        let malformed = || Failure::turn(None, Why::Malformed);
        let wanted = match std::str::from_utf8(authorization).map_err(|_| malformed())? {
            "" => None,
            name => Some(address(name).ok_or_else(malformed)?),
        };
        for name in self.channel.names.iter().filter_map(|name| address(name)) {
            if wanted.as_ref().is_some_and(|wanted| !is_same(wanted, &name)) {
                continue;
            }
            self.admit(&name)?;
            match self.accounts.find(&name).await {
                Ok(Some(account)) => return Ok(Turn::Done(account)),
                Ok(None) => {}
                Err(error) => return Err(Failure::turn(Some(name), Why::Unavailable(error))),
            }
        }
        let why = if wanted.is_some() { Why::NotPermitted } else { Why::Credentials };
        Err(Failure::turn(wanted, why))
    }

    /// Whether this client may try this account now.
    fn admit(&self, name: &Address) -> Result<(), Turn> {
        self.throttle.admit(self.now, self.client, name).map_err(|why| Failure::turn(Some(name.clone()), why))
    }
}

/// An account's name; nothing else can be one.
fn address(name: &str) -> Option<Address> {
    Some(name).filter(|name| name.len() <= CREDENTIAL_SIZE_MAX).and_then(|name| Address::parse(name).ok())
}

/// Nobody acts for another account here.
fn act_for(name: &Address, authorization: &str) -> Result<(), Turn> {
    if authorization.is_empty() || address(authorization).is_some_and(|other| is_same(&other, name)) {
        return Ok(());
    }
    Err(Failure::turn(Some(name.clone()), Why::NotPermitted))
}

/// Accounts' names don't differ by the case of their letters.
fn is_same(one: &Address, other: &Address) -> bool {
    one.domain() == other.domain() && one.local().eq_ignore_ascii_case(other.local())
}

#[cfg(test)]
mod tests;
