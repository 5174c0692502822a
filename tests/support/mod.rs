//! What tests of the real binary share: a home folder with a configuration, the server as a child process with its log read line
//! by line, a plain SMTP client, an SMTP peer that takes mail or refuses it, and Maildirs read byte for byte.
#![allow(dead_code, reason = "each test binary includes this folder and uses its own part of it")]

pub mod client;
pub mod corpus;
pub mod home;
pub mod maildir;
pub mod peer;
pub mod process;
pub mod random;
pub mod server;

use std::time::Duration;

/// How long a test waits for a fact before it fails. Generous: a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
