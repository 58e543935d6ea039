//! A swarm's store on its shard: written as bytes come, served from its mapping, kept durable.

use std::cell::Cell;
use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::Notify;

use crate::ring::runtime;
use crate::store::Disk;
use crate::store::Hash;
use crate::store::Parts;
use crate::store::Progress;
use crate::store::Settled;
use crate::store::Torrent;
use crate::swarm::Verdict;
use crate::swarm::losses::PAUSE_MAX;
use crate::units::ByteRange;
use crate::units::PieceIndex;
use crate::units::Time;

/// Readers go round a store whose disk was found full for so long: until the swarm surely asks for
/// pieces again.
const FULL_PAUSE: Duration = PAUSE_MAX;

/// None until the metainfo is known.
#[derive(Default)]
pub struct Shelf {
    torrent: RefCell<Option<Torrent>>,
    /// Until then nothing is stored: the disk is full and readers go to the origin.
    full_until: Cell<Time>,
    /// Pieces verified in this run.
    good: Cell<u64>,
    /// Jobs on blocking threads, which hold the torrent open.
    jobs: Cell<u32>,
    job_done: Notify,
    closing: Cell<bool>,
}

impl Shelf {
    pub fn open(&self, torrent: Torrent) {
        *self.torrent.borrow_mut() = Some(torrent);
    }

    pub fn good(&self) -> u64 {
        self.good.get()
    }

    /// Whether readers must go round the store because the disk is full.
    pub fn is_full(&self, now: Time) -> bool {
        now < self.full_until.get()
    }

    /// Writes bytes of one piece, in parts that follow each other; its verdict, once all of it is
    /// there. `make_room` is called where the store has none, `wants_digests` where the piece is
    /// good.
    pub fn write(
        &self,
        now: Time,
        range: ByteRange,
        parts: &[&[u8]],
        hash: Hash,
        make_room: impl FnOnce(u64) -> bool,
        wants_digests: impl FnOnce(PieceIndex) -> bool,
    ) -> Option<(PieceIndex, Verdict)> {
        let (piece, wanted, mut outcome) = {
            let mut torrent = self.torrent.borrow_mut();
            let torrent = torrent.as_mut()?;
            let piece = torrent.layout().piece_of(range.start);
            let wanted = u64::from(torrent.layout().piece_len(piece));
            let room = if torrent.has_begun(piece) {
                Ok(())
            } else {
                torrent.room_for(wanted)
            };
            (
                piece,
                wanted,
                room.and_then(|()| torrent.write_run(now, range, parts, hash)),
            )
        };
        // Making room evicts from this very store, too.
        if matches!(outcome, Err(Disk::Full)) && make_room(wanted) {
            outcome = self
                .torrent
                .borrow_mut()
                .as_mut()?
                .write_run(now, range, parts, hash);
        }
        let verdict = self.verdict(now, piece, outcome, wants_digests)?;
        Some((piece, verdict))
    }

    /// Hashes a little of what was written before; the outer `None` if nothing is left.
    pub fn hash_some(
        &self,
        now: Time,
        wants_digests: impl FnOnce(PieceIndex) -> bool,
    ) -> Option<Option<(PieceIndex, Verdict)>> {
        let (piece, outcome) = self.torrent.borrow_mut().as_mut()?.hash_some(now)?;
        let verdict = self.verdict(now, piece, outcome, wants_digests);
        Some(verdict.map(|verdict| (piece, verdict)))
    }

    fn verdict(
        &self,
        now: Time,
        piece: PieceIndex,
        outcome: Result<Progress, Disk>,
        wants_digests: impl FnOnce(PieceIndex) -> bool,
    ) -> Option<Verdict> {
        let mut torrent = self.torrent.borrow_mut();
        let torrent = torrent.as_mut()?;
        let verdict = match outcome {
            Ok(Progress::Partial) => return None,
            Ok(Progress::Good) => {
                self.good.set(self.good.get() + 1);
                let digests = wants_digests(piece).then(|| torrent.block_digests(piece).ok());
                Verdict::Good {
                    digests: digests.flatten(),
                }
            }
            Ok(Progress::Bad) => match torrent.block_digests(piece) {
                Ok(digests) => Verdict::Bad { digests },
                Err(_) => Verdict::Lost,
            },
            Err(error) => {
                tracing::warn!(%error, "a piece could not be stored");
                self.full_until.set(now + FULL_PAUSE);
                Verdict::Lost
            }
        };
        if !matches!(verdict, Verdict::Good { .. }) {
            torrent.forget(piece);
        }
        Some(verdict)
    }

    pub fn forget(&self, piece: PieceIndex) {
        if let Some(torrent) = self.torrent.borrow_mut().as_mut() {
            torrent.forget(piece);
        }
    }

    /// Verified bytes as they are sent; `ahead` bytes more are asked of the disk.
    pub fn parts(&self, now: Time, range: ByteRange, ahead: u64) -> Result<Parts, Disk> {
        let mut torrent = self.torrent.borrow_mut();
        let torrent = torrent.as_mut().ok_or(Disk::Truncated)?;
        for piece in torrent.layout().pieces_of(range) {
            torrent.touch(now, PieceIndex(piece));
        }
        let end = torrent
            .layout()
            .length()
            .min(range.end.saturating_add(ahead));
        if end > range.end {
            torrent.will_need(ByteRange::new(range.end, end));
        }
        torrent.parts(range)
    }

