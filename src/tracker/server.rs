//! The answering side of HTTP announces (BEP 3, 7, 23): who is in which swarm, and for how long.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use crate::torrent::bencode::Encoder;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::units::InfoHash;
use crate::units::Time;

/// Peers of an answer if the client does not say how many.
const NUMWANT: usize = 50;
/// Expired peers removed in one go, so that a large table never blocks a shard.
const SWEEP_MAX: usize = 256;
/// What a full tracker asks to wait (BEP 31), in minutes.
const FULL_RETRY: u32 = 5;

/// How much is kept, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    pub swarms_max: usize,
    /// Of one swarm. Others are answered, but not given to anyone.
    pub peers_max: usize,
    /// Between two announces; a peer silent for twice as long is forgotten.
    pub interval: Duration,
    pub min_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            swarms_max: 10_000,
            peers_max: 2_000,
            interval: Duration::from_secs(600),
            min_interval: Duration::from_secs(60),
        }
    }
}

/// The table of swarms. Addresses are those announces came from; what a client says of its own
/// (`ip`, `ipv6`) is not believed, for it could name a third party.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    swarms: BTreeMap<InfoHash, Swarm>,
    /// Every peer, by when it is forgotten.
    expiries: BTreeSet<(Time, InfoHash, SocketAddr)>,
    rng: SmallRng,
}

/// Never empty.
#[derive(Debug, Default)]
struct Swarm {
    peers: BTreeMap<SocketAddr, Peer>,
    seeds: usize,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    seed: bool,
    expires: Time,
}

impl Server {
    /// `seed` is random: it chooses which peers of a large swarm an answer names.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            swarms: BTreeMap::new(),
            expiries: BTreeSet::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The body that answers an announce; status 200 also for a failure. `query` is what stood
    /// behind `?`, still percent-encoded.
    pub fn handle_announce(&mut self, now: Time, query: &str, from: IpAddr) -> Vec<u8> {
        let asked = match Asked::parse(query) {
            Ok(asked) => asked,
            Err(why) => return Encoder::new().text(b"failure reason", why).finish(),
        };
        let peer = SocketAddr::new(from.to_canonical(), asked.port);
        self.remove(asked.info_hash, peer);
        if asked.event != Event::Stopped {
            let full = self.swarms.len() >= self.limits.swarms_max;
            if full && !self.swarms.contains_key(&asked.info_hash) {
                return Encoder::new()
                    .text(b"failure reason", "tracker is full")
                    .int(b"retry in", FULL_RETRY)
                    .finish();
            }
            self.insert(now, asked.info_hash, peer, asked.seed);
        }
        self.answer(&asked, peer)
    }

    /// Forgets who has been silent for too long.
    pub fn handle_timeout(&mut self, now: Time) {
        for _ in 0..SWEEP_MAX {
            match self.expiries.first() {
                Some(&(expires, info_hash, peer)) if expires <= now => {
                    self.remove(info_hash, peer);
                }
                _ => return,
            }
        }
    }

    pub fn next_timeout(&self) -> Time {
        self.expiries.first().map_or(Time::NEVER, |first| first.0)
    }

    pub fn swarm_count(&self) -> usize {
        self.swarms.len()
    }

    /// Of all swarms.
    pub fn peer_count(&self) -> usize {
        self.expiries.len()
    }

    fn insert(&mut self, now: Time, info_hash: InfoHash, peer: SocketAddr, seed: bool) {
        let swarm = self.swarms.entry(info_hash).or_default();
        if swarm.peers.len() < self.limits.peers_max {
            let expires = now + self.limits.interval * 2;
            swarm.peers.insert(peer, Peer { seed, expires });
            swarm.seeds += usize::from(seed);
            self.expiries.insert((expires, info_hash, peer));
        }
    }

    fn remove(&mut self, info_hash: InfoHash, peer: SocketAddr) {
        let Some(swarm) = self.swarms.get_mut(&info_hash) else {
            return;
        };
        if let Some(known) = swarm.peers.remove(&peer) {
            swarm.seeds -= usize::from(known.seed);
            self.expiries.remove(&(known.expires, info_hash, peer));
        }
        if swarm.peers.is_empty() {
            self.swarms.remove(&info_hash);
        }
    }

