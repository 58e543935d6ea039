//! Which shard owns what: the only thing that shards share, read when a connection is handed over.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use crate::units::{InfoHash, ShardId};

/// Addresses remembered at most; beyond it the table starts anew and films are found again.
const FILMS_MAX: usize = 100_000;

/// Info-hash → shard and address → shard. Never read on the data path.
pub struct Directory {
    table: RwLock<Table>,
}

struct Table {
    swarms: BTreeMap<InfoHash, ShardId>,
    films: BTreeMap<String, ShardId>,
    /// Swarms and films placed on each shard.
    load: Vec<u32>,
}

impl Directory {
    pub fn new(shards: usize) -> Self {
        let table = Table {
            swarms: BTreeMap::new(),
            films: BTreeMap::new(),
            load: vec![0; shards.max(1)],
        };
        Self {
            table: RwLock::new(table),
        }
    }

    /// The shard of the film with this address key; the least loaded one if it is new.
    pub fn film(&self, key: &str) -> ShardId {
        if let Some(shard) = self.read().films.get(key) {
            return *shard;
        }
        let mut table = self.write();
        if let Some(shard) = table.films.get(key) {
            return *shard;
        }
        if table.films.len() >= FILMS_MAX {
            table.films.clear();
        }
        let shard = table.least_loaded();
        table.take(shard);
        table.films.insert(key.to_owned(), shard);
        shard
    }

    /// From now on requests for this address go to `shard`.
    pub fn move_film(&self, key: &str, shard: ShardId) {
        let mut table = self.write();
        if let Some(old) = table.films.insert(key.to_owned(), shard) {
            table.release(old);
        }
        table.take(shard);
    }

    pub fn forget_film(&self, key: &str) {
        let mut table = self.write();
        if let Some(old) = table.films.remove(key) {
            table.release(old);
        }
    }

    /// The shard of a swarm, which becomes `wanted` if nobody had it.
    pub fn claim_swarm(&self, info_hash: InfoHash, wanted: ShardId) -> ShardId {
        *self.write().swarms.entry(info_hash).or_insert(wanted)
    }

    pub fn swarm(&self, info_hash: InfoHash) -> Option<ShardId> {
        self.read().swarms.get(&info_hash).copied()
    }

    pub fn forget_swarm(&self, info_hash: InfoHash) {
        self.write().swarms.remove(&info_hash);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn least_loaded(&self) -> ShardId {
        let (shard, _) = self
            .load
            .iter()
            .enumerate()
            .min_by_key(|(_, load)| **load)
            .expect("a shard exists");
        ShardId(u16::try_from(shard).expect("shards are few"))
    }

    fn take(&mut self, shard: ShardId) {
        self.load[usize::from(shard.0)] += 1;
    }

    fn release(&mut self, shard: ShardId) {
        let load = &mut self.load[usize::from(shard.0)];
        *load = load.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_spread_over_shards_and_stay() {
        let directory = Directory::new(2);
        let first = directory.film("a");
        let second = directory.film("b");
        assert_ne!(first, second);
        assert_eq!(directory.film("a"), first);
        directory.move_film("a", second);
        assert_eq!(directory.film("a"), second);
        assert_eq!(
            directory.film("c"),
            first,
            "the other shard is now the emptier"
        );
    }

    #[test]
    fn a_swarm_keeps_its_first_shard() {
        let directory = Directory::new(2);
        let hash = InfoHash([7; 20]);
        assert_eq!(directory.swarm(hash), None);
        assert_eq!(directory.claim_swarm(hash, ShardId(1)), ShardId(1));
        assert_eq!(directory.claim_swarm(hash, ShardId(0)), ShardId(1));
        directory.forget_swarm(hash);
        assert_eq!(directory.claim_swarm(hash, ShardId(0)), ShardId(0));
    }
}
