//! One file, or one part of it, by GET: in order, each byte once. Where it breaks off it is taken
//! up again, if it is still the same file (RFC 9110 §13.1.5).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use url::Url;

use crate::http::body::Framing;
use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::origin::answer::{Answer, Span, judge};
use crate::origin::pool::ConnKey;
use crate::origin::redirect::follow;
use crate::origin::session::{Ask, Eof, Event, Session};
use crate::units::{ByteRange, Time};

/// From one sign of life to the next, and until the connection stands.
const QUIET_TIMEOUT: Duration = Duration::from_secs(30);
/// Breaks in a row that are got over, once the file has begun to come.
const BREAKS_MAX: u32 = 8;
/// So many bytes, and a break is the first in a row again.
const PROGRESS: u64 = 1024 * 1024;
/// The first wait after a break; each further one in a row doubles it.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A server that asks for a longer wait is left.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to the URL's scheme, host and port, and answer `handle_connected`.
    Connect {
        conn: ConnKey,
        url: Url,
    },
    Send {
        conn: ConnKey,
        bytes: Vec<u8>,
    },
    /// The connection is forgotten here already; what it still brings is ignored.
    Close {
        conn: ConnKey,
    },
    /// Every byte has come; nothing follows.
    Done,
    /// Nothing follows.
    Failed(OriginFailed),
}

/// What came out of the bytes handed in: call again with what was not consumed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub consumed: usize,
    /// The file's next bytes, as indexes into what was handed in.
    pub data: Range<usize>,
}

pub struct Download {
    /// As given; a break sends us back to it, for where it leads may have expired.
    url: Url,
    /// Where redirects have led.
    target: Url,
    hops: u8,
    via: String,
    /// Its start moves on with each byte.
    missing: ByteRange,
    begun: bool,
    pin: Option<Pin>,
    conn: Option<(ConnKey, Session)>,
    next_conn: usize,
    /// Bytes of the answer that come before those that are missing.
    skip: u64,
    /// The answer under way: false for a body that says nothing.
    receiving: bool,
    breaks: u32,
    /// Where the last break was.
    broke_at: u64,
    /// A break's wait ends then.
    again: Time,
    quiet_since: Time,
    outputs: VecDeque<Output>,
}

impl Download {
    /// `range`: to an end of `u64::MAX` is to the end of the file. `pin`: what is known of the
    /// file. `agent`: our name in `Via` (R4).
    pub fn new(now: Time, mut url: Url, range: ByteRange, pin: Option<Pin>, agent: &str) -> Self {
        url.set_fragment(None);
        let mut download = Self {
            target: url.clone(),
            url,
            hops: 0,
            via: agent.to_owned(),
            missing: range,
            begun: false,
            pin,
            conn: None,
            next_conn: 0,
            skip: 0,
            receiving: false,
            breaks: 0,
            broke_at: range.start,
            again: Time::NEVER,
            quiet_since: now,
            outputs: VecDeque::new(),
        };
        download.connect(now);
        download
    }

    /// What the answers said of the file.
    pub const fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Bytes of the whole file, as far as is known.
    pub fn total(&self) -> Option<u64> {
        self.pin.as_ref().and_then(|pin| pin.length)
    }

