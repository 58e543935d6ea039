//! A film that was read: its torrent, written and told of.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use url::Url;

use crate::cli::Failed;
use crate::cli::publish::Order;
use crate::cli::publish::address::Published;
use crate::config::exit;
use crate::torrent::metainfo::{Builder, Metainfo, TORRENT_LEN_MAX};
use crate::torrent::stream_hash::Hashed;
use crate::tracker::registry::query;

pub struct Made<'a> {
    torrent: Vec<u8>,
    metainfo: Metainfo,
    order: &'a Order,
    videos: &'a [Url],
    plays: Option<std::time::Duration>,
    index_at_end: bool,
}

impl<'a> Made<'a> {
    /// `videos`: where the film is, one address at least. `fallback`: its name where the first
    /// address has none.
    pub fn new(
        hashed: Hashed,
        order: &'a Order,
        videos: &'a [Url],
        fallback: &str,
    ) -> Result<Self, Failed> {
        let (plays, index_at_end) = (hashed.plays, hashed.index_at_end);
        let name = query::name(&videos[0]).unwrap_or_else(|| fallback.to_owned());
        let trackers = order.trackers.iter();
        let builder = Builder {
            trackers: trackers.map(|url| vec![url.to_string()]).collect(),
            web_seeds: videos.iter().map(Url::to_string).collect(),
            ..hashed.into_builder(name)
        };
        let torrent = builder.build();
        if torrent.len() > TORRENT_LEN_MAX {
            let why = anyhow!("the film is too long: its torrent would have over 10 MiB");
            return Err(Failed::new(exit::DATA, why));
        }
        let metainfo = Metainfo::parse(&torrent).context("the torrent made")?;
        Ok(Self {
            torrent,
            metainfo,
            order,
            videos,
            plays,
            index_at_end,
        })
    }

    pub const fn plays(&self) -> Option<std::time::Duration> {
        self.plays
    }

    pub fn published(&self) -> Published<'_> {
        Published {
            name: &self.metainfo.name,
            videos: self.videos,
            trackers: &self.order.trackers,
            info_hash: self.metainfo.info_hash,
            length: self.metainfo.layout.length(),
        }
    }

    /// Writes the torrent, registers it if there is a registrar, warns. `source` is how the user
    /// calls the film; of one that is `alone` it is said what the publisher does next.
    pub fn publish(&self, output: &Path, source: &str, alone: bool) -> Result<(), Failed> {
        write(output, &self.torrent)?;
        if alone {
            self.print(output);
        }
        if let Some(registrar) = &self.order.registrar {
            registrar.register(&self.torrent, self.videos, &self.order.trackers)?;
        }
        self.warn(source);
        Ok(())
    }

    fn print(&self, output: &Path) {
        let published = self.published();
        let piece_len = indicatif::BinaryBytes(self.metainfo.layout.nominal_piece_len().into());
        let pieces = self.metainfo.layout.piece_count();
        println!("torrent    {}", output.display());
        println!(
            "           {} in {pieces} pieces of {piece_len}",
            indicatif::HumanBytes(published.length)
        );
        println!("address    {}", published.localhost());
        println!("magnet     {}", published.magnet());
        println!(
            "\nPut the torrent where the film is, as\n\n    {}\n",
            published.torrent_url()
        );
        println!("or have the web server name it in its answers:");
        for (server, words) in published.servers() {
            println!("\n    # {server}\n    {}", words.replace('\n', "\n    "));
        }
        println!("\nThe film in a page:\n");
        for line in published.snippet().lines() {
            println!("    {line}");
        }
    }

    /// What makes the film start late.
    fn warn(&self, source: &str) {
        if self.plays.is_none() {
            eprintln!(
                "bittube: how long {source} plays is not known; its pieces are chosen by its size"
            );
        }
        if self.index_at_end {
            let here = if source.contains("://") {
                &self.metainfo.name
            } else {
                source
            };
            let moved = Path::new(here).with_extension("web.mp4");
            eprintln!(
                "bittube: the index (moov) of {source} stands at its end, so that players fetch \
                 the end first. This moves it:\n    ffmpeg -i {} -c copy -movflags +faststart {}",
                quoted(source),
                quoted(&moved.display().to_string())
            );
        }
    }
}

/// Where a film's torrent lies if nothing else is said.
pub fn beside(film: &Path) -> PathBuf {
    let mut name = film.as_os_str().to_owned();
    name.push(".torrent");
    name.into()
}

/// In one step: a web server never gives half a file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    // Made anew: a link of that name would lead elsewhere.
    let made = fs::File::options().write(true).create_new(true).open(&new);
    let written = made.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // There may be none.
        let _ = fs::remove_file(&new);
    }
    written
        .with_context(|| path.display().to_string())
        .map_err(|error| Failed::new(exit::CANT_CREATE, error))
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
