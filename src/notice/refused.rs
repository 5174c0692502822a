//! The notice about a file in the drop folder that is no message, or names nobody to send it to. Owns nothing.

use super::phrases::Part;
use super::words::{clean, wrap};
use super::{Context, Notice, Title};
use crate::mail::{Address, QueueId};

/// Characters of a name or reason at the most.
const WORDS_MAX: usize = 1000;

/// The notice of this id to whoever left the file, or to the postmaster, in our usual language: nothing of the file can be relied on.
pub fn refused(context: &Context, id: QueueId, to: &Address, file: &str, reason: &str) -> Notice {
    let language = context.languages.usual();
    let say = |part, values: &[(&str, &str)]| language.phrases.say(part, values);
    let mut text = String::new();
    wrap(&mut text, "", &say(Part::RefusedOpening, &[("file", &clean(file, WORDS_MAX))]));
    text.push_str("\r\n");
    for line in reason.lines() {
        wrap(&mut text, "    ", &clean(line, WORDS_MAX));
    }
    text.push_str("\r\n");
    wrap(&mut text, "", &say(Part::RefusedClosing, &[("hostname", context.hostname.as_str())]));
    let (name, subject) = (id.to_string(), clean(&say(Part::RefusedSubject, &[]), 300));
    Title { to, subject, name: &name, origin: "auto-generated", language: &language.tag }.letter(context, text)
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    #[test]
    fn it_names_the_file_and_the_reason_and_a_strangers_words_can_do_no_harm() {
        let context = super::super::tests::context();
        let to = Address::parse("ann@example.test").unwrap();
        let file = format!("mail-1\r\nBcc: {}", "x".repeat(5000));
        let notice = refused(&context, QueueId(7), &to, &file, "552 5.3.4 It is too large\r\n552 5.3.4 by far");
        assert_eq!((&notice.to, notice.request.is_none()), (&to, true));
        assert!(notice.content.len() < 4000 && notice.content.split(|octet| *octet == b'\n').all(|line| line.len() < 1000));
        let parsed = MessageParser::default().parse(&notice.content).unwrap();
        assert_eq!(parsed.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
        assert!(parsed.bcc().is_none());
        let text = parsed.body_text(0).unwrap().replace("\r\n", "\n");
        assert!(text.starts_with("The file mail-1"), "{text}");
        assert!(text.contains("reason:\n\n    552 5.3.4 It is too large\n    552 5.3.4 by far\n\nThis notice"), "{text}");
    }
}
