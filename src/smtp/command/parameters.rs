//! MAIL and RCPT with their parameters, each read as its extension's RFC has it and only where that extension is offered.

use super::path::{parse_address, path_text, split_path};
use super::{Command, CommandError, ForwardPath, Mail};
use crate::mail::{
    BodyType, DeliverBy, DeliverByMode, DsnRequest, EnvelopeId, Hold, Notify, OriginalRecipient, Priority, Request, Ret,
    ReversePath, Timestamp, decode_xtext,
};
use crate::smtp::extension::Parameters;

/// Most digits of the number of seconds in BY and HOLDFOR (RFC 2852 section 3, RFC 4865 section 4.1).
const SECONDS_DIGITS_MAX: usize = 9;

pub(super) fn parse_mail(argument: Option<&[u8]>, offered: Parameters) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("MAIL FROM:<address>");
    let (path, parameters) = split_path(argument, b"FROM:").ok_or(syntax)?;
    let path_octets = path;
    let path = match path_text(path, offered.utf8)? {
        "" => ReversePath::Null,
        path => ReversePath::Address(parse_address(path, CommandError::BadSender)?),
    };
    let mut found = MailParameters::default();
    for parameter in split_parameters(parameters) {
        let (keyword, value) = parse_parameter(parameter?)?;
        found.take(keyword, value, offered)?;
    }
    let request = Request {
        smtputf8: found.smtputf8.is_some(),
        require_tls: found.require_tls.is_some(),
        ret: found.ret,
        envid: found.envid,
        deliver_by: found.deliver_by,
        hold: found.hold,
        // Zero is what ordinary mail has.
        priority: found.priority.filter(|priority| *priority != Priority::default()),
    };
    if !request.smtputf8 && !path_octets.is_ascii() {
        return Err(CommandError::NotAscii);
    }
    Ok(Command::Mail(Mail { path, size: found.size, body: found.body.unwrap_or_default(), request: request.boxed() }))
}

/// MAIL's parameters, each as far as it was met.
#[derive(Default)]
struct MailParameters {
    size: Option<u64>,
    body: Option<BodyType>,
    smtputf8: Option<()>,
    require_tls: Option<()>,
    ret: Option<Ret>,
    envid: Option<EnvelopeId>,
    deliver_by: Option<DeliverBy>,
    hold: Option<Hold>,
    priority: Option<Priority>,
    auth: Option<()>,
}

impl MailParameters {
    fn take(&mut self, keyword: &str, value: Option<&str>, offered: Parameters) -> Result<(), CommandError> {
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        if is("SIZE") {
            set_once(&mut self.size, parse_size(value)?)
        } else if is("BODY") {
            set_once(&mut self.body, parse_body(value, offered)?)
        } else if is("SMTPUTF8") && offered.utf8 {
            set_once(&mut self.smtputf8, without_value(value)?)
        } else if is("RET") && offered.dsn {
            set_once(&mut self.ret, parse_ret(value)?)
        } else if is("ENVID") && offered.dsn {
            let envid = value.and_then(decode_xtext).and_then(|text| EnvelopeId::new(&text));
            set_once(&mut self.envid, envid.ok_or(CommandError::BadParameter)?)
        } else if is("REQUIRETLS") && offered.require_tls {
            set_once(&mut self.require_tls, without_value(value)?)
        } else if is("BY") && offered.deliver_by {
            set_once(&mut self.deliver_by, value.and_then(parse_by).ok_or(CommandError::BadParameter)?)
        } else if is("HOLDFOR") && offered.future_release {
            // With HOLDUNTIL it excludes (RFC 4865 section 4.1): they share a place.
            set_once(&mut self.hold, value.and_then(parse_seconds).map(Hold::For).ok_or(CommandError::BadParameter)?)
        } else if is("HOLDUNTIL") && offered.future_release {
            set_once(&mut self.hold, value.and_then(parse_time).map(Hold::Until).ok_or(CommandError::BadParameter)?)
        } else if is("MT-PRIORITY") && offered.priority {
            set_once(&mut self.priority, value.and_then(parse_priority).ok_or(CommandError::BadParameter)?)
        } else if is("AUTH") && offered.auth {
            // Who submitted the message first (RFC 4954 section 5): nobody is trusted to say so, which is `<>` to whoever comes next.
            value.and_then(decode_xtext).ok_or(CommandError::BadParameter)?;
            set_once(&mut self.auth, ())
        } else {
            Err(CommandError::UnknownParameter)
        }
    }
}

pub(super) fn parse_rcpt(argument: Option<&[u8]>, offered: Parameters) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("RCPT TO:<address>");
    let (path, parameters) = split_path(argument, b"TO:").ok_or(syntax)?;
    let utf8 = !path.is_ascii() || !parameters.is_ascii();
    let path = match path_text(path, offered.utf8)? {
        path if path.eq_ignore_ascii_case("postmaster") => ForwardPath::Postmaster,
        path => ForwardPath::Address(parse_address(path, CommandError::BadRecipient)?),
    };
    let mut dsn = DsnRequest::default();
    for parameter in split_parameters(parameters) {
        let (keyword, value) = parse_parameter(parameter?)?;
        if keyword.eq_ignore_ascii_case("NOTIFY") && offered.dsn {
            set_once(&mut dsn.notify, value.and_then(parse_notify).ok_or(CommandError::BadParameter)?)?;
        } else if keyword.eq_ignore_ascii_case("ORCPT") && offered.dsn {
            set_once(&mut dsn.orcpt, value.and_then(OriginalRecipient::parse).ok_or(CommandError::BadParameter)?)?;
        } else {
            return Err(CommandError::UnknownParameter);
        }
    }
    Ok(Command::Rcpt { path, dsn: dsn.boxed(), utf8 })
}

