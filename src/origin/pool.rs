//! All connections to one file at its origin: ranges in, bytes out, and every way that can fail.

mod conns;
mod known;
mod output;
mod queue;

use std::ops::Range;
use std::time::Duration;

use url::Url;

use crate::http::body::Framing;
use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::origin::answer::{Answer, Span, judge};
use crate::origin::health::Health;
pub use crate::origin::pool::conns::ConnKey;
use crate::origin::pool::conns::{Conns, DRAIN_MAX, Doing};
pub use crate::origin::pool::known::Ranges;
use crate::origin::pool::known::{Known, Use};
pub use crate::origin::pool::output::Output;
use crate::origin::pool::output::Outputs;
use crate::origin::pool::queue::Queue;
use crate::origin::redirect::{follow, same_site};
use crate::origin::session::{Ask, Eof, Event};
use crate::origin::transfer::{Fetch, Transfer};
use crate::units::{ByteRange, Time};

/// Connections for bounded ranges, kept alive between them.
pub const CONNS_MAX: usize = 2;
/// Open-ended fetches under way, each on a connection beside those.
pub const STREAMS_MAX: usize = 4;
/// After the queue was full.
const RETRY_FULL: Duration = Duration::from_secs(1);

pub struct Pool {
    via: String,
    known: Known,
    /// For good: another version of the file than the pinned one was met.
    changed: bool,
    health: Health,
    /// The last time that was handed in.
    seen: Time,
    queue: Queue,
    conns: Conns,
    outputs: Outputs,
}

impl Pool {
    /// `agent`: our name in `Via`, `bittube-<id>` (R4).
    pub fn new(mut url: Url, agent: String) -> Self {
        url.set_fragment(None);
        Self {
            via: agent,
            known: Known::new(url),
            changed: false,
            health: Health::new(),
            seen: Time::ZERO,
            queue: Queue::new(),
            conns: Conns::new(),
            outputs: Outputs::default(),
        }
    }

    /// What the good answers said of the file.
    pub const fn pin(&self) -> Option<&Pin> {
        self.known.pin()
    }

    pub const fn ranges(&self) -> Ranges {
        self.known.ranges()
    }

    /// Where the file is asked for now: the URL, or where it redirected to.
    pub const fn target(&self) -> &Url {
        self.known.target()
    }

    /// Time to the first byte, and the best recent rate in bytes a second.
    pub fn estimate(&self) -> (Duration, f64) {
        self.health.estimate()
    }

    /// Fetches fail at once until then.
    pub fn down_until(&self) -> Option<Time> {
        self.health.down_until(self.seen)
    }

    /// Asks for `range` of the file; an `end` of `u64::MAX` means as much as there is. Ends with
    /// one `Done` or `Failed`, unless `cancel` returns true.
    pub fn fetch(&mut self, now: Time, key: u64, range: ByteRange, urgent: bool) {
        self.seen = now;
        if range.is_empty() {
            self.outputs.done(key);
            return;
        }
        let at = self.known.target().clone();
        let fetch = Fetch::new(key, range, urgent, at, self.known.is_redirected());
        if self.queue.is_full() {
            let error = OriginFailed::passing(RETRY_FULL, "too many fetches wait");
            self.outputs.fail(&fetch, error);
            return;
        }
        self.queue.push(fetch);
        self.dispatch(now);
    }

    /// True: it had not begun, and nothing more comes of it. False: it goes on to its `Done` if
    /// little is left, since the bytes are paid for; else its connection is closed and it fails.
    pub fn cancel(&mut self, now: Time, key: u64) -> bool {
        self.seen = now;
        if self.queue.take(key).is_some() {
            return true;
        }
        if let Some((conn, left)) = self.conns.running(key)
            && left > DRAIN_MAX
            && let Some(fetch) = self.close(conn)
        {
            self.outputs
                .fail(&fetch, OriginFailed::lasting("cancelled"));
            self.dispatch(now);
        }
        false
    }

    /// While `held`, the driver does not read this fetch's connection: the player is paused, and
    /// the silence is not the origin's fault.
    pub fn hold(&mut self, now: Time, key: u64, held: bool) {
        self.seen = now;
        if let Some(transfer) = self.conns.transfer_mut(key) {
            transfer.hold(now, held);
        }
    }

    /// An error without `retry` is taken to hold for all that is asked of that host.
    pub fn handle_connected(&mut self, now: Time, key: ConnKey, result: Result<(), OriginFailed>) {
        self.seen = now;
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        match result {
            Ok(()) => {
                conn.opened = now;
                conn.doing = Doing::Idle(now);
            }
            Err(error) => {
                let url = conn.url.clone();
                self.conns.remove(key);
                self.not_connected(now, &url, error);
            }
        }
        self.dispatch(now);
    }

