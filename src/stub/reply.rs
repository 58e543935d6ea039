//! What is answered to a player: the head, and which bytes follow it (DESIGN §9, R15 to R17).
//!
//! Heads are written from scratch. Nothing of a request's or an origin's text gets into one, save
//! an origin that was approved and the validators made here.

use std::borrow::Cow;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use sha1::Digest;
use sha1::Sha1;

use crate::http::body::Framing;
use crate::http::head::BadRequest;
use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::http::range::Asked;
use crate::http::range::resolve;
use crate::stub::address::BadAddress;
use crate::stub::gate::Provenance;
use crate::stub::gate::Refusal;
use crate::stub::media::ContentType;
use crate::units::ByteRange;
use crate::units::InfoHash;

/// What is asked for, as far as a head tells it.
#[derive(Clone, Debug)]
pub struct Entity {
    /// `None`: the origin does not say; no ranges then.
    pub len: Option<u64>,
    /// Strong and quoted: of [`etag_of_file`] or [`etag_of_origin`].
    pub etag: Option<String>,
    /// Another that stood for the same bytes: what passed through before the torrent was known.
    pub etag_before: Option<String>,
    /// Whole seconds count.
    pub last_modified: Option<SystemTime>,
    pub content_type: ContentType,
}

/// One reply, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub status: u16,
    /// The head; of an error also its body.
    pub head: Vec<u8>,
    /// The entity's bytes to send after it; to `u64::MAX` if its length is not known.
    pub body: Option<ByteRange>,
    /// How those are framed.
    pub framing: Framing,
    pub keep_alive: bool,
}

/// An answer that carries no media. Its body is `{"error": code, "detail": detail}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    pub code: &'static str,
    /// Our own words; never text of a request, an origin or a torrent.
    pub detail: Cow<'static, str>,
    /// When it is worth to ask again: of 429 and 503.
    pub retry_after: Option<Duration>,
    /// The connection's framing is lost, or it is not ours to keep.
    pub close: bool,
}

/// `"<info-hash>-<file>"`
pub fn etag_of_file(info_hash: InfoHash, file: usize) -> String {
    format!("\"{info_hash}-{file}\"")
}

/// Of what passes through: the origin's own validator and length, hashed, so that its text never
/// gets into a head (R15).
pub fn etag_of_origin(validator: &str, len: Option<u64>) -> String {
    let mut hash = Sha1::new();
    hash.update(validator.as_bytes());
    hash.update(len.unwrap_or(u64::MAX).to_be_bytes());
    let hash = InfoHash(hash.finalize().into());
    format!("\"{hash}-o\"")
}

/// Answers GET and HEAD for an entity, and OPTIONS for anything. `last`: the connection ends with
/// this reply.
pub fn plan(request: &RequestHead, entity: &Entity, provenance: &Provenance, last: bool) -> Plan {
    let asker = Asker {
        request,
        provenance,
        last,
    };
    if request.method == Method::Options {
        return asker.preflight();
    }
    match precondition(request, entity) {
        Precondition::Failed => {
            let failure = failure(412, "precondition", "the video has changed");
            asker.fail(&failure, None)
        }
        Precondition::NotModified => asker.not_modified(entity),
        Precondition::Holds => match asked(request, entity) {
            Asked::Whole => asker.media(entity, None),
            Asked::Part(range) => asker.media(entity, Some(range)),
            Asked::Unsatisfiable => {
                let failure = failure(416, "range", "the range begins after the end");
                asker.fail(&failure, entity.len)
            }
        },
    }
}

/// Answers OPTIONS, which needs no entity.
pub fn preflight(request: &RequestHead, provenance: &Provenance, last: bool) -> Plan {
    let asker = Asker {
        request,
        provenance,
        last,
    };
    asker.preflight()
}

