//! The real binary, without foreign programs: killed under load, told to stop, told to read its configuration again, started wrongly.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod commands;
mod kill;
mod letters;
mod signals;
mod spool_tools;
mod start;
#[path = "../support/mod.rs"]
mod support;
