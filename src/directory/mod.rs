//! Who is local: domains, users, aliases. Read once at start and again at reload; look-ups are pure.

mod accounts;
pub mod aliases;
mod mailbox;
pub mod quota;
mod resolve;
pub mod scram;
pub mod users;

pub use accounts::{Accounts, AccountsError, DecoySeed, FileAccounts};
pub use mailbox::{Mailbox, check_name};
pub use resolve::{Directory, Resolution};
