//! What an origin's answer to a range request is worth: usable bytes, or why not.

use std::time::Duration;

use crate::http::body::Framing;
use crate::http::head::ResponseHead;
use crate::http::range::parse_content_range;
use crate::origin::OriginFailed;
use crate::origin::health::retry_after;
use crate::origin::redirect::is_redirect;
use crate::units::ByteRange;

/// Bytes received for nothing rather than given up: an answer that begins earlier than asked.
pub const SKIP_MAX: u64 = 1024 * 1024;

pub enum Answer {
    /// The body is bytes of the file.
    Bytes(Span),
    /// 416: the file ends before the range.
    Beyond { total: Option<u64> },
    /// Another URL.
    Redirect,
    /// Not now; with what `Retry-After` asks.
    Later {
        after: Option<Duration>,
        why: String,
    },
    /// Not ever.
    Refused(OriginFailed),
}

pub struct Span {
    /// File offset of the body's first byte.
    pub start: u64,
    /// File offset after its last; `u64::MAX` if the head does not say.
    pub end: u64,
    /// Bytes of the whole file, if the head says.
    pub total: Option<u64>,
    /// A 200: the range was not heeded.
    pub whole: bool,
}

/// `wanted` starts at the next byte that is missing.
pub fn judge(head: &ResponseHead, framing: Framing, wanted: ByteRange) -> Answer {
    match head.status {
        200 | 206 => match coded(head).map_or_else(
            || {
                if head.status == 206 {
                    partial(head, framing, wanted)
                } else {
                    Ok(whole(framing))
                }
            },
            Err,
        ) {
            Ok(span) => Answer::Bytes(span),
            Err(why) => Answer::Refused(OriginFailed::lasting(why)),
        },
        416 => Answer::Beyond {
            total: head
                .headers
                .get("content-range")
                .and_then(parse_content_range)
                .and_then(|said| said.total),
        },
        status if is_redirect(status) => Answer::Redirect,
        status @ (408 | 425 | 429 | 500..=599) => Answer::Later {
            after: head
                .headers
                .get("retry-after")
                .and_then(|value| retry_after(value, head.headers.get("date"))),
            why: format!("answered {status}"),
        },
        status => {
            Answer::Refused(OriginFailed::lasting(format!("answered {status}")).with_status(status))
        }
    }
}

fn coded(head: &ResponseHead) -> Option<&'static str> {
    head.headers
        .all("content-encoding")
        .any(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
        .then_some("a coded body where identity was asked for")
}

const fn whole(framing: Framing) -> Span {
    let total = match framing {
        Framing::Empty => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    Span {
        start: 0,
        end: match total {
            Some(length) => length,
            None => u64::MAX,
        },
        total,
        whole: true,
    }
}

fn partial(head: &ResponseHead, framing: Framing, wanted: ByteRange) -> Result<Span, &'static str> {
    if head.headers.count("content-range") > 1 {
        return Err("206 with two Content-Range");
    }
    // A multipart answer has none in its head, and was not asked for.
    let said = head
        .headers
        .get("content-range")
        .ok_or("206 without Content-Range")?;
    let said = parse_content_range(said).ok_or("206 with a malformed Content-Range")?;
    let range = said.range.ok_or("206 with an unsatisfied Content-Range")?;
    if range.start > wanted.start || range.end <= wanted.start {
        return Err("206 with another range than asked for");
    }
    if wanted.start - range.start > SKIP_MAX {
        return Err("206 that begins far too early");
    }
    if said.total.is_some_and(|total| range.end > total) {
        return Err("206 with a range beyond its total");
    }
    if let Framing::Length(length) = framing
        && length != range.len()
    {
        return Err("206 whose Content-Length contradicts its range");
    }
    Ok(Span {
        start: range.start,
        end: range.end,
        total: said.total,
        whole: false,
    })
}
