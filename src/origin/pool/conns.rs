//! The connections of a pool, and what each of them is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use url::Url;

use crate::http::body::Framing;
use crate::origin::answer::SKIP_MAX;
use crate::origin::pool::CONNS_MAX;
use crate::origin::redirect::same_site;
use crate::origin::session::Session;
use crate::origin::transfer::{Fetch, Transfer};
use crate::units::Time;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head is whole.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that nobody wants any more and that are received all the same, to keep the connection.
pub const DRAIN_MAX: u64 = 256 * 1024;

const _: () = assert!(
    DRAIN_MAX <= SKIP_MAX,
    "skipping delays a fetch, draining only the next"
);

/// A connection of this pool; no key is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey(pub usize);

pub struct Conns {
    map: BTreeMap<ConnKey, Conn>,
    next_key: usize,
    /// One, once a second connection was refused beside a first that works.
    plain_max: usize,
}

pub struct Conn {
    pub url: Url,
    pub session: Session,
    /// When it was connected.
    pub opened: Time,
    pub doing: Doing,
}

pub enum Doing {
    Connecting(Time),
    Idle(Time),
    Asked {
        fetch: Box<Fetch>,
        sent: Time,
        /// With `If-Range`.
        conditional: bool,
    },
    Receiving(Box<Transfer>),
    /// The rest of an answer that is of no use; `left`: bytes of it that are put up with.
    Draining {
        since: Time,
        left: u64,
    },
}

impl Conns {
    pub const fn new() -> Self {
        Self {
            map: BTreeMap::new(),
            next_key: 0,
            plain_max: CONNS_MAX,
        }
    }

    pub fn get_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.map.get_mut(&key)
    }

    pub fn remove(&mut self, key: ConnKey) -> Option<Conn> {
        self.map.remove(&key)
    }

    pub fn keys(&self) -> Vec<ConnKey> {
        self.map.keys().copied().collect()
    }

    pub fn connect(&mut self, now: Time, url: Url) -> ConnKey {
        let key = ConnKey(self.next_key);
        self.next_key += 1;
        let conn = Conn {
            url,
            session: Session::new(),
            opened: now,
            doing: Doing::Connecting(now),
        };
        self.map.insert(key, conn);
        key
    }

    /// One that can be asked for `at` now.
    pub fn idle_for(&self, at: &Url) -> Option<ConnKey> {
        self.find(|conn| conn.is_idle() && same_site(&conn.url, at))
    }

    pub fn any_idle(&self) -> Option<ConnKey> {
        self.find(Conn::is_idle)
    }

    /// The one that a fetch runs on, and the bytes that the fetch still lacks.
    pub fn running(&self, fetch: u64) -> Option<(ConnKey, u64)> {
        self.map.iter().find_map(|(key, conn)| {
            let fetch = conn.fetch().filter(|running| running.key == fetch)?;
            Some((*key, fetch.left()))
        })
    }

    pub fn transfer_mut(&mut self, fetch: u64) -> Option<&mut Transfer> {
        self.map
            .values_mut()
            .find_map(|conn| match &mut conn.doing {
                Doing::Receiving(transfer) if transfer.fetch.key == fetch => {
                    Some(transfer.as_mut())
                }
                _ => None,
            })
    }

    /// Open-ended fetches under way.
    pub fn streams(&self) -> usize {
        self.map.values().filter(|conn| conn.is_stream()).count()
    }

    /// Whether one more may be opened; those that carry a stream do not count.
    pub fn has_room(&self) -> bool {
        self.plain() < self.plain_max
    }

    /// A stream's connection came back to the others, and is one too many.
    pub fn is_over(&self) -> bool {
        self.plain() > self.plain_max
    }

    /// A further one was refused: some hosts allow one a client. False if no more were opened.
    pub fn allow_one(&mut self) -> bool {
        let fewer = self.plain() > 0 && self.plain_max > 1;
        self.plain_max = 1;
        fewer
    }

    /// Where connections are on the way to.
    pub fn coming(&self) -> Vec<Url> {
        let connecting = self.map.values().filter(|conn| !conn.is_connected());
        connecting.map(|conn| conn.url.clone()).collect()
    }

    /// Whether one to the same host stands.
    pub fn reaches(&self, url: &Url) -> bool {
        self.find(|conn| conn.is_connected() && same_site(&conn.url, url))
            .is_some()
    }

    pub fn next_timeout(&self) -> Time {
        let deadlines = self.map.values().map(Conn::deadline);
        deadlines.min().unwrap_or(Time::NEVER)
    }

    pub fn due(&self, now: Time) -> Vec<ConnKey> {
        let due = self.map.iter().filter(|(_, conn)| conn.deadline() <= now);
        due.map(|(key, _)| *key).collect()
    }

    fn plain(&self) -> usize {
        self.map.len() - self.streams()
    }

    fn find(&self, is_it: impl Fn(&Conn) -> bool) -> Option<ConnKey> {
        let found = self.map.iter().find(|(_, conn)| is_it(conn));
        found.map(|(key, _)| *key)
    }
}

impl Doing {
    pub const fn drain(now: Time) -> Self {
        Self::Draining {
            since: now,
            left: DRAIN_MAX,
        }
    }

    /// Whether an answer so framed may end within what is put up with.
    pub const fn can_drain(framing: Framing) -> bool {
        match framing {
            Framing::Empty | Framing::Chunked => true,
            Framing::Length(length) => length <= DRAIN_MAX,
            Framing::UntilClose => false,
        }
    }
}

impl Conn {
    fn fetch(&self) -> Option<&Fetch> {
        match &self.doing {
            Doing::Asked { fetch, .. } => Some(fetch),
            Doing::Receiving(transfer) => Some(&transfer.fetch),
            Doing::Connecting(_) | Doing::Idle(_) | Doing::Draining { .. } => None,
        }
    }

    /// The fetch that it was for.
    pub fn into_fetch(self) -> Option<Fetch> {
        match self.doing {
            Doing::Asked { fetch, .. } => Some(*fetch),
            Doing::Receiving(transfer) => Some(transfer.fetch),
            Doing::Connecting(_) | Doing::Idle(_) | Doing::Draining { .. } => None,
        }
    }

    const fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Idle(_))
    }

    const fn is_connected(&self) -> bool {
        !matches!(self.doing, Doing::Connecting(_))
    }

    fn is_stream(&self) -> bool {
        self.fetch().is_some_and(Fetch::is_stream)
    }

    fn deadline(&self) -> Time {
        match &self.doing {
            Doing::Connecting(since) => *since + CONNECT_TIMEOUT,
            Doing::Idle(since) => *since + IDLE_TIMEOUT,
            Doing::Asked { sent, .. } => *sent + FIRST_BYTE_TIMEOUT,
            Doing::Receiving(transfer) => transfer.deadline(),
            Doing::Draining { since, .. } => *since + DRAIN_TIMEOUT,
        }
    }
}
