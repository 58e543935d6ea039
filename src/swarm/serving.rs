//! Whose blocks go out next: one piece after the other, what is due first before the rest.
//!
//! A peer can hand on a piece only once it has the whole of it. An uplink that is shared by four
//! downloads brings four pieces late; one after the other, the first of them is there in a quarter
//! of the time, and is on its way to others while the next one is sent.

mod line;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::swarm::PeerKey;
use crate::swarm::outlook::bytes;
use crate::swarm::serving::line::Line;
use crate::units::{BLOCK_LEN, PieceIndex, Time};

/// A turn lasts so long, and as long as so many blocks take, without a further request.
const LINGER: Duration = Duration::from_millis(100);
const LINGER_BLOCKS: f64 = 4.0;
const LINGER_MAX: Duration = Duration::from_secs(2);
/// The latter before it is known how long that is.
const LINGER_FIRST: Duration = Duration::from_millis(200);
/// Who has taken nothing for so long holds nobody up, nor who has taken nothing while so many
/// blocks would have gone to each: on a thin line a block takes long, and one more served for each
/// that waits would make all of them wait.
const STUCK_AFTER: Duration = Duration::from_secs(1);
const STUCK_BLOCKS: f64 = 4.0;
const STUCK_AFTER_MAX: Duration = Duration::from_secs(10);
/// The same before it is known how thin the line is.
const STUCK_AFTER_FIRST: Duration = Duration::from_secs(4);
/// So much of what goes out may wait before the line, s, and no less than this, bytes: it keeps the
/// line busy until the next block comes, and on a thin one makes all else that goes there late.
const PENDING_S: f64 = 0.06;
const PENDING_MIN: f64 = 4096.0;
/// The same while one peer alone wants something: a fast line is not known for one then.
const PENDING_ALONE: u64 = 4 * BLOCK_LEN as u64;
/// Acknowledgements that wait where they come from, behind what is sent there, may be so late, s.
const LATE_S: f64 = 0.4;

/// Turns of one swarm's uploads.
#[derive(Debug)]
pub struct Serving {
    turns: Vec<Turn>,
    /// Whose block was begun, and is not through; since when.
    under_way: BTreeMap<PeerKey, Time>,
    /// Somebody waits for a turn.
    queue: bool,
    /// More than one peer wants something.
    contested: bool,
    line: Line,
    /// Nobody is served before.
    rests_until: Time,
}

/// When a block that was sent is through, and the next is sent, to this peer or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// No more bytes wait on the way, beside those that keep the path busy.
    pub pending: u64,
    /// As far as our own line is known.
    pub late: Option<Late>,
}

/// So long after it was begun it has gone over our own line: so many more bytes may wait then, for
/// acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub after: Duration,
    pub pending: u64,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    key: PeerKey,
    piece: PieceIndex,
    /// When it began, or last took something.
    moved: Time,
    stuck: bool,
    /// It has asked for nothing more so far.
    idle: bool,
}

impl Turn {
    /// When it holds nobody up any more if it takes nothing.
    fn stuck_at(&self, patience: Patience) -> Time {
        self.moved
            + if self.idle {
                patience.idle
            } else {
                patience.asking
            }
    }
}

/// With who asks for nothing more, and with who does and takes nothing.
#[derive(Clone, Copy, Debug)]
struct Patience {
    idle: Duration,
    asking: Duration,
}

impl Serving {
    pub fn new(now: Time) -> Self {
        Self {
            turns: Vec::new(),
            under_way: BTreeMap::new(),
            queue: false,
            contested: false,
            line: Line::new(now),
            rests_until: Time::ZERO,
        }
    }

    /// What goes out, bytes/s; zero while it is not known.
    pub const fn rate(&self) -> f64 {
        self.line.rate
    }

