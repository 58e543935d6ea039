//! One HTTP/1.1 client connection: a request out, its answer in, then perhaps the next.

use std::ops::Range;

use url::{Position, Url};

use crate::http::body::{BodyDecoder, Framing};
use crate::http::head::{HeadWriter, Method, RESPONSE_HEAD_LEN_MAX, ResponseHead, parse_response};
use crate::units::ByteRange;

/// Interim answers (1xx) before the answer itself.
const INTERIM_MAX: u8 = 8;

const USER_AGENT: &str = concat!("BitTube/", env!("CARGO_PKG_VERSION"));

/// What to ask for.
pub struct Ask<'a> {
    pub url: &'a Url,
    /// `end` of `u64::MAX`: to the end of the file. `None`: no `Range` header.
    pub range: Option<ByteRange>,
    /// A strong ETag or a date; the range is asked for only if it still holds.
    pub if_range: Option<&'a str>,
    /// Our name in `Via`, by which we know our own request if it comes back (R4).
    pub via: &'a str,
    /// Whether the connection is wanted for another request.
    pub keep_alive: bool,
}

/// What came out of the bytes.
pub enum Event {
    Head(Box<ResponseHead>, Framing),
    /// Body bytes, as indexes into what was just handed in.
    Data(Range<usize>),
    /// The answer is whole; the session is idle.
    End,
}

pub struct Step {
    /// Bytes used up.
    pub consumed: usize,
    /// `None`: more bytes are needed.
    pub event: Option<Event>,
}

/// What the end of the stream meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// Nothing was under way.
    Idle,
    /// A request was sent and not one byte of an answer came.
    Unanswered,
    /// It was the end of the body.
    Whole,
    /// It came in the middle of an answer.
    Cut,
}

/// The answer is not HTTP as we take it; the connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

enum State {
    Idle,
    Head,
    Body { decoder: BodyDecoder, done: bool },
    Dead,
}

pub struct Session {
    state: State,
    /// The beginning of a head that did not come in one piece.
    held: Vec<u8>,
    interim: u8,
    keep_alive: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    pub const fn new() -> Self {
        Self {
            state: State::Idle,
            held: Vec::new(),
            interim: 0,
            keep_alive: true,
        }
    }

    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether another request may follow.
    pub const fn reusable(&self) -> bool {
        self.is_idle() && self.keep_alive
    }

    /// The bytes of a GET. The session must be idle.
    pub fn request(&mut self, ask: &Ask<'_>) -> Vec<u8> {
        let mut head = self.begin(Method::Get, ask);
        if let Some(range) = ask.range {
            head = head.header("Range", range_header(range));
            if let Some(validator) = ask.if_range {
                head = head.header("If-Range", validator);
            }
        }
        if !ask.keep_alive {
            head = head.header("Connection", "close");
        }
        head.finish()
    }

    /// The bytes of a PUT, its body included. `ask` names no range.
    pub fn put(&mut self, ask: &Ask<'_>, authorization: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let head = self.begin(Method::Put, ask);
        let head = head
            .header("Authorization", authorization)
            .header("Content-Type", kind)
            .header("Content-Length", body.len())
            .header("Connection", "close");
        let mut bytes = head.finish();
        bytes.extend_from_slice(body);
        bytes
    }

    fn begin(&mut self, method: Method, ask: &Ask<'_>) -> HeadWriter {
        debug_assert!(self.reusable(), "one request at a time");
        self.state = State::Head;
        self.interim = 0;
        self.keep_alive = ask.keep_alive;
        let target = &ask.url[Position::BeforePath..Position::AfterQuery];
        HeadWriter::request(method, target)
            .header("Host", host(ask.url))
            .header("User-Agent", USER_AGENT)
            .header("Accept", "*/*")
            // A coded body has other offsets; some caches drop Range for one.
            .header("Accept-Encoding", "identity")
            .header("Via", format_args!("1.1 {}", ask.via))
    }

