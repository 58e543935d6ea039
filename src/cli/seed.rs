//! `bittube seed`: keeps a swarm supplied from files of the user's own.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;

use crate::cli::progress;
use crate::shard::SeedOrder;
use crate::shard::SeedProgress;
use crate::shard::engine::Engine;
use crate::torrent::metainfo::Metainfo;

/// Longest torrent file read (R30).
const TORRENT_MAX: u64 = 10 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The torrent in a file.
pub fn read_torrent(path: &Path) -> anyhow::Result<Metainfo> {
    let len = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if len > TORRENT_MAX {
        bail!("{} is too long for a torrent", path.display());
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Metainfo::parse(&bytes).with_context(|| format!("{} is not a good torrent", path.display()))
}

/// Checks `data` against the torrent, then seeds until interrupted.
pub fn run(engine: Engine, metainfo: Metainfo, data: PathBuf) -> anyhow::Result<()> {
    let (name, pieces) = (metainfo.name.clone(), metainfo.layout.piece_count());
    let bar = progress::bar(metainfo.layout.length(), "checking");
    let checked = Arc::new(SeedProgress::default());
    engine.seed(SeedOrder {
        metainfo,
        data,
        progress: checked.clone(),
    });
    loop {
        match checked.state.load(Ordering::Acquire) {
            1 => break,
            2 => bail!(
                "{}",
                checked
                    .failure
                    .get()
                    .map_or("the data could not be read", |w| w)
            ),
            _ => bar.set_position(checked.bytes_checked.load(Ordering::Relaxed)),
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    bar.finish_and_clear();
    let right = checked.pieces_right.load(Ordering::Relaxed);
    if right == 0 {
        engine.stop();
        bail!("none of the {pieces} pieces of {name} is in the data");
    }
    for addr in &engine.peer_listen {
        println!("seeding {name}: {right} of {pieces} pieces, peers at {addr}");
    }
    crate::cli::until_interrupted();
    engine.stop();
    Ok(())
}