/// Answers any request that came through the gate.
pub fn fail(request: &RequestHead, provenance: &Provenance, failure: &Failure, last: bool) -> Plan {
    let asker = Asker {
        request,
        provenance,
        last,
    };
    asker.fail(failure, None)
}

/// Answers what did not: without CORS headers, so that no page can read it. `request`: if there
/// was a whole one.
pub fn refuse(request: Option<&RequestHead>, failure: &Failure, last: bool) -> Plan {
    let keep_alive = request.is_some_and(|request| !last && !failure.close && may_follow(request));
    let minor = request.map_or(1, |request| request.minor);
    let to_head = request.is_some_and(|request| request.method == Method::Head);
    let writer = fenced(HeadWriter::response(failure.status));
    failed(writer, failure, to_head, keep_alive, minor)
}

impl Failure {
    pub const fn new(status: u16, code: &'static str, detail: &'static str) -> Self {
        failure(status, code, detail)
    }

    /// A head that was begun and not finished in time (R25).
    pub const TIMEOUT: Self =
        Self::new(408, "timeout", "the request's head took too long").closing();

    /// No room for one more stream (R26).
    pub const BUSY: Self =
        Self::new(503, "busy", "as many streams as there may be").retry_in(Duration::from_secs(5));

    /// The connection ends with it.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    #[must_use]
    pub const fn retry_in(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<BadRequest> for Failure {
    fn from(bad: BadRequest) -> Self {
        Self {
            close: true,
            ..failure(bad.status, bad.code, bad.detail)
        }
    }
}

impl From<BadAddress> for Failure {
    fn from(bad: BadAddress) -> Self {
        failure(bad.status, bad.code, bad.detail)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self {
            close: refusal.close,
            ..failure(refusal.status, refusal.code, refusal.detail)
        }
    }
}

const METHODS: &str = "GET, HEAD, OPTIONS";
/// A page may ask again only after this (browsers cap it at 2 h).
const PREFLIGHT_MAX_AGE_S: u32 = 7200;

/// Who gets the reply.
struct Asker<'a> {
    request: &'a RequestHead,
    provenance: &'a Provenance,
    last: bool,
}

impl Asker<'_> {
    fn media(&self, entity: &Entity, part: Option<ByteRange>) -> Plan {
        let status = if part.is_some() { 206 } else { 200 };
        let whole = ByteRange::new(0, entity.len.unwrap_or(u64::MAX));
        let body = part.unwrap_or(whole);
        let to_head = self.request.method == Method::Head;
        let framing = match entity.len {
            _ if to_head => Framing::Empty,
            Some(_) if body.is_empty() => Framing::Empty,
            Some(_) => Framing::Length(body.len()),
            None if self.request.minor > 0 => Framing::Chunked,
            None => Framing::UntilClose,
        };
        let keep_alive = framing.ends_by_itself() && self.keeps_alive();

        let mut writer = self.validated(self.shared(status), entity);
        let content_type = &entity.content_type;
        writer = writer.header("Content-Type", &content_type.value);
        if content_type.attachment {
            writer = writer.header("Content-Disposition", "attachment");
        }
        if let Some(len) = entity.len {
            writer = writer
                .header("Accept-Ranges", "bytes")
                .header("Content-Length", body.len());
            if let Some(range) = part {
                let (first, last) = (range.start, range.end - 1);
                writer = writer.header("Content-Range", format_args!("bytes {first}-{last}/{len}"));
            }
        }
        if framing == Framing::Chunked {
            writer = writer.header("Transfer-Encoding", "chunked");
        }
        Plan {
            status,
            head: connection(writer, keep_alive, self.request.minor).finish(),
            body: (framing != Framing::Empty).then_some(body),
            framing,
            keep_alive,
        }
    }

    fn not_modified(&self, entity: &Entity) -> Plan {
        let keep_alive = self.keeps_alive();
        let writer = self.validated(self.shared(304), entity);
        Plan {
            status: 304,
            head: connection(writer, keep_alive, self.request.minor).finish(),
            body: None,
            framing: Framing::Empty,
            keep_alive,
        }
    }