    /// Call again with what was not consumed until the event is `None`.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Step, Broken> {
        let step = match &mut self.state {
            State::Idle if bytes.is_empty() => Ok(Step::starved(0)),
            State::Idle => Err(Broken(String::from("bytes that nobody asked for"))),
            State::Dead => Err(Broken(String::from("bytes after the end"))),
            State::Head => self.head(bytes),
            State::Body { decoder, done } if !*done => match decoder.decode(bytes) {
                Ok(decoded) => {
                    *done = decoded.done;
                    let event = if !decoded.data.is_empty() {
                        Some(Event::Data(decoded.data))
                    } else if decoded.done {
                        self.state = State::Idle;
                        Some(Event::End)
                    } else {
                        None
                    };
                    Ok(Step {
                        consumed: decoded.consumed,
                        event,
                    })
                }
                Err(bad) => Err(Broken(bad.to_string())),
            },
            State::Body { .. } => {
                self.state = State::Idle;
                Ok(Step {
                    consumed: 0,
                    event: Some(Event::End),
                })
            }
        };
        if step.is_err() {
            self.state = State::Dead;
        }
        step
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Step, Broken> {
        let before = self.held.len();
        let room = RESPONSE_HEAD_LEN_MAX.saturating_sub(before);
        let parsed = if before == 0 {
            parse_response(bytes)
        } else {
            self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
            // Without a line's end nothing new can be complete.
            if self.held[before..].contains(&b'\n') {
                parse_response(&self.held)
            } else {
                Ok(None)
            }
        };
        let Some(head) = parsed.map_err(|bad| Broken(bad.to_string()))? else {
            if before == 0 {
                self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            if self.held.len() >= RESPONSE_HEAD_LEN_MAX {
                return Err(Broken(String::from("head too long")));
            }
            return Ok(Step::starved(bytes.len()));
        };
        let consumed = head.len - before;
        self.held = Vec::new();
        if head.len > RESPONSE_HEAD_LEN_MAX {
            return Err(Broken(String::from("head too long")));
        }
        if !(100..200).contains(&head.status) {
            return self.begin_body(head, consumed);
        }
        self.interim += 1;
        if self.interim > INTERIM_MAX || head.status == 101 {
            return Err(Broken(String::from("interim answers without end")));
        }
        let mut step = self.head(&bytes[consumed..])?;
        step.consumed += consumed;
        Ok(step)
    }

    fn begin_body(&mut self, head: ResponseHead, consumed: usize) -> Result<Step, Broken> {
        let framing = head.framing(false).map_err(|bad| Broken(bad.to_string()))?;
        self.keep_alive &= head.keep_alive() && !matches!(framing, Framing::UntilClose);
        self.state = State::Body {
            done: matches!(framing, Framing::Empty | Framing::Length(0)),
            decoder: BodyDecoder::new(framing),
        };
        Ok(Step {
            consumed,
            event: Some(Event::Head(Box::new(head), framing)),
        })
    }

    /// `orderly`: the other side ended its stream; else it was reset, or TLS saw no end.
    pub fn handle_eof(&mut self, orderly: bool) -> Eof {
        let eof = match &mut self.state {
            State::Idle | State::Dead => Eof::Idle,
            State::Head if self.held.is_empty() && self.interim == 0 => Eof::Unanswered,
            State::Head => Eof::Cut,
            State::Body { done: true, .. } => Eof::Whole,
            State::Body { decoder, .. } => {
                if orderly && decoder.handle_eof().is_ok() {
                    Eof::Whole
                } else {
                    Eof::Cut
                }
            }
        };
        self.state = State::Dead;
        eof
    }
}

impl Step {
    const fn starved(consumed: usize) -> Self {
        Self {
            consumed,
            event: None,
        }
    }
}

/// With the port only where the scheme does not imply it (RFC 9110 §7.2).
fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        None => name.to_owned(),
        Some(port) => format!("{name}:{port}"),
    }
}

