//! A film on this disk: how long it plays, where its index lies, the hashes of its pieces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::stub::media;
use crate::torrent::duration;
use crate::torrent::hasher::Hasher;
use crate::torrent::metainfo::{bitrate, piece_len_for};
use crate::torrent::stream_hash::Hashed;

/// Top-level boxes of an MP4 that are walked; a real one has a dozen, a fragmented one thousands.
const BOXES_MAX: usize = 10_000;
/// An index longer than this is not read for its duration.
const INDEX_LEN_MAX: u64 = 64 << 20;
/// Bytes that one thread reads and hashes at a time.
const READ_LEN: usize = 256 << 10;
/// Threads that hash.
const HASHERS_MAX: usize = 8;

pub struct Film {
    file: File,
    stamp: Stamp,
}

/// What a file is known by: it changes when its bytes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub length: u64,
    /// Device and number: another file of the same name.
    file: (u64, u64),
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

/// What the container tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Container {
    pub plays: Option<Duration>,
    /// An MP4 whose index stands behind the media: a player must fetch the end before it can begin.
    pub index_at_end: bool,
}

/// A FIFO's other end or a device is not waited for, and no terminal becomes ours.
pub const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

impl Film {
    /// As the user names it, wherever links lead.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = rustix::fs::open(path, OPEN, Mode::empty());
        Self::of(opened, path)
    }

    /// In a folder, and nowhere else: a link out of it leads nowhere.
    pub fn open_in(folder: impl AsFd, path: &Path) -> anyhow::Result<Self> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(folder, path, OPEN, Mode::empty(), resolve);
        Self::of(opened, path)
    }

    fn of(opened: rustix::io::Result<OwnedFd>, path: &Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let file = File::from(opened.map_err(io::Error::from).with_context(name)?);
        let stat = rustix::fs::fstat(&file)
            .map_err(io::Error::from)
            .with_context(name)?;
        let Some(stamp) = Stamp::of(&stat) else {
            bail!("{} is not a file", path.display());
        };
        if stamp.length == 0 {
            bail!("{} is empty", path.display());
        }
        Ok(Self { file, stamp })
    }

    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether its first bytes are those of something that plays, and is no list of what does.
    pub fn is_media(&self) -> io::Result<bool> {
        let mut head = vec![0; read_len(self.stamp.length, media::SNIFF_LEN as u64)];
        self.file.read_exact_at(&mut head, 0)?;
        Ok(media::sniff(&head).is_some_and(|found| {
            !matches!(
                found.container,
                media::Container::Hls | media::Container::Dash | media::Container::Vtt
            )
        }))
    }

    /// Reads it all, by all cores; `tell` hears how many bytes are done. `None` once `stop` is set.
    pub fn hash(
        &self,
        stop: &AtomicBool,
        tell: impl Fn(u64) + Sync,
    ) -> anyhow::Result<Option<Hashed>> {
        let container = self.container().context("reading the film")?;
        let length = self.stamp.length;
        let bitrate = container.plays.and_then(|plays| bitrate(length, plays));
        let piece_len = piece_len_for(length, bitrate);
        let hashes = self.hashes(piece_len, stop, tell)?;
        Ok(hashes.map(|hashes| Hashed {
            length,
            piece_len,
            hashes,
            plays: container.plays,
            index_at_end: container.index_at_end,
        }))
    }

    fn container(&self) -> io::Result<Container> {
        let mut head = vec![0; read_len(self.stamp.length, duration::DURATION_HEAD_MAX as u64)];
        self.file.read_exact_at(&mut head, 0)?;
        if let duration::Duration::Known(plays) = duration::duration(&head) {
            return Ok(Container {
                plays: Some(plays),
                index_at_end: false,
            });
        }
        self.behind_media(&head)
    }

    /// ISO 14496-12 §4.2: walks the boxes of an MP4 to the `moov` that is not at its front.
    fn behind_media(&self, head: &[u8]) -> io::Result<Container> {
        let mut none = Container::default();
        if head.get(4..8) != Some(b"ftyp") {
            return Ok(none);
        }
        let (mut at, mut first, mut media_seen) = (0, None, false);
        for _ in 0..BOXES_MAX {
            let Some((kind, size)) = self.box_at(at)? else {
                break;
            };
            first = first.or(Some(size));
            media_seen |= kind == *b"mdat";
            if kind == *b"moov" {
                none.index_at_end = media_seen;
                none.plays = self.plays(first.unwrap_or_default(), at, size)?;
                break;
            }
            at += size;
        }
        Ok(none)
    }

    /// The duration that stands in the `moov` at `at`, as if that followed the film's first box.
    fn plays(&self, first: u64, at: u64, size: u64) -> io::Result<Option<Duration>> {
        if first + size > INDEX_LEN_MAX {
            return Ok(None);
        }
        let mut front = vec![0; read_len(first + size, INDEX_LEN_MAX)];
        let (one, other) = front.split_at_mut(read_len(first, INDEX_LEN_MAX));
        self.file.read_exact_at(one, 0)?;
        self.file.read_exact_at(other, at)?;
        Ok(match duration::duration(&front) {
            duration::Duration::Known(plays) => Some(plays),
            _ => None,
        })
    }

    /// What begins there, and its bytes; `None` at the end, or where no box can be.
    fn box_at(&self, at: u64) -> io::Result<Option<([u8; 4], u64)>> {
        if at.saturating_add(16) > self.stamp.length {
            return Ok(None);
        }
        let mut head = [0; 16];
        self.file.read_exact_at(&mut head, at)?;
        let (size, rest) = head.split_first_chunk::<4>().expect("sixteen bytes");
        let (kind, long) = rest.split_first_chunk::<4>().expect("twelve bytes");
        let size = match u32::from_be_bytes(*size) {
            0 => self.stamp.length - at,
            1 => u64::from_be_bytes(*long.first_chunk().expect("eight bytes")),
            size => size.into(),
        };
        let ends = at.checked_add(size).filter(|end| *end <= self.stamp.length);
        Ok((size >= 8 && ends.is_some()).then_some((*kind, size)))
    }

    /// The hash of each piece.
    fn hashes(
        &self,
        piece_len: u32,
        stop: &AtomicBool,
        tell: impl Fn(u64) + Sync,
    ) -> anyhow::Result<Option<Vec<[u8; 20]>>> {
        let pieces = self.stamp.length.div_ceil(piece_len.into());
        let next = AtomicU64::new(0);
        let hasher = || -> io::Result<Vec<(u64, [u8; 20])>> {
            let mut done = Vec::new();
            let mut buffer = vec![0; READ_LEN];
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces || stop.load(Ordering::Relaxed) {
                    return Ok(done);
                }
                done.push((
                    piece,
                    self.hash_piece(piece, piece_len, &mut buffer, &tell)?,
                ));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let parts = std::thread::scope(|scope| {
            let count = threads.min(HASHERS_MAX);
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(hasher)).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|part| part.expect("a hasher does not panic"))
                .collect::<io::Result<Vec<_>>>()
        });
        // What was cut short under way cannot be read as far as it was long.
        let stat = rustix::fs::fstat(&self.file).map_err(io::Error::from)?;
        if Stamp::of(&stat) != Some(self.stamp) {
            bail!("the film was changed while it was read");
        }
        let mut all: Vec<_> = parts.context("reading the film")?.concat();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        all.sort_unstable_by_key(|(piece, _)| *piece);
        Ok(Some(all.into_iter().map(|(_, hash)| hash).collect()))
    }

    fn hash_piece(
        &self,
        piece: u64,
        piece_len: u32,
        buffer: &mut [u8],
        tell: &impl Fn(u64),
    ) -> io::Result<[u8; 20]> {
        let mut at = piece * u64::from(piece_len);
        let end = (at + u64::from(piece_len)).min(self.stamp.length);
        let mut hasher = Hasher::new();
        while at < end {
            let part = &mut buffer[..read_len(end - at, READ_LEN as u64)];
            self.file.read_exact_at(part, at)?;
            hasher.update(part);
            at += part.len() as u64;
            tell(part.len() as u64);
        }
        Ok(hasher.finish())
    }
}

