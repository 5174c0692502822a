//! Mail that went out once and came back for the same recipient, among others: it doesn't go out again. State: none.
//!
//! What comes back for all of its recipients is refused when it comes. Here are those that came in company. Maildirs aren't asked: they
//! are the end of every way, and know by `Delivered-To` what they sent on themselves.

use super::header::read_header;
use super::{Attempt, Deliverer};
use crate::mail::{Cause, Diagnosis, EnhancedCode, Forward, Outcome};

/// As much of a header is looked at; octets.
pub(super) const HEADER_SIZE_MAX: usize = 64 * 1024;

/// The outcome of each recipient for whom the message was here before; none for the others.
pub(super) async fn outcomes(deliverer: &Deliverer, attempt: &Attempt) -> Vec<Option<Outcome>> {
    // What can't be read says nothing of the past.
    let header = read_header(&*attempt.content, HEADER_SIZE_MAX).await;
    let recipients = attempt.recipients.iter().map(|(_, to)| &to.address);
    let past = deliverer.mark.past(header.header(), &attempt.reverse_path, recipients, Some(attempt.id));
    let outcome = |(_, to): &(u32, Forward)| {
        let here = !past.is_empty() && past.has(&to.address);
        here.then(|| {
            let text = format!("mail loop: this message was here before for {}, and came back", to.address);
            Outcome::Failed(Diagnosis::new(EnhancedCode(5, 4, 6), Cause::Local, text))
        })
    };
    attempt.recipients.iter().map(outcome).collect()
}