/// The parameters, separated by spaces. More than one space between them is taken as one.
pub(super) fn split_parameters(parameters: &[u8]) -> impl Iterator<Item = Result<&str, CommandError>> {
    let words = parameters.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
    words.map(|word| std::str::from_utf8(word).map_err(|_| CommandError::BadParameter))
}

/// `esmtp-param`: a keyword, and perhaps `=` and a value that is not empty. Only ORCPT may have more than ASCII in it (RFC 6533
/// section 3), which its own parser sees to.
pub(super) fn parse_parameter(parameter: &str) -> Result<(&str, Option<&str>), CommandError> {
    let (keyword, value) = match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    };
    let keyword_right = keyword.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let ascii_right = parameter.is_ascii() || keyword.eq_ignore_ascii_case("ORCPT");
    let right = |c: char| if c.is_ascii() { c.is_ascii_graphic() && c != '=' } else { !c.is_control() };
    let value_right = value.is_none_or(|value| !value.is_empty() && value.chars().all(right));
    if keyword.is_empty() || keyword.starts_with('-') || !keyword_right || !ascii_right || !value_right {
        return Err(CommandError::BadParameter);
    }
    Ok((keyword, value))
}

pub(super) fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), CommandError> {
    if place.replace(value).is_some() { Err(CommandError::BadParameter) } else { Ok(()) }
}

fn without_value(value: Option<&str>) -> Result<(), CommandError> {
    if value.is_none() { Ok(()) } else { Err(CommandError::BadParameter) }
}

/// `1*20DIGIT` (RFC 1870 section 3). What doesn't fit the number is larger than any limit.
fn parse_size(value: Option<&str>) -> Result<u64, CommandError> {
    let digits = value.filter(|value| value.len() <= 20 && value.bytes().all(|octet| octet.is_ascii_digit()));
    Ok(digits.ok_or(CommandError::BadParameter)?.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: Option<&str>, offered: Parameters) -> Result<BodyType, CommandError> {
    let body = value.and_then(BodyType::parse).filter(|body| *body != BodyType::BinaryMime || offered.binary);
    body.ok_or(CommandError::BadParameter)
}

fn parse_ret(value: Option<&str>) -> Result<Ret, CommandError> {
    let value = value.ok_or(CommandError::BadParameter)?;
    [Ret::Full, Ret::Hdrs].into_iter().find(|ret| ret.as_str().eq_ignore_ascii_case(value)).ok_or(CommandError::BadParameter)
}

/// `NEVER`, or a list of the others, each once.
fn parse_notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::NEVER;
    for name in value.split(',') {
        let place = match () {
            () if name.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
            () if name.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
            () if name.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
            () => return None,
        };
        if std::mem::replace(place, true) {
            return None;
        }
    }
    Some(notify)
}

/// `[sign]seconds;R` or `;N`, and perhaps `T` (RFC 2852 section 4). A message can't come back before now: `R` needs time left.
fn parse_by(value: &str) -> Option<DeliverBy> {
    let (time, mode) = value.split_once(';')?;
    let (negative, digits) = match time.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, time.strip_prefix('+').unwrap_or(time)),
    };
    let size = i32::try_from(parse_seconds(digits)?).ok()?;
    let mut letters = mode.chars();
    let mode = match letters.next()?.to_ascii_uppercase() {
        'R' => DeliverByMode::Return,
        'N' => DeliverByMode::Notify,
        _ => return None,
    };
    let trace = match letters.next().map(|letter| letter.to_ascii_uppercase()) {
        None => false,
        Some('T') => true,
        Some(_) => return None,
    };
    let by = DeliverBy { seconds: if negative { -size } else { size }, mode, trace, told: false };
    (letters.next().is_none() && (by.seconds > 0 || mode == DeliverByMode::Notify)).then_some(by)
}

fn parse_seconds(digits: &str) -> Option<u32> {
    let right = (1..=SECONDS_DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| right)
}

/// RFC 3339 in UTC, said with `Z` (RFC 4865 section 4.1); parts of a second are dropped.
fn parse_time(value: &str) -> Option<Timestamp> {
    let time = Timestamp::parse_rfc3339(value).filter(|_| value.ends_with(['Z', 'z']))?;
    Some(Timestamp::from_millis(time.as_millis() / 1000 * 1000))
}

/// `0`, or a digit with a minus sign at the most in front (RFC 6710 section 6).
fn parse_priority(value: &str) -> Option<Priority> {
    let digits = value.strip_prefix('-').filter(|digits| *digits != "0").unwrap_or(value);
    let right = digits.len() == 1 && digits.bytes().all(|digit| digit.is_ascii_digit());
    Priority::new(value.parse().ok().filter(|_| right)?)
}
