//! Whose blocks go out next: one piece after the other, what is due first before the rest.
//!
//! A peer can hand on a piece only once it has the whole of it. An uplink that is shared by four
//! downloads brings four pieces late; one after the other, the first of them is there in a quarter
//! of the time, and is on its way to others while the next one is sent.

use std::time::Duration;

use crate::swarm::PeerKey;
use crate::units::{BLOCK_LEN, PieceIndex, Time};

/// Peers served at once, at most.
pub const WIDTH_MAX: usize = 16;
/// Peers served at once before anything is measured.
const WIDTH_FIRST: usize = 4;
/// Every so many periods twice as many are tried, and kept if that brings so much more.
const TRY_EVERY: u32 = 16;
const WORTH: f64 = 1.1;
/// Who has taken nothing for so long holds nobody up.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// Of what the uplink was seen to carry, fewer peers at once are enough if they take this part.
const ENOUGH: f64 = 0.9;
/// That is measured over so long, and so many bytes.
const PERIOD: Duration = Duration::from_millis(500);
const PERIOD_BYTES: u64 = 24 * BLOCK_LEN as u64;
/// What the uplink was seen to carry is forgotten by this factor a period.
const FORGET: f64 = 0.98;

/// Turns of one swarm's uploads.
#[derive(Debug)]
pub struct Serving {
    turns: Vec<Turn>,
    /// Somebody waits for a turn.
    queue: bool,
    /// More than one peer wants something.
    contested: bool,
    width: usize,
    period: Period,
    /// Bytes/s.
    best: f64,
    periods: u32,
    /// More are tried: how many there were before, and the best then.
    tried: Option<(usize, f64)>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    key: PeerKey,
    piece: PieceIndex,
    /// When it began, or last took something.
    moved: Time,
    stuck: bool,
}

#[derive(Clone, Copy, Debug)]
struct Period {
    began: Time,
    bytes: u64,
}

impl Serving {
    pub fn new(now: Time) -> Self {
        Self {
            turns: Vec::new(),
            queue: false,
            contested: false,
            width: WIDTH_FIRST,
            period: Period {
                began: now,
                bytes: 0,
            },
            best: 0.0,
            periods: 0,
            tried: None,
        }
    }

    /// Whether the next block of this piece may go to this peer.
    pub fn holds(&self, key: PeerKey, piece: PieceIndex) -> bool {
        let mut turns = self.turns.iter();
        turns.any(|turn| turn.key == key && turn.piece == piece)
    }

    /// `next`: of which piece the next block for a peer is. Turns end with their piece.
    pub fn end_turns(&mut self, next: impl Fn(PeerKey) -> Option<PieceIndex>) {
        self.turns.retain(|turn| next(turn.key) == Some(turn.piece));
    }

    /// How many more turns may begin.
    pub fn free(&self) -> usize {
        let held = self.turns.iter().filter(|turn| !turn.stuck).count();
        self.width.saturating_sub(held)
    }

    pub fn begin_turn(&mut self, now: Time, key: PeerKey, piece: PieceIndex) {
        self.turns.push(Turn {
            key,
            piece,
            moved: now,
            stuck: false,
        });
    }

    /// So many are left without a turn.
    pub fn set_waiting(&mut self, now: Time, waiting: usize) {
        self.queue = waiting > 0;
        // One alone tells nothing of how many should be served at once.
        let contested = waiting + self.turns.len() > 1;
        if !self.contested || !contested {
            self.period = Period {
                began: now,
                bytes: 0,
            };
        }
        self.contested = contested;
    }

    pub fn handle_sent(&mut self, now: Time, key: PeerKey, bytes: u64) {
        for turn in self.turns.iter_mut().filter(|turn| turn.key == key) {
            turn.moved = now;
            turn.stuck = false;
        }
        if self.contested {
            self.period.bytes += bytes;
            self.measure(now);
        }
    }

