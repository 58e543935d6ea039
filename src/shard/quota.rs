//! What the pages of one site may cause, on all shards together (R12): else any page could have
//! the user download, keep and seed whatever it likes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::stub::gate::Provenance;
use crate::units::{InfoHash, Time};

/// Replies under way.
pub const STREAMS_MAX: usize = 8;
/// Bytes of torrents that it was the first to ask for, as verified in this run and still stored.
pub const STORED_MAX: u64 = 20 << 30;
/// Torrents that were not open before.
pub const TORRENTS_A_MINUTE: usize = 4;
pub const MINUTE: Duration = Duration::from_secs(60);
/// Sites with an account of their own; the rest share one.
const SITES_MAX: usize = 1000;
/// Torrents on one site's account.
const TORRENTS_MAX: usize = 4096;
/// The account of pages that keep their origin back. No origin is spelt so.
const UNKNOWN: &str = "unknown";

/// Every site's account.
#[derive(Default)]
pub struct Quotas(RwLock<BTreeMap<String, Arc<Quota>>>);

/// One site's.
#[derive(Default)]
pub struct Quota {
    streams: AtomicUsize,
    opened: RwLock<Opened>,
}

#[derive(Default)]
struct Opened {
    /// The latest of them.
    at: VecDeque<Time>,
    torrents: BTreeMap<InfoHash, Stored>,
}

/// Bytes of one torrent on somebody's account.
#[derive(Clone, Default)]
pub struct Stored(Arc<AtomicU64>);

/// A reply under way, as long as this lives.
pub struct Stream(Arc<Quota>);

impl Quotas {
    /// `None`: the user's own requests are nobody's.
    pub fn of(&self, from: &Provenance) -> Option<Arc<Quota>> {
        if !from.web {
            return None;
        }
        let site = from.site.as_deref().unwrap_or(UNKNOWN);
        let sites = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = sites.get(site) {
            return Some(quota.clone());
        }
        drop(sites);
        let mut sites = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if sites.len() >= SITES_MAX && !sites.contains_key(site) {
            sites.retain(|_, quota| Arc::strong_count(quota) > 1 || !quota.is_blank());
        }
        let site = if sites.len() < SITES_MAX {
            site
        } else {
            UNKNOWN
        };
        Some(sites.entry(site.to_owned()).or_default().clone())
    }
}

impl Quota {
    pub fn stream(self: &Arc<Self>) -> Option<Stream> {
        let more = |open| (open < STREAMS_MAX).then_some(open + 1);
        let counted = self
            .streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Stream(self.clone()))
    }

    /// A torrent that nobody has open; `None` if that is one too many. `is_stored`: whether the
    /// store still has anything of a torrent.
    pub fn open(
        &self,
        now: Time,
        info_hash: InfoHash,
        is_stored: impl Fn(InfoHash) -> bool,
    ) -> Option<Stored> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let since = now.before(MINUTE);
        opened.at.retain(|at| *at > since);
        if opened.at.len() >= TORRENTS_A_MINUTE {
            return None;
        }
        if opened.is_full() {
            opened.torrents.retain(|info_hash, _| is_stored(*info_hash));
        }
        if opened.is_full() {
            return None;
        }
        opened.at.push_back(now);
        Some(opened.torrents.entry(info_hash).or_default().clone())
    }

    fn is_blank(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.torrents.is_empty()
    }
}

impl Opened {
    fn is_full(&self) -> bool {
        let stored: u64 = self.torrents.values().map(Stored::bytes).sum();
        stored >= STORED_MAX || self.torrents.len() >= TORRENTS_MAX
    }
}

impl Stored {
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Evicted, perhaps bytes of an earlier run that were never counted.
    pub fn remove(&self, bytes: u64) {
        let less = |stored: u64| Some(stored.saturating_sub(bytes));
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> Provenance {
        Provenance {
            web: true,
            site: Some(name.into()),
        }
    }

    fn hash(n: u8) -> InfoHash {
        InfoHash([n; 20])
    }

    #[test]
    fn each_site_has_its_own_streams() {
        let quotas = Quotas::default();
        let one = quotas.of(&site("https://a.example")).unwrap();
        let mut streams: Vec<_> = (0..STREAMS_MAX).map(|_| one.stream().unwrap()).collect();
        let again = quotas.of(&site("https://a.example")).unwrap();
        assert!(again.stream().is_none());
        streams.pop();
        assert!(again.stream().is_some());
        assert!(
            quotas
                .of(&site("https://b.example"))
                .unwrap()
                .stream()
                .is_some()
        );
        assert!(quotas.of(&Provenance::USER).is_none());
    }

    #[test]
    fn new_torrents_are_counted_by_the_minute() {
        let quota = Quota::default();
        let open = |at, n| quota.open(Time::from_secs(at), hash(n), |_| true).is_some();
        let early: Vec<_> = (0..6).map(|n| open(100 + u64::from(n), n)).collect();
        assert_eq!(early, [true, true, true, true, false, false]);
        assert!(!open(159, 7));
        assert!(open(160, 7), "the first is a minute ago");
        assert!(!open(160, 8));
    }

    #[test]
    fn what_is_stored_counts_until_it_is_evicted() {
        let quota = Quota::default();
        let open =
            |at, n, stored: fn(InfoHash) -> bool| quota.open(Time::from_secs(at), hash(n), stored);
        let first = open(0, 1, |_| true).unwrap();
        first.add(STORED_MAX - 1);
        let second = open(100, 2, |_| true).unwrap();
        second.add(1);
        assert!(open(200, 3, |_| true).is_none());
        second.remove(5);
        assert!(open(200, 3, |_| true).is_some());
        second.add(1);
        assert!(open(300, 4, |_| true).is_none());
        // The store has let the first one go as a whole.
        assert!(open(300, 4, |info_hash| info_hash != hash(1)).is_some());
        assert!(open(300, 5, |_| true).is_some());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_blank_first() {
        let quotas = Quotas::default();
        let busy = quotas.of(&site("https://busy.example")).unwrap();
        busy.open(Time::ZERO, hash(1), |_| true).unwrap();
        drop(busy);
        for n in 0..2 * SITES_MAX {
            quotas.of(&site(&format!("https://{n}.example")));
        }
        let count = || quotas.0.read().unwrap().len();
        assert!(count() <= SITES_MAX);
        assert!(
            quotas
                .0
                .read()
                .unwrap()
                .contains_key("https://busy.example")
        );
        // With every account in use, strangers share one.
        let held: Vec<_> = (0..SITES_MAX)
            .map(|n| quotas.of(&site(&format!("https://h{n}.example"))).unwrap())
            .collect();
        let two = ["x", "y"].map(|name| quotas.of(&site(&format!("https://{name}.example"))));
        let [Some(x), Some(y)] = two else { panic!() };
        assert!(Arc::ptr_eq(&x, &y) && count() <= SITES_MAX + 1);
        drop(held);
    }
}
