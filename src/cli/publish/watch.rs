//! Publishing again whenever what was published changes. It is looked at every second: that sees
//! what network file systems and other machines do, of which the kernel tells nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::Failed;
use crate::cli::publish::Local;
use crate::cli::publish::film::Stamp;
use crate::config::exit;
use crate::ring::runtime;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many looks must see the same: who is still writing changes it before.
const LOOKS_SAME: u32 = 3;

/// What is there; `None` while it cannot be read.
pub type Seen = Option<Vec<(PathBuf, Stamp)>>;

/// Until Ctrl-C or SIGTERM. `published`: what was seen before it was published.
pub fn watch(mut local: Local, published: Seen) -> Result<(), Failed> {
    if let Err(refused) = runtime::probe() {
        return Err(Failed::new(exit::UNAVAILABLE, refused));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    eprintln!("watching {}", local.order().source.display());
    let mut settled = Settled::new(published);
    let watcher = std::thread::spawn(move || {
        while !told.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK_EVERY);
            if !settled.look(local.look()) {
                continue;
            }
            if let Err(failed) = local.publish(&told) {
                eprintln!("bittube: {:#}; waiting for another change", failed.why);
            }
        }
    });
    crate::cli::until_interrupted();
    stop.store(true, Ordering::Relaxed);
    watcher.thread().unpark();
    let ended = watcher.join();
    ended.map_err(|_| Failed::new(exit::SOFTWARE, anyhow::anyhow!("watching ended by itself")))
}

/// Tells a change that is over from one that goes on.
struct Settled {
    published: Seen,
    latest: Seen,
    looks: u32,
}

impl Settled {
    fn new(published: Seen) -> Self {
        Self {
            latest: published.clone(),
            published,
            looks: LOOKS_SAME,
        }
    }

    /// Whether what is seen now is to be published.
    fn look(&mut self, seen: Seen) -> bool {
        if seen != self.latest {
            self.latest = seen;
            self.looks = 0;
        }
        self.looks = self.looks.saturating_add(1);
        // What has gone may come back, and then it is looked at again.
        let new = self.latest.is_some() && self.latest != self.published;
        let due = new && self.looks >= LOOKS_SAME;
        if due {
            self.published.clone_from(&self.latest);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stamps: &[Stamp]) -> Seen {
        Some(
            stamps
                .iter()
                .map(|stamp| (PathBuf::new(), *stamp))
                .collect(),
        )
    }

    #[test]
    fn a_change_is_published_once_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let stamp = |length: usize| {
            let path = folder.path().join("film");
            std::fs::write(&path, vec![0; length]).unwrap();
            Stamp::of(&rustix::fs::stat(&path).unwrap()).unwrap()
        };
        let [a, b, c] = [1, 2, 3].map(stamp);
        let mut settled = Settled::new(seen(&[a]));
        let mut look = |stamps: &[Stamp]| settled.look(seen(stamps));
        assert!(!look(&[a]) && !look(&[a]) && !look(&[a]));
        // It grows.
        assert!(!look(&[b]) && !look(&[b]) && !look(&[c]) && !look(&[c]));
        assert!(look(&[c]));
        assert!(!look(&[c]) && !look(&[c]) && !look(&[c]));
        // Another file comes, and goes before anybody cares.
        assert!(!look(&[c, a]) && !look(&[c, a]) && !look(&[c]));
        assert!(!look(&[c]) && !look(&[c]) && !look(&[c]));
        // It goes away for a while.
        for _ in 0..9 {
            assert!(!settled.look(None));
        }
        assert!(!settled.look(seen(&[c])) && !settled.look(seen(&[c])));
        assert!(
            !settled.look(seen(&[c])),
            "it is the one that was published"
        );
    }
}