    fn answer(&mut self, asked: &Asked, asker: SocketAddr) -> Vec<u8> {
        let empty = Swarm::default();
        let swarm = self.swarms.get(&asked.info_hash).unwrap_or(&empty);
        // A seed wants nothing of a seed.
        let others = swarm
            .peers
            .iter()
            .filter(|(address, peer)| **address != asker && !(asked.seed && peer.seed));
        let chosen = others.sample(&mut self.rng, asked.numwant);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, _) in chosen {
            let port = address.port().to_be_bytes();
            match address.ip() {
                IpAddr::V4(ip) => v4.extend(ip.octets().into_iter().chain(port)),
                IpAddr::V6(ip) => v6.extend(ip.octets().into_iter().chain(port)),
            }
        }
        let seconds = |wait: Duration| i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mut reply = Encoder::new()
            .int(b"complete", count(swarm.seeds))
            .int(b"incomplete", count(swarm.peers.len() - swarm.seeds))
            .int(b"interval", seconds(self.limits.interval))
            .int(b"min interval", seconds(self.limits.min_interval))
            .bytes(b"peers", v4);
        if !v6.is_empty() {
            reply = reply.bytes(b"peers6", v6);
        }
        reply.finish()
    }
}

/// What an announce asks, checked.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    info_hash: InfoHash,
    port: u16,
    seed: bool,
    event: Event,
    numwant: usize,
}

