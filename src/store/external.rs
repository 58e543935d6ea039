//! Somebody's own files as a torrent's data, never written to: what `bittube seed` serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::store::Disk;
use crate::store::files::Place;
use crate::store::names;
use crate::store::torrent::Torrent;
use crate::torrent::metainfo::Metainfo;

/// Opens `data` (a torrent's file, its directory, or the directory that holds either) read-only.
/// Every piece is [`Torrent::suspect`] until its rehash job found it good; missing files are
/// missing pieces. Links inside `data` are followed only if they stay inside.
pub fn open_external(meta: &Metainfo, data: &Path) -> Result<Torrent, Disk> {
    let data = data.canonicalize()?;
    let (base, paths) = if data.is_dir() {
        let paths = find_paths(meta, &data);
        (data, paths)
    } else {
        if meta.files.iter().filter(|file| !file.pad).count() != 1 {
            return Err(Disk::Io(io::ErrorKind::NotADirectory.into()));
        }
        let name = data.file_name().map(PathBuf::from);
        let base = data.parent().map(Path::to_owned).unwrap_or_default();
        let own = |pad: bool| name.clone().filter(|_| !pad);
        let paths = meta.files.iter().map(|file| own(file.pad)).collect();
        (base, paths)
    };
    if paths.iter().all(Option::is_none) {
        return Err(Disk::Io(io::ErrorKind::NotFound.into()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(&base, flags, Mode::empty()).map_err(io::Error::from)?;
    let hashes = meta.hashes.as_slice().into();
    let layout = Arc::new(meta.layout.clone());
    let place = Place::External(base, paths);
    Ok(Torrent::external(place, layout, hashes))
}

/// Each file as the torrent's name says, below the torrent's own directory or without it.
fn find_paths(meta: &Metainfo, data: &Path) -> Vec<Option<PathBuf>> {
    let found = names::paths(meta).into_iter().map(|path| {
        let full = path?;
        let mut inner = full.components();
        inner.next();
        let inner = inner.as_path().to_owned();
        let below = Path::new(&names::clean(&meta.name)).join(&full);
        [full, inner, below]
            .into_iter()
            .find(|path| !path.as_os_str().is_empty() && data.join(path).is_file())
    });
    found.collect()
}
