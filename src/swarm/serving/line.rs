//! What the line carries, and how many served at once fill it: the line itself tells.

use std::time::Duration;

use crate::units::{BLOCK_LEN, Time};

/// Peers served at once, at most.
const WIDTH_MAX: usize = 16;
/// Twice or half as many at once are tried after so many periods without a try.
const TRY_EVERY: u32 = 16;
/// More at once are kept if they bring so much more; fewer, if they bring at least this part.
const WORTH: f64 = 1.25;
const ENOUGH: f64 = 0.9;
/// Part of the mean of periods that the last one is.
const RECENT: f64 = 0.25;
/// What goes out is measured over so long, and so many bytes.
const PERIOD: Duration = Duration::from_millis(500);
const PERIOD_BYTES: u64 = 24 * BLOCK_LEN as u64;

/// Of one swarm's uploads.
#[derive(Debug)]
pub struct Line {
    /// Peers served at once.
    pub(super) width: usize,
    /// What goes out with this width, bytes/s; zero before the first period.
    pub(super) rate: f64,
    period: Period,
    /// Since the last try.
    periods: u32,
    /// Another width is tried: what it was before.
    tried: Option<usize>,
    /// The last try that was given up was of more.
    tried_more: bool,
    /// Sockets fill up, or run dry, after the width changed: this period tells nothing.
    settling: bool,
}

#[derive(Clone, Copy, Debug)]
struct Period {
    began: Time,
    bytes: u64,
}

impl Line {
    pub const fn new(now: Time) -> Self {
        Self {
            width: 1,
            rate: 0.0,
            period: Period {
                began: now,
                bytes: 0,
            },
            periods: 0,
            tried: None,
            tried_more: false,
            settling: false,
        }
    }

    /// How long a block for each of those served at once takes, s; `None` while that is not known.
    pub fn round_s(&self) -> Option<f64> {
        let width = f64::from(self.width_u32());
        self.block_s().map(|block_s| block_s * width)
    }

    pub fn width_u32(&self) -> u32 {
        u32::try_from(self.width).expect("WIDTH_MAX")
    }

    /// The same for one block that has the line alone.
    pub fn block_s(&self) -> Option<f64> {
        (self.rate > 0.0).then(|| f64::from(BLOCK_LEN) / self.rate)
    }

    /// What was sent before tells nothing of what comes.
    pub const fn begin_period(&mut self, now: Time) {
        self.period = Period {
            began: now,
            bytes: 0,
        };
    }

    /// Fewer at once if that loses nothing, more if it brings more.
    pub fn handle_sent(&mut self, now: Time, bytes: u64) {
        self.period.bytes += bytes;
        let elapsed = now.since(self.period.began);
        if elapsed < PERIOD || self.period.bytes < PERIOD_BYTES {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = self.period.bytes as f64 / elapsed.as_secs_f64();
        self.begin_period(now);
        if std::mem::take(&mut self.settling) {
            return;
        }
        if let Some(before) = self.tried.take() {
            let more = self.width > before;
            if rate >= self.rate * if more { WORTH } else { ENOUGH } {
                self.rate = rate;
                // What has paid may pay again.
                return self.try_width(more);
            }
            self.width = before;
            self.settling = true;
            self.tried_more = more;
            self.periods = 0;
            return;
        }
        let known = self.rate > 0.0;
        self.rate += (rate - self.rate) * if known { RECENT } else { 1.0 };
        self.periods += 1;
        if !known || self.periods >= TRY_EVERY {
            self.try_width(!self.tried_more);
        }
    }

    fn try_width(&mut self, more: bool) {
        let width = match more || self.width == 1 {
            true => (self.width * 2).min(WIDTH_MAX),
            false => self.width / 2,
        };
        if width != self.width {
            self.tried = Some(std::mem::replace(&mut self.width, width));
            self.settling = true;
        }
    }
}
