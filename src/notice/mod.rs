//! Notices: what the sender is told about a message that is late or could not be delivered (RFC 3464, 6522, 3834).
//!
//! Pure texts: the same inputs give the same octets. A notice goes out with the null reverse-path, and nobody is ever sent a
//! notice about a notice; its failure goes to the postmaster once. Strangers' words (replies, original header) are cleaned and
//! bounded before they get into one.
//!
//! A notice is written in the language of the original, if that is known, and in the characters that its recipient can be told in:
//! ASCII for an address in ASCII, with the encodings of RFC 6533 for addresses that aren't, except where it
//! brings back what isn't ASCII itself.

mod addressee;
mod digest;
mod languages;
mod original;
mod phrases;
mod refused;
mod status;
mod text;
mod words;

use std::sync::Arc;

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue, Headers, MIME_VERSION_1_0};
use lettre::message::{Body, MultiPart, SinglePart};

use crate::mail::{Address, BodyType, Domain, Message, Request, Timestamp};

pub use addressee::{Addressee, Topic, addressee, wanted};
pub use digest::Digest;
pub use languages::Languages;
pub use phrases::Flaw;
pub use refused::refused;

use languages::Language;
use original::Original;
use phrases::Part;

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
    /// What there is to write in.
    pub languages: Arc<Languages>,
}

/// A notice, to be spooled with the null reverse-path and this one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its recipient.
    pub to: Address,
    /// The whole content, CRLF line ends, no line longer than 998 octets.
    pub content: Vec<u8>,
    /// Whether it has octets above 127: only if it brings back a message that has, or its recipient's address has.
    pub body: BodyType,
    /// What whoever carries it must do: SMTPUTF8 for a sender beyond ASCII, REQUIRETLS as for the message (RFC 8689 section 5).
    pub request: Option<Box<Request>>,
}

/// What a notice brings back of the message that it is about.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// Its header block.
    Header(&'a [u8]),
    /// All of it: the sender asked for that (RET=FULL of RFC 3461). What doesn't fit into a notice is cut down to the header.
    Whole(&'a [u8]),
}

impl<'a> From<&'a [u8]> for Returned<'a> {
    fn from(header: &'a [u8]) -> Self {
        Self::Header(header)
    }
}

/// What there is to confirm (RFC 3464 section 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// It lies in the mailbox.
    Delivered,
    /// A server has it that won't confirm anything.
    Relayed,
    /// The address stood for several others, which it has been passed on to.
    Expanded,
}

/// The notice that these recipients (by index, their statuses final) failed, to the sender or as a double bounce to the
/// postmaster; `None` if nobody is to be told.
pub fn bounce<'a>(context: &Context, message: &Message, failed: &[u32], original: impl Into<Returned<'a>>) -> Option<Notice> {
    let (to, kind) = match addressee(message, failed, &context.postmaster)? {
        Addressee::Sender(to) => (to, Kind::Bounce),
        Addressee::Postmaster(to) => (to, Kind::DoubleBounce),
    };
    Some(Report::new(context, message, failed, original.into(), kind).notice(to))
}

/// The notice that these recipients (by index) still wait, and that it goes on until `expires`; `None` for a null reverse-path.
pub fn delay(context: &Context, message: &Message, late: &[u32], expires: Timestamp, header: &[u8]) -> Option<Notice> {
    let to = message.reverse_path.address()?.clone();
    Some(Report::new(context, message, late, header.into(), Kind::Delay { expires }).notice(to))
}

/// The notice that these recipients (by index), of whose delay the sender was told, have the message now, or the next server has;
/// `None` for a null reverse-path.
pub fn delay_over(context: &Context, message: &Message, done: &[u32], what: Success, header: &[u8]) -> Option<Notice> {
    let to = message.reverse_path.address()?.clone();
    Some(Report::new(context, message, done, header.into(), Kind::DelayOver(what)).notice(to))
}

/// The notice that all went well with these recipients (by index); `None` for a null reverse-path.
pub fn success(context: &Context, message: &Message, done: &[u32], what: Success, header: &[u8]) -> Option<Notice> {
    let to = message.reverse_path.address()?.clone();
    Some(Report::new(context, message, done, header.into(), Kind::Success(what)).notice(to))
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bounce,
    DoubleBounce,
    Delay { expires: Timestamp },
    DelayOver(Success),
    Success(Success),
}

/// Everything that a notice is written from.
struct Report<'a> {
    context: &'a Context,
    message: &'a Message,
    recipients: &'a [u32],
    original: Original<'a>,
    kind: Kind,
    language: Language,
}

impl<'a> Report<'a> {
    fn new(context: &'a Context, message: &'a Message, recipients: &'a [u32], returned: Returned<'a>, kind: Kind) -> Self {
        let original = Original::read(returned);
        let language = match kind {
            // That is for our own people.
            Kind::DoubleBounce => context.languages.usual().clone(),
            _ => context.languages.of(original.header),
        };
        Self { context, message, recipients, original, kind, language }
    }

    fn say(&self, part: Part, values: &[(&str, &str)]) -> String {
        self.language.phrases.say(part, values)
    }

