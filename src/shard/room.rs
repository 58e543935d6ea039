//! Room in the store for another piece: what was watched longest ago goes first.

use std::rc::Rc;

use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::host::Host;
use crate::swarm::Verdict;

/// Evicted at a time, so that not every piece evicts another.
const ROOM_MADE: u64 = 16 * 1024 * 1024;

/// Lets torrents that nobody has open go, whole, before room is needed: unlinking them takes
/// longer than a shard may stand still. Whether that is under way.
pub fn clear_ahead(shard: &Rc<Shard>) -> bool {
    let store = &shard.shared.store;
    if let Some(job) = store.clear_job(shard.now()) {
        // It runs whether or not anybody waits for it.
        drop(runtime::blocking(move || {
            if let Err(error) = job.run() {
                tracing::warn!(%error, "idle torrents were not removed");
            }
        }));
    }
    store.is_clearing()
}

/// Whether `bytes` more fit now. Where [`clear_ahead`] was not enough, pieces of the swarms on this
/// shard go, the one watched longest ago first; never what a reader or an upload is using.
pub fn make(shard: &Rc<Shard>, bytes: u64) -> bool {
    let store = &shard.shared.store;
    let clearing = clear_ahead(shard);
    let at_once = if clearing { bytes } else { ROOM_MADE };
    let wanted = bytes.max(at_once).max(store.over_limit(bytes));
    let mut freed = 0;
    let mut hosts = shard.roster.all();
    hosts.sort_by_key(|host| (!host.readers.borrow().is_empty(), host.watched_at.get()));
    for host in hosts {
        if freed >= wanted {
            break;
        }
        freed += evict(&host, wanted - freed);
    }
    freed >= bytes && store.over_limit(bytes) == 0
}

fn evict(host: &Rc<Host>, bytes: u64) -> u64 {
    let lost = {
        let swarm = host.swarm.borrow();
        host.shelf.evict(bytes, |piece| swarm.evictable(piece))
    };
    let mut freed = 0;
    for piece in &lost {
        freed += host.piece_len(*piece);
        host.swarm
            .borrow_mut()
            .handle_piece(runtime::now(), *piece, Verdict::Lost);
    }
    if let Some(stored) = host.stored.get() {
        stored.remove(freed);
    }
    if !lost.is_empty() {
        // What was evicted is given back to the disk once the journal says so.
        let host = host.clone();
        runtime::spawn(async move { host.sync().await });
    }
    freed
}
