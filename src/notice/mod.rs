//! Notices: what the sender is told about a message that is late, could not be delivered, or was, if he asked for that (RFC 3461, 3464, 6522,
//! 6533, 3834).
//!
//! Pure texts: the same inputs give the same octets. A notice goes out with the null reverse-path, and nobody is ever sent a
//! notice about a notice; its failure goes to the postmaster once. Strangers' words (replies, original header) are cleaned and
//! bounded before they get into one.

mod original;
mod status;
mod text;
mod words;

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue, Headers, MIME_VERSION_1_0};
use lettre::message::{Body, MultiPart, SinglePart};

use crate::mail::{Address, BodyType, Domain, Message, Notify, Request, ReversePath, Timestamp};
use original::Original;

/// What all notices of a moment have in common.
#[derive(Clone, Debug)]
pub struct Context {
    /// Our name: Reporting-MTA, and the domain of MAILER-DAEMON.
    pub hostname: Domain,
    /// Gets double bounces, and is named as the person to ask.
    pub postmaster: Address,
    /// The time.
    pub now: Timestamp,
    /// Random: nobody outside can guess the boundary between the parts.
    pub seed: u64,
}

/// A notice, to be spooled with the null reverse-path and this one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its recipient.
    pub to: Address,
    /// The whole content, CRLF line ends, no line longer than 998 octets.
    pub content: Vec<u8>,
    /// Whether it has octets above 127: the returned message's, or the sender's address.
    pub body: BodyType,
    /// What whoever carries it must do: SMTPUTF8 for a sender beyond ASCII, REQUIRETLS as for the message (RFC 8689 section 5).
    pub request: Option<Box<Request>>,
}

/// What became of a recipient whom it didn't fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// It lies in its mailbox.
    Delivered,
    /// A server took it that tells nobody of its further way.
    Relayed,
    /// It was an alias of several, who have the message now.
    Expanded,
}

/// The original, as far as a notice may show it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// Its header block.
    pub header: &'a [u8],
    /// All of it, if the sender wants it back.
    pub whole: Option<&'a [u8]>,
}

/// Who is told that recipients failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The sender.
    Sender(Address),
    /// The postmaster: the message had a null reverse-path, so it was a notice itself (double bounce).
    Postmaster(Address),
}

/// Who is told that these recipients (by index) failed: the sender; for a null reverse-path the postmaster; nobody if the
/// postmaster's own address, or where that leads to, is all that failed.
pub fn addressee(message: &Message, failed: &[u32], postmaster: &Address) -> Option<Addressee> {
    if let ReversePath::Address(sender) = &message.reverse_path {
        return Some(Addressee::Sender(sender.clone()));
    }
    let is_postmaster = |a: &Address| a.domain() == postmaster.domain() && a.local().eq_ignore_ascii_case(postmaster.local());
    let mut recipients = failed.iter().filter_map(|index| message.recipients.get(*index as usize));
    let others = recipients.any(|r| !is_postmaster(&r.address) && !r.original.as_ref().is_some_and(is_postmaster));
    others.then(|| Addressee::Postmaster(postmaster.clone()))
}

/// The notice that these recipients (by index, their statuses final) failed, to the sender or as a double bounce to the
/// postmaster; `None` if nobody is to be told. Who asked not to be told of a recipient's failure isn't (`told_of_failure`).
pub fn bounce(context: &Context, message: &Message, failed: &[u32], shown: Shown<'_>) -> Option<Notice> {
    let (to, kind) = match addressee(message, failed, &context.postmaster)? {
        Addressee::Sender(to) => (to, Kind::Bounce),
        Addressee::Postmaster(to) => (to, Kind::DoubleBounce),
    };
    let original = Original::read(shown.header);
    Some(Report { context, message, recipients: failed, original, whole: shown.whole, kind }.notice(to))
}

/// Of these recipients (by index) those whose failure is told: all for which NOTIFY doesn't say otherwise.
pub fn told_of_failure(message: &Message, failed: &[u32]) -> Vec<u32> {
    asked(message, failed, |notify| notify.is_none_or(|notify| notify.failure))
}

/// Of these recipients those whose delay is told: all for which NOTIFY doesn't say otherwise; with `deadline`, because the time is over
/// that the sender gave, all but those with NEVER (RFC 2852 section 4.1.4).
pub fn told_of_delay(message: &Message, late: &[u32], deadline: bool) -> Vec<u32> {
    asked(message, late, |notify| match notify {
        None => true,
        Some(notify) if deadline => notify != Notify::NEVER,
        Some(notify) => notify.delay,
    })
}

fn asked(message: &Message, indexes: &[u32], wanted: impl Fn(Option<Notify>) -> bool) -> Vec<u32> {
    let recipient = |index: &u32| message.recipients.get(*index as usize);
    indexes.iter().copied().filter(|index| recipient(index).is_some_and(|recipient| wanted(recipient.notify()))).collect()
}

/// The notice that these recipients (by index) still wait, and that it goes on until `expires`; `None` for a null reverse-path.
pub fn delay(context: &Context, message: &Message, late: &[u32], expires: Timestamp, header: &[u8]) -> Option<Notice> {
    let to = message.reverse_path.address()?.clone();
    let kind = Kind::Delay { expires };
    Some(Report { context, message, recipients: late, original: Original::read(header), whole: None, kind }.notice(to))
}

