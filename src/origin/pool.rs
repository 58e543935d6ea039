//! All connections to one file at its origin: ranges in, bytes out, and every way that can fail.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use url::Url;

use crate::http::body::Framing;
use crate::http::head::ResponseHead;
use crate::origin::OriginFailed;
use crate::origin::answer::{Answer, SKIP_MAX, Span, judge};
use crate::origin::health::Health;
use crate::origin::pin::Pin;
use crate::origin::redirect::{follow, same_site};
use crate::origin::session::{Ask, Eof, Event, Session};
use crate::origin::transfer::{Fetch, Transfer};
use crate::units::{ByteRange, Time};

/// Connections for bounded ranges, kept alive between them.
pub const CONNS_MAX: usize = 2;
/// Open-ended fetches under way, each on a connection beside those.
pub const STREAMS_MAX: usize = 4;
/// Fetches that wait for a connection.
const QUEUE_MAX: usize = 256;
/// Bytes that nobody wants any more and that are received all the same, to keep the connection.
const DRAIN_MAX: u64 = 256 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head is whole.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// After the queue was full.
const RETRY_FULL: Duration = Duration::from_secs(1);

const _: () = assert!(
    DRAIN_MAX <= SKIP_MAX,
    "skipping delays a fetch, draining only the next"
);

/// A connection of this pool; no key is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey(pub usize);

#[derive(Debug)]
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
    /// The first usable answer to a fetch; `total`: bytes of the whole file.
    Head {
        key: u64,
        head: Box<ResponseHead>,
        total: Option<u64>,
    },
    Body {
        key: u64,
        /// In the bytes just handed in.
        at: Range<usize>,
        /// File offset of the first.
        offset: u64,
    },
    Done {
        key: u64,
    },
    Failed {
        key: u64,
        error: OriginFailed,
    },
    /// The file is not the pinned one: nothing of it may be mixed. All fetches fail, now and later.
    Changed,
}

/// Whether the origin heeds `Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    Unknown,
    Heeded,
    Ignored,
}

pub struct Pool {
    url: Url,
    /// `url`, or where it last redirected to.
    target: Url,
    via: String,
    pin: Option<Pin>,
    ranges: Ranges,
    /// Cleared for an origin that answers 200 to an `If-Range` that holds.
    if_range_works: bool,
    changed: bool,
    health: Health,
    /// The last time that was handed in.
    seen: Time,
    /// Urgent ones first.
    queue: Vec<Fetch>,
    conns: BTreeMap<ConnKey, Conn>,
    next_conn: usize,
    /// One, once a second connection was refused beside a first that works.
    conns_max: usize,
    outputs: VecDeque<Output>,
}

struct Conn {
    url: Url,
    session: Session,
    opened: Time,
    doing: Doing,
}

enum Doing {
    Connecting(Time),
    Idle(Time),
    Asked {
        fetch: Box<Fetch>,
        sent: Time,
        /// With `If-Range`.
        conditional: bool,
    },
    Receiving(Box<Transfer>),
    /// The rest of an answer that is of no use.
    Draining {
        since: Time,
        left: u64,
    },
}

impl Pool {
    /// `agent`: our name in `Via`, `bittube-<id>` (R4).
    pub fn new(mut url: Url, agent: String) -> Self {
        url.set_fragment(None);
        Self {
            target: url.clone(),
            url,
            via: agent,
            pin: None,
            ranges: Ranges::Unknown,
            if_range_works: true,
            changed: false,
            health: Health::new(),
            seen: Time::ZERO,
            queue: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            conns_max: CONNS_MAX,
            outputs: VecDeque::new(),
        }
    }