impl Asked {
    /// Or the reason to refuse it. The first of a name counts; unknown names are passed over.
    fn parse(query: &str) -> Result<Self, &'static str> {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value))
        };
        let raw = |name: &str| {
            let decoded = percent_encoding::percent_decode_str(value(name)?);
            // One byte more than is good tells too long from right.
            <[u8; 20]>::try_from(decoded.take(21).collect::<Vec<u8>>()).ok()
        };
        let info_hash = raw("info_hash")
            .map(InfoHash)
            .filter(|hash| !hash.is_zero())
            .ok_or("invalid info_hash")?;
        raw("peer_id").ok_or("invalid peer_id")?;
        let port = value("port")
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or("invalid port")?;
        let event = match value("event") {
            Some("started") => Event::Started,
            Some("completed") => Event::Completed,
            Some("stopped") => Event::Stopped,
            _ => Event::None,
        };
        let wished = value("numwant").and_then(|count| count.parse().ok());
        let numwant = match event {
            Event::Stopped => 0,
            _ => wished.unwrap_or(NUMWANT).min(PEERS_MAX),
        };
        Ok(Self {
            info_hash,
            port,
            seed: value("left") == Some("0"),
            event,
            numwant,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tracker::TrackerFailed;
    use crate::tracker::announce::Announce;
    use crate::tracker::announce::Reply;
    use crate::tracker::http::announce_url;
    use crate::tracker::http::parse_reply;
    use crate::units::PeerId;

    fn server(limits: Limits) -> Server {
        Server::new(limits, 1)
    }

    fn said(hash: u8, port: u16, left: u64, event: Event) -> Announce {
        Announce {
            info_hash: InfoHash([hash; 20]),
            peer_id: PeerId(*b"-BU0100-abcdefghijkl"),
            port,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            numwant: 200,
            key: 0,
            tracker_id: None,
        }
    }

    /// By the way a client takes: its URL, our answer, its reading.
    fn announce(
        server: &mut Server,
        now: Time,
        from: &str,
        said: &Announce,
    ) -> Result<Reply, TrackerFailed> {
        let url = announce_url("http://t/announce", said).unwrap();
        let (_, query) = url.split_once('?').unwrap();
        parse_reply(&server.handle_announce(now, query, from.parse().unwrap()))
    }

    fn counts(reply: &Reply) -> (u32, u32) {
        (reply.seeders.unwrap(), reply.leechers.unwrap())
    }

    fn failure(query: &str) -> String {
        let body = server(Limits::default()).handle_announce(
            Time::ZERO,
            query,
            "1.2.3.4".parse().unwrap(),
        );
        parse_reply(&body).unwrap_err().why
    }

    #[test]
    fn peers_of_both_families_meet() {
        let mut it = server(Limits::default());
        let one = said(0xff, 1000, 5, Event::Started);
        let first = announce(&mut it, Time::ZERO, "1.2.3.4", &one).unwrap();
        assert!(first.peers.is_empty());
        assert_eq!(counts(&first), (0, 1));
        assert_eq!(first.interval, Duration::from_secs(600));
        let two = said(0xff, 2000, 5, Event::Started);
        let second = announce(&mut it, Time::ZERO, "2001:db8::1", &two).unwrap();
        assert_eq!(second.peers, ["1.2.3.4:1000".parse().unwrap()]);
        // The same v4 client through a dual-stack socket is the same peer.
        let again = announce(&mut it, Time::ZERO, "::ffff:1.2.3.4", &one).unwrap();
        assert_eq!(again.peers, ["[2001:db8::1]:2000".parse().unwrap()]);
        assert_eq!(counts(&again), (0, 2));
        let other = announce(
            &mut it,
            Time::ZERO,
            "1.2.3.4",
            &said(1, 1000, 5, Event::None),
        );
        assert!(other.unwrap().peers.is_empty());
        assert_eq!((it.swarm_count(), it.peer_count()), (2, 3));
    }

    #[test]
    fn seeds_are_not_given_to_seeds_and_stopped_leaves() {
        let mut it = server(Limits::default());
        let mut tell = |port, left, event| {
            announce(&mut it, Time::ZERO, "1.2.3.4", &said(1, port, left, event)).unwrap()
        };
        tell(1, 0, Event::Started);
        tell(2, 7, Event::Started);
        let seed = tell(3, 0, Event::Started);
        assert_eq!(seed.peers, ["1.2.3.4:2".parse().unwrap()]);
        assert_eq!(counts(&seed), (2, 1));
        assert_eq!(tell(2, 7, Event::None).peers.len(), 2);
        assert_eq!(counts(&tell(2, 0, Event::Completed)), (3, 0));
        let stopped = tell(1, 0, Event::Stopped);
        assert!(stopped.peers.is_empty());
        assert_eq!(counts(&stopped), (2, 0));
        tell(2, 0, Event::Stopped);
        tell(3, 0, Event::Stopped);
        assert_eq!((it.swarm_count(), it.peer_count()), (0, 0));
    }

    #[test]
    fn the_silent_are_forgotten_after_two_intervals() {
        let mut it = server(Limits::default());
        for port in 1..=600 {
            let now = Time::from_secs(u64::from(port % 2));
            announce(&mut it, now, "1.2.3.4", &said(1, port, 1, Event::Started)).unwrap();
        }
        assert_eq!(it.next_timeout(), Time::from_secs(1200));
        // One that announces again stays.
        announce(
            &mut it,
            Time::from_secs(600),
            "1.2.3.4",
            &said(1, 1, 1, Event::None),
        )
        .unwrap();
        it.handle_timeout(Time::from_secs(1199));
        assert_eq!(it.peer_count(), 600);
        for _ in 0..3 {
            it.handle_timeout(Time::from_secs(1201));
        }
        assert_eq!(it.peer_count(), 1);
        assert_eq!(it.next_timeout(), Time::from_secs(1800));
        it.handle_timeout(Time::from_secs(1800));
        assert_eq!((it.swarm_count(), it.next_timeout()), (0, Time::NEVER));
    }

    #[test]
    fn tables_are_bounded() {
        let mut it = server(Limits {
            swarms_max: 2,
            peers_max: 3,
            ..Limits::default()
        });
        for port in 1..=10 {
            let reply = announce(
                &mut it,
                Time::ZERO,
                "1.2.3.4",
                &said(1, port, 1, Event::None),
            );
            assert!(reply.unwrap().peers.len() <= 3);
        }
        assert_eq!(it.peer_count(), 3);
        announce(&mut it, Time::ZERO, "1.2.3.4", &said(2, 1, 1, Event::None)).unwrap();
        let full = announce(&mut it, Time::ZERO, "1.2.3.4", &said(3, 1, 1, Event::None));
        assert_eq!(full.unwrap_err().why, "tracker is full");
        // A stranger's `stopped` opens no swarm and needs no room.
        announce(
            &mut it,
            Time::ZERO,
            "1.2.3.4",
            &said(3, 1, 1, Event::Stopped),
        )
        .unwrap();
        assert_eq!(it.swarm_count(), 2);
    }

    #[test]
    fn answers_name_as_many_as_wished_and_vary() {
        let mut it = server(Limits::default());
        for port in 1..=500 {
            announce(
                &mut it,
                Time::ZERO,
                "1.2.3.4",
                &said(1, port, 1, Event::None),
            )
            .unwrap();
        }
        let hash = "%01".repeat(20);
        let query = format!("info_hash={hash}&peer_id=aaaaaaaaaaaaaaaaaaaa&port=9");
        let mut ask = |more: &str| {
            let from = "5.6.7.8".parse().unwrap();
            let body = it.handle_announce(Time::ZERO, &format!("{query}{more}"), from);
            parse_reply(&body).unwrap().peers
        };
        assert_eq!(ask("").len(), NUMWANT);
        assert_eq!(ask("&numwant=5").len(), 5);
        assert_eq!(ask("&numwant=0").len(), 0);
        assert_eq!(ask("&numwant=100000").len(), PEERS_MAX);
        assert_eq!(ask("&numwant=-1").len(), NUMWANT);
        assert_ne!(ask("&numwant=5"), ask("&numwant=5"));
    }

    #[test]
    fn malformed_announces_are_told_why() {
        let hash = "info_hash=aaaaaaaaaaaaaaaaaaaa";
        let id = "peer_id=aaaaaaaaaaaaaaaaaaaa";
        assert_eq!(failure(""), "invalid info_hash");
        assert_eq!(failure("info_hash=aaa"), "invalid info_hash");
        assert_eq!(
            failure(&format!("{hash}a&{id}&port=1")),
            "invalid info_hash"
        );
        let zero = format!("info_hash={}&{id}&port=1", "%00".repeat(20));
        assert_eq!(failure(&zero), "invalid info_hash");
        assert_eq!(failure(hash), "invalid peer_id");
        for port in ["", "&port=", "&port=0", "&port=65536", "&port=x"] {
            assert_eq!(failure(&format!("{hash}&{id}{port}")), "invalid port");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_announces_keep_the_tables_in_step(
            list in proptest::collection::vec((0u8..4, 1u16..6, 0u64..2, 0u8..4, 0u64..900), 0..80),
        ) {
            let mut it = server(Limits { swarms_max: 3, peers_max: 3, ..Limits::default() });
            let mut now = Time::ZERO;
            for (hash, port, left, event, wait) in list {
                now = now + Duration::from_secs(wait);
                it.handle_timeout(now);
                let event = [Event::None, Event::Started, Event::Completed, Event::Stopped][usize::from(event)];
                let _ = announce(&mut it, now, "1.2.3.4", &said(hash + 1, port, left, event));
                prop_assert!(it.swarms.len() <= 3);
                let mut peers = 0;
                for swarm in it.swarms.values() {
                    prop_assert!((1..=3).contains(&swarm.peers.len()));
                    let seeds = swarm.peers.values().filter(|peer| peer.seed).count();
                    prop_assert_eq!(seeds, swarm.seeds);
                    peers += swarm.peers.len();
                }
                prop_assert_eq!(peers, it.expiries.len());
                prop_assert!(it.next_timeout() > now);
            }
        }

        #[test]
        fn hostile_queries_do_not_panic(query in "([a-z_]{0,9}=?[%0-9a-f&+]{0,30}&?){0,6}") {
            let mut it = server(Limits::default());
            let body = it.handle_announce(Time::ZERO, &query, "1.2.3.4".parse().unwrap());
            prop_assert!(crate::torrent::bencode::parse(&body).is_ok());
        }
    }
}