    /// Of a block of so many bytes for one peer.
    pub fn through(&self, len: u64) -> Through {
        let rate = self.line.rate;
        if !self.contested || rate <= 0.0 {
            let pending = match self.contested {
                true => u64::from(BLOCK_LEN),
                false => PENDING_ALONE,
            };
            return Through {
                pending,
                late: None,
            };
        }
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let line_s = len as f64 / rate * f64::from(self.line.width_u32());
        Through {
            pending: bytes((rate * PENDING_S).max(PENDING_MIN)),
            late: Some(Late {
                after: Duration::from_secs_f64(line_s),
                pending: bytes(rate * LATE_S).max(len),
            }),
        }
    }

    /// Peers served at once.
    pub const fn width(&self) -> usize {
        self.line.width
    }

    /// The line is needed for something else.
    pub fn rest(&mut self, until: Time) {
        self.turns.clear();
        self.rests_until = until;
    }

    /// Whether the next block of this piece may go to this peer.
    pub fn holds(&self, key: PeerKey, piece: PieceIndex) -> bool {
        let mut turns = self.turns.iter();
        turns.any(|turn| turn.key == key && turn.piece == piece)
    }

    /// `next`: of which piece the next block for a peer is. Turns end with their piece.
    pub fn end_turns(&mut self, now: Time, next: impl Fn(PeerKey) -> Option<PieceIndex>) {
        let linger = self.patience().idle;
        self.turns.retain_mut(|turn| {
            let wanted = next(turn.key);
            turn.idle = wanted.is_none();
            wanted == Some(turn.piece) || turn.idle && now.since(turn.moved) < linger
        });
    }

    /// It has taken back all that it asked for, and does not wait for the rest of the piece.
    pub fn end_turn(&mut self, key: PeerKey) {
        self.turns.retain(|turn| turn.key != key);
    }

    /// Who asks for a few blocks at a time asks for the next when one has come.
    fn patience(&self) -> Patience {
        let (Some(block_s), Some(round_s)) = (self.line.block_s(), self.line.round_s()) else {
            return Patience {
                idle: LINGER + LINGER_FIRST,
                asking: STUCK_AFTER_FIRST,
            };
        };
        let linger_s = (block_s * LINGER_BLOCKS).min(LINGER_MAX.as_secs_f64());
        let stuck_s = (round_s * STUCK_BLOCKS).min(STUCK_AFTER_MAX.as_secs_f64());
        Patience {
            idle: LINGER + Duration::from_secs_f64(linger_s),
            asking: STUCK_AFTER.max(Duration::from_secs_f64(stuck_s)),
        }
    }

    /// How many more turns may begin. While one peer is about to ask for more another is served; a
    /// block that is on its way has the line, whether its turn lasts or not.
    pub fn free(&self, now: Time) -> usize {
        if now < self.rests_until {
            return 0;
        }
        let turns = self.turns.iter().filter(|turn| !turn.stuck);
        let idles = |turn: &&Turn| turn.idle && !self.under_way.contains_key(&turn.key);
        let idle = turns.clone().filter(idles).count();
        let served = turns.count() - idle;
        let rests = self.under_way.keys().filter(|key| !self.has_turn(**key));
        let held = served + rests.count() + idle.saturating_sub(1);
        self.line.width.saturating_sub(held)
    }

    fn has_turn(&self, key: PeerKey) -> bool {
        self.turns.iter().any(|turn| turn.key == key)
    }

    /// A block for it goes to the socket.
    pub fn handle_begun(&mut self, now: Time, key: PeerKey) {
        self.under_way.insert(key, now);
    }

    pub fn handle_closed(&mut self, key: PeerKey) {
        self.under_way.remove(&key);
        self.end_turn(key);
    }

    pub fn begin_turn(&mut self, now: Time, key: PeerKey, piece: PieceIndex) {
        self.turns.push(Turn {
            key,
            piece,
            moved: now,
            stuck: false,
            idle: false,
        });
    }

    /// So many are left without a turn.
    pub fn set_waiting(&mut self, now: Time, waiting: usize) {
        self.queue = waiting > 0;
        // One alone tells nothing of how many should be served at once.
        let contested = waiting + self.turns.len() > 1;
        if !self.contested || !contested {
            self.line.begin_period(now);
        }
        self.contested = contested;
    }

