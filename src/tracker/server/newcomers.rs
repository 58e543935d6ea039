//! How many peers each address has added of late, so that none can fill the table.

use std::net::IpAddr;
use std::time::Duration;

use crate::tracker::server::ids::Keys;
use crate::units::Time;

/// Counters. Addresses that share one share its limit, which is far above what one needs.
const COUNTERS: usize = 1 << 15;

/// Counts by address, or by /64 of IPv6, and forgets it all at intervals.
#[derive(Debug)]
pub struct Newcomers {
    counts: Box<[u32]>,
    max: u32,
    every: Duration,
    forget_at: Time,
}

impl Newcomers {
    /// `max` of one address within `every`.
    pub fn new(max: u32, every: Duration) -> Self {
        Self {
            counts: vec![0; COUNTERS].into(),
            max,
            every,
            forget_at: Time::ZERO,
        }
    }

    /// Counts one more; false if those are too many.
    pub fn admit(&mut self, now: Time, keys: &Keys, ip: IpAddr) -> bool {
        if now >= self.forget_at {
            self.counts.fill(0);
            self.forget_at = now + self.every;
        }
        let count = &mut self.counts[keys.place_of(ip, COUNTERS)];
        let room = *count < self.max;
        *count += u32::from(room);
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_for_a_while() {
        let keys = Keys::new([7; 32]);
        let mut newcomers = Newcomers::new(2, Duration::from_secs(100));
        let mut admit =
            |secs, ip: &str| newcomers.admit(Time::from_secs(secs), &keys, ip.parse().unwrap());
        assert!(admit(0, "1.2.3.4") && admit(99, "1.2.3.4"));
        assert!(!admit(99, "1.2.3.4"));
        assert!(admit(99, "1.2.3.5"));
        // A household of IPv6 is one.
        assert!(admit(99, "2001:db8::1") && admit(99, "2001:db8::2"));
        assert!(!admit(99, "2001:db8::3"));
        assert!(admit(100, "1.2.3.4"));
    }
}
