//! `bittube publish`: a film's torrent, and what its publisher puts into pages and servers.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use url::Url;

use crate::cli::Failed;
use crate::cli::progress;
use crate::cli::publish::address::Published;
use crate::cli::publish::film::{Container, Film};
use crate::config::exit;
use crate::torrent::metainfo::{Builder, Metainfo, TORRENT_LEN_MAX, piece_len_for};

mod address;
mod film;

/// What is to be published, as typed.
pub struct Order {
    pub film: PathBuf,
    /// Where the film is on the web: one at least, the first its address.
    pub videos: Vec<Url>,
    /// Each a tier of its own: all are announced to.
    pub trackers: Vec<Url>,
    pub output: Option<PathBuf>,
}

/// Hashes the film, writes its torrent, and says what to do with it.
pub fn run(order: &Order) -> Result<(), Failed> {
    let film = Film::open(&order.film).map_err(|error| Failed::new(exit::NO_INPUT, error))?;
    let output = match &order.output {
        Some(path) => path.clone(),
        None => beside(&order.film),
    };
    let container = film
        .container()
        .context("reading the film")
        .map_err(|error| Failed::new(exit::IO, error))?;
    let torrent =
        torrent(order, &film, &container).map_err(|error| Failed::new(exit::IO, error))?;
    write(&output, &torrent).map_err(|error| Failed::new(exit::CANT_CREATE, error))?;
    let metainfo = Metainfo::parse(&torrent).context("the torrent made")?;
    let published = Published {
        name: &metainfo.name,
        videos: &order.videos,
        trackers: &order.trackers,
        info_hash: metainfo.info_hash,
        length: film.length,
    };
    print(&order.film, &output, &metainfo, &published, &container);
    Ok(())
}

fn torrent(order: &Order, film: &Film, container: &Container) -> anyhow::Result<Vec<u8>> {
    let bitrate = container.plays.and_then(|plays| {
        let bytes = u128::from(film.length) * 1000;
        u64::try_from(bytes.checked_div(plays.as_millis())?).ok()
    });
    let piece_len = piece_len_for(film.length, bitrate);
    let bar = progress::bar(film.length, "hashing");
    let hashes = film.hashes(piece_len, |len| bar.inc(len))?;
    bar.finish_and_clear();
    let builder = Builder {
        name: name(&order.videos[0], &order.film),
        piece_len,
        length: film.length,
        hashes,
        trackers: order
            .trackers
            .iter()
            .map(|url| vec![url.to_string()])
            .collect(),
        web_seeds: order.videos.iter().map(Url::to_string).collect(),
    };
    let torrent = builder.build();
    if torrent.len() > TORRENT_LEN_MAX {
        bail!("the film is too long: its torrent would have over 10 MiB");
    }
    Ok(torrent)
}

/// As the web names the film; else as the disk does.
fn name(video: &Url, film: &Path) -> String {
    let last = video.path().rsplit('/').next().unwrap_or_default();
    let last = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
    if !last.is_empty() && last != "." && last != ".." && !last.contains('/') {
        return last.into_owned();
    }
    film.file_name()
        .map_or_else(|| "film".into(), |name| name.to_string_lossy().into_owned())
}

fn beside(film: &Path) -> PathBuf {
    let mut name = film.as_os_str().to_owned();
    name.push(".torrent");
    name.into()
}

/// In one step: a web server never gives half a torrent.
fn write(path: &Path, torrent: &[u8]) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(torrent)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // There may be none.
        let _ = fs::remove_file(&new);
    }
    written.with_context(|| path.display().to_string())
}

fn print(
    film: &Path,
    output: &Path,
    metainfo: &Metainfo,
    published: &Published<'_>,
    container: &Container,
) {
    let piece_len = indicatif::BinaryBytes(metainfo.layout.nominal_piece_len().into());
    let pieces = metainfo.layout.piece_count();
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
    if container.plays.is_none() {
        eprintln!(
            "bittube: how long {} plays is not known; its pieces are chosen by its size",
            film.display()
        );
    }
    if container.index_at_end {
        eprintln!(
            "bittube: the film's index (moov) stands at its end, so that players fetch the end \
             first. This moves it:\n    ffmpeg -i {} -c copy -movflags +faststart {}",
            quoted(film),
            quoted(&film.with_extension("web.mp4"))
        );
    }
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
