//! The rate of a film: what its container says, else what its player was seen to read.

use std::time::Duration;

use crate::units::Time;

/// Slowest film, bytes/s.
const RATE_MIN: f64 = 125_000.0;
/// What a film is taken for until its player has been seen reading less, and the most that reading
/// alone makes believe, bytes/s: deadlines do not follow greed.
pub const RATE_GUESS_MAX: f64 = 1_000_000.0;
/// The read rate is sampled over this long.
const SAMPLE: Duration = Duration::from_secs(2);
/// Part of the read rate that its last sample is.
const RECENT: f64 = 0.3;

/// Bytes/s.
pub struct Bitrate {
    known: Option<f64>,
    read: f64,
    sample: Sample,
}

struct Sample {
    since: Time,
    bytes: u64,
    starved: bool,
}

impl Bitrate {
    pub fn new(now: Time, known: Option<f64>) -> Self {
        Self {
            known,
            read: RATE_GUESS_MAX,
            sample: Sample {
                since: now,
                bytes: 0,
                starved: false,
            },
        }
    }

    pub fn rate(&self) -> f64 {
        self.known
            .unwrap_or_else(|| self.read.clamp(RATE_MIN, RATE_GUESS_MAX))
    }

    /// By the container.
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    pub fn set(&mut self, bytes_per_s: f64) {
        self.known = Some(bytes_per_s.max(RATE_MIN / 8.0));
    }

    /// What the player was seen to read.
    pub fn read(&self) -> f64 {
        self.read
    }

    pub fn learn(&mut self, read: f64) {
        self.read = read;
    }

    pub fn handle_first_byte(&mut self, now: Time) {
        self.sample.since = now;
    }

    pub fn handle_starved(&mut self) {
        self.sample.starved = true;
    }

    /// Returns what is to be learnt where these bytes end a sample that tells something.
    pub fn handle_sent(&mut self, now: Time, bytes: u64) -> Option<f64> {
        self.sample.bytes += bytes;
        let elapsed = now.since(self.sample.since);
        if elapsed < SAMPLE {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.sample.bytes as f64 / elapsed.as_secs_f64();
        // How fast a player that we starve would have read is not known, but that it would.
        let tells = !self.sample.starved || rate > self.read;
        self.sample = Sample {
            since: now,
            bytes: 0,
            starved: false,
        };
        tells.then(|| self.read + (rate.min(RATE_GUESS_MAX) - self.read) * RECENT)
    }
}
