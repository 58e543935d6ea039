//! The registry on disk: a torrent a file, and beside each a record that names it.
//!
//! `<SHA-1 of the video's URL>.json` names `<the same>-<SHA-1 of the torrent>.torrent`, and is
//! replaced in one step once that is written: whatever a crash leaves, a record that can be read
//! is of a torrent that is whole.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::torrent::hasher::Hasher;
use crate::torrent::metainfo::TORRENT_LEN_MAX;
use crate::tracker::registry::entry::Record;
use crate::units::InfoHash;

/// Bytes of a record.
const RECORD_LEN_MAX: u64 = 64 * 1024;

pub struct Shelf {
    dir: PathBuf,
    /// The torrent's SHA-1, by the video's URL.
    digests: BTreeMap<String, Digest>,
}

type Digest = [u8; 20];

#[derive(Serialize, Deserialize)]
struct Card {
    #[serde(flatten)]
    record: Record,
    /// SHA-1 of the .torrent, forty hex digits.
    torrent: String,
}

impl Shelf {
    /// Makes the directory if need be, and reads what is there. What cannot be read is left out,
    /// torrents that nothing names are removed.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<Record>)> {
        fs::create_dir_all(dir)?;
        let mut shelf = Self {
            dir: dir.to_owned(),
            digests: BTreeMap::new(),
        };
        let mut records = Vec::new();
        let (mut torrents, mut named) = (Vec::new(), BTreeSet::new());
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            match path.extension().and_then(OsStr::to_str) {
                Some("torrent" | "new") if is_ours(&path) => torrents.push(path),
                Some("json") => match shelf.read_card(&path) {
                    Ok((record, digest)) => {
                        named.insert(shelf.torrent_path(&record.url, digest));
                        shelf.digests.insert(record.url.clone(), digest);
                        records.push(record);
                    }
                    Err(error) => {
                        tracing::warn!(%error, path = %path.display(), "a record is passed over");
                    }
                },
                _ => {}
            }
        }
        for path in torrents.iter().filter(|path| !named.contains(*path)) {
            fs::remove_file(path)?;
        }
        Ok((shelf, records))
    }

    pub fn store(&mut self, record: Record, torrent: &[u8]) -> io::Result<()> {
        let digest = Hasher::digest(torrent);
        let old = self.digests.get(&record.url).copied();
        write(&self.torrent_path(&record.url, digest), torrent)?;
        let url = record.url.clone();
        self.write_card(record, digest)?;
        self.digests.insert(url.clone(), digest);
        match old {
            Some(old) if old != digest => fs::remove_file(self.torrent_path(&url, old)),
            _ => Ok(()),
        }
    }

    /// Another record for the torrent that is there.
    pub fn note(&self, record: Record) -> io::Result<()> {
        match self.digests.get(&record.url) {
            Some(digest) => self.write_card(record, *digest),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The torrent, if it is there and whole.
    pub fn read(&self, url: &str) -> io::Result<Vec<u8>> {
        let digest = self.digests.get(url).ok_or(io::ErrorKind::NotFound)?;
        let path = self.torrent_path(url, *digest);
        let mut torrent = Vec::new();
        let most = TORRENT_LEN_MAX as u64 + 1;
        File::open(path)?.take(most).read_to_end(&mut torrent)?;
        if Hasher::digest(&torrent) != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"));
        }
        Ok(torrent)
    }

    pub fn delete(&mut self, url: &str) -> io::Result<()> {
        let Some(digest) = self.digests.remove(url) else {
            return Ok(());
        };
        fs::remove_file(self.card_path(url))?;
        fs::remove_file(self.torrent_path(url, digest))
    }

    fn read_card(&self, path: &Path) -> io::Result<(Record, Digest)> {
        let mut text = String::new();
        File::open(path)?
            .take(RECORD_LEN_MAX)
            .read_to_string(&mut text)?;
        let card: Card = serde_json::from_str(&text)?;
        let bad = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let InfoHash(digest) = InfoHash::parse(&card.torrent).ok_or_else(|| bad("no hash"))?;
        if self.card_path(&card.record.url) != path {
            return Err(bad("it is of another video than its name says"));
        }
        let about = fs::metadata(self.torrent_path(&card.record.url, digest))?;
        if about.len() != card.record.torrent_len {
            return Err(bad("its torrent has another length"));
        }
        Ok((card.record, digest))
    }

    fn write_card(&self, record: Record, digest: Digest) -> io::Result<()> {
        let path = self.card_path(&record.url);
        let torrent = InfoHash(digest).to_string();
        let card = serde_json::to_vec(&Card { record, torrent })?;
        write(&path, &card)
    }

    fn card_path(&self, url: &str) -> PathBuf {
        self.dir.join(format!("{}.json", name(url)))
    }

    fn torrent_path(&self, url: &str, digest: Digest) -> PathBuf {
        let digest = InfoHash(digest);
        self.dir.join(format!("{}-{digest}.torrent", name(url)))
    }
}

