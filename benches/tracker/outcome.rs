//! What a load came to.

use std::time::Duration;

/// Steps of a doubling: 1/16 is fine enough.
const STEPS: usize = 16;
/// Doublings of a microsecond: up to an hour.
const DOUBLINGS: usize = 32;

pub struct Outcome {
    pub answered: u64,
    /// Refused, malformed, or cut off.
    pub errors: u64,
    pub lost: u64,
    /// That were made.
    pub connections: u64,
    pub seconds: f64,
    /// Answers by the time they took.
    times: Vec<u64>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            answered: 0,
            errors: 0,
            lost: 0,
            connections: 0,
            seconds: 0.0,
            times: vec![0; STEPS * DOUBLINGS],
        }
    }
}

impl Outcome {
    pub fn answer(&mut self, took: Duration) {
        self.answered += 1;
        self.times[class(took)] += 1;
    }

    /// Microseconds that so large a share of the answers did not exceed, to a sixteenth.
    pub fn percentile(&self, share: f64) -> f64 {
        let wanted = (self.answered as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (class, count) in self.times.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper(class);
            }
        }
        f64::NAN
    }
}

fn class(took: Duration) -> usize {
    let micros = took.as_secs_f64() * 1e6;
    let step = (micros.max(1.0).log2() * STEPS as f64) as usize;
    step.min(STEPS * DOUBLINGS - 1)
}

fn upper(class: usize) -> f64 {
    ((class + 1) as f64 / STEPS as f64).exp2()
}
