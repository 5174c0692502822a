//! Mail in the drop folder that can't be taken: whoever left it isn't there to hear a reply, so that is sent. Pure; owns nothing.

use std::collections::BTreeSet;

use crate::mail::{
    Address, BodyType, Cause, EnhancedCode, Message, QueueId, Recipient, RecipientState, RecipientStatus, ReversePath,
};
use crate::notice::{self, Context, Notice, Returned, Topic};
use crate::smtp::command::{Command, ForwardPath, Mail};
use crate::smtp::extension::Parameters;

/// A refused file.
pub(super) struct Refused<'a> {
    /// The id that the notice will have, and the message has in it.
    pub(super) id: QueueId,
    /// The file's name.
    pub(super) file: &'a str,
    /// What the session replied, or what is wrong with the file.
    pub(super) why: &'a str,
    /// The lines of its envelope; none if the file has no form.
    pub(super) envelope: Vec<&'a [u8]>,
    /// The beginning of its content.
    pub(super) header: &'a [u8],
    /// More recipients than that aren't told of one by one.
    pub(super) recipients_max: usize,
}

impl Refused<'_> {
    /// The notice about it: a bounce if its envelope can be read, else a letter to the sender or, if need be, to the postmaster.
    /// None: nobody is to be told.
    pub(super) fn notice(&self, context: &Context) -> Option<Notice> {
        let mut commands = self.envelope.iter().map(|line| Command::parse(line, Parameters::ALL));
        let mail = match commands.next() {
            Some(Ok(Command::Mail(mail))) => Some(mail),
            _ => None,
        };
        let mut known = BTreeSet::new();
        let recipients: Vec<Recipient> = commands
            .take(self.recipients_max + 1)
            .filter_map(|command| match command {
                Ok(Command::Rcpt { path, dsn, .. }) => Some(Recipient { dsn, ..self.failed(path, context) }),
                _ => None,
            })
            .filter(|recipient| known.insert(recipient.address.clone()))
            .collect();
        match mail {
            Some(mail) if (1..=self.recipients_max).contains(&recipients.len()) => self.bounce(context, mail, recipients),
            Some(Mail { path: ReversePath::Address(sender), .. }) => Some(self.letter(context, &sender)),
            _ => Some(self.letter(context, &context.postmaster)),
        }
    }

    fn letter(&self, context: &Context, to: &Address) -> Notice {
        notice::refused(context, self.id, to, self.file, self.why)
    }

    fn bounce(&self, context: &Context, mail: Mail, recipients: Vec<Recipient>) -> Option<Notice> {
        let message = Message {
            id: self.id,
            arrived: context.now,
            size: 0,
            reverse_path: mail.path,
            body: BodyType::EightBitMime,
            request: mail.request,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients,
        };
        let told = notice::wanted(&message, 0..u32::try_from(message.recipients.len()).ok()?, Topic::Failure);
        if told.is_empty() {
            return None;
        }
        notice::bounce(context, &message, &told, Returned::Header(self.header))
    }

    fn failed(&self, path: ForwardPath, context: &Context) -> Recipient {
        let address = match path {
            ForwardPath::Address(address) => address,
            ForwardPath::Postmaster => context.postmaster.clone(),
        };
        let recipient = Recipient::new(address, None, context.now);
        let status = RecipientStatus {
            state: RecipientState::Bounced,
            last_status: Some(code(self.why)),
            last_cause: Some(Cause::Local),
            last_reply: self.why.to_owned(),
            ..recipient.status
        };
        Recipient { status, ..recipient }
    }
}

/// The enhanced code of a reply (`552 5.3.4 Too large`); of other words, that something is wrong with the message.
fn code(why: &str) -> EnhancedCode {
    let given = why.split_ascii_whitespace().nth(1).and_then(EnhancedCode::parse);
    given.filter(|code| code.0 == 5).unwrap_or(EnhancedCode(5, 6, 0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mail::{Domain, Timestamp};
    use crate::notice::Languages;

    /// Who gets what kind of notice about a file with this envelope.
    fn told(envelope: &str, why: &str) -> Option<(String, String)> {
        let context = Context {
            hostname: Domain::parse("mail.example.test").unwrap(),
            postmaster: Address::parse("postmaster@example.test").unwrap(),
            now: Timestamp::from_millis(1_795_312_800_000),
            seed: 7,
            languages: Arc::new(Languages::new("en", []).unwrap()),
        };
        let envelope = envelope.lines().map(str::as_bytes).collect();
        let refused = Refused { id: QueueId(7), file: "mail-7", why, envelope, header: b"Subject: x\r\n\r\n", recipients_max: 3 };
        let notice = refused.notice(&context)?;
        Some((notice.to.to_string(), String::from_utf8(notice.content).unwrap()))
    }

    #[test]
    fn a_sender_gets_a_bounce_about_each_recipient_with_the_code_of_the_refusal() {
        let (to, text) =
            told("MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\nRCPT TO:<c@d.test>\nRCPT TO:<postmaster>", "552 5.3.4 Too large")
                .unwrap();
        assert_eq!((to.as_str(), text.matches("Action: failed\r\nStatus: 5.3.4\r\n").count()), ("a@b.test", 2));
        assert!(text.contains("Final-Recipient: rfc822; postmaster@example.test"), "{text}");
        let (to, text) = told("MAIL FROM:<>\nRCPT TO:<c@d.test>", "its checksum is wrong").unwrap();
        assert!(to == "postmaster@example.test" && text.contains("Status: 5.6.0"), "{to}: {text}");
        assert_eq!(told("MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test> NOTIFY=NEVER", "552 5.3.4 Too large"), None);
    }

    #[test]
    fn where_there_is_nobody_to_report_on_a_letter_goes_to_the_sender_or_the_postmaster() {
        let many = "MAIL FROM:<a@b.test>\nRCPT TO:<c@d.test>\nRCPT TO:<e@d.test>\nRCPT TO:<f@d.test>\nRCPT TO:<g@d.test>";
        for (envelope, to) in [
            ("MAIL FROM:<a@b.test>", "a@b.test"),
            ("MAIL FROM:<a@b.test>\nRCPT TO:<c d>", "a@b.test"),
            (many, "a@b.test"),
            ("MAIL FROM:<>", "postmaster@example.test"),
            ("HELO there", "postmaster@example.test"),
            ("", "postmaster@example.test"),
        ] {
            let (told, text) = told(envelope, "554 5.5.1 No valid recipients").unwrap();
            assert_eq!(told, to, "{envelope}");
            assert!(text.contains("The file mail-7 was left") && text.contains("554 5.5.1 No valid recipients"), "{text}");
        }
    }
}
