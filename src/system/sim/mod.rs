//! The simulated world: time, network, DNS and randomness that do the same again for the same seed, and a scripted mail server to
//! talk to. For tests; on a current-thread runtime with its clock paused.

mod clock;
mod dns;
mod entropy;
mod net;
mod peer;
mod script;
mod world;

pub use clock::SimClock;
pub use dns::SimDns;
pub use entropy::SimEntropy;
pub use net::{Fault, SimNet};
pub use peer::{Peer, Taken};
pub use script::{Act, Script, Stage};
pub use world::{World, run};
mod disk;
mod random;

pub use disk::SimDisk;
pub use random::SimRandom;
