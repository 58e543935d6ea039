//! The pool against origins of every kind, on a made-up clock.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::origin::answer::SKIP_MAX;

/// What the scripted server does with one request.
enum Reply {
    /// Answers and keeps the connection.
    Answer(Vec<u8>),
    /// Answers and ends the stream in order.
    Close(Vec<u8>),
    /// Answers and resets the connection.
    Reset(Vec<u8>),
    Silence,
}

/// A pool, and a server that answers from a script.
struct Rig {
    pool: Pool,
    now: Time,
    script: VecDeque<Reply>,
    /// Requests as text, in order.
    asked: Vec<String>,
    /// Connections, in order.
    connected: Vec<(ConnKey, String)>,
    refuse: Option<OriginFailed>,
    closed: Vec<ConnKey>,
    /// The connection of the last request.
    last: ConnKey,
    /// Offset of the next byte, and bytes so far, of each fetch.
    next: BTreeMap<u64, u64>,
    got: BTreeMap<u64, u64>,
    heads: Vec<(u64, u16, Option<u64>)>,
    done: Vec<u64>,
    failed: Vec<(u64, OriginFailed)>,
    changed: usize,
}

const TO_END: u64 = u64::MAX;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;

fn film(range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at % 251) as u8).collect()
}

/// A 206 for `range` of `total` bytes, with further header lines.
fn part(range: Range<u64>, total: u64, lines: &str) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{total}\r\nContent-Length: {}\r\n{lines}\r\n",
        range.start,
        range.end - 1,
        range.end - range.start
    )
    .into_bytes();
    bytes.extend(film(range));
    bytes
}

fn whole(total: u64, lines: &str) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n{lines}\r\n").into_bytes();
    bytes.extend(film(0..total));
    bytes
}

fn status(line: &str, lines: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n{lines}\r\n").into_bytes()
}

impl Rig {
    fn new(url: &str) -> Self {
        Self {
            pool: Pool::new(Url::parse(url).unwrap(), String::from("bittube-1")),
            now: Time::from_secs(1000),
            script: VecDeque::new(),
            asked: Vec::new(),
            connected: Vec::new(),
            refuse: None,
            closed: Vec::new(),
            last: ConnKey(usize::MAX),
            next: BTreeMap::new(),
            got: BTreeMap::new(),
            heads: Vec::new(),
            done: Vec::new(),
            failed: Vec::new(),
            changed: 0,
        }
    }

    /// A film at an address that is asked by `script`.
    fn with(script: impl IntoIterator<Item = Reply>) -> Self {
        let mut rig = Self::new("http://host/film.mp4");
        rig.script.extend(script);
        rig
    }

    fn fetch(&mut self, key: u64, range: Range<u64>) {
        let range = ByteRange::new(range.start, range.end);
        self.next.insert(key, range.start);
        self.pool.fetch(self.now, key, range, false);
        self.run(&[]);
    }

    fn bytes(&mut self, conn: ConnKey, bytes: &[u8]) {
        for block in bytes.chunks(128 * 1024) {
            self.wait(Duration::from_millis(1));
            let used = self.pool.handle_bytes(self.now, conn, block);
            assert_eq!(used, block.len());
            self.run(block);
        }
    }

    fn wait(&mut self, wait: Duration) {
        self.now = self.now + wait;
    }

    /// Lets the pool's timers run for a while.
    fn sleep(&mut self, wait: Duration) {
        let end = self.now + wait;
        while self.pool.next_timeout() <= end {
            self.now = self.now.max(self.pool.next_timeout());
            self.pool.handle_timeout(self.now);
            self.run(&[]);
        }
        self.now = end;
    }

    /// Drains the outputs of one input, then lets the server answer.
    fn run(&mut self, handed: &[u8]) {
        let (mut connects, mut requests) = (Vec::new(), Vec::new());
        while let Some(output) = self.pool.poll_output() {
            match output {
                Output::Connect { conn, url } => {
                    self.connected.push((conn, url.to_string()));
                    connects.push(conn);
                }
                Output::Send { conn, bytes } => {
                    self.asked.push(String::from_utf8(bytes).unwrap());
                    self.last = conn;
                    requests.push(conn);
                }
                Output::Close { conn } => self.closed.push(conn),
                Output::Head { key, head, total } => self.heads.push((key, head.status, total)),
                Output::Body { key, at, offset } => {
                    let next = self.next.get_mut(&key).unwrap();
                    assert_eq!(offset, *next, "in order, and none twice");
                    *next += at.len() as u64;
                    assert_eq!(handed[at.clone()], film(offset..*next));
                    *self.got.entry(key).or_default() += at.len() as u64;
                }
                Output::Done { key } => self.done.push(key),
                Output::Failed { key, error } => self.failed.push((key, error)),
                Output::Changed => self.changed += 1,
            }
        }
        for conn in connects {
            self.wait(Duration::from_millis(10));
            let result = self.refuse.clone().map_or(Ok(()), Err);
            self.pool.handle_connected(self.now, conn, result);
            self.run(&[]);
        }
        for conn in requests {
            self.wait(Duration::from_millis(20));
            self.answer(conn);
        }
    }

