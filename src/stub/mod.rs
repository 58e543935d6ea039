//! What a player sees: addresses, the gate, replies.

pub mod address;
pub mod gate;
pub mod media;
pub mod reply;
pub mod session;
