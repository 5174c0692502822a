//! Parses command lines (RFC 5321 section 4.1.1) into commands or the error that says what is wrong with them. Owns
//! nothing; what comes out was checked once and for all.

use std::fmt;

use super::auth::{Mechanism, Secret};
use super::extension::Extension;
use crate::mail::{Address, AddressError, BodyType, Domain, DsnRequest, EnhancedCode, Reply, Request, ReversePath};

/// Longest name taken in HELO and EHLO; octets (RFC 5321 section 4.5.3.1.2).
const HELLO_SIZE_MAX: usize = 255;

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// HELO, or EHLO if `extended`.
    Hello {
        /// What the client calls itself: a domain or an address literal.
        name: String,
        /// EHLO.
        extended: bool,
    },
    /// MAIL.
    Mail(Mail),
    /// RCPT.
    Rcpt {
        /// The forward-path.
        path: ForwardPath,
        /// What its parameters ask for (RFC 3461).
        dsn: Option<Box<DsnRequest>>,
    },
    /// DATA.
    Data,
    /// RSET.
    Rset,
    /// NOOP; its argument says nothing.
    Noop,
    /// VRFY; the argument isn't kept because the answer never depends on it.
    Vrfy,
    /// HELP.
    Help,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth {
        /// How the client wants to log in.
        mechanism: Mechanism,
        /// The initial response, decoded; an empty one was sent as `=`.
        initial: Option<Secret>,
    },
    /// QUIT.
    Quit,
}

/// MAIL's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path, without source route.
    pub path: ReversePath,
    /// The SIZE parameter (RFC 1870), capped at the largest number; octets.
    pub size: Option<u64>,
    /// The BODY parameter (RFC 6152, RFC 3030).
    pub body: BodyType,
    /// What the other parameters ask for.
    pub request: Option<Box<Request>>,
}

/// RCPT's argument. A source route was checked for its form and dropped, as RFC 5321 appendix C asks: who may send to the
/// address is decided by the address alone, so no route buys a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// An address.
    Address(Address),
    /// `<postmaster>` without a domain, in any case of letters (RFC 5321 section 4.5.1).
    Postmaster,
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Postmaster => f.write_str("postmaster"),
        }
    }
}

/// Why a line is no command that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No word at its start, or a control character in it.
    Malformed,
    /// No such command.
    Unknown,
    /// A real command of an extension that is not offered, or one that is switched off for good.
    NotOffered,
    /// A line of HTTP or of a message header: whoever sends it speaks no SMTP, and what follows isn't meant as commands.
    Foreign,
    /// The argument is missing, superfluous or malformed; the text is what would be right.
    Syntax(&'static str),
    /// A parameter behind the path is malformed, has a bad value or comes twice.
    BadParameter,
    /// A parameter that no offered extension has.
    UnknownParameter,
    /// The path in MAIL holds no address.
    BadSender(AddressError),
    /// The path in RCPT holds no address.
    BadRecipient(AddressError),
    /// AUTH names a mechanism that this server doesn't know.
    UnknownMechanism,
    /// AUTH's initial response is no base64.
    BadBase64,
    /// An octet above 127 in an address, without SMTPUTF8 (RFC 6531).
    NotAscii,
}

impl CommandError {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        let (code, enhanced, text) = match self {
            Self::Malformed => (500, (5, 5, 2), "Malformed command line".to_owned()),
            Self::Unknown => (500, (5, 5, 1), "Command unknown".to_owned()),
            Self::NotOffered => (502, (5, 5, 1), "Command not offered".to_owned()),
            Self::Foreign => (554, (5, 5, 1), "This is SMTP, and that was not; closing".to_owned()),
            Self::Syntax(right) => (501, (5, 5, 4), format!("Syntax: {right}")),
            Self::BadParameter => (501, (5, 5, 4), "Bad parameter".to_owned()),
            Self::UnknownParameter => (555, (5, 5, 4), "Unknown parameter".to_owned()),
            Self::BadSender(error) => (501, (5, 1, 7), format!("Bad sender address: {error}")),
            Self::BadRecipient(error) => (501, (5, 1, 3), format!("Bad recipient address: {error}")),
            Self::UnknownMechanism => (504, (5, 5, 4), "Authentication mechanism not offered".to_owned()),
            Self::BadBase64 => (501, (5, 5, 2), "Cannot decode base64".to_owned()),
            Self::NotAscii => (553, (5, 6, 7), "Addresses beyond ASCII are not supported".to_owned()),
        };
        Reply::new(code, EnhancedCode(enhanced.0, enhanced.1, enhanced.2), text)
    }
}

