//! Counters of one shard that belong to no swarm; plain cells, read by the control port.

use std::cell::Cell;
use std::cell::RefCell;
use std::time::Duration;

use crate::admin::stats::Bytes;
use crate::admin::stats::FIRST_BYTE_BOUNDS_S;
use crate::admin::stats::Stats;
use crate::units::Cause;

#[derive(Default)]
pub struct Tally {
    pub requests: Cell<u64>,
    pub refused: Cell<u64>,
    /// Bytes of the origin that passed through to players, no torrent in between.
    pub passed: Cell<u64>,
    pub to_players: Cell<u64>,
    first_byte: RefCell<FirstByte>,
    /// What swarms counted that have ended.
    ended: RefCell<Stats>,
}

#[derive(Default)]
struct FirstByte {
    counts: [u64; FIRST_BYTE_BOUNDS_S.len() + 1],
    sum_s: f64,
}

impl Tally {
    pub fn add(cell: &Cell<u64>, by: u64) {
        cell.set(cell.get() + by);
    }

    /// A swarm ends: what it counted goes on to count.
    pub fn keep(&self, mut share: Stats) {
        share.swarms.clear();
        share.swarms_ended = 1;
        self.ended.borrow_mut().add(share);
    }

    /// A reply's first body byte was sent this long after its request's head.
    pub fn first_byte(&self, wait: Duration) {
        let wait_s = wait.as_secs_f64();
        let slot = FIRST_BYTE_BOUNDS_S.partition_point(|bound| *bound < wait_s);
        let mut first_byte = self.first_byte.borrow_mut();
        first_byte.counts[slot] += 1;
        first_byte.sum_s += wait_s;
    }

    pub fn stats(&self) -> Stats {
        let first_byte = self.first_byte.borrow();
        let mut stats = Stats {
            bytes: Bytes {
                to_players: self.to_players.get(),
                ..Bytes::default()
            },
            requests: self.requests.get(),
            refused: self.refused.get(),
            first_byte_counts: first_byte.counts.to_vec(),
            first_byte_sum_s: first_byte.sum_s,
            ..Stats::default()
        };
        for cause in Cause::ALL {
            stats.add_origin_bytes(cause, 0);
        }
        stats.add_origin_bytes(Cause::Passthrough, self.passed.get());
        stats.add(self.ended.borrow().clone());
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_fall_in_their_bucket() {
        let tally = Tally::default();
        tally.first_byte(Duration::from_micros(900));
        tally.first_byte(Duration::from_millis(5));
        tally.first_byte(Duration::from_secs(9));
        let stats = tally.stats();
        assert_eq!(stats.first_byte_counts, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!((stats.first_byte_sum_s - 9.0059).abs() < 1e-9);
    }

    #[test]
    fn a_swarm_that_ended_still_counts() {
        let tally = Tally::default();
        Tally::add(&tally.to_players, 1);
        let mut share = Stats {
            pieces_good: 3,
            swarms: vec![crate::admin::stats::SwarmStats::default()],
            ..Stats::default()
        };
        share.bytes.to_players = 10;
        share.add_origin_bytes(Cause::Hedge, 7);
        tally.keep(share.clone());
        tally.keep(share);
        let stats = tally.stats();
        assert_eq!((stats.bytes.to_players, stats.bytes.from_origin), (21, 14));
        assert_eq!((stats.pieces_good, stats.swarms.len()), (6, 0));
        assert_eq!(stats.swarms_ended, 2);
        assert_eq!(stats.first_byte_counts.len(), FIRST_BYTE_BOUNDS_S.len() + 1);
    }

    #[test]
    fn every_cause_is_named_from_the_start() {
        let stats = Tally::default().stats();
        assert_eq!(stats.origin_bytes_by_cause.len(), Cause::ALL.len());
    }
}
