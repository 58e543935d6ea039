//! What a person types after `http://localhost:8081/` (DESIGN §3): parsed once, then only structs.
//!
//! A **plain** URL stands as it is, and the request's query string is its own. A
//! **percent-encoded** one is a single path segment, decoded once, and is exactly one URL with its
//! own query.
//!
//! Trackers come before the video, so a URL that another one follows may be a tracker, or a video
//! whose path holds a URL (`https://web.archive.org/web/2020/http://h/v.mp4`). It is a tracker if
//! it is `udp:`, is percent-encoded, has no path (and no query), or has `announce` in its path.
//! The first URL that is none of these is the video, with all that follows. To name a video that
//! looks like a tracker, encode it.
//!
//! A plain URL with a path segment that ends in `.torrent` ends there (with the query): the rest is
//! a path in the torrent. An encoded one is a torrent if its own path ends so.

use std::ops::Range;

use percent_encoding::percent_decode_str;
use url::Host;
use url::Url;

use crate::torrent::magnet::Magnet;

/// More in one address than any publisher chains.
const TRACKERS_MAX: usize = 16;

/// Each URL in it is http or https (a tracker's also udp), without user, fragment or port 0, and
/// with a host in ASCII (R11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Video {
        trackers: Vec<Url>,
        video: Url,
    },
    Torrent {
        url: Url,
        /// The file wished, decoded; never a path on disk.
        path: Option<String>,
        trackers: Vec<Url>,
    },
    Magnet {
        /// The text after `?`, still percent-encoded.
        query: String,
        path: Option<String>,
    },
}

/// The player's fault, and the answer to it. The connection's framing is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct BadAddress {
    pub status: u16,
    pub code: &'static str,
    pub detail: &'static str,
}

impl Address {
    /// From a target in origin-form.
    pub fn parse(target: &str) -> Result<Self, BadAddress> {
        let text = target.strip_prefix('/').ok_or(NOT_FOUND)?;
        check_text(text)?;
        if let Some(rest) = after_scheme(text, "magnet") {
            return parse_magnet(rest);
        }
        let mut trackers = Vec::new();
        let mut rest = text;
        loop {
            let first = Part::first(rest)?;
            let Some(next) = first.next_url() else {
                return first.into_address(trackers);
            };
            if trackers.len() == TRACKERS_MAX {
                return Err(bad_address("more than 16 trackers"));
            }
            trackers.push(parse_url(&first.url)?);
            rest = &rest[next..];
        }
    }

    /// From a target in absolute-form, for use as a forward proxy: always the thing itself.
    pub fn from_absolute_form(target: &str) -> Result<Self, BadAddress> {
        check_text(target)?;
        let video = parse_url(target)?;
        if video.scheme() == "udp" {
            return Err(bad_address(ONLY_HTTP));
        }
        Ok(Self::Video {
            trackers: Vec::new(),
            video,
        })
    }

    /// Every URL that it names as a URL; a magnet link's are checked where they are used.
    pub fn urls(&self) -> impl Iterator<Item = &Url> {
        let (trackers, main): (&[Url], _) = match self {
            Self::Video { trackers, video } => (trackers, Some(video)),
            Self::Torrent { url, trackers, .. } => (trackers, Some(url)),
            Self::Magnet { .. } => (&[], None),
        };
        trackers.iter().chain(main)
    }

    /// Equal for addresses that name the same torrent or the same video, whichever file and
    /// trackers they add: these belong on one shard.
    pub fn key(&self) -> String {
        match self {
            Self::Video { video, .. } => format!("video:{video}"),
            Self::Torrent { url, .. } => format!("torrent:{url}"),
            Self::Magnet { query, .. } => match Magnet::parse(query) {
                Ok(magnet) => format!("btih:{}", magnet.info_hash),
                Err(_) => format!("magnet:{query}"),
            },
        }
    }
}

const ONLY_HTTP: &str = "a video's address begins with http:// or https://";

const NOT_FOUND: BadAddress = BadAddress {
    status: 404,
    code: "not-found",
    detail: "expected /<tracker>/<video>, /<video>, /<torrent> or /magnet:",
};

const fn bad_address(detail: &'static str) -> BadAddress {
    BadAddress {
        status: 400,
        code: "bad-address",
        detail,
    }
}

/// The URL at the front of `rest`, and all that stands behind it.
struct Part<'a> {
    rest: &'a str,
    /// Plain: `rest` up to the next URL, if there is one. Encoded: decoded.
    url: String,
    /// Where the encoded segment ends in `rest`; `None` if it is plain.
    encoded_end: Option<usize>,
    /// Where the next URL begins in `rest`, if this one may be a tracker.
    next: Option<usize>,
}

