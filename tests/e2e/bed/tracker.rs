//! `bittube tracker`: the real binary, on loopback of both families.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::bed::film::Film;
use crate::bed::http::{self, Reply};
use crate::bed::net::free_port;
use crate::bed::process::Process;
use crate::bed::stub::binary;
use crate::bed::{Bed, wait_for, wait_until};

const START_LIMIT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

pub struct Tracker {
    /// IPv4 and IPv6; HTTP and UDP on the same ports.
    pub v4: SocketAddr,
    pub v6: SocketAddr,
    store: PathBuf,
    words: Vec<String>,
    process: Process,
}

impl Tracker {
    pub fn start(bed: &Bed) -> Self {
        Self::start_with(bed, &[])
    }

    /// `words`: more of the command line.
    pub fn start_with(bed: &Bed, words: &[&str]) -> Self {
        Self::start_on(bed, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, words)
    }

    /// At other addresses of this machine.
    pub fn start_on(bed: &Bed, v4: Ipv4Addr, v6: Ipv6Addr, words: &[&str]) -> Self {
        let v4 = SocketAddr::from((v4, free_port()));
        let v6 = SocketAddr::from((v6, free_port()));
        let store = bed.folder(&format!("tracker-{}", v4.port()));
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let process = spawn(bed, v4, v6, &store, &words);
        Self {
            v4,
            v6,
            store,
            words,
            process,
        }
    }

    /// Another process at the same addresses, with the same store, after this one's end.
    #[track_caller]
    pub fn restart(&mut self, bed: &Bed, how: Signal) {
        if how == Signal::KILL {
            self.process.kill();
        } else {
            self.process.signal(how);
            let status = self.process.wait(START_LIMIT);
            assert!(status.success(), "{status}\n{}", self.process.log());
        }
        self.process = spawn(bed, self.v4, self.v6, &self.store, &self.words);
    }

    /// The same with other words.
    #[track_caller]
    pub fn restart_with(&mut self, bed: &Bed, how: Signal, words: &[&str]) {
        self.words = words.iter().map(|&word| word.to_owned()).collect();
        self.restart(bed, how);
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    #[track_caller]
    pub fn stop(mut self) {
        let status = self.process.stop(START_LIMIT);
        assert!(status.success(), "{status}\n{}", self.process.log());
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn http(&self) -> String {
        format!("http://{}/announce", self.v4)
    }

    pub fn http6(&self) -> String {
        format!("http://{}/announce", self.v6)
    }

    pub fn udp(&self) -> String {
        format!("udp://{}/announce", self.v4)
    }

    pub fn udp6(&self) -> String {
        format!("udp://{}/announce", self.v6)
    }

    pub fn get(&self, target: &str) -> Reply {
        http::get(self.v4, target, &[]).unwrap()
    }

    #[track_caller]
    pub fn stats(&self) -> Value {
        let reply = self.get("/stats.json");
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// Seeds and leechers that it knows.
    pub fn scrape(&self, film: &Film) -> (u64, u64) {
        let reply = self.get(&format!("/scrape?info_hash={}", percent(&film.info_hash)));
        let text = reply.text();
        let number = |key: &str| {
            let rest = &text[text.find(key).unwrap() + key.len()..];
            rest[..rest.find('e').unwrap()].parse().unwrap()
        };
        (number("8:completei"), number("10:incompletei"))
    }

    /// Of all films; a scrape would be counted.
    #[track_caller]
    pub fn wait_seeds(&self, count: u64) {
        wait_until("seeds to be announced", LIMIT, || {
            self.stats()["seeds"].as_u64() >= Some(count)
        });
    }

    /// All that it knows now is on the disk.
    #[track_caller]
    pub fn wait_saved(&self) {
        wait_for("a snapshot", LIMIT, || {
            let stats = self.stats();
            let saved = &stats["saved_peers"];
            (saved == &stats["peers"] && !stats["saved_ago_s"].is_null()).then_some(())
        });
    }
}

fn spawn(bed: &Bed, v4: SocketAddr, v6: SocketAddr, store: &Path, words: &[String]) -> Process {
    let mut command = Command::new(binary());
    command.arg("tracker");
    for addr in [v4, v6] {
        command.args(["--http", &addr.to_string(), "--udp", &addr.to_string()]);
    }
    command.arg("--store").arg(store).args(words);
    command.env("HOME", store).env("XDG_CONFIG_HOME", store);
    let name = format!("tracker-{}", v4.port());
    let log = bed.dir().join(format!("{name}.log"));
    let line = format!("tracker  http://{v4}/announce");
    let before = process_line(&log, &line);
    let mut process = Process::spawn(bed, &name, &mut command);
    // Its line comes when everything listens; the log may hold that of an earlier process.
    process.wait_ready(START_LIMIT, || process_line(&log, &line) > before);
    process
}

/// How often a program has said so.
fn process_line(log: &Path, line: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.matches(line).count()
}

pub fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// A good announce of a made-up peer; `more` begins with `&`.
pub fn announce_target(info_hash: &[u8; 20], port: u16, more: &str) -> String {
    let hash = percent(info_hash);
    format!("/announce?info_hash={hash}&peer_id=-BED000-abcdefghijkl&port={port}{more}")
}
