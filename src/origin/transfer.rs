//! One fetch and its body under way: which bytes are still missing, and whether they come too
//! slowly.

use std::ops::Range;
use std::time::Duration;

use url::Url;

use crate::origin::answer::Span;
use crate::origin::health::{Health, SAMPLE_LEN_MIN};
use crate::units::{ByteRange, Time};

/// Times in a row that a body may break off with less than [`PROGRESS`] bytes gained.
const RESUMES_MAX: u8 = 3;
const PROGRESS: u64 = 64 * 1024;
/// A long body's rate is measured anew after as many bytes.
const SAMPLE_LEN: u64 = 1024 * 1024;
/// A body is given up if less than [`SLOW_BYTES`] came in this time: 4 KiB/s.
const SLOW_WINDOW: Duration = Duration::from_secs(20);
const SLOW_BYTES: u64 = 20 * 4 * 1024;

const _: () = assert!(SAMPLE_LEN_MIN <= SAMPLE_LEN);

pub struct Fetch {
    pub key: u64,
    /// `end` shrinks to the file's length once that is known.
    pub range: ByteRange,
    /// The next byte to be delivered.
    pub next: u64,
    pub urgent: bool,
    /// Where to ask: the pool's target, or where a redirect led.
    pub at: Url,
    /// Redirects followed.
    pub hops: u8,
    /// Asked at a remembered redirect's target, not by way of the redirect itself.
    pub remembered: bool,
    /// Its `Head` is out.
    pub announced: bool,
    /// A kept connection turned out closed once already.
    pub retried: bool,
    open_ended: bool,
    resumes: u8,
    resumed_at: u64,
}

impl Fetch {
    pub const fn new(key: u64, range: ByteRange, urgent: bool, at: Url, remembered: bool) -> Self {
        Self {
            key,
            range,
            next: range.start,
            urgent,
            at,
            hops: 0,
            remembered,
            announced: false,
            retried: false,
            open_ended: range.end == u64::MAX,
            resumes: 0,
            resumed_at: range.start,
        }
    }

    /// Asked for as much as there is: may take as long as a film lasts.
    pub const fn is_stream(&self) -> bool {
        self.open_ended
    }

    pub const fn left(&self) -> u64 {
        self.range.end - self.next
    }

    /// The file turned out to have `length` bytes.
    pub fn clamp(&mut self, length: u64) {
        self.range.end = self.range.end.min(length.max(self.next));
    }

    /// The body broke off; whether to ask for the rest.
    pub const fn resume(&mut self) -> bool {
        if self.next - self.resumed_at >= PROGRESS {
            self.resumes = 0;
        }
        if self.next > self.resumed_at {
            self.retried = false;
        }
        self.resumed_at = self.next;
        self.resumes += 1;
        self.resumes <= RESUMES_MAX
    }
}

/// A fetch whose answer is coming in.
pub struct Transfer {
    pub fetch: Fetch,
    /// File offset of the body's next byte.
    at: u64,
    /// File offset after the body's last.
    end: u64,
    /// Since when the rate floor is watched, and the bytes since.
    window: (Time, u64),
    /// Since when the rate is measured, and the bytes since.
    sample: (Time, u64),
    /// The driver does not read: the player is paused.
    held: bool,
}

impl Transfer {
    pub const fn new(now: Time, fetch: Fetch, span: &Span) -> Self {
        Self {
            fetch,
            at: span.start,
            end: span.end,
            window: (now, 0),
            sample: (now, 0),
            held: false,
        }
    }

    /// Moves past body bytes; returns those of them that the fetch is for, and the file offset of
    /// the first.
    pub fn handle_data(
        &mut self,
        now: Time,
        data: Range<usize>,
        health: &mut Health,
    ) -> Option<(Range<usize>, u64)> {
        let len = data.len() as u64;
        self.window.1 += len;
        self.sample.1 += len;
        if self.sample.1 >= SAMPLE_LEN {
            self.measure(now, health);
            health.handle_success();
        }
        let come = ByteRange::new(self.at, self.at.saturating_add(len));
        self.at = come.end;
        let wanted = come.and(ByteRange::new(self.fetch.next, self.fetch.range.end));
        if wanted.is_empty() {
            return None;
        }
        let offset = wanted.start;
        let from = data.start + as_index(offset - come.start);
        self.fetch.next = wanted.end;
        Some((from..from + as_index(wanted.len()), offset))
    }

    /// Ends a rate sample.
    pub fn measure(&mut self, now: Time, health: &mut Health) {
        let (since, bytes) = self.sample;
        health.handle_rate(now, bytes, now.since(since));
        self.sample = (now, 0);
    }

    /// What came and did not come while it was held is not the origin's doing.
    pub fn hold(&mut self, now: Time, held: bool) {
        if self.held != held {
            self.held = held;
            self.window = (now, 0);
            self.sample = (now, 0);
        }
    }

    pub const fn is_complete(&self) -> bool {
        self.fetch.next >= self.fetch.range.end
    }

    /// Body bytes still to come, wanted or not; `None` if the head did not say.
    pub fn left(&self) -> Option<u64> {
        (self.end != u64::MAX).then(|| self.end.saturating_sub(self.at))
    }

    /// File offset of the body's next byte.
    pub const fn at(&self) -> u64 {
        self.at
    }

    pub fn deadline(&self) -> Time {
        if self.held {
            Time::NEVER
        } else {
            self.window.0 + SLOW_WINDOW
        }
    }

    /// At the deadline: whether too little came. If not, the next window begins.
    pub fn is_slow(&mut self, now: Time) -> bool {
        if self.window.1 < SLOW_BYTES {
            return true;
        }
        self.window = (now, 0);
        false
    }
}

fn as_index(len: u64) -> usize {
    usize::try_from(len).expect("within the bytes just handed in")
}
