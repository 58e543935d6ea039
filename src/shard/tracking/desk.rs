//! What one shard of a tracker has, and how it asks the others.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::oneshot;

use crate::reach::network::Network;
use crate::ring::datagrams::Caller;
use crate::ring::datagrams::Door;
use crate::ring::mailbox::Mail;
use crate::ring::runtime;
use crate::shard::registry;
use crate::tracker::server::allow::Allow;
use crate::tracker::server::asked::Asked;
use crate::tracker::server::asked::Refused;
use crate::tracker::server::ids::Keys;
use crate::tracker::server::stats::Stats;
use crate::tracker::server::table::Counts;
use crate::tracker::server::table::Limits;
use crate::tracker::server::table::Table;
use crate::tracker::server::table::Told;
use crate::units::InfoHash;
use crate::units::Time;

/// Another shard's answer is waited for this long.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// What every shard may read.
pub struct Shared {
    /// Of one shard.
    pub connections_max: usize,
    /// Of one shard.
    pub limits: Limits,
    /// At the start.
    pub allow: Arc<Allow>,
    pub trusted: Vec<Network>,
    pub store: PathBuf,
    /// A tracker may have none.
    pub registry: Option<registry::Door>,
    pub keys: Keys,
    pub pin: bool,
    pub started: Time,
    pub mail: Vec<Mail<Letter>>,
}

/// What shards send each other.
pub enum Letter {
    /// Announces that came by UDP, in one batch; the owner answers from its own socket of the same
    /// address.
    Announces {
        door: usize,
        handed: Vec<Handed>,
    },
    Announce {
        asked: Asked,
        reply: oneshot::Sender<Result<Told, Refused>>,
    },
    Scrape {
        hashes: Vec<InfoHash>,
        reply: oneshot::Sender<Vec<Counts>>,
    },
    Stats(oneshot::Sender<Stats>),
    Allow(Arc<Allow>),
    /// Write down what is known, answer, end.
    Stop(oneshot::Sender<()>),
}

/// An announce on its way to the shard that has its swarm.
pub struct Handed {
    pub to: Caller,
    pub transaction: u32,
    pub asked: Asked,
}

/// What one shard's tasks share; never leaves its thread.
pub struct Desk {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub table: RefCell<Table>,
    pub doors: Vec<Door>,
    /// What is counted here; the rest of it is filled in when asked for.
    pub counted: RefCell<Stats>,
    /// Announces put into the table, whoever heard them.
    pub handled: Cell<u64>,
    /// When the last snapshot was written.
    pub saved_at: Cell<Option<Time>>,
    /// One is written at a time.
    pub saving: tokio::sync::Mutex<()>,
    /// Open connections.
    pub connections: Cell<usize>,
    /// Of each household.
    pub callers: RefCell<BTreeMap<IpAddr, usize>>,
    /// By UDP, that wait for other shards.
    pub scrapes: Cell<usize>,
    /// Bodies of requests in memory.
    pub bodies: Cell<usize>,
    /// Told when a connection has ended.
    pub room: Notify,
}

impl Desk {
    pub fn new(index: usize, shared: Arc<Shared>, doors: Vec<Door>) -> Self {
        let limits = shared.limits.clone();
        let (keys, allow) = (shared.keys.clone(), shared.allow.clone());
        Self {
            index,
            table: RefCell::new(Table::new(limits, keys, allow, rand::random())),
            doors,
            counted: RefCell::default(),
            handled: Cell::new(0),
            saved_at: Cell::new(None),
            saving: tokio::sync::Mutex::new(()),
            connections: Cell::new(0),
            callers: RefCell::default(),
            scrapes: Cell::new(0),
            bodies: Cell::new(0),
            room: Notify::new(),
            shared,
        }
    }

    pub fn owner(&self, info_hash: InfoHash) -> usize {
        self.shared.keys.owner(info_hash, self.shared.mail.len())
    }

    /// Forgets the silent, for ever.
    pub async fn sweep(self: Rc<Self>) {
        loop {
            let wait = self.table.borrow().next_timeout().since(runtime::now());
            runtime::sleep(wait).await;
            self.table.borrow_mut().handle_timeout(runtime::now());
        }
    }

    /// An announce, wherever its swarm is; `None` if that shard does not answer.
    pub async fn announce(&self, asked: Asked) -> Option<Result<Told, Refused>> {
        let owner = self.owner(asked.info_hash);
        if owner == self.index {
            return Some(self.announce_here(&asked));
        }
        self.counted.borrow_mut().handed_over += 1;
        self.ask(owner, |reply| Letter::Announce { asked, reply })
            .await
    }

    pub fn announce_here(&self, asked: &Asked) -> Result<Told, Refused> {
        let mut told = Told::default();
        self.announce_into(runtime::now(), asked, &mut told)?;
        Ok(told)
    }

    pub fn announce_into(&self, now: Time, asked: &Asked, told: &mut Told) -> Result<(), Refused> {
        self.handled.set(self.handled.get() + 1);
        let mut table = self.table.borrow_mut();
        table.handle_announce(now, asked, told)
    }

    /// What is known of swarms wherever they are, in the order asked; `None` if a shard does not
    /// answer.
    pub async fn scrape(&self, hashes: &[InfoHash]) -> Option<Vec<Counts>> {
        let mut found = vec![Counts::default(); hashes.len()];
        for shard in 0..self.shared.mail.len() {
            let theirs: Vec<_> = (0..hashes.len())
                .filter(|at| self.owner(hashes[*at]) == shard)
                .collect();
            if theirs.is_empty() {
                continue;
            }
            let asked: Vec<_> = theirs.iter().map(|at| hashes[*at]).collect();
            let counts = if shard == self.index {
                self.scrape_here(&asked)
            } else {
                let letter = |reply| Letter::Scrape {
                    hashes: asked,
                    reply,
                };
                self.ask(shard, letter).await?
            };
            for (at, counts) in theirs.into_iter().zip(counts) {
                found[at] = counts;
            }
        }
        Some(found)
    }

    pub fn scrape_here(&self, hashes: &[InfoHash]) -> Vec<Counts> {
        let table = self.table.borrow();
        hashes.iter().map(|hash| table.scrape(*hash)).collect()
    }

    /// Of all shards, as far as they answer in time.
    pub async fn stats(&self) -> Stats {
        let mut stats = self.stats_here();
        for shard in (0..self.shared.mail.len()).filter(|shard| *shard != self.index) {
            if let Some(theirs) = self.ask(shard, Letter::Stats).await {
                stats.add(&theirs);
            }
        }
        stats
    }

    pub fn stats_here(&self) -> Stats {
        let now = runtime::now();
        let table = self.table.borrow();
        let totals = table.totals();
        Stats {
            uptime_s: now.since(self.shared.started).as_secs(),
            shards: 1,
            swarms: totals.swarms,
            peers: totals.peers(),
            peers_v4: totals.v4,
            peers_v6: totals.v6,
            seeds: totals.seeds,
            allowed: table.allowed(),
            connections: self.connections.get(),
            saved_ago_s: self.saved_at.get().map(|at| now.since(at).as_secs()),
            ..self.counted.borrow().clone()
        }
    }

    async fn ask<T>(
        &self,
        shard: usize,
        letter: impl FnOnce(oneshot::Sender<T>) -> Letter,
    ) -> Option<T> {
        let (reply, wait) = oneshot::channel();
        if self.shared.mail[shard].send(letter(reply)).is_err() {
            self.counted.borrow_mut().overrun += 1;
            return None;
        }
        tokio::time::timeout(ANSWER_WAIT, wait).await.ok()?.ok()
    }
}