fn range_header(range: ByteRange) -> String {
    debug_assert!(!range.is_empty());
    if range.end == u64::MAX {
        format!("bytes={}-", range.start)
    } else {
        format!("bytes={}-{}", range.start, range.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &Url, range: Option<ByteRange>) -> Ask<'_> {
        Ask {
            url,
            range,
            if_range: Some("\"v1\""),
            via: "bittube-7",
            keep_alive: true,
        }
    }

    fn asked() -> Session {
        let url = Url::parse("http://host/film").unwrap();
        let mut session = Session::new();
        session.request(&ask(&url, None));
        session
    }

    /// Hands in `bytes` in pieces of `step`; the head's status, the body, and whether it ended.
    fn read(
        session: &mut Session,
        bytes: &[u8],
        step: usize,
    ) -> Result<(u16, Vec<u8>, bool), Broken> {
        let (mut status, mut body, mut ended) = (0, Vec::new(), false);
        for part in bytes.chunks(step) {
            let mut at = 0;
            loop {
                let step = session.handle_bytes(&part[at..])?;
                match step.event {
                    Some(Event::Head(head, _)) => status = head.status,
                    Some(Event::Data(data)) => body.extend_from_slice(&part[at..][data]),
                    Some(Event::End) => ended = true,
                    None => break,
                }
                at += step.consumed;
            }
        }
        Ok((status, body, ended))
    }

    #[test]
    fn the_request_says_what_is_wanted_and_who_asks() {
        let url = Url::parse("http://[2001:db8::1]:8080/a b/film.mp4?t=1#x").unwrap();
        let text = Session::new().request(&ask(&url, Some(ByteRange::new(10, 20))));
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("GET /a%20b/film.mp4?t=1 HTTP/1.1\r\n"),
            "{text}"
        );
        for line in [
            "Host: [2001:db8::1]:8080",
            "Accept-Encoding: identity",
            "Via: 1.1 bittube-7",
            "Range: bytes=10-19",
            "If-Range: \"v1\"",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
        }
        assert!(text.contains(concat!("User-Agent: BitTube/", env!("CARGO_PKG_VERSION"))));
        let url = Url::parse("https://host:443/").unwrap();
        let to_end = Some(ByteRange::new(7, u64::MAX));
        let text = String::from_utf8(Session::new().request(&ask(&url, to_end))).unwrap();
        assert!(text.contains("\r\nHost: host\r\n") && text.contains("\r\nRange: bytes=7-\r\n"));
        let text = String::from_utf8(Session::new().request(&ask(&url, None))).unwrap();
        assert!(!text.contains("If-Range"), "it means nothing without Range");
    }

    #[test]
    fn answers_may_come_in_any_pieces() {
        let whole = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
            HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n\
            4;ext=1\r\nfilm\r\n3\r\n!!!\r\n0\r\nTrailer: x\r\n\r\n";
        for step in 1..whole.len() {
            let mut session = asked();
            let read = read(&mut session, whole, step).unwrap();
            assert_eq!(
                read,
                (206, b"film!!!".to_vec(), true),
                "in pieces of {step}"
            );
            assert!(session.reusable());
        }
    }

    #[test]
    fn interim_answers_do_not_go_on_for_ever() {
        let mut session = asked();
        let flood = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(usize::from(INTERIM_MAX) + 1);
        assert!(read(&mut session, &flood, 7).is_err());
        assert!(read(&mut asked(), b"HTTP/1.1 101 Switching\r\n\r\n", 99).is_err());
    }

    #[test]
    fn a_head_has_a_limit() {
        let mut session = asked();
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
        assert!(read(&mut session, head.as_bytes(), 1000).is_err());
        assert!(read(&mut asked(), head.as_bytes(), head.len()).is_err());
    }

    #[test]
    fn smuggling_and_bad_framing_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "SMTP ready\r\n\r\n",
        ] {
            assert!(read(&mut asked(), bad.as_bytes(), 999).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_beyond_the_body_are_an_error() {
        let mut session = asked();
        let extra = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n";
        assert!(read(&mut session, extra, 999).is_err());
        assert!(!session.reusable());
    }

    #[test]
    fn keep_alive_follows_version_header_and_framing() {
        for (head, reusable) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                false,
            ),
            ("HTTP/1.1 204 None\r\n\r\n", true),
        ] {
            let mut session = asked();
            assert!(
                read(&mut session, head.as_bytes(), 999).unwrap().2,
                "{head}"
            );
            assert_eq!(session.reusable(), reusable, "{head}");
        }
    }

    #[test]
    fn the_end_of_the_stream_is_told_apart() {
        assert_eq!(Session::new().handle_eof(true), Eof::Idle);
        assert_eq!(asked().handle_eof(true), Eof::Unanswered);
        let after = |bytes: &[u8], orderly| {
            let mut session = asked();
            read(&mut session, bytes, 999).unwrap();
            session.handle_eof(orderly)
        };
        assert_eq!(after(b"HTTP/1.1 2", true), Eof::Cut);
        assert_eq!(after(b"HTTP/1.1 100 Continue\r\n\r\n", true), Eof::Cut);
        assert_eq!(after(b"HTTP/1.0 200 OK\r\n\r\nabc", true), Eof::Whole);
        assert_eq!(after(b"HTTP/1.0 200 OK\r\n\r\nabc", false), Eof::Cut);
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        assert_eq!(after(short, true), Eof::Cut);
    }
}