/// First words of HTTP requests. A browser can be made to send a form to this port, with commands in it.
const HTTP_METHODS: [&str; 9] = ["GET", "POST", "CONNECT", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE"];

/// Commands that RFCs define and this server doesn't offer.
const NOT_OFFERED: [&str; 8] = ["BDAT", "EXPN", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML"];

impl Command {
    /// Parses a line without its CR LF.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        // RFC 5321 section 4.1.1: white space before the end of a line is to be tolerated.
        let line = line.trim_ascii_end();
        if line.iter().any(u8::is_ascii_control) {
            return Err(CommandError::Malformed);
        }
        let (verb, argument) = match line.iter().position(|octet| *octet == b' ') {
            Some(end) => (&line[..end], Some(line[end..].trim_ascii_start())),
            None => (line, None),
        };
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        // In the order of how often they come.
        if is("RCPT") {
            parse_rcpt(argument)
        } else if is("MAIL") {
            parse_mail(argument)
        } else if is("DATA") {
            without_argument(argument, Self::Data, "DATA")
        } else if is("EHLO") {
            Ok(Self::Hello { name: parse_hello(argument, "EHLO hostname")?, extended: true })
        } else if is("HELO") {
            Ok(Self::Hello { name: parse_hello(argument, "HELO hostname")?, extended: false })
        } else if is("QUIT") {
            without_argument(argument, Self::Quit, "QUIT")
        } else if is("RSET") {
            without_argument(argument, Self::Rset, "RSET")
        } else if is("STARTTLS") {
            without_argument(argument, Self::StartTls, "STARTTLS")
        } else if is("AUTH") {
            parse_auth(argument)
        } else if is("NOOP") {
            Ok(Self::Noop)
        } else if is("HELP") {
            Ok(Self::Help)
        } else if is("VRFY") {
            parse_vrfy(argument)
        } else {
            Err(no_command(verb))
        }
    }
}

/// What a line is whose first word is no command here.
fn no_command(verb: &[u8]) -> CommandError {
    let is = |name: &&str| verb.eq_ignore_ascii_case(name.as_bytes());
    // `Received:` and its like: content, sent by a client that never looked at the reply to DATA.
    let field_name = verb.len() > 1 && verb.ends_with(b":");
    if HTTP_METHODS.iter().any(is) || field_name {
        CommandError::Foreign
    } else if NOT_OFFERED.iter().any(is) {
        CommandError::NotOffered
    } else if verb.is_empty() {
        CommandError::Malformed
    } else {
        CommandError::Unknown
    }
}

fn without_argument(argument: Option<&[u8]>, command: Command, name: &'static str) -> Result<Command, CommandError> {
    match argument {
        None => Ok(command),
        Some(_) => Err(CommandError::Syntax(name)),
    }
}

/// A domain or an address literal. Its truth isn't checked here (RFC 5321 section 4.1.4 forbids refusing for that).
fn parse_hello(argument: Option<&[u8]>, syntax: &'static str) -> Result<String, CommandError> {
    let name = argument.and_then(|name| std::str::from_utf8(name).ok()).ok_or(CommandError::Syntax(syntax))?;
    let right = name.is_ascii() && name.len() <= HELLO_SIZE_MAX && (Domain::parse(name).is_ok() || is_general_literal(name));
    if right { Ok(name.to_owned()) } else { Err(CommandError::Syntax(syntax)) }
}

/// `[tag:content]`, RFC 5321's room for address families to come; also what clients with a scoped IPv6 address send.
fn is_general_literal(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let Some((tag, content)) = inner.and_then(|inner| inner.split_once(':')) else { return false };
    let tag_right = tag.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let content_right = content.bytes().all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'[' | b'\\' | b']'));
    tag_right && !tag.is_empty() && !tag.ends_with('-') && content_right && !content.is_empty()
}

