//! One message to one server: which command comes next, and what the replies make of each recipient. State: a slot a recipient.
//!
//! Knows nothing of bytes, time or connections; those are the session's.

use std::collections::BTreeSet;

use crate::mail::{BodyType, Cause, Diagnosis, Domain, EnhancedCode, Forward, Outcome, Passed, Reply, Request, ReversePath};

use super::{Extensions, hint, parameters};

/// Most octets of a peer's words that a diagnosis keeps: a thousand recipients may each get a reply of their own.
const TEXT_SIZE_MAX: usize = 2048;

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// MAIL's argument.
    pub reverse_path: ReversePath,
    /// Each gets an outcome, in this order.
    pub recipients: Vec<Forward>,
    /// Octets of content, before dot-stuffing (RFC 1870).
    pub size: u64,
    /// What is declared about the content.
    pub body: BodyType,
    /// What else the sender asked for; the time for delivery counts from now.
    pub request: Option<Box<Request>>,
}

/// A command of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Mail,
    Recipient(usize),
    Data,
}

/// How far a recipient has come.
#[derive(Debug)]
enum Slot {
    /// Not asked for yet.
    Waiting,
    /// RCPT is out.
    Asked,
    /// RCPT was accepted.
    Accepted,
    /// Too many recipients in this transaction; there will be another one, or else this is why not.
    Postponed(Diagnosis),
    Done(Outcome),
}

/// A transaction under way. Where the server takes only some of the recipients at a time, it has several rounds of MAIL, RCPT and DATA.
#[derive(Debug)]
pub(super) struct Progress {
    transaction: Transaction,
    offered: Extensions,
    slots: Vec<Slot>,
    /// The next recipient to ask for.
    next: usize,
    /// Recipients asked for in this round, and their domains where the server bounds their number.
    asked: usize,
    domains: BTreeSet<Domain>,
    mail_asked: bool,
    mail_refused: bool,
    data_asked: bool,
    /// The server accepted a recipient, though it refused MAIL.
    contradicted: bool,
    /// Recipients that the server had no chance to speak about.
    unanswered: Vec<bool>,
}

