//! The content: what its header tells before the message is accepted.

use super::{Client, Policy};
use crate::mail::{Address, EnhancedCode, HeaderScan, Reply, Service, fields, mailboxes};

impl Policy {
    /// Whether a message with this header may be accepted: one that came through too many servers goes in circles, and who logged in
    /// writes as himself.
    pub fn message(&self, client: &Client, header: &HeaderScan) -> Result<(), Reply> {
        let (hops, limit) = (header.count("Received"), self.config.limits.hops);
        if hops > limit {
            let text = format!("Mail loop: {hops} Received fields, the limit is {limit}");
            return Err(Reply::new(554, EnhancedCode(5, 4, 6), text));
        }
        match &client.login {
            Some(login) => self.authors(client, login, header),
            None => Ok(()),
        }
    }

    /// From and Sender name nobody but addresses of the login's. What can't be read may name anybody.
    fn authors(&self, client: &Client, login: &Address, header: &HeaderScan) -> Result<(), Reply> {
        if header.is_cut() {
            return Err(Reply::new(552, EnhancedCode(5, 3, 4), "Message header larger than this server takes"));
        }
        // At submission such a line ends the header, for those who read the message, too.
        if client.service != Service::Submission && !header.is_sound() {
            return Err(Reply::new(554, EnhancedCode(5, 6, 0), "A line of the message header is no field"));
        }
        for name in ["From", "Sender"] {
            let mut of_name = fields(header.header()).filter(|field| field.is(name));
            let Some(field) = of_name.next() else { continue };
            if of_name.next().is_some() {
                return Err(Reply::new(554, EnhancedCode(5, 6, 0), format!("More than one {name} field")));
            }
            let named = mailboxes(field.value).filter(|named| !named.is_empty());
            let named = named.ok_or_else(|| {
                Reply::new(554, EnhancedCode(5, 6, 0), format!("The {name} field can't be read; write Name <user@domain>"))
            })?;
            if let Some(other) = named.iter().find(|address| !self.owns(login, address)) {
                let text = format!("<{other}>: this {name} address does not belong to {login}");
                return Err(Reply::new(553, EnhancedCode(5, 7, 1), text));
            }
        }
        Ok(())
    }
}
