//! A reply out of the origin: bounded ranges, until the film's swarm takes over or the end.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::http::body::BODY_END;
use crate::http::body::Framing;
use crate::http::body::RUN_END;
use crate::http::body::run_head;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::http::head::ResponseHead;
use crate::http::range;
use crate::http::range::Asked;
use crate::origin::OriginFailed;
use crate::ring::buffers::Held;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::entity;
use crate::shard::film::Film;
use crate::shard::film::State;
use crate::shard::host::InUse;
use crate::shard::kept::Adopted;
use crate::shard::origin::OriginHost;
use crate::shard::origin::Pipe;
use crate::shard::origin::Sink;
use crate::shard::reader::BLOCKED_AFTER;
use crate::shard::reader::OpenReader;
use crate::shard::stub::Ended;
use crate::shard::stub::Player;
use crate::shard::stub::Request;
use crate::shard::tally::Tally;
use crate::stub::media;
use crate::stub::media::SNIFF_LEN;
use crate::stub::reply;
use crate::stub::reply::Failure;
use crate::units::ByteRange;

/// Bytes asked of the origin at first: what many viewers ask for at once, before they know of each
/// other, is a start's whole cost.
const GRANULE_FIRST: u64 = 64 * 1024;
/// The torrent is asked for so much before the film: the few packets of its answer would be lost
/// where the film's burst fills a short queue, and that costs them 200 ms.
const TORRENT_LEAD: Duration = Duration::from_millis(3);
/// And later, at a time (DESIGN §3: at most 1 MiB).
const GRANULE_MAX: u64 = 512 * 1024;
/// All that there is, as one stream.
const WHOLE: ByteRange = ByteRange {
    start: 0,
    end: u64::MAX,
};
/// Longer than any file (R31).
const LENGTH_UNKNOWN: u64 = 1 << 60;
/// With the origin failing, other ways to the film are waited for this long.
const OTHER_WAYS_WAIT: Duration = Duration::from_secs(15);

/// R18: a page is given films, their playlists and subtitles, nothing else.
pub const NOT_MEDIA: Failure = Failure::new(
    502,
    "not-media",
    "not video, audio, a playlist or subtitles",
);
const NOTHING_KNOWN: Failure = Failure::new(502, "origin", "nothing is known of this address");

/// Answers from the origin.
pub async fn reply(
    player: &mut Player,
    shard: &Rc<Shard>,
    film: &Rc<Film>,
    request: &Request<'_>,
) -> Ended {
    let Some(origin) = film.origin.clone() else {
        return player.fail(shard, request, &NOTHING_KNOWN).await;
    };
    if matches!(film.state(), State::Resolving) {
        runtime::sleep(TORRENT_LEAD).await;
    }
    let mut first = Fetch::start(&origin, first_range(request.head), true);
    let (head, total) = loop {
        let answer = tokio::select! {
            answer = first.answer() => answer,
            () = player.receiver.hangup() => return Ended::Closed,
        };
        match answer {
            Ok(answer) => break answer,
            // Only the whole file can be had: what lies before the range is dropped on the way.
            Err(_) if !origin.takes_ranges() && first.range.start > 0 => {
                first = Fetch::start(&origin, WHOLE, true);
            }
            Err(error) => return other_ways(player, shard, film, request, &error).await,
        }
    };
    film.inbox.handle_origin_head(&head, total);
    if request.provenance.web {
        film.sites.note(&request.provenance);
        look(film, &origin, &first).await;
        if !matches!(film.sniffed.get(), Some(Some(_))) {
            return player.fail(shard, request, &NOT_MEDIA).await;
        }
    }
    let entity = entity::of_origin(film, &origin, total);
    let plan = reply::plan(request.head, &entity, &request.provenance, request.last);
    let Some(body) = plan.body else {
        drop(first);
        let sent = player.sender.send_all(plan.head, false).await;
        return Ended::kept_if(sent.is_ok() && plan.keep_alive);
    };
    if player.sender.send_all(plan.head, false).await.is_err() {
        return Ended::Closed;
    }
    let mut pass = Pass::new(&origin, first, body);
    pass.chunked = matches!(plan.framing, Framing::Chunked);
    let whole = pass.run(player, shard, film, request).await;
    film.hand_kept(None).await;
    Ended::kept_if(whole && plan.keep_alive)
}

/// The rest of a reply whose swarm cannot store any more.
pub async fn go_on(
    player: &mut Player,
    shard: &Rc<Shard>,
    film: &Rc<Film>,
    request: &Request<'_>,
    rest: ByteRange,
) -> bool {
    let Some(origin) = film.origin.clone() else {
        return false;
    };
    let end = rest.end.min(rest.start + GRANULE_MAX);
    let first = Fetch::start(&origin, ByteRange::new(rest.start, end), true);
    let mut pass = Pass::new(&origin, first, rest);
    pass.may_hand_over = false;
    pass.run(player, shard, film, request).await
}

