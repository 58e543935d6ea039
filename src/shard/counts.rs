//! What the control port shows of a swarm.

use crate::admin::stats::Bytes;
use crate::admin::stats::ReaderStats;
use crate::admin::stats::Stats;
use crate::admin::stats::SwarmStats;
use crate::shard::host::Host;
use crate::shard::tracker;
use crate::swarm;
use crate::swarm::stats::ReaderView;
use crate::units::Cause;
use crate::units::ShardId;

/// One swarm's share of its shard's statistics.
pub fn of(host: &Host, shard: ShardId) -> Stats {
    let counted = host.swarm.borrow().stats();
    let mut share = totals(&counted);
    share.pieces_good = host.shelf.good();
    share.peers_banned = host.banned.get();
    let metainfo = host.metainfo.borrow();
    share.swarms = vec![SwarmStats {
        info_hash: host.info_hash.to_string(),
        name: metainfo
            .as_ref()
            .map(|meta| meta.name.clone())
            .unwrap_or_default(),
        shard: shard.0,
        length: counted.length,
        pieces: counted.pieces,
        have_pieces: counted.have_pieces,
        peers: u32::try_from(counted.peers).unwrap_or(u32::MAX),
        bytes: share.bytes,
        readers: counted.readers.iter().map(reader).collect(),
        trackers: tracker::views(&host.announcer.borrow()),
    }];
    share
}

fn totals(counted: &swarm::stats::Stats) -> Stats {
    let bytes = counted.bytes;
    let mut stats = Stats {
        bytes: Bytes {
            from_peers: bytes.from_peers,
            from_origin: 0,
            to_players: bytes.to_players,
            to_peers: bytes.to_peers,
            wasted: bytes.wasted,
        },
        stall_s: counted.stall_s,
        deadline_missed: counted.deadline_missed,
        pieces_bad: counted.bad_pieces,
        ..Stats::default()
    };
    for cause in Cause::ALL {
        stats.add_origin_bytes(cause, counted.origin_bytes_by_cause.of(cause));
    }
    stats
}

fn reader(view: &ReaderView) -> ReaderStats {
    ReaderStats {
        offset: view.offset,
        slack_s: view.slack_s,
        stalls: u64::from(view.stalls),
        stall_s: view.stall_s,
    }
}
