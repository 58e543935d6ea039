//! The origins of one swarm, and what is under way from each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use url::Url;

use crate::shard::origin::OriginHost;
use crate::swarm::FetchKey;
use crate::swarm::OriginKey;
use crate::units::ByteRange;

#[derive(Default)]
pub struct Sources {
    origins: RefCell<Vec<Source>>,
    fetches: RefCell<BTreeMap<FetchKey, Rc<OriginHost>>>,
}

struct Source {
    key: OriginKey,
    pool: Rc<OriginHost>,
    /// Torrent bytes that its file holds.
    covers: ByteRange,
}

impl Sources {
    pub fn add(&self, key: OriginKey, pool: Rc<OriginHost>, covers: ByteRange) {
        self.origins.borrow_mut().push(Source { key, pool, covers });
    }

    pub fn key_of(&self, pool: &Rc<OriginHost>) -> Option<OriginKey> {
        let origins = self.origins.borrow();
        origins
            .iter()
            .find(|source| Rc::ptr_eq(&source.pool, pool))
            .map(|source| source.key)
    }

    pub fn has_url(&self, url: &Url) -> bool {
        self.origins
            .borrow()
            .iter()
            .any(|source| source.pool.url == *url)
    }

    /// The pool of an origin.
    pub fn pool(&self, key: OriginKey) -> Option<Rc<OriginHost>> {
        let origins = self.origins.borrow();
        origins
            .iter()
            .find(|source| source.key == key)
            .map(|source| source.pool.clone())
    }

    /// Its key, if it was one of ours; its fetches are nobody's from now on.
    pub fn remove(&self, pool: &Rc<OriginHost>) -> Option<OriginKey> {
        let mut origins = self.origins.borrow_mut();
        let at = origins
            .iter()
            .position(|source| Rc::ptr_eq(&source.pool, pool))?;
        self.fetches
            .borrow_mut()
            .retain(|_, of| !Rc::ptr_eq(of, pool));
        Some(origins.remove(at).key)
    }

    /// Lets all origins go.
    pub fn clear(&self) {
        self.origins.borrow_mut().clear();
        self.fetches.borrow_mut().clear();
    }

    /// Notes a fetch that begins; its pool, and `range` of the torrent as bytes of its file.
    pub fn begin(
        &self,
        fetch: FetchKey,
        origin: OriginKey,
        range: ByteRange,
    ) -> Option<(Rc<OriginHost>, ByteRange)> {
        let origins = self.origins.borrow();
        let source = origins.iter().find(|source| source.key == origin)?;
        let base = source.covers.start;
        self.fetches.borrow_mut().insert(fetch, source.pool.clone());
        Some((
            source.pool.clone(),
            ByteRange::new(range.start - base, range.end - base),
        ))
    }

    pub fn fetching(&self, fetch: FetchKey) -> Option<Rc<OriginHost>> {
        self.fetches.borrow().get(&fetch).cloned()
    }

    /// Forgets a fetch; where it came from, if that is still an origin of ours.
    pub fn end(&self, fetch: FetchKey) -> Option<(Rc<OriginHost>, OriginKey)> {
        let pool = self.fetches.borrow_mut().remove(&fetch)?;
        let key = self.key_of(&pool)?;
        Some((pool, key))
    }
}
