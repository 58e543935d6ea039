//! What an address asks for, and where that is looked for first.

use std::collections::VecDeque;

use url::Url;

use crate::resolve::registry::Registries;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Metainfo;

/// `xs` and `as` addresses of one magnet link that are tried.
pub const SOURCES_MAX: usize = 4;

/// What is looked for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The driver asks the origin meanwhile, and tells what it answered.
    Video { video: Url, trackers: Vec<Url> },
    Torrent {
        url: Url,
        /// A file in the torrent, percent-decoded.
        path: Option<String>,
        trackers: Vec<Url>,
    },
    Magnet {
        magnet: Magnet,
        path: Option<String>,
    },
}

impl Ask {
    /// The torrent asked for, the sources of a magnet link.
    pub fn places(&self) -> VecDeque<Url> {
        match self {
            Self::Video { .. } => VecDeque::new(),
            Self::Torrent { url, .. } => VecDeque::from([url.clone()]),
            Self::Magnet { magnet, .. } => {
                let urls = magnet.sources.iter().filter_map(|url| Url::parse(url).ok());
                let web = urls.filter(|url| matches!(url.scheme(), "http" | "https"));
                web.take(SOURCES_MAX).collect()
            }
        }
    }

    /// Those of a video's trackers.
    pub fn registries(&self) -> Registries {
        match self {
            Self::Video { video, trackers } => Registries::new(video, trackers),
            Self::Torrent { .. } | Self::Magnet { .. } => Registries::default(),
        }
    }

    /// BEP 27: a private torrent goes to no tracker but its own.
    pub fn tiers(&self, metainfo: &Metainfo) -> Vec<Vec<String>> {
        if metainfo.private && !metainfo.trackers.is_empty() {
            return metainfo.trackers.clone();
        }
        let own: Vec<String> = match self {
            Self::Video { trackers, .. } | Self::Torrent { trackers, .. } => {
                trackers.iter().map(|url| url.as_str().to_owned()).collect()
            }
            Self::Magnet { magnet, .. } => magnet.trackers.clone(),
        };
        let mut known: Vec<Option<Url>> = Vec::new();
        let mut out: Vec<Vec<String>> = own.into_iter().map(|url| vec![url]).collect();
        out.extend(metainfo.trackers.iter().cloned());
        for tier in &mut out {
            tier.retain(|url| {
                // However it is spelt, each tracker is asked once.
                let url = Url::parse(url).ok();
                let new = url.is_none() || !known.contains(&url);
                known.push(url);
                new
            });
        }
        out.retain(|tier| !tier.is_empty());
        out
    }
}