    /// A copy of stored bytes, for looking at them.
    pub fn read(&self, range: ByteRange) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.len()).ok()?];
        self.torrent
            .borrow()
            .as_ref()?
            .read(range, &mut bytes)
            .ok()?;
        Some(bytes)
    }

    /// What the disk no longer gives of `range`, and whatever else was cut off with it.
    pub fn lose(&self, range: ByteRange) -> Vec<PieceIndex> {
        let mut torrent = self.torrent.borrow_mut();
        let Some(torrent) = torrent.as_mut() else {
            return Vec::new();
        };
        let mut lost = torrent.lose_truncated();
        for piece in torrent.layout().pieces_of(range).map(PieceIndex) {
            if !lost.contains(&piece) {
                torrent.lose(piece);
                lost.push(piece);
            }
        }
        lost
    }

    /// Loses pieces worth `bytes` that `may` go, the least recently watched first.
    pub fn evict(&self, bytes: u64, may: impl Fn(PieceIndex) -> bool) -> Vec<PieceIndex> {
        let mut torrent = self.torrent.borrow_mut();
        torrent
            .as_mut()
            .map(|torrent| torrent.evict(bytes, may))
            .unwrap_or_default()
    }

    pub fn sync_due(&self, now: Time) -> bool {
        self.torrent
            .borrow()
            .as_ref()
            .is_some_and(|torrent| torrent.sync_due(now))
    }

    /// Makes what was verified durable, off the shard.
    pub async fn sync(&self) -> Settled {
        let Some(job) = self.job(Torrent::sync_job) else {
            return Settled::default();
        };
        let synced = self.run(move || job.run()).await;
        let mut torrent = self.torrent.borrow_mut();
        let Some(torrent) = torrent.as_mut() else {
            return Settled::default();
        };
        match synced {
            Ok(synced) => torrent.handle_synced(synced),
            Err(error) => {
                tracing::error!(%error, "the store was not made durable");
                torrent.handle_unsynced();
                Settled::default()
            }
        }
    }

    /// Hashes some of the pieces of an earlier run that are in doubt, off the shard; `None` once
    /// there are no more.
    pub async fn rehash(&self) -> Option<Settled> {
        let job = self.job(Torrent::rehash_job)?;
        match self.run(move || job.run()).await {
            Ok(rehashed) => {
                let mut torrent = self.torrent.borrow_mut();
                torrent
                    .as_mut()
                    .map(|torrent| torrent.handle_rehashed(rehashed))
            }
            Err(error) => {
                tracing::error!(%error, "stored pieces were not checked");
                None
            }
        }
    }

    /// Ends the store in order, off the shard: everything in it is durable and needs no second
    /// look. Waits for the jobs that are out. Then the torrent may be opened anew.
    pub async fn close(&self) {
        self.closing.set(true);
        while self.jobs.get() > 0 {
            self.job_done.notified().await;
        }
        let Some(torrent) = self.torrent.borrow_mut().take() else {
            return;
        };
        match runtime::blocking(move || torrent.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store did not close cleanly"),
            Err(error) => tracing::warn!(%error, "the store was left as it is"),
        }
    }

    fn job<J>(&self, make: impl FnOnce(&mut Torrent) -> Option<J>) -> Option<J> {
        let mut torrent = self.torrent.borrow_mut();
        torrent
            .as_mut()
            .filter(|_| !self.closing.get())
            .and_then(make)
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<T> {
        self.jobs.set(self.jobs.get() + 1);
        let done = runtime::blocking(job).await;
        self.jobs.set(self.jobs.get() - 1);
        self.job_done.notify_waiters();
        done
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::store::Limits;
    use crate::store::Store;
    use crate::torrent::metainfo;
    use crate::torrent::metainfo::Metainfo;

    /// The journal's last word after a clean end.
    const CLOSED: u8 = 9;

    #[test]
    fn a_close_waits_for_the_sync_that_is_out() {
        let dir = tempfile::tempdir().unwrap();
        let film = vec![7; 100_000];
        let meta = Metainfo::parse(&metainfo::make("film", 65_536, &film)).unwrap();
        let limits = Limits {
            reserve: 0,
            reserve_percent: 0,
            ..Limits::default()
        };
        let store = Store::open(dir.path(), limits).unwrap();
        let shelf = Rc::new(Shelf::default());
        let mut torrent = store.open_torrent(&meta).unwrap();
        let first = meta.layout.piece_range(PieceIndex(0));
        torrent.write(Time::ZERO, first, &film[..65_536]).unwrap();
        shelf.open(torrent);
        runtime::run(async {
            let syncing = {
                let shelf = shelf.clone();
                runtime::spawn(async move { shelf.sync().await })
            };
            while shelf.jobs.get() == 0 {
                runtime::breathe().await;
            }
            shelf.close().await;
            assert_eq!(shelf.jobs.get(), 0);
            drop(syncing);
        })
        .unwrap();
        // Trusted as it is, though nobody may write to it any more.
        let journal = dir.path().join(meta.info_hash.to_string()).join("journal");
        let journal = std::fs::read(journal).unwrap();
        let last = journal.chunks(32).rfind(|record| record[0] != 0).unwrap();
        assert_eq!(last[0], CLOSED);
        let torrent = store.open_torrent(&meta).unwrap();
        assert_eq!(torrent.have().count_ones(..), 1);
    }
}