impl Stamp {
    /// Of a regular file; of nothing else.
    pub fn of(stat: &rustix::fs::Stat) -> Option<Self> {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular.then(|| Self {
            length: u64::try_from(stat.st_size).unwrap_or(0),
            file: (stat.st_dev, stat.st_ino),
            changed: (stat.st_mtime, stat.st_mtime_nsec.try_into().unwrap_or(0)),
        })
    }
}

fn read_len(len: u64, most: u64) -> usize {
    usize::try_from(len.min(most)).expect("bounded by the caller")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_box(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, body].concat()
    }

    fn moov(seconds: u32) -> Vec<u8> {
        let mut header = [0u32, 0, 0, 1000, seconds * 1000]
            .map(u32::to_be_bytes)
            .concat();
        header.extend([0; 80]);
        a_box(b"moov", &a_box(b"mvhd", &header))
    }

    fn film(bytes: &[u8]) -> (tempfile::TempDir, Film) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("film.mp4");
        std::fs::write(&path, bytes).unwrap();
        let film = Film::open(&path).unwrap();
        (folder, film)
    }

    fn container(bytes: &[u8]) -> Container {
        film(bytes).1.container().unwrap()
    }

    #[test]
    fn an_index_is_found_wherever_it_is() {
        let ftyp = a_box(b"ftyp", b"isom\0\0\x02\0isom");
        let media = a_box(b"mdat", &vec![7; 600_000]);
        let plays = Some(Duration::from_secs(90));
        let front = [&ftyp[..], &moov(90), &media].concat();
        let at_front = Container {
            plays,
            index_at_end: false,
        };
        assert_eq!(container(&front), at_front);
        let back = [&ftyp[..], &media, &a_box(b"free", b""), &moov(90)].concat();
        let at_end = Container {
            plays,
            index_at_end: true,
        };
        assert_eq!(container(&back), at_end);
        // Longer than 4 GiB its size would stand in eight bytes.
        let long = [&[0, 0, 0, 1][..], b"mdat", &24u64.to_be_bytes(), &[7; 8]].concat();
        assert_eq!(container(&[&ftyp[..], &long, &moov(90)].concat()), at_end);
    }

    #[test]
    fn what_is_no_film_tells_nothing() {
        let ftyp = a_box(b"ftyp", b"isom\0\0\x02\0isom");
        let wild = [&[0xff; 4][..], b"mdat", &[0; 100]].concat();
        let tiny = [&[0, 0, 0, 3][..], b"mdat", &[0; 100]].concat();
        let all = [
            vec![1],
            vec![0; 1000],
            ftyp.clone(),
            [&ftyp[..], &wild].concat(),
            [&ftyp[..], &tiny].concat(),
            [&ftyp[..], &a_box(b"mdat", &[1; 99])].concat(),
        ];
        for bytes in all {
            assert_eq!(container(&bytes), Container::default());
        }
    }

    #[test]
    fn hashes_are_those_of_one_thread() {
        let bytes: Vec<u8> = (0..1_000_003u32)
            .map(|n| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        let (_folder, film) = film(&bytes);
        let told = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let hashes = film.hashes(65_536, &stop, |len| {
            told.fetch_add(len, Ordering::Relaxed);
        });
        let expected: Vec<_> = bytes.chunks(65_536).map(Hasher::digest).collect();
        assert_eq!(hashes.unwrap(), Some(expected));
        assert_eq!(told.into_inner(), 1_000_003);
    }

    #[test]
    fn a_film_that_changes_meanwhile_is_refused() {
        let (folder, film) = film(&[1; 100_000]);
        std::fs::write(folder.path().join("film.mp4"), [2; 100_001]).unwrap();
        let failed = film.hash(&AtomicBool::new(false), |_| {}).unwrap_err();
        assert!(failed.to_string().contains("changed"), "{failed}");
        std::fs::write(folder.path().join("film.mp4"), [2; 10]).unwrap();
        let failed = film.hash(&AtomicBool::new(false), |_| {}).unwrap_err();
        assert!(failed.to_string().contains("reading") || failed.to_string().contains("changed"));
    }

    #[test]
    fn whoever_stops_gets_no_hashes() {
        let (_folder, film) = film(&[1; 100_000]);
        let hashed = film.hash(&AtomicBool::new(true), |_| {}).unwrap();
        assert_eq!(hashed, None);
    }

    #[test]
    fn only_files_are_opened_and_none_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let fifo = path("fifo.mp4");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        let why = |path: &Path| Film::open(path).err().unwrap().to_string();
        assert!(why(&fifo).contains("not a file"));
        assert!(why(Path::new("/dev/zero")).contains("not a file"));
        assert!(why(folder.path()).contains("not a file"));
        assert!(why(&path("none")).contains("none"));

        std::fs::write(path("film.mp4"), [7; 100]).unwrap();
        std::os::unix::fs::symlink("film.mp4", path("inside.mp4")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("outside.mp4")).unwrap();
        let dir = File::open(folder.path()).unwrap();
        assert!(Film::open_in(&dir, Path::new("inside.mp4")).is_ok());
        assert!(Film::open_in(&dir, Path::new("outside.mp4")).is_err());
        assert!(Film::open_in(&dir, Path::new("../x")).is_err());
        assert!(
            Film::open(&path("outside.mp4")).is_ok(),
            "the user named it"
        );
    }
}
