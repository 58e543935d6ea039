//! BitTube's own tracker with a registry: the real binary, `bittube tracker`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::http::{self, Reply};
use crate::bed::net::{answers, free_port, loopback};
use crate::bed::process::Process;
use crate::bed::stub::Options;

const START_LIMIT: Duration = Duration::from_secs(10);

/// One publisher's.
pub const TOKEN: &str = "a-publisher's-token-of-32-letters";

pub struct Registrar {
    http: SocketAddr,
    dir: PathBuf,
    words: Vec<String>,
    process: Process,
}

impl Registrar {
    /// `words` follow those that give it an address and a registry. It may fetch from loopback.
    pub fn start(bed: &Bed, words: &[&str]) -> Self {
        let http = loopback(free_port());
        let dir = bed.folder(&format!("registry-{}", http.port()));
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Self::start_on(bed, http, dir, words)
    }

    /// Whoever has [`TOKEN`] may register videos of `host`.
    pub fn with_publisher(bed: &Bed, host: &str) -> Self {
        let tokens = bed.write("tokens", format!("# one publisher\n{TOKEN} {host}\n"));
        Self::start(bed, &["--tokens", &tokens.display().to_string()])
    }

    fn start_on(bed: &Bed, http: SocketAddr, dir: PathBuf, words: Vec<String>) -> Self {
        let mut command = Options::new(bed).command();
        command.args(["tracker", "--allow-private", "--http", &http.to_string()]);
        command.arg("--registry").arg(&dir).args(&words);
        let name = format!("tracker-{}", http.port());
        let mut process = Process::spawn(bed, &name, &mut command);
        process.wait_ready(START_LIMIT, || answers(http));
        Self {
            http,
            dir,
            words,
            process,
        }
    }

    /// SIGKILL, then the same again on what it left.
    pub fn restart(mut self, bed: &Bed) -> Self {
        self.process.kill();
        let (http, dir) = (self.http, self.dir.clone());
        Self::start_on(bed, http, dir, std::mem::take(&mut self.words))
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("http://{}/announce", self.http)
    }

    /// What the registry answers for that video.
    pub fn metainfo(&self, video: &str) -> Reply {
        http::get(self.http, &metainfo_target(video), &[]).unwrap()
    }
}

/// A video's place in a registry.
pub fn metainfo_target(video: &str) -> String {
    let video: String = video.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/metainfo?url={video}")
}
