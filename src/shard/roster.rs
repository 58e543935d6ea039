//! The swarms of one shard: at most so many, each ended once nobody has needed it for long.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::counts;
use crate::shard::film::State;
use crate::shard::host::Host;
use crate::shard::quota;
use crate::shard::quota::Quota;
use crate::stub::reply::Failure;
use crate::units::InfoHash;
use crate::units::Time;

/// A swarm just left is likely to be asked for again: a seek, the next request.
const GRACE: Duration = Duration::from_secs(2);
/// One without metadata is of use to nobody, and has as long as this at most.
const BARREN_MAX: Duration = Duration::from_secs(600);
/// How often it is looked for swarms whose time is up.
const LOOK_MIN: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_secs(30);

/// R12.
pub const SITE_LIMIT: Failure = Failure::new(
    429,
    "site-torrents",
    "this site opens more torrents than it may",
)
.retry_in(quota::MINUTE);
/// Each is in use, or was just now.
const FULL: Failure = Failure::new(503, "swarms", "as many torrents as may be open")
    .retry_in(Duration::from_secs(60));

pub struct Roster {
    hosts: RefCell<BTreeMap<InfoHash, Rc<Host>>>,
    /// Their stores are being closed, and not to be opened before that is done.
    closing: RefCell<BTreeMap<InfoHash, Rc<Notify>>>,
    hosts_max: usize,
    /// How long a swarm is kept that neither a reader nor a peer takes anything from.
    seed_time: Duration,
}

impl Roster {
    pub fn new(hosts_max: usize, seed_time: Duration) -> Self {
        Self {
            hosts: RefCell::default(),
            closing: RefCell::default(),
            hosts_max,
            seed_time: seed_time.max(GRACE),
        }
    }

    pub fn get(&self, info_hash: InfoHash) -> Option<Rc<Host>> {
        self.hosts.borrow().get(&info_hash).cloned()
    }

    pub fn all(&self) -> Vec<Rc<Host>> {
        self.hosts.borrow().values().cloned().collect()
    }

    pub fn add(&self, host: Rc<Host>) {
        self.hosts.borrow_mut().insert(host.info_hash, host);
    }

    /// Whether there is room for one more, made where need be: the swarm that was unwatched
    /// longest ends, one that peers take from last of all.
    fn make_room(&self, shard: &Rc<Shard>) -> bool {
        if self.hosts.borrow().len() < self.hosts_max {
            return true;
        }
        let left_before = shard.now().before(GRACE);
        let idle = self.all().into_iter();
        let idle = idle.filter(|host| host.may_end() && host.watched_at.get() <= left_before);
        let longest = idle.min_by_key(|host| {
            let supplying = host.swarm.borrow().is_supplying();
            (supplying, host.watched_at.get())
        });
        if let Some(host) = &longest {
            end(shard, host);
        }
        longest.is_some()
    }

    /// Returns once no store of this torrent is being closed; false if one was.
    pub async fn closed(&self, info_hash: InfoHash) -> bool {
        let closing = self.closing.borrow().get(&info_hash).cloned();
        let Some(closing) = closing else { return true };
        closing.notified().await;
        false
    }

    /// Until every store is closed whose swarm has ended.
    pub async fn all_closed(&self) {
        loop {
            let next = self.closing.borrow().keys().next().copied();
            let Some(next) = next else { return };
            self.closed(next).await;
        }
    }

    fn is_over(&self, host: &Host, now: Time) -> bool {
        let barren = host.metainfo.borrow().is_none();
        let most = if barren { BARREN_MAX } else { Duration::MAX };
        host.may_end() && now.since(host.needed_at.get()) >= self.seed_time.min(most)
    }
}

/// Begins a swarm that is not open; whether the site that asks may, and the shard has room.
pub fn begin(
    shard: &Rc<Shard>,
    info_hash: InfoHash,
    trackers: Vec<Vec<String>>,
    quota: &Option<Arc<Quota>>,
) -> Result<Rc<Host>, Failure> {
    let mut stored = None;
    if let Some(quota) = quota {
        let store = &shard.shared.store;
        stored = quota.open(shard.now(), info_hash, |other| store.keeps(other));
        if stored.is_none() {
            tracing::info!(%info_hash, "a torrent is not opened: its site has had its share");
            return Err(SITE_LIMIT);
        }
    }
    if !shard.roster.make_room(shard) {
        return Err(FULL);
    }
    let host = Host::start(shard, info_hash, trackers);
    if let Some(stored) = stored {
        // A host that just began has no account yet.
        let _ = host.stored.set(stored);
    }
    Ok(host)
}

/// Ends the swarms whose time is up, for ever.
pub async fn tend(shard: Rc<Shard>) {
    let look = (shard.roster.seed_time / 4).clamp(LOOK_MIN, LOOK_MAX);
    loop {
        runtime::sleep(look).await;
        for host in shard.roster.all() {
            let now = shard.now();
            if !host.may_end() || host.swarm.borrow().is_supplying() {
                host.needed_at.set(now);
            } else if !host.ended.get() && shard.roster.is_over(&host, now) {
                end(&shard, &host);
            }
            runtime::breathe().await;
        }
    }
}

/// From here on nobody finds this swarm, and who asks for it gets a new one, as soon as this one's
/// store is closed.
fn end(shard: &Rc<Shard>, host: &Rc<Host>) {
    tracing::debug!(info_hash = %host.info_hash, "a swarm ends");
    let roster = &shard.roster;
    roster.hosts.borrow_mut().remove(&host.info_hash);
    let closed = Rc::new(Notify::new());
    roster
        .closing
        .borrow_mut()
        .insert(host.info_hash, closed.clone());
    host.end();
    shard.tally.keep(counts::of(host, shard.id));
    forget_films(shard, host);
    let (shard, host) = (shard.clone(), host.clone());
    runtime::spawn(async move {
        host.shelf.close().await;
        shard.shared.directory.forget_swarm(host.info_hash);
        shard.roster.closing.borrow_mut().remove(&host.info_hash);
        closed.notify_waiters();
    });
}

/// Films that play from this swarm are found anew when they are asked for.
fn forget_films(shard: &Rc<Shard>, host: &Rc<Host>) {
    let mut films = shard.films.borrow_mut();
    films.retain(|_, film| {
        let stays = !matches!(film.state(), State::Here { host: of, .. } if Rc::ptr_eq(&of, host));
        if !stays {
            shard.shared.directory.forget_film(&film.address.key());
        }
        stays
    });
}
