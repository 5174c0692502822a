//! Makes a message of the lines that come in and puts it into the drop folder: the header prepared, the body streamed.

use super::super::failure::{self, Failure};
use super::header::{Circumstances, is_header_line, prepare};
use crate::config::{Config, ListenerTls};
use crate::daemon::session_settings;
use crate::mail::{Service, fields};
use crate::maildrop::{DropError, Writer};
use crate::smtp::command::Command;
use crate::system::{Disk as _, SystemDisk, SystemEntropy};

/// Largest header; octets. It is whole in memory.
const HEADER_SIZE_MAX: usize = 1024 * 1024;
const DISK: SystemDisk = SystemDisk;

/// What was asked for with the envelope, in SMTP's words.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes<'a> {
    pub(super) notify: Option<&'a str>,
    pub(super) ret: Option<&'a str>,
    pub(super) envelope_id: Option<&'a str>,
}

/// A message on its way.
pub(super) struct Composer<'a> {
    writer: Writer<'a>,
    config: &'a Config,
    circumstances: Circumstances<'a>,
    /// The header so far; none any more in the body.
    head: Option<Vec<u8>>,
    /// Octets of the header that are whole lines of it.
    scanned: usize,
    recipients: Vec<String>,
    /// Whether header or body have an octet above 127.
    header_is_ascii: bool,
    body_is_ascii: bool,
}

impl<'a> Composer<'a> {
    /// Begins a message.
    pub(super) fn begin(config: &'a Config, circumstances: Circumstances<'a>) -> Result<Self, Failure> {
        let Some(folder) = &config.sendmail.drop else {
            return Err(Failure::new(failure::UNAVAILABLE, "mail from this machine's users is not taken: sendmail.drop is \"\"")
                .remedy("name a folder there, or send by SMTP"));
        };
        if DISK.available(folder).is_ok_and(|available| available < config.spool.min_free) {
            return Err(Failure::new(failure::TRY_AGAIN, "there is not enough room on the drop folder's disk"));
        }
        let writer = Writer::begin(&DISK, &SystemEntropy, circumstances.now, folder, config.sendmail.waiting)?;
        Ok(Self {
            writer,
            config,
            circumstances,
            head: Some(Vec::new()),
            scanned: 0,
            recipients: Vec::new(),
            header_is_ascii: true,
            body_is_ascii: true,
        })
    }

    /// Takes content with the line ends of mail, cut anywhere.
    pub(super) fn receive(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let Some(head) = &mut self.head else { return self.body(lines) };
        head.extend_from_slice(lines);
        if let Some((fields, rest)) = split(head, &mut self.scanned) {
            return self.header_end(fields, rest);
        }
        if head.len() > HEADER_SIZE_MAX {
            return Err(Failure::new(failure::DATA, format!("the header has more than {HEADER_SIZE_MAX} octets")));
        }
        Ok(())
    }

    /// The header is whole: its first octets, and where the body begins.
    fn header_end(&mut self, fields_end: usize, body: usize) -> Result<(), Failure> {
        let head = self.head.take().unwrap_or_default();
        let (block, rest) = (&head[..fields_end], &head[body..]);
        let (hops, limit) = (fields(block).filter(|field| field.is("Received")).count(), self.config.limits.hops);
        if hops > limit {
            return Err(Failure::new(failure::DATA, format!("mail loop: {hops} Received fields, the limit is {limit}")));
        }
        let prepared = prepare(block, &self.circumstances).map_err(|what| Failure::new(failure::DATA, what))?;
        self.header_is_ascii = prepared.fields.is_ascii();
        self.recipients = prepared.recipients;
        self.write(&prepared.fields)?;
        self.write(b"\r\n")?;
        self.body(rest)
    }

    fn body(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.body_is_ascii &= octets.is_ascii();
        self.write(octets)
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.writer.write(octets)?;
        let limit = self.config.limits.message_size;
        if self.writer.written() > limit {
            return Err(Failure::new(failure::DATA, format!("the message is larger than {limit} octets")));
        }
        Ok(())
    }

    /// The content is whole: the recipients that its header names.
    pub(super) fn content_end(&mut self) -> Result<&[String], Failure> {
        if let Some(head) = &self.head {
            let (fields, rest) = (self.scanned, self.scanned.min(head.len()));
            self.header_end(fields, rest)?;
        }
        Ok(&self.recipients)
    }

    /// Ends it with an envelope that was said already.
    pub(super) fn finish(self, commands: &[String]) -> Result<String, Failure> {
        Ok(self.writer.finish(commands)?)
    }