/// The notice that a message has reached these recipients (by index), or has left for them; `None` for a null reverse-path.
pub fn success(context: &Context, message: &Message, reached: &[(u32, Success)], header: &[u8]) -> Option<Notice> {
    let to = message.reverse_path.address()?.clone();
    let recipients: Vec<u32> = reached.iter().map(|(index, _)| *index).collect();
    let (original, kind) = (Original::read(header), Kind::Success(reached));
    Some(Report { context, message, recipients: &recipients, original, whole: None, kind }.notice(to))
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Bounce,
    DoubleBounce,
    Delay { expires: Timestamp },
    Success(&'a [(u32, Success)]),
}

/// Everything that a notice is written from.
struct Report<'a> {
    context: &'a Context,
    message: &'a Message,
    recipients: &'a [u32],
    original: Original<'a>,
    /// The original in full, if it is to go back.
    whole: Option<&'a [u8]>,
    kind: Kind<'a>,
}

impl Report<'_> {
    fn notice(&self, to: Address) -> Notice {
        let mut report = MultiPart::mixed().build();
        let headers = report.headers_mut();
        headers.remove::<ContentType>();
        self.set_header(headers, &to);
        let boundary = format!("=_{:016x}_{}", self.context.seed, self.message.id);
        headers.set(content_type(&format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"")));
        let report = report
            .singlepart(part("text/plain; charset=utf-8", text_body(text::text(self))))
            .singlepart(part("message/delivery-status", seven_bit(status::status(self).into_bytes())))
            .singlepart(self.original_part());
        let request = Request {
            smtputf8: !to.is_ascii(),
            require_tls: self.message.request.as_ref().is_some_and(|request| request.require_tls),
            ..Request::default()
        };
        let content = report.formatted();
        let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
        Notice { to, content, body, request: request.boxed() }
    }

    fn set_header(&self, headers: &mut Headers, to: &Address) {
        let Context { hostname, now, seed, .. } = self.context;
        let from = format!("Mail Delivery System <MAILER-DAEMON@{hostname}>");
        raw(headers, "From", from.clone(), Some(from));
        raw(headers, "To", to.to_string(), Some(format!("<{to}>")));
        raw(headers, "Subject", text::subject(self), None);
        let date = now.rfc5322();
        raw(headers, "Date", date.clone(), Some(date));
        let id = format!("<{}.{seed:016x}@{hostname}>", self.message.id);
        raw(headers, "Message-ID", id.clone(), Some(id));
        if let Some(id) = self.original.message_id {
            raw(headers, "In-Reply-To", id.to_owned(), Some(id.to_owned()));
            raw(headers, "References", id.to_owned(), Some(id.to_owned()));
        }
        raw(headers, "Auto-Submitted", "auto-replied".to_owned(), None);
        headers.set(MIME_VERSION_1_0);
    }

    /// The original: in full if it can stand in a message, else its header; as it is where that is plain text, else quoted-printable.
    fn original_part(&self) -> SinglePart {
        // What RFC 6532 allows in a header needs other types (RFC 6533 section 5).
        let global = self.message.is_utf8() && !self.original.header.is_ascii();
        if let Some(whole) = self.whole.filter(|whole| words::is_lines(whole)) {
            let encoding = if whole.is_ascii() { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit };
            let body = Body::dangerous_pre_encoded(whole.to_vec(), encoding);
            return part(if global { "message/global" } else { "message/rfc822" }, body);
        }
        let header = self.original.header.to_vec();
        let body = if words::is_plain(&header) {
            seven_bit(header)
        } else {
            Body::new_with_encoding(header, ContentTransferEncoding::QuotedPrintable)
                .unwrap_or_else(|header| seven_bit(words::to_plain(&header)))
        };
        part(if global { "message/global-headers" } else { "text/rfc822-headers" }, body)
    }
}

/// A text: as it is where that is plain, else as lettre sees fit to encode it.
fn text_body(text: String) -> Body {
    if words::is_plain(text.as_bytes()) { seven_bit(text.into_bytes()) } else { Body::new(text) }
}

/// A body that is known to be ASCII in short lines.
fn seven_bit(body: Vec<u8>) -> Body {
    Body::dangerous_pre_encoded(body, ContentTransferEncoding::SevenBit)
}

fn part(kind: &str, body: Body) -> SinglePart {
    SinglePart::builder().header(content_type(kind)).body(body)
}

fn content_type(text: &str) -> ContentType {
    ContentType::parse(text).unwrap_or(ContentType::TEXT_PLAIN)
}

/// Sets a field; without an encoded form lettre folds and encodes the text.
fn raw(headers: &mut Headers, name: &'static str, text: String, encoded: Option<String>) {
    let name = HeaderName::new_from_ascii_str(name);
    headers.insert_raw(match encoded {
        Some(encoded) => HeaderValue::dangerous_new_pre_encoded(name, text, encoded),
        None => HeaderValue::new(name, text),
    });
}

#[cfg(test)]
mod tests;
