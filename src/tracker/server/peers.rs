//! The peers of one swarm and family, in the order of their addresses.

use std::ops::Range;

use rand::RngExt;

use crate::tracker::server::compact::Entry;
use crate::tracker::server::compact::Stamp;
use crate::tracker::server::compact::Tick;

/// Entries looked at for one answer, so that a seed among ten thousand seeds costs no more.
const LOOKS_MAX: usize = 2048;

/// Sorted: who is near whom is told by the place, and no index is needed beside it. To put one in
/// the middle of a swarm of 65,536 moves half a megabyte at most, which takes microseconds and
/// happens once a peer.
#[derive(Clone, Debug)]
pub struct Peers<E>(Vec<E>);

/// What became of a peer that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    New,
    /// Its stamp before.
    Again(Stamp),
    /// In the place of the oldest of the same household, whose stamp it is.
    Instead(Stamp),
    /// There are too many already.
    Full,
}

/// How many peers there may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub swarm: usize,
    /// Of one household, see [`Entry::home`].
    pub home: usize,
}

impl<E> Default for Peers<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E: Entry> Peers<E> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = E> {
        self.0.iter().copied()
    }

    pub fn get(&self, key: E::Key) -> Option<Stamp> {
        let at = self.find(key).ok()?;
        Some(self.0[at].stamp())
    }

    pub fn put(&mut self, key: E::Key, stamp: Stamp, now: Tick, room: Room) -> Came {
        let at = match self.find(key) {
            Ok(at) => {
                let before = self.0[at].stamp();
                self.0[at] = E::new(key, stamp);
                return Came::Again(before);
            }
            Err(at) => at,
        };
        let home = self.span(&E::home(key));
        if home.len() >= room.home {
            return self.put_instead(home, key, stamp, now);
        }
        if self.0.len() >= room.swarm {
            return Came::Full;
        }
        if self.0.len() == self.0.capacity() {
            // A Vec would double: with a million peers a third of the memory would lie idle.
            self.0.reserve_exact(1 + self.0.len() / 4);
        }
        self.0.insert(at, E::new(key, stamp));
        Came::New
    }

    pub fn remove(&mut self, key: E::Key) -> Option<Stamp> {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at).stamp())
    }

    /// Forgets who is older than `age_max` ticks, and says how many seeds and others those were.
    pub fn sweep(&mut self, now: Tick, age_max: u16) -> (usize, usize) {
        let (mut seeds, mut others) = (0, 0);
        self.0.retain(|entry| {
            let keep = entry.stamp().age(now) <= age_max;
            if !keep && entry.stamp().is_seed() {
                seeds += 1;
            } else if !keep {
                others += 1;
            }
            keep
        });
        if self.0.len() * 2 < self.0.capacity() {
            self.0.shrink_to_fit();
        }
        (seeds, others)
    }

    /// Up to `wanted` peers for whoever asks, near ones first, at least a quarter at random from
    /// all over. `asker` is of this family, if it is: then it is not told of itself. `seed`: it has
    /// everything, and seeds are of no use to it. Returns how many were written.
    pub fn choose(
        &self,
        asker: Option<E::Key>,
        seed: bool,
        wanted: usize,
        rng: &mut impl RngExt,
        out: &mut Vec<u8>,
    ) -> usize {
        let near = asker.map_or(0..0, |key| self.span(&E::near(key)));
        let mut choice = Choice {
            entries: &self.0,
            asker,
            seed,
            looks: LOOKS_MAX,
            out,
        };
        let len = self.0.len();
        if len <= wanted + 1 {
            let count = choice.each(near.clone(), wanted);
            let count = count + choice.each(0..near.start, wanted - count);
            return count + choice.each(near.end..len, wanted - count);
        }
        let far = len - near.len();
        let at_random = wanted.div_ceil(4).max(wanted.saturating_sub(near.len()));
        let from_far = at_random.min(far);
        let count = choice.sample(near.len(), wanted - from_far, rng, |at| near.start + at);
        count
            + choice.sample(far, wanted - count, rng, |at| {
                if at < near.start { at } else { at + near.len() }
            })
    }

    fn put_instead(&mut self, home: Range<usize>, key: E::Key, stamp: Stamp, now: Tick) -> Came {
        let ages = self.0[home.clone()]
            .iter()
            .map(|entry| entry.stamp().age(now));
        let oldest = ages.enumerate().max_by_key(|(_, age)| *age);
        let Some((at, _)) = oldest else {
            return Came::Full;
        };
        let gone = self.0.remove(home.start + at).stamp();
        let at = self.find(key).unwrap_or_else(|at| at);
        self.0.insert(at, E::new(key, stamp));
        Came::Instead(gone)
    }

    fn find(&self, key: E::Key) -> Result<usize, usize> {
        self.0.binary_search_by(|entry| entry.key().cmp(&key))
    }

    fn span(&self, keys: &std::ops::RangeInclusive<E::Key>) -> Range<usize> {
        let start = self.0.partition_point(|entry| entry.key() < *keys.start());
        let len = self.0[start..].partition_point(|entry| entry.key() <= *keys.end());
        start..start + len
    }
}

