//! SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677), the server's side: neither side shows the password to the other. Owns what must
//! be remembered between the client's two messages.
//!
//! The messages are kept as they came and signed as they came; nothing is put together anew that the client may have written in
//! another way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::Why;
use crate::directory::scram::ScramKeys;
use crate::mail::Address;
use crate::smtp::scram::{KEY_SIZE, hash, sign};
use crate::system::Entropy;

/// Longest nonce taken from a client; octets.
const NONCE_SIZE_MAX: usize = 256;

/// What the client says about channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag<'a> {
    /// `n`: it can't.
    Unsupported,
    /// `y`: it could, but thinks that we can't.
    Supported,
    /// `p=`: it binds to this.
    Used(&'a str),
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    /// The GS2 header with its last comma.
    header: &'a str,
    /// The rest.
    bare: &'a str,
    nonce: &'a str,
    pub(super) flag: Flag<'a>,
    /// Whom it wants to act for; empty: itself.
    pub(super) authorization: String,
    /// Who it says it is.
    pub(super) name: String,
}

impl<'a> ClientFirst<'a> {
    /// Parses `gs2-header client-first-message-bare`. None: it is none, or asks for an extension that we don't know.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let message = std::str::from_utf8(message).ok()?;
        let mut parts = message.splitn(3, ',');
        let (flag, authorization, bare) = (parts.next()?, parts.next()?, parts.next()?);
        let header = message.strip_suffix(bare)?;
        let flag = match flag {
            "n" => Flag::Unsupported,
            "y" => Flag::Supported,
            flag => Flag::Used(flag.strip_prefix("p=").filter(|name| is_binding_name(name))?),
        };
        let authorization = match authorization {
            "" => String::new(),
            authorization => unescape(authorization.strip_prefix("a=")?)?,
        };
        // A mandatory extension would stand first, as `m=`.
        let mut attributes = bare.split(',');
        let name = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        attributes.all(is_attribute).then_some(Self { header, bare, nonce, flag, authorization, name })
    }
}

/// What is remembered until the client's last message.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Who the client says it is.
    pub(super) name: Address,
    /// The account, if there is one.
    account: Option<Address>,
    keys: ScramKeys,
    /// The client's nonce with ours behind it.
    nonce: String,
    /// What `c=` must hold, decoded.
    binding: Vec<u8>,
    /// `client-first-message-bare,server-first-message,`.
    signed: String,
}

impl Waiting {
    /// Also returns the server's first message.
    pub(super) fn new(
        first: &ClientFirst<'_>,
        binding: &[u8],
        nonce: &str,
        name: Address,
        account: Option<Address>,
        keys: ScramKeys,
    ) -> (Self, String) {
        let nonce = format!("{}{nonce}", first.nonce);
        let message = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let binding = [first.header.as_bytes(), binding].concat();
        let signed = format!("{},{message},", first.bare);
        (Self { name, account, keys, nonce, binding, signed }, message)
    }

    /// Checks the client's last message. The account, and the server's last message, which proves to the client that we know the
    /// password's keys.
    pub(super) fn prove(&self, message: &[u8]) -> Result<(Address, String), Why> {
        let message = std::str::from_utf8(message).map_err(|_| Why::Malformed)?;
        let (unproved, proof) = message.rsplit_once(",p=").ok_or(Why::Malformed)?;
        let mut attributes = unproved.split(',');
        let binding = attributes.next().and_then(|attribute| attribute.strip_prefix("c=")).ok_or(Why::Malformed)?;
        let nonce = attributes.next().and_then(|attribute| attribute.strip_prefix("r=")).ok_or(Why::Malformed)?;
        let proof: [u8; KEY_SIZE] = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(Why::Malformed)?;
        if !attributes.all(is_attribute) {
            return Err(Why::Malformed);
        }
        if STANDARD.decode(binding).map_err(|_| Why::Malformed)? != self.binding {
            return Err(Why::Binding);
        }
        if nonce != self.nonce {
            return Err(Why::Credentials);
        }
        let signed = format!("{}{unproved}", self.signed);
        let mut client_key = sign(&self.keys.stored_key, signed.as_bytes());
        client_key.iter_mut().zip(proof).for_each(|(octet, proof)| *octet ^= proof);
        let is_right = bool::from(hash(&client_key).ct_eq(&self.keys.stored_key));
        let account = self.account.clone().filter(|_| is_right).ok_or(Why::Credentials)?;
        let signature = sign(&self.keys.server_key, signed.as_bytes());
        Ok((account, format!("v={}", STANDARD.encode(signature))))
    }
}

/// Our part of the nonce: 144 random bits.
pub(super) fn nonce(entropy: &dyn Entropy) -> String {
    let octets: Vec<u8> = (0..3).flat_map(|_| entropy.next_u64().to_le_bytes()).take(18).collect();
    STANDARD.encode(octets)
}

