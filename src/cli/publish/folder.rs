//! A folder of films: a torrent beside each, and a playlist of them all.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use url::Url;

use crate::cli::Failed;
use crate::cli::progress;
use crate::cli::publish::Order;
use crate::cli::publish::address::WHOLE;
use crate::cli::publish::film::{Film, OPEN, Stamp};
use crate::cli::publish::made::{self, Made};
use crate::cli::publish::playlist::Playlist;
use crate::config::exit;

/// Folders within folders.
const DEPTH_MAX: usize = 16;
/// Names that are looked at.
const NAMES_MAX: usize = 100_000;
/// Films of one playlist.
const FILMS_MAX: usize = 10_000;
const PLAYLIST: &str = "playlist.m3u8";

pub struct Folder {
    order: Order,
    dir: OwnedFd,
    playlist: PathBuf,
    /// What was published, by its place in the folder.
    films: BTreeMap<PathBuf, Listed>,
}

/// A film of the playlist.
struct Listed {
    stamp: Stamp,
    /// `None`: nothing that plays.
    entry: Option<Entry>,
}

struct Entry {
    plays: Option<Duration>,
    address: String,
}

impl Folder {
    pub fn open(mut order: Order) -> Result<Self, Failed> {
        for url in &mut order.videos {
            if url.query().is_some() {
                let why = anyhow!("{url}: a folder's address has no query");
                return Err(Failed::new(exit::USAGE, why));
            }
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&order.source, flags, Mode::empty())
            .map_err(io::Error::from)
            .with_context(|| order.source.display().to_string())
            .map_err(|error| Failed::new(exit::NO_INPUT, error))?;
        let playlist = match &order.output {
            Some(path) => path.clone(),
            None => order.source.join(PLAYLIST),
        };
        Ok(Self {
            order,
            dir,
            playlist,
            films: BTreeMap::new(),
        })
    }

    pub const fn order(&self) -> &Order {
        &self.order
    }

    /// Makes the torrents of what is new or was changed, and the playlist.
    pub fn publish(&mut self, stop: &AtomicBool) -> Result<(), Failed> {
        self.refuse_foreign_playlist()?;
        let found = self.look().map_err(|error| Failed::new(exit::IO, error))?;
        for (path, stamp) in &found {
            if self
                .films
                .get(path)
                .is_none_or(|known| known.stamp != *stamp)
            {
                let Some(listed) = self.publish_film(path, stop)? else {
                    return Ok(());
                };
                self.films.insert(path.clone(), listed);
            }
        }
        let there: BTreeSet<_> = found.iter().map(|(path, _)| path).collect();
        self.films.retain(|path, _| there.contains(path));
        let order = found.iter().map(|(path, _)| path);
        let listed: Vec<_> = order
            .filter_map(|path| Some((path, self.films[path].entry.as_ref()?)))
            .collect();
        if listed.is_empty() {
            let why = anyhow!("{}: no films in it", self.order.source.display());
            return Err(Failed::new(exit::NO_INPUT, why));
        }
        if listed.len() > FILMS_MAX {
            let why = anyhow!("over {FILMS_MAX} films in one folder");
            return Err(Failed::new(exit::DATA, why));
        }
        let mut playlist = Playlist::default();
        for (path, entry) in &listed {
            let title = path.file_stem().unwrap_or_default().to_string_lossy();
            playlist.add(&title, entry.plays, &entry.address);
        }
        let title = self.order.source.file_name().unwrap_or_default();
        let text = playlist.finish(&title.to_string_lossy());
        made::write(&self.playlist, text.as_bytes())?;
        self.print(&listed);
        Ok(())
    }

    /// All files that may be films, in the order in which they play.
    pub fn look(&self) -> anyhow::Result<Vec<(PathBuf, Stamp)>> {
        let mut walk = Walk::default();
        walk.folder(&self.dir, Path::new(""), 0)
            .with_context(|| self.order.source.display().to_string())?;
        walk.found.sort_by(|(a, _), (b, _)| natural_paths(a, b));
        Ok(walk.found)
    }

