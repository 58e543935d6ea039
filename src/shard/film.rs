//! One address on its shard: found once, then shared by every player that asks for it.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::resolve::discover::AGAIN_AFTER;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::host::Host;
use crate::shard::host::InUse;
use crate::shard::kept::Adopted;
use crate::shard::kept::Kept;
use crate::shard::origin::OriginHost;
use crate::shard::origin::Pipe;
use crate::shard::origin::Sink;
use crate::shard::quota::Quota;
use crate::shard::search::Inbox;
use crate::shard::search::Search;
use crate::shard::sites::Sites;
use crate::stub::address::Address;
use crate::stub::gate::Provenance;
use crate::stub::media::Media;
use crate::stub::reply::Failure;
use crate::units::ByteRange;
use crate::units::ShardId;
use crate::units::Time;

/// Films known on one shard; beyond it the one unused longest makes room.
const FILMS_MAX: usize = 10_000;
/// An origin has this long to confirm a film to a site.
const CONFIRM_WAIT: Duration = Duration::from_secs(10);

pub struct Film {
    pub key: String,
    pub address: Address,
    /// The web server of a video address.
    pub origin: Option<Rc<OriginHost>>,
    state: RefCell<State>,
    pub changed: Notify,
    pub inbox: Inbox,
    /// What the first bytes are (R18); `None` until somebody has looked.
    pub sniffed: Cell<Option<Option<Media>>>,
    /// Sites that have seen this film's origin answer (R13).
    pub sites: Sites,
    kept: Kept,
    /// Of the site that is to answer for the torrent.
    pub quota: RefCell<Option<Arc<Quota>>>,
    /// That site's limit keeps the film from its torrent.
    pub refused: Cell<bool>,
    pub used_at: Cell<Time>,
    since: Cell<Time>,
    /// What was not found is looked for again after so long.
    pub again_after: Cell<Duration>,
    /// A registry makes its torrent, and is asked again.
    pub searching: Cell<bool>,
}

#[derive(Clone)]
pub enum State {
    Resolving,
    Here {
        host: Rc<Host>,
        file: usize,
    },
    /// The swarm lives on another shard; the next request moves there.
    Elsewhere(ShardId),
    /// No torrent: the origin's bytes as they are.
    Passthrough,
    Failed(Failure),
}

impl Film {
    /// The film of this address, found or being found.
    /// `quota`: of the site whose page asks; `None` if the user does.
    pub fn open(shard: &Rc<Shard>, address: &Address, quota: Option<Arc<Quota>>) -> Rc<Self> {
        let key = identity(address);
        let now = shard.now();
        if let Some(film) = shard.films.borrow().get(&key)
            && !film.stale(now, quota.as_ref())
        {
            if quota.is_none() {
                *film.quota.borrow_mut() = None;
            }
            film.used_at.set(now);
            film.add_trackers(address);
            return film.clone();
        }
        let origin = match address {
            Address::Video { video, .. } => Some(OriginHost::start(shard, video.clone())),
            _ => None,
        };
        let film = Rc::new(Self {
            key: key.clone(),
            address: address.clone(),
            origin,
            state: RefCell::new(State::Resolving),
            changed: Notify::new(),
            inbox: Inbox::default(),
            sniffed: Cell::new(None),
            sites: Sites::default(),
            kept: Kept::default(),
            quota: RefCell::new(quota),
            refused: Cell::new(false),
            used_at: Cell::new(now),
            since: Cell::new(now),
            again_after: Cell::new(AGAIN_AFTER),
            searching: Cell::new(false),
        });
        let mut films = shard.films.borrow_mut();
        if films.len() >= FILMS_MAX {
            let oldest = films.values().min_by_key(|film| film.used_at.get());
            if let Some(oldest) = oldest.cloned() {
                films.remove(&oldest.key);
                shard.shared.directory.forget_film(&oldest.address.key());
            }
        }
        films.insert(key, film.clone());
        Search::start(shard, &film);
        film
    }

