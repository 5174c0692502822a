//! How a message looks from outside: the JSON shape of `queue list` and `queue show`, for command line, protocol and console.

use serde::{Deserialize, Serialize};

use crate::config::Retry;
use crate::mail::{
    Address, BodyType, Cause, DsnRequest, EnhancedCode, Message, MessageState, QueueId, Recipient, RecipientState, Request,
    ReversePath, Timestamp,
};
use crate::queue::expires_at;

/// A message. The order of the fields is the order of the keys, which other programs hold on to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    /// The queue id.
    pub id: QueueId,
    /// What it is doing.
    pub state: MessageState,
    /// The reverse-path; empty for a notice.
    pub sender: ReversePath,
    /// Octets of content.
    pub size: u64,
    /// When it was accepted.
    pub arrived: Timestamp,
    /// When the next attempt may begin; none: it is held.
    pub next_attempt: Option<Timestamp>,
    /// When what is still open bounces; none: it is held.
    pub expires: Option<Timestamp>,
    /// In the order of RCPT; what an alias brought in stands at the end.
    pub recipients: Vec<RecipientView>,
    /// What only `queue show` tells.
    #[serde(flatten)]
    pub details: Option<MessageDetails>,
}

/// A recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientView {
    /// Where it goes.
    pub address: Address,
    /// How far it has come.
    pub state: RecipientState,
    /// Attempts that ended.
    pub attempts: u32,
    /// The last result's code.
    pub last_status: Option<EnhancedCode>,
    /// The last result in words: the remote's whole reply, or ours.
    pub last_reply: Option<String>,
    /// Who was spoken to last.
    pub next_hop: Option<String>,
    /// What only `queue show` tells.
    #[serde(flatten)]
    pub details: Option<RecipientDetails>,
}

/// What `queue show` tells of a message beyond `queue list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDetails {
    /// What the sender asked for, beyond what `body` says.
    pub request: Option<Request>,
    /// What the sender declared about the content: `7BIT`, `8BITMIME` (RFC 6152) or `BINARYMIME` (RFC 3030).
    pub body: BodyType,
    /// Delay notices sent so far.
    pub delay_notices: u32,
}

/// What `queue show` tells of a recipient beyond `queue list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientDetails {
    /// The address that the sender gave, where an alias led here.
    pub original: Option<Address>,
    /// When the next attempt may begin; none: there will be none.
    pub next_attempt: Option<Timestamp>,
    /// Where the last result came from.
    #[serde(deserialize_with = "Option::deserialize")]
    pub last_cause: Option<Cause>,
    /// What the sender asked for this recipient.
    pub dsn: Option<DsnRequest>,
}

impl MessageView {
    /// As `queue list` shows it.
    pub fn listed(message: &Message, retry: &Retry) -> Self {
        Self::new(message, retry, false)
    }

    /// As `queue show` shows it.
    pub fn shown(message: &Message, retry: &Retry) -> Self {
        Self::new(message, retry, true)
    }

    fn new(message: &Message, retry: &Retry, detailed: bool) -> Self {
        let waits = !message.held && !message.is_done();
        let details = MessageDetails {
            body: message.body,
            request: message.request.as_deref().cloned(),
            delay_notices: message.delays_noticed,
        };
        Self {
            id: message.id,
            state: message.state(),
            sender: message.reverse_path.clone(),
            size: message.size,
            arrived: message.arrived,
            next_attempt: waits.then(|| message.next_attempt()).and_then(known),
            expires: waits.then(|| expires_at(message, retry)).and_then(known),
            recipients: message.recipients.iter().map(|r| RecipientView::new(r, message.held, detailed)).collect(),
            details: detailed.then_some(details),
        }
    }
}

impl RecipientView {
    fn new(recipient: &Recipient, held: bool, detailed: bool) -> Self {
        let status = &recipient.status;
        let words = |text: &String| (!text.is_empty()).then(|| text.clone());
        let waits = recipient.is_open() && !held;
        let details = || RecipientDetails {
            original: recipient.original.clone(),
            dsn: recipient.dsn.as_deref().cloned(),
            next_attempt: waits.then_some(status.next_attempt).and_then(known),
            last_cause: status.last_cause,
        };
        Self {
            address: recipient.address.clone(),
            state: status.state,
            attempts: status.attempts,
            last_status: status.last_status,
            last_reply: words(&status.last_reply),
            next_hop: words(&status.next_hop),
            details: detailed.then(details),
        }
    }
}

fn known(time: Timestamp) -> Option<Timestamp> {
    (time != Timestamp::NEVER).then_some(time)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn retry() -> Retry {
        Retry {
            first: Duration::from_secs(300),
            factor: 2.0,
            max: Duration::from_secs(14_400),
            jitter: 0.1,
            lifetime: Duration::from_secs(432_000),
            bounce_lifetime: Duration::from_secs(86_400),
            delay_notice: Vec::new(),
            hint_min: Duration::ZERO,
            hint_max: Duration::ZERO,
        }
    }

    pub(crate) fn message(id: u64) -> Message {
        let arrived = Timestamp::from_millis(1_795_312_800_123);
        let mut message = Message {
            size: 1234,
            body: BodyType::EightBitMime,
            delays_noticed: 1,
            ..Message::sample(id, arrived, "sender@example.test", &["ann@example.org", "bob@example.net"])
        };
        let status = &mut message.recipients[0].status;
        status.state = RecipientState::Deferred;
        status.attempts = 2;
        status.next_attempt = arrived.plus(Duration::from_secs(600));
        status.last_status = Some(EnhancedCode(4, 2, 1));
        status.last_cause = Some(Cause::Remote);
        status.last_reply = "450 4.2.1 mailbox busy".to_owned();
        status.next_hop = "mx.example.org [192.0.2.25]".to_owned();
        message
    }

    #[test]
    fn queue_list_json_is_as_promised() {
        let json = serde_json::to_string(&MessageView::listed(&message(1), &retry())).unwrap();
        assert_eq!(
            json,
            r#"{"id":"0000000000001","state":"active","sender":"sender@example.test","size":1234,"arrived":"2026-11-22T02:00:00Z","next_attempt":"2026-11-22T02:00:00Z","expires":"2026-11-27T02:00:00Z","recipients":[{"address":"ann@example.org","state":"deferred","attempts":2,"last_status":"4.2.1","last_reply":"450 4.2.1 mailbox busy","next_hop":"mx.example.org [192.0.2.25]"},{"address":"bob@example.net","state":"pending","attempts":0,"last_status":null,"last_reply":null,"next_hop":null}]}"#
        );
    }

    #[test]
    fn a_held_message_has_no_next_attempt_and_no_expiry() {
        let mut message = message(1);
        message.held = true;
        message.reverse_path = ReversePath::Null;
        let json = serde_json::to_string(&MessageView::listed(&message, &retry())).unwrap();
        assert!(json.contains(r#""state":"held","sender":"","size":1234"#), "{json}");
        assert!(json.contains(r#""next_attempt":null,"expires":null"#), "{json}");
    }

    #[test]
    fn both_views_survive_the_wire() {
        for view in [MessageView::listed(&message(7), &retry()), MessageView::shown(&message(7), &retry())] {
            let json = serde_json::to_string(&view).unwrap();
            let back: MessageView = serde_json::from_str(&json).unwrap();
            // Times on the wire have seconds only.
            assert_eq!(serde_json::to_string(&back).unwrap(), json);
            assert_eq!(back.details, view.details);
        }
    }
}
