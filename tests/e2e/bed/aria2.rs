//! aria2 as seeder and downloader.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::net::{LOOPBACK, answers, free_port};
use crate::bed::process::Process;

pub struct Aria2 {
    addr: SocketAddr,
    dir: PathBuf,
    process: Process,
}

impl Aria2 {
    /// Checks the film once, then seeds until it is dropped.
    pub fn seed(bed: &Bed, film: &Film, torrent: &Path) -> Self {
        Self::seed_at(bed, film, torrent, LOOPBACK)
    }

    /// The same at another address of this machine.
    pub fn seed_at(bed: &Bed, film: &Film, torrent: &Path, ip: IpAddr) -> Self {
        let seed = ["--check-integrity=true", "--seed-ratio=0.0"];
        let mut aria2 = Self::start(bed, torrent, &film.dir, ip, &seed);
        let addr = aria2.addr;
        aria2
            .process
            .wait_ready(Duration::from_secs(10), || answers(addr));
        aria2
    }

    /// Ends by itself when it has everything.
    pub fn download(bed: &Bed, torrent: &Path) -> Self {
        Self::download_at(bed, torrent, LOOPBACK)
    }

    pub fn download_at(bed: &Bed, torrent: &Path, ip: IpAddr) -> Self {
        let dir = bed.folder(&format!("aria2-{}", free_port()));
        Self::start(bed, torrent, &dir, ip, &["--seed-time=0"])
    }

    /// Of DHT it is given no node; without it there were no trackers by UDP.
    fn start(bed: &Bed, torrent: &Path, dir: &Path, ip: IpAddr, options: &[&str]) -> Self {
        let addr = SocketAddr::new(ip, free_port());
        let name = format!("aria2-{}", addr.port());
        let nodes = bed.folder(&format!("{name}-dht"));
        let mut command = Command::new("aria2c");
        command
            .args(["--no-conf=true", "--enable-dht=true", "--enable-dht6=false"])
            .arg(format!("--disable-ipv6={}", ip.is_ipv4()))
            .arg(format!("--dht-listen-port={}", free_port()))
            .arg(format!(
                "--dht-file-path={}",
                nodes.join("dht.dat").display()
            ))
            .args(["--bt-enable-lpd=false", "--enable-peer-exchange=false"])
            .args([
                "--file-allocation=none",
                "--summary-interval=1",
                "--console-log-level=info",
            ])
            .arg(format!("--interface={ip}"))
            .arg(format!("--listen-port={}", addr.port()))
            .arg(format!("--dir={}", dir.display()))
            .args(options)
            .arg(torrent);
        let process = Process::spawn(bed, &name, &mut command);
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
