//! `bittube publish`: torrents of films, and what their publisher puts into pages and servers.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use url::Url;

use crate::cli::Failed;
use crate::cli::progress;
use crate::cli::publish::film::{Film, Stamp};
use crate::cli::publish::folder::Folder;
use crate::cli::publish::made::Made;
use crate::cli::publish::register::Registrar;
use crate::cli::publish::watch::{Seen, watch};
use crate::config::Config;
use crate::config::exit;

mod address;
mod film;
mod folder;
mod made;
mod playlist;
pub mod register;
mod remote;
mod watch;

/// What is to be published, as typed.
pub struct Order {
    /// A film, a folder of films, or a film's URL.
    pub source: PathBuf,
    /// Where it is on the web: the first is its address. A URL may be its own.
    pub videos: Vec<Url>,
    /// Each a tier of its own: all are announced to.
    pub trackers: Vec<Url>,
    /// The torrent, or a folder's playlist.
    pub output: Option<PathBuf>,
    /// Publish again whenever it changes.
    pub watch: bool,
    pub registrar: Option<Registrar>,
}

/// Hashes the film, writes its torrent, and says what to do with it.
pub fn run(order: Order, config: &Config) -> Result<(), Failed> {
    if let Some(url) = web_address(&order)? {
        return remote(&order, url, config);
    }
    if order.videos.is_empty() {
        return Err(usage("--url tells where the film is on the web"));
    }
    let mut local = if order.source.is_dir() {
        Local::Folder(Box::new(Folder::open(order)?))
    } else {
        Local::File(File::open(order)?)
    };
    let seen = local.look();
    local.publish(&AtomicBool::new(false))?;
    if local.order().watch {
        watch(local, seen)?;
    }
    Ok(())
}

/// What lies on this disk, and may be published again.
enum Local {
    File(File),
    Folder(Box<Folder>),
}

impl Local {
    const fn order(&self) -> &Order {
        match self {
            Self::File(file) => &file.order,
            Self::Folder(folder) => folder.order(),
        }
    }

    /// Does nothing more once `stop` is set.
    fn publish(&mut self, stop: &AtomicBool) -> Result<(), Failed> {
        match self {
            Self::File(file) => file.publish(stop),
            Self::Folder(folder) => folder.publish(stop),
        }
    }

    fn look(&self) -> Seen {
        match self {
            Self::File(file) => {
                let stat = rustix::fs::stat(&file.order.source).ok()?;
                Some(vec![(PathBuf::new(), Stamp::of(&stat)?)])
            }
            Self::Folder(folder) => folder.look().ok(),
        }
    }
}

/// One film.
struct File {
    order: Order,
    output: PathBuf,
}

impl File {
    fn open(order: Order) -> Result<Self, Failed> {
        if let Some(url) = order.videos.iter().find(|url| url.path().ends_with('/')) {
            return Err(usage(format!(
                "{url} is the address of a folder, not of a film"
            )));
        }
        let output = match &order.output {
            Some(path) => path.clone(),
            None => made::beside(&order.source),
        };
        Ok(Self { order, output })
    }

    fn publish(&self, stop: &AtomicBool) -> Result<(), Failed> {
        let Order { source, videos, .. } = &self.order;
        let film = Film::open(source).map_err(|error| Failed::new(exit::NO_INPUT, error))?;
        let bar = progress::bar(film.stamp().length, "hashing");
        let hashed = film.hash(stop, |len| bar.inc(len));
        bar.finish_and_clear();
        let hashed = hashed.map_err(|error| Failed::new(exit::IO, error))?;
        let Some(hashed) = hashed else { return Ok(()) };
        let fallback = source.file_name().unwrap_or_default().to_string_lossy();
        let made = Made::new(hashed, &self.order, videos, &fallback)?;
        made.publish(&self.output, &source.display().to_string(), true)
    }
}

fn remote(order: &Order, url: Url, config: &Config) -> Result<(), Failed> {
    if order.watch {
        return Err(usage("--watch is for what lies on this disk"));
    }
    let name = crate::cli::get::name_of(url.as_str());
    let output = match &order.output {
        Some(path) => path.clone(),
        None => made::beside(name.as_ref()),
    };
    let hashed = remote::hash(&url, config)?;
    let source = url.to_string();
    let videos = if order.videos.is_empty() {
        &[url][..]
    } else {
        &order.videos
    };
    Made::new(hashed, order, videos, &name)?.publish(&output, &source, true)
}

/// The source, if it is a URL: held to what is asked of a film's address.
fn web_address(order: &Order) -> Result<Option<Url>, Failed> {
    let text = order.source.to_str().unwrap_or_default();
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(None);
    }
    let url = crate::cli::args::video(text).map_err(|why| usage(format!("{text}: {why}")))?;
    if url.path().ends_with('/') {
        return Err(usage(format!(
            "{text}: a folder can be published where it lies"
        )));
    }
    Ok(Some(url))
}

fn usage(why: impl Into<String>) -> Failed {
    Failed::new(exit::USAGE, anyhow!(why.into()))
}