/// Letters, digits, dot and hyphen (RFC 5056 section 7).
fn is_binding_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-'))
}

/// Printable ASCII without the comma.
fn is_nonce(nonce: &str) -> bool {
    (1..=NONCE_SIZE_MAX).contains(&nonce.len()) && nonce.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',')
}

/// `attr-val`: a letter, `=`, and a value that isn't empty.
fn is_attribute(attribute: &str) -> bool {
    matches!(attribute.as_bytes(), [letter, b'=', _, ..] if letter.is_ascii_alphabetic()) && !attribute.contains('\0')
}

/// `saslname`: `=2C` stands for a comma and `=3D` for an equals sign, which may stand there in no other way.
fn unescape(name: &str) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let mut parts = name.split('=');
    text.push_str(parts.next()?);
    for part in parts {
        let (letter, rest) = match part.strip_prefix("2C") {
            Some(rest) => (',', rest),
            None => ('=', part.strip_prefix("3D")?),
        };
        text.push(letter);
        text.push_str(rest);
    }
    (!text.is_empty() && !text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages_are_read_strictly() {
        let parsed = ClientFirst::parse(b"p=tls-exporter,a=an=2Cn,n=a=3Db=2Cc,r=abc,x=y").unwrap();
        assert_eq!(parsed.header, "p=tls-exporter,a=an=2Cn,");
        assert_eq!(parsed.bare, "n=a=3Db=2Cc,r=abc,x=y");
        assert_eq!((parsed.flag, parsed.nonce), (Flag::Used("tls-exporter"), "abc"));
        assert_eq!((parsed.authorization.as_str(), parsed.name.as_str()), ("an,n", "a=b,c"));
        for wrong in [
            "",
            ",",
            ",,",
            ",,,",
            "n",
            "n,",
            "n,,",
            "n,,n",
            "n,,n=",
            "n,,n=a",
            "n,,n=a,",
            "n,,n=a,r",
            "n,,n=a,r=",
            "n,,n=,r=abc",
            "n,x,n=a,r=abc",
            "n,a,n=a,r=abc",
            "n,a=,n=a,r=abc",
            "n,,m=1,n=a,r=abc",
            "n,,r=abc,n=a",
            "n,,n=a=,r=abc",
            "n,,n=a=2,r=abc",
            "n,,n=a=2c,r=abc",
            "n,,n=a\0b,r=abc",
            "n,,n=a,r=a\u{e9}c",
            "n,,n=a,r=a c",
            "n,,n=a,r=abc,",
            "n,,n=a,r=abc,x",
            "n,,n=a,r=abc,x=",
            "n,,n=a,r=abc,=x",
            "p,,n=a,r=abc",
            "p=,,n=a,r=abc",
            "p=tls_x,,n=a,r=abc",
            "q,,n=a,r=abc",
            "N,,n=a,r=abc",
        ] {
            assert_eq!(ClientFirst::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=abc"), None);
        assert_eq!(ClientFirst::parse(format!("n,,n=a,r={}", "x".repeat(NONCE_SIZE_MAX + 1)).as_bytes()), None);
    }

    /// RFC 7677 section 3, whole. The name is no address there, so it is put in behind the parser.
    #[test]
    fn the_rfcs_exchange_is_the_rfcs() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive_with("pencil", &salt, std::num::NonZeroU32::new(4096).unwrap()).unwrap();
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let name = Address::parse("user@example.test").unwrap();
        let ours = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let (waiting, message) = Waiting::new(&first, b"", ours, name.clone(), Some(name.clone()), keys);
        assert_eq!(message, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proof = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned();
        assert_eq!(waiting.prove(last.as_bytes()), Ok((name, proof)));
        for (wrong, why) in [
            ("", Why::Malformed),
            (&last.replace("p=", "q="), Why::Malformed),
            (&last.replace("c=biws,", ""), Why::Malformed),
            (&last.replace("VQ=", "V"), Why::Malformed),
            (&last.replace(",p=", ",x,p="), Why::Malformed),
            (&last.replace("biws", "eSws"), Why::Binding),
            (&last.replace("biws", "biwsYQ=="), Why::Binding),
            (&last.replace("$k0", "$k1"), Why::Credentials),
            (&last.replace("p=dH", "p=eH"), Why::Credentials),
            (&last.replace(",p=", ",x=y,p="), Why::Credentials),
        ] {
            assert_eq!(waiting.prove(wrong.as_bytes()), Err(why), "{wrong}");
        }
        let stranger = Waiting { account: None, ..waiting };
        assert_eq!(stranger.prove(last.as_bytes()), Err(Why::Credentials));
    }

    #[test]
    fn nonces_are_random_and_have_no_comma() {
        let nonces: std::collections::BTreeSet<_> = (0..100).map(|_| nonce(&crate::system::SystemEntropy)).collect();
        assert!(nonces.len() == 100 && nonces.iter().all(|nonce| is_nonce(nonce) && nonce.len() == 24));
    }
}