    /// `None` once `stop` is set.
    fn publish_film(&self, path: &Path, stop: &AtomicBool) -> Result<Option<Listed>, Failed> {
        let io = |error: anyhow::Error| Failed::new(exit::IO, error);
        let shown = self.order.source.join(path);
        let film = Film::open_in(&self.dir, path).map_err(io)?;
        let stamp = film.stamp();
        let is_media = film.is_media();
        let is_media = is_media.with_context(|| shown.display().to_string());
        if !is_media.map_err(io)? {
            return Ok(Some(Listed { stamp, entry: None }));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bar = progress::bar(stamp.length, "hashing");
        bar.set_message(name.clone().into_owned());
        let hashed = film.hash(stop, |len| bar.inc(len));
        bar.finish_and_clear();
        let hashed = hashed.with_context(|| shown.display().to_string());
        let Some(hashed) = hashed.map_err(io)? else {
            return Ok(None);
        };
        let videos: Vec<Url> = self
            .order
            .videos
            .iter()
            .map(|url| within(url, path))
            .collect();
        let made = Made::new(hashed, &self.order, &videos, &name)?;
        made.publish(&made::beside(&shown), &shown.display().to_string(), false)?;
        let entry = Entry {
            plays: made.plays(),
            address: made.published().localhost(),
        };
        Ok(Some(Listed {
            stamp,
            entry: Some(entry),
        }))
    }

    fn refuse_foreign_playlist(&self) -> Result<(), Failed> {
        let mut head = [0; 256];
        let opened = rustix::fs::open(&self.playlist, OPEN, Mode::empty());
        let theirs = match opened {
            Ok(fd) => match fs::File::from(fd).read_at(&mut head, 0) {
                Ok(len) => !Playlist::is_ours(&head[..len]),
                Err(_) => true,
            },
            Err(error) => error != Errno::NOENT,
        };
        if theirs {
            let why = anyhow!(
                "{}: not a playlist of ours; name another with -o",
                self.playlist.display()
            );
            return Err(Failed::new(exit::CANT_CREATE, why));
        }
        Ok(())
    }

    fn print(&self, listed: &[(&PathBuf, &Entry)]) {
        println!("playlist   {}", self.playlist.display());
        for (path, entry) in listed {
            println!("{}\n    {}", path.display(), entry.address);
        }
        println!(
            "\n{} films, with the torrent of each beside it. Put them, the torrents and the \
             playlist to\n\n    {}\n",
            listed.len(),
            self.order.videos[0]
        );
    }
}

#[derive(Default)]
struct Walk {
    names: usize,
    found: Vec<(PathBuf, Stamp)>,
}

impl Walk {
    /// `at`: the folder's place in the first one.
    fn folder(&mut self, dir: &OwnedFd, at: &Path, depth: usize) -> anyhow::Result<()> {
        if depth > DEPTH_MAX {
            bail!(
                "over {DEPTH_MAX} folders within each other: {}",
                at.display()
            );
        }
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // Hidden ones, itself, the one above, and what publishing makes.
            let made = name.as_bytes().ends_with(b".torrent");
            if name.as_bytes().starts_with(b".") || made || name == PLAYLIST {
                continue;
            }
            self.names += 1;
            if self.names > NAMES_MAX {
                bail!("over {NAMES_MAX} names");
            }
            // Whatever goes away meanwhile is not there.
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let place = at.join(name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    if let Some(inner) = beneath(dir, name)? {
                        self.folder(&inner, &place, depth + 1)?;
                    }
                }
                FileType::Symlink => {
                    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                    let path = OFlags::PATH | OFlags::CLOEXEC;
                    let target = rustix::fs::openat2(dir, name, path, Mode::empty(), resolve);
                    let stat = target.and_then(rustix::fs::fstat).ok();
                    self.found.extend(stat.and_then(|stat| film(place, &stat)));
                }
                _ => self.found.extend(film(place, &stat)),
            }
        }
        Ok(())
    }
}

/// A file with something in it; a folder behind a link is left out.
fn film(place: PathBuf, stat: &rustix::fs::Stat) -> Option<(PathBuf, Stamp)> {
    let stamp = Stamp::of(stat).filter(|stamp| stamp.length > 0)?;
    Some((place, stamp))
}

