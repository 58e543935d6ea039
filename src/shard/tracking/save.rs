//! The table's snapshots: read when a tracker starts, written while it runs and when it ends.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use rustix::fs::FlockOperation;

use crate::ring::runtime;
use crate::shard::tracking::desk::Desk;
use crate::tracker::server::snapshot;
use crate::tracker::server::table::PARTS;

/// Between two snapshots: a hundred times what one takes, so that they cost one part in a hundred,
/// within these bounds.
const REST: u32 = 100;
const REST_MIN: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(300);
/// A block is written once it holds so much.
const BLOCK_LEN: usize = 256 * 1024;
/// Files of shards that there may have been.
const SHARDS_MAX: usize = crate::config::SHARDS_MAX;
/// One that holds so much is none of ours.
const FILE_LEN_MAX: u64 = 4 << 30;

/// Makes the directory, and keeps other trackers off it while the file is open.
pub fn lock(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            io::Error::new(io::ErrorKind::ResourceBusy, "another tracker uses it")
        } else {
            error.into()
        }
    })?;
    Ok(lock)
}

/// All snapshots of an earlier process. Those of shards that there are no more are taken away:
/// what they hold is in the next snapshots of the others.
pub fn read(dir: &Path, shards: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for shard in 0..SHARDS_MAX {
        let path = path(dir, shard);
        match fs::metadata(&path) {
            Ok(known) if known.len() <= FILE_LEN_MAX => files.push(fs::read(&path)?),
            Ok(_) => tracing::warn!(path = %path.display(), "too long for a snapshot"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if shard >= shards {
            fs::remove_file(&path)?;
        }
    }
    Ok(files)
}

/// Puts into the table what is this shard's.
pub fn restore(desk: &Desk, files: &[Vec<u8>]) {
    let (now, wall) = (runtime::now(), wall());
    let mut table = desk.table.borrow_mut();
    for file in files {
        let ours = |info_hash| desk.owner(info_hash) == desk.index;
        if let Err(error) = snapshot::restore(&mut table, now, wall, file, ours) {
            tracing::warn!(%error, "a snapshot could not be read whole");
        }
    }
    let peers = table.totals().peers();
    if peers > 0 {
        tracing::info!(shard = desk.index, peers, "known from before");
    }
}

/// Writes snapshots, for ever.
pub async fn keep(desk: Rc<Desk>) {
    let mut rest = REST_MIN;
    let mut written = None;
    loop {
        runtime::sleep(rest).await;
        // Peers go by the sweep as well.
        let heard = (desk.handled.get(), desk.table.borrow().totals());
        if written == Some(heard) {
            continue;
        }
        let begun = runtime::now();
        rest = match save(&desk).await {
            Ok(()) => {
                written = Some(heard);
                (runtime::now().since(begun) * REST).clamp(REST_MIN, REST_MAX)
            }
            Err(error) => {
                tracing::error!(%error, "the peers could not be written down");
                REST_MAX
            }
        };
    }
}

/// Writes a snapshot, part by part, while announces go on.
pub async fn save(desk: &Desk) -> io::Result<()> {
    // The last one may come while another is being written.
    let _turn = desk.saving.lock().await;
    let path = path(&desk.shared.store, desk.index);
    let temporary = path.with_extension("new");
    let peers = desk.table.borrow().totals().peers();
    let (target, head) = (temporary.clone(), snapshot::head(wall()));
    let mut file = runtime::blocking(move || {
        let mut file = File::create(target)?;
        file.write_all(&head)?;
        io::Result::Ok(file)
    })
    .await??;
    let mut part = 0;
    while part < PARTS {
        let mut block = Vec::new();
        snapshot::begin(&mut block);
        while part < PARTS && block.len() < BLOCK_LEN {
            let table = desk.table.borrow();
            snapshot::put_part(&table, runtime::now(), part, &mut block);
            part += 1;
        }
        file = runtime::blocking(move || {
            snapshot::seal(&mut block);
            file.write_all(&block)?;
            io::Result::Ok(file)
        })
        .await??;
    }
    runtime::blocking(move || {
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        let dir = path.parent().expect("it is in the store");
        File::open(dir)?.sync_all()
    })
    .await??;
    desk.counted.borrow_mut().saved_peers = peers;
    desk.saved_at.set(Some(runtime::now()));
    Ok(())
}

fn path(dir: &Path, shard: usize) -> PathBuf {
    dir.join(format!("peers-{shard}"))
}

/// Seconds since 1970.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
