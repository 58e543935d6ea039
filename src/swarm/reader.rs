//! One player's request: the virtual playhead, what is due when, and whether it had to wait.

use std::time::Duration;

use crate::swarm::outlook::bytes;
use crate::torrent::layout::Layout;
use crate::units::{BLOCK_LEN, ByteRange, PieceIndex, Time};

/// Before its first byte a player is promised it after this long.
pub const TARGET: Duration = Duration::from_millis(1200);
/// The same if others began at its place a moment ago. What all wait for is handed on among them
/// meanwhile: who began at once would stall, and each would ask the origin for the same.
pub const CROWD_TARGET: Duration = Duration::from_millis(3300);
/// So much of the film is sent at first in a crowd, s: the player learns what it is, and does not
/// begin. It may begin before its time with so much, s.
const CROWD_HELD_S: f64 = 1.0;
const CROWD_LEAD_S: f64 = 6.0;
/// A player that was sent so much, s, has begun.
const CROWD_PLAYS_AFTER_S: f64 = 2.0;
/// A range no longer than this at either end of the file is a probe, not playback.
pub const PROBE_MAX: u64 = 1 << 20;
/// A request counts as a probe until it has read this much.
pub const PROMOTED_AFTER: u64 = 512 << 10;
/// Slowest film, bytes/s.
pub const RATE_MIN: f64 = 125_000.0;
/// What a film is taken for until its player has been seen reading less, and the most that reading
/// alone makes believe, bytes/s: deadlines do not follow greed.
pub const RATE_GUESS_MAX: f64 = 1_000_000.0;
/// The read rate is sampled over this long.
const SAMPLE: Duration = Duration::from_secs(2);
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
    /// Its player waits since then.
    asked: Time,
    clock: Option<Clock>,
    /// Since when the player's socket takes nothing.
    frozen: Option<Time>,
    /// How far it was ahead of the film after it last took something, s; and when it was first
    /// full.
    ahead_s: f64,
    full_s: Option<f64>,
    /// Since when the player takes everything and there is nothing.
    starved: Option<Time>,
    known_rate: Option<f64>,
    read_rate: f64,
    sample: Sample,
    stalls: u32,
    stall: Duration,
    missed: u64,
    /// Others began at the same place a moment ago.
    in_crowd: bool,
    /// Nothing from there on is sent before its time.
    held: Option<u64>,
}

/// The virtual playhead: the player is taken to need `x0` at `t0` and the rest at the film's rate.
#[derive(Clone, Copy, Debug)]
struct Clock {
    t0: Time,
    x0: u64,
}

