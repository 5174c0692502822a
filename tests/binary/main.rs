//! The real binary, without foreign programs: killed and its power cut under load, its disk damaged, told to stop, told to read its configuration again, started wrongly.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod between;
mod commands;
mod damage;
mod flood;
mod full;
mod kill;
mod letters;
mod load;
mod memory;
mod powercut;
mod preload;
mod progress;
mod selfcheck;
mod sendmail;
mod signals;
mod smuggling;
mod space;
mod spool_tools;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod tls;
