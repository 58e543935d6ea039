//! One player's request: the virtual playhead, what is due when, and whether it had to wait.

mod bitrate;
mod hold;

use std::time::Duration;

use crate::swarm::outlook::bytes;
use crate::swarm::reader::bitrate::Bitrate;
pub use crate::swarm::reader::bitrate::RATE_GUESS_MAX;
use crate::swarm::reader::hold::Hold;
use crate::torrent::layout::Layout;
use crate::units::{BLOCK_LEN, ByteRange, PieceIndex, Time};

/// Before its first byte a player is promised it after this long.
pub const TARGET: Duration = Duration::from_millis(1200);
/// A range no longer than this at either end of the file is a probe, not playback.
pub const PROBE_MAX: u64 = 1 << 20;
/// A request counts as a probe until it has read this much.
pub const PROMOTED_AFTER: u64 = 512 << 10;
/// A request that begins where another of the file ended goes on with its clock for so long.
pub const RESUME_WITHIN: Duration = Duration::from_secs(2);

/// One request. Offsets are the torrent's.
pub struct Reader {
    range: ByteRange,
    file: ByteRange,
    /// Next byte to send.
    pos: u64,
    /// End of what may be sent.
    ready: u64,
    opened: Time,
    clock: Option<Clock>,
    /// Since when the player's socket takes nothing.
    frozen: Option<Time>,
    taken: Taken,
    /// How far it was ahead of the film after it last took something, s; and when it was first
    /// full.
    ahead_s: f64,
    full_s: Option<f64>,
    /// Since when the player takes everything and there is nothing.
    starved: Option<Time>,
    bitrate: Bitrate,
    stalls: u32,
    stall: Duration,
    missed: u64,
    hold: Hold,
}

/// What had left our socket when something was last written to it.
#[derive(Clone, Copy, Debug)]
struct Taken {
    at: Time,
    to: u64,
}

/// The virtual playhead: the player is taken to need `x0` at `t0` and the rest at the film's rate.
#[derive(Clone, Copy, Debug)]
struct Clock {
    t0: Time,
    x0: u64,
}

/// What a later request of the same player takes over.
#[derive(Clone, Copy, Debug)]
pub struct Legacy {
    file: ByteRange,
    pos: u64,
    closed: Time,
    clock: Option<Clock>,
    read_rate: f64,
}

impl Reader {
    pub fn new(now: Time, range: ByteRange, file: ByteRange, rate: Option<f64>) -> Self {
        Self {
            range,
            file,
            pos: range.start,
            ready: range.start,
            opened: now,
            clock: None,
            frozen: None,
            taken: Taken {
                at: now,
                to: range.start,
            },
            ahead_s: 0.0,
            full_s: None,
            starved: None,
            bitrate: Bitrate::new(now, rate),
            stalls: 0,
            stall: Duration::ZERO,
            missed: 0,
            hold: Hold::new(now),
        }
    }

    /// What came before it was brought by others: its player asked earlier.
    pub fn handle_asked(&mut self, at: Time) {
        self.hold.handle_asked(at.min(self.opened));
    }

    /// Takes over from a request that ended a moment ago: the rate in any case, the clock if this
    /// one reads on.
    pub fn inherit(&mut self, now: Time, legacy: &Legacy) {
        if legacy.file != self.file {
            return;
        }
        self.bitrate.learn(legacy.read_rate);
        if now.since(legacy.closed) <= RESUME_WITHIN && legacy.pos == self.range.start {
            self.clock = legacy.clock;
        }
    }

    pub fn legacy(&self, now: Time) -> Legacy {
        Legacy {
            file: self.file,
            pos: self.pos,
            closed: now,
            clock: self.clock,
            read_rate: self.bitrate.read(),
        }
    }

    /// It reads the film from its beginning, and does not show it yet.
    pub fn may_be_in_crowd(&self) -> bool {
        let head = self.range.start < self.file.start + PROBE_MAX;
        let sent_s = self.lead_s(self.file.start, self.pos);
        let reads = self.is_hungry() && self.knows_rate();
        head && reads && !self.is_in_crowd() && sent_s < hold::PLAYS_AFTER_S
    }

    pub fn handle_crowd(&mut self) {
        let sent = self.file.start + self.film(hold::SENT_S);
        self.hold.begin(sent.max(self.ready));
        if let Some(clock) = &mut self.clock {
            clock.t0 = clock.t0.max(self.hold.ends());
        }
    }

    pub fn is_in_crowd(&self) -> bool {
        self.hold.is_in_crowd()
    }