    pub fn handle_sent(&mut self, now: Time, key: PeerKey, bytes: u64) {
        self.under_way.remove(&key);
        for turn in self.turns.iter_mut().filter(|turn| turn.key == key) {
            turn.moved = now;
            turn.stuck = false;
        }
        if self.contested {
            self.line.handle_sent(now, bytes);
        }
    }

    pub fn next_timeout(&self) -> Time {
        if !self.queue {
            return Time::NEVER;
        }
        let patience = self.patience();
        let held = self.turns.iter().filter(|turn| !turn.stuck);
        let stuck = held.map(|turn| turn.stuck_at(patience));
        let stuck = stuck.chain(
            self.under_way
                .values()
                .map(|began| *began + patience.asking),
        );
        let rested = Some(self.rests_until).filter(|until| *until > Time::ZERO);
        stuck.chain(rested).min().unwrap_or(Time::NEVER)
    }

    /// Whether somebody else may have a turn now.
    pub fn handle_timeout(&mut self, now: Time) -> bool {
        let mut freed = false;
        let patience = self.patience();
        if self.rests_until > Time::ZERO && now >= self.rests_until {
            self.rests_until = Time::ZERO;
            freed = true;
        }
        let before = self.under_way.len();
        self.under_way
            .retain(|_, began| now < *began + patience.asking);
        freed |= self.under_way.len() < before;
        for turn in &mut self.turns {
            let stuck = now >= turn.stuck_at(patience);
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
        /// Blocks that a socket swallows before they are on the wire, and those in each.
        swallows: f64,
        sockets: Vec<f64>,
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
                swallows: 0.0,
                sockets: vec![0.0; peers],
                widths: Vec::new(),
            }
        }

        fn send(&mut self, peer: usize) {
            self.sent[peer] += 1;
            self.serving.handle_sent(self.now, PeerKey(peer), BLOCK);
        }

        fn piece(&self, peer: usize) -> PieceIndex {
            PieceIndex(self.sent[peer] / PIECE)
        }

        fn take_turns(&mut self) {
            let next: Vec<_> = (0..self.sent.len()).map(|peer| self.piece(peer)).collect();
            self.serving.end_turns(self.now, |key| Some(next[key.0]));
            let mut waiting: Vec<_> = (0..next.len())
                .filter(|&peer| !self.serving.holds(PeerKey(peer), next[peer]))
                .collect();
            waiting.sort_by_key(|&peer| self.sent[peer]);
            let free = self.serving.free(self.now);
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
                for &peer in &held {
                    if self.sockets[peer] + 1.0 <= self.swallows {
                        self.sockets[peer] += 1.0;
                        self.send(peer);
                    }
                }
                let busy = |peer: usize| held.contains(&peer) || self.sockets[peer] > 0.0;
                let busy: Vec<_> = (0..self.sent.len()).filter(|&peer| busy(peer)).collect();
                let share = (self.uplink / busy.len() as f64).min(self.line) / 1000.0;
                for peer in busy {
                    if self.sockets[peer] > 0.0 {
                        self.sockets[peer] = (self.sockets[peer] - share).max(0.0);
                        continue;
                    }
                    credit[peer] += share;
                    if credit[peer] >= 1.0 {
                        credit[peer] -= 1.0;
                        self.send(peer);
                    }
                }
                if tick == ticks / 2 {
                    half = self.sent.iter().sum();
                }
                self.widths.push(self.serving.line.width);
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
        assert!(alone * 10 > late.len() * 8, "{alone} of {}", late.len());
        // Nobody is forgotten.
        let (least, most) = (world.sent.iter().min(), world.sent.iter().max());
        assert!(most.unwrap() - least.unwrap() <= PIECE, "{:?}", world.sent);
    }

