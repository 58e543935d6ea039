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

mod commands; // the other addresses (magnet, proxy) and commands (get, seed, status, demo)
mod crash; // kill -9, a full disk, a small store, starts that cannot be
mod handover; // from passthrough to the swarm: each byte bought once, whatever the player does
mod limits; // swarms, streams of a site, connections, memory: what there may be at most
mod modes; // byte-exact whoever has the film, lies, or goes away
mod origins; // https, and origins with faults
mod parts; // each real program of the bed proves itself against another, without BitTube
mod players; // Chromium, ffmpeg, curl; paused and idle ones
mod publish; // what publish prints, in real web servers; films on the web, folders, --watch
mod ranges; // HTTP held against nginx, generated headers
mod registry; // a tracker that knows the torrents of videos, told by publishers or found out
mod safety; // who may ask, what may be asked for, what a web page can reach
mod swarm; // libtorrent, transmission, aria2 as seeders and downloaders; many swarms at once
mod tracker; // bittube tracker: clients that meet by it, restarts, malformed announces
mod trackers; // what trackers are asked: announces, scrapes, how many at once
