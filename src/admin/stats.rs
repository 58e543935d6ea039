//! What `/api/stats` and `bittube status --json` say (DESIGN §4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::Cause;

/// Everything at one moment; one shard's share until [`Stats::add`] joins them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub uptime_s: f64,
    pub bytes: Bytes,
    /// Bytes bought from origins, by the cause's name.
    pub origin_bytes_by_cause: BTreeMap<String, u64>,
    pub swarms: Vec<SwarmStats>,
    pub store: StoreStats,
    pub players: u64,
    /// Bytes of buffers in use, of the whole process.
    pub buffers: u64,
    pub swarms_ended: u64,
    /// Replies whose first body byte came within each bound of [`FIRST_BYTE_BOUNDS_S`], then all.
    pub first_byte_counts: Vec<u64>,
    pub first_byte_sum_s: f64,
    pub stall_s: f64,
    pub deadline_missed: u64,
    pub pieces_good: u64,
    pub pieces_bad: u64,
    pub peers_banned: u64,
    pub requests: u64,
    pub refused: u64,
}

/// Upper bounds of the histogram `bittube_first_byte_seconds`.
pub const FIRST_BYTE_BOUNDS_S: [f64; 10] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    pub from_peers: u64,
    pub from_origin: u64,
    pub to_players: u64,
    pub to_peers: u64,
    /// Received and not used: duplicates, failed pieces.
    pub wasted: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwarmStats {
    pub info_hash: String,
    pub name: String,
    pub shard: u16,
    pub length: u64,
    pub pieces: u32,
    pub have_pieces: u32,
    pub peers: u32,
    pub bytes: Bytes,
    pub readers: Vec<ReaderStats>,
    pub trackers: Vec<TrackerStats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReaderStats {
    /// Next byte for the player, counted from the torrent's first.
    pub offset: u64,
    /// Seconds of film between the playhead and what is ready; negative in a stall.
    pub slack_s: f64,
    pub stalls: u64,
    pub stall_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackerStats {
    pub url: String,
    pub status: String,
    /// In the swarm, as the tracker last said; `None` while it has not.
    pub seeders: Option<u32>,
    pub leechers: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    pub used: u64,
    pub limit: Option<u64>,
}

impl Stats {
    /// Joins another shard's share to this one.
    pub fn add(&mut self, other: Self) {
        self.uptime_s = self.uptime_s.max(other.uptime_s);
        self.bytes.add(other.bytes);
        for (cause, bytes) in other.origin_bytes_by_cause {
            *self.origin_bytes_by_cause.entry(cause).or_default() += bytes;
        }
        self.swarms.extend(other.swarms);
        self.store.used = self.store.used.max(other.store.used);
        self.store.limit = self.store.limit.or(other.store.limit);
        self.players += other.players;
        self.buffers = self.buffers.max(other.buffers);
        self.swarms_ended += other.swarms_ended;
        self.first_byte_counts
            .resize(FIRST_BYTE_BOUNDS_S.len() + 1, 0);
        for (ours, theirs) in self
            .first_byte_counts
            .iter_mut()
            .zip(other.first_byte_counts)
        {
            *ours += theirs;
        }
        self.first_byte_sum_s += other.first_byte_sum_s;
        self.stall_s += other.stall_s;
        self.deadline_missed += other.deadline_missed;
        self.pieces_good += other.pieces_good;
        self.pieces_bad += other.pieces_bad;
        self.peers_banned += other.peers_banned;
        self.requests += other.requests;
        self.refused += other.refused;
    }

    pub fn add_origin_bytes(&mut self, cause: Cause, bytes: u64) {
        *self
            .origin_bytes_by_cause
            .entry(cause.name().to_owned())
            .or_default() += bytes;
        self.bytes.from_origin += bytes;
    }
}

impl Bytes {
    pub fn add(&mut self, other: Self) {
        self.from_peers += other.from_peers;
        self.from_origin += other.from_origin;
        self.to_players += other.to_players;
        self.to_peers += other.to_peers;
        self.wasted += other.wasted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let mut one = Stats {
            players: 2,
            uptime_s: 5.0,
            ..Stats::default()
        };
        one.add_origin_bytes(Cause::Start, 10);
        let mut two = Stats {
            players: 1,
            first_byte_counts: vec![1; 11],
            ..Stats::default()
        };
        two.add_origin_bytes(Cause::Start, 5);
        two.add_origin_bytes(Cause::Hedge, 1);
        one.add(two);
        assert_eq!(one.players, 3);
        assert_eq!(one.bytes.from_origin, 16);
        assert_eq!(one.origin_bytes_by_cause["start"], 15);
        assert_eq!(one.first_byte_counts, vec![1; 11]);
    }
}