    /// When a film that is held back is let go at last.
    pub fn held_until(&self) -> Option<Time> {
        let begins = self
            .clock
            .map_or_else(|| self.hold.ends(), |clock| clock.t0);
        self.hold.lasts().then_some(begins)
    }

    /// Whether a film that was held back is let go now.
    pub fn release(&mut self, now: Time) -> bool {
        let enough = self.lead_s(self.file.start, self.ready) >= hold::LEAD_S;
        let over = self.held_until().is_some_and(|until| now >= until);
        (enough || over) && self.hold.release()
    }

    /// The end of what may be sent now.
    pub fn sendable(&self) -> u64 {
        self.hold.limit(self.ready)
    }

    fn target(&self) -> Duration {
        match self.is_in_crowd() {
            true => hold::CROWD_TARGET,
            false => TARGET,
        }
    }

    pub fn range(&self) -> ByteRange {
        self.range
    }

    pub fn file(&self) -> ByteRange {
        self.file
    }

    pub fn pos(&self) -> u64 {
        self.pos
    }

    pub fn ready(&self) -> u64 {
        self.ready
    }

    pub fn opened(&self) -> Time {
        self.opened
    }

    /// No byte was sent yet, and it goes on from no other request.
    pub fn is_starting(&self) -> bool {
        self.clock.is_none()
    }

    /// It was sent nothing yet.
    pub fn is_unserved(&self) -> bool {
        self.pos == self.range.start
    }

    pub fn is_waiting(&self) -> bool {
        self.pos == self.ready && self.ready < self.range.end
    }

    /// For what lacks of this piece.
    pub fn waits_for(&self, layout: &Layout, piece: PieceIndex) -> bool {
        self.is_waiting() && layout.piece_of(self.ready) == piece
    }

    /// Wants something still.
    pub fn is_hungry(&self) -> bool {
        self.ready < self.range.end
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// A look at the head, the tail or an index, or a request that may turn out to be one.
    pub fn is_probe(&self) -> bool {
        let short = self.range.len() <= PROBE_MAX;
        let edge = self.range.start < self.file.start + PROBE_MAX
            || self.range.end + PROBE_MAX > self.file.end;
        (short && edge) || self.pos - self.range.start < PROMOTED_AFTER
    }

    /// Bytes/s of the film: the container's, else what the player was seen to read.
    pub fn rate(&self) -> f64 {
        self.bitrate.rate()
    }

    pub fn knows_rate(&self) -> bool {
        self.bitrate.is_known()
    }

    pub fn set_rate(&mut self, now: Time, bytes_per_s: f64) {
        self.anchor(now);
        self.full_s = None;
        self.bitrate.set(bytes_per_s);
    }

    /// Seconds until `at` is needed; negative once it is late.
    pub fn slack_s(&self, now: Time, at: u64) -> f64 {
        match self.clock {
            Some(clock) => self.lead_s(clock.x0, at) - self.played_s(now, clock),
            None => {
                let waited = now.since(self.opened).as_secs_f64();
                self.target().as_secs_f64() - waited + self.lead_s(self.range.start, at)
            }
        }
    }

    /// The offset that is needed `slack_s` from now; inside the file, not before the request.
    pub fn reach(&self, now: Time, slack_s: f64) -> u64 {
        let (x0, elapsed) = match self.clock {
            Some(clock) => (clock.x0, self.played_s(now, clock)),
            // The first bytes are due together: a window opens as if they had just been sent.
            None => (self.range.start, 0.0),
        };
        x0.saturating_add(self.film(elapsed + slack_s))
            .clamp(self.range.start, self.file.end)
    }

    /// Moves the end of what may be sent; counts blocks that came after they were due.
    pub fn set_ready(&mut self, now: Time, ready: u64) {
        let ready = ready.clamp(self.pos, self.range.end.max(self.pos));
        if ready > self.ready && self.clock.is_some() && self.slack_s(now, self.ready) < 0.0 {
            let due = self.reach(now, 0.0).min(ready);
            let late = due.saturating_sub(self.ready);
            self.missed += late.div_ceil(u64::from(BLOCK_LEN));
        }
        if ready > self.pos && self.starved.is_some() {
            self.settle_stall(now);
        }
        self.ready = ready;
    }

    /// `unread`: bytes that were written and have not left our socket yet.
    pub fn handle_sent(&mut self, now: Time, bytes: u64, unread: u64) {
        let pos = (self.pos + bytes).min(self.range.end);
        self.handle_taken(now, pos.saturating_sub(unread));
        self.settle_stall(now);
        self.pos = pos;
        self.ready = self.ready.max(self.pos);
        if self.clock.is_none() && bytes > 0 {
            self.clock = Some(Clock {
                t0: match self.is_in_crowd() {
                    true => now.max(self.hold.ends()),
                    false => now,
                },
                x0: self.range.start,
            });
            self.bitrate.handle_first_byte(now);
        }
        self.hold_back(now);
        if let Some(read) = self.bitrate.handle_sent(now, bytes) {
            if !self.bitrate.is_known() {
                self.anchor(now);
            }
            self.bitrate.learn(read);
        }
        if self.is_waiting() {
            self.handle_starved(now);
        }
    }

    pub fn handle_starved(&mut self, now: Time) {
        self.handle_taken(now, self.taken.to);
        if self.pos < self.range.end {
            self.starved.get_or_insert(now);
            self.bitrate.handle_starved();
        }
    }

    pub fn handle_blocked(&mut self, now: Time) {
        self.settle_stall(now);
        self.frozen.get_or_insert(now);
        self.full_s.get_or_insert(self.ahead_s);
    }

    pub fn stalls(&self) -> u32 {
        self.stalls
    }

    /// Including the stall that lasts.
    pub fn stall_s(&self, now: Time) -> f64 {
        let lasting = if self.is_stalled(now) {
            -self.slack_s(now, self.pos)
        } else {
            0.0
        };
        self.stall.as_secs_f64() + lasting
    }

    /// Blocks that were not there when they were due.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn is_stalled(&self, now: Time) -> bool {
        self.clock.is_some()
            && self.starved.is_some()
            && self.pos < self.range.end
            && self.slack_s(now, self.pos) < 0.0
    }

