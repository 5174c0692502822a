//! One schema: the typed configuration in force, and where it comes from.
//!
//! Everything behind this module takes a `Config` that is already right; what can be wrong is found in `load`.

mod build;
mod check;
mod destination;
mod generate;
mod layers;
mod listen;
mod load;
mod nearest;
mod notice;
mod problem;
mod remote;
mod route;
mod schema;
mod setting;
mod share;
mod typed;
mod values;

pub use check::check_files;
pub use destination::{DestinationRule, Outgoing, Source};
pub use generate::{reference_page, sample_file};
pub use layers::Origin;
pub use listen::ListenAddress;
pub use load::{Loaded, ShownValue, environment, load};
pub use notice::{Notice, NoticeTo};
pub use problem::{Problem, ProblemClass};
pub use remote::{Remote, SpecialAddresses, StageTimeouts};
pub use route::{DomainPattern, Family, HostPort, Route, RouteHost, RouteLogin, SenderPattern};
pub use share::{Share, ShareOf};
pub use typed::*;
pub use values::{parse_duration, parse_size};
