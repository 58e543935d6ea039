//! One small body by GET, whole, with redirects, a limit and timeouts (R24): torrent files,
//! trackers. Or one by PUT, and what is said to it.

use std::collections::VecDeque;
use std::time::Duration;

use url::Url;

use crate::http::head::ResponseHead;
use crate::origin::OriginFailed;
use crate::origin::health::retry_after;
use crate::origin::pool::ConnKey;
use crate::origin::redirect::{follow, is_redirect};
use crate::origin::session::{Ask, Eof, Event, Session};
use crate::units::Time;

/// From one sign of life to the next, and until the connection stands.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);
/// For all of it, redirects included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);
/// For a PUT, silence included: its body goes out first.
const PUT_TIMEOUT: Duration = Duration::from_secs(300);
/// Before a failure that may pass is worth another try.
const RETRY: Duration = Duration::from_secs(5);

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
    /// The body; nothing follows.
    Done(Vec<u8>),
    /// Nothing follows.
    Failed(OriginFailed),
}

/// What a PUT brings, to the very server that is named: it follows no redirect.
pub struct Load {
    /// The header of that name.
    pub authorization: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

pub struct Get {
    url: Url,
    via: String,
    /// Longest body taken, in bytes.
    limit: usize,
    hops: u8,
    /// The one connection; its number is the hop's.
    conn: Option<(ConnKey, Session)>,
    load: Option<Load>,
    head: Option<Box<ResponseHead>>,
    body: Vec<u8>,
    give_up: Time,
    quiet_since: Time,
    quiet: Duration,
    outputs: VecDeque<Output>,
}

impl Get {
    /// `agent`: our name in `Via`, `bittube-<id>` (R4). `limit`: the longest body taken.
    pub fn new(now: Time, mut url: Url, agent: &str, limit: usize) -> Self {
        url.set_fragment(None);
        let mut get = Self {
            url,
            via: agent.to_owned(),
            limit,
            hops: 0,
            conn: None,
            load: None,
            head: None,
            body: Vec::new(),
            give_up: now + TOTAL_TIMEOUT,
            quiet_since: now,
            quiet: QUIET_TIMEOUT,
            outputs: VecDeque::new(),
        };
        get.connect(now);
        get
    }

    /// A PUT; any status but 200 and 201 is a failure.
    pub fn put(now: Time, url: Url, agent: &str, limit: usize, load: Load) -> Self {
        Self {
            load: Some(load),
            give_up: now + PUT_TIMEOUT,
            quiet: PUT_TIMEOUT,
            ..Self::new(now, url, agent, limit)
        }
    }

    /// Where the body came from, after redirects.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Of the last answer that was no interim one.
    pub fn status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    pub fn head(&self) -> Option<&ResponseHead> {
        self.head.as_deref()
    }

