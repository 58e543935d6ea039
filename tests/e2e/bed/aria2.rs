//! aria2 as seeder and downloader.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::net::{LOOPBACK, answers, free_port, loopback};
use crate::bed::process::Process;

pub struct Aria2 {
    addr: SocketAddr,
    dir: PathBuf,
    process: Process,
}

impl Aria2 {
    /// Checks the film once, then seeds until it is dropped.
    pub fn seed(bed: &Bed, film: &Film, torrent: &Path) -> Self {
        let seed = ["--check-integrity=true", "--seed-ratio=0.0"];
        let mut aria2 = Self::start(bed, torrent, &film.dir, &seed);
        let addr = aria2.addr;
        aria2
            .process
            .wait_ready(Duration::from_secs(10), || answers(addr));
        aria2
    }

    /// Ends by itself when it has everything.
    pub fn download(bed: &Bed, torrent: &Path) -> Self {
        let dir = bed.folder(&format!("aria2-{}", free_port()));
        Self::start(bed, torrent, &dir, &["--seed-time=0"])
    }

    fn start(bed: &Bed, torrent: &Path, dir: &Path, options: &[&str]) -> Self {
        let addr = loopback(free_port());
        let mut command = Command::new("aria2c");
        command
            .args([
                "--no-conf=true",
                "--disable-ipv6=true",
                "--enable-dht=false",
            ])
            .args(["--bt-enable-lpd=false", "--enable-peer-exchange=false"])
            .args([
                "--file-allocation=none",
                "--summary-interval=1",
                "--console-log-level=info",
            ])
            .arg(format!("--interface={LOOPBACK}"))
            .arg(format!("--listen-port={}", addr.port()))
            .arg(format!("--dir={}", dir.display()))
            .args(options)
            .arg(torrent);
        let process = Process::spawn(bed, &format!("aria2-{}", addr.port()), &mut command);
        Self {
            addr,
            dir: dir.to_owned(),
            process,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[track_caller]
    pub fn wait_complete(&mut self, film: &Film, limit: Duration) {
        let status = self.process.wait(limit);
        assert!(status.success(), "aria2: {status}");
        film.assert_same(&std::fs::read(self.dir.join(&film.name)).unwrap());
    }
}
