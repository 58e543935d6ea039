//! Making a torrent's claims outlive the machine: data first, then the journal's mark.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::Advice;

use crate::store::resume;

/// `fdatasync` of what was written, then of the journal. Waits for the disk: for a blocking thread.
pub struct SyncJob {
    pub(crate) files: Vec<Arc<File>>,
    pub(crate) journal: Arc<File>,
    /// The torrent's directory, where files were made since the last time.
    pub(crate) dir: Option<Arc<crate::store::files::Place>>,
    pub(crate) slot: u64,
    pub(crate) epoch: u32,
}

/// What came of a [`SyncJob`]; for [`crate::store::Torrent::handle_synced`]. Without any:
/// [`crate::store::Torrent::handle_unsynced`].
#[derive(Debug)]
pub struct Synced(pub(crate) io::Result<()>);

impl SyncJob {
    pub fn run(self) -> Synced {
        let synced = self.sync();
        if synced.is_err() {
            // The kernel has marked the pages clean all the same; reads must come from the disk.
            for file in &self.files {
                let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
            }
        }
        Synced(synced)
    }

    fn sync(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync_data()?;
        }
        if let Some(place) = &self.dir {
            place.sync()?;
        }
        resume::mark_synced(&self.journal, self.slot, self.epoch)
    }
}
