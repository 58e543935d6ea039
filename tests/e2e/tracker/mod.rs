//! The tracker: clients that meet by it, what outlives it, and what it turns down.

mod clients;
mod malformed;
mod state;
