//! How an origin has done of late: its first byte, its best rate, and when to leave it alone.

use std::time::Duration;

use crate::units::Time;

/// Failures in a row after which the origin is left alone.
const FAILURES_MAX: u32 = 2;
/// For so long, at first: players wait for it, and most troubles are over within a minute.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// After so many failures each further one doubles the pause.
const SHORT_TROUBLE: u32 = 12;
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Before the second failure.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// Assumed of an origin that was never asked.
const FIRST_BYTE_GUESS: Duration = Duration::from_millis(300);
const RATE_GUESS: f64 = 1_000_000.0;
/// A rate older than this is used only if there is no newer one.
const RECENT: Duration = Duration::from_secs(60);
const SAMPLES: usize = 8;
/// Fewer bytes measure the buffers on the way, not the origin.
pub const SAMPLE_LEN_MIN: u64 = 64 * 1024;
const SAMPLE_TIME_MIN: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
struct Sample {
    at: Time,
    bytes_per_s: f64,
}

pub struct Health {
    failures: u32,
    down_until: Time,
    first_byte: Option<Duration>,
    /// The last two, which tell a change sooner than the mean.
    waits: [Duration; 2],
    samples: [Option<Sample>; SAMPLES],
    next_sample: usize,
}

impl Health {
    pub const fn new() -> Self {
        Self {
            failures: 0,
            down_until: Time::ZERO,
            first_byte: None,
            waits: [Duration::ZERO; 2],
            samples: [None; SAMPLES],
            next_sample: 0,
        }
    }

    /// Since a request was sent until its answer's head.
    pub fn handle_first_byte(&mut self, wait: Duration) {
        self.first_byte = Some(match self.first_byte {
            None => wait,
            Some(smooth) => (smooth * 7 + wait) / 8,
        });
        self.waits = [self.waits[1], wait];
    }

    /// A fetch is complete, or a long one gets on; ends a run of failures.
    pub fn handle_success(&mut self) {
        self.failures = 0;
    }

