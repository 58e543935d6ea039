//! Who may download from us: the film's order first, some tit-for-tat, always one newcomer.
//!
//! Of three slots one goes to the peer nearest behind us in the film, one to who gives us most, one
//! to a newcomer: of more that ask at once each is served later. A seed has nobody before it: it
//! helps those nearest to a stall, then all in turn. Who has a slot and nothing to ask for does not
//! fill it: others get one beside it until the next choice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::units::Time;

/// Upload slots unless configured otherwise.
pub const SLOTS: usize = 3;
/// Peers that have a slot at most, for each that is in use.
const UNCHOKED_A_SLOT: usize = 4;
/// Whether slots are idle is looked at so often while somebody waits for one.
const LOOK: Duration = Duration::from_millis(250);
/// Pieces that come together are seen together.
const NEWS: Duration = Duration::from_millis(50);
/// Between two choices.
pub const RECHOKE: Duration = Duration::from_secs(10);
/// How long a peer keeps the slot that is given in turn.
pub const ROTATE: Duration = Duration::from_secs(30);
/// With fewer pieces a peer is a newcomer, who has nothing to give in return yet.
pub const NEWCOMER_PIECES: u32 = 8;
/// A peer that took nothing for so long does not use its slot.
const UNUSED: Duration = Duration::from_secs(20);

/// Peers served at once for whom there are slots anyway, and slots beside theirs for more.
const SERVED: usize = 2;
const WAITING: usize = 2;

/// Slots where so many peers are served at once: an uplink that a few do not fill has more.
pub const fn slots(least: usize, served: usize) -> usize {
    if served > SERVED && served + WAITING > least {
        served + WAITING
    } else {
        least
    }
}

/// What the choice needs to know of one connected peer.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<K> {
    pub key: K,
    /// In us.
    pub interested: bool,
    /// We have something that it lacks.
    pub lacks: bool,
    /// It has a slot and asks for nothing.
    pub idle: bool,
    /// The first piece it lacks: where it is in the film.
    pub first_missing: u32,
    pub have_count: u32,
    /// Bytes a second, from it and to it.
    pub rate_to_us: f64,
    pub rate_from_us: f64,
}

/// The slots of one swarm. `ours` is the first piece that we lack, `None` when we seed.
#[derive(Debug)]
pub struct Choker<K> {
    slots: usize,
    unchoked: BTreeSet<K>,
    /// Of the unchoked: whose turn it is.
    turns: BTreeSet<K>,
    seen: BTreeMap<K, Seen>,
    rng: StdRng,
    rechoke: Time,
    rotate: Time,
    /// When to see whether slots are idle.
    look: Time,
}

/// What was noticed of a candidate.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first_missing: u32,
    /// When `first_missing` last changed: who stands still longest is nearest to a stall.
    moved: Time,
    /// When its slot began, or its last one.
    unchoked: Option<Time>,
    /// When it last took anything.
    served: Time,
}

impl<K: Copy + Ord> Choker<K> {
    pub fn new(now: Time, slots: usize, seed: u64) -> Self {
        Self {
            slots,
            unchoked: BTreeSet::new(),
            turns: BTreeSet::new(),
            seen: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            rechoke: now + RECHOKE,
            rotate: now,
            look: Time::NEVER,
        }
    }

    /// So many slots from the next choice on.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Those that may download now; all others are to be choked.
    pub fn unchoked(&self) -> &BTreeSet<K> {
        &self.unchoked
    }

    pub fn next_timeout(&self) -> Time {
        self.rechoke.min(self.look)
    }

