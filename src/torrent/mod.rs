//! Torrents: metainfo, magnets, and the arithmetic of pieces.

pub mod bencode;
pub mod duration;
pub mod hasher;
pub mod layout;
pub mod magnet;
pub mod metainfo;
pub mod stream_hash;
