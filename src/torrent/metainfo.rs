//! What a .torrent or a peer's info dictionary says (BEP 3, 12, 19, 27, 47), held to R30 and R31.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::AsciiSet;
use sha1::{Digest, Sha1};

use crate::torrent::bencode;
use crate::torrent::bencode::BadBencode;
use crate::torrent::bencode::Dict;
use crate::torrent::bencode::Encoder;
use crate::torrent::bencode::Item;
use crate::torrent::bencode::Value;
use crate::torrent::layout::Layout;
use crate::units::InfoHash;

/// Bytes of a .torrent fetched from the web (R30).
pub const TORRENT_LEN_MAX: usize = 10 * 1024 * 1024;
/// Bytes of an info dictionary, whoever gave it (R30).
pub const INFO_LEN_MAX: usize = 30 * 1024 * 1024;
/// What may stand around the info dictionary: trackers, web seeds, comments.
const WRAPPING_LEN_MAX: usize = 1024 * 1024;
/// R31.
pub const PIECE_LEN_MIN: u32 = 16 * 1024;
pub const PIECE_LEN_MAX: u32 = 64 * 1024 * 1024;
pub const PIECES_MAX: usize = 2_097_152;
pub const LENGTH_MAX: u64 = (1 << 48) - 1;
pub const FILES_MAX: usize = 100_000;
/// Names in one path, and in all paths of a torrent: a name of no letters costs us more than it
/// costs the sender.
const PATH_DEPTH_MAX: usize = 100;
const PATH_PARTS_MAX: usize = 1_000_000;
/// Trackers of all tiers together, and web seeds.
pub const URLS_MAX: usize = 64;
pub const URL_LEN_MAX: usize = 2048;

/// A v1 torrent, or the v1 half of a hybrid one (BEP 52).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// Over the info dictionary's bytes as found.
    pub info_hash: InfoHash,
    /// The info dictionary's bytes as found.
    pub info: Bytes,
    /// Lossy, for display.
    pub name: String,
    pub layout: Layout,
    /// SHA-1 of each piece.
    pub hashes: Vec<[u8; 20]>,
    /// As many, and in the order, as `layout.files()`.
    pub files: Vec<FileEntry>,
    /// BEP 27: peers come from the torrent's own trackers only.
    pub private: bool,
    /// Tiers in order (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// `url-list` (BEP 19).
    pub web_seeds: Vec<String>,
}

/// One file of a torrent. Its path is lossy: for matching and display, never for a disk (R32).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Without the torrent's own name; a torrent of one file has that name as its path.
    pub path: Vec<String>,
    /// Bytes.
    pub length: u64,
    /// BEP 47: zeros that align the next file.
    pub pad: bool,
}

/// A torrent that is refused; answered with 422 `bad-torrent` and this reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad torrent: {reason}")]
pub struct BadTorrent {
    pub reason: &'static str,
}

impl From<BadBencode> for BadTorrent {
    fn from(error: BadBencode) -> Self {
        bad(error.reason())
    }
}

const fn bad(reason: &'static str) -> BadTorrent {
    BadTorrent { reason }
}

impl Metainfo {
    /// A whole .torrent.
    pub fn parse(torrent: &[u8]) -> Result<Self, BadTorrent> {
        if torrent.len() > INFO_LEN_MAX + WRAPPING_LEN_MAX {
            return Err(bad("too-long"));
        }
        let root = bencode::parse(torrent)?.dict().ok_or(bad("no-dict"))?;
        let (mut info, mut announce, mut tiers, mut seeds) = (None, None, None, None);
        for (key, value) in root.iter() {
            match key {
                b"info" => info = value.dict(),
                b"announce" => announce = Some(value),
                b"announce-list" => tiers = Some(value),
                b"url-list" => seeds = Some(value),
                _ => {}
            }
        }
        let info = info.ok_or(bad("no-info"))?;
        let mut metainfo = Self::of_info(info, Bytes::copy_from_slice(info.raw()))?;
        metainfo.trackers = trackers(announce, tiers);
        metainfo.web_seeds = seeds.map(urls).unwrap_or_default();
        Ok(metainfo)
    }

    /// An info dictionary that peers gave (BEP 9): without trackers and web seeds.
    pub fn from_info(info: Bytes, expect: InfoHash) -> Result<Self, BadTorrent> {
        if info.len() > INFO_LEN_MAX {
            return Err(bad("too-long"));
        }
        if InfoHash(Sha1::digest(&info).into()) != expect {
            return Err(bad("wrong-info-hash"));
        }
        let dict = bencode::parse(&info)?.dict().ok_or(bad("no-dict"))?;
        Self::of_info(dict, info.clone())
    }