    #[test]
    fn what_sockets_swallow_is_not_taken_for_what_goes_out() {
        let mut world = World::new(10, 20.0, 1000.0);
        world.swallows = 2.0;
        world.run(60);
        let late = &world.widths[20_000..];
        let alone = late.iter().filter(|&&width| width == 1).count();
        assert!(alone * 10 > late.len() * 7, "{alone} of {}", late.len());
    }

    #[test]
    fn who_asks_for_little_at_a_time_keeps_its_turn_for_a_while() {
        let mut serving = Serving::new(Time::ZERO);
        // A block takes 0.1 s.
        serving.line.rate = BLOCK as f64 * 10.0;
        let piece = PieceIndex(3);
        serving.begin_turn(Time::ZERO, PeerKey(1), piece);
        serving.end_turns(Time::ZERO, |_| None);
        assert!(serving.holds(PeerKey(1), piece));
        // Another is served in between, and no third.
        assert_eq!(serving.free(Time::ZERO), 1);
        serving.begin_turn(Time::ZERO, PeerKey(2), piece);
        serving.end_turns(Time::ZERO, |_| None);
        assert_eq!(serving.free(Time::ZERO), 0);
        serving.set_waiting(Time::ZERO, 1);
        let over = serving.next_timeout();
        assert_eq!(over, Time::ZERO + Duration::from_millis(500));
        assert!(serving.handle_timeout(over));
        serving.end_turns(over, |_| None);
        assert!(!serving.holds(PeerKey(1), piece));
    }

    #[test]
    fn before_the_line_is_known_nobody_is_waited_for_long() {
        let mut serving = Serving::new(Time::ZERO);
        let piece = PieceIndex(3);
        serving.begin_turn(Time::ZERO, PeerKey(1), piece);
        serving.begin_turn(Time::ZERO, PeerKey(2), piece);
        serving.end_turns(Time::ZERO, |_| None);
        assert_eq!(serving.free(Time::ZERO), 0);
        serving.set_waiting(Time::ZERO, 1);
        assert_eq!(serving.next_timeout(), Time::ZERO + LINGER + LINGER_FIRST);
    }

