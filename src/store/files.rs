//! A torrent's files: opened on demand by number, never by a torrent's name, and read by offset.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{
    Advice, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags,
    SeekFrom, Stat,
};
use rustix::io::Errno;

use crate::ring::mapping::Mapping;
use crate::store::Disk;
use crate::store::resume::FileMark;
use crate::torrent::layout::{Layout, Segment};
use crate::units::ByteRange;

/// Open at once for one torrent; beyond it the longest open is closed.
const OPEN_MAX: usize = 256;
/// Parts of one write (the kernel's IOV_MAX is 1024).
const RUN_PARTS_MAX: usize = 256;
/// What holes are punched in.
const DISK_BLOCK_LEN: u64 = 4096;

/// Where a torrent's files are.
pub(crate) enum Place {
    /// Its directory in the store, locked while anything refers to it: `0`, `1`, …
    Store(OwnedFd),
    /// Somebody's own files below a directory, read only; `None` where there is none.
    External(OwnedFd, Vec<Option<PathBuf>>),
}

impl Place {
    /// Makes new files' names outlive the machine.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Store(dir) => Ok(rustix::fs::fsync(dir)?),
            Self::External(..) => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Store(dir) = self {
            // A child that is between fork and exec holds a copy of this descriptor.
            let _ = rustix::fs::flock(dir, FlockOperation::Unlock);
        }
    }
}

struct Handle {
    file: Arc<File>,
    writable: bool,
    map: Option<Arc<Mapping>>,
    turn: u64,
}

pub(crate) struct Files {
    place: Arc<Place>,
    layout: Arc<Layout>,
    create: bool,
    open: RefCell<BTreeMap<usize, Handle>>,
    turn: Cell<u64>,
}