    /// It is time to choose anew.
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.rechoke
    }

    /// Chooses anew when it is time to.
    pub fn handle_timeout(&mut self, now: Time, ours: Option<u32>, candidates: &[Candidate<K>]) {
        if now < self.rechoke {
            return;
        }
        self.rechoke = now + RECHOKE;
        self.notice(now, candidates);
        if now >= self.rotate {
            self.rotate = now + ROTATE;
            self.turns.clear();
        }
        let before = std::mem::take(&mut self.unchoked);
        let wanting = self.wanting(now, candidates, &before);
        let near = self.slots / 2;
        let turns = match ours {
            Some(_) => self.slots.min(1),
            None => self.slots - near,
        };
        let in_order = self.in_film_order(ours, &wanting);
        self.unchoked.extend(in_order.iter().take(near));
        let back = self.slots.saturating_sub(near + turns);
        let free: Vec<_> = giving_most(&wanting)
            .into_iter()
            .filter(|key| !self.unchoked.contains(key))
            .take(back)
            .collect();
        self.unchoked.extend(free);
        self.take_turns(turns, &wanting);
        self.fill(&wanting, &in_order);
        self.note_slots(now, &before);
        self.look_again(now, &wanting);
    }

    /// A peer became interested, or a slot free or idle: free slots are given away at once, and
    /// nobody loses one.
    pub fn handle_interested(&mut self, now: Time, ours: Option<u32>, candidates: &[Candidate<K>]) {
        self.notice(now, candidates);
        let before = self.unchoked.clone();
        let wanting = self.wanting(now, candidates, &before);
        self.unchoked.retain(|key| {
            candidates
                .iter()
                .any(|one| one.key == *key && one.interested)
        });
        let in_order = self.in_film_order(ours, &wanting);
        self.fill(&wanting, &in_order);
        self.note_slots(now, &before);
        self.look_again(now, &wanting);
    }

    /// While somebody who could use a slot has none.
    fn look_again(&mut self, now: Time, wanting: &[Wanting<'_, K>]) {
        let mut wanting = wanting.iter();
        let waits = self.unchoked.len() < self.most()
            && wanting.any(|one| !self.unchoked.contains(&one.candidate.key));
        self.look = if waits { now + LOOK } else { Time::NEVER };
    }

    /// We have something new: who has a slot may have a use for it again, and who has none.
    pub fn handle_news(&mut self, now: Time) {
        self.look = self.look.min(now + NEWS);
    }

    pub fn handle_closed(&mut self, key: K) {
        self.unchoked.remove(&key);
        self.turns.remove(&key);
        self.seen.remove(&key);
    }

    fn notice(&mut self, now: Time, candidates: &[Candidate<K>]) {
        for candidate in candidates {
            let seen = self.seen.entry(candidate.key).or_insert(Seen {
                first_missing: candidate.first_missing,
                moved: now,
                unchoked: None,
                served: now,
            });
            if seen.first_missing != candidate.first_missing {
                seen.first_missing = candidate.first_missing;
                seen.moved = now;
            }
            if candidate.rate_from_us >= 1.0 {
                seen.served = now;
            }
        }
    }

    fn wanting<'a>(
        &self,
        now: Time,
        candidates: &'a [Candidate<K>],
        unchoked: &BTreeSet<K>,
    ) -> Vec<Wanting<'a, K>> {
        let wanting = candidates.iter().filter(|one| one.interested && one.lacks);
        wanting
            .map(|candidate| {
                let seen = self.seen[&candidate.key];
                let held = unchoked.contains(&candidate.key);
                let began = seen.unchoked.unwrap_or(now).max(seen.served);
                Wanting {
                    candidate,
                    seen,
                    held,
                    unused: held && now.since(began) >= UNUSED,
                }
            })
            .collect()
    }

    /// Those that the film makes us help: nearest behind us first; from a seed nearest to a stall.
    fn in_film_order(&self, ours: Option<u32>, wanting: &[Wanting<'_, K>]) -> Vec<K> {
        let mut order: Vec<_> = wanting
            .iter()
            .filter(|one| !one.unused)
            .filter(|one| ours.is_none_or(|ours| one.candidate.first_missing <= ours))
            .collect();
        // A peer that has a slot keeps it among equals: whole pieces go to one before the next.
        order.sort_by_key(|one| {
            let film = match ours {
                Some(ours) => u64::from(ours - one.candidate.first_missing),
                None => one.seen.moved.as_nanos(),
            };
            (film, !one.held, one.candidate.key)
        });
        order.into_iter().map(|one| one.candidate.key).collect()
    }

    /// Newcomers first, then who waited longest; the rest is chance.
    fn take_turns(&mut self, turns: usize, wanting: &[Wanting<'_, K>]) {
        self.turns.retain(|key| {
            wanting
                .iter()
                .any(|one| one.candidate.key == *key && !one.unused)
        });
        self.turns.retain(|key| !self.unchoked.contains(key));
        let mut waiting: Vec<_> = wanting
            .iter()
            .filter(|one| !self.unchoked.contains(&one.candidate.key))
            .filter(|one| !self.turns.contains(&one.candidate.key))
            .map(|one| {
                let old = one.candidate.have_count >= NEWCOMER_PIECES;
                let chance: u32 = self.rng.random();
                (
                    one.unused,
                    old,
                    one.seen.unchoked,
                    chance,
                    one.candidate.key,
                )
            })
            .collect();
        waiting.sort_unstable();
        let keys = waiting.into_iter().map(|(.., key)| key);
        let free = turns.saturating_sub(self.turns.len());
        self.turns.extend(keys.take(free));
        self.unchoked.extend(self.turns.iter().take(turns));
    }

    /// Slots still free go to anybody who wants one.
    fn fill(&mut self, wanting: &[Wanting<'_, K>], in_order: &[K]) {
        let uses = |key: &K| {
            let mut wanting = wanting.iter();
            wanting.any(|one| one.candidate.key == *key && !one.candidate.idle)
        };
        let mut in_use = self.unchoked.iter().filter(|key| uses(key)).count();
        let mut rest: Vec<_> = wanting.iter().collect();
        rest.sort_by_key(|one| (one.unused, one.candidate.first_missing, one.candidate.key));
        let rest = rest.into_iter().map(|one| one.candidate.key);
        for key in in_order
            .iter()
            .copied()
            .chain(giving_most(wanting))
            .chain(rest)
        {
            if in_use >= self.slots || self.unchoked.len() >= self.most() {
                return;
            }
            in_use += usize::from(self.unchoked.insert(key) && uses(&key));
        }
    }

    fn most(&self) -> usize {
        self.slots * UNCHOKED_A_SLOT
    }

    fn note_slots(&mut self, now: Time, before: &BTreeSet<K>) {
        for key in self.unchoked.difference(before) {
            if let Some(seen) = self.seen.get_mut(key) {
                seen.unchoked = Some(now);
            }
        }
    }
}

/// An interested candidate.
struct Wanting<'a, K> {
    candidate: &'a Candidate<K>,
    seen: Seen,
    held: bool,
    unused: bool,
}

fn giving_most<K: Copy + Ord>(wanting: &[Wanting<'_, K>]) -> Vec<K> {
    let mut order: Vec<_> = wanting
        .iter()
        .filter(|one| !one.unused && one.candidate.rate_to_us > 0.0)
        .collect();
    order.sort_by(|a, b| {
        let rates = (b.candidate.rate_to_us).total_cmp(&a.candidate.rate_to_us);
        rates.then(a.candidate.key.cmp(&b.candidate.key))
    });
    order.into_iter().map(|one| one.candidate.key).collect()
}

#[cfg(test)]
mod tests;
