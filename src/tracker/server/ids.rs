//! Keyed hashes: of info-hashes, which strangers choose, and the connection ids of BEP 15.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use siphasher::sip::SipHasher24;

use crate::units::InfoHash;
use crate::units::Time;

/// A connection id is good in the stretch of time it was made in and in the next one: for one
/// minute at least, which is as long as a client may keep it, and two at most.
const STRETCH_S: u64 = 60;

/// This process's secrets. All shards have the same.
#[derive(Clone)]
pub struct Keys {
    swarms: [u8; 16],
    addresses: [u8; 16],
}

impl Keys {
    /// `random`: nobody's to know.
    pub fn new(random: [u8; 32]) -> Self {
        let (swarms, addresses) = random.split_at(16);
        Self {
            swarms: swarms.try_into().expect("half of it"),
            addresses: addresses.try_into().expect("the other half"),
        }
    }

    /// Where a swarm is kept: nobody can make many that share a place.
    pub fn swarm(&self, info_hash: InfoHash) -> u64 {
        SipHasher13::new_with_key(&self.swarms).hash(&info_hash.0)
    }

    /// Which of `shards` shards has a swarm.
    pub fn owner(&self, info_hash: InfoHash, shards: usize) -> usize {
        if shards == 1 {
            return 0;
        }
        // Other bits than those that place it within the shard's table.
        let bits = self.swarm(info_hash) >> 44 & 0xfff;
        usize::try_from(bits).expect("twelve bits") % shards
    }

    /// One of `places` places for an address, the same for a whole /64 of IPv6.
    pub fn place_of(&self, ip: IpAddr, places: usize) -> usize {
        let hash = match ip {
            IpAddr::V4(ip) => SipHasher13::new_with_key(&self.addresses).hash(&ip.octets()),
            IpAddr::V6(ip) => SipHasher13::new_with_key(&self.addresses).hash(&ip.octets()[..8]),
        };
        let places = u64::try_from(places).expect("a 64-bit target");
        usize::try_from(hash % places).expect("below a usize")
    }

    /// What an address that connects is told, and must say with its announces: so it is known to
    /// hear us, and no answer goes to one that never asked. Nothing is kept of it.
    pub fn connection_id(&self, now: Time, ip: IpAddr) -> u64 {
        self.connection_id_of(stretch(now), ip)
    }

    /// Whether an address was told this id, two minutes ago at most.
    pub fn is_connected(&self, now: Time, ip: IpAddr, id: u64) -> bool {
        let current = stretch(now);
        id == self.connection_id_of(current, ip)
            || current > 0 && id == self.connection_id_of(current - 1, ip)
    }

    fn connection_id_of(&self, stretch: u64, ip: IpAddr) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.addresses);
        hasher.write_u64(stretch);
        match ip {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        hasher.finish()
    }
}

/// Shows nothing of the secrets.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

const fn stretch(now: Time) -> u64 {
    now.as_millis() / 1000 / STRETCH_S
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 2, 3, 4));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 2, 3, 5));

    #[test]
    fn an_id_holds_for_its_address_and_two_minutes() {
        let keys = Keys::new([1; 32]);
        let at = Time::from_secs;
        let id = keys.connection_id(at(119), ONE);
        assert!(keys.is_connected(at(119), ONE, id));
        assert!(keys.is_connected(at(179), ONE, id), "a minute at least");
        assert!(!keys.is_connected(at(180), ONE, id));
        assert!(!keys.is_connected(at(119), OTHER, id));
        assert!(!Keys::new([2; 32]).is_connected(at(119), ONE, id));
        let early = keys.connection_id(at(60), ONE);
        assert!(keys.is_connected(at(179), ONE, early), "two at most");
        assert!(!keys.is_connected(at(180), ONE, early));
        assert!(!format!("{keys:?}").contains('1'));
    }

    #[test]
    fn swarms_are_spread_over_shards() {
        let keys = Keys::new([3; 32]);
        let mut counts = [0; 3];
        for n in 0..=255 {
            counts[keys.owner(InfoHash([n; 20]), 3)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
        assert_eq!(keys.owner(InfoHash([1; 20]), 1), 0);
    }
}
