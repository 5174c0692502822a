//! Delivery into Maildirs: written under tmp/, synced, linked into new/, synced, and only then said to be delivered. State: which
//! mailbox folders are known to exist on stable storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::lane::Job;
use super::mailbox::{Draft, Names, Room};
use super::{Attempt, Deliverer};
use crate::directory::quota::{Full, Usage};
use crate::mail::{Address, Cause, Diagnosis, EnhancedCode, Forward, HeaderScan, Outcome, fields};

/// Octets of content in memory for a delivery.
const PIECE_SIZE: usize = 256 * 1024;
/// Header block looked at for a loop; octets.
const HEADER_SIZE_MAX: usize = 256 * 1024;

/// Delivers to each recipient's mailbox; one that fails doesn't keep the others from theirs.
pub(super) async fn deliver(deliverer: &Deliverer, attempt: &Attempt) -> Vec<(u32, Outcome)> {
    let first = match attempt.content.read_at(0, PIECE_SIZE).await {
        Ok(first) => Arc::new(first),
        Err(error) => {
            let outcome = Outcome::Deferred(unreadable(&error));
            return attempt.recipients.iter().map(|(index, _)| (*index, outcome.clone())).collect();
        }
    };
    let mut header = HeaderScan::new(HEADER_SIZE_MAX);
    header.receive(&first);
    let mut started = Vec::with_capacity(attempt.recipients.len());
    for (index, Forward { address, .. }) in &attempt.recipients {
        let delivery = match deliverer.routes.maildir(address) {
            Err(outcome) => Delivery::Ended(outcome),
            Ok(_) if was_here(header.header(), address) => Delivery::Ended(Outcome::Failed(Diagnosis::new(
                EnhancedCode(5, 4, 6),
                Cause::Local,
                format!("mail loop: this message was delivered to {address} before"),
            ))),
            Ok(folder) => start(deliverer, attempt, *index, address, folder, first.clone()).await,
        };
        started.push((*index, delivery));
    }
    let mut outcomes = Vec::with_capacity(started.len());
    for (index, delivery) in started {
        outcomes.push((index, delivery.outcome().await));
    }
    outcomes
}

/// A delivery to one mailbox.
enum Delivery {
    /// It has come to this.
    Ended(Outcome),
    /// It is under way to this folder.
    Started(PathBuf, oneshot::Receiver<io::Result<()>>),
}

impl Delivery {
    async fn outcome(self) -> Outcome {
        match self {
            Self::Ended(outcome) => outcome,
            Self::Started(folder, reply) => {
                let delivered = reply.await.unwrap_or_else(|_| Err(io::Error::other("the delivery was given up")));
                outcome(&folder, delivered.map_err(|error| unwritable(&error, &folder)))
            }
        }
    }
}

fn outcome(folder: &Path, delivered: Result<(), Outcome>) -> Outcome {
    let hop = folder.display().to_string();
    match delivered {
        Ok(()) => Outcome::Delivered(Diagnosis::new(EnhancedCode(2, 0, 0), Cause::Local, "delivered to the mailbox").at(hop)),
        Err(Outcome::Failed(diagnosis)) => Outcome::Failed(diagnosis.at(hop)),
        Err(outcome) => Outcome::Deferred(outcome.diagnosis().clone().at(hop)),
    }
}

/// Starts a delivery: what is whole in memory goes with what others deliver now, the rest piece by piece.
async fn start(
    deliverer: &Deliverer,
    attempt: &Attempt,
    index: u32,
    address: &Address,
    folder: PathBuf,
    first: Arc<Vec<u8>>,
) -> Delivery {
    // The content is kept byte for byte, CRLF included, where other servers turn line ends into LF: what was signed or measured on
    // the way stays true in the mailbox. Readers of Maildirs take both. So our own fields have CRLF too.
    let fields = format!("Return-Path: <{}>\r\nDelivered-To: {address}\r\n", attempt.reverse_path).into_bytes();
    let size = fields.len() as u64 + attempt.content.size();
    let names = deliverer.mailboxes.names(attempt.id, index, size, attempt.again);
    let quota = deliverer.quota(address);
    if attempt.content.size() > first.len() as u64 {
        let stored = store(deliverer, attempt, folder.clone(), names, Room { quota, coming: Usage::of(size) }, fields).await;
        return Delivery::Ended(outcome(&folder, stored));
    }
    let (reply, answer) = oneshot::channel();
    let job = Job { folder: folder.clone(), names, fields, content: first, quota, reply };
    match deliverer.lanes.send(job).await {
        Ok(()) => Delivery::Started(folder, answer),
        Err(error) => Delivery::Ended(outcome(&folder, Err(unwritable(&error, &folder)))),
    }
}

/// Writes piece by piece, each off the runtime. All are read anew for each recipient: only who reads from the first octet to the last
/// learns whether the content is damaged.
async fn store(
    deliverer: &Deliverer,
    attempt: &Attempt,
    folder: PathBuf,
    names: Names,
    room: Room,
    fields: Vec<u8>,
) -> Result<(), Outcome> {
    let (workers, mailboxes) = (deliverer.system.workers, deliverer.mailboxes.clone());
    let size = attempt.content.size();
    let mut read = 0;
    let path = folder.clone();
    let failed = |error: io::Error| unwritable(&error, &path);
    let begin = move || {
        let mut draft = mailboxes.begin(folder, names, room)?;
        draft.write(&fields)?;
        Ok(Some(draft))
    };
    let mut draft: Option<Draft> = workers.blocking(begin).await.map_err(failed)?;
    while let Some(mut current) = draft.take() {
        let piece = attempt.content.read_at(read, PIECE_SIZE).await.map_err(|error| Outcome::Deferred(unreadable(&error)))?;
        if piece.is_empty() {
            return Err(Outcome::Deferred(unreadable(&io::ErrorKind::UnexpectedEof.into())));
        }
        read += piece.len() as u64;
        let whole = read >= size;
        let next = move || {
            current.write(&piece)?;
            if whole { current.finish().map(|()| None) } else { Ok(Some(current)) }
        };
        draft = workers.blocking(next).await.map_err(failed)?;
    }
    Ok(())
}

/// Whether the header says that this address had the message already: it was forwarded in a circle.
fn was_here(header: &[u8], address: &Address) -> bool {
    let address = address.to_string();
    fields(header).any(|field| field.is("Delivered-To") && field.value.trim_ascii().eq_ignore_ascii_case(address.as_bytes()))
}

fn unreadable(error: &io::Error) -> Diagnosis {
    Diagnosis::new(EnhancedCode(4, 3, 0), Cause::Local, format!("the message can't be read from the spool: {error}"))
}

/// All trouble with a mailbox is transient, because an admin can mend it; but whose mailbox is full may be known to leave it so.
fn unwritable(error: &io::Error, folder: &Path) -> Outcome {
    if let Some(full) = Full::of(error) {
        let diagnosis = |class| Diagnosis::new(EnhancedCode(class, 2, 2), Cause::Local, full.to_string());
        return if full.bounce { Outcome::Failed(diagnosis(5)) } else { Outcome::Deferred(diagnosis(4)) };
    }
    let status = match error.kind() {
        io::ErrorKind::QuotaExceeded => EnhancedCode(4, 2, 2),
        io::ErrorKind::StorageFull => EnhancedCode(4, 3, 1),
        _ => EnhancedCode(4, 3, 0),
    };
    Outcome::Deferred(Diagnosis::new(status, Cause::Local, format!("can't write to {}: {error}", folder.display())))
}