impl Files {
    /// With `create` missing files are made when they are first asked for.
    pub(crate) fn new(place: Arc<Place>, layout: Arc<Layout>, create: bool) -> Self {
        Self {
            place,
            layout,
            create,
            open: RefCell::default(),
            turn: Cell::new(0),
        }
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(crate) fn file(&self, index: usize) -> Result<Arc<File>, Disk> {
        if let Some(handle) = self.open.borrow().get(&index) {
            return Ok(Arc::clone(&handle.file));
        }
        let (file, writable) = match self.open_file(index, OFlags::RDWR) {
            // A disk that turned read-only is still good for what is on it.
            Err(Disk::Io(error)) if is_refused(&error) => {
                let file = self.open_file(index, OFlags::RDONLY);
                (file.map_err(|_| Disk::Io(error))?, false)
            }
            file => (file?, true),
        };
        let file = Arc::new(file);
        let mut open = self.open.borrow_mut();
        if open.len() >= OPEN_MAX {
            let oldest = open.iter().min_by_key(|(_, handle)| handle.turn);
            let oldest = oldest.map(|(&index, _)| index).expect("not empty");
            open.remove(&oldest);
        }
        let turn = self.turn.replace(self.turn.get() + 1);
        let handle = Handle {
            file: Arc::clone(&file),
            writable,
            map: None,
            turn,
        };
        open.insert(index, handle);
        Ok(file)
    }

    /// As [`Self::file`], to be changed.
    pub(crate) fn writable(&self, index: usize) -> Result<Arc<File>, Disk> {
        for _ in 0..2 {
            let file = self.file(index)?;
            let mut open = self.open.borrow_mut();
            if open.get(&index).is_some_and(|handle| handle.writable) {
                return Ok(file);
            }
            // The disk may have recovered since it was opened.
            open.remove(&index);
        }
        Err(Disk::Io(io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    /// `access` is for the store's own files; somebody else's are never written to.
    fn open_file(&self, index: usize, access: OFlags) -> Result<File, Disk> {
        debug_assert!(!self.layout.files()[index].pad, "padding has no file");
        let file = match &*self.place {
            Place::Store(dir) => {
                let (create, mode) = if self.create && access == OFlags::RDWR {
                    (OFlags::CREATE, Mode::RUSR | Mode::WUSR)
                } else {
                    (OFlags::empty(), Mode::empty())
                };
                open_beneath(dir, &index.to_string(), access | create, mode)?
            }
            Place::External(base, paths) => {
                let path = paths.get(index).and_then(Option::as_ref);
                let path = path
                    .ok_or(io::ErrorKind::NotFound)
                    .map_err(io::Error::from)?;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let fd = rustix::fs::openat2(base, path, flags, Mode::empty(), resolve);
                File::from(fd.map_err(io::Error::from)?)
            }
        };
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        let ours = match *self.place {
            Place::Store(_) => is_ours(&stat),
            Place::External(..) => is_regular(&stat),
        };
        if !ours {
            return Err(Disk::Io(io::ErrorKind::InvalidInput.into()));
        }
        Ok(file)
    }

    /// Bytes that the torrent gives this file.
    pub(crate) fn len(&self, index: usize) -> u64 {
        self.layout.file_range(index).len()
    }

    /// The open file, not cut short since.
    pub(crate) fn whole(&self, index: usize) -> Result<Arc<File>, Disk> {
        self.check_len(index, self.file(index)?)
    }

    fn check_len(&self, index: usize, file: Arc<File>) -> Result<Arc<File>, Disk> {
        if size(&file)? < self.len(index) {
            return Err(Disk::Truncated);
        }
        Ok(file)
    }

    /// `data` at `range` of the torrent; what falls on padding is dropped.
    pub(crate) fn write(&self, range: ByteRange, data: &[u8]) -> Result<(), Disk> {
        let mut rest = data;
        for segment in self.layout.segments(range) {
            let len = usize::try_from(segment.range.len()).expect("no longer than `data`");
            let (part, after) = rest.split_at(len);
            rest = after;
            if !segment.pad {
                let file = self.check_len(segment.file, self.writable(segment.file)?)?;
                file.write_all_at(part, segment.range.start)?;
            }
        }
        Ok(())
    }

    /// Parts that follow each other, by as few calls as the kernel takes.
    pub(crate) fn write_run(&self, segment: Segment, parts: &[&[u8]]) -> Result<(), Disk> {
        let file = self.check_len(segment.file, self.writable(segment.file)?)?;
        let mut at = segment.range.start;
        for some in parts.chunks(RUN_PARTS_MAX) {
            let slices: Vec<IoSlice<'_>> = some.iter().map(|part| IoSlice::new(part)).collect();
            let len: u64 = some.iter().map(|part| part.len() as u64).sum();
            let written = rustix::io::pwritev(&file, &slices, at).map_err(io::Error::from)?;
            if (written as u64) < len {
                // Cut short by a signal or a full disk: the plain way goes on, or says which.
                write_rest(&file, some, at, written)?;
            }
            at += len;
        }
        Ok(())
    }

    /// Bytes of the torrent; padding reads as zeros.
    pub(crate) fn read(&self, range: ByteRange, out: &mut [u8]) -> Result<(), Disk> {
        let mut rest = out;
        for segment in self.layout.segments(range) {
            let len = usize::try_from(segment.range.len()).expect("no longer than `out`");
            let (part, after) = rest.split_at_mut(len);
            rest = after;
            if segment.pad {
                part.fill(0);
                continue;
            }
            let file = self.file(segment.file)?;
            file.read_exact_at(part, segment.range.start)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Disk::Truncated,
                    _ => error.into(),
                })?;
        }
        Ok(())
    }

    pub(crate) fn map(&self, index: usize) -> Result<Arc<Mapping>, Disk> {
        let file = self.whole(index)?;
        let mut open = self.open.borrow_mut();
        let handle = open.get_mut(&index).expect("opened above");
        if let Some(map) = &handle.map {
            return Ok(Arc::clone(map));
        }
        let len = usize::try_from(self.len(index)).map_err(|_| Disk::Full)?;
        let map = Mapping::map(&file, len)?;
        handle.map = Some(Arc::clone(&map));
        Ok(map)
    }

    /// Asks the kernel to read ahead; does not wait for the disk.
    pub(crate) fn will_need(&self, range: ByteRange) {
        for segment in self.layout.segments(range).filter(|segment| !segment.pad) {
            if let Ok(file) = self.file(segment.file) {
                let len = std::num::NonZeroU64::new(segment.range.len());
                // Advice may be refused: then the page is read when it is sent.
                let _ = rustix::fs::fadvise(&file, segment.range.start, len, Advice::WillNeed);
            }
        }
    }

    /// Gives the disk blocks that lie wholly inside `range` back.
    pub(crate) fn punch(&self, range: ByteRange) -> Result<(), Disk> {
        for segment in self.layout.segments(range).filter(|segment| !segment.pad) {
            let start = segment.range.start.next_multiple_of(DISK_BLOCK_LEN);
            // The file's last block is its own even when short.
            let end = if segment.range.end == self.len(segment.file) {
                segment.range.end.next_multiple_of(DISK_BLOCK_LEN)
            } else {
                segment.range.end / DISK_BLOCK_LEN * DISK_BLOCK_LEN
            };
            if start >= end {
                continue;
            }
            let file = self.writable(segment.file)?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, start, end - start).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// The parts of the torrent under which this file has data, if the file system tells.
    pub(crate) fn data(&self, index: usize) -> Result<Vec<ByteRange>, Disk> {
        let file = self.file(index)?;
        let (len, base) = (self.len(index), self.layout.file_range(index).start);
        let mut out = Vec::new();
        let mut at = 0;
        while at < len {
            let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(start) if start < len => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap_or(len);
            let end = end.clamp(start + 1, len);
            out.push(ByteRange::new(start, end).up(base));
            at = end;
        }
        Ok(out)
    }

    /// How the file can be known again, and its size; `None` if it is not there.
    pub(crate) fn mark(&self, index: usize) -> Option<(FileMark, u64)> {
        let Place::Store(dir) = &*self.place else {
            return None;
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(dir, index.to_string(), flags);
        let stat = stat.ok().filter(is_ours)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Some((FileMark::read(&stat, true), size))
    }

    /// Bytes on the disk; zero for a file that is not there.
    pub(crate) fn allocated(&self, index: usize) -> u64 {
        let Place::Store(dir) = &*self.place else {
            return 0;
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(dir, index.to_string(), flags).map_or(0, |stat| blocks_len(&stat))
    }
}

fn is_refused(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::ROFS | Errno::ACCESS))
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// A planted hard link would make our writes somebody else's file.
fn is_ours(stat: &Stat) -> bool {
    is_regular(stat) && stat.st_nlink <= 1
}

pub(crate) fn size(file: impl AsFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0))
}

/// `st_blocks` counts 512 bytes whatever the file system.
pub(crate) fn blocks_len(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Opens `name` in `dir` and nowhere else, whatever was planted there (R32).
pub(crate) fn open_beneath(
    dir: impl AsFd,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> io::Result<File> {
    let dir: BorrowedFd<'_> = dir.as_fd();
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(dir, name, flags, mode, resolve) {
        // Old kernels and some sandboxes; our names have no slash, so that O_NOFOLLOW is enough.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, name, flags, mode)?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// What is left of `parts` at `at` once `written` bytes of them are written.
fn write_rest(file: &File, parts: &[&[u8]], at: u64, written: usize) -> io::Result<()> {
    let (mut at, mut skip) = (at, written);
    for part in parts {
        let rest = &part[skip.min(part.len())..];
        file.write_all_at(rest, at + (part.len() - rest.len()) as u64)?;
        skip = skip.saturating_sub(part.len());
        at += part.len() as u64;
    }
    Ok(())
}
