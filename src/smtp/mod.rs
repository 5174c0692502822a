//! SMTP and LMTP as pure machines: bytes and time in, steps out.

pub mod client;
