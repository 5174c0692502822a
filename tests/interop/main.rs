//! Real neighbours: foreign clients, servers, readers and parsers, run as child processes on loopback with folders of their own.
//!
//! A neighbour that isn't installed: the test says so and passes, unless `POSTHOUSE_INTEROP=required`. `.ci/neighbours` installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod corpora;
mod dovecot;
mod external;
mod hops;
mod lmtp;
mod local;
mod msmtp;
mod neighbour;
mod notices;
mod nsd;
mod outside;
mod postfix;
mod proxy;
mod round_trip;
mod scram;
mod smtplib;
mod submission;
#[path = "../support/mod.rs"]
mod support;
mod swaks;
mod tls;
