//! Room: what the store takes of the disk, and which torrents go first when it is too much.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};

use crate::store::Disk;
use crate::store::Store;
use crate::store::catalog::TORRENT;
use crate::store::files::blocks_len;
use crate::store::files::open_beneath;
use crate::store::resume;
use crate::units::{InfoHash, Time};

/// Torrents that are remembered; beyond it the longest idle go when the store is opened.
const TORRENTS_MAX: usize = 16_384;
/// Kept free ahead of those who write, who cannot wait until something is removed.
const AHEAD: u64 = 256 << 20;
/// The same as a part of a small store.
const AHEAD_DIVISOR: u64 = 4;
/// When no idle torrent was left, it is looked again only after so long.
const BARREN_PAUSE: Duration = Duration::from_secs(10);
/// A torrent on its way out, so that none opens it any more.
const GONE: &str = "gone-";

/// A torrent's directory as it lies on the disk.
struct Idle {
    name: String,
    /// Seconds and nanoseconds of the wall clock: when its journal last changed.
    watched: (i64, u64),
    /// Bytes of disk blocks.
    len: u64,
}

/// Idle torrents to remove; see [`Store::clear_job`].
pub struct ClearJob {
    store: Arc<Store>,
    begun: Time,
}

impl ClearJob {
    /// How many bytes are free now that were not. Waits for the disk: for a blocking thread.
    pub fn run(self) -> Result<u64, Disk> {
        let store = &self.store;
        let freed = store.evict_idle(store.shortage(store.ahead())?);
        if !matches!(freed, Ok(1..)) {
            let until = self.begun + BARREN_PAUSE;
            let until = until.as_millis();
            store.barren_until.store(until, Ordering::Relaxed);
        }
        freed
    }
}

impl Drop for ClearJob {
    fn drop(&mut self) {
        self.store.clearing.store(false, Ordering::Release);
    }
}

impl Store {
    /// To be run when there is one: room is getting scarce, and torrents that nobody has open may
    /// go. One at a time.
    pub fn clear_job(self: &Arc<Self>, now: Time) -> Option<ClearJob> {
        let barren = now.as_millis() < self.barren_until.load(Ordering::Relaxed);
        let scarce = || self.shortage(self.ahead()).is_ok_and(|bytes| bytes > 0);
        if barren || !scarce() || self.clearing.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(ClearJob {
            store: Arc::clone(self),
            begun: now,
        })
    }

    /// Whether a [`ClearJob`] is out, so that there is more room soon.
    pub fn is_clearing(&self) -> bool {
        self.clearing.load(Ordering::Relaxed)
    }

    fn ahead(&self) -> u64 {
        let limit = self.limits.limit.unwrap_or(u64::MAX);
        AHEAD.min(limit / AHEAD_DIVISOR)
    }

    /// By how many bytes the store would be over its own limit with `bytes` more.
    pub fn over_limit(&self, bytes: u64) -> u64 {
        let limit = self.limits.limit.unwrap_or(u64::MAX);
        self.used().saturating_add(bytes).saturating_sub(limit)
    }

    /// How many bytes must go before `bytes` more may come; zero if there is room.
    pub fn shortage(&self, bytes: u64) -> Result<u64, Disk> {
        self.shortage_with(bytes, 0)
    }

    /// `pending`: bytes not counted any more whose disk blocks are still to be given back.
    pub(crate) fn shortage_with(&self, bytes: u64, pending: u64) -> Result<u64, Disk> {
        let over_limit = self.over_limit(bytes);
        let disk = rustix::fs::fstatvfs(&self.dir).map_err(io::Error::from)?;
        let percent = u64::from(self.limits.reserve_percent);
        let share = (disk.f_blocks / 100).saturating_mul(percent.saturating_mul(disk.f_frsize));
        let reserve = self.limits.reserve.max(share);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let free = free.saturating_add(pending);
        let over_disk = reserve.saturating_add(bytes).saturating_sub(free);
        Ok(over_limit.max(over_disk))
    }

    /// Removes whole torrents that no swarm has open, the least recently used first, until `bytes`
    /// are free; returns how many are. Waits for the disk: for a blocking thread.
    pub fn evict_idle(&self, bytes: u64) -> Result<u64, Disk> {
        let mut idle = self.torrents()?;
        idle.sort_by_key(|torrent| torrent.watched);
        let mut freed = 0;
        for torrent in idle {
            if freed >= bytes {
                break;
            }
            if torrent.len > 0 {
                freed += self.remove(&torrent.name)?;
            }
        }
        Ok(freed)
    }

    pub(crate) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Never below zero: somebody may have removed files behind our back.
    pub(crate) fn credit(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Counts what is there, and ends removals that were cut off.
    pub(super) fn survey(&self) -> io::Result<()> {
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name.starts_with(GONE) {
                self.remove_gone(&name)?;
            }
        }
        let mut torrents = self.torrents()?;
        self.charge(torrents.iter().map(|torrent| torrent.len).sum());
        if torrents.len() > TORRENTS_MAX {
            torrents.sort_by_key(|torrent| torrent.watched);
            let surplus = torrents.len() - TORRENTS_MAX;
            for torrent in &torrents[..surplus] {
                self.remove(&torrent.name)?;
            }
        }
        Ok(())
    }

    fn torrents(&self) -> io::Result<Vec<Idle>> {
        let mut out = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = InfoHash::parse(&name).is_some_and(|hash| hash.to_string() == name);
            if !ours {
                continue;
            }
            // What is no directory of ours is left alone.
            let Ok(dir) = self.open_dir(&name) else {
                continue;
            };
            let (len, watched) = measure(&dir)?;
            out.push(Idle { name, watched, len });
        }
        Ok(out)
    }

    fn open_dir(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(open_beneath(&self.dir, name, flags, Mode::empty())?.into())
    }

    /// How many bytes that freed; none if a swarm has it open.
    fn remove(&self, name: &str) -> io::Result<u64> {
        let Ok(dir) = self.open_dir(name) else {
            return Ok(0);
        };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(0);
        }
        // A swarm may have had it open since it was listed.
        let (len, _) = measure(&dir)?;
        let gone = format!("{GONE}{name}");
        rustix::fs::renameat(&self.dir, name, &self.dir, &gone)?;
        let removed = self.remove_gone(&gone);
        // Only now is there room, and only so much.
        let left = measure(&dir).map_or(0, |(left, _)| left);
        let freed = len.saturating_sub(left);
        self.credit(freed);
        removed.map(|()| freed)
    }

    fn remove_gone(&self, name: &str) -> io::Result<()> {
        let dir = self.open_dir(name)?;
        for file in Dir::read_from(dir.as_fd())? {
            let file = file?;
            // Nothing of ours lies deeper; a directory planted there stays and is told of.
            if file.file_type() != FileType::Directory {
                rustix::fs::unlinkat(&dir, file.file_name(), AtFlags::empty())?;
            }
        }
        rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }
}

/// Bytes of disk blocks under a torrent's files, and when its journal last changed, by the wall
/// clock.
fn measure(dir: &OwnedFd) -> io::Result<(u64, (i64, u64))> {
    let (mut len, mut watched) = (0, (0, 0));
    for file in Dir::read_from(dir)? {
        let file = file?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(dir, file.file_name(), flags) else {
            continue;
        };
        let name = file.file_name().to_bytes();
        if name == resume::NAME.as_bytes() || name == TORRENT.as_bytes() {
            watched = watched.max((stat.st_mtime, stat.st_mtime_nsec));
        } else if name.iter().all(u8::is_ascii_digit) {
            len += blocks_len(&stat);
        }
    }
    Ok((len, watched))
}
