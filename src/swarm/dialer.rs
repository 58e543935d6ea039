//! Which known address is connected to next, and when (R44).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::units::Time;

/// Addresses kept of one swarm.
pub const KNOWN_MAX: usize = 2000;
/// Connections being opened: of those that a tracker names many have gone, and take seconds to
/// tell.
pub const HALF_OPEN_MAX: usize = 150;
/// New connections within `DIALS_TIME`. A viewer that has just come needs those that live among all
/// that are named at once.
pub const DIALS_MAX: u32 = 150;
pub const DIALS_TIME: Duration = Duration::from_secs(5);
/// Addresses that are refused.
pub const BANNED_MAX: usize = 1000;
pub const BAN: Duration = Duration::from_secs(3600);
/// The first pause after a failure; each further one doubles it.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(30 * 60);
/// The longest pause of an address where a peer has answered once: its line may be bad.
const RETRY_GOOD_MAX: Duration = Duration::from_secs(60);
/// Failures after which an address is the first to make room for another.
const FAILS_MAX: u32 = 3;
/// Who called us is called itself after so long at the earliest.
const REACHED: Duration = Duration::from_secs(60);
/// When an address is looked at again whose IP is connected by another.
const SAME_IP: Duration = Duration::from_secs(60);
/// A connection that lasted less counts as a failure.
const LASTING: Duration = Duration::from_secs(60);

/// How an address became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    User,
    /// `x.pe` of a magnet link.
    Magnet,
    Tracker,
    Pex,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub known: usize,
    pub half_open: usize,
    pub dials: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            known: KNOWN_MAX,
            half_open: HALF_OPEN_MAX,
            dials: DIALS_MAX,
        }
    }
}

/// The addresses of one swarm. Each is dialled by at most one connection at a time.
#[derive(Debug)]
pub struct Dialer {
    limits: Limits,
    known: BTreeMap<SocketAddr, Known>,
    /// May be dialled now, best first.
    ready: BTreeSet<(Rank, u64, SocketAddr)>,
    /// Wait for their time.
    later: BTreeSet<(Time, SocketAddr)>,
    /// Connections to global addresses, by IP: one each (R44), and two while calls cross.
    ips: BTreeMap<IpAddr, u8>,
    banned: BTreeMap<Banned, Time>,
    half_open: usize,
    /// Orders addresses of one rank by age.
    added: u64,
    /// The latest of them, as many as are allowed in `DIALS_TIME`.
    dials: VecDeque<Time>,
    /// No timeout is before it.
    began: Time,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    found: Found,
    added: u64,
    state: State,
    fails: u32,
    /// A handshake came back once.
    good: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Later(Time),
    Dialling,
    Open { since: Time, shaken: bool },
}

/// Smaller is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    User,
    Fresh,
    Good,
    Failed(u32),
}

/// Global addresses are refused with all their ports; private ones are shared by too many (tests,
/// NAT) for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Banned {
    Ip(IpAddr),
    Port(SocketAddr),
}

impl Known {
    fn rank(&self) -> Rank {
        match (self.found, self.fails, self.good) {
            (Found::User, 0, _) => Rank::User,
            (_, 0, false) => Rank::Fresh,
            (_, _, true) => Rank::Good,
            (_, fails, false) => Rank::Failed(fails),
        }
    }
}

impl Dialer {
    pub fn new(now: Time, limits: Limits) -> Self {
        Self {
            limits,
            known: BTreeMap::new(),
            ready: BTreeSet::new(),
            later: BTreeSet::new(),
            ips: BTreeMap::new(),
            banned: BTreeMap::new(),
            half_open: 0,
            added: 0,
            dials: VecDeque::new(),
            began: now,
        }
    }

    /// Whether the address is new, allowed and kept.
    pub fn add(&mut self, now: Time, addr: SocketAddr, found: Found) -> bool {
        if addr.port() == 0 || self.is_banned(now, addr) {
            return false;
        }
        if let Some(known) = self.known.get(&addr) {
            // A better source raises it.
            if found < known.found {
                self.change(addr, |known| known.found = found);
            }
            return false;
        }
        if self.known.len() >= self.limits.known && !self.make_room(found) {
            return false;
        }
        self.added += 1;
        let known = Known {
            found,
            added: self.added,
            state: State::Ready,
            fails: 0,
            good: false,
        };
        self.known.insert(addr, known);
        self.ready.insert((known.rank(), known.added, addr));
        true
    }