/// One answer in the making.
struct Choice<'a, E: Entry> {
    entries: &'a [E],
    asker: Option<E::Key>,
    seed: bool,
    looks: usize,
    out: &'a mut Vec<u8>,
}

impl<E: Entry> Choice<'_, E> {
    /// All of a span, up to `wanted`.
    fn each(&mut self, span: Range<usize>, wanted: usize) -> usize {
        let mut count = 0;
        for at in span {
            if count == wanted {
                break;
            }
            count += usize::from(self.take(at));
        }
        count
    }

    /// `wanted` of `len` places, one from each of as many equal stretches: no two are the same,
    /// and no part of the network is left out. `place` says where the nth of them lies.
    fn sample(
        &mut self,
        len: usize,
        wanted: usize,
        rng: &mut impl RngExt,
        place: impl Fn(usize) -> usize,
    ) -> usize {
        let wanted = wanted.min(len);
        let mut count = 0;
        for nth in 0..wanted {
            let (start, end) = (nth * len / wanted, (nth + 1) * len / wanted);
            let first = rng.random_range(start..end);
            for at in (first..end).chain(start..first) {
                if self.looks == 0 {
                    return count;
                }
                self.looks -= 1;
                if self.take(place(at)) {
                    count += 1;
                    break;
                }
            }
        }
        count
    }

    /// Writes one down, unless it is of no use.
    fn take(&mut self, at: usize) -> bool {
        let entry = self.entries[at];
        let useless = self.seed && entry.stamp().is_seed();
        if useless || Some(entry.key()) == self.asker {
            return false;
        }
        entry.put(self.out);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::tracker::announce::compact_v4;
    use crate::tracker::server::compact::V4;
    use crate::units::Time;

    const ROOM: Room = Room {
        swarm: 1000,
        home: 4,
    };

    fn tick(secs: u64) -> Tick {
        Tick::at(Time::from_secs(secs))
    }

    fn key(text: &str) -> u64 {
        V4::key_of(text.parse().unwrap())
    }

    fn put(peers: &mut Peers<V4>, text: &str, seed: bool, at: u64) -> Came {
        peers.put(key(text), Stamp::new(tick(at), seed), tick(at), ROOM)
    }

    fn chosen(peers: &Peers<V4>, asker: Option<&str>, seed: bool, wanted: usize) -> Vec<String> {
        let mut out = Vec::new();
        let mut rng = SmallRng::seed_from_u64(wanted as u64);
        let count = peers.choose(asker.map(key), seed, wanted, &mut rng, &mut out);
        let addrs: Vec<_> = compact_v4(&out).map(|addr| addr.to_string()).collect();
        assert_eq!(addrs.len(), count);
        addrs
    }

    #[test]
    fn a_peer_comes_again_and_goes() {
        let mut peers = Peers::default();
        assert_eq!(put(&mut peers, "1.1.1.1:1", false, 0), Came::New);
        let Came::Again(stamp) = put(&mut peers, "1.1.1.1:1", true, 8) else {
            panic!("it was known");
        };
        assert!(!stamp.is_seed());
        assert!(peers.get(key("1.1.1.1:1")).unwrap().is_seed());
        assert!(peers.remove(key("1.1.1.1:1")).unwrap().is_seed());
        assert_eq!(peers.remove(key("1.1.1.1:1")), None);
        assert!(peers.is_empty());
    }

    #[test]
    fn a_household_replaces_its_oldest() {
        let mut peers = Peers::default();
        for port in 1..=4 {
            put(
                &mut peers,
                &format!("1.1.1.1:{port}"),
                port == 2,
                40 * (5 - port),
            );
        }
        // The fourth came first.
        assert!(matches!(
            put(&mut peers, "1.1.1.1:9", false, 400),
            Came::Instead(_)
        ));
        assert_eq!((peers.len(), peers.get(key("1.1.1.1:4"))), (4, None));
        assert_eq!(put(&mut peers, "1.1.1.2:9", false, 400), Came::New);
        let small = Room { swarm: 5, home: 4 };
        let stamp = Stamp::new(tick(0), false);
        assert_eq!(
            peers.put(key("9.9.9.9:9"), stamp, tick(0), small),
            Came::Full
        );
    }

    #[test]
    fn the_old_are_swept() {
        let mut peers = Peers::default();
        for (n, at) in [0, 100, 200, 300].into_iter().enumerate() {
            put(&mut peers, &format!("1.1.{n}.1:1"), n == 0, at);
        }
        assert_eq!(peers.sweep(tick(300), 25), (1, 1));
        assert_eq!(peers.len(), 2);
    }

    #[test]
    fn small_swarms_are_told_whole_near_ones_first() {
        let mut peers = Peers::default();
        for text in [
            "1.1.1.1:1",
            "5.5.5.1:1",
            "5.5.5.2:1",
            "5.5.5.3:1",
            "9.1.1.1:1",
        ] {
            put(&mut peers, text, text.starts_with('9'), 0);
        }
        let all = chosen(&peers, Some("5.5.5.2:1"), false, 50);
        assert_eq!(all, ["5.5.5.1:1", "5.5.5.3:1", "1.1.1.1:1", "9.1.1.1:1"]);
        // A seed wants nothing of a seed.
        assert_eq!(chosen(&peers, Some("5.5.5.2:1"), true, 50).len(), 3);
        // Of the other family: all are equally far.
        assert_eq!(chosen(&peers, None, false, 4).len(), 4);
        assert!(chosen(&peers, None, false, 0).is_empty());
    }

    #[test]
    fn a_quarter_at_least_comes_from_afar() {
        let mut peers = Peers::default();
        for n in 0..200 {
            put(&mut peers, &format!("5.5.5.{n}:1"), false, 0);
            put(&mut peers, &format!("{}.7.8.9:1", n % 4 + n + 6), false, 0);
        }
        let all = chosen(&peers, Some("5.5.5.7:1"), false, 40);
        let near = all.iter().filter(|addr| addr.starts_with("5.5.5.")).count();
        assert_eq!((all.len(), near), (40, 30));
        assert!(all[..30].iter().all(|addr| addr.starts_with("5.5.5.")));
        let set: BTreeSet<_> = all.iter().collect();
        assert_eq!(set.len(), 40, "nobody twice");
    }

    #[test]
    fn answers_vary_and_looks_are_bounded() {
        let mut peers = Peers::default();
        for n in 0..900u32 {
            put(
                &mut peers,
                &format!("9.{}.{}.1:1", n / 200, n % 200),
                true,
                0,
            );
        }
        let mut rng = SmallRng::seed_from_u64(1);
        let mut ask = |seed| {
            let mut out = Vec::new();
            peers.choose(Some(key("1.1.1.1:1")), seed, 5, &mut rng, &mut out);
            out
        };
        assert_ne!(ask(false), ask(false));
        assert!(ask(true).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_choice_names_the_useful_once(
            hosts in proptest::collection::btree_set((4u8..7, 0u8..3, any::<u8>(), any::<bool>()), 0..120),
            wanted in 0usize..100,
            seed in any::<bool>(),
            asker in proptest::option::of((4u8..7, 0u8..3, any::<u8>())),
        ) {
            let mut peers = Peers::default();
            let mut seeds = BTreeSet::new();
            for (a, b, c, is_seed) in &hosts {
                let text = format!("{a}.1.{b}.{c}:1");
                put(&mut peers, &text, *is_seed, 0);
                if *is_seed { seeds.insert(text) } else { seeds.remove(&text) };
            }
            let asker = asker.map(|(a, b, c)| format!("{a}.1.{b}.{c}:1"));
            let all = chosen(&peers, asker.as_deref(), seed, wanted);
            let set: BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(set.len(), all.len());
            prop_assert!(all.len() <= wanted);
            for addr in &all {
                prop_assert!(peers.get(key(addr)).is_some());
                prop_assert!(Some(addr) != asker.as_ref());
                prop_assert!(!(seed && seeds.contains(addr)));
            }
            let itself = asker.is_some_and(|asker| peers.get(key(&asker)).is_some());
            if !seed && wanted <= peers.len() {
                prop_assert!(all.len() + usize::from(itself) >= wanted);
            }
        }
    }
}
