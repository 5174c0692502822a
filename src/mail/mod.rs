//! The nouns of mail: addresses, envelopes, messages and their states, replies, outcomes, time stamps, trace fields.
//!
//! Values only: nothing here does input or output, and every other module may use it.

mod address;
mod destination;
mod domain;
mod header;
mod message;
mod outcome;
mod queue_id;
mod reply;
mod service;
mod timestamp;
mod tls;
mod trace;

pub use address::{Address, AddressError, ReversePath};
pub use destination::Destination;
pub use domain::{Domain, DomainError};
pub use header::{Field, HeaderScan, fields};
pub use message::{BodyType, Message, MessageState, Recipient, RecipientState, RecipientStatus, Update};
pub use outcome::{Cause, Diagnosis, Outcome};
pub use queue_id::{QueueId, QueueIdError};
pub use reply::{EnhancedCode, Reply};
pub use service::Service;
pub use timestamp::Timestamp;
pub use tls::TlsInfo;
pub use trace::{Protocol, TraceField};
