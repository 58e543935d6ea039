//! How fast one peer delivers, and so when a block asked of it now would be here.
//!
//! One unit throughout: bytes and nanoseconds. The rate is measured over rounds: from a moment to
//! the answer of what was asked after it. A round is at least a round trip long, so that a burst
//! out of a buffer does not pass for the link's rate, and rounds join without a gap, so that
//! nothing is counted twice. Time in which nothing is outstanding does not count.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::{BLOCK_LEN, Time};

/// Blocks in flight, whatever the rate: 8 MiB.
pub const DEPTH_MAX: u32 = 512;
/// Blocks in flight at least: one on the wire, one being asked.
pub const DEPTH_MIN: u32 = 2;
/// Work queued at the peer beyond the round trip (DESIGN §8): what a seek has to wait for.
const QUEUE: Duration = Duration::from_millis(300);
/// With so much in flight a round is a measure, even if more was wanted: the caller has limits too.
const ENOUGH: u64 = 64 * BLOCK_LEN as u64;
/// Time constant of the rate, in time spent waiting for blocks.
const RATE_MEMORY: Duration = Duration::from_secs(2);
/// The round trip may have grown if no answer in this time was as quick as foreseen.
const RTT_WINDOW: Duration = Duration::from_secs(15);
/// Growth a round below which the start-up is over (BBR's full pipe).
const START_GROWTH: f64 = 1.25;
/// Rounds without that growth.
const START_ROUNDS: u32 = 2;
/// An answer this many times later than foreseen counts, even if we asked for little.
const LATE: u32 = 2;
/// Shorter rounds are the clock's grain.
const ROUND_MIN: Duration = Duration::from_micros(10);
/// Of a peer that has delivered nothing yet.
const FIRST_RATE: f64 = 100_000.0;
const FIRST_RTT: Duration = Duration::from_millis(100);

/// The measure of one peer. Requests are taken to be answered in the order of asking.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Bytes a second; zero before the first round.
    rate: f64,
    /// Of the rounds so far, at most `RATE_MEMORY`: young measures are plain means.
    measured: Duration,
    /// The quickest answer, to a whole block: what a full queue hides of it never shows.
    rtt: Option<Duration>,
    /// The quickest since `window_since`.
    window_rtt: Duration,
    window_since: Time,
    flights: VecDeque<Flight>,
    outstanding: u64,
    delivered: u64,
    round: Round,
    start: Start,
    depth_max: u32,
    /// Since when nothing has come though something is outstanding.
    quiet: Time,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    asked: Time,
    bytes: u64,
    foreseen: Duration,
}

/// The measure under way.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    began: Time,
    /// What had been delivered by then.
    delivered: u64,
    /// Less was asked than the peer could take.
    limited: bool,
}

/// Start-up: the window doubles each round until the rate no longer follows.
#[derive(Clone, Copy, Debug)]
enum Start {
    Growing { window: u32, best: f64, flat: u32 },
    Over,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    pub fn new() -> Self {
        Self {
            rate: 0.0,
            measured: Duration::ZERO,
            rtt: None,
            window_rtt: Duration::MAX,
            window_since: Time::ZERO,
            flights: VecDeque::new(),
            outstanding: 0,
            delivered: 0,
            round: Round::default(),
            start: Start::Growing {
                window: DEPTH_MIN,
                best: 0.0,
                flat: 0,
            },
            depth_max: DEPTH_MAX,
            quiet: Time::ZERO,
        }
    }

    /// The peer's `reqq`.
    pub fn set_depth_max(&mut self, blocks: u32) {
        self.depth_max = blocks.clamp(1, DEPTH_MAX);
    }

    pub fn handle_requested(&mut self, now: Time, bytes: u64) {
        if self.outstanding == 0 {
            // A queue run dry by a burst and filled at once was not idle.
            if now.since(self.quiet) >= ROUND_MIN {
                self.begin_round(now);
            }
            self.quiet = now;
        }
        self.flights.push_back(Flight {
            asked: now,
            bytes,
            foreseen: self.eta(bytes),
        });
        self.outstanding += bytes;
    }

    pub fn handle_received(&mut self, now: Time, bytes: u64) {
        let wanted = u64::from(self.depth()) * u64::from(BLOCK_LEN);
        self.round.limited |= self.outstanding < ENOUGH.min(wanted / 2);
        self.quiet = now;
        self.delivered += bytes;
        self.outstanding = self.outstanding.saturating_sub(bytes);
        let Some(flight) = self.flights.pop_front() else {
            return;
        };
        if let Start::Growing { window, .. } = &mut self.start
            && !self.round.limited
        {
            *window = window.saturating_add(1).min(DEPTH_MAX);
        }
        let took = now.since(flight.asked);
        self.update_rtt(now, took);
        if flight.asked >= self.round.began || self.outstanding == 0 {
            self.end_round(now, took > flight.foreseen.saturating_mul(LATE));
        }
    }

