//! Torrents: metainfo, magnets, and the arithmetic of pieces.

pub mod layout;
