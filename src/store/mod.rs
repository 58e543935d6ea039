//! Pieces on disk: verified as blocks arrive, mapped for serving, evicted under a quota.

mod arrival;
mod catalog;
mod evict;
mod external;
mod files;
mod footprint;
mod ledger;
pub mod names;
mod part;
mod rehash;
mod resume;
mod standing;
mod sync;
#[cfg(test)]
mod tests;
mod torrent;
mod verify;

pub use crate::store::arrival::{Hash, Progress};
pub use crate::store::evict::ClearJob;
pub use crate::store::external::open_external;
pub use crate::store::part::{Part, Parts};
pub use crate::store::rehash::{RehashJob, Rehashed};
pub use crate::store::sync::{SyncJob, Synced};
pub use crate::store::torrent::{Settled, Torrent};

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::store::files::open_beneath;
use crate::store::resume::BootId;
use crate::torrent::metainfo::Metainfo;
use crate::units::InfoHash;

const LOCK: &str = "lock";
/// Of the lock's text that is shown.
const NOTE_LEN_MAX: u64 = 1024;
/// How often a torrent's directory is tried again that eviction takes away meanwhile.
const LOCK_TRIES: u32 = 20;

/// What a disk did to us; a torrent's fault, never the process's.
#[derive(Debug, thiserror::Error)]
pub enum Disk {
    /// No room: the disk, its quota, or the store's own limit.
    #[error("the store or its disk is full")]
    Full,
    #[error("the disk failed: {0}")]
    Io(io::Error),
    /// A piece file is shorter than it was; see [`Torrent::lose_truncated`].
    #[error("a piece file was cut short")]
    Truncated,
}

impl From<io::Error> for Disk {
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full,
            _ if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another stub uses it; `by` is what that one noted. Exit 73.
    #[error("another stub uses this store{}", .by.as_ref().map(|by| format!(": {by}")).unwrap_or_default())]
    Busy { by: Option<String> },
    #[error("the store cannot be opened: {0}")]
    Io(#[from] io::Error),
}

/// How much of the disk a store may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all torrents together (`--store-limit`).
    pub limit: Option<u64>,
    /// Bytes left free on the disk.
    pub reserve: u64,
    /// Left free at least, in hundredths of the disk.
    pub reserve_percent: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            limit: None,
            reserve: 1 << 30,
            reserve_percent: 2,
        }
    }
}

/// The store directory. One process's, shared by its shards: only counters change in memory, and
/// what is on disk changes by atomic renames.
pub struct Store {
    path: PathBuf,
    dir: OwnedFd,
    lock: File,
    limits: Limits,
    boot: BootId,
    /// Bytes: pieces of open torrents, disk blocks of the others.
    used: AtomicU64,
    catalogued: AtomicUsize,
    renames: AtomicU64,
    /// A [`ClearJob`] is out.
    clearing: AtomicBool,
    /// Nothing idle was left: when to look again, ms.
    barren_until: AtomicU64,
}

impl Store {
    /// Makes `dir` if need be. Reads every torrent's file sizes.
    pub fn open(dir: &Path, limits: Limits) -> Result<Arc<Self>, StoreError> {
        Self::open_at_boot(dir, limits, resume::boot_id())
    }

    fn open_at_boot(path: &Path, limits: Limits, boot: BootId) -> Result<Arc<Self>, StoreError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        let lock_flags = OFlags::RDWR | OFlags::CREATE;
        let lock = open_beneath(&dir, LOCK, lock_flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::Busy {
                    by: read_note(&lock),
                });
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let store = Self {
            path: path.to_owned(),
            dir,
            lock,
            limits,
            boot,
            used: AtomicU64::new(0),
            catalogued: AtomicUsize::new(0),
            renames: AtomicU64::new(0),
            clearing: AtomicBool::new(false),
            barren_until: AtomicU64::new(0),
        };
        store.note(&format!("process {}", std::process::id()));
        store.survey()?;
        store.open_catalog()?;
        Ok(Arc::new(store))
    }

    /// Says who holds the store, for the one who finds it busy.
    pub fn note(&self, text: &str) {
        // The lock holds without the note.
        let _ = self.lock.set_len(0);
        let _ = self.lock.write_all_at(text.as_bytes(), 0);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that all torrents take.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> Option<u64> {
        self.limits.limit
    }

    /// Opens a torrent's files for one swarm; quick, but it may wait for the disk. Pieces whose
    /// state is in doubt are [`Torrent::suspect`] and not in `have` until hashed. A torrent that is
    /// open already is [`io::ErrorKind::ResourceBusy`].
    pub fn open_torrent(self: &Arc<Self>, meta: &Metainfo) -> Result<Torrent, Disk> {
        let layout = Arc::new(meta.layout.clone());
        Torrent::open(self, meta.info_hash, layout, meta.hashes.as_slice().into())
    }

    /// The torrent's directory, made if need be and locked.
    fn torrent_dir(&self, info_hash: InfoHash) -> Result<OwnedFd, Disk> {
        let name = info_hash.to_string();
        for _ in 0..LOCK_TRIES {
            let dir = self.make_dir(&name)?;
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            // Eviction may have taken it away between the two.
            let ours = rustix::fs::fstat(&dir).map_err(io::Error::from)?;
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let there = rustix::fs::statat(&self.dir, &name, flags);
            if there.is_ok_and(|there| there.st_ino == ours.st_ino) {
                return Ok(dir);
            }
        }
        Err(Disk::Io(io::ErrorKind::ResourceBusy.into()))
    }

    fn make_dir(&self, name: &str) -> io::Result<OwnedFd> {
        match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(open_beneath(&self.dir, name, flags, Mode::empty())?.into())
    }

    /// Replaces `name` in `dir` by `bytes` in one step.
    fn put(&self, dir: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
        let turn = self.renames.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{name}.new{turn}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = open_beneath(&dir, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let put = file
            .write_all_at(bytes, 0)
            .and_then(|()| Ok(rustix::fs::renameat(&dir, &temporary, &dir, name)?));
        if put.is_err() {
            let _ = rustix::fs::unlinkat(&dir, &temporary, rustix::fs::AtFlags::empty());
        }
        put
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A child that is between fork and exec holds a copy of this descriptor.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

fn read_note(lock: &File) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    lock.take(NOTE_LEN_MAX).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}