    /// The player had nothing to show from the deadline of its next byte until now; it plays on
    /// from here. One that merely reads slowly moves its clock without having stalled.
    fn settle_stall(&mut self, now: Time) {
        let late = self.slack_s(now, self.pos);
        if self.clock.is_some() && late < 0.0 {
            if self.is_stalled(now) {
                self.stalls += 1;
                self.stall += Duration::from_secs_f64(-late);
            }
            self.clock = Some(Clock {
                t0: now,
                x0: self.pos,
            });
        }
        self.starved = None;
    }

    /// A full socket takes nothing until much of it was read, and who reads what the socket holds
    /// plays: only the rest of that time was a pause.
    fn handle_taken(&mut self, now: Time, to: u64) {
        let to = to.max(self.taken.to);
        let played_s = self.lead_s(self.taken.to, to);
        let idle_s = now.since(self.taken.at).as_secs_f64() - played_s;
        self.taken = Taken { at: now, to };
        let idle = Duration::try_from_secs_f64(idle_s).unwrap_or(Duration::ZERO);
        if let (Some(since), Some(clock)) = (self.frozen.take(), &mut self.clock) {
            clock.t0 = clock.t0 + now.since(since).min(idle);
        }
    }

    /// A player that was full once holds no more than it did then: what it takes after a while is
    /// what it has shown meanwhile, or a film that plays would seem paused for the most of it.
    fn hold_back(&mut self, now: Time) {
        let ahead_s = self.slack_s(now, self.pos);
        let excess_s = ahead_s - self.full_s.unwrap_or(f64::INFINITY);
        if let Some(clock) = self.clock.as_mut().filter(|_| excess_s > 0.0) {
            clock.t0 = clock.t0.before(Duration::from_secs_f64(excess_s));
        }
        self.ahead_s = ahead_s.min(self.full_s.unwrap_or(ahead_s));
    }

    /// The playhead stays where it is when the rate changes.
    fn anchor(&mut self, now: Time) {
        if self.clock.is_some() {
            let x0 = self.reach(now, 0.0);
            let t0 = self.clock_now(now);
            self.clock = Some(Clock { t0, x0 });
        }
    }

    /// Since the playhead began to move; negative if it has not.
    fn played_s(&self, now: Time, clock: Clock) -> f64 {
        let now = self.clock_now(now);
        now.since(clock.t0).as_secs_f64() - clock.t0.since(now).as_secs_f64()
    }

    fn clock_now(&self, now: Time) -> Time {
        self.frozen.unwrap_or(now)
    }

    /// Bytes of so many seconds; none of a time gone by.
    fn film(&self, seconds: f64) -> u64 {
        bytes(seconds * self.rate())
    }

    fn lead_s(&self, from: u64, to: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "films are far below 2^53 bytes")]
        let bytes = to as f64 - from as f64;
        bytes / self.rate()
    }
}

#[cfg(test)]
mod tests;
