//! Fetches that wait for a connection, urgent ones first.

use url::Url;

use crate::origin::redirect::same_site;
use crate::origin::transfer::Fetch;

/// Fetches that wait, at most; those that wait again come on top.
const LEN_MAX: usize = 256;

pub struct Queue(Vec<Fetch>);

impl Queue {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn is_full(&self) -> bool {
        self.0.len() >= LEN_MAX
    }

    /// Behind the others of its urgency.
    pub fn push(&mut self, fetch: Fetch) {
        let before = |queued: &Fetch| queued.urgent || !fetch.urgent;
        let place = self.0.partition_point(before);
        self.0.insert(place, fetch);
    }

    /// Before the others of its urgency: it has waited already.
    pub fn push_again(&mut self, fetch: Fetch) {
        let before = |queued: &Fetch| queued.urgent && !fetch.urgent;
        let place = self.0.partition_point(before);
        self.0.insert(place, fetch);
    }

    pub fn get(&self, place: usize) -> Option<&Fetch> {
        self.0.get(place)
    }

    pub fn remove(&mut self, place: usize) -> Fetch {
        self.0.remove(place)
    }

    pub fn take(&mut self, key: u64) -> Option<Fetch> {
        let place = self.0.iter().position(|fetch| fetch.key == key)?;
        Some(self.0.remove(place))
    }

    /// The first that waits for that host.
    pub fn take_for(&mut self, url: &Url) -> Option<Fetch> {
        let place = self.0.iter().position(|fetch| same_site(&fetch.at, url))?;
        Some(self.0.remove(place))
    }

    /// Whether one waits for that host because of a redirect that another fetch followed.
    pub fn remembers(&self, url: &Url) -> bool {
        let waits = |fetch: &Fetch| fetch.remembered && same_site(&fetch.at, url);
        self.0.iter().any(waits)
    }

    /// Those that rely on a remembered redirect are to begin at `url` again.
    pub fn start_over(&mut self, url: &Url) {
        for fetch in self.0.iter_mut().filter(|fetch| fetch.remembered) {
            fetch.at = url.clone();
            fetch.remembered = false;
        }
    }
}
