//! The bed: real programs on free loopback ports, started for one test and killed with it.

pub mod aria2;
pub mod chromium;
pub mod film;
pub mod http;
pub mod libtorrent;
pub mod mute;
pub mod net;
pub mod nginx;
pub mod opentracker;
pub mod origin;
pub mod page;
pub mod player;
pub mod process;
pub mod registrar;
pub mod registry;
pub mod rqbit;
pub mod scene;
#[path = "../../../benches/serve/seeder.rs"]
pub mod seeder;
pub mod site;
pub mod stub;
pub mod tracker;
pub mod transmission;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A folder for one test. If the test fails it stays, with every program's log, and says where.
pub struct Bed {
    dir: PathBuf,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bittube-e2e-")
            .tempdir()
            .unwrap()
            .keep();
        // Programs that drop root's rights must still get at their files.
        open_to_all(&dir);
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new folder that any user may write.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        open_to_all(&path);
        path
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !thread::panicking() {
            fs::remove_dir_all(&self.dir).ok();
            return;
        }
        eprintln!("kept for a look: {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "log") {
                eprintln!("--- {}\n{}", path.display(), tail(&path, 25));
            }
        }
    }
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Polls until there is an answer; panics with `what` when there is none in time.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) {
    wait_for(what, limit, || ask().then_some(()));
}