    fn answer(&mut self, conn: ConnKey) {
        match self.script.pop_front() {
            None | Some(Reply::Silence) => {}
            Some(Reply::Answer(bytes)) => self.bytes(conn, &bytes),
            Some(Reply::Close(bytes)) => {
                self.bytes(conn, &bytes);
                self.pool.handle_closed(self.now, conn);
                self.run(&[]);
            }
            Some(Reply::Reset(bytes)) => {
                self.bytes(conn, &bytes);
                self.pool.handle_broken(self.now, conn);
                self.run(&[]);
            }
        }
    }

    fn got(&self, key: u64) -> u64 {
        self.got.get(&key).copied().unwrap_or(0)
    }

    fn range_of(&self, request: usize) -> &str {
        let text = &self.asked[request];
        let from = text.find("Range: bytes=").expect("a Range") + 13;
        text[from..].split("\r\n").next().unwrap()
    }

    fn assert_done(&self, key: u64, bytes: u64) {
        assert_eq!(self.failed, [], "none may fail");
        assert!(self.done.contains(&key), "fetch {key} is not done");
        assert_eq!(self.got(key), bytes);
    }

    fn only_failure(&self) -> &OriginFailed {
        assert_eq!(self.failed.len(), 1, "{:?}", self.failed);
        assert_eq!(self.done, [] as [u64; 0]);
        &self.failed[0].1
    }
}

const TAG: &str = "ETag: \"v1\"\r\n";

#[test]
fn ranges_come_over_one_kept_connection() {
    let mut rig = Rig::with([
        Reply::Answer(part(0..1000, 5000, TAG)),
        Reply::Answer(part(4000..5000, 5000, TAG)),
    ]);
    rig.fetch(1, 0..1000);
    rig.assert_done(1, 1000);
    assert_eq!(rig.heads, [(1, 206, Some(5000))]);
    rig.fetch(2, 4000..5000);
    rig.assert_done(2, 1000);
    assert_eq!(rig.connected.len(), 1);
    assert_eq!(rig.closed, []);
    let pin = rig.pool.pin().unwrap();
    assert_eq!(
        (pin.etag.as_deref(), pin.length),
        (Some("\"v1\""), Some(5000))
    );
    assert!(!rig.asked[0].contains("If-Range"));
    assert!(rig.asked[1].contains("If-Range: \"v1\"\r\n"));
    assert_eq!(rig.pool.ranges(), Ranges::Heeded);
}

#[test]
fn an_open_end_means_as_much_as_there_is() {
    let mut rig = Rig::with([Reply::Answer(part(100..900, 900, TAG))]);
    rig.fetch(1, 100..TO_END);
    assert_eq!(rig.range_of(0), "100-");
    rig.assert_done(1, 800);
}

#[test]
fn an_end_beyond_the_file_is_clamped() {
    let mut rig = Rig::with([Reply::Answer(part(100..900, 900, TAG))]);
    rig.fetch(1, 100..5000);
    rig.assert_done(1, 800);
}

#[test]
fn two_bounded_fetches_at_a_time_and_urgent_ones_first() {
    let mut rig = Rig::with([]);
    for key in 1..=3 {
        rig.fetch(key, key * 10..key * 10 + 5);
    }
    rig.next.insert(4, 40);
    rig.pool.fetch(rig.now, 4, ByteRange::new(40, 45), true);
    rig.run(&[]);
    assert_eq!(rig.connected.len(), CONNS_MAX);
    assert_eq!(rig.asked.len(), 2);
    rig.bytes(rig.last, &part(20..25, 100, TAG));
    assert_eq!(rig.range_of(2), "40-44");
    rig.bytes(rig.last, &part(40..45, 100, TAG));
    assert_eq!(rig.range_of(3), "30-34");
    assert_eq!(rig.done, [2, 4]);
}

#[test]
fn open_ended_fetches_do_not_starve_bounded_ones() {
    let mut rig = Rig::with([]);
    for key in 0..STREAMS_MAX as u64 + 1 {
        rig.fetch(key, 0..TO_END);
    }
    assert_eq!(rig.asked.len(), STREAMS_MAX);
    rig.fetch(90, 10..20);
    rig.fetch(91, 20..30);
    rig.fetch(92, 30..40);
    assert_eq!(rig.asked.len(), STREAMS_MAX + CONNS_MAX);
    assert_eq!(rig.range_of(STREAMS_MAX), "10-19");
}

// O1: no Range.

