//! One schema: the typed configuration in force, and where it comes from.
//!
//! Everything behind this module takes a `Config` that is already right; what can be wrong is found in `load`.

mod typed;

pub use typed::*;
