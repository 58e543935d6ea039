//! opentracker as the tracker. Debian's knows only the torrents on its list.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::bed::film::Film;
use crate::bed::http::{Client, get};
use crate::bed::net::{LOOPBACK, answers, free_port};
use crate::bed::process::Process;
use crate::bed::{Bed, wait_until};

pub struct OpenTracker {
    addr: SocketAddr,
    _process: Process,
}

impl OpenTracker {
    pub fn start(bed: &Bed, films: &[&Film]) -> Self {
        Self::start_on(bed, LOOPBACK, films)
    }

    pub fn start_on(bed: &Bed, ip: IpAddr, films: &[&Film]) -> Self {
        let addr = SocketAddr::new(ip, free_port());
        let name = format!("opentracker-{}", addr.port());
        // Its root once it has given up being root: the list's name is relative to it.
        let home = bed.folder(&name);
        let list: String = films.iter().map(|film| film.hex() + "\n").collect();
        fs::write(home.join("list"), list).unwrap();
        let port = addr.port().to_string();
        let mut command = Command::new("opentracker");
        command.args([
            "-i",
            &ip.to_string(),
            "-p",
            &port,
            "-P",
            &port,
            "-w",
            "list",
            "-d",
        ]);
        command.arg(&home).current_dir(&home);
        let mut process = Process::spawn(bed, &name, &mut command);
        process.wait_ready(Duration::from_secs(5), || answers(addr));
        let tracker = Self {
            addr,
            _process: process,
        };
        // Its list is read by a thread of its own, a moment after it listens.
        for film in films {
            wait_until("opentracker's list", Duration::from_secs(5), || {
                tracker.knows(film)
            });
        }
        tracker
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// Seeders and leechers that it knows.
    pub fn scrape(&self, film: &Film) -> Option<(u64, u64)> {
        // Whoever stops is told as well, and is not there before or after.
        let reply = self.watch(film, "stopped")?;
        Some((
            number_after(&reply, "8:completei")?,
            number_after(&reply, "10:incompletei")?,
        ))
    }

    /// Whether the torrent is on its list, of which one that stops is not told.
    fn knows(&self, film: &Film) -> bool {
        let known = self
            .watch(film, "started")
            .is_some_and(|reply| !reply.contains("failure"));
        self.watch(film, "stopped");
        known
    }

    fn watch(&self, film: &Film, event: &str) -> Option<String> {
        let target = format!(
            "{}&peer_id=-BED000-watchingonly&port=1&event={event}",
            announce_target(film, 1)
        );
        Some(get(self.addr, &target, &[]).ok()?.text())
    }

    /// Makes a peer known under the address that it really has.
    #[track_caller]
    pub fn announce(&self, film: &Film, peer: SocketAddr) {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(peer.ip(), 0).into()).unwrap();
        socket.connect(&self.addr.into()).unwrap();
        let target = format!(
            "{}&peer_id=-BED000-{:012}&port={}&event=started",
            announce_target(film, 0),
            peer.port(),
            peer.port()
        );
        let mut client = Client::over(self.addr, socket.into()).unwrap();
        let reply = client.get(&target, &[]).unwrap();
        assert!(!reply.text().contains("failure reason"), "{}", reply.text());
    }
}

fn announce_target(film: &Film, left: u64) -> String {
    let hash: String = film
        .info_hash
        .iter()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    format!("/announce?info_hash={hash}&uploaded=0&downloaded=0&left={left}&compact=1")
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    rest[..rest.find('e')?].parse().ok()
}