    fn notice(&self, to: Address) -> Notice {
        let mut report = MultiPart::mixed().build();
        let headers = report.headers_mut();
        self.set_header(headers, &to);
        // Only a recipient beyond ASCII needs, and then has, a way for everything else beyond it (RFC 6533 section 6).
        let utf8 = !to.is_ascii();
        let (status, original) = (self.status_part(utf8), self.original_part());
        let is_eight_bit =
            |part: &SinglePart| part.headers().get::<ContentTransferEncoding>() == Some(ContentTransferEncoding::EightBit);
        let body = if is_eight_bit(&status) || is_eight_bit(&original) { BodyType::EightBitMime } else { BodyType::SevenBit };
        if body == BodyType::EightBitMime {
            headers.set(ContentTransferEncoding::EightBit);
        }
        let text = part("text/plain; charset=utf-8", text_body(text::text(self)));
        let report = report.singlepart(text).singlepart(status).singlepart(original);
        let request = Request {
            smtputf8: utf8,
            require_tls: self.message.request.as_ref().is_some_and(|request| request.require_tls),
            ..Request::default()
        };
        Notice { to, content: report.formatted(), body, request: request.boxed() }
    }

    fn set_header(&self, headers: &mut Headers, to: &Address) {
        let name = self.message.id.to_string();
        let (subject, language) = (text::subject(self), &self.language.tag);
        let title = Title { to, subject, name: &name, origin: "auto-replied", language };
        title.set(headers, self.context, "multipart/report; report-type=delivery-status");
        if let Some(id) = self.original.message_id {
            raw(headers, "In-Reply-To", id.to_owned(), Some(id.to_owned()));
            let thread = [&self.original.references[..], &[id]].concat();
            raw(headers, "References", thread.join(" "), Some(thread.join("\r\n ")));
        }
    }

    /// The part for machines (RFC 3464; beyond ASCII RFC 6533 section 4).
    fn status_part(&self, utf8: bool) -> SinglePart {
        let status = status::status(self, utf8);
        part(if utf8 { "message/global-delivery-status" } else { "message/delivery-status" }, as_it_is(status.as_bytes()))
    }

    /// The original, or its header: as it is, for readers don't look for encodings there. What RFC 6532 allows in a header needs
    /// types of its own (RFC 6533 section 5).
    fn original_part(&self) -> SinglePart {
        let global = self.message.is_utf8() && !self.original.header.is_ascii();
        match (self.original.whole, global) {
            (Some(whole), true) => part("message/global", as_it_is(whole)),
            (Some(whole), false) => part("message/rfc822", as_it_is(whole)),
            (None, true) if original::is_in_lines(self.original.header) => {
                part("message/global-headers", as_it_is(self.original.header))
            }
            (None, _) => part("text/rfc822-headers", self.header_part()),
        }
    }

    /// The original's header: as it is where that is plain text, else quoted-printable.
    fn header_part(&self) -> Body {
        let header = self.original.header.to_vec();
        if words::is_plain(&header) {
            return seven_bit(header);
        }
        Body::new_with_encoding(header, ContentTransferEncoding::QuotedPrintable)
            .unwrap_or_else(|header| seven_bit(words::to_plain(&header)))
    }
}

/// What stands in the header of all that we write ourselves.
struct Title<'a> {
    to: &'a Address,
    subject: String,
    /// Begins its message id.
    name: &'a str,
    /// Its Auto-Submitted (RFC 3834 section 5).
    origin: &'static str,
    language: &'a str,
}

impl Title<'_> {
    /// Sets the fields of a multipart of this type.
    fn set(self, headers: &mut Headers, context: &Context, kind: &str) {
        let Title { to, subject, name, origin, language } = self;
        let Context { hostname, now, seed, .. } = context;
        headers.remove::<ContentType>();
        let from = format!("Mail Delivery System <MAILER-DAEMON@{hostname}>");
        raw(headers, "From", from.clone(), Some(from));
        raw(headers, "To", to.to_string(), Some(format!("<{to}>")));
        raw(headers, "Subject", subject, None);
        let date = now.rfc5322();
        raw(headers, "Date", date.clone(), Some(date));
        let id = format!("<{name}.{seed:016x}@{hostname}>");
        raw(headers, "Message-ID", id.clone(), Some(id));
        raw(headers, "Auto-Submitted", origin.to_owned(), None);
        raw(headers, "Content-Language", language.to_owned(), None);
        headers.set(MIME_VERSION_1_0);
        headers.set(content_type(&format!("{kind}; boundary=\"=_{seed:016x}_{name}\"")));
    }

    /// A notice of nothing but this text, that isn't about a message's recipients.
    fn letter(self, context: &Context, text: String) -> Notice {
        let to = self.to.clone();
        let mut mail = MultiPart::mixed().build();
        self.set(mail.headers_mut(), context, "multipart/mixed");
        let mail = mail.singlepart(part("text/plain; charset=utf-8", text_body(text)));
        let request = Request { smtputf8: !to.is_ascii(), ..Request::default() };
        Notice { to, content: mail.formatted(), body: BodyType::SevenBit, request: request.boxed() }
    }
}

/// A text: as it is where that is plain, else as lettre sees fit to encode it.
fn text_body(text: String) -> Body {
    if words::is_plain(text.as_bytes()) { seven_bit(text.into_bytes()) } else { Body::new(text) }
}

/// A body that is known to be lines that aren't too long, whatever is in them.
fn as_it_is(body: &[u8]) -> Body {
    let encoding = if body.is_ascii() { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit };
    Body::dangerous_pre_encoded(body.to_vec(), encoding)
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