    #[test]
    fn who_takes_all_back_is_not_waited_for() {
        let mut serving = Serving::new(Time::ZERO);
        let piece = PieceIndex(3);
        for key in 0..2 {
            serving.begin_turn(Time::ZERO, PeerKey(key), piece);
        }
        assert_eq!(serving.free(Time::ZERO), 0);
        serving.end_turn(PeerKey(0));
        serving.end_turn(PeerKey(1));
        assert!(!serving.holds(PeerKey(0), piece));
        assert_eq!(serving.free(Time::ZERO), 1);
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
    fn on_a_thin_line_who_waits_for_a_block_is_not_stuck() {
        let stuck_at = |blocks_per_s: f64, width: usize| {
            let mut serving = Serving::new(Time::ZERO);
            serving.line.rate = BLOCK as f64 * blocks_per_s;
            serving.line.width = width;
            serving.begin_turn(Time::ZERO, PeerKey(1), PieceIndex(3));
            serving.set_waiting(Time::ZERO, 1);
            serving.next_timeout()
        };
        assert_eq!(stuck_at(40.0, 2), Time::ZERO + STUCK_AFTER);
        assert_eq!(stuck_at(2.0, 1), Time::from_secs(2));
        assert_eq!(stuck_at(2.0, 4), Time::from_secs(8));
        assert_eq!(stuck_at(0.5, 4), Time::ZERO + STUCK_AFTER_MAX);
    }

    #[test]
    fn who_takes_nothing_holds_nobody_up() {
        let mut serving = Serving::new(Time::ZERO);
        serving.line.width = 1;
        let piece = PieceIndex(3);
        serving.begin_turn(Time::ZERO, PeerKey(1), piece);
        assert_eq!(serving.free(Time::ZERO), 0);
        assert_eq!(serving.next_timeout(), Time::NEVER);
        serving.set_waiting(Time::ZERO, 1);
        let stuck = serving.next_timeout();
        assert_eq!(stuck, Time::ZERO + STUCK_AFTER_FIRST);
        assert!(!serving.handle_timeout(stuck.before(Duration::from_millis(1))));
        assert!(serving.handle_timeout(stuck));
        assert_eq!(
            (serving.free(stuck), serving.next_timeout()),
            (1, Time::NEVER)
        );
        // It may go on all the same, and then counts again.
        assert!(serving.holds(PeerKey(1), piece));
        serving.handle_sent(stuck, PeerKey(1), BLOCK);
        assert_eq!(serving.free(Time::ZERO), 0);
    }

    #[test]
    fn a_block_on_its_way_has_the_line_though_its_turn_is_over() {
        let [now, later] = [1, 20].map(Time::from_secs);
        let [a, b] = [PeerKey(0), PeerKey(1)];
        let mut serving = Serving::new(now);
        serving.begin_turn(now, a, PieceIndex(0));
        serving.handle_begun(now, a);
        assert_eq!(serving.free(now), 0);
        serving.end_turn(a);
        serving.set_waiting(now, 1);
        assert_eq!(serving.free(now), 0);
        serving.handle_sent(now, a, BLOCK);
        assert_eq!(serving.free(now), 1);
        // Not for ever, and not for a peer that is gone.
        serving.handle_begun(now, a);
        assert!(serving.next_timeout() < later && serving.handle_timeout(later));
        assert_eq!(
            (serving.free(later), serving.handle_timeout(later)),
            (1, false)
        );
        serving.handle_begun(later, b);
        assert_eq!(serving.free(later), 0);
        serving.handle_closed(b);
        assert_eq!(serving.free(later), 1);
    }

    #[test]
    fn what_may_wait_before_the_line_follows_its_rate() {
        let mut serving = Serving::new(Time::ZERO);
        let known = |pending, millis, late| Through {
            pending,
            late: Some(Late {
                after: Duration::from_millis(millis),
                pending: late,
            }),
        };
        let unknown = |pending| Through {
            pending,
            late: None,
        };
        assert_eq!(serving.through(BLOCK), unknown(4 * BLOCK));
        serving.contested = true;
        assert_eq!(serving.through(BLOCK), unknown(BLOCK));
        serving.line.rate = 1e6;
        assert_eq!(serving.through(50_000), known(60_000, 50, 400_000));
        serving.line.width = 3;
        assert_eq!(serving.through(50_000), known(60_000, 150, 400_000));
        // One more at least.
        serving.line.rate = 30_000.0;
        assert_eq!(serving.through(15_000).pending, 4096);
        assert_eq!(serving.through(15_000).late.unwrap().pending, 15_000);
    }

    #[test]
    fn while_the_line_rests_nobody_is_served() {
        let mut serving = Serving::new(Time::ZERO);
        let (piece, until) = (PieceIndex(3), Time::from_millis(500));
        serving.begin_turn(Time::ZERO, PeerKey(1), piece);
        serving.rest(until);
        assert!(!serving.holds(PeerKey(1), piece));
        assert_eq!(serving.free(Time::ZERO), 0);
        serving.set_waiting(Time::ZERO, 1);
        assert_eq!(serving.next_timeout(), until);
        assert!(serving.handle_timeout(until));
        assert_eq!(serving.free(until), 1);
        assert!(!serving.handle_timeout(until));
    }

    #[test]
    fn a_turn_ends_with_its_piece() {
        let mut serving = Serving::new(Time::ZERO);
        for key in 0..2 {
            serving.begin_turn(Time::ZERO, PeerKey(key), PieceIndex(3));
        }
        serving.end_turns(Time::ZERO, |key| {
            Some(PieceIndex(if key.0 == 0 { 3 } else { 4 }))
        });
        assert!(serving.holds(PeerKey(0), PieceIndex(3)));
        assert!(!serving.holds(PeerKey(0), PieceIndex(4)));
        assert!(!serving.holds(PeerKey(1), PieceIndex(4)));
        serving.end_turns(Time::from_secs(9), |_| None);
        assert!(!serving.holds(PeerKey(0), PieceIndex(3)));
    }
}
