//! Room in the store for another piece: what was watched longest ago goes first.

use std::rc::Rc;

use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::host::Host;
use crate::swarm::Verdict;

/// Evicted at a time, so that not every piece evicts another.
const ROOM_MADE: u64 = 16 * 1024 * 1024;

/// Whether `bytes` more fit now. Torrents that nobody has open go first and whole, then pieces of
/// the swarms on this shard, the one watched longest ago first; never what a reader or an upload
/// is using.
pub fn make(shard: &Rc<Shard>, bytes: u64) -> bool {
    let wanted = bytes.max(ROOM_MADE);
    let mut freed = shard.shared.store.evict_idle(wanted).unwrap_or(0);
    let mut hosts = shard.roster.all();
    hosts.sort_by_key(|host| (!host.readers.borrow().is_empty(), host.watched_at.get()));
    for host in hosts {
        if freed >= wanted {
            break;
        }
        freed += evict(&host, wanted - freed);
    }
    freed >= bytes
}

fn evict(host: &Rc<Host>, bytes: u64) -> u64 {
    let lost = {
        let swarm = host.swarm.borrow();
        host.shelf.evict(bytes, |piece| swarm.evictable(piece))
    };
    let mut freed = 0;
    for piece in &lost {
        let layout = host.swarm.borrow().layout().cloned();
        freed += layout.map_or(0, |layout| u64::from(layout.piece_len(*piece)));
        host.swarm
            .borrow_mut()
            .handle_piece(runtime::now(), *piece, Verdict::Lost);
    }
    if !lost.is_empty() {
        // What was evicted is given back to the disk once the journal says so.
        let host = host.clone();
        runtime::spawn(async move { host.sync().await });
    }
    freed
}
