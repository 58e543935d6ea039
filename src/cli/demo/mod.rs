//! `bittube demo`: everything at once on loopback, with a clip.
//!
//! An origin, a tracker, a seeding peer and the stub; the clip is played through the stub and
//! compared byte by byte.

mod origin;
mod server;
mod tracker;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;

use crate::admin::stats::Stats;
use crate::cli::client;
use crate::cli::scratch::Scratch;
use crate::origin::tls;
use crate::ring::runtime;
use crate::shard::SeedOrder;
use crate::shard::SeedProgress;
use crate::shard::engine::Engine;
use crate::shard::engine::Options;
use crate::store::Limits;
use crate::store::Store;
use crate::stub::gate::Sites;
use crate::torrent::metainfo::Metainfo;
use crate::units::OriginPolicy;
use crate::units::lab::Lab;

/// Twenty seconds of a test picture and a tone, made by `scripts/clip.sh`.
const CLIP: &[u8] = include_bytes!("clip.mp4");
/// The port of the original, if it is free.
const STUB_PORT: u16 = 8081;
/// The clip is played eight times as fast as a person would.
const STEP_LEN: usize = 128 * 1024;
const STEP_WAIT: Duration = Duration::from_millis(125);
const SEEDER_WAIT: Duration = Duration::from_secs(20);
const PLAY_WAIT: Duration = Duration::from_secs(60);
/// Small, so that a clip of a few seconds has many pieces to share.
const PIECE_LEN: u32 = 64 * 1024;

/// Runs the demo; with `once` it ends after the comparison.
pub fn run(once: bool) -> anyhow::Result<()> {
    let scratch = Scratch::new("bittube-demo").context("a directory for the demo")?;
    let tracker = tracker::start().context("the demo's tracker")?;
    let announce = format!("http://{tracker}/announce");
    let torrent = metainfo::torrent(CLIP, PIECE_LEN, &announce);
    let origin = origin::start(CLIP, torrent.clone()).context("the demo's origin")?;
    let metainfo = Metainfo::parse(&torrent).context("the demo's torrent")?;
    let video = format!("http://{origin}/clip.mp4");

    println!("origin    {video}");
    println!("tracker   {announce}");
    let seeder = seeder(&scratch, &metainfo)?;
    println!(
        "seeder    {} has all {} pieces",
        seeder.peer_listen[0],
        metainfo.hashes.len()
    );
    let stub = stub(&scratch)?;
    let address = format!("/{announce}/{video}");
    let open = format!("http://localhost:{}{address}", stub.listen[0].port());
    println!("stub      http://{}\n", stub.listen[0]);

    let stats = play(&stub, &address)?;
    report(&stats);
    println!("\nOpen it in a browser or a player:\n  {open}");
    if once {
        stub.stop();
        seeder.stop();
        return Ok(());
    }
    println!("\nIt stays up until Ctrl-C.");
    crate::cli::until_interrupted();
    stub.stop();
    seeder.stop();
    Ok(())
}

fn engine(listen: Vec<SocketAddr>, store: &Path, shards: usize) -> anyhow::Result<Engine> {
    let store = Store::open(store, Limits::default()).context("the store")?;
    let tls = tls::config(None).context("certificates")?;
    let options = Options {
        listen,
        listen_is_default: false,
        admin: None,
        peer_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        shards,
        pin: false,
        allow_private: true,
        proxy: false,
        origin_policy: OriginPolicy::Hybrid,
        lab: Lab::default(),
        allow_hosts: Vec::new(),
        sites: Sites::Open,
        players_max: 1024,
        swarms_max: 16,
        seed_time: Duration::MAX,
        token: crate::cli::token::random(),
    };
    Ok(Engine::start(options, store, tls)?)
}