    pub fn handle_connected(&mut self, now: Time, key: ConnKey, result: Result<(), OriginFailed>) {
        let Some((conn, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
            return;
        };
        if let Err(error) = result {
            self.conn = None;
            self.outputs.push_back(Output::Failed(error));
            return;
        }
        self.quiet_since = now;
        let ask = Ask {
            url: &self.url,
            range: None,
            if_range: None,
            via: &self.via,
            keep_alive: false,
        };
        let bytes = match &self.load {
            Some(load) => {
                let (authorization, kind) = (&load.authorization, load.content_type);
                session.put(&ask, authorization, kind, &load.body)
            }
            None => session.request(&ask),
        };
        self.outputs.push_back(Output::Send { conn: *conn, bytes });
    }

    /// Returns the bytes consumed; what is left comes again with more.
    pub fn handle_bytes(&mut self, now: Time, key: ConnKey, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some((_, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
                return bytes.len();
            };
            if !bytes.is_empty() {
                self.quiet_since = now;
            }
            let rest = &bytes[used..];
            match session.handle_bytes(rest) {
                Ok(step) => {
                    used += step.consumed;
                    match step.event {
                        None => return used,
                        Some(Event::Head(head, _)) => self.handle_head(now, head),
                        Some(Event::Data(at)) => self.handle_data(&rest[at]),
                        Some(Event::End) => self.finish(),
                    }
                }
                Err(broken) => self.fail(OriginFailed::passing(RETRY, broken.to_string())),
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

    pub fn next_timeout(&self) -> Time {
        if self.conn.is_none() {
            return Time::NEVER;
        }
        self.give_up.min(self.quiet_since + self.quiet)
    }

    pub fn handle_timeout(&mut self, now: Time) {
        if now >= self.next_timeout() {
            self.fail(OriginFailed::passing(RETRY, "no answer in time"));
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn connect(&mut self, now: Time) {
        let conn = ConnKey(usize::from(self.hops));
        self.quiet_since = now;
        self.conn = Some((conn, Session::new()));
        self.outputs.push_back(Output::Connect {
            conn,
            url: self.url.clone(),
        });
    }

    fn handle_head(&mut self, now: Time, head: Box<ResponseHead>) {
        let status = head.status;
        let good = status == 200 || status == 201 && self.load.is_some();
        let refused = if is_redirect(status) && self.load.is_none() {
            match follow(&self.url, &head, self.hops) {
                Ok(to) => {
                    self.close();
                    self.url = to;
                    self.hops += 1;
                    self.head = Some(head);
                    self.connect(now);
                    return;
                }
                Err(error) => Some(error),
            }
        } else if !good {
            Some(refusal(&head))
        } else if coded(&head) {
            Some(OriginFailed::lasting(
                "a coded body where identity was asked for",
            ))
        } else {
            None
        };
        self.head = Some(head);
        if let Some(error) = refused {
            self.fail(error);
        }
    }

    fn handle_data(&mut self, data: &[u8]) {
        if self.body.len() + data.len() > self.limit {
            self.fail(OriginFailed::lasting("longer than its limit"));
        } else {
            self.body.extend_from_slice(data);
        }
    }

    fn handle_eof(&mut self, now: Time, key: ConnKey, orderly: bool) {
        let Some((_, session)) = self.conn.as_mut().filter(|(conn, _)| *conn == key) else {
            return;
        };
        let eof = session.handle_eof(orderly);
        self.quiet_since = now;
        self.conn = None;
        self.outputs.push_back(if eof == Eof::Whole {
            Output::Done(std::mem::take(&mut self.body))
        } else {
            Output::Failed(OriginFailed::passing(RETRY, "closed before the whole body"))
        });
    }

    fn finish(&mut self) {
        self.close();
        let body = std::mem::take(&mut self.body);
        self.outputs.push_back(Output::Done(body));
    }

    fn fail(&mut self, error: OriginFailed) {
        self.close();
        self.body = Vec::new();
        self.outputs.push_back(Output::Failed(error));
    }

    fn close(&mut self) {
        if let Some((conn, _)) = self.conn.take() {
            self.outputs.push_back(Output::Close { conn });
        }
    }
}

fn refusal(head: &ResponseHead) -> OriginFailed {
    let why = format!("answered {}", head.status);
    let asked = head.headers.get("retry-after");
    let asked = asked.and_then(|value| retry_after(value, head.headers.get("date")));
    let failed = match head.status {
        // It is being made, and what is asked to wait is all there is to it.
        202 => OriginFailed::passing(asked.unwrap_or(RETRY), why),
        408 | 425 | 429 | 500..=599 => {
            OriginFailed::passing(asked.unwrap_or_default().max(RETRY), why)
        }
        _ => OriginFailed::lasting(why),
    };
    failed.with_status(head.status)
}

fn coded(head: &ResponseHead) -> bool {
    let mut codings = head.headers.all("content-encoding");
    codings.any(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn get() -> Get {
        let url = Url::parse("https://tracker/announce?x=1#y").unwrap();
        Get::new(Time::from_secs(50), url, "bittube-1", LIMIT)
    }

    /// Connects, and answers each request from the script; what came of it.
    fn run(
        get: &mut Get,
        answers: &[(&[u8], bool)],
    ) -> (Vec<String>, Option<Result<Vec<u8>, OriginFailed>>) {
        let now = Time::from_secs(51);
        let mut answers = answers.iter();
        let mut requests = Vec::new();
        while let Some(output) = get.poll_output() {
            match output {
                Output::Connect { conn, .. } => get.handle_connected(now, conn, Ok(())),
                Output::Send { conn, bytes } => {
                    requests.push(String::from_utf8(bytes).unwrap());
                    if let Some((answer, orderly)) = answers.next() {
                        assert_eq!(get.handle_bytes(now, conn, answer), answer.len());
                        if *orderly {
                            get.handle_closed(now, conn);
                        } else {
                            get.handle_broken(now, conn);
                        }
                    }
                }
                Output::Close { .. } => {}
                Output::Done(body) => return (requests, Some(Ok(body))),
                Output::Failed(error) => return (requests, Some(Err(error))),
            }
        }
        (requests, None)
    }

    fn failure(answer: &[u8]) -> OriginFailed {
        let mut get = get();
        let result = run(&mut get, &[(answer, true)]).1.expect("an end");
        assert_eq!(get.next_timeout(), Time::NEVER);
        result.expect_err("a failure")
    }

    #[test]
    fn a_put_brings_its_load_and_follows_nobody() {
        let start = || {
            let load = Load {
                authorization: "Bearer secret".to_owned(),
                content_type: "text/plain",
                body: b"load".to_vec(),
            };
            let url = Url::parse("https://tracker/a?x=1").unwrap();
            Get::put(Time::from_secs(50), url, "bittube-1", LIMIT, load)
        };
        for status in ["200 OK", "201 Created"] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
            let (requests, body) = run(&mut start(), &[(answer.as_bytes(), true)]);
            assert_eq!(body, Some(Ok(b"ok".to_vec())));
            let [request] = &requests[..] else {
                panic!("{requests:?}");
            };
            assert!(request.starts_with("PUT /a?x=1 HTTP/1.1\r\nHost: tracker\r\n"));
            for line in ["Authorization: Bearer secret", "Content-Length: 4"] {
                assert!(request.contains(&format!("\r\n{line}\r\n")), "{request}");
            }
            assert!(request.ends_with("\r\n\r\nload"));
        }
        for status in [204, 301, 307, 401, 507] {
            let answer = format!("HTTP/1.1 {status} x\r\nLocation: https://evil/\r\n\r\n");
            let (requests, body) = run(&mut start(), &[(answer.as_bytes(), true)]);
            let error = body.expect("an end").expect_err("a failure");
            assert_eq!((requests.len(), error.status), (1, Some(status)));
        }
    }

    #[test]
    fn a_body_comes_whole() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nd0:e",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n3\r\n0:e\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nd0:e",
        ] {
            let mut get = get();
            let (requests, body) = run(&mut get, &[(answer.as_bytes(), true)]);
            assert_eq!(body, Some(Ok(b"d0:e".to_vec())), "{answer}");
            assert!(requests[0].starts_with("GET /announce?x=1 HTTP/1.1\r\nHost: tracker\r\n"));
            assert!(
                requests[0].contains("Connection: close\r\n") && !requests[0].contains("Range")
            );
            assert_eq!(get.status(), Some(200));
            assert_eq!(get.next_timeout(), Time::NEVER);
        }
    }

    #[test]
    fn redirects_are_followed_five_times() {
        let to =
            b"HTTP/1.1 302 F\r\nContent-Length: 3\r\nLocation: https://b/t\r\n\r\nxxx".as_slice();
        let body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde".as_slice();
        let mut get1 = get();
        let (requests, result) = run(&mut get1, &[(to, true), (body, true)]);
        assert_eq!((requests.len(), result), (2, Some(Ok(b"de".to_vec()))));
        assert_eq!(get1.url().as_str(), "https://b/t");
        let (requests, result) = run(&mut get(), &[(to, true); 9]);
        assert_eq!(
            (requests.len(), result.unwrap().unwrap_err().status),
            (6, Some(302))
        );
        let down = b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: http://b/t\r\n\r\n";
        assert_eq!(failure(down).retry, None);
    }

    #[test]
    fn bodies_have_a_limit() {
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(LIMIT));
        assert_eq!(
            run(&mut get(), &[(long.as_bytes(), true)])
                .1
                .unwrap()
                .unwrap()
                .len(),
            LIMIT
        );
        assert_eq!(failure(format!("{long}x").as_bytes()).retry, None);
    }

    #[test]
    fn what_is_cut_or_broken_fails() {
        for short in [
            "",
            "HTTP/1.1 2",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nd0",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nd\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(failure(short.as_bytes()).retry.is_some(), "{short}");
        }
        let reset = run(&mut get(), &[(b"HTTP/1.0 200 OK\r\n\r\nd0:e", false)])
            .1
            .unwrap();
        assert!(reset.is_err(), "not all of it came");
        let gzip = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(failure(gzip).retry, None);
    }

    #[test]
    fn statuses_say_whether_to_come_back() {
        let gone = failure(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((gone.status, gone.retry), (Some(404), None));
        let busy = failure(b"HTTP/1.1 503 L\r\nContent-Length: 0\r\nRetry-After: 40\r\n\r\n");
        assert_eq!(
            (busy.status, busy.retry),
            (Some(503), Some(Duration::from_secs(40)))
        );
    }

    #[test]
    fn a_drip_ends_after_thirty_seconds_and_silence_after_ten() {
        let mut silent = get();
        assert_eq!(silent.next_timeout(), Time::from_secs(60));
        run(&mut silent, &[]);
        silent.handle_timeout(Time::from_secs(60));
        assert_eq!(
            silent.poll_output().map(|_| ()),
            None,
            "10 s from the request, not the start"
        );
        silent.handle_timeout(Time::from_secs(61));
        assert!(matches!(run(&mut silent, &[]).1, Some(Err(_))));

        let mut drip = get();
        run(&mut drip, &[]);
        for second in 52..80 {
            drip.handle_bytes(Time::from_secs(second), ConnKey(0), b"H");
            drip.handle_timeout(Time::from_secs(second));
        }
        assert_eq!(drip.next_timeout(), Time::from_secs(80));
        drip.handle_timeout(Time::from_secs(80));
        assert!(matches!(run(&mut drip, &[]).1, Some(Err(_))));
    }

    #[test]
    fn a_refused_connection_fails() {
        let mut get = get();
        let denied = OriginFailed::lasting("denied").with_status(403);
        get.handle_connected(Time::from_secs(50), ConnKey(0), Err(denied.clone()));
        assert_eq!(run(&mut get, &[]).1, Some(Err(denied)));
    }
}
