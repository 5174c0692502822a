//! Posthouse, a store-and-forward mail transfer agent.
//!
//! The modules in the order in which a message meets them. A module imports only from those that ARCHITECTURE.md's layer
//! table allows; `tests/tidy.rs` checks it.

pub mod config;
pub mod directory;
pub mod mail;
pub mod notice;
pub mod policy;
pub mod queue;
pub mod route;
pub mod smtp;
pub mod system;
