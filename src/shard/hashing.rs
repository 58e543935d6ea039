//! A video on a web server, streamed once and hashed on the way: neither memory nor disk holds it.

use url::Url;

use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::shard::download::Downloading;
use crate::shard::download::Web;
use crate::stub::media;
use crate::stub::media::SNIFF_LEN;
use crate::torrent::stream_hash::BadStream;
use crate::torrent::stream_hash::Hashed;
use crate::torrent::stream_hash::INDEX_LEN;
use crate::torrent::stream_hash::StreamHash;
use crate::units::ByteRange;

/// What a video must be that nobody vouches for: something that plays (R18), of a version that can
/// be told from the next, and not too long.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Bytes.
    pub length_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BadRead {
    #[error(transparent)]
    Origin(#[from] OriginFailed),
    #[error(transparent)]
    Stream(#[from] BadStream),
    #[error("its server does not tell its length")]
    NoLength,
    #[error("it is too long")]
    TooLong,
    #[error("its server gives neither ETag nor Last-Modified")]
    NoValidator,
    #[error("it is neither video nor audio")]
    NoMedia,
    #[error("it was changed while it was read")]
    Changed,
}

/// Reads all of it. `tell` hears how long it is, as far as that is known, and how many bytes more
/// have come. Returns the version that was read as well.
pub async fn hash(
    web: &Web,
    url: &Url,
    terms: Option<Terms>,
    mut tell: impl FnMut(Option<u64>, u64),
) -> Result<(Hashed, Pin), BadRead> {
    let mut download = Downloading::new(web, url.clone(), WHOLE, None);
    let mut stream: Option<StreamHash> = None;
    let mut gate = terms.map(Gate::new);
    let mut bad = Ok(());
    loop {
        let more = download.carry(|total, bytes| {
            if bad.is_err() {
                return;
            }
            if let Some(gate) = gate.as_mut() {
                gate.see(bytes);
            }
            let stream = stream.get_or_insert_with(|| StreamHash::new(total));
            bad = stream.update(bytes);
            tell(total, bytes.len() as u64);
        });
        let more = more.await?;
        bad?;
        if let (Some(open), Some(pin)) = (&gate, download.pin())
            && open.check(pin, !more)?
        {
            gate = None;
        }
        if !more {
            break;
        }
        let wanted = stream
            .as_mut()
            .and_then(|stream| Some((stream.wants_index()?, stream)));
        if let Some((at, stream)) = wanted {
            match index(web, url, at, download.pin().cloned()).await {
                Ok(index) => stream.handle_index(&index),
                // Then the film is cut by its size.
                Err(error) => tracing::info!(%error, "the film's index is not read ahead"),
            }
            download.paused();
        }
    }
    let hashed = stream.ok_or(BadStream::Empty)?.finish()?;
    let pin = download.pin().cloned().unwrap_or_default();
    // A file that is written to while it is sent says so only now.
    if terms.is_some() && !pin.agrees(&version(web, url).await?) {
        return Err(BadRead::Changed);
    }
    Ok((hashed, pin))
}

/// Which version of the video its server has now.
pub async fn version(web: &Web, url: &Url) -> Result<Pin, OriginFailed> {
    let mut download = Downloading::new(web, url.clone(), ByteRange::new(0, 1), None);
    while download.carry(|_, _| ()).await? {}
    Ok(download.pin().cloned().unwrap_or_default())
}

const WHOLE: ByteRange = ByteRange {
    start: 0,
    end: u64::MAX,
};

/// The first of the bytes from `at` on.
async fn index(web: &Web, url: &Url, at: u64, pin: Option<Pin>) -> Result<Vec<u8>, OriginFailed> {
    let range = ByteRange::new(at, at.saturating_add(INDEX_LEN));
    let mut download = Downloading::new(web, url.clone(), range, pin);
    let mut bytes = Vec::new();
    while download
        .carry(|_, more| bytes.extend_from_slice(more))
        .await?
    {}
    Ok(bytes)
}

/// Holds a video to its terms as soon as they can be judged.
struct Gate {
    terms: Terms,
    head: Vec<u8>,
}

impl Gate {
    const fn new(terms: Terms) -> Self {
        Self {
            terms,
            head: Vec::new(),
        }
    }

    fn see(&mut self, bytes: &[u8]) {
        let room = SNIFF_LEN - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether it is settled that it holds; `end`: no more will be seen.
    fn check(&self, pin: &Pin, end: bool) -> Result<bool, BadRead> {
        if pin.length.ok_or(BadRead::NoLength)? > self.terms.length_max {
            return Err(BadRead::TooLong);
        }
        if !pin.has_validator() {
            return Err(BadRead::NoValidator);
        }
        if self.head.len() < SNIFF_LEN && !end {
            return Ok(false);
        }
        media::sniff(&self.head).map_or(Err(BadRead::NoMedia), |_| Ok(true))
    }
}
