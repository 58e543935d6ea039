//! Stored bytes as they are sent: runs of mapped files, and the zeros between them.

use std::ops::Range;
use std::sync::Arc;

use crate::ring::mapping::Mapping;
use crate::store::Disk;
use crate::store::files::Files;
use crate::torrent::layout::Layout;
use crate::units::ByteRange;

/// A run of bytes as they are sent.
#[derive(Clone)]
pub enum Part {
    Mapped {
        map: Arc<Mapping>,
        range: Range<usize>,
    },
    /// Padding (BEP 47), so many bytes.
    Zeros(usize),
}

/// The parts of a range, in order.
pub struct Parts(std::vec::IntoIter<Part>);

impl Parts {
    pub(crate) fn of(files: &Files, layout: &Layout, range: ByteRange) -> Result<Self, Disk> {
        let mut out = Vec::with_capacity(1);
        for segment in layout.segments(range) {
            let offset = |at| usize::try_from(at).map_err(|_| Disk::Full);
            out.push(if segment.pad {
                Part::Zeros(offset(segment.range.len())?)
            } else {
                Part::Mapped {
                    map: files.map(segment.file)?,
                    range: offset(segment.range.start)?..offset(segment.range.end)?,
                }
            });
        }
        Ok(Self(out.into_iter()))
    }
}

impl Iterator for Parts {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        self.0.next()
    }
}
