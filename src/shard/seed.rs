//! Swarms that are supplied from the user's own files (`bittube seed`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ring::runtime;
use crate::shard::SeedOrder;
use crate::shard::SeedProgress;
use crate::shard::Shard;
use crate::shard::host::Host;
use crate::store::Disk;
use crate::store::open_external;

/// Joins the swarm of a torrent whose files are the user's own; nothing is written to them.
pub async fn join(shard: Rc<Shard>, order: SeedOrder) {
    let SeedOrder {
        metainfo,
        data,
        progress,
    } = order;
    let (opening, watched) = (metainfo.clone(), progress.clone());
    let opened = runtime::blocking(move || {
        let mut torrent = open_external(&opening, &data)?;
        let mut before = 0;
        while let Some(mut job) = torrent.rehash_job() {
            let hashed = job.hashed();
            while job.step() {
                let all = before + hashed.load(Ordering::Relaxed);
                watched.bytes_checked.store(all, Ordering::Relaxed);
            }
            before += hashed.load(Ordering::Relaxed);
            torrent.handle_rehashed(job.finish());
        }
        Ok::<_, Disk>(torrent)
    });
    let torrent = match opened.await {
        Ok(Ok(torrent)) => torrent,
        Ok(Err(error)) => return give_up(&progress, error.to_string()),
        Err(error) => return give_up(&progress, error.to_string()),
    };
    let right = u32::try_from(torrent.have().count_ones(..)).unwrap_or(u32::MAX);
    progress.pieces_right.store(right, Ordering::Relaxed);
    let host = Host::start(&shard, metainfo.info_hash, metainfo.trackers.clone());
    host.ordered.set(true);
    host.know(Arc::new(metainfo), torrent);
    progress.state.store(1, Ordering::Release);
}

fn give_up(progress: &SeedProgress, why: String) {
    // Told once; the first reason stands.
    let _ = progress.failure.set(why);
    progress.state.store(2, Ordering::Release);
}
