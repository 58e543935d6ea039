//! Heads of requests and responses: read strictly (RFC 9112), written from scratch.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write;
use std::ops::Range;

use crate::http::body::Framing;

/// A request's head, request line included; more is 431 (R10).
pub const HEAD_LEN_MAX: usize = 16 * 1024;
/// A request's target; more is 414 (R10).
pub const TARGET_LEN_MAX: usize = 8 * 1024;
/// A response's head: some origins send long policies.
pub const RESPONSE_HEAD_LEN_MAX: usize = 32 * 1024;
/// Header lines of either (R10).
pub const HEADERS_MAX: usize = 100;

/// The longest request line whose target is within bounds: method, version and two spaces.
const REQUEST_LINE_LEN_MAX: usize = TARGET_LEN_MAX + 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Options,
    Post,
    Put,
    Connect,
    Other,
}

impl Method {
    /// As it is written on the wire; [`Method::Other`] has no name of its own.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Connect => "CONNECT",
            Self::Other => "-",
        }
    }

    fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Method,
    /// As sent: origin-form, absolute-form, authority-form or `*`.
    pub target: String,
    /// 0 or 1 of HTTP/1.x.
    pub minor: u8,
    pub headers: Headers,
    /// Bytes of the head, to its empty line.
    pub len: usize,
}

#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub minor: u8,
    pub headers: Headers,
    pub len: usize,
}

/// The player's fault, and the answer to it. The connection's framing is lost: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct BadRequest {
    pub status: u16,
    pub code: &'static str,
    pub detail: &'static str,
}

/// The server's fault: nothing more can be read from this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad response: {why}")]
pub struct BadResponse {
    pub why: &'static str,
}

/// `None`: the head is not complete yet. Framing that two readers could read differently is
/// refused here, so nobody can forget to (R3).
pub fn parse_request(bytes: &[u8]) -> Result<Option<RequestHead>, BadRequest> {
    let view = &bytes[..bytes.len().min(HEAD_LEN_MAX)];
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut slots);
    let parsed = request.parse(view);
    let head_len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        _ => view.len(),
    };
    if has_bare_lf(&view[..head_len]) {
        return Err(bad_syntax("a line feed without carriage return"));
    }
    match parsed {
        Ok(httparse::Status::Complete(len)) => {
            let target = request.path.expect("a complete head has a target");
            if target.len() > TARGET_LEN_MAX {
                return Err(TARGET_TOO_LONG);
            }
            let head = RequestHead {
                method: Method::parse(request.method.expect("a complete head has a method")),
                target: target.to_owned(),
                minor: request.version.expect("a complete head has a version"),
                headers: Headers::new(&view[..len], request.headers),
                len,
            };
            head.check_framing()?;
            Ok(Some(head))
        }
        Ok(httparse::Status::Partial) => {
            if view.len() > REQUEST_LINE_LEN_MAX && !has_request_line(view) {
                return Err(TARGET_TOO_LONG);
            }
            if view.len() == HEAD_LEN_MAX {
                return Err(HEAD_TOO_LONG);
            }
            Ok(None)
        }
        Err(httparse::Error::TooManyHeaders) => Err(BadRequest {
            detail: "more than 100 header lines",
            ..HEAD_TOO_LONG
        }),
        Err(httparse::Error::Version) => Err(bad_syntax("not HTTP/1.0 or HTTP/1.1")),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => {
            Err(bad_syntax("a malformed header line"))
        }
        Err(_) => Err(bad_syntax("a malformed request line")),
    }
}

