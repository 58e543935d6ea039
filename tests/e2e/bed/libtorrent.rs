//! libtorrent 2.0 as seeder and downloader, through its Python binding.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::net::{LOOPBACK, answers, free_port};
use crate::bed::process::Process;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/libtorrent_peer.py");

pub struct Libtorrent {
    addr: SocketAddr,
    save: PathBuf,
    process: Process,
}

/// Zero means without limit, or never.
#[derive(Clone, Default)]
pub struct Conduct {
    pub ip: Option<IpAddr>,
    pub up_limit: u64,
    pub down_limit: u64,
    /// Bytes sent by a seeder, or got by a downloader, until it dies.
    pub die_after: u64,
    /// Connected to without a tracker.
    pub peer: Option<SocketAddr>,
    /// Asks its trackers how many there are; see [`Libtorrent::scraped`].
    pub scrape: bool,
}

impl Libtorrent {
    pub fn seed(bed: &Bed, film: &Film, torrent: &Path, conduct: &Conduct) -> Self {
        Self::start(bed, torrent, &film.dir, true, conduct)
    }

    pub fn download(bed: &Bed, torrent: &Path, conduct: &Conduct) -> Self {
        let save = bed.folder(&format!("libtorrent-{}", free_port()));
        Self::start(bed, torrent, &save, false, conduct)
    }

    fn start(bed: &Bed, torrent: &Path, save: &Path, seed: bool, conduct: &Conduct) -> Self {
        let addr = SocketAddr::new(conduct.ip.unwrap_or(LOOPBACK), free_port());
        // Debian's own Python: the binding is not made for another.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(SCRIPT).arg(torrent).arg("--save").arg(save);
        command.args(["--listen", &addr.to_string()]);
        command.args(["--up-limit", &conduct.up_limit.to_string()]);
        command.args(["--down-limit", &conduct.down_limit.to_string()]);
        command.args(["--die-after", &conduct.die_after.to_string()]);
        if let Some(peer) = conduct.peer {
            command.args(["--peer", &peer.to_string()]);
        }
        if seed {
            command.arg("--seed");
        }
        if conduct.scrape {
            command.arg("--scrape");
        }
        let mut process = Process::spawn(bed, &format!("libtorrent-{}", addr.port()), &mut command);
        process.wait_ready(Duration::from_secs(10), || answers(addr));
        Self {
            addr,
            save: save.to_owned(),
            process,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its last line: `progress`, `up`, `down`, `peers`, …
    pub fn status(&self) -> Value {
        let log = self.process.log();
        let line = log
            .lines()
            .rev()
            .find(|line| line.starts_with('{') && line.ends_with('}'));
        line.and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default()
    }

    pub fn uploaded(&self) -> u64 {
        self.status()["up"].as_u64().unwrap_or(0)
    }

    /// Seeds and leechers, as its tracker said last.
    pub fn scraped(&self) -> Option<(u64, u64)> {
        let status = self.status();
        Some((
            status["scraped"][0].as_u64()?,
            status["scraped"][1].as_u64()?,
        ))
    }

    pub fn has_died(&mut self) -> bool {
        self.process.ended().is_some()
    }

    #[track_caller]
    pub fn wait_complete(&self, film: &Film, limit: Duration) {
        crate::bed::wait_until("libtorrent to have it all", limit, || {
            self.status()["seed"].as_bool() == Some(true)
        });
        film.assert_same(&std::fs::read(self.save.join(&film.name)).unwrap());
    }
}
