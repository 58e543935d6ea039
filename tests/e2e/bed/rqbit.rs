//! rqbit as seeder and downloader.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::film::Film;
use crate::bed::net::free_port;
use crate::bed::process::Process;
use crate::bed::{Bed, wait_until};

/// Where `scripts/rqbit.sh` puts it.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/rqbit/bin/rqbit");

pub struct Rqbit {
    dir: PathBuf,
    _process: Process,
}

impl Rqbit {
    /// Checks the film, then seeds until it is dropped.
    pub fn seed(bed: &Bed, film: &Film, torrent: &Path, ip: IpAddr) -> Self {
        Self::start(bed, torrent, &film.dir, ip)
    }

    pub fn download(bed: &Bed, torrent: &Path, ip: IpAddr) -> Self {
        let dir = bed.folder(&format!("rqbit-{}", free_port()));
        Self::start(bed, torrent, &dir, ip)
    }

    fn start(bed: &Bed, torrent: &Path, dir: &Path, ip: IpAddr) -> Self {
        let port = free_port();
        let name = format!("rqbit-{port}");
        let home = bed.folder(&name);
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "--disable-dht",
                "--disable-dht-persistence",
                "--disable-lsd",
            ])
            .arg("--disable-upnp-port-forward")
            .args(["--listen-ip", &ip.to_string()])
            .args(["--listen-port", &port.to_string()])
            // Left out, it announces 4240, wherever it listens.
            .args(["--announce-port", &port.to_string()])
            .args(["download", "--overwrite", "--output-folder"])
            .arg(dir)
            .arg(torrent)
            .env("HOME", &home);
        Self {
            dir: dir.to_owned(),
            _process: Process::spawn(bed, &name, &mut command),
        }
    }

    /// It reserves the whole file at once: what it holds tells.
    #[track_caller]
    pub fn wait_complete(&self, film: &Film, limit: Duration) {
        let path = self.dir.join(&film.name);
        wait_until("rqbit to have it all", limit, || {
            std::fs::read(&path).is_ok_and(|bytes| bytes == *film.data)
        });
    }
}
