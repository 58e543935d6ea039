//! rqbit as contestant: its server, told over its HTTP API.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::http::Client;
use crate::bed::net::{answers, free_port, loopback};
use crate::bed::process::Process;
use crate::usage;

pub struct Rqbit {
    api: SocketAddr,
    folder: PathBuf,
    process: Process,
}

impl Rqbit {
    /// An empty one, on the server's core.
    pub fn start(bed: &Bed, program: &Path) -> Self {
        let api = loopback(free_port());
        let folder = bed.folder(&format!("rqbit-{}", api.port()));
        let mut command = Command::new(program);
        command
            .args([
                "-v",
                "error",
                "--disable-dht",
                "--disable-dht-persistence",
                "--disable-lsd",
            ])
            .args(["--disable-upnp-port-forward", "--listen-ip", "127.0.0.1"])
            .args(["--listen-port", &free_port().to_string()])
            .args(["--http-api-listen-addr", &api.to_string()])
            .args(["server", "start", "--disable-persistence"])
            .arg(&folder)
            .env("HOME", &folder);
        let name = format!("rqbit-{}", api.port());
        let mut process = Process::spawn(bed, &name, &mut usage::pinned(&command));
        process.wait_ready(Duration::from_secs(10), || answers(api));
        Self {
            api,
            folder,
            process,
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn addr(&self) -> SocketAddr {
        self.api
    }

    /// The address of the film's stream, once it has been added with its one peer.
    pub fn add(&self, film: &Film, peer: SocketAddr) -> String {
        let torrent = film.torrent("", "");
        let mut client = Client::connect(self.api).unwrap();
        let head = format!(
            "POST /torrents?overwrite=true&initial_peers={peer} HTTP/1.1\r\nHost: {}\r\n\
             Content-Type: application/x-bittorrent\r\nContent-Length: {}\r\n\r\n",
            self.api,
            torrent.len()
        );
        client
            .send_raw(&[head.as_bytes(), &torrent].concat())
            .unwrap();
        let reply = client.reply("POST").unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        "/torrents/0/stream/0".to_owned()
    }
}

impl Drop for Rqbit {
    fn drop(&mut self) {
        self.process.kill();
        fs::remove_dir_all(&self.folder).ok();
    }
}