    /// What the good answers said of the file.
    pub const fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    pub const fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Where the file is asked for now: the URL, or where it redirected to.
    pub const fn target(&self) -> &Url {
        &self.target
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
            self.outputs.push_back(Output::Done { key });
            return;
        }
        let remembered = self.target != self.url;
        let fetch = Fetch::new(key, range, urgent, self.target.clone(), remembered);
        if self.queue.len() >= QUEUE_MAX {
            let error = OriginFailed::passing(RETRY_FULL, "too many fetches wait");
            self.fail(&fetch, error);
            return;
        }
        let place = if urgent {
            self.queue.partition_point(|queued| queued.urgent)
        } else {
            self.queue.len()
        };
        self.queue.insert(place, fetch);
        self.dispatch(now);
    }

    /// True: it had not begun, and nothing more comes of it. False: it goes on to its `Done` if
    /// little is left, since the bytes are paid for; else its connection is closed and it fails.
    pub fn cancel(&mut self, now: Time, key: u64) -> bool {
        self.seen = now;
        if let Some(place) = self.queue.iter().position(|fetch| fetch.key == key) {
            self.queue.remove(place);
            return true;
        }
        let running = self.conns.iter().find_map(|(conn, state)| {
            let fetch = state.fetch().filter(|fetch| fetch.key == key)?;
            Some((*conn, fetch.left()))
        });
        if let Some((conn, left)) = running
            && left > DRAIN_MAX
            && let Some(fetch) = self.close(conn)
        {
            self.fail(&fetch, OriginFailed::lasting("cancelled"));
            self.dispatch(now);
        }
        false
    }

    /// While `held`, the driver does not read this fetch's connection: the player is paused, and
    /// the silence is not the origin's fault.
    pub fn hold(&mut self, now: Time, key: u64, held: bool) {
        self.seen = now;
        for conn in self.conns.values_mut() {
            if let Doing::Receiving(transfer) = &mut conn.doing
                && transfer.fetch.key == key
            {
                transfer.hold(now, held);
            }
        }
    }

    /// An error without `retry` is taken to hold for all that is asked of that host.
    pub fn handle_connected(&mut self, now: Time, key: ConnKey, result: Result<(), OriginFailed>) {
        self.seen = now;
        let Some(conn) = self.conns.get_mut(&key) else {
            return;
        };
        match result {
            Ok(()) => {
                conn.opened = now;
                conn.doing = Doing::Idle(now);
            }
            Err(error) => {
                let url = conn.url.clone();
                self.conns.remove(&key);
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
            let Some(conn) = self.conns.get_mut(&key) else {
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
                        self.fail_passing(now, &fetch, broken.to_string());
                    }
                }
            }
        }
        self.dispatch(now);
        used
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
        let deadlines = self.conns.values().map(Conn::deadline);
        deadlines.min().unwrap_or(Time::NEVER)
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.seen = now;
        let due = self.conns.iter().filter(|(_, conn)| conn.deadline() <= now);
        for key in due.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.handle_due(now, key);
        }
        self.dispatch(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn handle_head(&mut self, now: Time, key: ConnKey, head: Box<ResponseHead>, framing: Framing) {
        let conn = self.conns.get_mut(&key).expect("its session spoke");
        let drain = Doing::Draining {
            since: now,
            left: DRAIN_MAX,
        };
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
        if !drainable(framing) {
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
                    self.requeue(fetch);
                }
                Err(error) => self.fail(&fetch, error),
            },
            Answer::Later { after, why } => {
                let retry = self.health.handle_failure(now, after);
                let error = OriginFailed::passing(retry, why).with_status(head.status);
                self.fail(&fetch, error);
            }
            // A remembered target may be a signed URL that has expired.
            Answer::Refused(_)
                if fetch.remembered && matches!(head.status, 401 | 403 | 404 | 410) =>
            {
                self.ask_original(fetch);
            }
            Answer::Refused(error) => self.fail(&fetch, error),
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
        let said = Pin::of(&head, span.total);
        if self.pin.as_ref().is_some_and(|pin| !pin.agrees(&said)) {
            self.handle_changed(&fetch);
            return;
        }
        if !span.whole {
            self.ranges = Ranges::Heeded;
        } else if conditional {
            // It answers as if the file had changed, but it has not.
            self.if_range_works = false;
            if fetch.next > 0 {
                self.close(key);
                self.requeue(fetch);
                return;
            }
        } else {
            self.ranges = Ranges::Ignored;
            if fetch.next > SKIP_MAX {
                self.close(key);
                self.fail(&fetch, ranges_ignored());
                return;
            }
        }
        self.pin.get_or_insert_default().learn(said);
        self.target = fetch.at.clone();
        fetch.hops = 0;
        let total = self.length();
        if let Some(total) = total {
            if total <= fetch.next && total > 0 {
                self.close(key);
                self.handle_beyond(&fetch, Some(total));
                return;
            }
            fetch.clamp(total);
        }
        if !fetch.announced {
            fetch.announced = true;
            let key = fetch.key;
            self.outputs.push_back(Output::Head { key, head, total });
        }
        let conn = self.conns.get_mut(&key).expect("its session spoke");
        conn.doing = Doing::Receiving(Box::new(Transfer::new(now, fetch, span)));
        self.finish_if_complete(now, key);
    }

    /// The file ends before the next byte that is wanted.
    fn handle_beyond(&mut self, fetch: &Fetch, total: Option<u64>) {
        let said = Pin {
            length: total,
            ..Pin::default()
        };
        if self.pin.as_ref().is_some_and(|pin| !pin.agrees(&said)) {
            self.handle_changed(fetch);
            return;
        }
        if total.is_some() {
            self.pin.get_or_insert_default().learn(said);
        }
        if fetch.is_stream() && total == Some(fetch.next) {
            self.outputs.push_back(Output::Done { key: fetch.key });
        } else {
            let error = OriginFailed::lasting("the file ends before the range");
            self.fail(fetch, error.with_status(416));
        }
    }

    fn handle_changed(&mut self, fetch: &Fetch) {
        self.changed = true;
        self.outputs.push_back(Output::Changed);
        self.fail(fetch, file_changed());
        for key in self.conns.keys().copied().collect::<Vec<_>>() {
            if let Some(fetch) = self.close(key) {
                self.fail(&fetch, file_changed());
            }
        }
    }

    fn handle_data(&mut self, now: Time, key: ConnKey, data: Range<usize>) {
        let conn = self.conns.get_mut(&key).expect("its session spoke");
        match &mut conn.doing {
            Doing::Receiving(transfer) => {
                self.health.handle_bytes();
                if let Some((at, offset)) = transfer.handle_data(now, data, &mut self.health) {
                    let key = transfer.fetch.key;
                    self.outputs.push_back(Output::Body { key, at, offset });
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
        let conn = self.conns.get_mut(&key).expect("its session spoke");
        let Doing::Receiving(transfer) = &mut conn.doing else {
            return;
        };
        if !transfer.is_complete() {
            return;
        }
        transfer.measure(now, &mut self.health);
        let drain = transfer.left().unwrap_or(DRAIN_MAX) <= DRAIN_MAX;
        self.outputs.push_back(Output::Done {
            key: transfer.fetch.key,
        });
        conn.doing = Doing::Draining {
            since: now,
            left: DRAIN_MAX,
        };
        if !drain {
            self.close(key);
        }
    }

    /// The answer is whole.
    fn handle_end(&mut self, now: Time, key: ConnKey) {
        let conn = self.conns.get_mut(&key).expect("its session spoke");
        let reusable = conn.session.reusable();
        let ended = std::mem::replace(&mut conn.doing, Doing::Idle(now));
        if !reusable || self.plain_conns() > self.conns_max {
            self.close(key);
        }
        if let Doing::Receiving(transfer) = ended {
            self.handle_short(now, *transfer, true);
        }
    }

    /// A body ended before the fetch was complete; `whole`: as its head said it would.
    fn handle_short(&mut self, now: Time, transfer: Transfer, whole: bool) {
        if whole && self.length().is_none() && transfer.left().is_none() {
            // No head said how long the file is; now it is known.
            let length = Some(transfer.at());
            self.pin.get_or_insert_default().length = length;
            let Fetch { key, .. } = transfer.fetch;
            self.outputs.push_back(Output::Done { key });
            return;
        }
        let mut fetch = transfer.fetch;
        if fetch.resume() {
            self.requeue(fetch);
        } else {
            self.fail_passing(
                now,
                &fetch,
                String::from("the body broke off again and again"),
            );
        }
    }

    fn handle_eof(&mut self, now: Time, key: ConnKey, orderly: bool) {
        self.seen = now;
        let Some(mut conn) = self.conns.remove(&key) else {
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
                    self.close_idle();
                    self.requeue(*fetch);
                } else {
                    self.fail_passing(now, &fetch, String::from("closed without an answer"));
                }
            }
            Doing::Receiving(transfer) => self.handle_short(now, *transfer, eof == Eof::Whole),
        }
        self.dispatch(now);
    }

    fn handle_due(&mut self, now: Time, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(&key) else {
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
            self.fail_passing(now, &fetch, String::from(why));
        }
    }

    /// A connection to `url`'s host was wanted and did not come about.
    fn not_connected(&mut self, now: Time, url: &Url, error: OriginFailed) {
        let elsewhere = !same_site(url, &self.url);
        if elsewhere
            && self
                .queue
                .iter()
                .any(|f| f.remembered && same_site(&f.at, url))
        {
            self.forget_target();
            return;
        }
        if error.retry.is_some()
            && self
                .conns
                .values()
                .any(|conn| conn.is_connected() && same_site(&conn.url, url))
        {
            // Some hosts allow one connection a client.
            self.conns_max = 1;
            return;
        }
        let lasting = error.retry.is_none();
        let retry = error
            .retry
            .map(|retry| retry.max(self.health.handle_failure(now, None)));
        let error = OriginFailed { retry, ..error };
        while let Some(place) = self.queue.iter().position(|f| same_site(&f.at, url)) {
            let fetch = self.queue.remove(place);
            self.fail(&fetch, error.clone());
            if !lasting {
                break;
            }
        }
    }

    /// Starts what can be started.
    fn dispatch(&mut self, now: Time) {
        self.refuse_queued(now);
        let mut streams = self.conns.values().filter(|conn| conn.is_stream()).count();
        let mut coming: Vec<Url> = self
            .conns
            .values()
            .filter(|conn| matches!(conn.doing, Doing::Connecting(_)))
            .map(|conn| conn.url.clone())
            .collect();
        let mut place = 0;
        while let Some(fetch) = self.queue.get(place) {
            if fetch.is_stream() && streams >= STREAMS_MAX {
                place += 1;
            } else if let Some(conn) = self.idle_conn(&fetch.at) {
                let fetch = self.queue.remove(place);
                streams += usize::from(fetch.is_stream());
                self.ask(now, conn, fetch);
            } else if let Some(one) = coming.iter().position(|url| same_site(url, &fetch.at)) {
                coming.swap_remove(one);
                place += 1;
            } else {
                let url = fetch.at.clone();
                if self.plain_conns() >= self.conns_max {
                    self.close_one_idle();
                }
                if self.plain_conns() < self.conns_max {
                    self.connect(now, url);
                }
                place += 1;
            }
        }
    }

    /// Fails what waits in the queue for nothing.
    fn refuse_queued(&mut self, now: Time) {
        let down = self.health.down_until(now);
        let ignored = self.ranges == Ranges::Ignored;
        let mut place = 0;
        while let Some(fetch) = self.queue.get(place) {
            let error = if self.changed {
                file_changed()
            } else if let Some(until) = down {
                OriginFailed::passing(until.since(now), "the origin is left alone for a while")
            } else if ignored && fetch.next > SKIP_MAX {
                ranges_ignored()
            } else {
                place += 1;
                continue;
            };
            let fetch = self.queue.remove(place);
            self.fail(&fetch, error);
        }
    }

    fn ask(&mut self, now: Time, key: ConnKey, fetch: Fetch) {
        let if_range = self
            .pin
            .as_ref()
            .filter(|_| self.if_range_works)
            .and_then(Pin::if_range);
        let conn = self.conns.get_mut(&key).expect("it was idle");
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
        self.outputs.push_back(Output::Send { conn: key, bytes });
    }

    fn connect(&mut self, now: Time, url: Url) {
        let conn = ConnKey(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(
            conn,
            Conn {
                url: url.clone(),
                session: Session::new(),
                opened: now,
                doing: Doing::Connecting(now),
            },
        );
        self.outputs.push_back(Output::Connect { conn, url });
    }

    fn idle_conn(&self, at: &Url) -> Option<ConnKey> {
        self.conns
            .iter()
            .find(|(_, conn)| matches!(conn.doing, Doing::Idle(_)) && same_site(&conn.url, at))
            .map(|(key, _)| *key)
    }

    fn plain_conns(&self) -> usize {
        self.conns.values().filter(|conn| !conn.is_stream()).count()
    }

    fn close_one_idle(&mut self) -> bool {
        let idle =
            |(key, conn): (&ConnKey, &Conn)| matches!(conn.doing, Doing::Idle(_)).then_some(*key);
        let found = self.conns.iter().find_map(idle);
        found.is_some_and(|key| {
            self.close(key);
            true
        })
    }

    fn close_idle(&mut self) {
        while self.close_one_idle() {}
    }

    /// Forgets a connection; returns the fetch it was for.
    fn close(&mut self, key: ConnKey) -> Option<Fetch> {
        let conn = self.conns.remove(&key)?;
        self.outputs.push_back(Output::Close { conn: key });
        match conn.doing {
            Doing::Asked { fetch, .. } => Some(*fetch),
            Doing::Receiving(transfer) => Some(transfer.fetch),
            Doing::Connecting(_) | Doing::Idle(_) | Doing::Draining { .. } => None,
        }
    }

    /// Before the others of its urgency: it has waited already.
    fn requeue(&mut self, fetch: Fetch) {
        let urgent = |queued: &Fetch| queued.urgent && !fetch.urgent;
        let place = self.queue.partition_point(urgent);
        self.queue.insert(place, fetch);
    }

    fn ask_original(&mut self, fetch: Fetch) {
        self.requeue(fetch);
        self.forget_target();
    }

    /// What waits for the remembered target begins again at the URL itself.
    fn forget_target(&mut self) {
        self.target = self.url.clone();
        for fetch in self.queue.iter_mut().filter(|fetch| fetch.remembered) {
            fetch.at = self.url.clone();
            fetch.remembered = false;
        }
    }

    fn fail_passing(&mut self, now: Time, fetch: &Fetch, why: String) {
        let retry = self.health.handle_failure(now, None);
        self.fail(fetch, OriginFailed::passing(retry, why));
    }

    fn fail(&mut self, fetch: &Fetch, error: OriginFailed) {
        let key = fetch.key;
        self.outputs.push_back(Output::Failed { key, error });
    }

    fn length(&self) -> Option<u64> {
        self.pin.as_ref().and_then(|pin| pin.length)
    }
}

impl Conn {
    fn fetch(&self) -> Option<&Fetch> {
        match &self.doing {
            Doing::Asked { fetch, .. } => Some(fetch),
            Doing::Receiving(transfer) => Some(&transfer.fetch),
            Doing::Connecting(_) | Doing::Idle(_) | Doing::Draining { .. } => None,
        }
    }

    fn is_stream(&self) -> bool {
        self.fetch().is_some_and(Fetch::is_stream)
    }

    const fn is_connected(&self) -> bool {
        !matches!(self.doing, Doing::Connecting(_))
    }

    fn deadline(&self) -> Time {
        match &self.doing {
            Doing::Connecting(since) => *since + CONNECT_TIMEOUT,
            Doing::Idle(since) => *since + IDLE_TIMEOUT,
            Doing::Asked { sent, .. } => *sent + FIRST_BYTE_TIMEOUT,
            Doing::Receiving(transfer) => transfer.deadline(),
            Doing::Draining { since, .. } => *since + DRAIN_TIMEOUT,
        }
    }
}

const fn drainable(framing: Framing) -> bool {
    match framing {
        Framing::Empty | Framing::Chunked => true,
        Framing::Length(length) => length <= DRAIN_MAX,
        Framing::UntilClose => false,
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
