//! Who announces what: numbered peers, each in one swarm, at one address of 127.0.0.0/8.

use std::net::Ipv4Addr;

use crate::bed::film::{Random, hex};

/// Addresses that peers come from, each with a socket.
pub const SOURCES: usize = 64;
const SEED_EVERY: usize = 10;
/// As clients ask for; a swarm has fewer.
pub const NUMWANT: u32 = 50;

pub struct Crowd {
    pub peers: usize,
    /// Info-hashes.
    pub swarms: Vec<[u8; 20]>,
}

pub struct Peer {
    pub info_hash: [u8; 20],
    pub id: [u8; 20],
    pub port: u16,
    /// Bytes that it still lacks.
    pub left: u64,
}

impl Crowd {
    pub fn new(peers: usize, swarms: usize) -> Self {
        assert!(peers.is_multiple_of(SOURCES), "all sources have as many");
        Self {
            peers,
            swarms: (0..swarms).map(info_hash).collect(),
        }
    }

    /// Peers that come from one address.
    pub const fn per_source(&self) -> usize {
        self.peers / SOURCES
    }

    /// The `nth` of those from `source`.
    pub fn peer(&self, source: usize, nth: usize) -> Peer {
        let number = nth * SOURCES + source;
        let mut id = *b"-LD0100-000000000000";
        id[12..].copy_from_slice(&(number as u64).to_be_bytes());
        Peer {
            info_hash: self.swarms[number % self.swarms.len()],
            id,
            port: u16::try_from(1024 + nth).expect("fewer peers than ports at an address"),
            left: u64::from(!number.is_multiple_of(SEED_EVERY)),
        }
    }

    /// One of those from `source`.
    pub fn any(&self, source: usize, random: &mut Random) -> Peer {
        self.peer(source, random.below(self.per_source()))
    }

    /// All info-hashes in hex, one a line: what opentracker wants to know beforehand.
    pub fn list(&self) -> String {
        self.swarms.iter().map(|hash| hex(hash) + "\n").collect()
    }
}

pub fn address(source: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(source).expect("a few").to_be_bytes();
    Ipv4Addr::new(127, 1 + high, low, 1)
}

fn info_hash(swarm: usize) -> [u8; 20] {
    let bytes = Random::new(swarm as u64).bytes(20);
    bytes.try_into().expect("twenty were asked for")
}
