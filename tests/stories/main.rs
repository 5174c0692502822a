//! Stories: what Posthouse does, told through its public seam. The real server, over a simulated disk, network, DNS and time.

mod bounds;
mod client;
mod local;
mod notices;
mod reception;
mod relaying;
mod remote;
mod retrying;
mod routing;
mod running;
mod world;