impl<'a> Part<'a> {
    fn first(rest: &'a str) -> Result<Self, BadAddress> {
        match Form::of(rest) {
            Some(Form::Encoded) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let next = rest[end..].starts_with('/') && Form::of(&rest[end + 1..]).is_some();
                Ok(Self {
                    rest,
                    url: decode(&rest[..end])?,
                    encoded_end: Some(end),
                    next: next.then_some(end + 1),
                })
            }
            Some(Form::Plain { host_at }) => {
                let next = rest[host_at..]
                    .match_indices('/')
                    .map(|(at, _)| host_at + at)
                    .find(|at| begins_url(&rest[at + 1..]))
                    .filter(|&at| is_udp(rest) || looks_like_tracker(&rest[host_at..at]));
                Ok(Self {
                    rest,
                    url: rest[..next.unwrap_or(rest.len())].to_owned(),
                    encoded_end: None,
                    next: next.map(|at| at + 1),
                })
            }
            None if after_any_scheme(rest).is_some() => Err(bad_address(ONLY_HTTP)),
            None => Err(NOT_FOUND),
        }
    }

    fn next_url(&self) -> Option<usize> {
        self.next
    }

    fn into_address(self, trackers: Vec<Url>) -> Result<Address, BadAddress> {
        let (url, path) = match self.encoded_end {
            Some(end) => self.split_encoded(end)?,
            None => self.split_plain()?,
        };
        if url.scheme() == "udp" {
            return Err(bad_address("no video follows the tracker"));
        }
        Ok(match path {
            None => Address::Video {
                trackers,
                video: url,
            },
            Some(path) => Address::Torrent {
                url,
                path: decode_path(path)?,
                trackers,
            },
        })
    }

    /// The URL, and if it names a torrent the path in it, still encoded.
    fn split_plain(&self) -> Result<(Url, Option<&'a str>), BadAddress> {
        let (before, query) = cut_query(self.rest);
        let Some(torrent) = torrent_end(before) else {
            return Ok((parse_url(self.rest)?, None));
        };
        let url = parse_url(&format!("{}{query}", &before[..torrent]))?;
        Ok((url, Some(&before[torrent..])))
    }

    fn split_encoded(&self, end: usize) -> Result<(Url, Option<&'a str>), BadAddress> {
        let mut url = parse_url(&self.url)?;
        let (path, query) = cut_query(&self.rest[end..]);
        if let Some(query) = query.strip_prefix('?') {
            let joined = match url.query() {
                Some(own) => format!("{own}&{query}"),
                None => query.to_owned(),
            };
            url.set_query(Some(&joined));
        }
        if ends_in_torrent(url.path()) {
            return Ok((url, Some(path)));
        }
        match path {
            "" | "/" => Ok((url, None)),
            _ => Err(bad_address("something follows the encoded address")),
        }
    }
}

/// How a URL is written at the start of a segment.
enum Form {
    Plain { host_at: usize },
    Encoded,
}

impl Form {
    fn of(text: &str) -> Option<Self> {
        let after = ["http", "https", "udp"]
            .iter()
            .find_map(|scheme| after_scheme(text, scheme))?;
        let slashes = after.bytes().take(2).take_while(|&b| b == b'/').count();
        if slashes > 0 {
            return Some(Self::Plain {
                host_at: text.len() - after.len() + slashes,
            });
        }
        strip_prefix_nocase(after, "%2f").map(|_| Self::Encoded)
    }
}

fn parse_magnet(rest: &str) -> Result<Address, BadAddress> {
    let decoded;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (decode_path(path)?, query),
        None => {
            decoded = decode(rest)?;
            let (path, query) = cut_query(&decoded);
            let path = path.trim_matches('/');
            let path = (!path.is_empty()).then(|| path.to_owned());
            (path, query.get(1..).unwrap_or_default())
        }
    };
    if query.is_empty() {
        return Err(bad_address("a magnet link needs ?xt=urn:btih:…"));
    }
    Ok(Address::Magnet {
        query: query.to_owned(),
        path,
    })
}

/// One parse of one URL; what it does not say in so many words (`user@`, no host) is refused.
fn parse_url(text: &str) -> Result<Url, BadAddress> {
    let (scheme, rest) = text
        .split_once(':')
        .or_else(|| text.split_once("%3A"))
        .or_else(|| text.split_once("%3a"))
        .ok_or(NOT_FOUND)?;
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https" | "udp") {
        return Err(bad_address(ONLY_HTTP));
    }
    // Some proxies fold the two slashes into one.
    let rest = rest
        .strip_prefix("//")
        .or_else(|| rest.strip_prefix('/'))
        .ok_or(bad_address("no // after the scheme"))?;
    let authority = &rest[..rest.find(['/', '\\', '?']).unwrap_or(rest.len())];
    if authority.is_empty() {
        return Err(bad_address("no host"));
    }
    if authority.contains('@') {
        return Err(bad_address("a user or password in the address"));
    }
    let malformed = |_| bad_address("a malformed URL");
    let url = match scheme.as_str() {
        "udp" => parse_udp(rest)?,
        _ => Url::parse(&format!("{scheme}://{rest}")).map_err(malformed)?,
    };
    match url.host() {
        None | Some(Host::Domain("")) => Err(bad_address("no host")),
        _ if url.port() == Some(0) => Err(bad_address("port 0")),
        _ => Ok(url),
    }
}

