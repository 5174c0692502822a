//! The simulated world: time, disk, network, DNS and randomness that do the same again for the same seed, and a scripted mail server
//! to talk to. For tests; on a current-thread runtime with its clock paused.

mod change;
mod clock;
mod disk;
mod dns;
mod entropy;
mod net;
mod peer;
mod random;
mod script;
mod tls;
mod world;

pub use clock::SimClock;
pub use disk::{Operation, OperationKind, SimDisk};
pub use dns::SimDns;
pub use entropy::SimEntropy;
pub use net::{Calling, Fault, SimNet};
pub use peer::{Peer, Taken};
pub use random::SimRandom;
pub use script::{Act, Script, Stage};
pub use tls::{ANSWER, DUBIOUS_ANSWER, HELLO, SimTls};
pub use world::{World, run};