/// `None`: it has become something else, or has gone.
fn beneath(dir: &OwnedFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        Ok(inner) => Ok(Some(inner)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The address of what lies at `path` in the folder that `base` is the address of.
fn within(base: &Url, path: &Path) -> Url {
    let parts = path.iter().map(|part| {
        let part = percent_encoding::percent_encode(part.as_bytes(), WHOLE);
        part.to_string()
    });
    let mut url = base.clone();
    url.set_path(&format!(
        "{}{}",
        base.path(),
        parts.collect::<Vec<_>>().join("/")
    ));
    url
}

fn natural_paths(a: &Path, b: &Path) -> Ordering {
    let mut pairs = a
        .iter()
        .zip(b)
        .map(|(a, b)| natural(a.as_bytes(), b.as_bytes()));
    let differs = pairs.find(|order| order.is_ne());
    differs.unwrap_or_else(|| a.iter().count().cmp(&b.iter().count()))
}

/// As people sort: `Part 2` before `part 10`.
fn natural(a: &[u8], b: &[u8]) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (Some(first), Some(second)) = (left.first(), right.first()) else {
            // One is the other's beginning, or they differ in case and zeros only.
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        };
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (one, other) = (number(&mut left), number(&mut right));
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            first.to_ascii_lowercase().cmp(&second.to_ascii_lowercase())
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits at the front, without the zeros before them.
fn number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(path: &Path) -> Folder {
        let order = Order {
            source: path.to_owned(),
            videos: vec!["http://v.example/films".parse().unwrap()],
            trackers: Vec::new(),
            output: None,
            watch: false,
            registrar: None,
        };
        Folder::open(order).unwrap()
    }

    #[test]
    fn names_sort_as_people_do() {
        let mut names = [
            "part 10.mp4",
            "Part 2.mp4",
            "part 1/b.mp4",
            "part 1/a 09.mp4",
            "part 1/a 9.mp4",
            "a.mp4",
            "part 1.mp4",
            "B.mp4",
            "part",
        ]
        .map(Path::new);
        names.sort_by(|a, b| natural_paths(a, b));
        let sorted = [
            "a.mp4",
            "B.mp4",
            "part",
            "part 1/a 09.mp4",
            "part 1/a 9.mp4",
            "part 1/b.mp4",
            "part 1.mp4",
            "Part 2.mp4",
            "part 10.mp4",
        ];
        assert_eq!(names, sorted.map(Path::new));
    }

    #[test]
    fn a_place_is_an_address() {
        let base = "https://v.example/f%20s/".parse().unwrap();
        let path = Path::new(OsStr::from_bytes(b"a:b/50% #1?\xff.mp4"));
        let url = within(&base, path);
        assert_eq!(
            url.as_str(),
            "https://v.example/f%20s/a%3Ab/50%25%20%231%3F%FF.mp4"
        );
    }

    #[test]
    fn only_what_lies_in_the_folder_is_found() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.mp4"), b"x").unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("two/inner")).unwrap();
        for name in [
            "one.mp4",
            "two/a.mp4",
            "two/inner/b.mp4",
            ".hidden.mp4",
            "one.mp4.torrent",
        ] {
            fs::write(at(name), b"x").unwrap();
        }
        fs::write(at("empty.mp4"), b"").unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link(Path::new("one.mp4"), "three.mp4");
        link(&outside.path().join("secret.mp4"), "out.mp4");
        link(outside.path(), "outside");
        link(Path::new("."), "loop");
        link(Path::new("nothing"), "broken.mp4");
        let mode = Mode::RUSR | Mode::WUSR;
        let fifo = at("fifo.mp4");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        let found = folder(root.path()).look().unwrap();
        let found: Vec<_> = found.iter().map(|(path, _)| path.as_path()).collect();
        let right = ["one.mp4", "three.mp4", "two/a.mp4", "two/inner/b.mp4"];
        assert_eq!(found, right.map(Path::new));
    }

    #[test]
    fn folders_within_each_other_have_an_end() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/".repeat(DEPTH_MAX));
        fs::create_dir_all(&deep).unwrap();
        assert!(folder(root.path()).look().is_ok());
        fs::create_dir(deep.join("a")).unwrap();
        assert!(folder(root.path()).look().is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_order_is_one(a in "[aB0-9 ]{0,6}", b in "[aB0-9 ]{0,6}", c in "[aB0-9 ]{0,6}") {
            let order = |one: &str, other: &str| natural(one.as_bytes(), other.as_bytes());
            prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
            prop_assert_eq!(order(&a, &b).is_eq(), a == b);
            if order(&a, &b).is_le() && order(&b, &c).is_le() {
                prop_assert!(order(&a, &c).is_le());
            }
        }
    }
}
