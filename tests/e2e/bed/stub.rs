//! BitTube itself: the real binary, `bittube serve`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bed::http::{self, Client, Reply};
use crate::bed::net::{LOOPBACK, answers, free_port, loopback};
use crate::bed::process::Process;
use crate::bed::{Bed, wait_for};

const START_LIMIT: Duration = Duration::from_secs(10);

/// The binary under test; `BITTUBE_UNDER_TEST` names another build of it.
pub fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_bittube");
    std::env::var_os("BITTUBE_UNDER_TEST").map_or_else(|| built.into(), PathBuf::from)
}

/// What `serve` is told. Everything is on loopback, so private addresses are allowed by default.
#[derive(Clone)]
pub struct Options {
    pub shards: usize,
    pub allow_private: bool,
    /// Kept by a restart: [`Stub::options`] gives them back.
    pub store: PathBuf,
    pub state: PathBuf,
    pub peer_ip: std::net::IpAddr,
    pub more: Vec<String>,
}

pub struct Stub {
    http: SocketAddr,
    admin: SocketAddr,
    peer: SocketAddr,
    options: Options,
    process: Process,
}

impl Options {
    pub fn new(bed: &Bed) -> Self {
        let name = free_port();
        Self {
            shards: 1,
            allow_private: true,
            store: bed.folder(&format!("store-{name}")),
            state: bed.folder(&format!("state-{name}")),
            peer_ip: LOOPBACK,
            more: Vec::new(),
        }
    }

    /// One more word of the command line.
    #[must_use]
    pub fn with(mut self, words: &[&str]) -> Self {
        self.more.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// `bittube` with the environment of this state, and no subcommand yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        self.set_environment(&mut command);
        command
    }

    pub fn set_environment(&self, command: &mut Command) {
        for name in [
            "XDG_STATE_HOME",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_DATA_HOME",
        ] {
            command.env(name, &self.state);
        }
        command.env("HOME", &self.state);
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
    }

    pub fn serve_words(
        &self,
        http: SocketAddr,
        admin: SocketAddr,
        peer: SocketAddr,
    ) -> Vec<String> {
        let mut words = vec!["serve".to_owned()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--listen", http.to_string());
        option("--admin", admin.to_string());
        option("--peer-listen", peer.to_string());
        option("--store", self.store.display().to_string());
        option("--shards", self.shards.to_string());
        if self.allow_private {
            words.push("--allow-private".to_owned());
        }
        words.extend(self.more.iter().cloned());
        words
    }
}

impl Stub {
    pub fn start(bed: &Bed) -> Self {
        Self::start_with(bed, Options::new(bed))
    }

    pub fn start_with(bed: &Bed, options: Options) -> Self {
        Self::start_wrapped(bed, options, |command| command)
    }

    /// `wrap` may put another program around it.
    pub fn start_wrapped(
        bed: &Bed,
        options: Options,
        wrap: impl FnOnce(Command) -> Command,
    ) -> Self {
        let (http, admin) = (loopback(free_port()), loopback(free_port()));
        let peer = SocketAddr::new(options.peer_ip, free_port());
        let mut command = options.command();
        command
            .args(options.serve_words(http, admin, peer))
            .env("RUST_BACKTRACE", "1");
        let name = format!("stub-{}", http.port());
        let mut process = Process::spawn(bed, &name, &mut wrap(command));
        process.wait_ready(START_LIMIT, || answers(http) && answers(admin));
        Self {
            http,
            admin,
            peer,
            options,
            process,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.http
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where other peers reach it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// To start another one on the same store.
    pub fn options(&self) -> Options {
        self.options.clone()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The address of `video` with these announce URLs before it.
    pub fn url(&self, trackers: &[&str], video: &str) -> String {
        format!("http://{}{}", self.http, target(trackers, video))
    }

    pub fn get(&self, target: &str, headers: &[&str]) -> io::Result<Reply> {
        http::get(self.http, target, headers)
    }

    /// The whole of it, or panics with what came instead.
    #[track_caller]
    pub fn get_all(&self, target: &str) -> Vec<u8> {
        let reply = self
            .get(target, &[])
            .unwrap_or_else(|error| panic!("GET {target}: {error}"));
        assert_eq!(reply.status, 200, "GET {target}: {}", reply.text());
        reply.body
    }

    pub fn client(&self) -> Client {
        Client::connect(self.http).unwrap()
    }

    pub fn token(&self) -> String {
        let path = self.options.state.join("bittube/token");
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// `/api/stats`.
    #[track_caller]
    pub fn stats(&self) -> Value {
        let bearer = format!("Authorization: Bearer {}", self.token());
        let reply = http::get(self.admin, "/api/stats", &[&bearer]).unwrap();
        assert_eq!(reply.status, 200, "/api/stats: {}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    /// The entry of `/api/stats` for a film, once there is one.
    #[track_caller]
    pub fn swarm(&self, info_hash: &str) -> Value {
        wait_for("the swarm to be known", Duration::from_secs(10), || {
            let stats = self.stats();
            let swarms = stats["swarms"].as_array().expect("stats list the swarms");
            swarms
                .iter()
                .find(|swarm| swarm["info_hash"] == info_hash)
                .cloned()
        })
    }

    /// One count of `/api/stats` → `bytes`.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> u64 {
        let stats = self.stats();
        let bytes = stats["bytes"][name].as_u64();
        bytes.unwrap_or_else(|| panic!("stats have no bytes.{name}: {stats}"))
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Options {
        self.process.kill();
        self.options
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        self.process.assert_running();
    }

    /// SIGTERM, and its exit must be clean.
    #[track_caller]
    pub fn stop(mut self) -> Options {
        let status = self.process.stop(START_LIMIT);
        assert!(
            status.success(),
            "the stub's end: {status}\n{}",
            self.process.log()
        );
        self.options
    }
}

/// `/<tracker>/…/<video>`.
pub fn target(trackers: &[&str], video: &str) -> String {
    trackers
        .iter()
        .chain([&video])
        .map(|url| format!("/{url}"))
        .collect()
}

/// The address that `publish` printed.
#[track_caller]
pub fn printed_address(told: &str) -> &str {
    let address = told.lines().find_map(|line| line.strip_prefix("address "));
    address.expect("an address is printed").trim()
}

/// What is asked for at an address that names the usual port, of a stub at any.
#[track_caller]
pub fn target_of(address: &str) -> &str {
    let target = address.strip_prefix("http://localhost:8081");
    target.expect("an address at the usual port")
}

/// Runs a command of the binary that ends by itself.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Output {
    use std::os::unix::process::CommandExt;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (send, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match done.recv_timeout(limit) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
            let output = done.recv().unwrap().unwrap();
            panic!(
                "{command:?} still ran after {limit:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        }
    }
}

/// Free ports for a command that has an engine of its own.
pub fn free_ports() -> [String; 6] {
    ["--listen", "--admin", "--peer-listen"]
        .map(|option| [option.to_owned(), loopback(free_port()).to_string()])
        .concat()
        .try_into()
        .expect("three options, each with its value")
}

/// Options of a second instance beside `store`.
pub fn on_store(bed: &Bed, store: &Path) -> Options {
    Options {
        store: store.to_owned(),
        ..Options::new(bed)
    }
}
