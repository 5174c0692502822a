//! The nouns of mail: addresses, envelopes, messages and their states, replies, outcomes, time stamps, trace fields.
//!
//! Values only: nothing here does input or output, and every other module may use it.

mod address;
mod address_list;
mod destination;
mod domain;
mod dsn;
mod header;
mod mailboxes;
mod message;
mod meters;
mod origin;
mod outcome;
mod own_mark;
mod queue_id;
mod rate;
mod reply;
mod request;
mod service;
mod site;
mod submitted;
mod timestamp;
mod tls;
mod tls_required;
mod trace;

pub use address::{Address, AddressError, ReversePath};
pub use address_list::{Listed, NotAnAddress, addresses};
pub use destination::Destination;
pub use domain::{AddressLiteral, Domain, DomainError};
pub use dsn::{DsnRequest, Notify, OriginalRecipient, decode_xtext, encode_xtext};
pub use header::{Field, HeaderScan, fields};
pub use mailboxes::mailboxes;
pub use message::{Forward, Message, MessageState, Recipient, RecipientState, RecipientStatus, Update, is_reply};
pub use meters::Meters;
pub use origin::Origin;
pub use outcome::{Cause, Diagnosis, Outcome, Passed};
pub use own_mark::{OwnMark, Past};
pub use queue_id::{QueueId, QueueIdError};
pub use rate::{Meter, Rate};
pub use reply::{EnhancedCode, Reply};
pub use request::{BodyType, DeliverBy, DeliverByMode, EnvelopeId, Hold, Priority, Request, Ret};
pub use service::Service;
pub use site::Site;
pub use submitted::Submitted;
pub use timestamp::Timestamp;
pub use tls::TlsInfo;
pub use tls_required::tls_is_optional;
pub use trace::{Arrival, Protocol, TraceField};