/// The origin does not answer: a film that is known by other means plays all the same.
async fn other_ways(
    player: &mut Player,
    shard: &Rc<Shard>,
    film: &Rc<Film>,
    request: &Request<'_>,
    error: &OriginFailed,
) -> Ended {
    let length = origin_length(film);
    if error.status == Some(416)
        && let Some(length) = length
    {
        // The range lies beyond the end; what to say to that depends on its form.
        return beyond(player, film, request, length).await;
    }
    film.inbox.handle_origin_failed(error.status);
    match known_otherwise(film, error).await {
        State::Here { host, file } => {
            if let Some(host) = host.take_up() {
                return request.from_swarm(player, shard, film, &host, file).await;
            }
        }
        State::Elsewhere(_) => return Ended::Closed,
        State::Resolving | State::Passthrough | State::Failed(_) => {}
    }
    tracing::info!(why = error.why, "the origin did not answer");
    let detail = "the video's web server did not deliver it";
    let failure = match error.status {
        Some(status @ (401 | 403 | 404 | 410 | 451)) => {
            Failure::new(status, "origin-refused", detail)
        }
        Some(429 | 503) => Failure {
            retry_after: error.retry,
            ..BUSY
        },
        Some(_) => Failure::new(502, "origin-failed", detail),
        None => Failure::new(502, "origin-unreachable", detail),
    };
    player.fail(shard, request, &failure).await
}

async fn known_otherwise(film: &Film, error: &OriginFailed) -> State {
    match error.status {
        // What a server refuses, a registry that looks at the same server is not likely to have.
        Some(..500) => film.settled(OTHER_WAYS_WAIT).await,
        _ => film.searched(OTHER_WAYS_WAIT).await,
    }
}

fn origin_length(film: &Rc<Film>) -> Option<u64> {
    film.origin.as_ref()?.pin()?.length
}

async fn beyond(player: &mut Player, film: &Rc<Film>, request: &Request<'_>, length: u64) -> Ended {
    let Some(origin) = &film.origin else {
        return Ended::Closed;
    };
    let entity = entity::of_origin(film, origin, Some(length));
    let plan = reply::plan(request.head, &entity, &request.provenance, request.last);
    // A body would have to be fetched first; only an unforeseen answer of the origin leads here.
    let sent = plan.body.is_none() && player.sender.send_all(plan.head, false).await.is_ok();
    Ended::kept_if(sent && plan.keep_alive)
}

const BUSY: Failure = Failure::new(503, "origin-busy", "the video's web server is busy");

/// What to ask first, before the length is known: never less than decides the reply.
fn first_range(head: &RequestHead) -> ByteRange {
    if matches!(head.method, Method::Head) {
        return ByteRange::new(0, SNIFF_LEN as u64);
    }
    // As if the file were endless: a suffix range then lies beyond what any file has, and the
    // first answer's length decides.
    match range::resolve(head.headers.get("range"), LENGTH_UNKNOWN) {
        Asked::Part(part) if part.start < LENGTH_UNKNOWN / 2 => {
            ByteRange::new(part.start, part.end.min(part.start + GRANULE_FIRST))
        }
        _ => ByteRange::new(0, GRANULE_FIRST),
    }
}

/// Looks at the first bytes, once a film.
async fn look(film: &Rc<Film>, origin: &Rc<OriginHost>, first: &Fetch) {
    if film.sniffed.get().is_some() {
        return;
    }
    let own = (first.range.start > 0)
        .then(|| Fetch::start(origin, ByteRange::new(0, SNIFF_LEN as u64), true));
    let bytes = own.as_ref().unwrap_or(first).peek(SNIFF_LEN).await;
    if !bytes.is_empty() {
        film.sniffed.set(Some(media::sniff(&bytes)));
    }
}

/// One range under way from the origin; given up when dropped.
struct Fetch {
    origin: Rc<OriginHost>,
    key: u64,
    range: ByteRange,
    pipe: Rc<Pipe>,
}

impl Fetch {
    fn start(origin: &Rc<OriginHost>, range: ByteRange, urgent: bool) -> Self {
        let pipe = Rc::new(Pipe::default());
        let key = origin.fetch(range, urgent, Sink::Pass(pipe.clone()));
        Self {
            origin: origin.clone(),
            key,
            range,
            pipe,
        }
    }