fn parse_vrfy(argument: Option<&[u8]>) -> Result<Command, CommandError> {
    match argument {
        None => Err(CommandError::Syntax("VRFY address")),
        Some(text) if !text.is_ascii() => Err(CommandError::NotAscii),
        Some(_) => Ok(Command::Vrfy),
    }
}

/// `mechanism`, and perhaps an initial response in base64; `=` stands for an empty one (RFC 4954 section 4).
fn parse_auth(argument: Option<&[u8]>) -> Result<Command, CommandError> {
    let argument = argument.ok_or(CommandError::Syntax("AUTH mechanism [initial-response]"))?;
    let mut words = argument.splitn(2, |octet| *octet == b' ');
    let mechanism = words.next().and_then(Mechanism::parse).ok_or(CommandError::UnknownMechanism)?;
    let initial = match words.next() {
        None => None,
        Some(b"=") => Some(Secret(Vec::new())),
        Some(text) => Some(Secret::decode(text).filter(|secret| !secret.0.is_empty()).ok_or(CommandError::BadBase64)?),
    };
    Ok(Command::Auth { mechanism, initial })
}

fn parse_mail(argument: Option<&[u8]>) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("MAIL FROM:<address>");
    let (path, parameters) = split_path(argument, b"FROM:").ok_or(syntax)?;
    let path = match path_text(path)? {
        "" => ReversePath::Null,
        path => ReversePath::Address(parse_address(path, CommandError::BadSender)?),
    };
    let (mut size, mut body) = (None, None);
    for parameter in split_parameters(parameters) {
        let (keyword, value) = parse_parameter(parameter?)?;
        if keyword.eq_ignore_ascii_case("SIZE") {
            set_once(&mut size, parse_size(value)?)?;
        } else if keyword.eq_ignore_ascii_case("BODY") {
            set_once(&mut body, parse_body(value)?)?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(Command::Mail(Mail { path, size, body: body.unwrap_or_default(), request: None }))
}

fn parse_rcpt(argument: Option<&[u8]>) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("RCPT TO:<address>");
    let (path, parameters) = split_path(argument, b"TO:").ok_or(syntax)?;
    let path = match path_text(path)? {
        path if path.eq_ignore_ascii_case("postmaster") => ForwardPath::Postmaster,
        path => ForwardPath::Address(parse_address(path, CommandError::BadRecipient)?),
    };
    if let Some(parameter) = split_parameters(parameters).next() {
        parse_parameter(parameter?)?;
        return Err(CommandError::UnknownParameter);
    }
    Ok(Command::Rcpt { path, dsn: None })
}

/// Splits `FROM:<path> parameters` into what stands between the angle brackets and what follows them. White space behind
/// the colon isn't in the grammar but in so many clients that refusing it would only lose mail.
fn split_path<'a>(argument: Option<&'a [u8]>, keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let argument = argument?;
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    let end = path_end(rest)?;
    let parameters = &rest[end + 1..];
    (parameters.is_empty() || parameters[0] == b' ').then_some((&rest[..end], parameters))
}

/// Where the closing bracket is: the first one outside a quoted string.
fn path_end(path: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    path.iter().position(|octet| {
        let end = *octet == b'>' && !quoted;
        if escaped {
            escaped = false;
        } else if *octet == b'"' {
            quoted = !quoted;
        } else {
            escaped = quoted && *octet == b'\\';
        }
        end
    })
}