#[test]
fn a_200_is_a_stream_if_the_range_begins_near() {
    let mut rig = Rig::with([Reply::Answer(whole(3 * MIB, TAG))]);
    rig.fetch(1, MIB..MIB + 5000);
    rig.assert_done(1, 5000);
    assert_eq!(rig.closed.len(), 1, "the rest of the film is not received");
    assert_eq!(rig.pool.ranges(), Ranges::Ignored);
}

#[test]
fn a_200_to_a_far_range_fails_and_is_remembered() {
    let mut rig = Rig::with([Reply::Answer(whole(3 * MIB, TAG))]);
    rig.fetch(1, MIB + 1..2 * MIB);
    assert_eq!(rig.only_failure().retry, None);
    assert_eq!(rig.got(1), 0);
    rig.fetch(2, 2 * MIB..3 * MIB);
    assert_eq!(rig.failed.len(), 2);
    assert_eq!(rig.asked.len(), 1, "it is not asked again");
    rig.script.push_back(Reply::Answer(whole(3 * MIB, TAG)));
    rig.fetch(3, 0..TO_END);
    assert_eq!((rig.got(3), rig.done.as_slice()), (3 * MIB, [3].as_slice()));
}

#[test]
fn a_200_without_length_ends_with_the_connection() {
    let mut body = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
    body.extend(film(0..9000));
    let mut rig = Rig::with([Reply::Close(body.clone())]);
    rig.fetch(1, 0..TO_END);
    rig.assert_done(1, 9000);
    assert_eq!(rig.heads, [(1, 200, None)]);
    assert_eq!(rig.pool.pin().unwrap().length, Some(9000));
    // Cut off instead, as a reset or a missing close_notify shows: it is not the whole film.
    let mut rig = Rig::with([Reply::Reset(body), Reply::Silence]);
    rig.fetch(1, 0..TO_END);
    assert_eq!(rig.done, [] as [u64; 0]);
    assert_eq!(rig.range_of(1), "9000-");
}

#[test]
fn a_200_that_ends_before_the_range_is_like_a_416() {
    let body = || [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), film(0..100)].concat();
    let mut rig = Rig::with([Reply::Close(body())]);
    rig.fetch(1, 500..600);
    assert_eq!(rig.only_failure().status, Some(416));
    let mut rig = Rig::with([Reply::Close(body())]);
    rig.fetch(1, 100..TO_END);
    rig.assert_done(1, 0);
}

#[test]
fn a_chunked_200_is_a_stream() {
    let mut body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400;x=y\r\n".to_vec();
    body.extend(film(0..1024));
    body.extend(b"\r\n0\r\nTrailer: x\r\n\r\n");
    let mut rig = Rig::with([Reply::Answer(body)]);
    rig.fetch(1, 24..TO_END);
    rig.assert_done(1, 1000);
    assert_eq!(rig.closed, []);
}

// Wrong 206.

#[test]
fn a_206_must_hold_what_was_asked_for() {
    let head = |line: &str| {
        let mut bytes = format!("HTTP/1.1 206 P\r\nContent-Length: 100\r\n{line}\r\n").into_bytes();
        bytes.extend(film(500..600));
        bytes
    };
    for wrong in [
        "",
        "Content-Type: multipart/byteranges; boundary=x\r\n",
        "Content-Range: bytes */1000\r\n",
        "Content-Range: bytes 501-600/1000\r\n",
        "Content-Range: bytes 300-399/1000\r\n",
        "Content-Range: bytes 500-599/550\r\n",
        "Content-Range: bytes 500-649/1000\r\n",
        "Content-Range: bytes 599-500/1000\r\n",
        "Content-Range: bytes 500-599/1000\r\nContent-Range: bytes 0-99/1000\r\n",
        "Content-Range: bytes 500-599/1000\r\nContent-Encoding: gzip\r\n",
        "Content-Range: pieces 500-599/1000\r\n",
    ] {
        let mut rig = Rig::with([Reply::Answer(head(wrong))]);
        rig.fetch(1, 500..600);
        assert_eq!(rig.only_failure().retry, None, "{wrong}");
        assert_eq!(rig.got(1), 0, "{wrong}");
        assert!(rig.pool.pin().is_none(), "{wrong}");
    }
    let mut rig = Rig::with([Reply::Answer(head("Content-Range: bytes 500-599/*\r\n"))]);
    rig.fetch(1, 500..600);
    rig.assert_done(1, 100);
    assert_eq!(rig.pool.pin().unwrap().length, None);
}

#[test]
fn a_206_that_begins_earlier_is_skipped_into() {
    let mut rig = Rig::with([Reply::Answer(part(400..600, 1000, TAG))]);
    rig.fetch(1, 500..600);
    rig.assert_done(1, 100);
    let far = part(0..100 + SKIP_MAX + 50, 4 * MIB, TAG);
    let mut rig = Rig::with([Reply::Answer(far)]);
    rig.fetch(1, SKIP_MAX + 100..SKIP_MAX + 200);
    assert_eq!(rig.only_failure().retry, None);
}