    async fn answer(&self) -> Result<(ResponseHead, Option<u64>), OriginFailed> {
        loop {
            if let Some(answer) = self.pipe.head.borrow().as_ref() {
                return Ok(((*answer.head).clone(), answer.total));
            }
            match self.pipe.end.borrow().as_ref() {
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(())) => {
                    return Err(OriginFailed::lasting("nothing where a head should be"));
                }
                None => {}
            }
            self.pipe.wake.notified().await;
        }
    }

    /// The first `len` bytes, which stay; fewer at the end of the file.
    async fn peek(&self, len: usize) -> Vec<u8> {
        loop {
            if self.pipe.held.get() >= len || self.pipe.end.borrow().is_some() {
                let queue = self.pipe.queue.borrow();
                return queue.iter().flatten().copied().take(len).collect();
            }
            self.pipe.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Vec<u8>> {
        let bytes = self.pipe.queue.borrow_mut().pop_front()?;
        self.pipe.held.set(self.pipe.held.get() - bytes.len());
        self.pipe.room.notify_one();
        Some(bytes)
    }

    fn ended(&self) -> Option<Result<(), OriginFailed>> {
        self.pipe
            .queue
            .borrow()
            .is_empty()
            .then(|| self.pipe.end.borrow().clone())
            .flatten()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if self.pipe.end.borrow().is_none() {
            self.origin.abandon(self.key);
        }
    }
}

/// The swarm that goes on behind the range under way: its reader begins there already.
struct Heir {
    reader: OpenReader,
    /// In the file.
    begins: u64,
    /// What still arrives of that range is the swarm's as well.
    passing: Option<Adopted>,
    _host: InUse,
}

/// A body on its way through.
struct Pass {
    origin: Rc<OriginHost>,
    fetch: Option<Fetch>,
    /// Asked for while the one before is still being sent.
    ahead: Option<Fetch>,
    heir: Option<Heir>,
    /// To the swarm; never back to the one it came from.
    may_hand_over: bool,
    /// Next byte of the file for the player, and the end of the reply.
    left: ByteRange,
    /// Where the first fetch began, and where the next one begins.
    began: u64,
    next: u64,
    /// Bytes of the fetch under way that lie before what the player wants.
    skip: u64,
    /// The reply's length is not known: each run says its own (RFC 9112 §7.1).
    chunked: bool,
}

impl Pass {
    fn new(origin: &Rc<OriginHost>, first: Fetch, body: ByteRange) -> Self {
        // A suffix range, or one whose form was not foreseen, starts elsewhere than was asked.
        let fits = first.range.start == body.start || first.range == WHOLE;
        let skip = body.start - first.range.start.min(body.start);
        let next = if fits { first.range.end } else { body.start };
        Self {
            origin: origin.clone(),
            fetch: fits.then_some(first),
            ahead: None,
            heir: None,
            may_hand_over: true,
            began: body.start,
            left: body,
            next,
            skip: if fits { skip } else { 0 },
            chunked: false,
        }
    }

    /// True if the whole body went out.
    async fn run(
        &mut self,
        player: &mut Player,
        shard: &Rc<Shard>,
        film: &Rc<Film>,
        request: &Request<'_>,
    ) -> bool {
        while !self.left.is_empty() {
            self.look_for_heir(shard, film, request).await;
            if self.fetch.is_none() {
                if let Some(heir) = self.heir.take() {
                    drop(heir.passing);
                    if heir.begins != self.left.start {
                        return false;
                    }
                    let stream = request.stream(player, shard, film, &heir.reader, self.left);
                    return stream.await;
                }
                self.fetch = self.ahead.take();
            }
            let Some(fetch) = self.fetch.as_ref() else {
                self.fetch = Some(self.fetch_next(film));
                continue;
            };
            if let Some(mut bytes) = fetch.take() {
                self.trim(&mut bytes);
                if bytes.is_empty() {
                    continue;
                }
                self.look_ahead(film);
                Tally::add(&shard.tally.passed, bytes.len() as u64);
                Tally::add(&shard.tally.to_players, bytes.len() as u64);
                if !self.send(player, film, bytes).await {
                    return false;
                }
                request.handle_sent(shard);
                continue;
            }
            match fetch.ended() {
                Some(Ok(())) if self.left.end == u64::MAX && self.next == u64::MAX => {
                    return !self.chunked || player.sender.send_all(BODY_END, false).await.is_ok();
                }
                Some(Ok(())) => self.fetch = None,
                Some(Err(error)) => return self.rescue(player, shard, film, request, &error).await,
                None => tokio::select! {
                    () = fetch.pipe.wake.notified() => {}
                    () = player.receiver.hangup() => return false,
                },
            }
        }
        true
    }

    /// The origin broke off: the swarm goes on if the film has one.
    async fn rescue(
        &mut self,
        player: &mut Player,
        shard: &Rc<Shard>,
        film: &Rc<Film>,
        request: &Request<'_>,
        error: &OriginFailed,
    ) -> bool {
        tracing::info!(why = error.why, "the origin broke off");
        film.inbox.handle_origin_failed(error.status);
        self.heir = None;
        if !self.may_hand_over || self.origin.changed.get() {
            return false;
        }
        known_otherwise(film, error).await;
        match film.successor(shard.now()) {
            Some((host, file)) => {
                let reader = OpenReader::new(&host, file, self.left, request.asked_at);
                request
                    .stream(player, shard, film, &reader, self.left)
                    .await
            }
            None => false,
        }
    }

    /// A swarm that can go on where the range under way ends begins at once: its first answers
    /// then follow without a gap.
    async fn look_for_heir(&mut self, shard: &Rc<Shard>, film: &Rc<Film>, request: &Request<'_>) {
        if !self.may_hand_over || self.heir.is_some() {
            return;
        }
        film.look_again(shard);
        if let Some(fetch) = &self.fetch
            && let Some(answer) = &*fetch.pipe.head.borrow()
        {
            film.inbox.handle_origin_head(&answer.head, answer.total);
        }
        if self.ahead.is_some() {
            return;
        }
        let under_way = self.fetch.is_some();
        if under_way && (!self.origin.takes_ranges() || self.next >= self.left.end) {
            return;
        }
        // How fast the film plays decides what its reader asks for first.
        let to_come = self.next.saturating_sub(self.left.start);
        let told = film.has_told_rate() || to_come <= GRANULE_FIRST / 2;
        let Some((host, file)) = film.successor(shard.now()).filter(|_| !under_way || told) else {
            return;
        };
        let next = if under_way {
            self.next
        } else {
            self.left.start
        };
        let to_come = ByteRange::new(self.left.start, next);
        let passing = film
            .hand_kept((!to_come.is_empty()).then_some(to_come))
            .await;
        let rest = ByteRange::new(next, self.left.end);
        self.heir = Some(Heir {
            reader: OpenReader::new(&host, file, rest, request.asked_at),
            begins: next,
            passing,
            _host: host,
        });
    }

    fn fetch_next(&mut self, film: &Film) -> Fetch {
        if !self.origin.takes_ranges() {
            // Only a whole body can be had; the player's pace holds its connection back.
            self.skip = self.next;
            self.next = u64::MAX;
            return Fetch::start(&self.origin, WHOLE, true);
        }
        // As much as there was before: the ranges double. But while the swarm may be found any
        // moment, what it has to wait for is short.
        let size = match film.state() {
            State::Resolving => GRANULE_FIRST,
            _ => self.next.saturating_sub(self.began),
        };
        let size = size.clamp(GRANULE_FIRST, GRANULE_MAX);
        let end = self.left.end.min(self.next.saturating_add(size));
        let fetch = Fetch::start(&self.origin, ByteRange::new(self.next, end), true);
        self.next = end;
        fetch
    }

    /// Asks for the next range early enough that the origin's delay is not heard.
    fn look_ahead(&mut self, film: &Rc<Film>) {
        let settled = matches!(film.state(), State::Passthrough);
        let late = self
            .fetch
            .as_ref()
            .is_some_and(|fetch| fetch.pipe.end.borrow().is_some());
        let more = self.next < self.left.end && self.origin.takes_ranges();
        if self.ahead.is_none() && late && settled && more {
            self.ahead = Some(self.fetch_next(film));
        }
    }

    /// An origin may give what lies before the range, and more than is left to send.
    fn trim(&mut self, bytes: &mut Vec<u8>) {
        let before = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        bytes.drain(..before);
        self.skip -= before as u64;
        let room = usize::try_from(self.left.len()).unwrap_or(usize::MAX);
        bytes.truncate(room);
    }

    async fn send(&mut self, player: &mut Player, film: &Rc<Film>, bytes: Vec<u8>) -> bool {
        let sending = Held::default();
        sending.set(bytes.len());
        let at = self.left.start;
        self.left.start += bytes.len() as u64;
        match self.heir.as_ref().map(|heir| &heir.passing) {
            Some(Some(passing)) => passing.feed(&bytes),
            Some(None) => {}
            None => film.keep(at, &bytes),
        }
        let mut sent = pin!(send(player, bytes, self.chunked));
        if let Some(heir) = self.heir.as_mut().filter(|heir| heir.passing.is_some()) {
            tokio::select! {
                biased;
                sent = &mut sent => return sent,
                // A paused player: the swarm does not wait for it.
                () = runtime::sleep(BLOCKED_AFTER) => heir.passing = None,
            }
        }
        sent.await
    }
}

async fn send(player: &mut Player, bytes: Vec<u8>, chunked: bool) -> bool {
    if !chunked {
        return player.sender.send_all(bytes, false).await.is_ok();
    }
    let head = run_head(bytes.len());
    player.sender.send_all(head, true).await.is_ok()
        && player.sender.send_all(bytes, true).await.is_ok()
        && player.sender.send_all(RUN_END, false).await.is_ok()
}
