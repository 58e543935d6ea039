//! What a viewer tells a tracker and is told, whichever way it goes (BEP 3, 7, 23).

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;

use crate::units::InfoHash;
use crate::units::PeerId;

/// Peers used of one answer (R24).
pub const PEERS_MAX: usize = 200;
/// Connection and answer together (R24).
pub const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(30);
/// What a tracker may ask for between two announces (R24).
pub const INTERVAL_MIN: Duration = Duration::from_secs(60);
pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a tracker's text that are shown.
pub const TEXT_LEN_MAX: usize = 200;

/// What one announce tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    /// Where we listen for peers.
    pub port: u16,
    /// Bytes, since `Event::Started`.
    pub uploaded: u64,
    pub downloaded: u64,
    /// Bytes still to fetch.
    pub left: u64,
    pub event: Event,
    /// Peers wished for.
    pub numwant: u32,
    /// Proves that we are the same client when our address changes.
    pub key: u32,
    /// As the tracker's last answer gave it.
    pub tracker_id: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The regular announce.
    None,
    Started,
    Completed,
    Stopped,
}

/// What a tracker answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Until the next regular announce.
    pub interval: Duration,
    /// No announce without an event before this.
    pub min_interval: Option<Duration>,
    /// In the tracker's order, v4 first; no port is 0.
    pub peers: Vec<SocketAddr>,
    pub seeders: Option<u32>,
    pub leechers: Option<u32>,
    pub tracker_id: Option<Vec<u8>>,
    pub warning: Option<String>,
}

/// How many there are of each kind, as a scrape tells it (BEP 15, 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub seeders: u32,
    pub leechers: u32,
}

/// What a tracker answered to what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Announced(Reply),
    Scraped(Counts),
}

impl Reply {
    /// Whether the tracker told how large the swarm is. Some say nothing, some nothing but zeros.
    pub fn counts(&self) -> Option<Counts> {
        let counts = Counts {
            seeders: self.seeders?,
            leechers: self.leechers?,
        };
        let kept = counts.seeders > 0 || counts.leechers > 0 || self.peers.is_empty();
        kept.then_some(counts)
    }
}

/// What a tracker asks to wait, within bounds.
pub fn interval(asked: Duration) -> Duration {
    asked.clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// A tracker's text with nothing in it that could move a terminal's cursor.
pub fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let plain = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut out: String = plain.take(TEXT_LEN_MAX).collect();
    out.truncate(out.floor_char_boundary(TEXT_LEN_MAX));
    out
}

/// BEP 23: four bytes and a port each; one without a port is left out.
pub fn compact_v4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (peers, _) = bytes.as_chunks::<6>();
    peers.iter().filter_map(|[a, b, c, d, port @ ..]| {
        let port = u16::from_be_bytes(*port);
        (port != 0).then(|| SocketAddr::from((Ipv4Addr::new(*a, *b, *c, *d), port)))
    })
}

/// BEP 7: sixteen bytes and a port each.
pub fn compact_v6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let (peers, _) = bytes.as_chunks::<18>();
    peers.iter().filter_map(|peer| {
        let (ip, port) = peer.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(port.try_into().ok()?);
        (port != 0).then(|| SocketAddr::from((Ipv6Addr::from(*ip), port)))
    })
}
