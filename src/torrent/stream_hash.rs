//! A film's hashes from its bytes as they pass by once: no file of it is kept anywhere.

use std::time;

use crate::torrent::duration::DURATION_HEAD_MAX;
use crate::torrent::duration::Duration;
use crate::torrent::duration::duration;
use crate::torrent::hasher::Hasher;
use crate::torrent::metainfo::Builder;
use crate::torrent::metainfo::LENGTH_MAX;
use crate::torrent::metainfo::bitrate;
use crate::torrent::metainfo::piece_len_for;

/// So many bytes from [`StreamHash::wants_index`] on are enough for the duration in an index.
pub const INDEX_LEN: u64 = 4096;
/// Of a film whose length the server does not tell: its torrent stays below the longest that stubs
/// fetch up to 100 GB.
const PIECE_LEN_UNTOLD: u32 = 256 * 1024;

/// Takes a film from its first byte to its last. The pieces' length is settled once its head has
/// told how long it plays, or that it does not tell: at most [`DURATION_HEAD_MAX`] bytes and those
/// of one [`StreamHash::update`] are held until then.
pub struct StreamHash {
    /// As the server told it.
    length: Option<u64>,
    seen: u64,
    plays: Option<time::Duration>,
    index_at_end: bool,
    state: State,
}

enum State {
    /// The film's first bytes, which may tell how long it plays.
    Head(Vec<u8>),
    /// The head names an index behind the media, at that offset.
    Index(Vec<u8>, u64),
    Pieces(Pieces),
}

struct Pieces {
    len: u32,
    hashes: Vec<[u8; 20]>,
    hasher: Hasher,
    /// Bytes that the piece under way lacks.
    left: usize,
}

/// The server sent something else than it promised, or nothing of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    #[error("more bytes came than the server promised")]
    TooLong,
    #[error("{got} of {promised} bytes came")]
    Short { got: u64, promised: u64 },
    #[error("it is empty")]
    Empty,
}

/// A film whose last byte was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Bytes.
    pub length: u64,
    pub piece_len: u32,
    /// SHA-1 of each piece.
    pub hashes: Vec<[u8; 20]>,
    pub plays: Option<time::Duration>,
    /// As far as the index was asked for: a player must fetch the film's end before it can begin.
    pub index_at_end: bool,
}

impl Hashed {
    /// To be given trackers and web seeds.
    pub fn into_builder(self, name: String) -> Builder {
        Builder {
            name,
            piece_len: self.piece_len,
            length: self.length,
            hashes: self.hashes,
            ..Builder::default()
        }
    }
}

impl StreamHash {
    /// `length`: bytes, if the server tells.
    pub const fn new(length: Option<u64>) -> Self {
        Self {
            length,
            seen: 0,
            plays: None,
            index_at_end: false,
            state: State::Head(Vec::new()),
        }
    }

