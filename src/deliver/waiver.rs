//! The sender's word that TLS isn't required (RFC 8689 section 3), and what is left of the demand for it then. State: none.

use super::header::read_header;
use super::returned::HEADER_SIZE_MAX;
use super::{Attempt, Way};
use crate::mail::tls_is_optional;
use crate::system::Content;

/// How hosts are called with this message: as it is configured, but for what the sender waives. Looked up in the header at the
/// attempt, and only where it makes a difference; REQUIRETLS counts for more (section 4.1).
pub(super) async fn way(mut way: Way, attempt: &Attempt) -> Way {
    let insists = attempt.request.as_ref().is_some_and(|request| request.require_tls);
    if way.tls != way.tls_waived && !insists && is_waived(&*attempt.content).await {
        way.tls = way.tls_waived;
    }
    way
}

/// What can't be read waives nothing.
async fn is_waived(content: &dyn Content) -> bool {
    let scan = read_header(content, HEADER_SIZE_MAX).await;
    !scan.is_cut() && tls_is_optional(scan.header())
}