    fn of_info(dict: Dict<'_>, info: Bytes) -> Result<Self, BadTorrent> {
        if info.len() > INFO_LEN_MAX {
            return Err(bad("too-long"));
        }
        let info_hash = InfoHash(Sha1::digest(&info).into());
        if info_hash.is_zero() {
            return Err(bad("zero-info-hash"));
        }
        let keys = InfoKeys::of(dict);
        let Some(pieces) = keys.pieces else {
            return Err(bad(if keys.v2 { "v2-only" } else { "no-pieces" }));
        };
        let piece_len = keys
            .piece_len
            .and_then(|len| u32::try_from(len).ok())
            .filter(|len| (PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(len))
            .ok_or(bad("piece-length"))?;
        let name = match keys.name {
            Some(name) if !name.is_empty() => String::from_utf8_lossy(name).into_owned(),
            _ => info_hash.to_string(),
        };
        let files = match (keys.files, keys.length) {
            (Some(files), _) => files_of(files)?,
            (None, Some(length)) => vec![FileEntry {
                path: vec![name.clone()],
                length: u64::try_from(length).map_err(|_| bad("file-length"))?,
                pad: false,
            }],
            (None, None) => return Err(bad("no-files")),
        };
        let length = total(&files)?;
        let (hashes, rest) = pieces.as_chunks::<20>();
        let count = length.div_ceil(u64::from(piece_len));
        if !rest.is_empty() || hashes.len() > PIECES_MAX || u64::try_from(hashes.len()) != Ok(count)
        {
            return Err(bad("pieces"));
        }
        Ok(Self {
            info_hash,
            name,
            layout: Layout::new(piece_len, files.iter().map(|file| (file.length, file.pad))),
            hashes: hashes.to_vec(),
            files,
            private: keys.private,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            info,
        })
    }

    /// A .torrent with the info dictionary as found, the trackers and the web seeds.
    pub fn to_torrent(&self) -> Vec<u8> {
        wrap(&self.info, &self.trackers, &self.web_seeds)
    }

    /// The file at `path`, percent-decoded, with or without the torrent's name as first directory.
    pub fn file_at(&self, path: &str) -> Option<usize> {
        let path = path.trim_start_matches('/');
        let find = |path: &str| {
            self.files
                .iter()
                .position(|file| !file.pad && is_path(&file.path, path))
        };
        find(path).or_else(|| find(path.strip_prefix(&*self.name)?.strip_prefix('/')?))
    }

    /// The largest video, else the largest audio, else the largest file of any kind.
    pub fn largest_media(&self) -> Option<usize> {
        let largest = |is: &dyn Fn(&str) -> bool| {
            let files = self.files.iter().enumerate();
            files
                .filter(|(_, file)| {
                    !file.pad && file.length > 0 && file.path.last().is_some_and(|name| is(name))
                })
                .max_by_key(|(index, file)| (file.length, std::cmp::Reverse(*index)))
                .map(|(index, _)| index)
        };
        largest(&|name| has_extension(name, VIDEO))
            .or_else(|| largest(&|name| has_extension(name, AUDIO)))
            .or_else(|| largest(&|_| true))
    }

    /// Where a web seed keeps `file` (BEP 19): the seed itself for a torrent of one file, unless it
    /// ends in `/`; else the seed as a directory, the torrent's name and the path below it.
    pub fn web_seed_url(&self, seed: &str, file: usize) -> Option<String> {
        let info = bencode::parse(&self.info).ok()?.dict()?;
        let keys = InfoKeys::of(info);
        let mut url = seed.to_owned();
        let Some(files) = keys.files else {
            if url.ends_with('/') {
                push_segment(&mut url, keys.name?);
            }
            return (file == 0).then_some(url);
        };
        let entry = files.iter().nth(file)?.dict()?;
        if !url.ends_with('/') {
            url.push('/');
        }
        push_segment(&mut url, keys.name?);
        let path = entry.list(b"path.utf-8").or_else(|| entry.list(b"path"))?;
        for segment in path.iter() {
            url.push('/');
            push_segment(&mut url, segment.bytes()?);
        }
        Some(url)
    }
}

/// A .torrent for one file, or for several with [`Builder::build_files`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub name: String,
    pub piece_len: u32,
    /// Bytes.
    pub length: u64,
    /// SHA-1 of each piece.
    pub hashes: Vec<[u8; 20]>,
    pub trackers: Vec<Vec<String>>,
    pub web_seeds: Vec<String>,
}

impl Builder {
    /// Of `data` as one file.
    pub fn of(name: &str, piece_len: u32, data: &[u8]) -> Self {
        let step = usize::try_from(piece_len).expect("fits memory");
        Self {
            name: name.to_owned(),
            piece_len,
            length: u64::try_from(data.len()).expect("fits"),
            hashes: data
                .chunks(step)
                .map(|piece| Sha1::digest(piece).into())
                .collect(),
            ..Self::default()
        }
    }

