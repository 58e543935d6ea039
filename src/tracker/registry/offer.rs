//! A torrent that a publisher registers for a video, checked and completed.

use url::Url;

use crate::torrent::metainfo::BadTorrent;
use crate::torrent::metainfo::Metainfo;
use crate::torrent::metainfo::TORRENT_LEN_MAX;
use crate::tracker::registry::query;
use crate::units::InfoHash;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub torrent: Vec<u8>,
    pub info_hash: InfoHash,
    /// Bytes of the video.
    pub length: u64,
}

/// The publisher's mistake, with the status that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOffer {
    #[error("the torrent is longer than 10 MiB, which is the most that stubs fetch")]
    TooLong,
    #[error("{0}")]
    NoTorrent(#[from] BadTorrent),
    #[error("no file of the torrent has the name that the video's URL ends in")]
    NoFile,
    #[error("the video is longer than this registry takes")]
    FilmTooLong,
}

impl BadOffer {
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLong => 413,
            Self::NoTorrent(_) | Self::NoFile | Self::FilmTooLong => 422,
        }
    }
}

impl Offer {
    /// `announce`: for a torrent that names no tracker. `length_max`: bytes of the video.
    pub fn read(
        body: &[u8],
        video: &Url,
        announce: &[String],
        length_max: u64,
    ) -> Result<Self, BadOffer> {
        if body.len() > TORRENT_LEN_MAX {
            return Err(BadOffer::TooLong);
        }
        let mut metainfo = Metainfo::parse(body)?;
        let file = file_of(&metainfo, video).ok_or(BadOffer::NoFile)?;
        let length = metainfo.files[file].length;
        if length > length_max {
            return Err(BadOffer::FilmTooLong);
        }
        if metainfo.trackers.is_empty() {
            metainfo.trackers = announce.iter().map(|url| vec![url.clone()]).collect();
        }
        // A seed of several files is a directory (BEP 19): the video's URL could not stand for it.
        let single = metainfo.files.len() == 1;
        let known = metainfo.web_seeds.iter().any(|seed| {
            let url = metainfo.web_seed_url(seed, file);
            url.and_then(|url| Url::parse(&url).ok()).as_ref() == Some(video)
        });
        if single && !known {
            metainfo.web_seeds.insert(0, video.to_string());
        }
        let torrent = metainfo.to_torrent();
        if torrent.len() > TORRENT_LEN_MAX {
            return Err(BadOffer::TooLong);
        }
        Ok(Self {
            torrent,
            info_hash: metainfo.info_hash,
            length,
        })
    }
}

/// The only file, or the one that has the video's name.
fn file_of(metainfo: &Metainfo, video: &Url) -> Option<usize> {
    let mut files = metainfo.files.iter().enumerate();
    let mut real = files.clone().filter(|(_, file)| !file.pad);
    if let (Some((only, _)), None) = (real.next(), real.next()) {
        return Some(only);
    }
    let name = query::name(video)?;
    let found = files.find(|(_, file)| !file.pad && file.path.last() == Some(&name));
    found.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrent::metainfo::Builder;
    use crate::torrent::metainfo::FileEntry;

    const OURS: &str = "http://t.example/announce";

    fn read(body: &[u8]) -> Result<(Offer, Metainfo), BadOffer> {
        let video = Url::parse("https://v.example/films/b%20c.mp4").unwrap();
        let offer = Offer::read(body, &video, &[OURS.to_owned()], 1_000_000)?;
        let metainfo = Metainfo::parse(&offer.torrent).unwrap();
        assert_eq!(metainfo.info_hash, offer.info_hash);
        Ok((offer, metainfo))
    }

    fn one(length: usize) -> Builder {
        Builder::of("anything", 16_384, &vec![1; length])
    }

    fn several(names: &[&str]) -> Vec<u8> {
        let files = names.iter().map(|name| FileEntry {
            path: vec!["d".to_owned(), (*name).to_owned()],
            length: 5,
            pad: name.starts_with("pad"),
        });
        let builder = Builder {
            name: "set".to_owned(),
            piece_len: 16_384,
            hashes: vec![[1; 20]],
            ..Builder::default()
        };
        builder.build_files(&files.collect::<Vec<_>>())
    }

    #[test]
    fn what_a_torrent_lacks_is_added() {
        let body = one(50_000).build();
        let (offer, metainfo) = read(&body).unwrap();
        assert_eq!(metainfo.trackers, [[OURS]]);
        assert_eq!(metainfo.web_seeds, ["https://v.example/films/b%20c.mp4"]);
        assert_eq!(offer.length, 50_000);
        assert_eq!(
            metainfo.info_hash,
            Metainfo::parse(&body).unwrap().info_hash
        );
    }

    #[test]
    fn what_a_torrent_has_stays() {
        let seeds = [
            "https://other.example/x",
            "HTTPS://v.example:443/films/b%20c.mp4",
        ];
        let body = Builder {
            trackers: vec![vec!["udp://their.example:1".to_owned()]],
            web_seeds: seeds.map(str::to_owned).to_vec(),
            ..one(5)
        };
        let (_, metainfo) = read(&body.build()).unwrap();
        assert_eq!(metainfo.trackers, [["udp://their.example:1"]]);
        assert_eq!(metainfo.web_seeds, seeds);
    }

    #[test]
    fn of_several_files_the_named_one() {
        let (offer, metainfo) = read(&several(&["a.mp4", "b c.mp4"])).unwrap();
        assert_eq!(offer.length, 5);
        assert!(metainfo.web_seeds.is_empty());
        assert!(read(&several(&["pad", "x"])).is_ok());
        assert_eq!(read(&several(&["a.mp4", "c.mp4"])), Err(BadOffer::NoFile));
    }

    #[test]
    fn bad_ones_have_their_status() {
        let status = |body: &[u8]| read(body).unwrap_err().status();
        assert_eq!(status(b""), 422);
        assert_eq!(status(b"<html>"), 422);
        assert_eq!(status(&vec![b'd'; TORRENT_LEN_MAX + 1]), 413);
        assert_eq!(read(&one(1_000_001).build()), Err(BadOffer::FilmTooLong));
    }
}