    /// Fewer at once if that loses nothing, more if it does: the uplink itself tells which.
    fn measure(&mut self, now: Time) {
        let elapsed = now.since(self.period.began);
        if elapsed < PERIOD || self.period.bytes < PERIOD_BYTES {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.period.bytes as f64 / elapsed.as_secs_f64();
        self.best = rate.max(self.best * FORGET);
        self.periods += 1;
        if let Some((before, best)) = self.tried.take() {
            if rate < best * WORTH {
                self.width = before;
            }
        } else if self.periods % TRY_EVERY == 1 {
            self.tried = Some((self.width, self.best));
            self.width = (self.width * 2).min(WIDTH_MAX);
        } else if rate >= self.best * ENOUGH {
            self.width = (self.width - 1).max(1);
        } else {
            self.width = (self.width + 1).min(WIDTH_MAX);
        }
        self.period = Period {
            began: now,
            bytes: 0,
        };
    }

    pub fn next_timeout(&self) -> Time {
        let held = self.turns.iter().filter(|turn| !turn.stuck);
        let stuck = held.map(|turn| turn.moved + STUCK_AFTER).min();
        stuck.filter(|_| self.queue).unwrap_or(Time::NEVER)
    }

    /// Whether somebody else may have a turn now.
    pub fn handle_timeout(&mut self, now: Time) -> bool {
        let mut freed = false;
        for turn in &mut self.turns {
            let stuck = now.since(turn.moved) >= STUCK_AFTER;
            freed |= stuck && !turn.stuck;
            turn.stuck = stuck;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_LEN as u64;
    /// Blocks of a piece.
    const PIECE: u32 = 8;

    /// Peers that want piece after piece, over an uplink that all share or lines of their own.
    struct World {
        serving: Serving,
        now: Time,
        /// Blocks that each peer was sent.
        sent: Vec<u32>,
        /// Blocks/s of all together, and of one peer at most.
        uplink: f64,
        line: f64,
        widths: Vec<usize>,
    }

    impl World {
        fn new(peers: usize, uplink: f64, line: f64) -> Self {
            Self {
                serving: Serving::new(Time::ZERO),
                now: Time::ZERO,
                sent: vec![0; peers],
                uplink,
                line,
                widths: Vec::new(),
            }
        }

        fn piece(&self, peer: usize) -> PieceIndex {
            PieceIndex(self.sent[peer] / PIECE)
        }

        fn take_turns(&mut self) {
            let next: Vec<_> = (0..self.sent.len()).map(|peer| self.piece(peer)).collect();
            self.serving.end_turns(|key| Some(next[key.0]));
            let mut waiting: Vec<_> = (0..next.len())
                .filter(|&peer| !self.serving.holds(PeerKey(peer), next[peer]))
                .collect();
            waiting.sort_by_key(|&peer| self.sent[peer]);
            let free = self.serving.free();
            for &peer in waiting.iter().take(free) {
                let key = PeerKey(peer);
                self.serving.begin_turn(self.now, key, next[peer]);
            }
            let left = waiting.len().saturating_sub(free);
            self.serving.set_waiting(self.now, left);
        }

        /// Sends for so long; how much went out of what could have, of the second half.
        fn run(&mut self, seconds: u32) -> f64 {
            let ticks = seconds * 1000;
            let mut credit = vec![0.0; self.sent.len()];
            let mut half = 0;
            for tick in 0..ticks {
                self.now = self.now + Duration::from_millis(1);
                self.take_turns();
                let held: Vec<_> = (0..self.sent.len())
                    .filter(|&peer| self.serving.holds(PeerKey(peer), self.piece(peer)))
                    .collect();
                let share = (self.uplink / held.len() as f64).min(self.line) / 1000.0;
                for peer in held {
                    credit[peer] += share;
                    if credit[peer] >= 1.0 {
                        credit[peer] -= 1.0;
                        self.sent[peer] += 1;
                        self.serving.handle_sent(self.now, PeerKey(peer), BLOCK);
                    }
                }
                if tick == ticks / 2 {
                    half = self.sent.iter().sum();
                }
                self.widths.push(self.serving.width);
            }
            let sent = self.sent.iter().sum::<u32>() - half;
            let lines = self.line * self.sent.len() as f64;
            f64::from(sent) / (self.uplink.min(lines) * f64::from(seconds) / 2.0)
        }
    }

    #[test]
    fn a_shared_uplink_serves_one_after_the_other() {
        let mut world = World::new(6, 40.0, 1000.0);
        let used = world.run(20);
        assert!(used > 0.95, "{used}");
        let late = &world.widths[10_000..];
        let alone = late.iter().filter(|&&width| width == 1).count();
        assert!(alone * 10 > late.len() * 9, "{alone} of {}", late.len());
        // Nobody is forgotten.
        let (least, most) = (world.sent.iter().min(), world.sent.iter().max());
        assert!(most.unwrap() - least.unwrap() <= PIECE, "{:?}", world.sent);
    }

    #[test]
    fn peers_with_slow_lines_are_served_as_many_at_once_as_fill_the_uplink() {
        let mut world = World::new(12, 400.0, 50.0);
        let used = world.run(60);
        assert!(used > 0.85, "{used}");
        // And all of them if that is what it takes.
        let mut world = World::new(8, 4000.0, 50.0);
        let used = world.run(60);
        assert!(used > 0.85, "{used}");
    }

    #[test]
    fn who_takes_nothing_holds_nobody_up() {
        let mut serving = Serving::new(Time::ZERO);
        serving.width = 1;
        let piece = PieceIndex(3);
        serving.begin_turn(Time::ZERO, PeerKey(1), piece);
        assert_eq!(serving.free(), 0);
        assert_eq!(serving.next_timeout(), Time::NEVER);
        serving.set_waiting(Time::ZERO, 1);
        let stuck = serving.next_timeout();
        assert_eq!(stuck, Time::ZERO + STUCK_AFTER);
        assert!(!serving.handle_timeout(stuck.before(Duration::from_millis(1))));
        assert!(serving.handle_timeout(stuck));
        assert_eq!((serving.free(), serving.next_timeout()), (1, Time::NEVER));
        // It may go on all the same, and then counts again.
        assert!(serving.holds(PeerKey(1), piece));
        serving.handle_sent(stuck, PeerKey(1), BLOCK);
        assert_eq!(serving.free(), 0);
    }

    #[test]
    fn a_turn_ends_with_its_piece() {
        let mut serving = Serving::new(Time::ZERO);
        for key in 0..2 {
            serving.begin_turn(Time::ZERO, PeerKey(key), PieceIndex(3));
        }
        serving.end_turns(|key| Some(PieceIndex(if key.0 == 0 { 3 } else { 4 })));
        assert!(serving.holds(PeerKey(0), PieceIndex(3)));
        assert!(!serving.holds(PeerKey(0), PieceIndex(4)));
        assert!(!serving.holds(PeerKey(1), PieceIndex(4)));
        serving.end_turns(|_| None);
        assert!(!serving.holds(PeerKey(0), PieceIndex(3)));
    }
}