    pub fn build(&self) -> Vec<u8> {
        let length = i64::try_from(self.length).expect("R31 bounds lengths");
        self.finish(Encoder::new().int(b"length", length))
    }

    /// As a directory called `name`; `length` is not used.
    pub fn build_files(&self, files: &[FileEntry]) -> Vec<u8> {
        let files = files.iter().map(|file| {
            let path = file.path.iter().map(|part| Item::from(part.as_str()));
            let dict = Encoder::new()
                .int(
                    b"length",
                    i64::try_from(file.length).expect("R31 bounds lengths"),
                )
                .list(b"path", path.collect());
            Item::Dict(if file.pad {
                dict.text(b"attr", "p")
            } else {
                dict
            })
        });
        self.finish(Encoder::new().list(b"files", files.collect()))
    }

    fn finish(&self, info: Encoder<'_>) -> Vec<u8> {
        let info = info
            .text(b"name", &self.name)
            .int(b"piece length", self.piece_len)
            .bytes(b"pieces", self.hashes.as_flattened())
            .finish();
        wrap(&info, &self.trackers, &self.web_seeds)
    }
}

/// The .torrent of `data` as one file.
pub fn make(name: &str, piece_len: u32, data: &[u8]) -> Vec<u8> {
    Builder::of(name, piece_len, data).build()
}

/// Piece length for a file of `length` bytes that plays at `bitrate` bytes a second: at most half
/// a second of film (DESIGN §8), a power of two, from 16 KiB to 16 MiB. Without a bitrate about a
/// thousand pieces. Never so small that the hashes outgrow what stubs fetch.
pub fn piece_len_for(length: u64, bitrate: Option<u64>) -> u32 {
    const LARGEST: u64 = 16 * 1024 * 1024;
    const HASHES_MAX: u64 = 400_000;
    const PIECES_WISHED: u64 = 1_024;
    let wished = match bitrate {
        Some(bitrate) => power_at_most(bitrate / 2),
        None => power_at_most(length / PIECES_WISHED),
    };
    let mut len = wished.clamp(u64::from(PIECE_LEN_MIN), LARGEST);
    while len < LARGEST && length.div_ceil(len) > HASHES_MAX {
        len *= 2;
    }
    u32::try_from(len).expect("at most 16 MiB")
}

/// Bytes a second of a film that has `length` bytes and `plays` so long; `None` if that is no time.
pub fn bitrate(length: u64, plays: Duration) -> Option<u64> {
    let bytes = u128::from(length) * 1000;
    u64::try_from(bytes.checked_div(plays.as_millis())?).ok()
}

fn power_at_most(value: u64) -> u64 {
    value.checked_ilog2().map_or(1, |log| 1 << log)
}

/// The keys of an info dictionary that are looked at, from one walk.
#[derive(Default)]
struct InfoKeys<'a> {
    name: Option<&'a [u8]>,
    piece_len: Option<i64>,
    pieces: Option<&'a [u8]>,
    length: Option<i64>,
    files: Option<bencode::List<'a>>,
    private: bool,
    v2: bool,
}

impl<'a> InfoKeys<'a> {
    fn of(info: Dict<'a>) -> Self {
        let mut keys = Self::default();
        let mut name_utf8 = None;
        for (key, value) in info.iter() {
            match key {
                b"name" => keys.name = value.bytes(),
                b"name.utf-8" => name_utf8 = value.bytes(),
                b"piece length" => keys.piece_len = value.int(),
                b"pieces" => keys.pieces = value.bytes(),
                b"length" => keys.length = value.int(),
                b"files" => keys.files = value.list(),
                b"private" => keys.private = value.int().is_some_and(|flag| flag != 0),
                b"file tree" | b"meta version" => keys.v2 = true,
                _ => {}
            }
        }
        keys.name = name_utf8.or(keys.name);
        keys
    }
}

fn files_of(list: bencode::List<'_>) -> Result<Vec<FileEntry>, BadTorrent> {
    let mut files: Vec<FileEntry> = Vec::new();
    let mut parts = 0;
    for entry in list.iter() {
        if files.len() == FILES_MAX || parts > PATH_PARTS_MAX {
            return Err(bad("too-many-files"));
        }
        let file = file_of(entry.dict().ok_or(bad("file-entry"))?)?;
        parts += file.path.len();
        files.push(file);
    }
    Ok(files)
}

