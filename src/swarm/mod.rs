//! One info-hash: its readers, peers and origins, and the decisions between them.

pub mod choker;
pub mod dialer;
