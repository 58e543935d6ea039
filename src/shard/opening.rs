//! Reading and opening torrents: away from the shard where that takes long.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::resolve::discover::Body;
use crate::resolve::discover::Unfound;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::host::Host;
use crate::shard::host::InUse;
use crate::store::Disk;
use crate::torrent::metainfo::Metainfo;
use crate::units::InfoHash;

/// Bytes of metainfo that are read on the shard; a torrent of 100,000 files takes it longer than a
/// stream may wait.
const INLINE_LEN_MAX: usize = 64 * 1024;
/// Files of a torrent that is opened there; each is looked for on the disk.
const INLINE_FILES_MAX: usize = 64;

/// A body from the web, as metainfo.
pub async fn read(body: Vec<u8>) -> Result<Body, Unfound> {
    let long = body.len() > INLINE_LEN_MAX;
    let read = run(long, move || Body::read(&body)).await;
    read.map_err(|error| Unfound {
        status: None,
        retry: None,
        why: error.to_string(),
    })
}

/// What the store was told of this video, with the origin's validator of then.
pub async fn recall(shard: &Shard, url: &str) -> Option<(Metainfo, String)> {
    let (info_hash, validator) = shard.shared.store.recall_url(url)?;
    Some((recall_hash(shard, info_hash).await?, validator))
}

pub async fn recall_hash(shard: &Shard, info_hash: InfoHash) -> Option<Metainfo> {
    let store = shard.shared.store.clone();
    let long = store.kept_len(info_hash)? > INLINE_LEN_MAX as u64;
    run(long, move || store.recall_hash(info_hash)).await.ok()?
}

/// For the next start; `known`: a video's URL that names this torrent, and the origin's validator.
pub fn remember(shard: &Shard, metainfo: &Arc<Metainfo>, known: Option<(String, String)>) {
    let (store, kept) = (shard.shared.store.clone(), metainfo.clone());
    let job = move || {
        let known = known.as_ref();
        store.remember(&kept, known.map(|(url, tag)| (url.as_str(), tag.as_str())));
    };
    if is_long(metainfo) {
        // It runs whether or not anybody waits for it.
        drop(runtime::blocking(job));
    } else {
        job();
    }
}

/// Opens the store of a swarm whose metainfo was found, unless another has done so.
pub async fn open(host: &InUse, metainfo: Arc<Metainfo>) -> Result<(), Disk> {
    loop {
        let changed = host.changed.notified();
        if host.metainfo.borrow().is_some() {
            return Ok(());
        }
        if !host.opening.replace(true) {
            break;
        }
        changed.await;
    }
    let store = host.shard.upgrade().map(|shard| shard.shared.store.clone());
    let opened = match store {
        Some(store) => {
            let metainfo = metainfo.clone();
            run(is_long(&metainfo), move || store.open_torrent(&metainfo)).await
        }
        None => Err(io::ErrorKind::NotConnected.into()),
    };
    host.opening.set(false);
    host.changed.notify_waiters();
    host.know(metainfo, opened??);
    Ok(())
}

/// Metadata that peers gave.
pub async fn take_metadata(host: Rc<Host>, info: Vec<u8>) {
    let Some(host) = host.take_up() else { return };
    let (info, info_hash) = (Bytes::from(info), host.info_hash);
    let long = info.len() > INLINE_LEN_MAX;
    let opened = match run(long, move || Metainfo::from_info(info, info_hash)).await {
        Ok(Ok(metainfo)) => open(&host, Arc::new(metainfo)).await,
        Ok(Err(error)) => {
            tracing::warn!(%error, "metadata from peers was refused");
            host.swarm.borrow_mut().metadata_bad(runtime::now());
            host.drain(&[]);
            return;
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = opened {
        tracing::error!(%error, "the store cannot take this torrent");
    }
}

fn is_long(metainfo: &Metainfo) -> bool {
    metainfo.info.len() > INLINE_LEN_MAX || metainfo.files.len() > INLINE_FILES_MAX
}

/// On a blocking thread, if the job is `long`.
async fn run<T: Send + 'static>(
    long: bool,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if long {
        runtime::blocking(job).await
    } else {
        Ok(job())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;
    use crate::store::Store;
    use crate::torrent::metainfo::Builder;
    use crate::torrent::metainfo::FileEntry;

    fn torrent(files: usize) -> Vec<u8> {
        let files: Vec<_> = (0..files)
            .map(|number| FileEntry {
                path: vec![
                    format!("a directory of it {}", number % 7),
                    number.to_string(),
                ],
                length: 1,
                pad: false,
            })
            .collect();
        let builder = Builder {
            name: "many".to_owned(),
            piece_len: 65_536,
            hashes: vec![[1; 20]; files.len().div_ceil(65_536)],
            ..Builder::default()
        };
        builder.build_files(&files)
    }

    /// How often another task got its turn before this one was done.
    async fn turns_beside<T>(work: impl Future<Output = T>) -> (usize, T) {
        let mut turns = 0;
        let others = async {
            loop {
                runtime::breathe().await;
                turns += 1;
            }
        };
        let done = tokio::select! {
            biased;
            done = work => done,
            () = others => unreachable!("it never ends"),
        };
        (turns, done)
    }

    #[test]
    fn a_torrent_of_many_files_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let bytes = torrent(30_000);
        assert!(bytes.len() > 1_000_000);
        let metainfo = Metainfo::parse(&bytes).unwrap();
        runtime::run(async {
            let (turns, read) = turns_beside(read(bytes)).await;
            assert!(read.is_ok() && turns > 2, "{turns}");
            let (turns, opened) = turns_beside(run(is_long(&metainfo), {
                let metainfo = metainfo.clone();
                move || store.open_torrent(&metainfo)
            }))
            .await;
            assert!(opened.unwrap().is_ok() && turns > 2, "{turns}");
            // A short one waits for no thread.
            let (turns, _) = turns_beside(super::read(torrent(3))).await;
            assert_eq!(turns, 0);
        })
        .unwrap();
    }
}
