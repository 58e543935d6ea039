//! Announcing to trackers, and answering announces (BEP 3, 7, 23).

pub mod announcer;
pub mod http;
pub mod server;
