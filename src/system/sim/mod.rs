//! The simulated world.

mod disk;
mod random;

pub use disk::SimDisk;
pub use random::SimRandom;