#[test]
fn a_206_with_another_end_is_cut_or_continued() {
    let mut rig = Rig::with([
        Reply::Answer(part(0..900, 1000, TAG)),
        Reply::Answer(part(100..150, 1000, TAG)),
        Reply::Answer(part(150..200, 1000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.assert_done(1, 100);
    assert_eq!(rig.closed, [], "800 bytes are drained");
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert_eq!(rig.range_of(2), "150-199");
    assert_eq!(rig.heads.len(), 2, "one head a fetch");
}

// 416.

#[test]
fn a_416_tells_the_length() {
    let lines = "Content-Range: bytes */1000\r\n";
    let mut rig = Rig::with([
        Reply::Answer(status("416 Beyond", lines)),
        Reply::Answer(status("416 Beyond", lines)),
    ]);
    rig.fetch(1, 2000..3000);
    assert_eq!(rig.only_failure().status, Some(416));
    assert_eq!(rig.pool.pin().unwrap().length, Some(1000));
    rig.fetch(2, 1000..TO_END);
    assert_eq!(rig.done, [2], "as much as there is, is nothing");
    let contradiction = status("416 Beyond", "Content-Range: bytes */999\r\n");
    rig.script.push_back(Reply::Answer(contradiction));
    rig.fetch(3, 1000..TO_END);
    assert_eq!(rig.changed, 1);
}

#[test]
fn an_empty_file_is_done() {
    let mut rig = Rig::with([Reply::Answer(whole(0, ""))]);
    rig.fetch(1, 0..TO_END);
    rig.assert_done(1, 0);
    assert_eq!(rig.heads, [(1, 200, Some(0))]);
}

// A file that changes.

#[test]
fn a_changed_file_is_never_mixed() {
    let old = || {
        part(
            0..100,
            1000,
            "ETag: \"v1\"\r\nLast-Modified: Mon, 02 Mar 2026 10:00:00 GMT\r\n",
        )
    };
    for new in [
        part(100..200, 1000, "ETag: \"v2\"\r\n"),
        part(100..200, 1001, TAG),
        part(
            100..200,
            1000,
            "Last-Modified: Tue, 03 Mar 2026 10:00:00 GMT\r\n",
        ),
        whole(1000, "ETag: \"v2\"\r\n"),
        whole(1001, TAG),
    ] {
        let mut rig = Rig::with([Reply::Answer(old()), Reply::Answer(new)]);
        rig.fetch(1, 0..100);
        rig.fetch(2, 100..200);
        assert_eq!(rig.changed, 1);
        assert_eq!(rig.got(2), 0, "not one byte of the new file");
        assert_eq!(rig.failed[0].0, 2);
        assert_eq!(rig.closed.len(), 1);
        rig.fetch(3, 0..10);
        assert_eq!((rig.failed.len(), rig.asked.len(), rig.changed), (2, 2, 1));
    }
}

#[test]
fn a_change_in_the_middle_of_a_body_is_seen_at_its_continuation() {
    let mut broken = part(0..1000, 1000, TAG);
    broken.truncate(broken.len() - 400);
    let mut rig = Rig::with([
        Reply::Close(broken),
        Reply::Answer(whole(1000, "ETag: \"v2\"\r\n")),
    ]);
    rig.fetch(1, 0..1000);
    assert!(rig.asked[1].contains("If-Range: \"v1\""));
    assert_eq!((rig.got(1), rig.changed), (600, 1));
    assert_eq!(rig.failed.len(), 1);
}

#[test]
fn a_change_fails_what_else_is_under_way() {
    let mut rig = Rig::with([Reply::Answer(part(0..10, 1000, TAG)), Reply::Silence]);
    rig.fetch(1, 0..10);
    rig.fetch(2, 10..20);
    let second = rig.last;
    rig.script.push_back(Reply::Answer(part(20..30, 999, TAG)));
    rig.fetch(3, 20..30);
    assert_eq!(rig.changed, 1);
    let mut failed: Vec<u64> = rig.failed.iter().map(|(key, _)| *key).collect();
    failed.sort_unstable();
    assert_eq!(failed, [2, 3]);
    assert!(rig.closed.contains(&second));
    assert_eq!(rig.pool.next_timeout(), Time::NEVER);
}

#[test]
fn if_range_answered_200_for_the_same_file_is_asked_again_without() {
    let mut rig = Rig::with([
        Reply::Answer(part(0..100, 3000, TAG)),
        Reply::Answer(whole(3000, TAG)),
        Reply::Answer(part(100..200, 3000, TAG)),
        Reply::Answer(part(200..300, 3000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert!(rig.asked[1].contains("If-Range") && !rig.asked[2].contains("If-Range"));
    rig.fetch(3, 200..300);
    assert!(!rig.asked[3].contains("If-Range"));
    assert_eq!((rig.changed, rig.pool.ranges()), (0, Ranges::Heeded));
}

#[test]
fn a_weak_etag_is_not_sent_but_compared() {
    let weak = "ETag: W/\"v1\"\r\n";
    let mut rig = Rig::with([
        Reply::Answer(part(0..100, 1000, weak)),
        Reply::Answer(part(100..200, 1000, weak)),
        Reply::Answer(part(200..300, 1000, "ETag: W/\"v2\"\r\n")),
    ]);
    rig.fetch(1, 0..100);
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert!(!rig.asked[1].contains("If-Range"));
    rig.fetch(3, 200..300);
    assert_eq!(rig.changed, 1);
}

// Redirects.

#[test]
fn redirects_are_followed_and_remembered() {
    for code in [301, 302, 303, 307, 308] {
        let mut rig = Rig::with([
            Reply::Answer(status(
                &format!("{code} M"),
                "Location: http://cdn:81/f#x\r\n",
            )),
            Reply::Answer(part(0..100, 1000, TAG)),
            Reply::Answer(part(100..200, 1000, TAG)),
        ]);
        rig.fetch(1, 0..100);
        rig.fetch(2, 100..200);
        rig.assert_done(2, 100);
        let urls: Vec<&str> = rig.connected.iter().map(|(_, url)| url.as_str()).collect();
        assert_eq!(urls, ["http://host/film.mp4", "http://cdn:81/f"]);
        assert!(rig.asked[2].starts_with("GET /f ") && rig.asked[2].contains("Host: cdn:81\r\n"));
    }
}

#[test]
fn a_redirect_on_the_same_host_keeps_the_connection() {
    let mut rig = Rig::with([
        Reply::Answer(status("302 F", "Location: ../b/film\r\n")),
        Reply::Answer(part(0..100, 1000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.assert_done(1, 100);
    assert_eq!(rig.connected.len(), 1);
    assert!(rig.asked[1].starts_with("GET /b/film "));
}

#[test]
fn redirects_end() {
    let again = || Reply::Answer(status("302 F", "Location: /film.mp4\r\n"));
    let mut rig = Rig::with((0..9).map(|_| again()));
    rig.fetch(1, 0..100);
    assert_eq!(rig.only_failure().status, Some(302));
    assert_eq!(rig.asked.len(), 6);
}

#[test]
fn redirects_go_nowhere_odd() {
    for location in [
        "Location: http://host/film\r\n",
        "Location: ftp://host/film\r\n",
        "Location: file:///etc/passwd\r\n",
        "Location: https://user:secret@host/\r\n",
        "Location: https://host:0/\r\n",
        "Location: https://\r\n",
        "",
    ] {
        let mut rig = Rig::new("https://host/film.mp4");
        let answer = status("302 F", location);
        rig.script.push_back(Reply::Answer(answer));
        rig.fetch(1, 0..100);
        assert_eq!(rig.only_failure().retry, None, "{location}");
        assert_eq!(rig.asked.len(), 1, "{location}");
    }
}

#[test]
fn an_expired_target_is_looked_up_again() {
    let to = |query: &str| {
        let line = format!("Location: http://cdn/film?sign={query}\r\n");
        Reply::Answer(status("302 F", &line))
    };
    let mut rig = Rig::with([
        to("1"),
        Reply::Answer(part(0..100, 1000, TAG)),
        Reply::Answer(status("403 Expired", "")),
        to("2"),
        Reply::Answer(part(100..200, 1000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert_eq!(rig.pool.target().as_str(), "http://cdn/film?sign=2");
}

// Statuses.

#[test]
fn refusals_are_final_and_keep_their_status() {
    for code in [204u16, 300, 304, 305, 400, 401, 403, 404, 405, 410, 451] {
        let mut rig = Rig::with([Reply::Answer(status(&format!("{code} No"), ""))]);
        rig.fetch(1, 0..100);
        let failed = rig.only_failure();
        assert_eq!((failed.status, failed.retry), (Some(code), None));
        assert_eq!(rig.pool.down_until(), None);
    }
}

#[test]
fn retry_after_is_honoured() {
    for (code, lines, wait) in [
        (429, "Retry-After: 7\r\n", 7),
        (503, "Retry-After: 120\r\n", 120),
        (
            503,
            "Date: Mon, 02 Mar 2026 12:00:00 GMT\r\nRetry-After: Mon, 02 Mar 2026 12:00:30 GMT\r\n",
            30,
        ),
        (503, "Retry-After: 999999999999999999999\r\n", 3600),
    ] {
        let mut rig = Rig::with([
            Reply::Answer(status(&format!("{code} Later"), lines)),
            Reply::Answer(part(0..100, 1000, TAG)),
        ]);
        rig.fetch(1, 0..100);
        let failed = rig.only_failure();
        let wait = Duration::from_secs(wait);
        assert_eq!((failed.status, failed.retry), (Some(code), Some(wait)));
        let until = rig.pool.down_until().unwrap();
        assert!(until.since(rig.now) > wait - Duration::from_millis(100));
        rig.fetch(2, 0..100);
        assert_eq!(rig.asked.len(), 1, "the origin is left alone");
        assert!(rig.failed[1].1.retry.unwrap() <= wait);
        rig.failed.clear();
        rig.sleep(wait);
        rig.fetch(3, 0..100);
        rig.assert_done(3, 100);
        assert_eq!(rig.pool.down_until(), None);
    }
    let mut rig = Rig::with([Reply::Answer(status("503 L", "Retry-After: -3\r\n"))]);
    rig.fetch(1, 0..100);
    assert_eq!(rig.only_failure().retry, Some(Duration::from_secs(1)));
    assert_eq!(rig.pool.down_until(), None);
}

#[test]
fn a_burst_of_500_opens_the_breaker() {
    let mut rig = Rig::with((0..14).map(|_| Reply::Answer(status("500 Oops", ""))));
    let mut pauses = Vec::new();
    for key in 0..14 {
        rig.fetch(key, 0..100);
        let pause = rig
            .pool
            .down_until()
            .map_or(0, |at| at.since(rig.now).as_secs_f64().round() as u64);
        pauses.push(pause);
        rig.sleep(Duration::from_secs(pause + 1));
    }
    assert_eq!(pauses, [0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 10, 20]);
    assert_eq!(rig.asked.len(), 14);
    rig.script.clear();
    rig.script.push_back(Reply::Answer(part(0..100, 1000, TAG)));
    rig.fetch(90, 0..100);
    assert_eq!(rig.done, [90]);
    rig.script.push_back(Reply::Answer(status("500 Oops", "")));
    rig.fetch(91, 0..100);
    assert_eq!(rig.pool.down_until(), None, "one failure after a success");
}

// Connections that end.

#[test]
fn a_kept_connection_that_closed_is_replaced_once() {
    let mut rig = Rig::with([
        Reply::Answer(part(0..100, 1000, TAG)),
        Reply::Close(Vec::new()),
        Reply::Answer(part(100..200, 1000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert_eq!((rig.connected.len(), rig.asked.len()), (2, 3));
    rig.script
        .extend([Reply::Reset(Vec::new()), Reply::Close(Vec::new())]);
    rig.fetch(3, 200..300);
    assert_eq!(rig.asked.len(), 5, "and not for ever");
    assert!(rig.failed[0].1.retry.is_some());
}

#[test]
fn a_fresh_connection_that_closes_unanswered_is_a_failure() {
    let mut rig = Rig::with([Reply::Close(Vec::new())]);
    rig.fetch(1, 0..100);
    assert!(rig.only_failure().retry.is_some());
    assert_eq!(rig.asked.len(), 1);
}

#[test]
fn a_connection_that_closes_while_idle_costs_nothing() {
    let mut rig = Rig::with([Reply::Answer(part(0..100, 1000, TAG))]);
    rig.fetch(1, 0..100);
    rig.pool.handle_closed(rig.now, rig.last);
    rig.run(&[]);
    rig.script
        .push_back(Reply::Answer(part(100..200, 1000, TAG)));
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert_eq!(rig.asked.len(), 2);
}

#[test]
fn a_body_that_breaks_off_is_continued() {
    for end in [Reply::Close as fn(Vec<u8>) -> Reply, Reply::Reset] {
        let mut broken = part(0..1000, 1000, TAG);
        broken.truncate(broken.len() - 400);
        let mut rig = Rig::with([end(broken), Reply::Answer(part(600..1000, 1000, TAG))]);
        rig.fetch(1, 0..1000);
        rig.assert_done(1, 1000);
        assert_eq!(rig.range_of(1), "600-999");
        assert_eq!(rig.heads.len(), 1);
    }
}

#[test]
fn a_body_that_breaks_off_again_and_again_fails() {
    let short = |at: u64| {
        let mut bytes = part(at..1000, 1000, TAG);
        bytes.truncate(bytes.len() - (990 - at as usize));
        Reply::Close(bytes)
    };
    let mut rig = Rig::with((0..9).map(|n| short(n * 10)));
    rig.fetch(1, 0..1000);
    assert!(rig.only_failure().retry.is_some());
    assert_eq!((rig.asked.len(), rig.got(1)), (4, 40));
}

#[test]
fn bytes_after_the_body_end_the_connection() {
    let mut extra = part(0..100, 1000, TAG);
    extra.extend(b"more");
    let mut rig = Rig::with([
        Reply::Answer(extra),
        Reply::Answer(part(100..200, 1000, TAG)),
    ]);
    rig.fetch(1, 0..100);
    rig.assert_done(1, 100);
    assert_eq!(rig.closed.len(), 1);
    rig.fetch(2, 100..200);
    rig.assert_done(2, 100);
    assert_eq!(rig.connected.len(), 2);
}

#[test]
fn a_broken_head_is_a_failure() {
    for bad in [
        b"nonsense\r\n\r\n".to_vec(),
        b"HTTP/1.1 206 P\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat(),
        b"HTTP/1.1 100 C\r\n\r\n".repeat(50),
    ] {
        let mut rig = Rig::with([Reply::Answer(bad)]);
        rig.fetch(1, 0..100);
        assert!(rig.only_failure().retry.is_some());
        assert_eq!(rig.closed.len(), 1);
    }
}

#[test]
fn a_connection_that_is_refused_fails_one_fetch() {
    let mut rig = Rig::with([]);
    rig.refuse = Some(OriginFailed::passing(Duration::ZERO, "refused"));
    rig.fetch(1, 0..100);
    assert_eq!(rig.only_failure().why, "refused");
    rig.fetch(2, 0..100);
    assert_eq!(rig.pool.down_until().unwrap().since(rig.now).as_secs(), 5);
}

#[test]
fn a_host_that_may_not_be_asked_fails_all() {
    let mut rig = Rig::with([]);
    rig.refuse = Some(OriginFailed::lasting("denied").with_status(403));
    for key in 1..=3 {
        rig.pool.fetch(rig.now, key, ByteRange::new(0, 9), false);
    }
    rig.run(&[]);
    assert_eq!(rig.failed.len(), 3);
    assert!(
        rig.failed
            .iter()
            .all(|(_, error)| error.status == Some(403))
    );
    assert_eq!(rig.pool.down_until(), None);
}

#[test]
fn a_second_connection_that_is_refused_is_done_without() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..10);
    rig.refuse = Some(OriginFailed::passing(Duration::ZERO, "refused"));
    rig.fetch(2, 10..20);
    assert_eq!(rig.failed, []);
    rig.script.push_back(Reply::Answer(part(10..20, 1000, TAG)));
    rig.bytes(rig.last, &part(0..10, 1000, TAG));
    rig.assert_done(2, 10);
    assert_eq!(rig.connected.len(), 2);
}

#[test]
fn a_host_that_allows_but_its_stream_is_not_asked_for_ever() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..TO_END);
    rig.refuse = Some(OriginFailed::passing(Duration::ZERO, "refused"));
    rig.fetch(2, 10..20);
    assert_eq!(rig.only_failure().why, "refused");
    assert_eq!(rig.connected.len(), 2);
}

#[test]
fn an_origin_that_only_ever_begins_is_left_alone() {
    let mut rig = Rig::with([]);
    for key in 0..2 {
        rig.fetch(key, 0..MIB);
        rig.bytes(rig.last, &part(0..MIB, MIB, TAG)[..50 * KIB as usize]);
        rig.sleep(Duration::from_secs(21));
    }
    assert_eq!(rig.failed.len(), 2);
    assert!(rig.pool.down_until().is_some());
}

// Time.

#[test]
fn silence_ends_after_ten_seconds() {
    let mut rig = Rig::with([Reply::Silence]);
    rig.fetch(1, 0..100);
    rig.sleep(Duration::from_millis(9_900));
    assert_eq!(rig.failed, []);
    rig.sleep(Duration::from_millis(200));
    assert!(rig.only_failure().retry.is_some());
    assert_eq!(rig.closed.len(), 1);
}

#[test]
fn a_connection_takes_ten_seconds_at_most() {
    let mut rig = Rig::with([]);
    rig.pool.fetch(rig.now, 1, ByteRange::new(0, 9), false);
    assert!(matches!(
        rig.pool.poll_output(),
        Some(Output::Connect { .. })
    ));
    rig.sleep(Duration::from_millis(9_900));
    assert_eq!(rig.failed, []);
    rig.sleep(Duration::from_millis(200));
    assert_eq!(rig.only_failure().why, "no connection in time");
}

#[test]
fn a_drip_is_given_up_and_a_paused_player_is_not() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..MIB);
    let (conn, answer) = (rig.last, part(0..MIB, MIB, TAG));
    let (mut at, step) = (2000, 4 * KIB as usize);
    rig.bytes(conn, &answer[..at]);
    for _ in 0..30 {
        rig.bytes(conn, &answer[at..at + 2 * step]);
        at += 2 * step;
        rig.sleep(Duration::from_secs(1));
    }
    assert_eq!(rig.failed, [], "8 KiB/s is enough");
    rig.pool.hold(rig.now, 1, true);
    rig.sleep(Duration::from_secs(600));
    rig.pool.hold(rig.now, 1, false);
    assert_eq!(rig.failed, [], "paused");
    for _ in 0..30 {
        if rig.failed.is_empty() {
            rig.bytes(conn, &answer[at..at + 1]);
            at += 1;
        }
        rig.pool.hold(rig.now, 1, false);
        rig.sleep(Duration::from_secs(1));
    }
    assert_eq!(rig.only_failure().why, "too slow");
}

#[test]
fn an_idle_connection_closes_itself() {
    let mut rig = Rig::with([Reply::Answer(part(0..100, 1000, TAG))]);
    rig.fetch(1, 0..100);
    rig.sleep(Duration::from_secs(29));
    assert_eq!(rig.closed, []);
    rig.sleep(Duration::from_secs(2));
    assert_eq!(rig.closed, [rig.last]);
    assert_eq!(rig.pool.next_timeout(), Time::NEVER);
}

// Cancelling.

#[test]
fn what_has_not_begun_is_cancelled_without_a_trace() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..10);
    rig.fetch(2, 10..20);
    rig.fetch(3, 20..30);
    assert!(rig.pool.cancel(rig.now, 3));
    assert!(!rig.pool.cancel(rig.now, 77));
    rig.bytes(rig.last, &part(10..20, 1000, TAG));
    assert_eq!((rig.done.as_slice(), rig.asked.len()), ([2].as_slice(), 2));
}

#[test]
fn what_has_begun_is_drained_if_little_is_left() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..DRAIN_MAX + 100);
    let answer = part(0..DRAIN_MAX + 100, MIB, TAG);
    let head = answer.len() - (DRAIN_MAX + 100) as usize;
    rig.bytes(rig.last, &answer[..head + 100]);
    assert!(!rig.pool.cancel(rig.now, 1));
    rig.run(&[]);
    assert_eq!(rig.closed, []);
    rig.bytes(rig.last, &answer[head + 100..]);
    rig.assert_done(1, DRAIN_MAX + 100);
    rig.fetch(2, 0..DRAIN_MAX + 100);
    assert!(!rig.pool.cancel(rig.now, 2));
    rig.run(&[]);
    assert_eq!(rig.failed.len(), 1);
    assert_eq!(rig.closed, [rig.last]);
    assert_eq!(rig.connected.len(), 1);
}

#[test]
fn the_estimate_follows_what_was_measured() {
    let mut rig = Rig::with([]);
    rig.fetch(1, 0..MIB);
    let (conn, answer) = (rig.last, part(0..MIB, MIB, TAG));
    rig.wait(Duration::from_millis(99));
    for block in answer.chunks(128 * KIB as usize) {
        rig.bytes(conn, block);
        rig.wait(Duration::from_millis(124));
    }
    let (first_byte, rate) = rig.pool.estimate();
    assert_eq!(first_byte.as_millis(), 120);
    assert!((0.9e6..1.3e6).contains(&rate), "{rate}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    /// Whatever a server sends, every fetch ends once, and no byte comes twice or out of place.
    #[test]
    fn every_fetch_ends(
        replies in proptest::collection::vec((0u8..15, 0u64..3000, 1u64..3000), 0..20),
        junk in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        fetches in proptest::collection::vec((0u64..3000, 1u64..3000), 1..8),
    ) {
        let script = replies.into_iter().map(|(kind, start, len)| {
            let range = start..(start + len).min(4000);
            match kind {
                0..=3 => Reply::Answer(part(range, 4000, TAG)),
                4 => Reply::Close(part(range, 4000, TAG)),
                5 => { let mut cut = part(range, 4000, TAG); cut.pop(); Reply::Reset(cut) }
                6 => Reply::Answer(whole(4000, TAG)),
                7 => Reply::Answer(status("500 Oops", "")),
                8 => Reply::Answer(status("302 F", "Location: http://cdn/\r\n")),
                9 => Reply::Close(Vec::new()),
                10 => Reply::Answer(status("404 No", "")),
                11 => Reply::Close([b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), film(0..range.end)].concat()),
                13 => Reply::Answer(junk.clone()),
                12 => {
                    let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", range.end);
                    Reply::Answer([head.into_bytes(), film(0..range.end), b"\r\n0\r\n\r\n".to_vec()].concat())
                }
                _ => Reply::Silence,
            }
        });
        let mut rig = Rig::with(script);
        let count = fetches.len();
        for (key, (start, len)) in fetches.into_iter().enumerate() {
            rig.fetch(key as u64, start..start + len);
        }
        rig.sleep(Duration::from_secs(300));
        let mut ended: Vec<u64> = rig.failed.iter().map(|(key, _)| *key).chain(rig.done.clone()).collect();
        ended.sort_unstable();
        proptest::prop_assert_eq!(ended, (0..count as u64).collect::<Vec<_>>());
        proptest::prop_assert_eq!(rig.pool.next_timeout(), Time::NEVER);
    }
}
