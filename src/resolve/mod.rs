//! From an address to metainfo, origin and file (DESIGN §2.2, §3).

pub mod describedby;
pub mod discover;
pub mod registry;
