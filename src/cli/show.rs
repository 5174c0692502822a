//! `queue show`: one message, all of it but the body.

use serde::Serialize;

use super::failure::Failure;
use super::now;
use super::preview::{HEADER_SIZE_MAX, Preview};
use super::print::{Out, count, duration, size, until};
use super::queue::{recipient_state_name, unknown};
use super::source::Source;
use crate::config::Config;
use crate::control::{MessageView, RecipientView, state_name};
use crate::mail::{BodyType, Cause, QueueId, RecipientState, Timestamp, is_reply};

/// The message as `--json` has it: the view, and what its header says.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    view: &'a MessageView,
    header: &'a Preview,
}

pub(super) async fn show(config: &Config, id: QueueId, json: bool, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut source = Source::open(config).await?;
    let view = source.show(config, id).await?.ok_or_else(|| unknown(id))?;
    let mut beginning = Vec::new();
    // A content that can't be read must not hide the rest.
    let readable = source.content(id, HEADER_SIZE_MAX, &mut beginning).await;
    let header = Preview::new(&beginning);
    if json {
        return Ok(out.json(&Shown { view: &view, header: &header })?);
    }
    print(&view, &header, now(), out)?;
    readable.map(|_| ())
}

fn print(view: &MessageView, header: &Preview, now: Timestamp, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut field = |name: &str, text: &str| out.line(&format!("{name:<13} {text}"));
    field("Id", &view.id.to_string())?;
    field("State", state_name(view.state))?;
    field("Sender", &format!("<{}>", view.sender))?;
    field("Arrived", &format!("{} ({} ago)", view.arrived, duration(now.since(view.arrived))))?;
    let body = view.details.as_ref().map(|details| details.body).filter(|body| *body != BodyType::SevenBit);
    let body = body.map_or(String::new(), |body| format!(", declared as {}", body.as_str()));
    let exact = if view.size < 1024 { String::new() } else { format!(" ({} octets)", view.size) };
    field("Size", &format!("{}{exact}{body}", size(view.size)))?;
    if let Some(time) = view.next_attempt {
        field("Next attempt", &format!("{time} ({})", until(time, now)))?;
    }
    if let Some(time) = view.expires {
        field("Expires", &format!("{time} ({})", until(time, now)))?;
    }
    if let Some(sent) = view.details.as_ref().map(|details| details.delay_notices).filter(|sent| *sent > 0) {
        field("Delay notices", &format!("{sent} sent or no longer due"))?;
    }
    let fields = [("Subject", &header.subject), ("From", &header.from), ("To", &header.to), ("Date", &header.date)];
    for (name, text) in fields.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        field(&format!("{name}:"), text)?;
    }
    out.line("")?;
    out.line(&count(view.recipients.len() as u64, "recipient"))?;
    for recipient in &view.recipients {
        print_recipient(recipient, now, out)?;
    }
    Ok(())
}

fn print_recipient(recipient: &RecipientView, now: Timestamp, out: &mut Out<'_>) -> Result<(), Failure> {
    let state = recipient_state_name(recipient.state);
    let attempts = count(u64::from(recipient.attempts), "attempt");
    out.line(&format!("  <{}> {state}, {attempts}", recipient.address))?;
    let mut field = |name: &str, text: &str| out.line(&format!("      {name:<13} {text}"));
    let details = recipient.details.as_ref();
    if let Some(original) = details.and_then(|details| details.original.as_ref()) {
        field("given as", &format!("<{original}>"))?;
    }
    if let Some(time) = details.and_then(|details| details.next_attempt) {
        field("next attempt", &format!("{time} ({})", until(time, now)))?;
    }
    if let Some(next_hop) = &recipient.next_hop {
        // A Maildir isn't spoken to, and neither is a host that refused the connection.
        field(if recipient.state == RecipientState::Delivered { "delivered to" } else { "last tried" }, next_hop)?;
    }
    let source = match details.and_then(|details| details.last_cause) {
        Some(Cause::Remote) if recipient.last_reply.as_deref().is_some_and(is_reply) => "it replied",
        None | Some(Cause::Remote) => "last result",
        Some(Cause::Connection) => "connection",
        Some(Cause::Dns) => "DNS",
        Some(Cause::Local) => "here",
        Some(Cause::Expired) => "expired",
        Some(Cause::Operator) => "admin",
    };
    match (&recipient.last_reply, recipient.last_status) {
        // A remote's reply mostly has the code in it.
        (Some(reply), Some(status)) if !reply.contains(&status.to_string()) => field(source, &format!("{reply} ({status})"))?,
        (Some(reply), _) => field(source, reply)?,
        (None, Some(status)) => field(source, &status.to_string())?,
        (None, None) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::testing::{message, retry};

    #[test]
    fn everything_is_told_and_nothing_moves_the_cursor() {
        let mut message = message(1);
        message.recipients[0].status.last_reply = "450 4.2.1 busy\x1b[2J\u{202e}".to_owned();
        message.recipients[1].status.last_cause = Some(Cause::Remote);
        message.recipients[1].status.last_reply = "the server doesn't offer REQUIRETLS".to_owned();
        let view = MessageView::shown(&message, &retry());
        let header = Preview { subject: Some("Hi\r\n\x1b]0;x\x07".to_owned()), ..Preview::default() };
        let mut bytes = Vec::new();
        let mut out = Out::to(&mut bytes);
        print(&view, &header, message.arrived.plus(Duration::from_secs(60)), &mut out).unwrap();
        drop(out);
        let expected = "\
Id            0000000000001
State         active
Sender        <sender@example.test>
Arrived       2026-11-22T02:00:00Z (1m ago)
Size          1.2 KiB (1234 octets), declared as 8BITMIME
Next attempt  2026-11-22T02:00:00Z (now)
Expires       2026-11-27T02:00:00Z (in 4d23h)
Delay notices 1 sent or no longer due
Subject:      Hi\\u{d}\\u{a}\\u{1b}]0;x\\u{7}

2 recipients
  <ann@example.org> deferred, 2 attempts
      next attempt  2026-11-22T02:10:00Z (in 9m)
      last tried    mx.example.org [192.0.2.25]
      it replied    450 4.2.1 busy\\u{1b}[2J\\u{202e}
  <bob@example.net> pending, 0 attempts
      next attempt  2026-11-22T02:00:00Z (now)
      last result   the server doesn't offer REQUIRETLS
";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let json = serde_json::to_string(&Shown { view: &view, header: &header }).unwrap();
        assert!(json.starts_with("{\"id\":\"0000000000001\",\"state\":\"active\",\"sender\":"), "{json}");
        assert!(json.contains("\"body\":\"8BITMIME\",\"delay_notices\":1,\"header\":{\"subject\":"), "{json}");
    }
}
