//! Where a redirect may lead (R11, R21); the address it resolves to is the driver's to check.

use url::Url;

use crate::http::head::ResponseHead;
use crate::origin::OriginFailed;

/// Redirects followed for one fetch.
pub const HOPS_MAX: u8 = 5;

/// Longest URL that is asked for.
const URL_LEN_MAX: usize = 8 * 1024;

pub const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The URL that a redirect answered to `from` names, without its fragment. `hops`: redirects
/// followed before this one.
pub fn follow(from: &Url, head: &ResponseHead, hops: u8) -> Result<Url, OriginFailed> {
    let refused = |why: &str| OriginFailed::lasting(why).with_status(head.status);
    if hops >= HOPS_MAX {
        return Err(refused("too many redirects"));
    }
    let location = head
        .headers
        .get("location")
        .ok_or_else(|| refused("redirect without Location"))?;
    if location.len() > URL_LEN_MAX {
        return Err(refused("redirect to an overlong URL"));
    }
    let mut to = from
        .join(location)
        .map_err(|_| refused("redirect to something that is no URL"))?;
    to.set_fragment(None);
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return Err(refused("redirect from https to http")),
        (_, "http" | "https") => {}
        _ => return Err(refused("redirect to another scheme")),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(refused("redirect to a URL with credentials"));
    }
    if to.port() == Some(0) || to.host_str().is_none_or(str::is_empty) {
        return Err(refused("redirect to nowhere"));
    }
    Ok(to)
}

/// Whether one connection can carry requests for both.
pub fn same_site(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}
