//! End to end: the real binary on loopback, against real peers, trackers, origins and players.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test waits, blocks, and panics on what should not be"
)]
#![allow(
    dead_code,
    reason = "the bed offers more than the tests of one day take"
)]

mod bed;

mod parts; // each real program of the bed proves itself against another, without BitTube