fn name(url: &str) -> InfoHash {
    InfoHash(Hasher::digest(url.as_bytes()))
}

/// Of this directory's files only those that look like ours are ever removed.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let hash = name.get(..40);
    hash.is_some_and(|hash| InfoHash::parse(hash).is_some())
}

/// In one step, and durably.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let dir = path.parent().expect("it lies in a directory");
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::registry::entry::By;

    fn record(url: &str, torrent: &[u8]) -> Record {
        Record {
            url: url.to_owned(),
            info_hash: "0".repeat(40),
            torrent_len: torrent.len() as u64,
            by: By::Auto,
            etag: Some("\"v1\"".to_owned()),
            last_modified: None,
            length: 9,
        }
    }

    fn files(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_is_stored_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("made");
        let (mut shelf, none) = Shelf::open(dir).unwrap();
        assert!(none.is_empty());
        for torrent in [&b"one"[..], b"one", b"another"] {
            shelf.store(record("http://a/1", torrent), torrent).unwrap();
            assert_eq!(shelf.read("http://a/1").unwrap(), torrent);
            assert_eq!(files(dir), 2);
        }
        let mut noted = record("http://a/1", b"another");
        noted.etag = Some("\"v2\"".to_owned());
        shelf.note(noted.clone()).unwrap();
        shelf.store(record("http://b/2", b"two"), b"two").unwrap();
        let (mut shelf, mut records) = Shelf::open(dir).unwrap();
        records.sort_by(|one, other| one.url.cmp(&other.url));
        assert_eq!(records, [noted, record("http://b/2", b"two")]);
        assert_eq!(shelf.read("http://a/1").unwrap(), b"another");
        shelf.delete("http://a/1").unwrap();
        shelf.delete("http://a/1").unwrap();
        assert!(shelf.read("http://a/1").is_err());
        assert!(shelf.note(record("http://a/1", b"")).is_err());
        assert_eq!(files(dir), 2);
    }

    #[test]
    fn what_a_crash_leaves_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (mut shelf, _) = Shelf::open(dir).unwrap();
        shelf.store(record("http://a/1", b"one"), b"one").unwrap();
        shelf.store(record("http://b/2", b"two"), b"two").unwrap();
        shelf
            .store(record("http://c/3", b"three"), b"three")
            .unwrap();
        // Written, and never named; half a record; a record whose torrent is cut; what is not ours.
        let digest = Hasher::digest(b"new");
        fs::write(shelf.torrent_path("http://a/1", digest), b"new").unwrap();
        fs::write(dir.join(format!("{}.json.new", name("http://x"))), b"{").unwrap();
        fs::write(shelf.card_path("http://b/2"), b"{\"url\":\"htt").unwrap();
        let cut = shelf.torrent_path("http://c/3", Hasher::digest(b"three"));
        fs::write(cut, b"thr").unwrap();
        fs::write(dir.join("mine.torrent"), b"x").unwrap();
        let (shelf, records) = Shelf::open(dir).unwrap();
        assert_eq!(records, [record("http://a/1", b"one")]);
        assert_eq!(shelf.read("http://a/1").unwrap(), b"one");
        // Two records that cannot be read, what is not ours, and the one that is good.
        assert_eq!(files(dir), 5);
        // Another length shows at the start; other bytes when they are read.
        let path = shelf.torrent_path("http://a/1", Hasher::digest(b"one"));
        fs::write(path, b"eno").unwrap();
        assert!(Shelf::open(dir).unwrap().0.read("http://a/1").is_err());
    }
}