    pub fn handle_rate(&mut self, now: Time, bytes: u64, took: Duration) {
        if bytes < SAMPLE_LEN_MIN {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let bytes_per_s = bytes as f64 / took.max(SAMPLE_TIME_MIN).as_secs_f64();
        self.samples[self.next_sample] = Some(Sample {
            at: now,
            bytes_per_s,
        });
        self.next_sample = (self.next_sample + 1) % SAMPLES;
    }

    /// Counts a failure; returns how long to wait before the next try. `asked`: what the origin's
    /// `Retry-After` said.
    pub fn handle_failure(&mut self, now: Time, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = if self.failures >= FAILURES_MAX {
            let doublings = self.failures.saturating_sub(SHORT_TROUBLE).min(8);
            (PAUSE_MIN * 2u32.pow(doublings)).min(PAUSE_MAX)
        } else {
            Duration::ZERO
        };
        let wait = pause.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
        if !wait.is_zero() {
            self.down_until = self.down_until.max(now + wait);
        }
        wait.max(RETRY_SOON)
    }

    pub fn down_until(&self, now: Time) -> Option<Time> {
        (now < self.down_until).then_some(self.down_until)
    }

    /// Time to the first byte, and bytes a second: the best recent rate, not the congested one of
    /// this moment, which would make every viewer ask earlier and the congestion worse.
    pub fn estimate(&self) -> (Duration, f64) {
        let samples = || self.samples.iter().flatten();
        let newest = samples().map(|sample| sample.at).max().unwrap_or_default();
        let best = samples()
            .filter(|sample| newest.since(sample.at) <= RECENT)
            .map(|sample| sample.bytes_per_s)
            .reduce(f64::max);
        (
            // One slow answer may be a lost packet, two are a slow origin.
            self.first_byte
                .unwrap_or(FIRST_BYTE_GUESS)
                .max(self.waits[0].min(self.waits[1])),
            best.unwrap_or(RATE_GUESS),
        )
    }
}

/// What a `Retry-After` asks for (RFC 9110 §10.2.3), clamped to 0..1 h. A date counts from the
/// answer's own `date`, so that no clock of ours is needed; `None`: it says nothing usable.
pub fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    let digits = value.strip_prefix('-').unwrap_or(value);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if value.starts_with('-') {
            return Some(Duration::ZERO);
        }
        // More digits than fit are a long time too.
        let seconds = digits.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let from = httpdate::parse_http_date(date?).ok()?;
    Some(
        until
            .duration_since(from)
            .unwrap_or_default()
            .min(RETRY_AFTER_MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Mon, 02 Mar 2026 12:00:00 GMT";

    #[test]
    fn two_slow_answers_are_believed_at_once_and_one_is_not() {
        let mut health = Health::new();
        let first_byte = |health: &Health| health.estimate().0.as_millis();
        for _ in 0..8 {
            health.handle_first_byte(Duration::from_millis(80));
        }
        health.handle_first_byte(Duration::from_secs(3));
        assert_eq!(first_byte(&health), 445);
        health.handle_first_byte(Duration::from_secs(3));
        assert_eq!(first_byte(&health), 3000);
        health.handle_first_byte(Duration::from_millis(80));
        assert!((445..1000).contains(&first_byte(&health)));
    }

    #[test]
    fn retry_after_is_read_and_clamped() {
        let secs = |s| Some(Duration::from_secs(s));
        assert_eq!(retry_after("7", None), secs(7));
        assert_eq!(retry_after(" 0 ", None), secs(0));
        assert_eq!(retry_after("-5", None), secs(0));
        assert_eq!(retry_after("99999999999999999999999", None), secs(3600));
        assert_eq!(
            retry_after("Mon, 02 Mar 2026 12:00:30 GMT", Some(NOON)),
            secs(30)
        );
        assert_eq!(
            retry_after("Mon, 02 Mar 2026 11:00:00 GMT", Some(NOON)),
            secs(0)
        );
        assert_eq!(
            retry_after("Mon, 02 Mar 2099 12:00:00 GMT", Some(NOON)),
            secs(3600)
        );
        assert_eq!(retry_after("Mon, 02 Mar 2026 12:00:30 GMT", None), None);
        assert_eq!(retry_after("soon", Some(NOON)), None);
        assert_eq!(retry_after("", None), None);
    }

    #[test]
    fn it_is_left_alone_for_longer_after_a_minute_of_failures_until_a_success() {
        let mut health = Health::new();
        let now = Time::from_secs(100);
        health.handle_failure(now, None);
        assert_eq!(health.down_until(now), None);
        let pauses: Vec<u64> = (0..16)
            .map(|_| health.handle_failure(now, None).as_secs())
            .collect();
        assert_eq!(pauses[..11], [5; 11]);
        assert_eq!(pauses[11..], [10, 20, 40, 60, 60]);
        assert_eq!(health.down_until(now), Some(Time::from_secs(160)));
        assert_eq!(health.down_until(Time::from_secs(160)), None);
        health.handle_success();
        health.handle_failure(Time::from_secs(200), None);
        assert_eq!(health.down_until(Time::from_secs(200)), None);
    }

    #[test]
    fn the_estimate_is_the_best_recent_rate() {
        let mut health = Health::new();
        assert_eq!(health.estimate(), (FIRST_BYTE_GUESS, RATE_GUESS));
        let second = Duration::from_secs(1);
        health.handle_rate(Time::from_secs(1), 5_000_000, second);
        health.handle_rate(Time::from_secs(2), 200_000, second);
        health.handle_rate(Time::from_secs(3), 1_000, second);
        assert!((health.estimate().1 - 5_000_000.0).abs() < 1.0);
        health.handle_rate(Time::from_secs(80), 300_000, second);
        assert!((health.estimate().1 - 300_000.0).abs() < 1.0);
        health.handle_first_byte(Duration::from_millis(80));
        health.handle_first_byte(Duration::from_millis(160));
        assert_eq!(health.estimate().0, Duration::from_millis(90));
    }
}