    /// Asked and not coming: cancelled, rejected, or forgotten by a choke.
    pub fn handle_lost(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        let mut left = bytes;
        while left > 0
            && let Some(flight) = self.flights.pop_back()
        {
            left = left.saturating_sub(flight.bytes);
        }
        if self.outstanding == 0 {
            self.flights.clear();
        }
    }

    fn begin_round(&mut self, now: Time) {
        self.round = Round {
            began: now,
            delivered: self.delivered,
            limited: false,
        };
    }

    fn end_round(&mut self, now: Time, late: bool) {
        let took = now.since(self.round.began);
        if took < ROUND_MIN {
            return;
        }
        let sample = as_f64(self.delivered - self.round.delivered) / took.as_secs_f64();
        let limited = self.round.limited;
        self.begin_round(now);
        // A round in which we asked for little shows what we asked, not what the peer can do,
        // unless it does better or is late.
        if limited && sample <= self.rate && !late {
            return;
        }
        let growing = self.grow(sample, limited);
        self.measured = (self.measured + took).min(RATE_MEMORY);
        let fading = 1.0 - (-took.as_secs_f64() / RATE_MEMORY.as_secs_f64()).exp();
        let gain = if self.measured < RATE_MEMORY {
            took.as_secs_f64() / self.measured.as_secs_f64()
        } else {
            fading
        };
        self.rate = if self.rate == 0.0 || (growing && sample > self.rate) {
            sample
        } else {
            self.rate + gain * (sample - self.rate)
        };
    }

    /// Whether the start-up goes on.
    fn grow(&mut self, sample: f64, limited: bool) -> bool {
        let Start::Growing { best, flat, .. } = &mut self.start else {
            return false;
        };
        if sample >= *best * START_GROWTH {
            *best = sample;
            *flat = 0;
        } else if !limited {
            *flat += 1;
            if *flat >= START_ROUNDS {
                self.start = Start::Over;
                return false;
            }
        }
        true
    }

    /// An answer is never quicker than the round trip. Nor, over a while, slower than it and the
    /// queue that we keep at the peer: if the quickest is, the round trip has grown.
    fn update_rtt(&mut self, now: Time, took: Duration) {
        let rtt = self.rtt.map_or(took, |rtt| rtt.min(took));
        self.rtt = Some(rtt);
        self.window_rtt = self.window_rtt.min(took);
        if now.since(self.window_since) >= RTT_WINDOW {
            if self.window_since != Time::ZERO {
                self.rtt = Some(rtt.max(self.window_rtt.saturating_sub(QUEUE)));
            }
            self.window_rtt = Duration::MAX;
            self.window_since = now;
        }
    }

    /// The window still grows: the rate is what we asked for rather than what the peer can do.
    pub fn is_starting(&self) -> bool {
        matches!(self.start, Start::Growing { .. })
    }

    /// Bytes a second. Zero until the first answer.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// From a request to its answer, without our own queue at the peer: the quickest, not a mean,
    /// because a mean would count that queue twice.
    pub fn srtt(&self) -> Duration {
        self.rtt.unwrap_or(FIRST_RTT)
    }

    /// Bytes asked for and neither here nor lost.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// From now until `bytes` asked for now are here; too long by at most `srtt`, as the queue
    /// drains while the request travels.
    pub fn eta(&self, bytes: u64) -> Duration {
        let rate = if self.rate > 0.0 {
            self.rate
        } else {
            FIRST_RATE
        };
        self.srtt() + seconds(as_f64(self.outstanding + bytes) / rate)
    }

    /// Since when nothing has come of what is outstanding; `None` if nothing is.
    pub fn quiet_since(&self) -> Option<Time> {
        (self.outstanding > 0).then_some(self.quiet)
    }

    /// Blocks wanted in flight: a round trip and `QUEUE` of the rate. During the start-up the rate
    /// is not to be trusted yet, whichever way it errs.
    pub fn depth(&self) -> u32 {
        let wanted = match self.start {
            Start::Growing { window, .. } => window,
            Start::Over => blocks((self.srtt() + QUEUE).as_secs_f64() * self.rate),
        };
        wanted.max(DEPTH_MIN).min(self.depth_max)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits count the bytes of a connection"
)]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// Saturates; a rate can be next to nothing.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
}

/// Whole blocks in so many bytes, at most `DEPTH_MAX`.
pub fn blocks(bytes: f64) -> u32 {
    let blocks = (bytes / f64::from(BLOCK_LEN)).clamp(0.0, f64::from(DEPTH_MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let blocks = blocks as u32;
    blocks
}

#[cfg(test)]
mod tests;