fn path_text(path: &[u8]) -> Result<&str, CommandError> {
    if !path.is_ascii() {
        return Err(CommandError::NotAscii);
    }
    std::str::from_utf8(path).map_err(|_| CommandError::NotAscii)
}

/// An address, perhaps behind a source route: `@a.test,@b.test:user@c.test`.
fn parse_address(path: &str, wrong: fn(AddressError) -> CommandError) -> Result<Address, CommandError> {
    let Some(routed) = path.strip_prefix('@') else { return Address::parse(path).map_err(wrong) };
    let (route, address) = split_route(routed).ok_or(wrong(AddressError::BadLocalPart))?;
    for (index, hop) in route.split(',').enumerate() {
        let hop = if index == 0 { Some(hop) } else { hop.strip_prefix('@') };
        let hop = hop.ok_or(wrong(AddressError::BadLocalPart))?;
        Domain::parse(hop).map_err(|error| wrong(AddressError::BadDomain(error)))?;
    }
    Address::parse(address).map_err(wrong)
}

/// Cuts at the colon that ends the route; the colons of an IPv6 literal are no such thing.
fn split_route(routed: &str) -> Option<(&str, &str)> {
    let mut in_literal = false;
    let colon = routed.bytes().position(|octet| {
        in_literal = octet == b'[' || (in_literal && octet != b']');
        octet == b':' && !in_literal
    })?;
    Some((&routed[..colon], &routed[colon + 1..]))
}

/// The parameters, separated by spaces. More than one space between them is taken as one.
fn split_parameters(parameters: &[u8]) -> impl Iterator<Item = Result<&str, CommandError>> {
    let words = parameters.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    words.map(|word| std::str::from_utf8(word).ok().filter(|word| word.is_ascii()).ok_or(CommandError::BadParameter))
}

/// `esmtp-param`: a keyword, and perhaps `=` and a value that is not empty.
fn parse_parameter(parameter: &str) -> Result<(&str, Option<&str>), CommandError> {
    let (keyword, value) = match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    };
    let keyword_right = keyword.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let value_right =
        value.is_none_or(|value| !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'='));
    if keyword.is_empty() || keyword.starts_with('-') || !keyword_right || !value_right {
        return Err(CommandError::BadParameter);
    }
    Ok((keyword, value))
}

fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), CommandError> {
    if place.replace(value).is_some() { Err(CommandError::BadParameter) } else { Ok(()) }
}

/// `1*20DIGIT` (RFC 1870 section 3). What doesn't fit the number is larger than any limit.
fn parse_size(value: Option<&str>) -> Result<u64, CommandError> {
    let digits = value.filter(|value| value.len() <= 20 && value.bytes().all(|octet| octet.is_ascii_digit()));
    Ok(digits.ok_or(CommandError::BadParameter)?.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: Option<&str>) -> Result<BodyType, CommandError> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(BodyType::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(BodyType::EightBitMime),
        _ => Err(CommandError::BadParameter),
    }
}