    /// Ends it with the envelope: the reverse-path, empty for none, and the recipients.
    pub(super) fn finish_to(self, sender: &str, recipients: &[String], wishes: &Wishes<'_>) -> Result<String, Failure> {
        let limit = self.config.limits.recipients;
        if recipients.len() > limit {
            let what = format!("{} recipients, and a message may have {limit}", recipients.len());
            return Err(Failure::new(failure::DATA, what).remedy("send it several times, to some of them each"));
        }
        let mut mail = format!("MAIL FROM:<{sender}>");
        let parameters = session_settings(self.config, Service::Local, ListenerTls::None).parameters;
        let offers = |command: String| Command::parse(command.as_bytes(), parameters).is_ok();
        let mut add = |parameter: String| {
            // What the server's grammar doesn't have, it can't be asked for.
            if offers(format!("MAIL FROM:<> {parameter}")) {
                mail.push(' ');
                mail.push_str(&parameter);
            }
        };
        if !(self.header_is_ascii && self.body_is_ascii) {
            add("BODY=8BITMIME".to_owned());
        }
        if !(self.header_is_ascii && sender.is_ascii() && recipients.iter().all(|to| to.is_ascii())) {
            add("SMTPUTF8".to_owned());
        }
        if let Some(ret) = wishes.ret {
            add(format!("RET={ret}"));
        }
        if let Some(id) = wishes.envelope_id {
            add(format!("ENVID={id}"));
        }
        let notify = wishes.notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let notify = if offers(format!("RCPT TO:<postmaster>{notify}")) { notify } else { String::new() };
        let mut commands = vec![mail];
        commands.extend(recipients.iter().map(|to| format!("RCPT TO:<{to}>{notify}")));
        // The parser that will read them says now what is wrong with them: later nobody hears it.
        for command in &commands {
            Command::parse(command.as_bytes(), parameters)
                .map_err(|error| Failure::new(failure::DATA, format!("{command}: {}", error.reply().text)))?;
        }
        self.finish(&commands)
    }
}

/// Looks for the header's end, from `scanned` on: where its fields end, and where the body begins. None: it goes on.
fn split(head: &mut Vec<u8>, scanned: &mut usize) -> Option<(usize, usize)> {
    while let Some(end) = memchr::memchr(b'\n', &head[*scanned..]) {
        let line = &head[*scanned..=*scanned + end];
        let behind = *scanned + line.len();
        if line == b"\r\n" {
            return Some((*scanned, behind));
        }
        if *scanned == 0 && line.starts_with(b"From ") {
            // The line that mailboxes have before each message; it is no field.
            head.drain(..behind);
        } else if is_header_line(line, *scanned == 0) {
            *scanned = behind;
        } else {
            return Some((*scanned, *scanned));
        }
    }
    None
}

impl From<DropError> for Failure {
    fn from(error: DropError) -> Self {
        let status = match &error {
            DropError::Envelope => failure::DATA,
            DropError::Io(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => failure::NO_PERMISSION,
            DropError::NoFolder(_) | DropError::TooMany(_) | DropError::Io(..) => failure::TRY_AGAIN,
        };
        let remedy = match &error {
            DropError::NoFolder(_) => "the server makes it when it starts; if it did, compare its configuration with this one",
            DropError::TooMany(_) => "start the server: it takes them up",
            DropError::Io(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                "the folder's mode must be 3777, and those above it must let everybody pass (docs/sendmail.md)"
            }
            DropError::Envelope | DropError::Io(..) => "",
        };
        Failure::new(status, error.to_string()).remedy(remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the fields end and the body begins, fed by pieces of this size.
    fn parts(text: &str, size: usize) -> Option<(String, String)> {
        let (mut head, mut scanned) = (Vec::new(), 0);
        let mut pieces = text.as_bytes().chunks(size);
        while let Some(piece) = pieces.next() {
            head.extend_from_slice(piece);
            if let Some((fields, body)) = split(&mut head, &mut scanned) {
                pieces.for_each(|piece| head.extend_from_slice(piece));
                let part = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
                return Some((part(&head[..fields]), part(&head[body..])));
            }
        }
        None
    }

    #[test]
    fn the_header_ends_at_the_empty_line_or_where_it_is_none_any_more() {
        for (text, expected) in [
            ("A: b\r\n c\r\n\r\nbody\r\n", Some(("A: b\r\n c\r\n", "body\r\n"))),
            ("From ann Sun Nov 22\r\nA: b\r\n\r\n", Some(("A: b\r\n", ""))),
            ("\r\nA: b\r\n", Some(("", "A: b\r\n"))),
            ("hello\r\nA: b\r\n", Some(("", "hello\r\nA: b\r\n"))),
            ("A: b\r\nhello there\r\n", Some(("A: b\r\n", "hello there\r\n"))),
            ("A: b\r\n", None),
        ] {
            for size in 1..=text.len() {
                let expected = expected.map(|(fields, body)| (fields.to_owned(), body.to_owned()));
                assert_eq!(parts(text, size), expected, "{text:?} by {size}");
            }
        }
    }
}
