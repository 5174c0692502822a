//! Stories: what Posthouse does, told through its public seam. The real server, over a simulated disk, network, DNS and time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a test that can't set itself up has failed"
)]

mod bounded;
mod bounds;
mod client;
mod doubt;
mod drops;
mod extensions;
mod fairness;
mod gate;
mod hints;
mod hosts;
mod leaving;
mod lmtp;
mod local;
mod loops;
mod notices;
mod outages;
mod patience;
mod quotas;
mod reception;
mod relaying;
mod remote;
mod require_tls;
mod retrying;
mod round_trip;
mod routing;
mod running;
mod sessions;
mod sites;
mod submission;
mod tls_out;
mod trip;
mod ways;
mod wishes;
mod world;
