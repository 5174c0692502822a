//! Simulations: stories from a seed, cut off at every operation, and the rules that must hold afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test that can't set itself up has failed"
)]

#[allow(dead_code, reason = "shared with the stories, which use more of it")]
#[path = "../stories/client.rs"]
mod client;
mod daemon;
mod daemon_drops;
mod daemon_rules;
mod daemon_standstill;
mod daemon_ways;
mod daemon_world;
mod lines;
mod lines_leaving;
mod lines_line;
mod lines_notices;
mod lines_replay;
mod lines_world;
mod spool;
mod spool_churn;
mod spool_cut;
mod spool_damage;
mod spool_disk;
mod spool_gates;
mod spool_gather;
mod spool_index;
mod spool_model;
mod spool_spare;
mod spool_story;
mod spool_trouble;
mod spool_unreadable;
mod spool_world;
#[allow(dead_code, reason = "shared with the stories, which use more of it")]
#[path = "../stories/world.rs"]
mod world;

/// Whether the simulations are to take their time: 10,000 crashes and more, all tests together.
fn in_ci() -> bool {
    std::env::var("POSTHOUSE_SIM").as_deref() == Ok("ci")
}
