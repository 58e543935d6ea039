//! What the answers told of one file: where it is, which version, and what its origin can do.

use url::Url;

use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::origin::answer::{SKIP_MAX, Span};
use crate::origin::transfer::Fetch;

/// Whether the origin heeds `Range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    Unknown,
    Heeded,
    Ignored,
}

/// What to do with a good answer.
pub enum Use {
    /// Its bytes are the file's.
    Take,
    /// The same file, sent whole because of the `If-Range`: ask again without.
    AskPlainly,
    /// The whole file for a range that begins far inside.
    GiveUp,
    /// The file ends before the range.
    Beyond,
    /// Another version than before.
    Changed,
}

pub struct Known {
    url: Url,
    /// `url`, or where it last redirected to.
    target: Url,
    pin: Option<Pin>,
    ranges: Ranges,
    /// Cleared for an origin that answers 200 to an `If-Range` that holds.
    if_range_works: bool,
}

impl Known {
    pub fn new(url: Url) -> Self {
        Self {
            target: url.clone(),
            url,
            pin: None,
            ranges: Ranges::Unknown,
            if_range_works: true,
        }
    }

    pub const fn url(&self) -> &Url {
        &self.url
    }

    pub const fn target(&self) -> &Url {
        &self.target
    }

    pub const fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    pub const fn ranges(&self) -> Ranges {
        self.ranges
    }

    pub fn is_redirected(&self) -> bool {
        self.target != self.url
    }

    pub fn forget_target(&mut self) {
        self.target = self.url.clone();
    }

    pub fn length(&self) -> Option<u64> {
        self.pin.as_ref().and_then(|pin| pin.length)
    }

    /// For the next request.
    pub fn if_range(&self) -> Option<&str> {
        let pin = self.pin.as_ref().filter(|_| self.if_range_works);
        pin.and_then(Pin::if_range)
    }

    /// Whether a fetch that is at `next` can be asked for at all.
    pub fn serves(&self, next: u64) -> bool {
        self.ranges != Ranges::Ignored || next <= SKIP_MAX
    }

    /// Takes in a good answer to `fetch`; `conditional`: it was asked for with `If-Range`.
    pub fn learn(
        &mut self,
        fetch: &Fetch,
        conditional: bool,
        head: &ResponseHead,
        span: &Span,
    ) -> Use {
        let said = Pin::of(head, span.total);
        if self.pin.as_ref().is_some_and(|pin| !pin.agrees(&said)) {
            return Use::Changed;
        }
        match (span.whole, conditional) {
            (false, _) => self.ranges = Ranges::Heeded,
            (true, true) => {
                self.if_range_works = false;
                if fetch.next > 0 {
                    return Use::AskPlainly;
                }
            }
            (true, false) => {
                self.ranges = Ranges::Ignored;
                if !self.serves(fetch.next) {
                    return Use::GiveUp;
                }
            }
        }
        self.pin.get_or_insert_default().learn(said);
        self.target = fetch.at.clone();
        match self.length() {
            Some(total) if total <= fetch.next && total > 0 => Use::Beyond,
            _ => Use::Take,
        }
    }

    /// Takes in a length that was said or found; false if it contradicts what was said before.
    pub fn learn_length(&mut self, length: Option<u64>) -> bool {
        let said = Pin {
            length,
            ..Pin::default()
        };
        let agrees = self.pin.as_ref().is_none_or(|pin| pin.agrees(&said));
        if agrees && length.is_some() {
            self.pin.get_or_insert_default().learn(said);
        }
        agrees
    }
}
