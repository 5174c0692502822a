//! XCLIENT (Postfix's XCLIENT_README): what a go-between that we trust says about its client. Owns nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::CommandError;
use super::parameters::{parse_parameter, set_once, split_parameters};
use crate::mail::{Address, decode_xtext};

/// What is said about the client; what isn't said stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// Who it logged in as; inner none: as nobody.
    pub login: Option<Option<Address>>,
}

/// The attributes that EHLO names: those that change anything.
pub(in crate::smtp) const ATTRIBUTES: &str = "ADDR PORT LOGIN";

/// `ATTRIBUTE=value …`. Attributes that Postfix knows and that mean nothing here are taken and forgotten.
pub(super) fn parse_xclient(argument: Option<&[u8]>) -> Result<Presented, CommandError> {
    let argument = argument.filter(|text| !text.is_empty()).ok_or(CommandError::Syntax("XCLIENT attribute=value"))?;
    let mut presented = Presented::default();
    for word in split_parameters(argument) {
        let (name, value) = parse_parameter(word?)?;
        let value = value.and_then(decode_xtext).ok_or(CommandError::BadParameter)?;
        let known = !["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|word| value.eq_ignore_ascii_case(word));
        match name.to_ascii_uppercase().as_str() {
            // An address that isn't known leaves the go-between's own: nobody is nobody's client.
            "ADDR" if known => set_once(&mut presented.address, address(&value).ok_or(CommandError::BadParameter)?)?,
            "PORT" if known => set_once(&mut presented.port, value.parse().map_err(|_| CommandError::BadParameter)?)?,
            "LOGIN" if known => {
                let login = Address::parse(&value).map_err(|_| CommandError::BadParameter)?;
                set_once(&mut presented.login, Some(login))?;
            }
            "LOGIN" => set_once(&mut presented.login, None)?,
            "ADDR" | "PORT" | "NAME" | "HELO" | "PROTO" | "DESTADDR" | "DESTPORT" => {}
            _ => return Err(CommandError::UnknownParameter),
        }
    }
    Ok(presented)
}

fn address(text: &str) -> Option<IpAddr> {
    match text.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPV6:")) {
        Some(tag) => text[tag.len()..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Presented, CommandError> {
        parse_xclient(Some(text.as_bytes()))
    }

    #[test]
    fn attributes_are_taken_and_what_is_not_known_stays() {
        let ann = Address::parse("ann@example.test").unwrap();
        let full = Presented { address: Some("192.0.2.7".parse().unwrap()), port: Some(12345), login: Some(Some(ann)) };
        assert_eq!(parse("NAME=client.test ADDR=192.0.2.7 port=12345 PROTO=ESMTP HELO=x LOGIN=ann@example.test").unwrap(), full);
        assert_eq!(parse("LOGIN=ann+40example.test ADDR=192.0.2.7 PORT=12345 DESTADDR=192.0.2.1 DESTPORT=25").unwrap(), full);
        let six = parse("ADDR=IPv6:2001:db8::7").unwrap();
        assert_eq!(six.address, Some("2001:db8::7".parse().unwrap()));
        let none = parse("ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL] NAME=[UNAVAILABLE] LOGIN=[UNAVAILABLE]").unwrap();
        assert_eq!(none, Presented { login: Some(None), ..Presented::default() });
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "ADDR",
            "ADDR=",
            "ADDR=x",
            "ADDR=2001:db8::7",
            "PORT=70000",
            "PORT=-1",
            "LOGIN=ann",
            "ADDR=192.0.2.7 ADDR=192.0.2.8",
            "NAME=+4",
            "X=1",
            "=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_xclient(None).is_err());
    }
}
