//! transmission-daemon as seeder and downloader, told what to do over its RPC.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::film::Film;
use crate::bed::http::Client;
use crate::bed::net::{free_port, loopback};
use crate::bed::process::Process;
use crate::bed::{Bed, wait_until};

/// In its RPC: a torrent that seeds.
const SEEDING: u64 = 6;

pub struct Transmission {
    addr: SocketAddr,
    rpc: SocketAddr,
    dir: PathBuf,
    _process: Process,
}

impl Transmission {
    /// Listens on, dials and announces from `ip`.
    pub fn seed(bed: &Bed, film: &Film, torrent: &Path, ip: impl Into<IpAddr>) -> Self {
        let seeder = Self::start(bed, &film.dir, ip.into());
        seeder.add(torrent, false);
        // It takes nobody's word for what is on the disk.
        seeder.call("torrent-verify", &json!({}));
        wait_until("transmission to seed", Duration::from_secs(30), || {
            seeder.torrent()["status"].as_u64() == Some(SEEDING)
        });
        seeder
    }

    pub fn download(bed: &Bed, torrent: &Path, ip: impl Into<IpAddr>) -> Self {
        let dir = bed.folder(&format!("transmission-got-{}", free_port()));
        let downloader = Self::start(bed, &dir, ip.into());
        downloader.add(torrent, false);
        downloader
    }

    /// Downloads nothing, and announces itself to nobody.
    pub fn paused(bed: &Bed, torrents: &[PathBuf], ip: impl Into<IpAddr>) -> Self {
        let dir = bed.folder(&format!("transmission-got-{}", free_port()));
        let paused = Self::start(bed, &dir, ip.into());
        torrents
            .iter()
            .for_each(|torrent| paused.add(torrent, true));
        paused
    }

    fn start(bed: &Bed, dir: &Path, ip: IpAddr) -> Self {
        let (addr, rpc) = (SocketAddr::new(ip, free_port()), loopback(free_port()));
        // Bound to an address of IPv4 it asks no tracker over IPv6.
        let (v4, v6) = match ip {
            IpAddr::V4(ip) => (ip, Ipv6Addr::LOCALHOST),
            IpAddr::V6(ip) => (Ipv4Addr::UNSPECIFIED, ip),
        };
        let name = format!("transmission-{}", addr.port());
        let home = bed.folder(&name);
        let settings = json!({
            "bind-address-ipv4": v4, "bind-address-ipv6": v6,
            "peer-port": addr.port(), "download-dir": dir,
            "rpc-bind-address": "127.0.0.1", "rpc-port": rpc.port(), "rpc-whitelist-enabled": false,
            "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
            "port-forwarding-enabled": false, "blocklist-enabled": false, "encryption": 0,
            "incomplete-dir-enabled": false, "rename-partial-files": false, "preallocation": 0,
        });
        fs::write(home.join("settings.json"), settings.to_string()).unwrap();
        let mut command = Command::new("transmission-daemon");
        command
            .args(["--foreground", "--log-info", "--config-dir"])
            .arg(&home)
            .env("HOME", &home);
        let mut process = Process::spawn(bed, &name, &mut command);
        process.wait_ready(Duration::from_secs(10), || crate::bed::net::answers(rpc));
        Self {
            addr,
            rpc,
            dir: dir.to_owned(),
            _process: process,
        }
    }

    fn add(&self, torrent: &Path, paused: bool) {
        let added = json!({ "filename": torrent, "download-dir": self.dir, "paused": paused });
        self.call("torrent-add", &added);
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its only torrent: `status`, `percentDone`, `uploadedEver`, `peersConnected`, `errorString`.
    pub fn torrent(&self) -> Value {
        self.torrents()[0].clone()
    }

    fn torrents(&self) -> Vec<Value> {
        let fields = [
            "status",
            "percentDone",
            "uploadedEver",
            "peersConnected",
            "errorString",
            "error",
            "trackerStats",
        ];
        let all = self.call("torrent-get", &json!({ "fields": fields }));
        all["torrents"].as_array().unwrap().clone()
    }

    /// Seeds and leechers of the first torrent that was scraped, as its tracker said last. The
    /// answer to an announce may count as such.
    pub fn scraped(&self) -> Option<(u64, u64)> {
        self.torrents().iter().find_map(|torrent| {
            let tracker = &torrent["trackerStats"][0];
            let count = |name: &str| tracker[name].as_u64();
            let counts = (count("seederCount")?, count("leecherCount")?);
            (tracker["lastScrapeSucceeded"] == true).then_some(counts)
        })
    }

    #[track_caller]
    pub fn wait_complete(&self, film: &Film, limit: Duration) {
        wait_until("transmission to have it all", limit, || {
            self.torrent()["percentDone"].as_f64() == Some(1.0)
        });
        film.assert_same(&fs::read(self.dir.join(&film.name)).unwrap());
    }

    #[track_caller]
    fn call(&self, method: &str, arguments: &Value) -> Value {
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        let mut session = String::new();
        loop {
            let mut client = Client::connect(self.rpc).unwrap();
            let head = format!(
                "POST /transmission/rpc HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
                 X-Transmission-Session-Id: {session}\r\n\r\n{body}",
                self.rpc,
                body.len()
            );
            client.send_raw(head.as_bytes()).unwrap();
            let reply = client.reply("POST").unwrap();
            // The first call learns the word that proves it is no web page's.
            if let (409, Some(word)) = (reply.status, reply.header("x-transmission-session-id")) {
                session = word.to_owned();
                continue;
            }
            let answer: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(answer["result"], "success", "{method}: {answer}");
            return answer["arguments"].clone();
        }
    }
}
