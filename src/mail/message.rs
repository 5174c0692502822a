//! An accepted message as the spool keeps it and the queue plans it: envelope, times, a state for each recipient.

use serde::{Deserialize, Serialize};

use super::{
    Address, BodyType, Cause, DeliverBy, DsnRequest, EnhancedCode, Notify, Origin, OriginalRecipient, Priority, QueueId, Request,
    ReversePath, Timestamp,
};

/// Everything about an accepted message except its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its name here.
    pub id: QueueId,
    /// When it was accepted.
    pub arrived: Timestamp,
    /// Octets of content, our `Received:` field included.
    pub size: u64,
    /// Where notices go.
    pub reverse_path: ReversePath,
    /// What the sender declared about the content.
    pub body: BodyType,
    /// What else the sender asked for; none for most mail.
    pub request: Option<Box<Request>>,
    /// An admin stopped it: no attempt, no expiry, until released.
    pub held: bool,
    /// How many of the configured `delay_notice` ages are done with.
    pub delays_noticed: u32,
    /// Who sent it, as far as sharing goes; none: whoever its reverse-path says.
    pub origin: Option<Box<Origin>>,
    /// In the order of RCPT; expansion adds at the end, so an index names a recipient for ever.
    pub recipients: Vec<Recipient>,
}

/// What a whole message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// A recipient waits for its first attempt.
    Active,
    /// Every open recipient was tried and waits for the next attempt.
    Deferred,
    /// An admin stopped it.
    Held,
}

/// One recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where it goes.
    pub address: Address,
    /// The address the sender gave, where an alias led here from that.
    pub original: Option<Address>,
    /// What the sender asked for this recipient; none for most mail.
    pub dsn: Option<Box<DsnRequest>>,
    /// How far it has come.
    pub status: RecipientStatus,
}

/// How far a recipient has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    /// No attempt has ended yet.
    Pending,
    /// Tried, and to be tried again.
    Deferred,
    /// Done: the next hop or the mailbox has it.
    Delivered,
    /// Done: failed, and told to whom it concerns.
    Bounced,
    /// Done: an alias, replaced by recipients further down.
    Expanded,
    /// Done: an admin removed it; nobody is told.
    Removed,
}

/// State, times and last result of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientStatus {
    /// The state.
    pub state: RecipientState,
    /// Attempts that ended.
    pub attempts: u32,
    /// Not before this time; meaningless once the state is final.
    pub next_attempt: Timestamp,
    /// Code of the last result.
    pub last_status: Option<EnhancedCode>,
    /// Source of the last result.
    pub last_cause: Option<Cause>,
    /// Words of the last result: the remote's whole reply, or ours. Empty before the first.
    pub last_reply: String,
    /// Who was spoken to last; empty before the first.
    pub next_hop: String,
}

/// A forward-path and what RCPT says with it: a recipient without its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where it goes.
    pub address: Address,
    /// RCPT's parameters.
    pub dsn: Option<Box<DsnRequest>>,
}

impl From<Address> for Forward {
    fn from(address: Address) -> Self {
        Self { address, dsn: None }
    }
}

impl RecipientState {
    /// Whether nothing remains to be done for the recipient.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Deferred)
    }
}

impl RecipientStatus {
    /// Whether the last words are the server's own.
    pub fn is_replied(&self) -> bool {
        is_reply(&self.last_reply)
    }
}

/// Whether words are an SMTP reply, which always starts with its code and may have no text (RFC 5321 section 4.2), and not our own.
pub fn is_reply(words: &str) -> bool {
    let (code, rest) = words.split_at_checked(3).unwrap_or_default();
    code.bytes().all(|b| b.is_ascii_digit()) && code.starts_with(['2', '4', '5']) && (rest.is_empty() || rest.starts_with(' '))
}

impl Recipient {
    /// A recipient to be tried at once.
    pub fn new(address: Address, original: Option<Address>, now: Timestamp) -> Self {
        let status = RecipientStatus {
            state: RecipientState::Pending,
            attempts: 0,
            next_attempt: now,
            last_status: None,
            last_cause: None,
            last_reply: String::new(),
            next_hop: String::new(),
        };
        Self { address, original, dsn: None, status }
    }

    /// Whether it still waits for delivery.
    pub fn is_open(&self) -> bool {
        !self.status.state.is_final()
    }

    /// What RCPT says with it to the next hop: what the sender said, and where an alias led here, what the sender calls it
    /// (RFC 3461 section 5.2.1).
    pub fn passed_on(&self) -> Option<Box<DsnRequest>> {
        let DsnRequest { notify, orcpt } = self.dsn.as_deref().cloned().unwrap_or_default();
        let orcpt = orcpt.or_else(|| self.original.as_ref().and_then(OriginalRecipient::of));
        DsnRequest { notify, orcpt }.boxed()
    }

    /// What the sender wants to be told of, if that was said.
    pub fn notify(&self) -> Option<Notify> {
        self.dsn.as_ref()?.notify
    }
}

/// A change to a message that is already in the spool: one State record. What is `None` or absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which message.
    pub id: QueueId,
    /// Hold or release.
    pub held: Option<bool>,
    /// Delay notices done with.
    pub delays_noticed: Option<u32>,
    /// The sender was told that the time for delivery is over (`DeliverBy::told`).
    pub deadline_told: bool,
    /// New statuses by recipient index.
    pub statuses: Vec<(u32, RecipientStatus)>,
    /// Recipients that an alias brought in; appended in this order.
    pub added: Vec<Recipient>,
}

