//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the client's side: the server never sees the password, and has to show that it knows it.
//! Owns what must be remembered between its messages.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::login::{Answer, Key, KeyWork, Login};
use crate::smtp::scram::{KEY_SIZE, hash, prepare, sign};

/// RFC 7677 section 4: with fewer, whoever has seen the exchange could guess the password too easily.
const ITERATIONS_MIN: u32 = 4096;
/// The work that a server may ask of us.
const ITERATIONS_MAX: u32 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    /// `client-first-message-bare`.
    bare: String,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Our first message is out.
    First,
    /// The server has sent its challenge, with this nonce; our key is being worked out.
    Challenged { message: String, nonce: String },
    /// Our proof is out; this is what the server's signature has to be.
    Proved([u8; KEY_SIZE]),
    /// The server has proved that it knows the password.
    Complete,
}

impl Exchange {
    /// None: SASLprep forbids a character in the name.
    pub(super) fn begin(login: &Login) -> Option<Self> {
        let name = prepare(&login.name)?.replace('=', "=3D").replace(',', "=2C");
        Some(Self { bare: format!("n={name},r={}", login.nonce), stage: Stage::First })
    }

    /// Our first message: we bind to no channel and act for nobody else.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Complete)
    }

    /// The answer to a message of the server's; or why it gets none.
    pub(super) fn answer(&mut self, login: &Login, message: &[u8]) -> Result<Answer, &'static str> {
        let message = std::str::from_utf8(message).map_err(|_| "its challenge is not UTF-8")?;
        match &self.stage {
            Stage::First => self.challenged(login, message),
            Stage::Proved(signature) => {
                let shown = message.strip_prefix("v=").and_then(|shown| shown.split(',').next());
                let shown = shown.and_then(|shown| STANDARD.decode(shown).ok()).unwrap_or_default();
                if !bool::from(shown.ct_eq(signature)) {
                    return Err("it doesn't show that it knows the password");
                }
                self.stage = Stage::Complete;
                Ok(Answer::Say(String::new()))
            }
            Stage::Challenged { .. } | Stage::Complete => Err("it asks for more than the exchange has"),
        }
    }

    fn challenged(&mut self, login: &Login, message: &str) -> Result<Answer, &'static str> {
        let mut attributes = message.split(',');
        let mut next = |name: &str| attributes.next().and_then(|attribute| attribute.strip_prefix(name));
        let unreadable = "its challenge can't be read";
        let nonce = next("r=").ok_or(unreadable)?;
        let salt = next("s=").and_then(|salt| STANDARD.decode(salt).ok()).ok_or(unreadable)?;
        let iterations = next("i=").and_then(|count| count.parse::<NonZeroU32>().ok()).ok_or(unreadable)?;
        if nonce.len() <= login.nonce.len() || !nonce.starts_with(&login.nonce) {
            return Err("its challenge isn't about this exchange");
        }
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations.get()) {
            return Err("it asks for less work than is safe, or more than we do");
        }
        self.stage = Stage::Challenged { message: message.to_owned(), nonce: nonce.to_owned() };
        Ok(Answer::Work(KeyWork { salt, iterations }))
    }

    /// Our answer to the challenge; or why there is none.
    pub(super) fn prove(&mut self, salted: &Key) -> Result<String, &'static str> {
        let Stage::Challenged { message, nonce } = &self.stage else { return Err("it asked for nothing") };
        // `biws` is the GS2 header of our first message, `n,,`.
        let unproved = format!("c=biws,r={nonce}");
        let signed = format!("{},{message},{unproved}", self.bare);
        let mut proof = sign(salted, b"Client Key");
        let signature = sign(&hash(&proof), signed.as_bytes());
        proof.iter_mut().zip(signature).for_each(|(octet, with)| *octet ^= with);
        let said = format!("{unproved},p={}", STANDARD.encode(proof));
        self.stage = Stage::Proved(sign(&sign(salted, b"Server Key"), signed.as_bytes()));
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::login::Password;
    use super::*;

    fn login() -> Login {
        let password = Arc::new(Password::new("pencil".to_owned()));
        Login { name: "user".to_owned(), password, nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(), in_clear: false }
    }

    /// What is answered to a challenge once the key is worked out.
    fn proved(exchange: &mut Exchange, login: &Login, challenge: &str) -> Result<String, &'static str> {
        let Answer::Work(work) = exchange.answer(login, challenge.as_bytes())? else { panic!("{challenge}") };
        assert_eq!(exchange.answer(login, b"r=again"), Err("it asks for more than the exchange has"));
        exchange.prove(&login.password.work_out(&work).unwrap())
    }

    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// RFC 7677 section 3, whole.
    #[test]
    fn the_rfcs_exchange_is_the_rfcs() {
        let login = login();
        let mut exchange = Exchange::begin(&login).unwrap();
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(proved(&mut exchange, &login, CHALLENGE), Ok(proof.to_owned()));
        assert!(!exchange.is_complete());
        assert_eq!(exchange.answer(&login, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(Answer::Say(String::new())));
        assert!(exchange.is_complete());
    }

    #[test]
    fn a_server_that_knows_too_little_or_wants_too_much_gets_no_answer() {
        let login = login();
        for wrong in [
            "",
            "e=other-error",
            &CHALLENGE.replace("rOprNGfwEbeRWgbNEkqO%", "rOprNGfwEbeRWgbNEkqX%"),
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            &CHALLENGE.replace("i=4096", "i=4095"),
            &CHALLENGE.replace("i=4096", "i=1000001"),
            &CHALLENGE.replace("i=4096", "i=0"),
            &CHALLENGE.replace("s=W", "s=!"),
            &format!("m=x,{CHALLENGE}"),
        ] {
            let mut exchange = Exchange::begin(&login).unwrap();
            assert!(exchange.answer(&login, wrong.as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["", "v=", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "e=invalid-proof"] {
            let mut exchange = Exchange::begin(&login).unwrap();
            proved(&mut exchange, &login, CHALLENGE).unwrap();
            assert!(exchange.answer(&login, wrong.as_bytes()).is_err() && !exchange.is_complete(), "{wrong}");
        }
        let odd = Login { name: "a=b,c".to_owned(), ..login };
        assert_eq!(Exchange::begin(&odd).unwrap().first(), "n,,n=a=3Db=2Cc,r=rOprNGfwEbeRWgbNEkqO");
    }
}