    fn preflight(&self) -> Plan {
        let keep_alive = self.keeps_alive();
        let mut writer = self.shared(204).header("Allow", METHODS);
        if self.approved_origin().is_some() {
            writer = writer
                .header("Access-Control-Allow-Methods", METHODS)
                .header(
                    "Access-Control-Allow-Headers",
                    "Range, If-Range, If-None-Match, If-Modified-Since, Cache-Control, Pragma",
                )
                .header("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S);
            let asked = "access-control-request-private-network";
            if self.request.headers.get(asked) == Some("true") {
                writer = writer.header("Access-Control-Allow-Private-Network", "true");
            }
        }
        Plan {
            status: 204,
            head: connection(writer, keep_alive, self.request.minor).finish(),
            body: None,
            framing: Framing::Empty,
            keep_alive,
        }
    }

    /// `range_of`: the length that a range went beyond.
    fn fail(&self, failure: &Failure, range_of: Option<u64>) -> Plan {
        let mut writer = self.shared(failure.status);
        if let Some(len) = range_of {
            writer = writer.header("Content-Range", format_args!("bytes */{len}"));
        }
        let to_head = self.request.method == Method::Head;
        let keep_alive = !failure.close && self.keeps_alive();
        failed(writer, failure, to_head, keep_alive, self.request.minor)
    }

    /// What every reply to a request that passed the gate has.
    fn shared(&self, status: u16) -> HeadWriter {
        let mut writer = fenced(HeadWriter::response(status)).header("Vary", "Origin");
        if let Some(origin) = self.approved_origin() {
            writer = writer.header("Access-Control-Allow-Origin", origin).header(
                "Access-Control-Expose-Headers",
                "Content-Range, Accept-Ranges, ETag, Content-Length",
            );
        }
        writer
    }

    fn validated(&self, mut writer: HeadWriter, entity: &Entity) -> HeadWriter {
        if let Some(etag) = &entity.etag {
            writer = writer.header("ETag", etag);
        }
        if let Some(time) = entity.last_modified.filter(is_printable) {
            writer = writer.header("Last-Modified", httpdate::fmt_http_date(time));
        }
        writer
    }

    /// The request's `Origin`, if that is the site which the gate approved. Browsers send it in
    /// the one spelling that the gate makes, so what is echoed is ours.
    fn approved_origin(&self) -> Option<&str> {
        let origin = self.request.headers.get("origin")?;
        let site = self.provenance.site.as_deref()?;
        (origin == site).then_some(site)
    }

    fn keeps_alive(&self) -> bool {
        !self.last && may_follow(self.request)
    }
}

enum Precondition {
    Holds,
    NotModified,
    Failed,
}

/// RFC 9110 §13.2.2.
fn precondition(request: &RequestHead, entity: &Entity) -> Precondition {
    let headers = &request.headers;
    let modified = entity.last_modified.and_then(secs);
    let date = |name| headers.get(name).and_then(parse_date);
    if headers.count("if-match") > 0 {
        if !listed(request, "if-match", |tag| matches_strongly(tag, entity)) {
            return Precondition::Failed;
        }
    } else if let (Some(modified), Some(since)) = (modified, date("if-unmodified-since"))
        && modified > since
    {
        return Precondition::Failed;
    }
    if headers.count("if-none-match") > 0 {
        let weak = |tag: &str| matches_strongly(tag.strip_prefix("W/").unwrap_or(tag), entity);
        if listed(request, "if-none-match", weak) {
            return Precondition::NotModified;
        }
    } else if let (Some(modified), Some(since)) = (modified, date("if-modified-since"))
        && modified <= since
    {
        return Precondition::NotModified;
    }
    Precondition::Holds
}

/// `Range`, unless `If-Range` says that the player has the bytes of something else. Answered for
/// HEAD as for GET, as nginx does: the same head, without the body.
fn asked(request: &RequestHead, entity: &Entity) -> Asked {
    let headers = &request.headers;
    let Some(len) = entity.len else {
        return Asked::Whole;
    };
    let same = match headers.count("if-range") {
        0 => true,
        1 => headers
            .get("if-range")
            .is_some_and(|condition| is_unchanged(condition, entity)),
        _ => false,
    };
    if !same || headers.count("range") > 1 {
        return Asked::Whole;
    }
    resolve(headers.get("range"), len)
}

/// RFC 9110 §13.1.5: the strong comparison for a tag; a date must be the very same.
fn is_unchanged(condition: &str, entity: &Entity) -> bool {
    if condition.len() >= 2 && condition.ends_with('"') {
        return matches_strongly(condition, entity);
    }
    let modified = entity.last_modified.and_then(secs);
    modified.is_some() && modified == parse_date(condition)
}

fn matches_strongly(tag: &str, entity: &Entity) -> bool {
    [&entity.etag, &entity.etag_before]
        .into_iter()
        .flatten()
        .any(|own| own == tag)
}

/// Whether any tag of a list is it; `*` stands for all. Our tags hold no comma.
fn listed(request: &RequestHead, name: &str, is_it: impl Fn(&str) -> bool) -> bool {
    request
        .headers
        .tokens(name)
        .any(|tag| tag == "*" || is_it(tag))
}

fn secs(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn parse_date(text: &str) -> Option<u64> {
    httpdate::parse_http_date(text).ok().and_then(secs)
}

/// An HTTP date has four digits for its year; httpdate panics beyond.
fn is_printable(time: &SystemTime) -> bool {
    const YEAR_10000: u64 = 253_402_300_800;
    secs(*time).is_some_and(|secs| secs < YEAR_10000)
}

/// A body that nobody reads would be taken for the next request.
fn may_follow(request: &RequestHead) -> bool {
    request.keep_alive() && request.body_len() == Ok(0)
}

/// What keeps a reply from being anything but media to a page (R15).
fn fenced(writer: HeadWriter) -> HeadWriter {
    writer
        .header("X-Content-Type-Options", "nosniff")
        .header(
            "Content-Security-Policy",
            "default-src 'none'; media-src 'self'; sandbox; frame-ancestors 'none'",
        )
        .header("Cross-Origin-Resource-Policy", "cross-origin")
        .header("Referrer-Policy", "no-referrer")
}

fn connection(writer: HeadWriter, keep_alive: bool, minor: u8) -> HeadWriter {
    match (keep_alive, minor) {
        (false, _) => writer.header("Connection", "close"),
        (true, 0) => writer.header("Connection", "keep-alive"),
        (true, _) => writer,
    }
}

fn failed(
    mut writer: HeadWriter,
    failure: &Failure,
    to_head: bool,
    keep_alive: bool,
    minor: u8,
) -> Plan {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'static str,
        detail: &'a str,
    }
    let body = Body {
        error: failure.code,
        detail: &failure.detail,
    };
    let body = serde_json::to_vec(&body).expect("two strings");
    if failure.status == 405 {
        writer = writer.header("Allow", METHODS);
    }
    if let Some(wait) = failure.retry_after {
        writer = writer.header("Retry-After", wait.as_secs().max(1));
    }
    let writer = writer
        .header("Content-Type", "application/json")
        .header("Cache-Control", "no-store")
        .header("Content-Length", body.len());
    let mut head = connection(writer, keep_alive, minor).finish();
    if !to_head {
        head.extend(body);
    }
    Plan {
        status: failure.status,
        head,
        body: None,
        framing: Framing::Empty,
        keep_alive,
    }
}

const fn failure(status: u16, code: &'static str, detail: &'static str) -> Failure {
    Failure {
        status,
        code,
        detail: Cow::Borrowed(detail),
        retry_after: None,
        close: false,
    }
}

#[cfg(test)]
mod tests;