impl Update {
    /// A change that changes nothing yet.
    pub fn new(id: QueueId) -> Self {
        Self { id, held: None, delays_noticed: None, deadline_told: false, statuses: Vec::new(), added: Vec::new() }
    }
}

impl Message {
    /// Carries out a change. Indexes beyond the recipients are ignored: they can't come from this spool.
    pub fn apply(&mut self, update: &Update) {
        debug_assert_eq!(self.id, update.id);
        if let Some(held) = update.held {
            self.held = held;
        }
        if let Some(noticed) = update.delays_noticed {
            self.delays_noticed = noticed;
        }
        if let Some(by) = self.request.as_mut().and_then(|request| request.deliver_by.as_mut()) {
            by.told |= update.deadline_told;
        }
        for (index, status) in &update.statuses {
            if let Some(recipient) = self.recipients.get_mut(*index as usize) {
                recipient.status = status.clone();
            }
        }
        self.recipients.extend(update.added.iter().cloned());
    }

    /// Whether it is a notice of our own: no bound holds it up, and it waits for nobody's mail. One that others send is mail.
    pub fn is_notice(&self) -> bool {
        Origin::of(self) == Origin::Notice
    }

    /// Whether addresses or header may have characters beyond ASCII.
    pub fn is_utf8(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.smtputf8)
    }

    /// How urgent it is.
    pub fn priority(&self) -> Priority {
        self.request.as_ref().and_then(|request| request.priority).unwrap_or_default()
    }

    /// Until when the sender wants it delivered, and what is to happen then.
    pub fn deadline(&self) -> Option<(Timestamp, DeliverBy)> {
        let by = self.request.as_ref()?.deliver_by?;
        Some((self.arrived.plus_seconds(by.seconds.into()), by))
    }

    /// When its delivery may begin: on arrival, or later if the sender asked for that.
    pub fn released_at(&self) -> Timestamp {
        self.request.as_ref().map_or(self.arrived, |request| request.released_at(self.arrived))
    }

    /// The same where the sender asked for it; else no time, which has passed.
    pub fn held_until(&self) -> Timestamp {
        let hold = self.request.as_ref().filter(|request| request.hold.is_some());
        hold.map_or(Timestamp::ZERO, |request| request.released_at(self.arrived))
    }

    /// What it is doing.
    pub fn state(&self) -> MessageState {
        if self.held {
            MessageState::Held
        } else if self.recipients.iter().any(|r| r.status.state == RecipientState::Pending) {
            MessageState::Active
        } else {
            MessageState::Deferred
        }
    }

    /// Whether nothing remains to be done: the spool may forget it.
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|r| !r.is_open())
    }

    /// The earliest time at which an open recipient wants an attempt; `NEVER` when none is open.
    pub fn next_attempt(&self) -> Timestamp {
        let open = self.recipients.iter().filter(|r| r.is_open());
        open.map(|r| r.status.next_attempt).min().unwrap_or(Timestamp::NEVER)
    }
}

#[cfg(test)]
impl Message {
    /// With nothing special about it, for tests.
    pub(crate) fn sample(id: u64, arrived: Timestamp, from: &str, to: &[&str]) -> Self {
        Self {
            id: QueueId(id),
            arrived,
            size: 1,
            reverse_path: ReversePath::try_from(from.to_owned()).unwrap(),
            body: BodyType::SevenBit,
            request: None,
            held: false,
            delays_noticed: 0,
            origin: None,
            recipients: to.iter().map(|to| Recipient::new(Address::parse(to).unwrap(), None, arrived)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_from_other_words() {
        let replied = |words: &str| {
            let mut recipient = Recipient::new(Address::parse("ann@example.test").unwrap(), None, Timestamp::from_millis(0));
            recipient.status.last_reply = words.to_owned();
            recipient.status.is_replied()
        };
        for words in ["450 4.2.0 later", "550"] {
            assert!(replied(words), "{words}");
        }
        for words in ["", "45", "4500", "connection refused", "999 x", "\u{fc}\u{fc} x"] {
            assert!(!replied(words), "{words}");
        }
    }

    #[test]
    fn a_message_is_done_when_no_recipient_is_open() {
        let now = Timestamp::from_millis(1000);
        let to = |text: &str| Recipient::new(Address::parse(text).unwrap(), None, now);
        let mut message = Message::sample(1, now, "", &["a@x.test"]);
        let mut expanded = message.recipients[0].status.clone();
        expanded.state = RecipientState::Expanded;
        let update = Update {
            statuses: vec![(0, expanded.clone()), (9, expanded)],
            added: vec![to("b@x.test")],
            ..Update::new(QueueId(1))
        };
        message.apply(&update);
        assert!(!message.is_done());
        assert_eq!(message.next_attempt(), now);
        let mut delivered = message.recipients[1].status.clone();
        delivered.state = RecipientState::Delivered;
        message.apply(&Update { statuses: vec![(1, delivered)], ..Update::new(QueueId(1)) });
        assert!(message.is_done());
        assert_eq!(message.next_attempt(), Timestamp::NEVER);
    }
}
