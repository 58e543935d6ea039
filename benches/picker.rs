//! Which block each of 200 peers is asked for, over a film of 4 GiB.

mod measure;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use bittube::swarm::PeerKey;
use bittube::swarm::blocks::Source;
use bittube::swarm::picker::{Asker, Picker};
use bittube::swarm::rarity::Rarity;
use bittube::swarm::reader::Reader;
use bittube::swarm::requests::Requests;
use bittube::torrent::layout::Layout;
use bittube::units::lab::Pick;
use bittube::units::{Block, ByteRange, Time};
use fixedbitset::FixedBitSet;
use rand::prelude::*;
use slab::Slab;

const LENGTH: u64 = 4 << 30;
const PIECE_LEN: u32 = 1 << 20;
const PEERS: usize = 200;
/// Blocks under way at all peers together.
const ASKED: usize = PEERS * 16;
/// Decisions of one round.
const DECISIONS: usize = 50_000;
/// Bytes a second of the film.
const BITRATE: f64 = 1e6;
const NOW: Time = Time::from_secs(5);

fn main() {
    let mut seeds = || round(&Crowd::new(1.0), Reader::new);
    let mut traders = || round(&Crowd::new(0.5), Reader::new);
    // A film whose bitrate makes most of it urgent.
    let mut urgent = || {
        round(&Crowd::new(0.5), |now, range, file, _| {
            Reader::new(now, range, file, Some(BITRATE * 100.0))
        })
    };
    measure::compare(
        "thousand decisions/s",
        1e3,
        &mut [
            ("200 seeds, film's order", &mut seeds),
            ("200 traders, rarest first", &mut traders),
            ("200 traders, all urgent", &mut urgent),
        ],
    );
}

/// What each peer has, and who it is.
struct Crowd {
    layout: Arc<Layout>,
    peers: Vec<(FixedBitSet, SocketAddr)>,
    rarity: Rarity,
}

impl Crowd {
    fn new(share: f64) -> Self {
        let layout = Arc::new(Layout::single(LENGTH, PIECE_LEN));
        let count = layout.piece_count();
        let mut random = StdRng::seed_from_u64(7);
        let mut rarity = Rarity::new(count);
        let peers = (0..PEERS).map(|peer| {
            let mut pieces = FixedBitSet::with_capacity(count as usize);
            for piece in 0..count as usize {
                pieces.set(piece, random.random_bool(share));
            }
            rarity.join(&pieces, share >= 1.0);
            let last = u8::try_from(peer).expect("200 of them");
            (pieces, SocketAddr::from(([10, 0, 0, last], 6881)))
        });
        let peers = peers.collect();
        Self {
            layout,
            peers,
            rarity,
        }
    }
}

type Open = fn(Time, ByteRange, ByteRange, Option<f64>) -> Reader;

/// Decisions a second, with what they lead to: the block is asked for, comes, and is stored.
fn round(crowd: &Crowd, open: Open) -> f64 {
    let layout = &crowd.layout;
    let film = ByteRange::new(0, LENGTH);
    let mut readers = Slab::new();
    readers.insert(open(NOW, film, film, Some(BITRATE)));
    let none = FixedBitSet::with_capacity(layout.piece_count() as usize);
    let mut requests = Requests::new(Arc::clone(layout), &none);
    let mut asked: VecDeque<(Block, usize)> = VecDeque::with_capacity(ASKED);
    measure::rate(DECISIONS, || {
        for turn in 0..DECISIONS {
            let peer = turn % PEERS;
            let picker = Picker {
                now: NOW,
                layout,
                requests: &requests,
                rarity: &crowd.rarity,
                readers: &readers,
                want_all: false,
                salt: 7,
                pick: Pick::default(),
            };
            let asker = Asker {
                key: PeerKey(peer),
                pieces: &crowd.peers[peer].0,
                eta_s: 0.0,
                allowed: None,
            };
            // None, while all that it has is asked of others.
            if let Some(piece) = picker.next(&asker) {
                let block = requests.take(piece, PeerKey(peer));
                asked.push_back((block.expect("the piece has one"), peer));
            }
            if asked.len() == ASKED
                && let Some((block, peer)) = asked.pop_front()
            {
                let source = Source::Peer(crowd.peers[peer].1);
                requests.arrive(block, PeerKey(peer), source);
                let whole = requests.get(block.piece).is_some_and(|it| it.is_whole());
                if whole {
                    requests.finish(block.piece);
                }
            }
        }
    })
}
