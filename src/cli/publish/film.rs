//! A film on this disk: how long it plays, where its index lies, the hashes of its pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use crate::stub::media;
use crate::torrent::hasher::Hasher;

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
    pub length: u64,
    changed: SystemTime,
}

/// What the container tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Container {
    pub plays: Option<Duration>,
    /// An MP4 whose index stands behind the media: a player must fetch the end before it can begin.
    pub index_at_end: bool,
}

impl Film {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        let about = file.metadata().with_context(name)?;
        if !about.is_file() {
            bail!("{} is not a file", path.display());
        }
        if about.len() == 0 {
            bail!("{} is empty", path.display());
        }
        Ok(Self {
            file,
            length: about.len(),
            changed: about.modified().with_context(name)?,
        })
    }

    pub fn container(&self) -> io::Result<Container> {
        let mut head = vec![0; read_len(self.length, media::DURATION_HEAD_MAX as u64)];
        self.file.read_exact_at(&mut head, 0)?;
        if let media::Duration::Known(plays) = media::duration(&head) {
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
        Ok(match media::duration(&front) {
            media::Duration::Known(plays) => Some(plays),
            _ => None,
        })
    }

    /// What begins there, and its bytes; `None` at the end, or where no box can be.
    fn box_at(&self, at: u64) -> io::Result<Option<([u8; 4], u64)>> {
        if at.saturating_add(16) > self.length {
            return Ok(None);
        }
        let mut head = [0; 16];
        self.file.read_exact_at(&mut head, at)?;
        let (size, rest) = head.split_first_chunk::<4>().expect("sixteen bytes");
        let (kind, long) = rest.split_first_chunk::<4>().expect("twelve bytes");
        let size = match u32::from_be_bytes(*size) {
            0 => self.length - at,
            1 => u64::from_be_bytes(*long.first_chunk().expect("eight bytes")),
            size => size.into(),
        };
        let ends = at.checked_add(size).filter(|end| *end <= self.length);
        Ok((size >= 8 && ends.is_some()).then_some((*kind, size)))
    }

    /// The hash of each piece, made by all cores; `tell` hears how many bytes are done.
    pub fn hashes(
        &self,
        piece_len: u32,
        tell: impl Fn(u64) + Sync,
    ) -> anyhow::Result<Vec<[u8; 20]>> {
        let pieces = self.length.div_ceil(piece_len.into());
        let next = AtomicU64::new(0);
        let hasher = || -> io::Result<Vec<(u64, [u8; 20])>> {
            let mut done = Vec::new();
            let mut buffer = vec![0; READ_LEN];
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    return Ok(done);
                }
                done.push((piece, self.hash(piece, piece_len, &mut buffer, &tell)?));
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
        let mut all: Vec<_> = parts.context("reading the film")?.concat();
        all.sort_unstable_by_key(|(piece, _)| *piece);
        let now = self.file.metadata().context("the film")?;
        if now.len() != self.length || now.modified().context("the film")? != self.changed {
            bail!("the film was changed while it was read");
        }
        Ok(all.into_iter().map(|(_, hash)| hash).collect())
    }

    fn hash(
        &self,
        piece: u64,
        piece_len: u32,
        buffer: &mut [u8],
        tell: &impl Fn(u64),
    ) -> io::Result<[u8; 20]> {
        let mut at = piece * u64::from(piece_len);
        let end = (at + u64::from(piece_len)).min(self.length);
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
        let hashes = film.hashes(65_536, |len| {
            told.fetch_add(len, Ordering::Relaxed);
        });
        let expected: Vec<_> = bytes.chunks(65_536).map(Hasher::digest).collect();
        assert_eq!(hashes.unwrap(), expected);
        assert_eq!(told.into_inner(), 1_000_003);
    }

    #[test]
    fn a_film_that_changes_meanwhile_is_refused() {
        let (folder, film) = film(&[1; 100_000]);
        std::fs::write(folder.path().join("film.mp4"), [2; 100_001]).unwrap();
        let failed = film.hashes(16_384, |_| {}).unwrap_err();
        assert!(failed.to_string().contains("changed"), "{failed}");
    }
}
