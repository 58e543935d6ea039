//! Piece files mapped for the kernel's eyes alone: bytes go out of them by system calls only.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};

/// A file, mapped shared and read-only.
///
/// A file that was truncated or whose disk fails kills a process that loads from its mapping
/// (SIGBUS), while a system call on it returns `EFAULT`; so no slice of it can be had.
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps the first `len` bytes. A file that is shorter is [`io::ErrorKind::UnexpectedEof`].
    pub fn map(file: &File, len: usize) -> io::Result<Arc<Self>> {
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "nothing to map",
            ));
        }
        if file.metadata()?.len() < len as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than its mapping",
            ));
        }
        // SAFETY: a mapping is unsafe because the file may change under a reference to its bytes;
        // no such reference is ever made, only the kernel reads through the pointer.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Arc::new(Self(map)))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Asks the kernel to read these bytes from the disk soon; does not wait for them.
    pub fn will_need(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(Advice::WillNeed, range)
    }

    /// Reads these bytes into memory before it returns, so that a send of them does not block its
    /// shard. Bytes beyond the end of the file are `EFAULT` (see [`is_fault`]). Belongs on a
    /// blocking thread unless the bytes are known to be cached.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(Advice::PopulateRead, range)
    }

    fn advise(&self, advice: Advice, range: Range<usize>) -> io::Result<()> {
        let range = self.checked(range)?;
        if range.is_empty() {
            return Ok(());
        }
        self.0.advise_range(advice, range.start, range.len())
    }

    /// `range` if it lies in the mapping.
    pub(in crate::ring) fn checked(&self, range: Range<usize>) -> io::Result<Range<usize>> {
        if range.start <= range.end && range.end <= self.0.len() {
            Ok(range)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "outside of the mapping",
            ))
        }
    }

    /// For system calls; loading from it is what this type prevents.
    pub(in crate::ring) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// Whether the kernel could not read mapped bytes: the file was truncated, or its disk failed.
pub fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn a_file_too_short_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let kind = |len| {
            Mapping::map(&file, len)
                .map(|map| map.len())
                .map_err(|e| e.kind())
        };
        assert_eq!(kind(100), Ok(100));
        assert_eq!(kind(101), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(kind(0), Err(io::ErrorKind::InvalidInput));
    }

    #[test]
    fn a_truncated_file_is_an_error_and_no_signal() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * PAGE as u64).unwrap();
        let map = Mapping::map(&file, 64 * PAGE).unwrap();
        map.will_need(5..20 * PAGE).unwrap();
        map.populate(1..64 * PAGE).unwrap();
        file.set_len(8 * PAGE as u64).unwrap();
        map.populate(0..8 * PAGE).unwrap();
        assert!(is_fault(&map.populate(7 * PAGE..9 * PAGE).unwrap_err()));
        assert!(map.populate(0..64 * PAGE + 1).is_err());
        assert!(map.will_need(0..64 * PAGE + 1).is_err());
    }
}
