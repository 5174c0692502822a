//! Simulations: stories from a seed, cut off at every operation, and the rules that must hold afterwards.

mod spool;
mod spool_disk;
mod spool_world;
