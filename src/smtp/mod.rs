//! The SMTP protocol without input or output: octets and answers go in, steps come out. Both sides, all of the grammar.
//!
//! Nothing here opens a socket, reads a clock or writes a log; that is for the drivers in `listen` and `deliver`.

pub mod auth;
pub mod client;
pub mod command;
pub mod data;
pub mod extension;
mod hidden;
pub mod line;
pub mod scram;
pub mod server;
