//! EHLO and HELO: a name that doesn't fit the client is no reason to refuse (RFC 5321 section 4.1.4).

use super::{Client, Policy};
use crate::mail::{EnhancedCode, Reply};

/// Longest name that is taken, octets: a domain or an address literal is never longer.
const NAME_SIZE_MAX: usize = 255;

impl Policy {
    /// Whether the client may introduce itself so. Its name goes into `Received:` and the log, so it must be printable.
    pub fn hello(&self, client: &Client) -> Result<(), Reply> {
        let name = &client.helo;
        if name.is_empty() || name.len() > NAME_SIZE_MAX || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Reply::new(501, EnhancedCode(5, 5, 4), "Give your host name or address literal"));
        }
        Ok(())
    }
}
