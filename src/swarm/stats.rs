//! The counters of one swarm, as `/api/stats` shows them.

use std::net::SocketAddr;

use crate::swarm::PeerKey;
use crate::units::Cause;

/// All in bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub from_peers: u64,
    pub from_origin: u64,
    pub to_players: u64,
    pub to_peers: u64,
    /// Received twice, unasked, or of a bad piece.
    pub wasted: u64,
}

/// In the order of [`Cause::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByCause([u64; Cause::ALL.len()]);

impl ByCause {
    pub fn add(&mut self, cause: Cause, bytes: u64) {
        self.0[Self::place(cause)] += bytes;
    }

    pub fn of(&self, cause: Cause) -> u64 {
        self.0[Self::place(cause)]
    }

    fn place(cause: Cause) -> usize {
        let place = Cause::ALL.iter().position(|&known| known == cause);
        place.expect("ALL has every cause")
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Zero while the metadata is unknown.
    pub length: u64,
    pub pieces: u32,
    pub have_pieces: u32,
    /// Handshakes done.
    pub peers: usize,
    /// Of those, not choking us.
    pub peers_unchoked: usize,
    pub bytes: Bytes,
    pub origin_bytes_by_cause: ByCause,
    /// Blocks asked of a second peer.
    pub duplicates: u64,
    /// Requests taken back because of a seek.
    pub cancelled: u64,
    pub bad_pieces: u64,
    /// Blocks that a reader had not when they were due.
    pub deadline_missed: u64,
    /// Of all readers, closed ones too.
    pub stalls: u64,
    pub stall_s: f64,
    pub readers: Vec<ReaderView>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReaderView {
    /// Next byte to send, in the torrent.
    pub offset: u64,
    /// Film that is ready beyond the virtual playhead, s.
    pub slack_s: f64,
    pub stalls: u32,
    pub stall_s: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    pub key: PeerKey,
    pub addr: SocketAddr,
    pub incoming: bool,
    pub client: Option<String>,
    pub have_pieces: u32,
    pub choking_us: bool,
    pub choked: bool,
    pub interested_in_us: bool,
    pub late: bool,
    /// Bytes/s that it delivers.
    pub rate: f64,
    pub srtt_s: f64,
    pub outstanding: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
}
