//! Posthouse, a store-and-forward mail transfer agent.
//!
//! The modules in the order in which a message meets them. A module imports only from those that ARCHITECTURE.md's layer
//! table allows; `tests/tidy.rs` checks it. The public seam is `daemon::Posthouse`: a configuration and a `system::System` go in,
//! a `daemon::Handle` comes out.

// The nouns and the seams, known to all.
pub mod mail;
pub mod system;

// A message's way: in,
pub mod directory;
pub mod listen;
pub mod maildrop;
pub mod policy;
pub mod smtp;
pub mod spool;
// planned,
pub mod queue;
pub mod route;
// and out.
pub mod deliver;
pub mod notice;

// Around it.
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod event;
pub mod web;