    /// Drops the address of least promise that is not connected; a newcomer drops none that never
    /// failed, unless it comes from the user.
    fn make_room(&mut self, found: Found) -> bool {
        let worst = self
            .known
            .iter()
            .filter(|(_, known)| matches!(known.state, State::Ready | State::Later(_)))
            .max_by_key(|(_, known)| (known.rank(), known.found, known.added))
            .map(|(addr, known)| (*addr, known.fails));
        match worst {
            Some((addr, fails)) if fails >= 1 || found == Found::User => {
                self.forget(addr);
                true
            }
            _ => false,
        }
    }

    /// The next address to connect to, if any may be dialled now. It counts as dialled. Once this
    /// says `None`, `next_timeout` is later than `now`.
    pub fn poll_dial(&mut self, now: Time) -> Option<SocketAddr> {
        self.promote(now);
        if self.half_open >= self.limits.half_open || now < self.next_dial() {
            return None;
        }
        let addr = loop {
            let (.., addr) = *self.ready.first()?;
            if !self.ips.contains_key(&addr.ip()) {
                break addr;
            }
            self.change(addr, |known| known.state = State::Later(now + SAME_IP));
        };
        self.change(addr, |known| known.state = State::Dialling);
        self.half_open += 1;
        self.hold_ip(addr);
        if self.dials.len() == self.dials_max() {
            self.dials.pop_front();
        }
        self.dials.push_back(now);
        Some(addr)
    }

    /// It was not dialled after all: the peer there has called us.
    pub fn handle_reached(&mut self, now: Time, addr: SocketAddr) {
        self.free_ip(addr);
        self.leave(addr);
        self.change(addr, |known| known.state = State::Later(now + REACHED));
    }

    /// The connection stands.
    pub fn handle_connected(&mut self, now: Time, addr: SocketAddr) {
        let open = State::Open {
            since: now,
            shaken: false,
        };
        self.leave(addr);
        self.change(addr, |known| known.state = open);
    }

    /// The peer answered the handshake.
    pub fn handle_shaken(&mut self, addr: SocketAddr) {
        self.change(addr, |known| {
            known.good = true;
            if let State::Open { shaken, .. } = &mut known.state {
                *shaken = true;
            }
        });
    }

    /// A dialled connection failed, or one that stood ended; also of an incoming one.
    pub fn handle_closed(&mut self, now: Time, addr: SocketAddr) {
        self.free_ip(addr);
        let Some(known) = self.known.get(&addr) else {
            return;
        };
        if matches!(known.state, State::Ready | State::Later(_)) {
            return;
        }
        let lasted = match known.state {
            State::Open { since, shaken } => shaken && now.since(since) >= LASTING,
            _ => false,
        };
        self.leave(addr);
        self.change(addr, |known| {
            known.fails = if lasted {
                0
            } else {
                known.fails.saturating_add(1)
            };
            let longest = if known.good {
                RETRY_GOOD_MAX
            } else {
                RETRY_MAX
            };
            let wait = match known.fails {
                0 => RETRY_MIN,
                fails if fails >= FAILS_MAX && !known.good && known.found != Found::User => {
                    RETRY_MAX
                }
                fails => (RETRY_MIN * 2u32.saturating_pow(fails.min(16))).min(longest),
            };
            known.state = State::Later(now + wait);
        });
    }

    /// Whether an incoming connection may stay; it must be told to `handle_closed` when it ends.
    pub fn accept(&mut self, now: Time, addr: SocketAddr) -> bool {
        let held = self.ips.get(&addr.ip()).copied().unwrap_or(0);
        let may = match held {
            0 => true,
            // Both sides may call at once: each lets the other's call in, and once who is who is
            // known one of the two goes.
            1 => self.is_calling(addr.ip()),
            _ => false,
        };
        if !may || self.is_banned(now, addr) {
            return false;
        }
        self.hold_ip(addr);
        true
    }