    /// Returns the bytes consumed; what is left comes again with more.
    pub fn handle_bytes(&mut self, now: Time, key: ConnKey, bytes: &[u8]) -> usize {
        self.seen = now;
        let mut used = 0;
        loop {
            let Some(conn) = self.conns.get_mut(key) else {
                used = bytes.len();
                break;
            };
            let base = used;
            match conn.session.handle_bytes(&bytes[base..]) {
                Ok(step) => {
                    used += step.consumed;
                    match step.event {
                        None => break,
                        Some(Event::Head(head, framing)) => {
                            self.handle_head(now, key, head, framing)
                        }
                        Some(Event::Data(at)) => {
                            self.handle_data(now, key, base + at.start..base + at.end);
                        }
                        Some(Event::End) => self.handle_end(now, key),
                    }
                }
                Err(broken) => {
                    if let Some(fetch) = self.close(key) {
                        self.fail_passing(now, &fetch, &broken.to_string());
                    }
                }
            }
        }
        self.dispatch(now);
        used
    }

    /// Body bytes that are still to come there, if an answer comes and said how many.
    pub fn left(&mut self, key: ConnKey) -> Option<u64> {
        match &self.conns.get_mut(key)?.doing {
            Doing::Receiving(transfer) => transfer.left(),
            _ => None,
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

    pub fn next_timeout(&self) -> Time {
        self.conns.next_timeout()
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.seen = now;
        for key in self.conns.due(now) {
            self.handle_due(now, key);
        }
        self.dispatch(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop()
    }

    fn handle_head(&mut self, now: Time, key: ConnKey, head: Box<ResponseHead>, framing: Framing) {
        let conn = self.conns.get_mut(key).expect("its session spoke");
        let drain = Doing::drain(now);
        let Doing::Asked {
            fetch,
            sent,
            conditional,
        } = std::mem::replace(&mut conn.doing, drain)
        else {
            return;
        };
        let mut fetch = *fetch;
        self.health.handle_first_byte(now.since(sent));
        let answer = judge(&head, framing, ByteRange::new(fetch.next, fetch.range.end));
        if let Answer::Bytes(span) = answer {
            self.handle_span(now, key, fetch, conditional, head, &span);
            return;
        }
        if !Doing::can_drain(framing) {
            self.close(key);
        }
        match answer {
            Answer::Bytes(_) => unreachable!("returned above"),
            Answer::Beyond { total } => self.handle_beyond(&fetch, total),
            Answer::Redirect => match follow(&fetch.at, &head, fetch.hops) {
                Ok(to) => {
                    fetch.at = to;
                    fetch.hops += 1;
                    fetch.remembered = false;
                    self.queue.push_again(fetch);
                }
                Err(error) => self.outputs.fail(&fetch, error),
            },
            Answer::Later { after, why } => {
                let retry = self.health.handle_failure(now, after);
                let error = OriginFailed::passing(retry, why).with_status(head.status);
                self.outputs.fail(&fetch, error);
            }
            // A remembered target may be a signed URL that has expired.
            Answer::Refused(_)
                if fetch.remembered && matches!(head.status, 401 | 403 | 404 | 410) =>
            {
                self.ask_original(fetch);
            }
            Answer::Refused(error) => self.outputs.fail(&fetch, error),
        }
    }

    fn handle_span(
        &mut self,
        now: Time,
        key: ConnKey,
        mut fetch: Fetch,
        conditional: bool,
        head: Box<ResponseHead>,
        span: &Span,
    ) {
        match self.known.learn(&fetch, conditional, &head, span) {
            Use::Take => {}
            Use::AskPlainly => {
                self.close(key);
                self.queue.push_again(fetch);
                return;
            }
            Use::GiveUp => {
                self.close(key);
                self.outputs.fail(&fetch, ranges_ignored());
                return;
            }
            Use::Beyond => {
                self.close(key);
                self.handle_beyond(&fetch, self.known.length());
                return;
            }
            Use::Changed => {
                self.handle_changed(&fetch);
                return;
            }
        }
        fetch.hops = 0;
        let total = self.known.length();
        if let Some(total) = total {
            fetch.clamp(total);
        }
        if !fetch.announced {
            fetch.announced = true;
            let key = fetch.key;
            self.outputs.push(Output::Head { key, head, total });
        }
        let conn = self.conns.get_mut(key).expect("its session spoke");
        conn.doing = Doing::Receiving(Box::new(Transfer::new(now, fetch, span)));
        self.finish_if_complete(now, key);
    }

    /// The file ends before the next byte that is wanted.
    fn handle_beyond(&mut self, fetch: &Fetch, total: Option<u64>) {
        if !self.known.learn_length(total) {
            self.handle_changed(fetch);
            return;
        }
        if fetch.is_stream() && total == Some(fetch.next) {
            self.outputs.done(fetch.key);
        } else {
            let error = OriginFailed::lasting("the file ends before the range");
            self.outputs.fail(fetch, error.with_status(416));
        }
    }

    fn handle_changed(&mut self, fetch: &Fetch) {
        self.changed = true;
        self.outputs.push(Output::Changed);
        self.outputs.fail(fetch, file_changed());
        for key in self.conns.keys() {
            if let Some(fetch) = self.close(key) {
                self.outputs.fail(&fetch, file_changed());
            }
        }
    }

    fn handle_data(&mut self, now: Time, key: ConnKey, data: Range<usize>) {
        let conn = self.conns.get_mut(key).expect("its session spoke");
        match &mut conn.doing {
            Doing::Receiving(transfer) => {
                if let Some((at, offset)) = transfer.handle_data(now, data, &mut self.health) {
                    let key = transfer.fetch.key;
                    self.outputs.push(Output::Body { key, at, offset });
                }
                self.finish_if_complete(now, key);
            }
            Doing::Draining { left, .. } if data.len() as u64 <= *left => {
                *left -= data.len() as u64;
            }
            _ => drop(self.close(key)),
        }
    }

    /// All bytes of the fetch are out: what is left of the body is drained if it is little.
    fn finish_if_complete(&mut self, now: Time, key: ConnKey) {
        let conn = self.conns.get_mut(key).expect("its session spoke");
        let Doing::Receiving(transfer) = &mut conn.doing else {
            return;
        };
        if !transfer.is_complete() {
            return;
        }
        transfer.measure(now, &mut self.health);
        self.health.handle_success();
        let drain = transfer.left().unwrap_or(DRAIN_MAX) <= DRAIN_MAX;
        self.outputs.done(transfer.fetch.key);
        conn.doing = Doing::drain(now);
        if !drain {
            self.close(key);
        }
    }

    /// The answer is whole.
    fn handle_end(&mut self, now: Time, key: ConnKey) {
        let conn = self.conns.get_mut(key).expect("its session spoke");
        let reusable = conn.session.reusable();
        let ended = std::mem::replace(&mut conn.doing, Doing::Idle(now));
        if !reusable || self.conns.is_over() {
            self.close(key);
        }
        if let Doing::Receiving(transfer) = ended {
            self.handle_short(now, *transfer, true);
        }
    }

    /// A body ended before the fetch was complete; `whole`: as its head said it would.
    fn handle_short(&mut self, now: Time, transfer: Transfer, whole: bool) {
        if whole && self.known.length().is_none() && transfer.left().is_none() {
            // No head said how long the file is; now it is known.
            self.known.learn_length(Some(transfer.at()));
            let Fetch { key, range, .. } = transfer.fetch;
            if transfer.at() <= range.start {
                self.handle_beyond(&transfer.fetch, Some(transfer.at()));
                return;
            }
            self.health.handle_success();
            self.outputs.done(key);
            return;
        }
        let mut fetch = transfer.fetch;
        if fetch.resume() {
            self.queue.push_again(fetch);
        } else {
            self.fail_passing(now, &fetch, "the body broke off again and again");
        }
    }

    fn handle_eof(&mut self, now: Time, key: ConnKey, orderly: bool) {
        self.seen = now;
        let Some(mut conn) = self.conns.remove(key) else {
            return;
        };
        let eof = conn.session.handle_eof(orderly);
        match conn.doing {
            Doing::Connecting(_) => {
                let error = OriginFailed::passing(Duration::ZERO, "closed while connecting");
                self.not_connected(now, &conn.url, error);
            }
            Doing::Idle(_) | Doing::Draining { .. } => {}
            Doing::Asked {
                mut fetch, sent, ..
            } => {
                // A kept connection may close just as it is used again (RFC 9112 §9.3.1).
                if eof == Eof::Unanswered && sent > conn.opened && !fetch.retried {
                    fetch.retried = true;
                    while let Some(idle) = self.conns.any_idle() {
                        self.close(idle);
                    }
                    self.queue.push_again(*fetch);
                } else {
                    self.fail_passing(now, &fetch, "closed without an answer");
                }
            }
            Doing::Receiving(transfer) => self.handle_short(now, *transfer, eof == Eof::Whole),
        }
        self.dispatch(now);
    }

    fn handle_due(&mut self, now: Time, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let url = conn.url.clone();
        let why = match &mut conn.doing {
            Doing::Connecting(_) => "no connection in time",
            Doing::Asked { .. } => "no answer in time",
            Doing::Receiving(transfer) => {
                if !transfer.is_slow(now) {
                    return;
                }
                "too slow"
            }
            Doing::Idle(_) | Doing::Draining { .. } => "",
        };
        let connecting = matches!(conn.doing, Doing::Connecting(_));
        let fetch = self.close(key);
        if connecting {
            self.not_connected(now, &url, OriginFailed::passing(Duration::ZERO, why));
        } else if let Some(fetch) = fetch {
            self.fail_passing(now, &fetch, why);
        }
    }

    /// A connection to `url`'s host was wanted and did not come about.
    fn not_connected(&mut self, now: Time, url: &Url, error: OriginFailed) {
        if !same_site(url, self.known.url()) && self.queue.remembers(url) {
            self.forget_target();
            return;
        }
        if error.retry.is_some() && self.conns.reaches(url) && self.conns.allow_one() {
            return;
        }
        let lasting = error.retry.is_none();
        let retry = error
            .retry
            .map(|retry| retry.max(self.health.handle_failure(now, None)));
        let error = OriginFailed { retry, ..error };
        while let Some(fetch) = self.queue.take_for(url) {
            self.outputs.fail(&fetch, error.clone());
            if !lasting {
                break;
            }
        }
    }

    /// Starts what can be started.
    fn dispatch(&mut self, now: Time) {
        self.refuse_queued(now);
        let mut streams = self.conns.streams();
        let mut coming = self.conns.coming();
        let mut place = 0;
        while let Some(fetch) = self.queue.get(place) {
            if fetch.is_stream() && streams >= STREAMS_MAX {
                place += 1;
            } else if let Some(conn) = self.conns.idle_for(&fetch.at) {
                let fetch = self.queue.remove(place);
                streams += usize::from(fetch.is_stream());
                self.ask(now, conn, fetch);
            } else if let Some(one) = coming.iter().position(|url| same_site(url, &fetch.at)) {
                coming.swap_remove(one);
                place += 1;
            } else {
                let url = fetch.at.clone();
                if !self.conns.has_room()
                    && let Some(idle) = self.conns.any_idle()
                {
                    self.close(idle);
                }
                if self.conns.has_room() {
                    let conn = self.conns.connect(now, url.clone());
                    self.outputs.push(Output::Connect { conn, url });
                }
                place += 1;
            }
        }
    }

    /// Fails what waits in the queue for nothing.
    fn refuse_queued(&mut self, now: Time) {
        let down = self.health.down_until(now);
        let mut place = 0;
        while let Some(fetch) = self.queue.get(place) {
            let error = if self.changed {
                file_changed()
            } else if let Some(until) = down {
                OriginFailed::passing(until.since(now), "the origin is left alone for a while")
            } else if !self.known.serves(fetch.next) {
                ranges_ignored()
            } else {
                place += 1;
                continue;
            };
            let fetch = self.queue.remove(place);
            self.outputs.fail(&fetch, error);
        }
    }

    fn ask(&mut self, now: Time, key: ConnKey, fetch: Fetch) {
        let if_range = self.known.if_range();
        let conn = self.conns.get_mut(key).expect("it was idle");
        let bytes = conn.session.request(&Ask {
            url: &fetch.at,
            range: Some(ByteRange::new(fetch.next, fetch.range.end)),
            if_range,
            via: &self.via,
            keep_alive: true,
        });
        conn.doing = Doing::Asked {
            fetch: Box::new(fetch),
            sent: now,
            conditional: if_range.is_some(),
        };
        self.outputs.push(Output::Send { conn: key, bytes });
    }

    /// Forgets a connection; returns the fetch it was for.
    fn close(&mut self, key: ConnKey) -> Option<Fetch> {
        let conn = self.conns.remove(key)?;
        self.outputs.push(Output::Close { conn: key });
        conn.into_fetch()
    }

    fn ask_original(&mut self, fetch: Fetch) {
        self.queue.push_again(fetch);
        self.forget_target();
    }

    /// What waits for the remembered target begins again at the URL itself.
    fn forget_target(&mut self) {
        self.known.forget_target();
        self.queue.start_over(self.known.url());
    }

    fn fail_passing(&mut self, now: Time, fetch: &Fetch, why: &str) {
        let retry = self.health.handle_failure(now, None);
        self.outputs.fail(fetch, OriginFailed::passing(retry, why));
    }
}

fn ranges_ignored() -> OriginFailed {
    OriginFailed::lasting("the origin ignores Range")
}

fn file_changed() -> OriginFailed {
    OriginFailed::lasting("the file changed at its origin")
}

#[cfg(test)]
mod tests;
