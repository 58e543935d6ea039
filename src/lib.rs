//! BitTube: video over plain HTTP from a BitTorrent swarm.
//!
//! One request's way, and the modules in that order:
//!
//! 1. `stub` checks the Host and the limits, reads the head (`http`) and parses the address.
//! 2. `resolve` turns the address into metainfo, origin and file (`torrent`); with none the
//!    origin's bytes pass through.
//! 3. The connection moves to the shard of its swarm; from there nothing is locked or shared.
//! 4. `swarm`: a reader turns the range into deadlines, the picker deadlines into blocks, supply
//!    decides peer or origin for each.
//! 5. `peer` and `origin` sessions fetch, `store` verifies and answers from the mapped file.
//! 6. The choker gives the same pieces to other peers; `tracker` tells them of us.
//!
//! Everything above is pure: bytes, `now` and randomness come in as arguments, and after any
//! `handle_*` or command the driver drains `poll_output` to `None` before the next input. `ring`
//! alone knows the kernel; `shard` joins the two; `admin` and `cli` are what a person sees.
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        reason = "small numbers made up in tests"
    )
)]

pub mod config;
pub mod reach;
pub mod units;

pub mod http;
pub mod stub;

pub mod resolve;
pub mod torrent;

pub mod swarm;

pub mod origin;
pub mod peer;
pub mod tracker;

pub mod store;

#[allow(unsafe_code, reason = "the kernel reads and writes these buffers")]
pub mod ring;

pub mod shard;

pub mod admin;
pub mod cli;