    /// Another address of the same video may name other trackers.
    fn add_trackers(&self, address: &Address) {
        if self.address != *address
            && let Address::Video { trackers, .. } = address
            && let State::Here { host, .. } = &*self.state.borrow()
        {
            host.add_trackers(trackers.iter().map(|url| vec![url.to_string()]).collect());
        }
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Found nothing a while ago, or what it found no longer holds.
    fn stale(&self, now: Time, quota: Option<&Arc<Quota>>) -> bool {
        let changed = self
            .origin
            .as_ref()
            .is_some_and(|origin| origin.changed.get());
        let retry = match &*self.state.borrow() {
            State::Passthrough if self.searching.get() => false,
            State::Passthrough | State::Failed(_) => self.is_due(now),
            State::Here { host, .. } => host.ended.get(),
            // Its swarm has left that shard, or this request would have gone there.
            State::Elsewhere(_) => true,
            State::Resolving => false,
        };
        // What was one site's limit is not another's.
        let by = self.quota.borrow();
        let others = self.refused.get() && by.as_ref().map(Arc::as_ptr) != quota.map(Arc::as_ptr);
        changed || retry || others
    }

    fn is_due(&self, now: Time) -> bool {
        now.since(self.since.get()) > self.again_after.get()
    }

    /// Looks once more for the torrent of a film that is being watched: its player may ask no more.
    pub fn look_again(self: &Rc<Self>, shard: &Rc<Shard>) {
        let without = matches!(*self.state.borrow(), State::Passthrough) && !self.refused.get();
        if without && !self.searching.get() && self.is_due(shard.now()) {
            self.since.set(shard.now());
            self.searching.set(true);
            self.inbox.forget();
            Search::start(shard, self);
        }
    }

    /// Waits until it is known what this film is, at most `wait`.
    pub async fn settled(&self, wait: Duration) -> State {
        self.waited(wait, false).await
    }

    /// The same, and until no registry makes its torrent any more: for who has no origin.
    pub async fn searched(&self, wait: Duration) -> State {
        self.waited(wait, true).await
    }

    async fn waited(&self, wait: Duration, for_registry: bool) -> State {
        let until = runtime::now() + wait;
        loop {
            let changed = self.changed.notified();
            let (left, state) = (until.since(runtime::now()), self.state());
            let searching = for_registry && self.searching.get();
            match state {
                State::Resolving if !left.is_zero() => {}
                State::Passthrough if !left.is_zero() && searching => {}
                _ => return state,
            }
            tokio::select! {
                () = changed => {}
                () = runtime::sleep(left) => {}
            }
        }
    }

    pub fn settle(&self, state: State) {
        if !matches!(state, State::Here { .. }) {
            self.kept.clear();
        }
        *self.state.borrow_mut() = state;
        self.changed.notify_waiters();
    }

    pub fn fail(&self, failure: Failure) {
        self.settle(State::Failed(failure));
    }

    /// The origin's bytes on their way to a player, which a swarm may have later.
    pub fn keep(&self, at: u64, bytes: &[u8]) {
        match &*self.state.borrow() {
            State::Resolving | State::Here { .. } => self.kept.keep(at, bytes),
            // A registry may be making its torrent.
            _ if at == 0 => self.kept.hear_front(bytes),
            _ => {}
        }
    }

    /// Whether what passed through has told how fast the film plays, or that it does not tell.
    pub fn has_told_rate(&self) -> bool {
        self.kept.has_told()
    }

    /// What passed through becomes the swarm's, if there is one here, with how fast the film plays,
    /// and so does what is still `to_come` of the range under way.
    pub async fn hand_kept(&self, to_come: Option<ByteRange>) -> Option<Adopted> {
        let origin = self.origin.as_ref()?;
        let State::Here { host, file } = self.state() else {
            return None;
        };
        self.kept.hand_over(&host, origin, file, to_come).await
    }

    /// Whether the origin's own bytes can still be had, one way or another.
    pub fn has_origin(&self) -> bool {
        let origin = self.origin.as_ref();
        origin.is_some_and(|origin| !origin.changed.get() && origin.down_until().is_none())
    }

    /// Whether readers must be served by the origin although the film has a swarm.
    pub fn origin_only(&self, host: &Host, now: Time) -> bool {
        let usable = self
            .origin
            .as_ref()
            .is_some_and(|origin| !origin.changed.get());
        usable && !self.may_take_over(host, now)
    }

    /// The swarm, if it may take over from the origin now; and which of its files.
    pub fn successor(&self, now: Time) -> Option<(InUse, usize)> {
        let State::Here { host, file } = self.state() else {
            return None;
        };
        let host = host.take_up()?;
        self.may_take_over(&host, now).then_some((host, file))
    }

    /// Whether the swarm may serve what the origin began.
    fn may_take_over(&self, host: &Host, now: Time) -> bool {
        // A server without ranges helps no swarm: with no peers its stream is all there is.
        let streams = self
            .origin
            .as_ref()
            .is_some_and(|origin| !origin.takes_ranges());
        if streams && host.peers.borrow().is_empty() {
            return false;
        }
        let same = self
            .origin
            .as_ref()
            .is_none_or(|o| !o.changed.get() && !o.differs.get());
        same && !host.shelf.is_full(now) && !host.ended.get()
    }

    /// R13: a site's first request for a film that others watched waits for the origin's answer,
    /// so that no page can tell what was watched by how fast it starts.
    pub async fn confirm_site(&self, from: &Provenance) {
        let known = self.sites.knows(from);
        let Some(origin) = self.origin.as_ref().filter(|_| !known) else {
            return;
        };
        let pipe = Rc::new(Pipe::default());
        let key = origin.fetch(ByteRange::new(0, 1), true, Sink::Pass(pipe.clone()));
        let answered = async {
            while pipe.head.borrow().is_none() && pipe.end.borrow().is_none() {
                pipe.wake.notified().await;
            }
        };
        tokio::select! {
            () = answered => {}
            () = runtime::sleep(CONFIRM_WAIT) => origin.abandon(key),
        }
        self.sites.note(from);
    }
}

/// What tells one film from another: the thing named, and which file of it.
fn identity(address: &Address) -> String {
    match address {
        Address::Video { .. } => address.key(),
        Address::Torrent { path, .. } => format!("{} {path:?}", address.key()),
        Address::Magnet { query, path } => format!("magnet {query} {path:?}"),
    }
}
