//! The identities, indexes and times that cross files; no bare integer does.

pub mod lab;

use std::fmt;
use std::time::Duration;

/// A block is what one request asks of a peer (BEP 3): 16 KiB, the last of a torrent shorter.
pub const BLOCK_LEN: u32 = 16 * 1024;

/// Nanoseconds since the process started, on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    pub const ZERO: Self = Self(0);
    /// Later than any other time; the deadline of what never falls due.
    pub const NEVER: Self = Self(u64::MAX);

    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Saturates at [`Time::NEVER`].
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// Saturates at [`Time::ZERO`].
    #[must_use]
    pub fn before(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        self.after(wait)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        write!(
            f,
            "{}.{:06}s",
            self.0 / 1_000_000_000,
            self.0 / 1_000 % 1_000_000
        )
    }
}

/// A piece: what the torrent has a hash for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

impl PieceIndex {
    /// As an index of a table with one entry a piece.
    pub const fn at(self) -> usize {
        self.0 as usize
    }
}

/// A block within its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

/// A block of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    pub piece: PieceIndex,
    pub block: BlockIndex,
}

/// Bytes of one piece, as the wire names them (BEP 3 `request`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSpan {
    pub piece: PieceIndex,
    /// Offset within the piece.
    pub begin: u32,
    pub len: u32,
}

/// Bytes `start..end` of whatever the context names: a file, a torrent, a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    /// Panics in debug builds if `end < start`.
    pub const fn new(start: u64, end: u64) -> Self {
        debug_assert!(start <= end);
        Self { start, end }
    }

    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub const fn contains(self, at: u64) -> bool {
        self.start <= at && at < self.end
    }

    /// The bytes in both; empty at `self.start` if there are none.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        if start < end {
            Self { start, end }
        } else {
            Self {
                start: self.start,
                end: self.start,
            }
        }
    }

    /// Moved up by `by` bytes.
    #[must_use]
    pub const fn up(self, by: u64) -> Self {
        Self {
            start: self.start + by,
            end: self.end + by,
        }
    }
}

/// SHA-1 of the bencoded info dictionary (BEP 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

impl InfoHash {
    /// From 40 hex digits or 32 base32 letters (BEP 9), either case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.len() {
            40 => Self::from_hex(text),
            32 => Self::from_base32(text),
            _ => None,
        }
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut out = [0u8; 20];
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(out))
    }

    fn from_base32(text: &str) -> Option<Self> {
        let mut out = [0u8; 20];
        let (mut held, mut bits, mut at) = (0u32, 0u32, 0usize);
        for letter in text.bytes() {
            let value = match letter.to_ascii_uppercase() {
                upper @ b'A'..=b'Z' => upper - b'A',
                digit @ b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            held = (held << 5) | u32::from(value);
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                out[at] = u8::try_from((held >> bits) & 0xff).ok()?;
                at += 1;
            }
        }
        Some(Self(out))
    }

    /// All zero: refused at every entry (R45).
    pub fn is_zero(self) -> bool {
        self.0 == [0; 20]
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client's name for itself in handshakes and announces (BEP 3, BEP 20).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// Ours: Azureus style, client `BT` is taken, so `BU`, version 0.1.0.
    pub fn ours(random: [u8; 12]) -> Self {
        let mut id = *b"-BU0100-............";
        for (letter, byte) in id[8..].iter_mut().zip(random) {
            *letter = b'a' + byte % 26;
        }
        Self(id)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// One core's thread, ring and everything on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Why the origin was asked for a byte (DESIGN §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The first seconds of a window that no peer filled yet.
    Start,
    /// A piece that no peer has, fetched ahead so that the swarm gets it once.
    Inject,
    /// The latest moment at which the origin still meets the deadline.
    Hedge,
    /// No torrent, or none yet: the origin's bytes as they are.
    Passthrough,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Start, Self::Inject, Self::Hedge, Self::Passthrough];

    /// The name in `/api/stats` and `/metrics`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Inject => "inject",
            Self::Hedge => "hedge",
            Self::Passthrough => "passthrough",
        }
    }
}

/// When the origin may be asked (`--origin-policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OriginPolicy {
    /// Start, inject and hedge: each byte as late as its deadline allows.
    #[default]
    Hybrid,
    /// Everything in the window, at once, beside the peers.
    Eager,
    /// Only what no peer can deliver and whose deadline has come.
    LastResort,
    /// Not at all once the torrent is known.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_hash_reads_hex_and_base32_alike() {
        let hex = InfoHash::parse("0123456789abcdef0123456789ABCDEF01234567").unwrap();
        let base32 = InfoHash::parse("aerukz4jvpg66ajdivtytk6n54asgrlh").unwrap();
        assert_eq!(hex, base32);
        assert_eq!(hex.to_string(), "0123456789abcdef0123456789abcdef01234567");
        assert_eq!(InfoHash::parse("0123"), None);
        assert_eq!(
            InfoHash::parse("g123456789abcdef0123456789abcdef01234567"),
            None
        );
    }

    #[test]
    fn ranges_meet() {
        let range = ByteRange::new(10, 20);
        assert_eq!(range.and(ByteRange::new(15, 30)), ByteRange::new(15, 20));
        assert!(range.and(ByteRange::new(20, 30)).is_empty());
        assert!(range.contains(10) && !range.contains(20));
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time::ZERO.before(Duration::from_secs(1)), Time::ZERO);
        assert_eq!(
            Time::from_millis(40).since(Time::from_millis(15)),
            Duration::from_millis(25)
        );
    }
}
