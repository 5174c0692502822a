//! The content: what its header tells before the message is accepted.

use super::Policy;
use crate::mail::{EnhancedCode, HeaderScan, Reply};

impl Policy {
    /// Whether a message with this header may be accepted: one that came through too many servers goes in circles.
    pub fn message(&self, header: &HeaderScan) -> Result<(), Reply> {
        let (hops, limit) = (header.count("Received"), self.config.limits.hops);
        if hops > limit {
            let text = format!("Mail loop: {hops} Received fields, the limit is {limit}");
            return Err(Reply::new(554, EnhancedCode(5, 4, 6), text));
        }
        Ok(())
    }
}
