//! Wiring: binds the ports, opens the spool, runs reception and the delivery loop, and hands out a `Handle` to all of it.
//!
//! Everything here is glue. Decisions are in `policy`, `queue`, `route` and `notice`; bytes are moved by `listen` and `deliver`.

mod awaken;
mod bounce;
mod certificates;
mod clocks;
mod command;
mod confirm;
mod current;
mod delivery;
mod descriptors;
mod handle;
mod intake;
mod languages;
mod lookups;
mod notices;
mod orders;
mod own_key;
mod pauses;
mod privileges;
mod reception;
mod report;
mod signals;
mod stalled;
mod start;

pub use crate::listen::settings as session_settings;
pub use certificates::{check_certificates, unseen_certificates};
pub use command::{Changed, Levels, Paused};
pub use descriptors::{Descriptors, raise_descriptors};
pub use handle::{Handle, Health};
pub use languages::check_notices;
pub use privileges::{PrivilegeError, drop_to, is_root};
pub use signals::{Asked, Signals};
pub use start::{Bound, Posthouse, Source, StartError, spool_options};