fn file_of(entry: Dict<'_>) -> Result<FileEntry, BadTorrent> {
    let (mut length, mut path, mut path_utf8, mut attr) = (None, None, None, &b""[..]);
    for (key, value) in entry.iter() {
        match key {
            b"length" => length = value.int(),
            b"path" => path = value.list(),
            b"path.utf-8" => path_utf8 = value.list(),
            b"attr" => attr = value.bytes().unwrap_or_default(),
            _ => {}
        }
    }
    let path = path_utf8.or(path).ok_or(bad("file-path"))?;
    let path: Vec<String> = path
        .iter()
        .take(PATH_DEPTH_MAX + 1)
        .map(|part| Some(String::from_utf8_lossy(part.bytes()?).into_owned()))
        .collect::<Option<_>>()
        .filter(|path: &Vec<_>| (1..=PATH_DEPTH_MAX).contains(&path.len()))
        .ok_or(bad("file-path"))?;
    // BEP 47: a symlink takes no room, whatever its length says.
    let length = if attr.contains(&b'l') {
        Some(0)
    } else {
        length
    };
    Ok(FileEntry {
        pad: attr.contains(&b'p') || is_pad_path(&path),
        length: length
            .and_then(|length| u64::try_from(length).ok())
            .ok_or(bad("file-length"))?,
        path,
    })
}

/// `.pad/<digits>`, as BEP 47 names padding; some writers leave the attribute out.
fn is_pad_path(path: &[String]) -> bool {
    match path {
        [dir, name] => dir == ".pad" && name.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

fn total(files: &[FileEntry]) -> Result<u64, BadTorrent> {
    let mut sum = 0u64;
    for file in files {
        sum = sum
            .checked_add(file.length)
            .filter(|sum| *sum <= LENGTH_MAX)
            .ok_or(bad("too-large"))?;
    }
    if sum == 0 {
        return Err(bad("empty"));
    }
    Ok(sum)
}

/// BEP 12: `announce` counts only where there is no list. Empty tiers are left out.
fn trackers(announce: Option<Value<'_>>, tiers: Option<Value<'_>>) -> Vec<Vec<String>> {
    let mut left = URLS_MAX;
    let mut out: Vec<Vec<String>> = Vec::new();
    for tier in tiers
        .and_then(Value::list)
        .iter()
        .flat_map(|list| list.iter())
    {
        let mut tier = urls(tier);
        tier.retain(|url| !out.iter().flatten().any(|known| known == url));
        tier.truncate(left);
        left -= tier.len();
        if !tier.is_empty() {
            out.push(tier);
        }
    }
    if out.is_empty() {
        out.extend(announce.map(urls).filter(|tier| !tier.is_empty()));
    }
    out
}

/// A string or a list of strings; each once, blanks around it gone.
fn urls(value: Value<'_>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut add = |value: Value<'_>| {
        let url = value.text().unwrap_or_default().trim();
        let fits = !url.is_empty() && url.len() <= URL_LEN_MAX && out.len() < URLS_MAX;
        if fits && !out.iter().any(|known| known == url) {
            out.push(url.to_owned());
        }
    };
    match value {
        Value::List(list) => list.iter().for_each(add),
        value => add(value),
    }
    out
}

/// `info` goes in as found, even with its keys unsorted: hence around it, not through the encoder.
fn wrap(info: &[u8], trackers: &[Vec<String>], web_seeds: &[String]) -> Vec<u8> {
    let strings = |urls: &'_ [String]| {
        urls.iter()
            .map(|url| Item::from(url.as_bytes().to_vec()))
            .collect()
    };
    let mut before = Encoder::new();
    if let Some(first) = trackers.iter().flatten().next() {
        before = before.text(b"announce", first);
    }
    if trackers.iter().flatten().count() > 1 {
        let tiers = trackers.iter().map(|tier| Item::List(strings(tier)));
        before = before.list(b"announce-list", tiers.collect());
    }
    let mut after = Encoder::new();
    if !web_seeds.is_empty() {
        after = after.list(b"url-list", strings(web_seeds));
    }
    let mut out = before.finish();
    out.pop();
    out.extend_from_slice(b"4:info");
    out.extend_from_slice(info);
    out.extend_from_slice(&after.finish()[1..]);
    out
}

fn is_path(parts: &[String], path: &str) -> bool {
    let mut rest = path;
    for (index, part) in parts.iter().enumerate() {
        let after = if index == 0 {
            Some(rest)
        } else {
            rest.strip_prefix('/')
        };
        match after.and_then(|rest| rest.strip_prefix(part.as_str())) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

const VIDEO: &[&str] = &[
    "mp4", "m4v", "mkv", "webm", "mov", "avi", "ts", "m2ts", "mts", "mpg", "mpeg", "flv", "ogv",
    "wmv", "3gp", "vob",
];
const AUDIO: &[&str] = &[
    "mp3", "m4a", "m4b", "aac", "flac", "ogg", "oga", "opus", "wav", "weba", "wma",
];

fn has_extension(name: &str, list: &[&str]) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|found| list.iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// All that RFC 3986 §2.3 does not call unreserved.
const RESERVED: &AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn push_segment(url: &mut String, segment: &[u8]) {
    url.extend(percent_encoding::percent_encode(segment, RESERVED));
}

#[cfg(test)]
mod tests;