/// `udp:` is nothing special to the URL standard, so its host is read as http's: to lower case,
/// to ASCII, numbers to an IPv4 address. It has no port by default.
fn parse_udp(rest: &str) -> Result<Url, BadAddress> {
    let malformed = |_| bad_address("a malformed URL");
    let plain = Url::parse(&format!("udp://{rest}")).map_err(malformed)?;
    let as_http = Url::parse(&format!("http://{rest}")).map_err(malformed)?;
    let host = as_http.host_str().ok_or(bad_address("no host"))?;
    let port = plain
        .port()
        .ok_or(bad_address("a udp tracker needs a port"))?;
    let path = as_http.path();
    let query = as_http.query().map_or(String::new(), |q| format!("?{q}"));
    Url::parse(&format!("udp://{host}:{port}{path}{query}")).map_err(malformed)
}

/// R11: nothing that could end a line or a request further on, however it is wrapped. `%20` may
/// stay as it is in a URL: names with blanks are common, and it is never decoded there.
fn check_text(text: &str) -> Result<(), BadAddress> {
    if text.bytes().any(|byte| byte < 0x21 || byte == 0x7f) {
        return Err(bad_address("a blank or a control character"));
    }
    if text.contains('#') {
        return Err(bad_address("a fragment"));
    }
    let bytes = text.as_bytes();
    for at in text.match_indices('%').map(|(at, _)| at) {
        let control = match bytes.get(at + 1..at + 3) {
            Some([b'0' | b'1', low]) => low.is_ascii_hexdigit(),
            Some([b'7', b'f' | b'F']) => true,
            Some(b"25") => matches!(
                bytes.get(at + 3..at + 5),
                Some([b'0', b'd' | b'D' | b'a' | b'A'])
            ),
            _ => false,
        };
        if control {
            return Err(bad_address("an encoded control character"));
        }
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, BadAddress> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| bad_address("not UTF-8"))?;
    check_text(&decoded)?;
    Ok(decoded.into_owned())
}

/// A path in a torrent may hold anything but control characters.
fn decode_path(path: &str) -> Result<Option<String>, BadAddress> {
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| bad_address("not UTF-8"))?;
    let path = decoded.trim_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

/// Whether authority and path (and query) of an http URL look like a tracker's.
fn looks_like_tracker(text: &str) -> bool {
    let (before, query) = cut_query(text);
    let path = before.split_once('/').map_or("", |(_, path)| path);
    let empty = path.bytes().all(|byte| byte == b'/');
    (empty && query.is_empty()) || path.to_ascii_lowercase().contains("announce")
}

fn is_udp(text: &str) -> bool {
    after_scheme(text, "udp").is_some()
}

/// Where the first path segment that ends in `.torrent` ends.
fn torrent_end(url: &str) -> Option<usize> {
    let Some(Form::Plain { host_at }) = Form::of(url) else {
        return None;
    };
    let path_at = host_at + url[host_at..].find('/')?;
    segments(url, path_at).find_map(|segment| {
        let end = segment.end;
        ends_in_torrent(&url[segment]).then_some(end)
    })
}

fn segments(url: &str, path_at: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = path_at;
    url[path_at..].split('/').map(move |segment| {
        let start = at;
        at += segment.len() + 1;
        start..start + segment.len()
    })
}

fn ends_in_torrent(path: &str) -> bool {
    const EXTENSION: &[u8] = b".torrent";
    path.len() > EXTENSION.len()
        && path.as_bytes()[path.len() - EXTENSION.len()..].eq_ignore_ascii_case(EXTENSION)
}

/// The second part begins with `?` or is empty.
fn cut_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

/// Whether a URL of any scheme begins here: one that we do not know is no part of a path either.
fn begins_url(text: &str) -> bool {
    Form::of(text).is_some() || after_any_scheme(text).is_some_and(|rest| rest.starts_with("//"))
}

/// What follows whatever could be a scheme.
fn after_any_scheme(text: &str) -> Option<&str> {
    let scheme = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    (scheme > 0).then(|| after_scheme(text, &text[..scheme]))?
}

/// What follows `scheme:`, the colon encoded or not.
fn after_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let rest = strip_prefix_nocase(text, scheme)?;
    rest.strip_prefix(':')
        .or_else(|| strip_prefix_nocase(rest, "%3a"))
}

fn strip_prefix_nocase<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (front, rest) = text.split_at_checked(prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests;
