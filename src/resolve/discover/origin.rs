//! What is known of the requested video's own server, and what it says of a torrent.

use url::Url;

use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::torrent::metainfo::Metainfo;

#[derive(Debug)]
pub enum Origin {
    /// Its head is to come.
    Awaited,
    Answered(Pin),
    Failed,
}

impl Origin {
    /// `length`: of the whole video.
    pub fn answered(head: &ResponseHead, length: Option<u64>) -> Self {
        Self::Answered(Pin::of(head, length))
    }

    pub const fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited)
    }

    /// Whether it contradicts what somebody else says of the video.
    pub fn contradicts(&self, pin: &Pin) -> bool {
        match self {
            Self::Answered(said) => !said.agrees(pin),
            Self::Awaited | Self::Failed => false,
        }
    }

    /// Whether it still serves what it served when `validator`, its ETag or else Last-Modified, was
    /// kept, as far as it says.
    pub fn is_same_version(&self, validator: &str) -> bool {
        let Self::Answered(pin) = self else {
            return true;
        };
        let said = [&pin.etag, &pin.last_modified];
        let mut said = said.into_iter().flatten().peekable();
        let opaque = |text: &str| text.strip_prefix("W/").unwrap_or(text).to_owned();
        validator.is_empty()
            || said.peek().is_none()
            || said.any(|said| opaque(said) == opaque(validator))
    }

    /// The file that it serves: one of its length, one of its name, the largest medium. `None` if
    /// the metainfo is of something else.
    pub fn file_of(&self, video: &Url, metainfo: &Metainfo) -> Option<usize> {
        let last = video.path_segments()?.next_back()?;
        let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
        let length = match self {
            Self::Answered(pin) => pin.length,
            Self::Awaited | Self::Failed => None,
        };
        let files = metainfo.files.iter().enumerate();
        let fits: Vec<usize> = files
            .filter(|(_, file)| {
                !file.pad && file.length > 0 && length.is_none_or(|length| length == file.length)
            })
            .map(|(index, _)| index)
            .collect();
        let named = fits.iter().find(|index| {
            metainfo.files[**index]
                .path
                .last()
                .is_some_and(|last| *last == name)
        });
        let largest = metainfo
            .largest_media()
            .filter(|index| fits.contains(index));
        named.copied().or(largest).or_else(|| fits.first().copied())
    }
}
