//! What a player sees: addresses, the gate, replies.

pub mod address;
