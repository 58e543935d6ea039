//! The torrents that are registered: which video each is of, how much room they take, who goes
//! first when there is none.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use crate::http::pin::Pin;
use crate::units::Time;

/// What is kept of a torrent beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The video's, without fragment.
    pub url: String,
    /// Forty hex digits.
    pub info_hash: String,
    /// Bytes of the .torrent.
    pub torrent_len: u64,
    pub by: By,
    /// Which version of the video it is of, as the video's own server tells versions apart.
    #[serde(default)]
    pub etag: Option<String>,
    #[serde(default)]
    pub last_modified: Option<String>,
    /// Bytes of the video.
    pub length: u64,
}

/// Who registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The tracker itself, at a viewer's request.
    Auto,
    Publisher,
}

impl Record {
    pub fn pin(&self) -> Pin {
        Pin {
            etag: self.etag.clone(),
            last_modified: self.last_modified.clone(),
            length: Some(self.length),
        }
    }

    /// Takes over what was not known yet; whether there was any such.
    pub fn learn(&mut self, pin: Pin) -> bool {
        let before = self.pin();
        let mut after = before.clone();
        after.learn(pin);
        let news = after != before;
        (self.etag, self.last_modified) = (after.etag, after.last_modified);
        news
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub record: Record,
    /// When the video's server last agreed; `None`: not since this process began.
    pub checked_at: Option<Time>,
    /// It is being asked.
    pub checking: bool,
    used_at: Time,
}

/// All entries, within bounds.
#[derive(Debug)]
pub struct Entries {
    entries_max: usize,
    bytes_max: u64,
    by_url: BTreeMap<String, Entry>,
    /// What the tracker registered by itself, the longest unused first.
    idle: BTreeSet<(Time, String)>,
    bytes: u64,
}

/// Publishers' torrents take all the room there is; these had to go before that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full(pub Vec<String>);

impl Entries {
    pub const fn new(entries_max: usize, bytes_max: u64) -> Self {
        Self {
            entries_max,
            bytes_max,
            by_url: BTreeMap::new(),
            idle: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub fn get_mut(&mut self, url: &str) -> Option<&mut Entry> {
        self.by_url.get_mut(url)
    }

    pub fn contains(&self, url: &str) -> bool {
        self.by_url.contains_key(url)
    }

    pub fn touch(&mut self, now: Time, url: &str) {
        let Some(entry) = self.by_url.get_mut(url) else {
            return;
        };
        if entry.record.by == By::Auto && self.idle.remove(&(entry.used_at, url.to_owned())) {
            self.idle.insert((now, url.to_owned()));
        }
        entry.used_at = now;
    }

    /// In the place of what was there under its URL. Returns the URLs of what had to go for it.
    pub fn insert(
        &mut self,
        now: Time,
        record: Record,
        checked_at: Option<Time>,
    ) -> Result<Vec<String>, Full> {
        let old = self.remove(&record.url);
        let mut gone = Vec::new();
        while self.by_url.len() >= self.entries_max
            || self.bytes + record.torrent_len > self.bytes_max
        {
            let Some((_, url)) = self.idle.first().cloned() else {
                // The one that was to be replaced stays.
                if let Some(old) = old {
                    self.put(old);
                }
                return Err(Full(gone));
            };
            self.remove(&url);
            gone.push(url);
        }
        self.put(Entry {
            record,
            checked_at,
            checking: false,
            used_at: now,
        });
        Ok(gone)
    }

    pub fn remove(&mut self, url: &str) -> Option<Entry> {
        let entry = self.by_url.remove(url)?;
        self.idle.remove(&(entry.used_at, url.to_owned()));
        self.bytes -= entry.record.torrent_len;
        Some(entry)
    }

    fn put(&mut self, entry: Entry) {
        let url = entry.record.url.clone();
        self.bytes += entry.record.torrent_len;
        if entry.record.by == By::Auto {
            self.idle.insert((entry.used_at, url.clone()));
        }
        self.by_url.insert(url, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(url: &str, torrent_len: u64, by: By) -> Record {
        Record {
            url: url.to_owned(),
            info_hash: "0".repeat(40),
            torrent_len,
            by,
            etag: None,
            last_modified: None,
            length: 1,
        }
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_publishers() {
        let mut it = Entries::new(3, 1000);
        let at = Time::from_secs;
        for (second, url, by) in [
            (1, "a", By::Auto),
            (2, "p", By::Publisher),
            (3, "b", By::Auto),
        ] {
            assert_eq!(it.insert(at(second), record(url, 10, by), None), Ok(vec![]));
        }
        it.touch(at(4), "a");
        it.touch(at(4), "p");
        let gone = it.insert(at(5), record("c", 10, By::Auto), None);
        assert_eq!(gone, Ok(vec!["b".to_owned()]));
        // Bytes count as well.
        let gone = it.insert(at(6), record("q", 985, By::Publisher), None);
        assert_eq!(gone, Ok(vec!["a".to_owned(), "c".to_owned()]));
        assert_eq!((it.by_url.len(), it.bytes), (2, 995));
        let full = Err(Full(vec![]));
        assert_eq!(it.insert(at(7), record("d", 10, By::Auto), None), full);
        assert_eq!(it.insert(at(7), record("q", 995, By::Auto), None), full);
        assert_eq!((it.by_url.len(), it.bytes), (2, 995));
        assert_eq!(
            it.insert(at(7), record("q", 990, By::Publisher), None),
            Ok(vec![])
        );
        assert_eq!(it.bytes, 1000);
        // What goes in vain is named as well.
        it.remove("p");
        assert_eq!(
            it.insert(at(8), record("e", 10, By::Auto), None),
            Ok(vec![])
        );
        assert_eq!(
            it.insert(at(9), record("f", 20, By::Auto), None),
            Err(Full(vec!["e".to_owned()]))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn bounds_hold(
            steps in prop::collection::vec((0u8..9, 0u64..60, any::<bool>(), 0u8..4), 0..60),
        ) {
            let mut it = Entries::new(4, 100);
            for (now, (url, len, own, step)) in (0u64..).zip(steps) {
                let (now, url) = (Time::from_secs(now), url.to_string());
                match step {
                    0 => drop(it.remove(&url)),
                    1 => it.touch(now, &url),
                    _ => {
                        let by = if own { By::Publisher } else { By::Auto };
                        let _ = it.insert(now, record(&url, len, by), None);
                    }
                }
                let sum: u64 = it.by_url.values().map(|entry| entry.record.torrent_len).sum();
                prop_assert_eq!(it.bytes, sum);
                prop_assert!(it.by_url.len() <= 4 && sum <= 100);
                let autos = it.by_url.values().filter(|entry| entry.record.by == By::Auto);
                prop_assert_eq!(autos.count(), it.idle.len());
            }
        }
    }
}
