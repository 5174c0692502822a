//! The queue as sendmail shows it (`mailq`, `-bp`), and its retry (`-q`).

use super::super::failure::{self, Failure};
use super::super::print::Out;
use super::super::source::Source;
use super::options::Retry;
use crate::config::Config;
use crate::control::{Client, MessageView, Query, Verb};
use crate::mail::{Address, Domain, MessageState, Timestamp};
use crate::system::SystemNet;

/// Width of the columns before sender and recipients.
const INDENT: usize = 41;

/// Prints the queue: a message a paragraph, the recipients that it waits for, and why.
pub(super) async fn list(config: &Config, out: &mut Out<'_>) -> Result<(), Failure> {
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    let mut each = |view: MessageView| {
        if messages == 0 {
            out.line("-Queue ID------  --Size--  ---Arrival Time---  -Sender/Recipient-------")?;
        }
        messages += 1;
        bytes += view.size;
        paragraph(&view, out)
    };
    Source::open(config).await?.list(config, Query::default(), &mut each).await?;
    out.line(&match messages {
        0 => "Mail queue is empty".to_owned(),
        1 => format!("-- {} Kbytes in 1 Request.", bytes.div_ceil(1024)),
        _ => format!("-- {} Kbytes in {messages} Requests.", bytes.div_ceil(1024)),
    })?;
    Ok(())
}

fn paragraph(view: &MessageView, out: &mut Out<'_>) -> Result<(), Failure> {
    // As the classics mark them: being tried, and on hold.
    let mark = match view.state {
        MessageState::Active => '*',
        MessageState::Held => '!',
        MessageState::Deferred => ' ',
    };
    let sender = view.sender.to_string();
    let sender = if sender.is_empty() || sender == "<>" { "MAILER-DAEMON".to_owned() } else { sender };
    out.line(&format!("{}{mark} {:>10}  {}  {sender}", view.id, view.size, short(view.arrived)))?;
    for recipient in view.recipients.iter().filter(|recipient| !recipient.state.is_final()) {
        if let Some(reply) = &recipient.last_reply {
            out.line(&format!("    ({reply})"))?;
        }
        out.line(&format!("{:INDENT$}{}", "", recipient.address))?;
    }
    Ok(out.line("")?)
}

/// `Sun Nov 22 02:00`, in UTC.
fn short(time: Timestamp) -> String {
    let date = time.rfc5322();
    let words: Vec<&str> = date.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [weekday, day, month, _, clock, ..] => format!("{weekday} {month} {day:>2} {clock}"),
        _ => date,
    }
}

/// Has the server try messages now.
pub(super) async fn retry(config: &Config, retry: &Retry) -> Result<(), Failure> {
    let wrong = |what: &str, error: String| Failure::new(failure::USAGE, format!("{what}: {error}"));
    let mut client = Client::connect(&SystemNet, &config.admin.socket).await?;
    let query = match retry {
        Retry::All => {
            client.change_all(Verb::Retry).await?;
            return Ok(());
        }
        Retry::Id(id) => {
            let changed = client.change_ids(Verb::Retry, vec![*id]).await?;
            return if changed.unknown.is_empty() { Ok(()) } else { Err(super::super::queue::unknown(*id)) };
        }
        Retry::Recipient(text) if text.contains('@') => {
            let address = Address::parse(text).map_err(|error| wrong(text, error.to_string()))?;
            Query { recipient: Some(address), ..Query::default() }
        }
        Retry::Recipient(text) => {
            let domain = Domain::parse(text).map_err(|error| wrong(text, error.to_string()))?;
            Query { domain: Some(domain), ..Query::default() }
        }
        Retry::Sender(text) => {
            let sender = crate::mail::ReversePath::try_from(text.clone()).map_err(|error| wrong(text, error.to_string()))?;
            Query { sender: Some(sender), ..Query::default() }
        }
    };
    client.change_matching(Verb::Retry, query).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(short(Timestamp::from_millis(1_795_312_800_123)), "Sun Nov 22 02:00:00");
    }
}
