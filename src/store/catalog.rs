//! What is known of videos: the metainfo of each torrent, and which one a video's URL names.
//!
//! One small file an entry, put in place by rename: shards need no lock, and a torn write is none.

use std::io::{self, Read as _};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::store::Store;
use crate::store::files::open_beneath;
use crate::torrent::metainfo::Metainfo;
use crate::units::InfoHash;

const CATALOG: &str = "catalog";
pub(crate) const TORRENT: &str = "torrent";
/// URLs that are remembered; beyond it a tenth goes, the oldest first.
const ENTRIES_MAX: usize = 10_000;
const ENTRY_LEN_MAX: u64 = 64 * 1024;
/// Metainfo that peers sent may be this long, with its trackers (R30).
const TORRENT_LEN_MAX: u64 = 32 << 20;

#[derive(Serialize, Deserialize)]
struct Entry {
    url: String,
    info_hash: String,
    validator: String,
}

impl Store {
    /// Keeps the metainfo for the next start, and that `url` (with the origin's validator) is this
    /// torrent. What cannot be kept is looked for again.
    pub fn remember(&self, meta: &Metainfo, url: Option<(&str, &str)>) {
        let kept = self.keep_torrent(meta).and_then(|()| match url {
            Some((url, validator)) => self.keep_url(url, validator, meta.info_hash),
            None => Ok(()),
        });
        if let Err(error) = kept {
            tracing::warn!(info_hash = %meta.info_hash, %error, "metainfo not kept");
        }
    }

    /// What [`Store::remember`] was told of this URL: the torrent, and the validator it had then.
    pub fn recall_url(&self, url: &str) -> Option<(InfoHash, String)> {
        let dir = self.open_catalog().ok()?;
        let bytes = read(&dir, &entry_name(url), ENTRY_LEN_MAX)?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        let info_hash = InfoHash::parse(&entry.info_hash)?;
        (entry.url == url).then_some((info_hash, entry.validator))
    }

    /// Whether there is anything of this torrent.
    pub fn keeps(&self, info_hash: InfoHash) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.dir, info_hash.to_string(), flags).is_ok()
    }

    /// How long the metainfo is that [`Store::recall_hash`] reads.
    pub fn kept_len(&self, info_hash: InfoHash) -> Option<u64> {
        let path = format!("{info_hash}/{TORRENT}");
        let stat = rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// Takes long for a long one.
    pub fn recall_hash(&self, info_hash: InfoHash) -> Option<Metainfo> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open_beneath(&self.dir, &info_hash.to_string(), flags, Mode::empty()).ok()?;
        let meta = Metainfo::parse(&read(&dir, TORRENT, TORRENT_LEN_MAX)?).ok()?;
        (meta.info_hash == info_hash).then_some(meta)
    }

    fn keep_torrent(&self, meta: &Metainfo) -> io::Result<()> {
        let dir = self.make_dir(&meta.info_hash.to_string())?;
        self.put(&dir, TORRENT, &meta.to_torrent())
    }

    fn keep_url(&self, url: &str, validator: &str, info_hash: InfoHash) -> io::Result<()> {
        let entry = Entry {
            url: url.to_owned(),
            info_hash: info_hash.to_string(),
            validator: validator.to_owned(),
        };
        let bytes = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        if bytes.len() as u64 > ENTRY_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let dir = self.make_dir(CATALOG)?;
        let name = entry_name(url);
        let known = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.put(&dir, &name, &bytes)?;
        if !known && self.catalogued.fetch_add(1, Ordering::Relaxed) >= ENTRIES_MAX {
            self.thin_catalog(&dir)?;
        }
        Ok(())
    }

    /// Also counts its entries.
    pub(super) fn open_catalog(&self) -> io::Result<std::os::fd::OwnedFd> {
        let dir = self.make_dir(CATALOG)?;
        if self.catalogued.load(Ordering::Relaxed) == 0 {
            let count = Dir::read_from(&dir)?.count();
            self.catalogued.store(count, Ordering::Relaxed);
        }
        Ok(dir)
    }

    fn thin_catalog(&self, dir: &std::os::fd::OwnedFd) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_owned();
            let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            entries.push(((stat.st_mtime, stat.st_mtime_nsec), name));
        }
        entries.sort();
        let surplus = entries.len().saturating_sub(ENTRIES_MAX / 10 * 9);
        for (_, name) in &entries[..surplus] {
            // The directory's own two names refuse.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        self.catalogued
            .store(entries.len() - surplus, Ordering::Relaxed);
        Ok(())
    }
}

fn entry_name(url: &str) -> String {
    InfoHash(Sha1::digest(url.as_bytes()).into()).to_string()
}

fn read(dir: &impl std::os::fd::AsFd, name: &str, len_max: u64) -> Option<Vec<u8>> {
    let file = open_beneath(dir, name, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    file.take(len_max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= len_max).then_some(bytes)
}
