//! One message to one server: which command comes next, and what the replies make of each recipient. State: a slot a recipient.
//!
//! Knows nothing of bytes, time or connections; those are the session's.

use crate::mail::{BodyType, Cause, Diagnosis, EnhancedCode, Forward, Outcome, Reply, Request, ReversePath};

use super::Extensions;

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
    /// No word yet.
    Waiting,
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
    slots: Vec<Slot>,
    /// The next recipient to ask for.
    next: usize,
    mail_asked: bool,
    mail_refused: bool,
    data_asked: bool,
    /// The server accepted a recipient, though it refused MAIL.
    contradicted: bool,
    /// Recipients that the server had no chance to speak about.
    unanswered: Vec<bool>,
}

impl Progress {
    pub(super) fn new(transaction: Transaction) -> Self {
        let count = transaction.recipients.len();
        Self {
            slots: std::iter::repeat_with(|| Slot::Waiting).take(count).collect(),
            unanswered: vec![false; count],
            transaction,
            next: 0,
            mail_asked: false,
            mail_refused: false,
            data_asked: false,
            contradicted: false,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.transaction.size
    }

    /// The next command; `None` while there is none, whether replies are awaited or the round is over.
    pub(super) fn next_command(&mut self) -> Option<Command> {
        if !self.mail_asked {
            self.mail_asked = true;
            return Some(Command::Mail);
        }
        if self.mail_refused || self.data_asked {
            return None;
        }
        while let Some(slot) = self.slots.get(self.next) {
            let index = self.next;
            self.next += 1;
            if matches!(slot, Slot::Waiting) {
                return Some(Command::Recipient(index));
            }
        }
        // With every recipient refused already there is nothing to send; those not yet answered may still be accepted.
        let wanted = self.slots.iter().any(|slot| matches!(slot, Slot::Waiting | Slot::Accepted));
        self.data_asked = wanted;
        wanted.then_some(Command::Data)
    }

    /// Appends a command's line.
    pub(super) fn write(&self, command: Command, extensions: Extensions, out: &mut Vec<u8>) {
        match command {
            Command::Mail => {
                out.extend_from_slice(format!("MAIL FROM:<{}>", self.transaction.reverse_path).as_bytes());
                if extensions.size {
                    out.extend_from_slice(format!(" SIZE={}", self.transaction.size).as_bytes());
                }
                if extensions.eight_bit_mime && self.transaction.body == BodyType::EightBitMime {
                    out.extend_from_slice(b" BODY=8BITMIME");
                }
            }
            Command::Recipient(index) => {
                out.extend_from_slice(format!("RCPT TO:<{}>", self.transaction.recipients[index].address).as_bytes());
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
        let Slot::Waiting = self.slots[index] else {
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

    /// DATA was refused, or the content before its end.
    pub(super) fn data_refused(&mut self, reply: &Reply) {
        self.settle_accepted(&refusal(reply));
    }

    /// The reply to the final dot: about all recipients accepted, or, in LMTP, about one.
    pub(super) fn content_replied(&mut self, recipient: Option<usize>, reply: &Reply) {
        let outcome = if reply.is_positive() { Outcome::Delivered(diagnosis(reply)) } else { refusal(reply) };
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

    /// After a message was taken: starts another round for recipients that were too many in this one, if there are any.
    pub(super) fn next_round(&mut self) -> bool {
        let mut any = false;
        for slot in &mut self.slots {
            if matches!(slot, Slot::Postponed(_)) {
                *slot = Slot::Waiting;
                any = true;
            }
        }
        if any {
            (self.next, self.mail_asked, self.data_asked) = (0, false, false);
        }
        any
    }

    /// The session ends here. Recipients without a result are deferred, or in doubt where the server may have the message.
    pub(super) fn give_up(&mut self, diagnosis: &Diagnosis, unanswered: bool, in_doubt: bool) {
        for (slot, mark) in self.slots.iter_mut().zip(&mut self.unanswered) {
            let doubtful = in_doubt && matches!(slot, Slot::Accepted);
            if matches!(slot, Slot::Waiting | Slot::Accepted) {
                *mark = unanswered;
                let diagnosis = diagnosis.clone();
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
            Slot::Waiting | Slot::Accepted => {
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

/// A reply as a diagnosis, its text bounded.
pub(super) fn diagnosis(reply: &Reply) -> Diagnosis {
    let mut diagnosis = Diagnosis::from_reply(reply, "");
    if diagnosis.text.len() > TEXT_SIZE_MAX {
        diagnosis.text.truncate(diagnosis.text.floor_char_boundary(TEXT_SIZE_MAX));
        diagnosis.text.push('…');
    }
    diagnosis
}
