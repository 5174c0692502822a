//! The client side of SMTP (RFC 5321) and LMTP (RFC 2033) without I/O: an envelope and a peer's bytes in, steps out, at the end
//! one outcome a recipient.
//!
//! `deliver::remote` drives it over sockets; tests move its time by hand. It never reads a clock, never fails and never says
//! anything but an outcome about a peer's mistakes.

mod chunks;
mod content;
mod expected;
mod extensions;
mod hint;
mod login;
mod parameters;
pub mod reply;
mod scram;
mod sending;
mod session;
mod step;
mod timeouts;
mod transaction;

pub use extensions::{Extensions, Limits};
pub use login::{Key, KeyWork, Login, Mechanisms, Password};
pub use session::Session;
pub use step::{Settings, StartTls, Step};
pub use timeouts::Timeouts;
pub use transaction::Transaction;

#[cfg(test)]
mod tests;
