//! A peer as a swarm keeps it: its address as it goes over the wire, and when it last came.

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV4;
use std::net::SocketAddrV6;
use std::ops::RangeInclusive;

use crate::units::Time;

/// Seconds of one [`Tick`].
const TICK_S: u64 = 4;
/// Ticks are counted round: after so many, which is 36 hours, they begin anew. Whoever looks at an
/// age does so far more often.
const TICKS: u16 = 1 << 15;

/// A moment, four seconds wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick(u16);

impl Tick {
    pub fn at(now: Time) -> Self {
        Self(round(now.as_millis() / 1000 / TICK_S))
    }

    /// The moment `age` ticks before.
    #[must_use]
    pub const fn before(self, age: u16) -> Self {
        Self(self.0.wrapping_sub(age) % TICKS)
    }

    /// Ticks since `earlier`.
    pub const fn since(self, earlier: Self) -> u16 {
        self.0.wrapping_sub(earlier.0) % TICKS
    }
}

/// How many ticks a time is, rounded up, and less than a round.
pub fn ticks(seconds: u64) -> u16 {
    u16::try_from(seconds.div_ceil(TICK_S)).map_or(TICKS - 1, |ticks| ticks.min(TICKS - 1))
}

fn round(ticks: u64) -> u16 {
    u16::try_from(ticks % u64::from(TICKS)).expect("less than a round")
}

/// When a peer last came, and whether it has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u16);

impl Stamp {
    pub const fn new(came: Tick, seed: bool) -> Self {
        Self(came.0 | if seed { TICKS } else { 0 })
    }

    pub const fn is_seed(self) -> bool {
        self.0 >= TICKS
    }

    /// In ticks.
    pub const fn age(self, now: Tick) -> u16 {
        now.since(Tick(self.0 % TICKS))
    }
}

/// A peer of one family.
pub trait Entry: Copy + Debug {
    /// Orders peers so that neighbours on the network are neighbours.
    type Key: Copy + Ord + Debug;
    /// Bytes of a compact peer (BEP 23, 7).
    const WIRE_LEN: usize;

    fn new(key: Self::Key, stamp: Stamp) -> Self;
    fn key(self) -> Self::Key;
    fn stamp(self) -> Stamp;
    /// The keys of the same network: /24, /48.
    fn near(key: Self::Key) -> RangeInclusive<Self::Key>;
    /// The keys of the same household, which has one IPv4 address or a /64.
    fn home(key: Self::Key) -> RangeInclusive<Self::Key>;
    fn put(self, out: &mut Vec<u8>);
}

/// A peer of IPv4 in one word: address, port, stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4(u64);

impl V4 {
    pub fn key_of(addr: SocketAddrV4) -> u64 {
        u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port())
    }
}

impl Entry for V4 {
    type Key = u64;
    const WIRE_LEN: usize = 6;

    fn new(key: u64, stamp: Stamp) -> Self {
        Self(key << 16 | u64::from(stamp.0))
    }

    fn key(self) -> u64 {
        self.0 >> 16
    }

    fn stamp(self) -> Stamp {
        let [.., high, low] = self.0.to_be_bytes();
        Stamp(u16::from_be_bytes([high, low]))
    }

    fn near(key: u64) -> RangeInclusive<u64> {
        around(key, 8 + 16)
    }

    fn home(key: u64) -> RangeInclusive<u64> {
        around(key, 16)
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes()[..6]);
    }
}

const fn around(key: u64, bits: u32) -> RangeInclusive<u64> {
    let mask = (1 << bits) - 1;
    key & !mask..=key | mask
}

/// A peer of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6 {
    key: [u8; 18],
    stamp: Stamp,
}

impl V6 {
    pub fn key_of(addr: SocketAddrV6) -> [u8; 18] {
        let mut key = [0; 18];
        key[..16].copy_from_slice(&addr.ip().octets());
        key[16..].copy_from_slice(&addr.port().to_be_bytes());
        key
    }
}

impl Entry for V6 {
    type Key = [u8; 18];
    const WIRE_LEN: usize = 18;