    pub fn handle_connected(&mut self, now: Time, key: ConnKey, result: Result<(), OriginFailed>) {
        let Some((conn, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
            return;
        };
        self.quiet_since = now;
        if let Err(error) = result {
            self.conn = None;
            self.handle_break(now, error);
            return;
        }
        let whole = self.missing.start == 0 && self.missing.end == u64::MAX;
        let bytes = session.request(&Ask {
            url: &self.target,
            range: (!whole).then_some(self.missing),
            if_range: self.pin.as_ref().and_then(Pin::if_range),
            via: &self.via,
            keep_alive: false,
        });
        self.outputs.push_back(Output::Send { conn: *conn, bytes });
    }

    pub fn handle_bytes(&mut self, now: Time, key: ConnKey, bytes: &[u8]) -> Taken {
        let mut used = 0;
        loop {
            let Some((_, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
                return Taken::all(bytes);
            };
            self.quiet_since = now;
            let step = match session.handle_bytes(&bytes[used..]) {
                Ok(step) => step,
                Err(broken) => {
                    self.close();
                    self.handle_break(now, passing(broken.to_string()));
                    return Taken::all(bytes);
                }
            };
            let base = used;
            used += step.consumed;
            match step.event {
                None => {
                    return Taken {
                        consumed: used,
                        data: 0..0,
                    };
                }
                Some(Event::Head(head, framing)) => self.handle_head(now, &head, framing),
                Some(Event::Data(at)) => {
                    let data = self.handle_data(base + at.start..base + at.end);
                    return Taken {
                        consumed: used,
                        data,
                    };
                }
                Some(Event::End) => self.handle_end(now),
            }
        }
    }

    /// The other side ended its stream, in order.
    pub fn handle_closed(&mut self, now: Time, key: ConnKey) {
        self.handle_eof(now, key, true);
    }

    /// The connection was reset, or ended without TLS's `close_notify`.
    pub fn handle_broken(&mut self, now: Time, key: ConnKey) {
        self.handle_eof(now, key, false);
    }

    /// The silence until `now` was ours: nobody listened.
    pub const fn handle_pause(&mut self, now: Time) {
        self.quiet_since = now;
    }

    pub fn next_timeout(&self) -> Time {
        match self.conn {
            Some(_) => self.quiet_since + QUIET_TIMEOUT,
            None => self.again,
        }
    }

    pub fn handle_timeout(&mut self, now: Time) {
        if now < self.next_timeout() {
            return;
        }
        if self.conn.is_some() {
            self.close();
            self.handle_break(now, passing("no answer in time"));
        } else {
            self.connect(now);
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn connect(&mut self, now: Time) {
        let conn = ConnKey(self.next_conn);
        self.next_conn += 1;
        self.again = Time::NEVER;
        self.quiet_since = now;
        self.receiving = false;
        self.conn = Some((conn, Session::new()));
        let url = self.target.clone();
        self.outputs.push_back(Output::Connect { conn, url });
    }

    fn handle_head(&mut self, now: Time, head: &ResponseHead, framing: Framing) {
        match judge(head, framing, self.missing) {
            Answer::Bytes(span) => self.handle_span(head, &span),
            Answer::Beyond { total } => {
                if total == Some(self.missing.start)
                    && self.total().is_none_or(|it| total == Some(it))
                {
                    self.finish();
                } else {
                    let why = "the file ends before the range";
                    self.fail(OriginFailed::lasting(why).with_status(416));
                }
            }
            Answer::Redirect => match follow(&self.target, head, self.hops) {
                Ok(to) => {
                    self.close();
                    self.target = to;
                    self.hops += 1;
                    self.connect(now);
                }
                Err(error) => self.fail(error),
            },
            Answer::Later { after, why } => {
                let failed = OriginFailed::passing(after.unwrap_or_default(), why);
                self.close();
                self.handle_break(now, failed.with_status(head.status));
            }
            Answer::Refused(error) => self.fail(error),
        }
    }

    fn handle_span(&mut self, head: &ResponseHead, span: &Span) {
        let seen = Pin::of(head, span.total);
        let asked_on = self.begun;
        if span.whole && !asked_on && self.missing.start > 0 {
            return self.fail(OriginFailed::lasting(
                "the server gives no parts of its files",
            ));
        }
        match &mut self.pin {
            // All of it to a conditional request is another file, unless it says that it is not.
            Some(pin) if !pin.agrees(&seen) => return self.fail(changed()),
            Some(pin) if asked_on && span.whole && pin.if_range() != seen.if_range() => {
                return self.fail(changed());
            }
            Some(pin) => pin.learn(seen),
            None => self.pin = Some(seen),
        }
        if let Some(total) = self.total() {
            if total < self.missing.start {
                return self.fail(changed());
            }
            self.missing.end = self.missing.end.min(total);
        }
        self.begun = true;
        self.receiving = true;
        self.skip = self.missing.start - span.start;
        if self.missing.is_empty() {
            self.finish();
        }
    }

    fn handle_data(&mut self, data: Range<usize>) -> Range<usize> {
        if !self.receiving {
            return 0..0;
        }
        let len = |range: &Range<usize>| u64::try_from(range.len()).expect("fits");
        let skipped = self.skip.min(len(&data));
        self.skip -= skipped;
        let start = data.start + usize::try_from(skipped).expect("within the data");
        let mut data = start..data.end;
        let room = self.missing.len();
        if len(&data) > room {
            data.end = data.start + usize::try_from(room).expect("less than the data");
        }
        self.missing.start += len(&data);
        if self.missing.start - self.broke_at >= PROGRESS {
            self.breaks = 0;
        }
        if self.missing.is_empty() {
            self.finish();
        }
        data
    }

    /// The answer is whole.
    fn handle_end(&mut self, now: Time) {
        if !self.receiving {
            return;
        }
        if self.total().is_none() {
            // Its own end is the only one there is.
            self.finish();
            return;
        }
        self.close();
        self.handle_break(now, passing("less than was asked for"));
    }

    fn handle_eof(&mut self, now: Time, key: ConnKey, orderly: bool) {
        let Some((_, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
            return;
        };
        let eof = session.handle_eof(orderly);
        self.close();
        if eof == Eof::Whole && self.receiving {
            self.handle_end(now);
        } else {
            self.handle_break(now, passing("the connection ended"));
        }
    }

    /// After a wait it is tried again, unless that makes no sense.
    fn handle_break(&mut self, now: Time, failed: OriginFailed) {
        let Some(asked) = failed.retry.filter(|asked| *asked <= RETRY_AFTER_MAX) else {
            return self.fail(failed);
        };
        self.breaks += 1;
        if !self.begun || self.breaks > BREAKS_MAX {
            return self.fail(failed);
        }
        if self.pin.as_ref().and_then(Pin::if_range).is_none() {
            let why = format!(
                "{failed}; and the server gives neither ETag nor Last-Modified, by which to take \
                 it up again"
            );
            return self.fail(OriginFailed::lasting(why));
        }
        self.broke_at = self.missing.start;
        self.target = self.url.clone();
        self.hops = 0;
        let wait = WAIT_MIN.saturating_mul(1 << (self.breaks - 1));
        self.again = now + wait.min(WAIT_MAX).max(asked);
    }

    fn finish(&mut self) {
        self.close();
        self.outputs.push_back(Output::Done);
    }

    fn fail(&mut self, error: OriginFailed) {
        self.close();
        self.outputs.push_back(Output::Failed(error));
    }

    fn close(&mut self) {
        if let Some((conn, _)) = self.conn.take() {
            self.outputs.push_back(Output::Close { conn });
        }
    }
}

impl Taken {
    const fn all(bytes: &[u8]) -> Self {
        Self {
            consumed: bytes.len(),
            data: 0..0,
        }
    }
}

fn passing(why: impl Into<String>) -> OriginFailed {
    OriginFailed::passing(Duration::ZERO, why)
}

fn changed() -> OriginFailed {
    OriginFailed::lasting("the file was changed while it was read")
}

#[cfg(test)]
mod tests;