/// `None`: the head is not complete yet. An interim (1xx) head is returned like any other.
pub fn parse_response(bytes: &[u8]) -> Result<Option<ResponseHead>, BadResponse> {
    let view = &bytes[..bytes.len().min(RESPONSE_HEAD_LEN_MAX)];
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut slots);
    match response.parse(view) {
        Ok(httparse::Status::Complete(len)) => Ok(Some(ResponseHead {
            status: response.code.expect("a complete head has a status"),
            minor: response.version.expect("a complete head has a version"),
            headers: Headers::new(&view[..len], response.headers),
            len,
        })),
        Ok(httparse::Status::Partial) if view.len() == RESPONSE_HEAD_LEN_MAX => Err(BadResponse {
            why: "the head is longer than 32 KiB",
        }),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(BadResponse {
            why: "more than 100 header lines",
        }),
        Err(_) => Err(BadResponse {
            why: "a malformed head",
        }),
    }
}

impl RequestHead {
    /// RFC 9112 §9.3.
    pub fn keep_alive(&self) -> bool {
        keeps_alive(self.minor, &self.headers)
    }

    /// Bytes that follow the head. A body of unannounced length is refused: no route needs one.
    pub fn body_len(&self) -> Result<u64, BadRequest> {
        if self.headers.count("transfer-encoding") > 0 {
            return Err(BadRequest {
                status: 400,
                code: "length-required",
                detail: "a request body needs a Content-Length",
            });
        }
        match self.headers.content_length() {
            Ok(len) => Ok(len.unwrap_or(0)),
            Err(detail) => Err(bad_syntax(detail)),
        }
    }

    fn check_framing(&self) -> Result<(), BadRequest> {
        if self.headers.count("transfer-encoding") > 0 {
            if self.headers.count("content-length") > 0 {
                return Err(bad_syntax("both Content-Length and Transfer-Encoding"));
            }
            if self.minor == 0 {
                return Err(bad_syntax("Transfer-Encoding in HTTP/1.0"));
            }
        }
        self.headers.content_length().map(drop).map_err(bad_syntax)
    }
}

impl ResponseHead {
    /// Whether the server means to keep the connection; the body's framing must allow it too.
    pub fn keep_alive(&self) -> bool {
        keeps_alive(self.minor, &self.headers)
    }

    /// How the body is delimited (RFC 9112 §6.3). `to_head`: the request was HEAD.
    pub fn framing(&self, to_head: bool) -> Result<Framing, BadResponse> {
        if to_head || self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::Empty);
        }
        let length = self
            .headers
            .content_length()
            .map_err(|why| BadResponse { why })?;
        if self.headers.count("transfer-encoding") == 0 {
            return Ok(length.map_or(Framing::UntilClose, Framing::Length));
        }
        // The two together, or in HTTP/1.0, is how responses are smuggled: RFC 9112 §6.1.
        if length.is_some() || self.minor == 0 {
            return Err(BadResponse {
                why: "both Content-Length and Transfer-Encoding, or HTTP/1.0 with the latter",
            });
        }
        let mut codings = self.headers.tokens("transfer-encoding");
        match (codings.next(), codings.next()) {
            (Some(only), None) if only.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err(BadResponse {
                why: "a transfer coding other than chunked",
            }),
        }
    }
}

/// Header lines in their order, in one allocation.
#[derive(Clone, Default)]
pub struct Headers {
    bytes: Box<[u8]>,
    fields: Box<[Field]>,
}

#[derive(Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

