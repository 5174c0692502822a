//! Parses command lines (RFC 5321 section 4.1.1) into commands or the error that says what is wrong with them. Owns
//! nothing; what comes out was checked once and for all.

mod parameters;
mod path;
mod xclient;

use std::fmt;

use self::parameters::{parse_mail, parse_rcpt};
pub(super) use self::xclient::ATTRIBUTES;
pub use self::xclient::Presented;
use self::xclient::parse_xclient;
use super::auth::{Mechanism, Secret};
use super::extension::{Extension, Parameters};
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
    /// LHLO: the EHLO of LMTP (RFC 2033 section 4.1).
    Lhlo {
        /// What the client calls itself: a domain or an address literal.
        name: String,
    },
    /// MAIL.
    Mail(Mail),
    /// RCPT.
    Rcpt {
        /// The forward-path.
        path: ForwardPath,
        /// What its parameters ask for (RFC 3461).
        dsn: Option<Box<DsnRequest>>,
        /// Not all of it is ASCII: right only if MAIL had SMTPUTF8.
        utf8: bool,
    },
    /// DATA.
    Data,
    /// BDAT (RFC 3030): this many octets of content follow the line.
    Bdat {
        /// How many.
        size: u64,
        /// They are the last.
        last: bool,
    },
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
    /// XCLIENT, of Postfix's making.
    Xclient(Presented),
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
    /// BDAT without a readable size: nobody knows how much of what follows is content.
    BadChunk,
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
            Self::BadChunk => (501, (5, 5, 4), "Syntax: BDAT size [LAST]; closing".to_owned()),
            Self::UnknownMechanism => (504, (5, 5, 4), "Authentication mechanism not offered".to_owned()),
            Self::BadBase64 => (501, (5, 5, 2), "Cannot decode base64".to_owned()),
            Self::NotAscii => (553, (5, 6, 7), "An address beyond ASCII needs SMTPUTF8".to_owned()),
        };
        Reply::new(code, EnhancedCode(enhanced.0, enhanced.1, enhanced.2), text)
    }
}

/// First words of HTTP requests. A browser can be made to send a form to this port, with commands in it.
const HTTP_METHODS: [&str; 9] = ["GET", "POST", "CONNECT", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE"];

/// Commands that RFCs define and this server doesn't offer.
const NOT_OFFERED: [&str; 7] = ["EXPN", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML"];

impl Command {
    /// Parses a line without its CR LF. A parameter that isn't offered is unknown.
    pub fn parse(line: &[u8], offered: Parameters) -> Result<Self, CommandError> {
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
            parse_rcpt(argument, offered)
        } else if is("MAIL") {
            parse_mail(argument, offered)
        } else if is("DATA") {
            without_argument(argument, Self::Data, "DATA")
        } else if is("BDAT") {
            parse_bdat(argument)
        } else if is("EHLO") {
            Ok(Self::Hello { name: parse_hello(argument, "EHLO hostname")?, extended: true })
        } else if is("HELO") {
            Ok(Self::Hello { name: parse_hello(argument, "HELO hostname")?, extended: false })
        } else if is("LHLO") {
            Ok(Self::Lhlo { name: parse_hello(argument, "LHLO hostname")? })
        } else if is("QUIT") {
            without_argument(argument, Self::Quit, "QUIT")
        } else if is("RSET") {
            without_argument(argument, Self::Rset, "RSET")
        } else if is("STARTTLS") {
            without_argument(argument, Self::StartTls, "STARTTLS")
        } else if is("AUTH") {
            parse_auth(argument)
        } else if is("XCLIENT") {
            parse_xclient(argument).map(Self::Xclient)
        } else if is("NOOP") {
            Ok(Self::Noop)
        } else if is("HELP") {
            Ok(Self::Help)
        } else if is("VRFY") {
            parse_vrfy(argument, offered)
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

/// The address may be followed by the parameter SMTPUTF8, and must be if it isn't ASCII (RFC 6531 section 3.7.4.2).
fn parse_vrfy(argument: Option<&[u8]>, offered: Parameters) -> Result<Command, CommandError> {
    let text = argument.ok_or(CommandError::Syntax("VRFY address"))?;
    let utf8 = offered.utf8 && text.len() > 9 && text[text.len() - 9..].eq_ignore_ascii_case(b" SMTPUTF8");
    if text.is_ascii() || utf8 && std::str::from_utf8(text).is_ok() { Ok(Command::Vrfy) } else { Err(CommandError::NotAscii) }
}

/// `size`, and perhaps `LAST`. A size that doesn't fit the number couldn't be waited for.
fn parse_bdat(argument: Option<&[u8]>) -> Result<Command, CommandError> {
    let text = argument.and_then(|text| std::str::from_utf8(text).ok()).ok_or(CommandError::BadChunk)?;
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let size = words.next().filter(|word| word.bytes().all(|octet| octet.is_ascii_digit())).and_then(|word| word.parse().ok());
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(CommandError::BadChunk),
    };
    let size = size.filter(|_| words.next().is_none()).ok_or(CommandError::BadChunk)?;
    Ok(Command::Bdat { size, last })
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

/// HELP's text: the commands, and what is offered beyond them.
pub fn help(hello: &str, extensions: &[Extension]) -> String {
    let mut text = format!("Commands: {hello} MAIL RCPT DATA RSET NOOP VRFY HELP QUIT");
    for command in extensions.iter().filter_map(Extension::command) {
        text.push(' ');
        text.push_str(command);
    }
    text.push_str("\nExtensions:");
    for extension in extensions {
        text.push(' ');
        text.push_str(&extension.to_string());
    }
    text
}

#[cfg(test)]
mod tests;