    fn new(key: [u8; 18], stamp: Stamp) -> Self {
        Self { key, stamp }
    }

    fn key(self) -> [u8; 18] {
        self.key
    }

    fn stamp(self) -> Stamp {
        self.stamp
    }

    fn near(key: [u8; 18]) -> RangeInclusive<[u8; 18]> {
        prefixed(key, 6)
    }

    fn home(key: [u8; 18]) -> RangeInclusive<[u8; 18]> {
        prefixed(key, 8)
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key);
    }
}

fn prefixed(key: [u8; 18], bytes: usize) -> RangeInclusive<[u8; 18]> {
    let (mut first, mut last) = (key, key);
    first[bytes..].fill(0);
    last[bytes..].fill(0xff);
    first..=last
}

/// A peer's key, of whichever family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    V4(u64),
    V6([u8; 18]),
}

impl From<SocketAddr> for Key {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => Self::V4(V4::key_of(addr)),
            SocketAddr::V6(addr) => Self::V6(V6::key_of(addr)),
        }
    }
}

/// The address that a V4 key stands for.
pub fn v4_addr(key: u64) -> SocketAddrV4 {
    let [_, _, a, b, c, d, port @ ..] = key.to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes(port))
}

/// The address that a V6 key stands for.
pub fn v6_addr(key: [u8; 18]) -> SocketAddrV6 {
    let (ip, port) = key.split_first_chunk::<16>().expect("eighteen");
    let port = u16::from_be_bytes(port.try_into().expect("two are left"));
    SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_costs() {
        assert_eq!((size_of::<V4>(), size_of::<V6>()), (8, 20));
    }

    #[test]
    fn ticks_go_round() {
        let at = |secs| Tick::at(Time::from_secs(secs));
        assert_eq!(at(0), at(3));
        assert_eq!(at(8).since(at(4)), 1);
        let round = u64::from(TICKS) * TICK_S;
        assert_eq!(at(round + 4).since(at(round - 4)), 2);
        assert_eq!(at(4).before(3).before(2).since(at(4)), TICKS - 5);
        assert_eq!((ticks(0), ticks(5), ticks(u64::MAX)), (0, 2, TICKS - 1));
        let stamp = Stamp::new(at(100), true);
        assert!(stamp.is_seed() && !Stamp::new(at(100), false).is_seed());
        assert_eq!(stamp.age(at(140)), 10);
    }

    #[test]
    fn addresses_keep_their_form_and_order() {
        let addr: SocketAddrV4 = "1.2.3.4:6881".parse().unwrap();
        let entry = V4::new(V4::key_of(addr), Stamp::new(Tick(7), true));
        let mut out = Vec::new();
        entry.put(&mut out);
        assert_eq!(out, [1, 2, 3, 4, 0x1a, 0xe1]);
        assert_eq!((entry.stamp().0, v4_addr(entry.key())), (TICKS | 7, addr));
        let key = |text: &str| V4::key_of(text.parse().unwrap());
        assert!(V4::near(key("1.2.3.4:5")).contains(&key("1.2.3.255:65535")));
        assert!(!V4::near(key("1.2.3.4:5")).contains(&key("1.2.4.0:0")));
        assert!(V4::home(key("1.2.3.4:5")).contains(&key("1.2.3.4:65535")));
        assert!(!V4::home(key("1.2.3.4:5")).contains(&key("1.2.3.5:5")));

        let addr: SocketAddrV6 = "[2001:db8:1:2::3]:80".parse().unwrap();
        let entry = V6::new(V6::key_of(addr), Stamp::new(Tick(7), false));
        assert_eq!(v6_addr(entry.key()), addr);
        let key = |text: &str| V6::key_of(text.parse().unwrap());
        assert!(V6::near(key("[2001:db8:1::]:1")).contains(&key("[2001:db8:1:ffff::9]:2")));
        assert!(!V6::near(key("[2001:db8:1::]:1")).contains(&key("[2001:db8:2::]:1")));
        assert!(!V6::home(key("[2001:db8:1::]:1")).contains(&key("[2001:db8:1:1::]:1")));
    }
}