impl Progress {
    pub(super) fn new(transaction: Transaction, offered: Extensions) -> Self {
        let count = transaction.recipients.len();
        Self {
            slots: std::iter::repeat_with(|| Slot::Waiting).take(count).collect(),
            unanswered: vec![false; count],
            transaction,
            offered,
            next: 0,
            asked: 0,
            domains: BTreeSet::new(),
            mail_asked: false,
            mail_refused: false,
            data_asked: false,
            contradicted: false,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.transaction.size
    }

    /// The next command; `None` while there is none, whether replies are awaited or the round is over. `Data` comes only where it may.
    pub(super) fn next_command(&mut self, may_begin_content: bool) -> Option<Command> {
        if !self.mail_asked {
            self.mail_asked = true;
            return Some(Command::Mail);
        }
        if self.mail_refused || self.data_asked {
            return None;
        }
        while self.next < self.slots.len() {
            let index = self.next;
            self.next += 1;
            if matches!(self.slots[index], Slot::Waiting) && self.is_room_for(index) {
                self.slots[index] = Slot::Asked;
                return Some(Command::Recipient(index));
            }
        }
        if !may_begin_content {
            return None;
        }
        // With every recipient refused already there is nothing to send; those not yet answered may still be accepted.
        let wanted = self.slots.iter().any(|slot| matches!(slot, Slot::Asked | Slot::Accepted));
        self.data_asked = wanted;
        wanted.then_some(Command::Data)
    }

    /// Counts a recipient into this round, if the server takes it beside the others (RFC 9422). The first one always has its place.
    fn is_room_for(&mut self, index: usize) -> bool {
        let limits = self.offered.limits;
        if limits.recipients.is_some_and(|max| self.asked >= max) {
            return false;
        }
        if let Some(max) = limits.recipient_domains {
            let domain = self.transaction.recipients[index].address.domain();
            if !self.domains.contains(domain) {
                if self.domains.len() >= max {
                    return false;
                }
                self.domains.insert(domain.clone());
            }
        }
        self.asked += 1;
        true
    }

    /// Appends a command's line.
    pub(super) fn write(&self, command: Command, out: &mut Vec<u8>) {
        match command {
            Command::Mail => {
                let parameters = parameters::of_mail(&self.transaction, self.offered);
                out.extend_from_slice(format!("MAIL FROM:<{}>{parameters}", self.transaction.reverse_path).as_bytes());
            }
            Command::Recipient(index) => {
                let Forward { address, dsn } = &self.transaction.recipients[index];
                let parameters = parameters::of_recipient(dsn.as_deref(), self.offered);
                out.extend_from_slice(format!("RCPT TO:<{address}>{parameters}").as_bytes());
            }
            Command::Data => out.extend_from_slice(b"DATA"),
        }
        out.extend_from_slice(b"\r\n");
    }

    pub(super) fn mail_replied(&mut self, reply: &Reply) {
        if !reply.is_positive() {
            self.mail_refused = true;
            self.settle_all(&refusal(reply));
        }
    }

    pub(super) fn recipient_replied(&mut self, index: usize, reply: &Reply) {
        let some_accepted = self.has_accepted();
        let Slot::Asked = self.slots[index] else {
            // MAIL was refused: that is the result, whatever is said about the recipients that were already on their way.
            self.contradicted |= reply.is_positive();
            return;
        };
        self.slots[index] = if reply.is_positive() {
            Slot::Accepted
        } else if some_accepted && is_too_many(reply) {
            Slot::Postponed(Diagnosis { status: EnhancedCode(4, 5, 3), ..diagnosis(reply) })
        } else {
            Slot::Done(refusal(reply))
        };
    }

    /// DATA was refused, or a chunk, or the content before its end.
    pub(super) fn data_refused(&mut self, reply: &Reply) {
        self.settle_accepted(&refusal(reply));
    }

    /// The reply to the final dot: about all recipients accepted, or, in LMTP, about one.
    pub(super) fn content_replied(&mut self, recipient: Option<usize>, reply: &Reply) {
        let passed = Passed { dsn: self.offered.dsn, deliver_by: self.offered.deliver_by.is_some() };
        let delivered = || Outcome::Delivered(Diagnosis { passed, ..diagnosis(reply) });
        let outcome = if reply.is_positive() { delivered() } else { refusal(reply) };
        match recipient {
            Some(index) => self.slots[index] = Slot::Done(outcome),
            None => self.settle_accepted(&outcome),
        }
    }

    pub(super) fn has_accepted(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Accepted))
    }

    /// The accepted recipients, in the order in which an LMTP server speaks about them.
    pub(super) fn accepted(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Accepted)).map(|(index, _)| index)
    }

    /// Whether the server may hold a recipient to be accepted although it refused MAIL.
    pub(super) fn is_contradicted(&self) -> bool {
        self.contradicted
    }

    /// Starts another round for recipients that weren't asked for in this one, or were too many for it, if there are any. The latter get
    /// another chance only after a round that brought something (`taken`).
    pub(super) fn next_round(&mut self, taken: bool) -> bool {
        let mut any = false;
        for slot in &mut self.slots {
            if taken && matches!(slot, Slot::Postponed(_)) {
                *slot = Slot::Waiting;
            }
            any |= matches!(slot, Slot::Waiting);
        }
        if any {
            (self.next, self.asked, self.mail_asked, self.data_asked) = (0, 0, false, false);
            self.domains.clear();
        }
        any
    }

    /// Starts the round again from MAIL on, with those that were accepted, and with DATA. False if the content can't be sent so.
    pub(super) fn restart_round(&mut self) -> bool {
        if self.transaction.body == BodyType::BinaryMime {
            return false;
        }
        for slot in self.slots.iter_mut().filter(|slot| matches!(slot, Slot::Accepted)) {
            *slot = Slot::Waiting;
        }
        self.offered.chunking = false;
        self.next_round(false)
    }

    /// The session ends here. Recipients without a result are deferred, or in doubt where the server may have the message.
    pub(super) fn give_up(&mut self, diagnosis: &Diagnosis, unanswered: bool, in_doubt: bool) {
        for (slot, mark) in self.slots.iter_mut().zip(&mut self.unanswered) {
            let doubtful = in_doubt && matches!(slot, Slot::Accepted);
            if matches!(slot, Slot::Waiting | Slot::Asked | Slot::Accepted) {
                *mark = unanswered;
                let mut diagnosis = diagnosis.clone();
                if doubtful {
                    diagnosis.text.push_str("; the server may have the message: possible duplicate");
                }
                *slot = Slot::Done(if doubtful { Outcome::InDoubt(diagnosis) } else { Outcome::Deferred(diagnosis) });
            }
        }
    }

    /// An outcome a recipient, and which of them the server had no chance to speak about.
    pub(super) fn finish(self) -> (Vec<Outcome>, Vec<bool>) {
        let outcome = |slot| match slot {
            Slot::Done(outcome) => outcome,
            Slot::Postponed(diagnosis) => Outcome::Deferred(diagnosis),
            // Only a round that is over gets here, and that has no open slots.
            Slot::Waiting | Slot::Asked | Slot::Accepted => {
                Outcome::Deferred(Diagnosis::new(EnhancedCode(4, 5, 0), Cause::Remote, "no reply about this recipient"))
            }
        };
        (self.slots.into_iter().map(outcome).collect(), self.unanswered)
    }

    /// Every recipient without an outcome gets this one.
    pub(super) fn settle_all(&mut self, outcome: &Outcome) {
        for slot in self.slots.iter_mut().filter(|slot| !matches!(slot, Slot::Done(_))) {
            *slot = Slot::Done(outcome.clone());
        }
    }

    fn settle_accepted(&mut self, outcome: &Outcome) {
        for slot in self.slots.iter_mut().filter(|slot| matches!(slot, Slot::Accepted)) {
            *slot = Slot::Done(outcome.clone());
        }
    }
}

/// What a reply that isn't positive makes of a recipient: 5xx is permanent, everything else is not.
fn refusal(reply: &Reply) -> Outcome {
    let diagnosis = diagnosis(reply);
    if reply.code / 100 == 5 { Outcome::Failed(diagnosis) } else { Outcome::Deferred(diagnosis) }
}

/// "Too many recipients" (RFC 5321 section 4.5.3.1.10): 452, and 552 from old servers; both may also mean a full mailbox or disk, and
/// say so in their enhanced code.
fn is_too_many(reply: &Reply) -> bool {
    matches!(reply.code, 452 | 552) && reply.enhanced.is_none_or(|code| (code.1, code.2) == (5, 3))
}

/// A reply as a diagnosis, its text bounded, with the wait that it asks for.
pub(super) fn diagnosis(reply: &Reply) -> Diagnosis {
    let mut diagnosis = Diagnosis { wait: hint::wait(reply), ..Diagnosis::from_reply(reply, "") };
    if diagnosis.text.len() > TEXT_SIZE_MAX {
        diagnosis.text.truncate(diagnosis.text.floor_char_boundary(TEXT_SIZE_MAX));
        diagnosis.text.push('…');
    }
    diagnosis
}