/// A BitTorrent client that has the whole clip.
fn seeder(scratch: &Scratch, metainfo: &Metainfo) -> anyhow::Result<Engine> {
    let data = scratch.path().join("clip.mp4");
    std::fs::write(&data, CLIP).context("the seeder's clip")?;
    let engine = engine(Vec::new(), &scratch.path().join("seeder"), 1)?;
    let progress = Arc::new(SeedProgress::default());
    engine.seed(SeedOrder {
        metainfo: metainfo.clone(),
        data,
        progress: progress.clone(),
    });
    let until = runtime::now() + SEEDER_WAIT;
    loop {
        match progress.state.load(Ordering::Acquire) {
            1 => return Ok(engine),
            2 => bail!(
                "the seeder failed: {}",
                progress.failure.get().map_or("?", |why| why)
            ),
            _ if runtime::now() > until => bail!("the seeder did not come up"),
            _ => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

/// On the usual port, or on a free one if that is taken.
fn stub(scratch: &Scratch) -> anyhow::Result<Engine> {
    let dir = scratch.path().join("stub");
    let usual = SocketAddr::from(([127, 0, 0, 1], STUB_PORT));
    match engine(vec![usual], &dir, 2) {
        Ok(engine) => Ok(engine),
        Err(_) => engine(vec![SocketAddr::from(([127, 0, 0, 1], 0))], &dir, 2),
    }
}

/// Plays the clip through the stub as players do, range by range, and jumps about in it at the
/// end; every byte is compared.
fn play(stub: &Engine, address: &str) -> anyhow::Result<Stats> {
    let listen = stub.listen[0];
    let shared = stub.shared.clone();
    let bar = crate::cli::progress::bar(CLIP.len() as u64, "playing");
    let played = runtime::run(async move {
        let whole = async {
            let mut at = 0;
            while at < CLIP.len() {
                let end = CLIP.len().min(at + STEP_LEN);
                fetch(listen, address, at..end).await?;
                bar.set_position(end as u64);
                at = end;
                runtime::sleep(STEP_WAIT).await;
            }
            bar.finish_and_clear();
            for tenth in [8, 2, 5] {
                let start = CLIP.len() * tenth / 10;
                fetch(listen, address, start..CLIP.len().min(start + STEP_LEN)).await?;
            }
            Ok(shared.stats().await)
        };
        match tokio::time::timeout(PLAY_WAIT, whole).await {
            Ok(played) => played,
            Err(_) => Err(io::Error::other("the clip did not come in time")),
        }
    });
    played
        .context("the demo's ring")?
        .context("playing through the stub")
}

async fn fetch(listen: SocketAddr, address: &str, part: Range<usize>) -> io::Result<()> {
    let mut at = part.start;
    let range = format!("bytes={}-{}", part.start, part.end - 1);
    client::get(listen, address, &[("Range", &range)], |head, bytes| {
        compare(head.status, 206, bytes, at)?;
        at += bytes.len();
        Ok(())
    })
    .await?;
    if at == part.end {
        Ok(())
    } else {
        Err(io::Error::other("a range broke off"))
    }
}

fn compare(status: u16, wanted: u16, bytes: &[u8], at: usize) -> io::Result<()> {
    if status != wanted {
        return Err(io::Error::other(format!("status {status}, not {wanted}")));
    }
    if CLIP.get(at..at + bytes.len()) != Some(bytes) {
        return Err(io::Error::other(format!("wrong bytes at {at}")));
    }
    Ok(())
}

fn report(stats: &Stats) {
    let bytes = &stats.bytes;
    let share = |part: u64| {
        let all = (bytes.from_peers + bytes.from_origin).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a share of a few megabytes")]
        let share = part as f64 * 100.0 / all as f64;
        share
    };
    println!("all {} bytes are right, after seeks too", CLIP.len());
    println!(
        "  from peers   {:>9} bytes  {:5.1} %",
        bytes.from_peers,
        share(bytes.from_peers)
    );
    println!(
        "  from origin  {:>9} bytes  {:5.1} %",
        bytes.from_origin,
        share(bytes.from_origin)
    );
    for (cause, count) in stats
        .origin_bytes_by_cause
        .iter()
        .filter(|(_, count)| **count > 0)
    {
        println!("    {cause:<11}{count:>9} bytes");
    }
}

mod metainfo {
    use crate::torrent::metainfo::Builder;

    /// A torrent of the clip, as `publish` would write it.
    pub(super) fn torrent(clip: &[u8], piece_len: u32, announce: &str) -> Vec<u8> {
        let mut builder = Builder::of("clip.mp4", piece_len, clip);
        builder.trackers.push(vec![announce.to_owned()]);
        builder.build()
    }
}