impl Headers {
    /// The first line of that name, in any case; `None` also if it is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.raw(name).next()?;
        std::str::from_utf8(value).ok()
    }

    /// All lines of that name that are UTF-8.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.raw(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// How many lines have that name, readable or not.
    pub fn count(&self, name: &str) -> usize {
        self.raw(name).count()
    }

    /// Names and values in their order; values that are not UTF-8 are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().filter_map(|field| {
            let value = std::str::from_utf8(&self.bytes[field.value.clone()]).ok()?;
            Some((self.name(field), value))
        })
    }

    /// The elements of all comma-separated lists of that name (RFC 9110 §5.6.1).
    pub fn tokens<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|token| token.trim_matches([' ', '\t']))
            .filter(|token| !token.is_empty())
    }

    fn new(head: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        // httparse hands out slices of the head: keep where they lie.
        let within = |slice: &[u8]| {
            let start = slice.as_ptr().addr() - head.as_ptr().addr();
            start..start + slice.len()
        };
        Self {
            bytes: head.into(),
            fields: parsed
                .iter()
                .map(|line| Field {
                    name: within(line.name.as_bytes()),
                    value: if line.value.is_empty() {
                        0..0
                    } else {
                        within(line.value)
                    },
                })
                .collect(),
        }
    }

    fn name(&self, field: &Field) -> &str {
        std::str::from_utf8(&self.bytes[field.name.clone()]).expect("names are tokens")
    }

    fn raw<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields
            .iter()
            .filter(move |field| self.name(field).eq_ignore_ascii_case(name))
            .map(|field| &self.bytes[field.value.clone()])
    }

    /// Equal repetitions are one length; anything else but digits is refused.
    fn content_length(&self) -> Result<Option<u64>, &'static str> {
        let mut found = None;
        for value in self.raw("content-length") {
            let len = parse_digits(value).ok_or("a malformed Content-Length")?;
            if found.is_some_and(|earlier| earlier != len) {
                return Err("two different Content-Lengths");
            }
            found = Some(len);
        }
        Ok(found)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Builds a head. What could end a line early never gets in: such bytes are percent-encoded in
/// a target, and a header line that holds one is left out.
#[derive(Debug)]
pub struct HeadWriter {
    head: String,
}

impl HeadWriter {
    pub fn request(method: Method, target: &str) -> Self {
        let mut head = String::with_capacity(512);
        head.push_str(method.name());
        head.push(' ');
        for letter in target.chars() {
            if letter.is_ascii_graphic() {
                head.push(letter);
            } else {
                let mut buffer = [0; 4];
                for byte in letter.encode_utf8(&mut buffer).bytes() {
                    write!(head, "%{byte:02X}").expect("a String takes all");
                }
            }
        }
        head.push_str(" HTTP/1.1\r\n");
        Self { head }
    }

    pub fn response(status: u16) -> Self {
        let mut head = String::with_capacity(512);
        write!(head, "HTTP/1.1 {status} {}\r\n", reason(status)).expect("a String takes all");
        Self { head }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        let start = self.head.len();
        write!(self.head, "{name}: {value}").expect("a String takes all");
        let ends_line = |byte| matches!(byte, b'\r' | b'\n' | 0);
        if self.head.as_bytes()[start..].iter().copied().any(ends_line) {
            self.head.truncate(start);
        } else {
            self.head.push_str("\r\n");
        }
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.head.push_str("\r\n");
        self.head.into_bytes()
    }
}

const TARGET_TOO_LONG: BadRequest = BadRequest {
    status: 414,
    code: "address-too-long",
    detail: "the address is longer than 8 KiB",
};

const HEAD_TOO_LONG: BadRequest = BadRequest {
    status: 431,
    code: "head-too-long",
    detail: "the request's head is longer than 16 KiB",
};

const fn bad_syntax(detail: &'static str) -> BadRequest {
    BadRequest {
        status: 400,
        code: "bad-request",
        detail,
    }
}

fn has_bare_lf(head: &[u8]) -> bool {
    let mut previous = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && previous != b'\r';
        previous = byte;
        bare
    })
}

/// Whether the request line is complete; empty lines before it do not count (RFC 9112 §2.2).
fn has_request_line(view: &[u8]) -> bool {
    let begun = view.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    begun.is_none_or(|at| view[at..].contains(&b'\n'))
}

fn keeps_alive(minor: u8, headers: &Headers) -> bool {
    let said = |option: &str| {
        headers
            .tokens("connection")
            .any(|token| token.eq_ignore_ascii_case(option))
    };
    !said("close") && (minor > 0 || said("keep-alive"))
}

/// Only digits, no sign; `None` beyond 64 bits.
fn parse_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Nobody reads it, but HTTP/1.1 has it.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests;