struct Sample {
    since: Time,
    bytes: u64,
    starved: bool,
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
            asked: now,
            clock: None,
            frozen: None,
            ahead_s: 0.0,
            full_s: None,
            starved: None,
            known_rate: rate,
            read_rate: RATE_GUESS_MAX,
            sample: Sample {
                since: now,
                bytes: 0,
                starved: false,
            },
            stalls: 0,
            stall: Duration::ZERO,
            missed: 0,
            in_crowd: false,
            held: None,
        }
    }

    /// What came before it was brought by others: its player asked earlier.
    pub fn handle_asked(&mut self, at: Time) {
        self.asked = at.min(self.opened);
    }

    /// Takes over from a request that ended a moment ago: the rate in any case, the clock if this
    /// one reads on.
    pub fn inherit(&mut self, now: Time, legacy: &Legacy) {
        if legacy.file != self.file {
            return;
        }
        self.read_rate = legacy.read_rate;
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
            read_rate: self.read_rate,
        }
    }

    /// It reads the film from its beginning, and does not show it yet.
    pub fn may_be_in_crowd(&self) -> bool {
        let head = self.range.start < self.file.start + PROBE_MAX;
        let sent_s = self.lead_s(self.file.start, self.pos);
        let reads = self.is_hungry() && self.knows_rate();
        head && reads && !self.in_crowd && sent_s < CROWD_PLAYS_AFTER_S
    }

    pub fn handle_crowd(&mut self) {
        self.in_crowd = true;
        let held = self.file.start + self.film(CROWD_HELD_S);
        self.held = Some(held.max(self.ready));
        if let Some(clock) = &mut self.clock {
            clock.t0 = clock.t0.max(self.asked + CROWD_TARGET);
        }
    }

    pub fn is_in_crowd(&self) -> bool {
        self.in_crowd
    }

    /// When a film that is held back is let go at last.
    pub fn held_until(&self) -> Option<Time> {
        self.held?;
        let begins = self.clock.map(|clock| clock.t0);
        Some(begins.unwrap_or(self.asked + CROWD_TARGET))
    }

    /// Whether a film that was held back is let go now.
    pub fn release(&mut self, now: Time) -> bool {
        let enough = self.lead_s(self.file.start, self.ready) >= CROWD_LEAD_S;
        let over = self.held_until().is_some_and(|until| now >= until);
        let released = self.held.is_some() && (enough || over);
        self.held = self.held.filter(|_| !released);
        released
    }

    /// The end of what may be sent now.
    pub fn sendable(&self) -> u64 {
        self.held.map_or(self.ready, |held| held.min(self.ready))
    }

    fn target(&self) -> Duration {
        match self.in_crowd {
            true => CROWD_TARGET,
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
        self.known_rate
            .unwrap_or_else(|| self.read_rate.clamp(RATE_MIN, RATE_GUESS_MAX))
    }

    pub fn knows_rate(&self) -> bool {
        self.known_rate.is_some()
    }

    pub fn set_rate(&mut self, now: Time, bytes_per_s: f64) {
        self.anchor(now);
        self.full_s = None;
        self.known_rate = Some(bytes_per_s.max(RATE_MIN / 8.0));
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

    pub fn handle_sent(&mut self, now: Time, bytes: u64) {
        self.thaw(now);
        self.settle_stall(now);
        self.pos = (self.pos + bytes).min(self.range.end);
        self.ready = self.ready.max(self.pos);
        if self.clock.is_none() && bytes > 0 {
            self.clock = Some(Clock {
                t0: match self.in_crowd {
                    true => now.max(self.asked + CROWD_TARGET),
                    false => now,
                },
                x0: self.range.start,
            });
            self.sample.since = now;
        }
        self.hold_back(now);
        self.measure(now, bytes);
        if self.is_waiting() {
            self.handle_starved(now);
        }
    }

    pub fn handle_starved(&mut self, now: Time) {
        self.thaw(now);
        if self.pos < self.range.end {
            self.starved.get_or_insert(now);
            self.sample.starved = true;
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

    fn thaw(&mut self, now: Time) {
        if let (Some(since), Some(clock)) = (self.frozen.take(), &mut self.clock) {
            clock.t0 = clock.t0 + now.since(since);
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

    fn measure(&mut self, now: Time, bytes: u64) {
        self.sample.bytes += bytes;
        let elapsed = now.since(self.sample.since);
        if elapsed < SAMPLE {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.sample.bytes as f64 / elapsed.as_secs_f64();
        // How fast a player that we starve would have read is not known, but that it would.
        if !self.sample.starved || rate > self.read_rate {
            if self.known_rate.is_none() {
                self.anchor(now);
            }
            let rate = rate.min(RATE_GUESS_MAX);
            self.read_rate += (rate - self.read_rate) * 0.3;
        }
        self.sample = Sample {
            since: now,
            bytes: 0,
            starved: false,
        };
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
mod tests {
    use super::*;

    const FILE: ByteRange = ByteRange::new(0, 100_000_000);

    #[test]
    fn in_a_crowd_a_film_begins_a_little_later_or_with_much_of_it() {
        let rate = 1_000_000.0;
        let begun = |crowd: bool| {
            let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(rate));
            assert!(reader.may_be_in_crowd());
            if crowd {
                reader.handle_crowd();
            }
            reader.set_ready(Time::from_secs(1), 2_500_000);
            assert!(!reader.release(Time::from_secs(1)));
            reader
        };
        assert_eq!(begun(false).sendable(), 2_500_000);
        let mut reader = begun(true);
        assert_eq!(reader.sendable(), 1_000_000);
        let now = Time::from_secs(1);
        reader.handle_sent(now, 1_000_000);
        // Its first byte is needed when it is let go, and the rest at the film's rate.
        let left_s = CROWD_TARGET.as_secs_f64() - 1.0;
        assert!(close(reader.slack_s(now, 0), left_s));
        assert!(close(reader.slack_s(now, 2_000_000), left_s + 2.0));
        let begins = Time::ZERO + CROWD_TARGET;
        assert_eq!(reader.held_until(), Some(begins));
        assert!(reader.release(begins) && !reader.release(begins));
        assert_eq!(reader.sendable(), 2_500_000);
        // Much of it is as good, and what was promised stays promised.
        let mut reader = begun(true);
        reader.set_ready(now, 5_900_000);
        assert!(!reader.release(now));
        reader.set_ready(now, 6_000_000);
        assert!(reader.release(now) && !reader.may_be_in_crowd());
        let mut late = begun(false);
        late.handle_crowd();
        assert_eq!(late.sendable(), 2_500_000);
        // With more than a second sent by others before, nothing goes out until it is let go.
        let rest = ByteRange::new(1_000_000, FILE.end);
        let mut reader = Reader::new(Time::ZERO, rest, FILE, Some(rate));
        reader.handle_crowd();
        reader.set_ready(now, 2_000_000);
        assert_eq!(reader.sendable(), 1_000_000);
        assert_eq!(reader.held_until(), Some(Time::ZERO + CROWD_TARGET));
        assert!(reader.release(Time::ZERO + CROWD_TARGET));
        // Who has begun to show the film, or comes to its middle, is not held.
        let mut shown = begun(false);
        shown.handle_sent(now, 2_000_000);
        assert!(!shown.may_be_in_crowd());
        let middle = ByteRange::new(50_000_000, FILE.end);
        assert!(!Reader::new(now, middle, FILE, Some(rate)).may_be_in_crowd());
    }

    fn playing(rate: f64) -> Reader {
        let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(rate));
        reader.set_ready(Time::from_secs(1), 1_000_000);
        reader.handle_sent(Time::from_secs(1), 1_000_000);
        reader
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn deadlines_follow_the_film_not_the_reading() {
        let reader = playing(500_000.0);
        // A second after its first byte the player, which has read two seconds, needs byte 500,000.
        assert!(close(reader.slack_s(Time::from_secs(2), 500_000), 0.0));
        assert!(close(reader.slack_s(Time::from_secs(2), 1_000_000), 1.0));
        assert_eq!(reader.reach(Time::from_secs(2), 12.0), 6_500_000);
    }

    #[test]
    fn pause_freezes_the_clock() {
        let mut reader = playing(500_000.0);
        reader.handle_blocked(Time::from_secs(2));
        assert!(close(reader.slack_s(Time::from_secs(60), 1_000_000), 1.0));
        reader.handle_sent(Time::from_secs(60), 0);
        assert!(close(reader.slack_s(Time::from_secs(60), 1_000_000), 1.0));
        assert!(close(reader.slack_s(Time::from_secs(61), 1_000_000), 0.0));
        assert_eq!(reader.stalls(), 0);
    }

    #[test]
    fn stall_lasts_from_the_deadline_to_the_next_byte() {
        let mut reader = playing(500_000.0);
        reader.handle_starved(Time::from_secs(2));
        // The last byte was due at 3 s.
        assert!(close(reader.stall_s(Time::from_secs(4)), 1.0));
        reader.set_ready(Time::from_secs(5), 1_500_000);
        assert_eq!(reader.missed(), 31);
        reader.handle_sent(Time::from_secs(5), 500_000);
        assert_eq!(reader.stalls(), 1);
        assert!(close(reader.stall_s(Time::from_secs(5)), 2.0));
        assert!(close(reader.slack_s(Time::from_secs(5), 1_500_000), 1.0));
    }

    #[test]
    fn who_has_taken_everything_is_starved_without_being_told() {
        let mut reader = playing(500_000.0);
        assert!(close(reader.stall_s(Time::from_secs(4)), 1.0));
        reader.set_ready(Time::from_secs(4), 2_000_000);
        reader.handle_sent(Time::from_secs(4), 500_000);
        assert_eq!(reader.stalls(), 1);
        assert!(close(reader.stall_s(Time::from_secs(20)), 1.0));
    }

    #[test]
    fn slow_reading_is_no_stall() {
        let mut reader = playing(500_000.0);
        reader.set_ready(Time::from_secs(2), 3_000_000);
        reader.handle_sent(Time::from_secs(9), 10);
        assert_eq!(reader.stalls(), 0);
        assert!(reader.slack_s(Time::from_secs(9), 3_000_000) > 3.0);
    }

    #[test]
    fn reading_is_believed_up_to_a_limit_and_starving_makes_no_greed() {
        let mut reader = Reader::new(Time::ZERO, FILE, FILE, None);
        assert!(close(reader.rate(), RATE_GUESS_MAX));
        let (mut second, mut ready) = (0, 0);
        let mut take = |reader: &mut Reader, bytes: u64, spare: u64| {
            (second, ready) = (second + 1, ready + bytes);
            reader.set_ready(Time::from_secs(second), ready + spare);
            reader.handle_sent(Time::from_secs(second), bytes);
        };
        for _ in 0..10 {
            take(&mut reader, 5_000_000, 0);
        }
        assert!(close(reader.rate(), RATE_GUESS_MAX));
        // It leaves some: this is what it wants.
        for _ in 0..60 {
            take(&mut reader, 300_000, 100_000);
        }
        assert!((reader.rate() - 300_000.0).abs() < 10_000.0);
        // It gets too little, which says nothing of what it wants.
        for _ in 0..10 {
            take(&mut reader, 150_000, 0);
        }
        assert!(reader.rate() > 250_000.0);
        reader.set_rate(Time::from_secs(80), 250_000.0);
        assert!(close(reader.rate(), 250_000.0));
    }

    #[test]
    fn a_full_player_that_takes_the_film_as_it_plays_is_not_paused() {
        let mut reader = playing(500_000.0);
        let second = |tenths: u64| Time::from_millis(tenths * 100);
        reader.set_ready(second(20), 100_000_000);
        reader.handle_sent(second(20), 5_000_000);
        let lead = reader.slack_s(second(20), reader.pos());
        // A second's worth is taken each second, and blocks for most of it.
        for now in (20..320).step_by(10) {
            reader.handle_blocked(second(now + 3));
            for _ in 0..5 {
                reader.handle_sent(second(now + 10), 100_000);
            }
        }
        assert!(close(reader.slack_s(second(320), reader.pos()), lead));
        // A pause is one: what is taken at its end was shown, the rest of the time nothing.
        reader.handle_blocked(second(320));
        reader.handle_sent(second(920), 500_000);
        assert!(close(reader.slack_s(second(920), reader.pos()), lead));
    }

    #[test]
    fn reading_on_keeps_the_clock_and_a_seek_does_not() {
        let first = playing(500_000.0);
        let legacy = first.legacy(Time::from_secs(2));
        let rest = ByteRange::new(1_000_000, 100_000_000);
        let mut on = Reader::new(Time::from_secs(3), rest, FILE, Some(500_000.0));
        on.inherit(Time::from_secs(3), &legacy);
        assert!(!on.is_starting());
        assert!(close(on.slack_s(Time::from_secs(3), 1_000_000), 0.0));
        let far = ByteRange::new(50_000_000, 100_000_000);
        let mut seek = Reader::new(Time::from_secs(3), far, FILE, Some(500_000.0));
        seek.inherit(Time::from_secs(3), &legacy);
        assert!(seek.is_starting());
        assert!(close(seek.slack_s(Time::from_secs(3), 50_000_000), 1.2));
    }

    #[test]
    fn a_tail_request_is_a_probe_and_reading_on_promotes() {
        let tail = Reader::new(
            Time::ZERO,
            ByteRange::new(99_900_000, 100_000_000),
            FILE,
            None,
        );
        assert!(tail.is_probe());
        let mut head = Reader::new(Time::ZERO, FILE, FILE, None);
        assert!(head.is_probe());
        head.set_ready(Time::ZERO, 600_000);
        head.handle_sent(Time::ZERO, 600_000);
        assert!(!head.is_probe());
    }
}