    /// The film's next bytes.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), BadStream> {
        self.seen += bytes.len() as u64;
        if self.seen > self.length.unwrap_or(LENGTH_MAX) {
            return Err(BadStream::TooLong);
        }
        match &mut self.state {
            State::Pieces(pieces) => pieces.update(bytes),
            State::Head(head) => {
                head.extend_from_slice(bytes);
                self.look();
            }
            State::Index(head, _) => {
                head.extend_from_slice(bytes);
                self.settle();
            }
        }
        Ok(())
    }

    /// The offset where an index is expected that tells more than the head. Whoever can read there
    /// hands [`INDEX_LEN`] bytes of it, or as many as there are, to [`StreamHash::handle_index`];
    /// whoever cannot goes on with [`StreamHash::update`].
    pub const fn wants_index(&self) -> Option<u64> {
        match self.state {
            State::Index(_, at) => Some(at),
            State::Head(_) | State::Pieces(_) => None,
        }
    }

    pub fn handle_index(&mut self, index: &[u8]) {
        let State::Index(head, _) = &self.state else {
            return;
        };
        // As if it followed the film's first box.
        let first = a_box(head, 0).map_or(0, |found| found.end);
        let first = usize::try_from(first).ok().and_then(|end| head.get(..end));
        if let Duration::Known(plays) = duration(&[first.unwrap_or_default(), index].concat()) {
            self.plays = Some(plays);
            self.index_at_end = true;
        }
        self.settle();
    }

    /// After the last byte.
    pub fn finish(mut self) -> Result<Hashed, BadStream> {
        let promised = self.length.unwrap_or(self.seen);
        if self.seen < promised {
            let got = self.seen;
            return Err(BadStream::Short { got, promised });
        }
        if self.seen == 0 {
            return Err(BadStream::Empty);
        }
        // It was shorter than a head.
        self.length = Some(self.seen);
        self.settle();
        let State::Pieces(pieces) = self.state else {
            unreachable!("it is settled");
        };
        Ok(Hashed {
            length: self.seen,
            piece_len: pieces.len,
            hashes: pieces.finish(),
            plays: self.plays,
            index_at_end: self.index_at_end,
        })
    }

    /// Whether the head tells now how long the film plays.
    fn look(&mut self) {
        let State::Head(head) = &mut self.state else {
            return;
        };
        match duration(head) {
            Duration::Known(plays) => self.plays = Some(plays),
            Duration::NeedMore(len) if head.len() < len && len <= DURATION_HEAD_MAX => return,
            Duration::NeedMore(_) | Duration::Unknown => {
                if let Some(at) = index_behind(head).filter(|at| Some(*at) < self.length) {
                    self.state = State::Index(std::mem::take(head), at);
                    return;
                }
            }
        }
        self.settle();
    }

    /// From now on there are pieces.
    fn settle(&mut self) {
        let (State::Head(head) | State::Index(head, _)) = &mut self.state else {
            return;
        };
        let head = std::mem::take(head);
        let len = match self.length {
            Some(length) => {
                let bitrate = self.plays.and_then(|plays| bitrate(length, plays));
                piece_len_for(length, bitrate)
            }
            None => PIECE_LEN_UNTOLD,
        };
        let mut pieces = Pieces::new(len);
        pieces.update(&head);
        self.state = State::Pieces(pieces);
    }
}

impl Pieces {
    fn new(len: u32) -> Self {
        Self {
            len,
            hashes: Vec::new(),
            hasher: Hasher::new(),
            left: usize::try_from(len).expect("at most 16 MiB"),
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.left));
            self.hasher.update(now);
            self.left -= now.len();
            bytes = later;
            if self.left == 0 {
                let full = std::mem::replace(self, Self::new(self.len));
                self.hashes = full.hashes;
                self.hashes.push(full.hasher.finish());
            }
        }
    }

    fn finish(mut self) -> Vec<[u8; 20]> {
        if self.left < usize::try_from(self.len).expect("at most 16 MiB") {
            self.hashes.push(self.hasher.finish());
        }
        self.hashes
    }
}

struct Found {
    kind: [u8; 4],
    /// Offset of what follows.
    end: u64,
}

/// ISO 14496-12 §4.2. A box that goes on to the end of the film is none with something behind it.
fn a_box(head: &[u8], at: u64) -> Option<Found> {
    let (size, rest) = head
        .get(usize::try_from(at).ok()?..)?
        .split_first_chunk::<4>()?;
    let (kind, long) = rest.split_first_chunk::<4>()?;
    let size = match u32::from_be_bytes(*size) {
        1 => u64::from_be_bytes(*long.first_chunk()?),
        size => size.into(),
    };
    let end = at.checked_add(size)?;
    (size >= 8).then_some(Found { kind: *kind, end })
}