/// HELP's text: the commands, and what is offered beyond them.
pub fn help(extensions: &[Extension]) -> String {
    let mut text = String::from("Commands: HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT\nExtensions:");
    for extension in extensions {
        text.push(' ');
        text.push_str(&extension.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes())
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn mail(path: &str, size: Option<u64>, body: BodyType) -> Command {
        Command::Mail(Mail { path: ReversePath::try_from(path.to_owned()).unwrap(), size, body, request: None })
    }

    /// The enhanced code that a line is refused with; empty if it is a command.
    fn refusal(line: &str) -> String {
        parse(line).err().map(|error| error.reply()).map_or(String::new(), |r| format!("{} {}", r.code, r.enhanced.unwrap()))
    }

    #[test]
    fn commands_in_any_case_and_with_trailing_space() {
        for (line, command) in [
            ("DATA", Command::Data),
            ("data  ", Command::Data),
            ("rSeT", Command::Rset),
            ("QUIT\t", Command::Quit),
            ("NOOP", Command::Noop),
            ("NOOP whatever <it> says", Command::Noop),
            ("HELP", Command::Help),
            ("help me", Command::Help),
            ("VRFY ann", Command::Vrfy),
            ("MAIL FROM:<>", mail("", None, BodyType::SevenBit)),
            ("mail from:<a@b.test> ", mail("a@b.test", None, BodyType::SevenBit)),
            ("MAIL FROM: <a@b.test>", mail("a@b.test", None, BodyType::SevenBit)),
            ("MAIL  FROM:<a@b.test>", mail("a@b.test", None, BodyType::SevenBit)),
            ("MAIL FROM:<a@b.test>  size=12  BODY=8bitmime", mail("a@b.test", Some(12), BodyType::EightBitMime)),
            ("MAIL FROM:<a@b.test> BODY=7BIT SIZE=0", mail("a@b.test", Some(0), BodyType::SevenBit)),
            ("MAIL FROM:<a@b.test> SIZE=99999999999999999999", mail("a@b.test", Some(u64::MAX), BodyType::SevenBit)),
        ] {
            assert_eq!(parse(line), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn forward_paths_are_what_remains_without_the_route() {
        for (path, expected) in [
            ("<ann@example.test>", "ann@example.test"),
            ("<Ann@Example.TEST>", "Ann@example.test"),
            ("<\"ann\"@example.test>", "ann@example.test"),
            ("<\"a > b\"@example.test>", "\"a > b\"@example.test"),
            ("<\"a\\\">\\\\\"@example.test>", "\"a\\\">\\\\\"@example.test"),
            ("<\"x@other.test\"@example.test>", "\"x@other.test\"@example.test"),
            ("<x%other.test@example.test>", "x%other.test@example.test"),
            ("<other.test!x@example.test>", "other.test!x@example.test"),
            ("<@a.test:x@b.test>", "x@b.test"),
            ("<@a.test,@b.test:x@c.test>", "x@c.test"),
            ("<@[IPv6:2001:db8::1],@[192.0.2.1]:x@c.test>", "x@c.test"),
            ("<x@[192.0.2.1]>", "x@[192.0.2.1]"),
            ("<x@[IPv6:2001:db8::1]>", "x@[IPv6:2001:db8::1]"),
            ("<postmaster@example.test>", "postmaster@example.test"),
        ] {
            let expected = Command::Rcpt { path: ForwardPath::Address(address(expected)), dsn: None };
            assert_eq!(parse(&format!("RCPT TO:{path}")), Ok(expected), "{path}");
        }
        assert_eq!(parse("RCPT TO:<PostMaster>"), Ok(Command::Rcpt { path: ForwardPath::Postmaster, dsn: None }));
    }

    #[test]
    fn every_mistake_has_its_code() {
        let long = format!("EHLO {}", "a.".repeat(130));
        for (line, code) in [
            ("", "500 5.5.2"),
            (" NOOP", "500 5.5.2"),
            ("NO\0OP", "500 5.5.2"),
            ("MAIL\tFROM:<a@b.test>", "500 5.5.2"),
            ("FOO", "500 5.5.1"),
            ("MAILFROM:<a@b.test>", "500 5.5.1"),
            ("é", "500 5.5.1"),
            ("STARTTLS now", "501 5.5.4"),
            ("AUTH", "501 5.5.4"),
            ("AUTH CRAM-MD5", "504 5.5.4"),
            ("AUTH PLAIN x", "501 5.5.2"),
            ("AUTH PLAIN AGEAYg== x", "501 5.5.2"),
            ("AUTH PLAIN  AGEAYg==", "501 5.5.2"),
            ("AUTH PLAIN ==", "501 5.5.2"),
            ("BDAT 5 LAST", "502 5.5.1"),
            ("EXPN list", "502 5.5.1"),
            ("GET / HTTP/1.1", "554 5.5.1"),
            ("post / HTTP/1.1", "554 5.5.1"),
            ("Subject: x", "554 5.5.1"),
            ("DATA now", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("VRFY é", "553 5.6.7"),
            ("HELO", "501 5.5.4"),
            ("EHLO", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("EHLO a..b", "501 5.5.4"),
            ("EHLO <a>", "501 5.5.4"),
            ("EHLO é", "501 5.5.4"),
            ("EHLO [1.2.3]", "501 5.5.4"),
            ("EHLO [:x]", "501 5.5.4"),
            ("EHLO [a:]", "501 5.5.4"),
            (&long, "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL a@b.test", "501 5.5.4"),
            ("MAIL FROM", "501 5.5.4"),
            ("MAIL FROM:", "501 5.5.4"),
            ("MAIL FROM:a@b.test", "501 5.5.4"),
            ("MAIL FROM:<a@b.test", "501 5.5.4"),
            ("MAIL FROM:<a@b.test>>", "501 5.5.4"),
            ("MAIL FROM:<a@b.test>SIZE=1", "501 5.5.4"),
            ("MAIL FROM :<a@b.test>", "501 5.5.4"),
            ("MAIL TO:<a@b.test>", "501 5.5.4"),
            ("MAIL FROM:<\"a@b.test>", "501 5.5.4"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<postmaster>", "501 5.1.7"),
            ("MAIL FROM:< >", "501 5.1.7"),
            ("MAIL FROM:<a@>", "501 5.1.7"),
            ("MAIL FROM:<a b@c.test>", "501 5.1.7"),
            ("MAIL FROM:<é@b.test>", "553 5.6.7"),
            ("MAIL FROM:<a@é.test>", "553 5.6.7"),
            ("MAIL FROM:<a@b.test> é", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=+1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=1=2", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=999999999999999999999", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SIZE=1 SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> BODY=BINARYMIME", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> BODY", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> =1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> -X=1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> X_Y=1", "501 5.5.4"),
            ("MAIL FROM:<a@b.test> SMTPUTF8", "555 5.5.4"),
            ("MAIL FROM:<a@b.test> RET=HDRS", "555 5.5.4"),
            ("RCPT TO", "501 5.5.4"),
            ("RCPT TO:ann@example.test", "501 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<ann>", "501 5.1.3"),
            ("RCPT TO:<\"postmaster\">", "501 5.1.3"),
            ("RCPT TO:<a@b@c.test>", "501 5.1.3"),
            ("RCPT TO:<@a.test>", "501 5.1.3"),
            ("RCPT TO:<@a.test,b.test:x@c.test>", "501 5.1.3"),
            ("RCPT TO:<@:x@c.test>", "501 5.1.3"),
            ("RCPT TO:<@a.test:>", "501 5.1.3"),
            ("RCPT TO:<@a.test:@b.test:x@c.test>", "501 5.1.3"),
            ("RCPT TO:<a.test:x@c.test>", "501 5.1.3"),
            ("RCPT TO:<ann@exa mple.test>", "501 5.1.3"),
            ("RCPT TO:<ann@[192.0.2.999]>", "501 5.1.3"),
            ("RCPT TO:<\u{fc}@c.test>", "553 5.6.7"),
            ("RCPT TO:<a@c.test> NOTIFY=NEVER", "555 5.5.4"),
            ("RCPT TO:<a@c.test> =", "501 5.5.4"),
        ] {
            assert_eq!(refusal(line), code, "{line:?}");
        }
    }

    #[test]
    fn names_in_hello() {
        for name in [
            "client.test",
            "localhost",
            "under_score.test",
            "dot.test.",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
            "[IPv6:fe80::1%eth0]",
        ] {
            assert_eq!(parse(&format!("EHLO {name}")), Ok(Command::Hello { name: name.to_owned(), extended: true }));
            assert_eq!(parse(&format!("HELO {name}")), Ok(Command::Hello { name: name.to_owned(), extended: false }));
        }
    }
}
