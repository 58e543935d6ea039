//! The answering side of announces and scrapes: who is in which swarm, and for how long.

pub mod allow;
pub mod asked;
pub mod compact;
pub mod http;
pub mod ids;
pub mod newcomers;
pub mod peers;
pub mod proxies;
pub mod snapshot;
pub mod stats;
pub mod table;
pub mod udp;