/// Where the media end that stand before a film's index. Each step goes forward by 8 bytes or more.
fn index_behind(head: &[u8]) -> Option<u64> {
    let mut found = a_box(head, 0).filter(|first| first.kind == *b"ftyp")?;
    loop {
        match &found.kind {
            b"mdat" => return Some(found.end),
            b"moov" | b"moof" => return None,
            _ => found = a_box(head, found.end)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::torrent::metainfo::Metainfo;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, body].concat()
    }

    fn moov(seconds: u32) -> Vec<u8> {
        let mut header = [0u32, 0, 0, 1000, seconds * 1000]
            .map(u32::to_be_bytes)
            .concat();
        header.extend([0; 80]);
        boxed(b"moov", &boxed(b"mvhd", &header))
    }

    fn ftyp() -> Vec<u8> {
        boxed(b"ftyp", b"isom\0\0\x02\0isom")
    }

    fn mdat() -> Vec<u8> {
        let bytes: Vec<u8> = (0..3_000_001u32).map(|n| (n * 31 % 251) as u8).collect();
        boxed(b"mdat", &bytes)
    }

    fn hash(film: &[u8], step: usize, length: Option<u64>) -> Result<Hashed, BadStream> {
        let mut stream = StreamHash::new(length);
        for part in film.chunks(step) {
            stream.update(part)?;
            if let Some(at) = stream.wants_index() {
                let rest = &film[usize::try_from(at).unwrap()..];
                let len = rest.len().min(usize::try_from(INDEX_LEN).unwrap());
                stream.handle_index(&rest[..len]);
            }
        }
        stream.finish()
    }

    fn len(film: &[u8]) -> Option<u64> {
        u64::try_from(film.len()).ok()
    }

    /// The hashes as `Builder` makes them of a film in memory.
    fn check(film: &[u8], hashed: &Hashed) {
        let whole = Builder::of("a", hashed.piece_len, film);
        assert_eq!(hashed.hashes, whole.hashes);
        assert_eq!(Some(hashed.length), len(film));
        let torrent = hashed.clone().into_builder("a".to_owned()).build();
        assert_eq!(torrent, whole.build());
        assert!(Metainfo::parse(&torrent).is_ok());
    }

    #[test]
    fn pieces_play_half_a_second_wherever_the_index_is() {
        let (front, back) = (
            [ftyp(), moov(10), mdat()].concat(),
            [ftyp(), boxed(b"free", b"x"), mdat(), moov(10)].concat(),
        );
        for (film, index_at_end) in [(front, false), (back, true)] {
            for step in [1, 100, 4099, 300_000, 5_000_000] {
                let hashed = hash(&film, step, len(&film)).unwrap();
                // 300 kB a second.
                assert_eq!(hashed.piece_len, 131_072, "{step}");
                assert_eq!(hashed.plays, Some(time::Duration::from_secs(10)));
                assert_eq!(hashed.index_at_end, index_at_end);
                check(&film, &hashed);
            }
        }
    }

    #[test]
    fn an_index_that_nobody_can_read_is_done_without() {
        let film = [ftyp(), mdat(), moov(10)].concat();
        let mut stream = StreamHash::new(len(&film));
        let (head, rest) = film.split_at(1000);
        stream.update(head).unwrap();
        assert_eq!(stream.wants_index(), Some(20 + 8 + 3_000_001));
        stream.update(rest).unwrap();
        let hashed = stream.finish().unwrap();
        assert_eq!((hashed.plays, hashed.piece_len), (None, 16_384));
        check(&film, &hashed);
        // What stands there is no index.
        let mut stream = StreamHash::new(len(&film));
        stream.update(head).unwrap();
        stream.handle_index(b"nothing of use");
        stream.update(rest).unwrap();
        check(&film, &stream.finish().unwrap());
    }

    #[test]
    fn a_film_of_untold_length_has_pieces_of_one_length() {
        let film = [ftyp(), moov(10), mdat()].concat();
        let hashed = hash(&film, 5000, None).unwrap();
        assert_eq!(hashed.piece_len, PIECE_LEN_UNTOLD);
        check(&film, &hashed);
        let tiny = hash(b"abc", 1, None).unwrap();
        check(b"abc", &tiny);
    }

    #[test]
    fn what_differs_from_the_promise_is_refused() {
        let film = [ftyp(), moov(10), mdat()].concat();
        let (length, step) = (len(&film).unwrap(), 9999);
        assert_eq!(hash(&film, step, Some(length - 1)), Err(BadStream::TooLong));
        let short = BadStream::Short {
            got: length,
            promised: length + 1,
        };
        assert_eq!(hash(&film, step, Some(length + 1)), Err(short));
        assert_eq!(hash(b"", step, None), Err(BadStream::Empty));
        assert_eq!(hash(b"", step, Some(0)), Err(BadStream::Empty));
        assert!(hash(b"ab", 1, Some(3)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_hashed_however_they_are_cut(
            start in prop::sample::select(vec![
                b"".to_vec(), ftyp(), [ftyp(), moov(9)].concat(), b"\x1a\x45\xdf\xa3".to_vec(),
                [ftyp(), b"\0\0\0\x01mdat".to_vec()].concat(), [ftyp(), b"\0\0\0\x20mdat".to_vec()].concat(),
            ]),
            rest in prop::collection::vec(any::<u8>(), 1..60_000),
            step in 1..9000usize,
            told: bool,
        ) {
            let film = [start, rest].concat();
            let hashed = hash(&film, step, len(&film).filter(|_| told)).unwrap();
            check(&film, &hashed);
        }
    }
}
