//! Room: what the store takes of the disk, and which torrents go first when it is too much.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};

use crate::store::Disk;
use crate::store::Store;
use crate::store::catalog::TORRENT;
use crate::store::files::blocks_len;
use crate::store::files::open_beneath;
use crate::store::resume;
use crate::units::InfoHash;

/// Torrents that are remembered; beyond it the longest idle go when the store is opened.
const TORRENTS_MAX: usize = 16_384;
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

impl Store {
    /// How many bytes must go before `bytes` more may come; zero if there is room.
    pub fn shortage(&self, bytes: u64) -> Result<u64, Disk> {
        self.shortage_with(bytes, 0)
    }

    /// `pending`: bytes not counted any more whose disk blocks are still to be given back.
    pub(crate) fn shortage_with(&self, bytes: u64, pending: u64) -> Result<u64, Disk> {
        let limit = self.limits.limit.unwrap_or(u64::MAX);
        let over_limit = self.used().saturating_add(bytes).saturating_sub(limit);
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
            if torrent.len > 0 && self.remove(&torrent)? {
                freed += torrent.len;
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
                self.remove(torrent)?;
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
            let mut torrent = Idle {
                name,
                watched: (0, 0),
                len: 0,
            };
            for file in Dir::read_from(&dir)? {
                let file = file?;
                let Ok(stat) =
                    rustix::fs::statat(&dir, file.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                else {
                    continue;
                };
                let name = file.file_name().to_bytes();
                if name == resume::NAME.as_bytes() || name == TORRENT.as_bytes() {
                    let changed = (stat.st_mtime, stat.st_mtime_nsec);
                    torrent.watched = torrent.watched.max(changed);
                } else if name.iter().all(u8::is_ascii_digit) {
                    torrent.len += blocks_len(&stat);
                }
            }
            out.push(torrent);
        }
        Ok(out)
    }

    fn open_dir(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(open_beneath(&self.dir, name, flags, Mode::empty())?.into())
    }

    /// False if a swarm has it open.
    fn remove(&self, torrent: &Idle) -> io::Result<bool> {
        let Ok(dir) = self.open_dir(&torrent.name) else {
            return Ok(false);
        };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let gone = format!("{GONE}{}", torrent.name);
        rustix::fs::renameat(&self.dir, &torrent.name, &self.dir, &gone)?;
        self.credit(torrent.len);
        self.remove_gone(&gone)?;
        Ok(true)
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
