//! What tells one version of a file from another (RFC 9110 §8.8).

use crate::http::head::Headers;
use crate::http::head::ResponseHead;

/// A registry's answer says with these which version of the video its torrent is of; both as the
/// video's own server sent them.
pub const STAMP_ETAG: &str = "Video-ETag";
pub const STAMP_DATE: &str = "Video-Last-Modified";

/// Longest validator that is kept and sent back.
const VALIDATOR_LEN_MAX: usize = 256;

/// The file as the first good answer described it; later answers must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// As sent, quotes and `W/` included.
    pub etag: Option<String>,
    /// As sent: an HTTP date.
    pub last_modified: Option<String>,
    /// Bytes of the whole file.
    pub length: Option<u64>,
}

impl Pin {
    /// What an answer says of the file; ill-formed validators count as absent.
    pub fn of(head: &ResponseHead, length: Option<u64>) -> Self {
        Self::named(&head.headers, "etag", "last-modified", length)
    }

    /// What a registry says of the video that its torrent was made from.
    pub fn of_stamp(headers: &Headers) -> Self {
        Self::named(headers, STAMP_ETAG, STAMP_DATE, None)
    }

    /// For a registry's answer.
    pub fn stamp(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let etag = self.etag.as_deref().map(|etag| (STAMP_ETAG, etag));
        let date = self.last_modified.as_deref();
        etag.into_iter().chain(date.map(|date| (STAMP_DATE, date)))
    }

    /// Whether one version can be told from the next.
    pub const fn has_validator(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    fn named(headers: &Headers, etag: &str, date: &str, length: Option<u64>) -> Self {
        Self {
            etag: headers
                .get(etag)
                .filter(|etag| is_etag(etag))
                .map(String::from),
            last_modified: headers
                .get(date)
                .filter(|date| date.len() <= VALIDATOR_LEN_MAX)
                .filter(|date| httpdate::parse_http_date(date).is_ok())
                .map(String::from),
            length,
        }
    }

    /// Whether both can be the same version. An ETag outranks the date; what either side does not
    /// say contradicts nothing.
    pub fn agrees(&self, other: &Self) -> bool {
        if let (Some(ours), Some(theirs)) = (self.length, other.length)
            && ours != theirs
        {
            return false;
        }
        match (&self.etag, &other.etag) {
            // Weak comparison: servers weaken a tag when they recode, and the length is compared.
            (Some(ours), Some(theirs)) => opaque(ours) == opaque(theirs),
            _ => match (&self.last_modified, &other.last_modified) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            },
        }
    }

    /// Takes over what was not known yet from an answer that agrees.
    pub fn learn(&mut self, other: Self) {
        if self.etag.is_none() {
            self.etag = other.etag;
        }
        if self.last_modified.is_none() {
            self.last_modified = other.last_modified;
        }
        if self.length.is_none() {
            self.length = other.length;
        }
    }

    /// For `If-Range`: a strong ETag, else the date. A weak ETag never matches there (RFC 9110
    /// §13.1.5), so it would cost a whole file.
    pub fn if_range(&self) -> Option<&str> {
        self.etag
            .as_deref()
            .filter(|etag| !etag.starts_with("W/"))
            .or(self.last_modified.as_deref())
    }
}

fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn is_etag(etag: &str) -> bool {
    let quoted = opaque(etag);
    etag.len() <= VALIDATOR_LEN_MAX
        && quoted.len() >= 2
        && quoted.starts_with('"')
        && quoted.ends_with('"')
        && quoted[1..quoted.len() - 1]
            .bytes()
            .all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(etag: Option<&str>, date: Option<&str>, length: Option<u64>) -> Pin {
        Pin {
            etag: etag.map(String::from),
            last_modified: date.map(String::from),
            length,
        }
    }

    const MONDAY: &str = "Mon, 02 Mar 2026 10:00:00 GMT";
    const TUESDAY: &str = "Tue, 03 Mar 2026 10:00:00 GMT";

    #[test]
    fn an_etag_outranks_the_date_and_the_length_outranks_both() {
        let ours = pin(Some("\"a\""), Some(MONDAY), Some(9));
        assert!(ours.agrees(&pin(Some("\"a\""), Some(TUESDAY), Some(9))));
        assert!(ours.agrees(&pin(Some("W/\"a\""), None, None)));
        assert!(!ours.agrees(&pin(Some("\"b\""), Some(MONDAY), Some(9))));
        assert!(!ours.agrees(&pin(None, Some(TUESDAY), Some(9))));
        assert!(!ours.agrees(&pin(Some("\"a\""), Some(MONDAY), Some(8))));
        assert!(ours.agrees(&Pin::default()));
    }

    #[test]
    fn if_range_takes_no_weak_etag() {
        assert_eq!(
            pin(Some("\"a\""), Some(MONDAY), None).if_range(),
            Some("\"a\"")
        );
        assert_eq!(
            pin(Some("W/\"a\""), Some(MONDAY), None).if_range(),
            Some(MONDAY)
        );
        assert_eq!(pin(Some("W/\"a\""), None, None).if_range(), None);
    }

    #[test]
    fn an_etag_is_quoted() {
        assert!(is_etag("\"\"") && is_etag("W/\"x-1\""));
        assert!(!is_etag("x") && !is_etag("\"") && !is_etag("\"a\"b\"") && !is_etag("w/\"x\""));
    }

    #[test]
    fn learning_never_overwrites() {
        let mut ours = pin(Some("\"a\""), None, None);
        ours.learn(pin(Some("\"b\""), Some(MONDAY), Some(7)));
        assert_eq!(ours, pin(Some("\"a\""), Some(MONDAY), Some(7)));
    }
}
