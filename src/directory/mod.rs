//! Who is local: domains, users, aliases. Read once at start and again at reload; look-ups are pure.

pub mod aliases;
mod mailbox;
mod resolve;
pub mod users;

pub use mailbox::{Mailbox, check_name};
pub use resolve::{Directory, Resolution};
