//! MAIL FROM: who may send, and how much.

use super::{Client, Policy};
use crate::mail::{EnhancedCode, Reply, ReversePath};

impl Policy {
    /// Whether mail from this reverse-path, with this declared size in octets, may come. The null reverse-path always may.
    pub fn sender(&self, _client: &Client, _reverse_path: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        // The path's syntax was checked when it was parsed; that its domain exists isn't asked.
        let limit = self.config.limits.message_size;
        if size.is_some_and(|size| size > limit) {
            return Err(Reply::new(552, EnhancedCode(5, 3, 4), format!("Message too big: the limit is {limit} bytes")));
        }
        Ok(())
    }
}