    /// Whether the IP is being dialled, or has been and did not answer the handshake yet.
    fn is_calling(&self, ip: IpAddr) -> bool {
        let ports = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
        let mut known = self.known.range(ports).map(|(_, known)| known.state);
        known.any(|state| matches!(state, State::Dialling | State::Open { shaken: false, .. }))
    }

    /// Refuses the address for an hour, with all its ports if it is global, and forgets it. Its
    /// connection, if any, is the caller's to close, before or after.
    pub fn ban(&mut self, now: Time, addr: SocketAddr) {
        let key = if is_global(addr.ip()) {
            Banned::Ip(addr.ip())
        } else {
            Banned::Port(addr)
        };
        self.keep_out(now, key, addr);
    }

    /// As `ban`, of that port alone: it is our own, and others may share our IP.
    pub fn refuse(&mut self, now: Time, addr: SocketAddr) {
        self.keep_out(now, Banned::Port(addr), addr);
    }

    fn keep_out(&mut self, now: Time, key: Banned, addr: SocketAddr) {
        self.banned.retain(|_, until| *until > now);
        if self.banned.len() >= BANNED_MAX
            && let Some((first, _)) = self.banned.iter().min_by_key(|(_, until)| **until)
        {
            let first = *first;
            self.banned.remove(&first);
        }
        self.banned.insert(key, now + BAN);
        if self.known.contains_key(&addr) {
            self.forget(addr);
        }
    }

    pub fn is_banned(&self, now: Time, addr: SocketAddr) -> bool {
        [Banned::Ip(addr.ip()), Banned::Port(addr)]
            .iter()
            .filter_map(|key| self.banned.get(key))
            .any(|until| *until > now)
    }

    /// Addresses kept, connected or not.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// When `poll_dial` may have something; never while it waits for a connection to open or fail.
    pub fn next_timeout(&self) -> Time {
        if self.half_open >= self.limits.half_open {
            return Time::NEVER;
        }
        let later = self.later.first().map_or(Time::NEVER, |(due, _)| *due);
        let due = if self.ready.is_empty() {
            later
        } else {
            self.began
        };
        due.max(self.next_dial())
    }

    fn promote(&mut self, now: Time) {
        while let Some(&(due, addr)) = self.later.first()
            && due <= now
        {
            self.change(addr, |known| known.state = State::Ready);
        }
    }

    fn dials_max(&self) -> usize {
        self.limits.dials.max(1) as usize
    }

    /// No `DIALS_TIME` has more than are allowed.
    fn next_dial(&self) -> Time {
        match self.dials.front() {
            Some(first) if self.dials.len() == self.dials_max() => *first + DIALS_TIME,
            _ => self.began,
        }
    }

    fn hold_ip(&mut self, addr: SocketAddr) {
        if is_global(addr.ip()) {
            *self.ips.entry(addr.ip()).or_default() += 1;
        }
    }

    fn free_ip(&mut self, addr: SocketAddr) {
        if let Some(held) = self.ips.get_mut(&addr.ip()) {
            *held -= 1;
            if *held == 0 {
                self.ips.remove(&addr.ip());
            }
        }
    }

    fn leave(&mut self, addr: SocketAddr) {
        if self
            .known
            .get(&addr)
            .is_some_and(|known| known.state == State::Dialling)
        {
            self.half_open -= 1;
        }
    }

    /// Keeps the two queues in step with the entry.
    fn change(&mut self, addr: SocketAddr, change: impl FnOnce(&mut Known)) {
        let Some(known) = self.known.get_mut(&addr) else {
            return;
        };
        self.ready.remove(&(known.rank(), known.added, addr));
        if let State::Later(due) = known.state {
            self.later.remove(&(due, addr));
        }
        change(known);
        match known.state {
            State::Ready => {
                self.ready.insert((known.rank(), known.added, addr));
            }
            State::Later(due) => {
                self.later.insert((due, addr));
            }
            State::Dialling | State::Open { .. } => {}
        }
    }

    fn forget(&mut self, addr: SocketAddr) {
        self.leave(addr);
        self.change(addr, |known| known.state = State::Dialling);
        self.known.remove(&addr);
    }
}

/// Not of a machine or a network of its own.
pub fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests;
