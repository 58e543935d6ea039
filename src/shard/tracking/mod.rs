//! A tracker: its shards, what they listen on, start and end.

pub mod desk;
pub mod http;
pub mod save;
pub mod udp;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::reach::network::Network;
use crate::ring::datagrams::Door;
use crate::ring::listener::Listener;
use crate::ring::mailbox;
use crate::ring::mailbox::Inbox;
use crate::ring::runtime;
use crate::ring::runtime::Heart;
use crate::ring::runtime::Watchdog;
use crate::shard::engine;
use crate::shard::registry;
use crate::shard::tracking::desk::Desk;
use crate::shard::tracking::desk::Letter;
use crate::shard::tracking::desk::Shared;
use crate::tracker::server::allow::Allow;
use crate::tracker::server::ids::Keys;
use crate::tracker::server::table::Limits;

/// Letters that wait for one shard. One may hold a whole batch of announces.
const MAILBOX_MAX: usize = 1024;

/// What a tracker needs to know.
pub struct Options {
    pub http: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
    /// Nobody chose the addresses: a machine without IPv6 does without those.
    pub listen_is_default: bool,
    pub shards: usize,
    /// Whether shard n runs on core n alone.
    pub pin: bool,
    pub limits: Limits,
    pub allow: Allow,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted: Vec<Network>,
    /// Of HTTP, all shards together.
    pub connections_max: usize,
    /// Where peers outlive the process.
    pub store: PathBuf,
    pub registry: Option<registry::Door>,
}

/// A running tracker.
pub struct Tracking {
    pub http: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Nobody else writes to the store.
    _lock: File,
    /// Ends the process should a shard's ring stand still.
    _watchdog: Watchdog,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr}: {error}")]
    Listen { addr: SocketAddr, error: io::Error },
    #[error("{}: {error}", path.display())]
    Store { path: PathBuf, error: io::Error },
    #[error("cannot start shard {shard}: {error}")]
    Shard { shard: usize, error: io::Error },
}

/// What one shard listens on.
#[derive(Default)]
struct Doors {
    http: Vec<Listener>,
    udp: Vec<Door>,
}

/// What makes one shard's thread run and end.
struct Life {
    doors: Doors,
    inbox: Inbox<Letter>,
    heart: Heart,
    /// What an earlier process knew.
    before: Arc<Vec<Vec<u8>>>,
    ready: Sender<()>,
}

impl Tracking {
    /// Binds everything, reads what an earlier process knew, and returns once all shards answer.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let shards = options.shards.max(1);
        let stored = |error| StartError::Store {
            path: options.store.clone(),
            error,
        };
        let lock = save::lock(&options.store).map_err(stored)?;
        let before = Arc::new(save::read(&options.store, shards).map_err(stored)?);
        let (doors, http, udp) = bind(&options, shards)?;
        let (mail, inboxes): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mailbox::mailbox(MAILBOX_MAX)).unzip();
        let shared = Arc::new(Shared {
            connections_max: options.connections_max.div_ceil(shards),
            limits: options.limits.share(shards),
            allow: Arc::new(options.allow),
            trusted: options.trusted,
            store: options.store,
            registry: options.registry,
            keys: Keys::new(rand::random()),
            pin: options.pin,
            started: runtime::now(),
            mail,
        });
        let (watchdog, hearts) =
            Watchdog::start(shards).map_err(|error| StartError::Shard { shard: 0, error })?;
        let (mut threads, mut waits) = (Vec::new(), Vec::new());
        let parts = doors.into_iter().zip(inboxes).zip(hearts);
        for (shard, ((doors, inbox), heart)) in parts.enumerate() {
            let (ready, wait) = channel();
            let life = Life {
                doors,
                inbox,
                heart,
                before: before.clone(),
                ready,
            };
            let shared = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("tracker-{shard}"))
                .spawn(move || run_shard(shard, &shared, life));
            threads.push(thread.map_err(|error| StartError::Shard { shard, error })?);
            waits.push(wait);
        }
        for (shard, wait) in waits.into_iter().enumerate() {
            wait.recv().map_err(|_| StartError::Shard {
                shard,
                error: io::Error::other("it ended at once"),
            })?;
        }
        Ok(Self {
            http,
            udp,
            shared,
            threads,
            _lock: lock,
            _watchdog: watchdog,
        })
    }

    /// From now on these torrents are tracked.
    pub fn set_allow(&self, allow: Allow) {
        let allow = Arc::new(allow);
        for mail in &self.shared.mail {
            // A mailbox is full for moments only, and this is nobody's shard.
            let mut letter = Letter::Allow(allow.clone());
            while let Err(back) = mail.send(letter) {
                if mail.is_closed() {
                    break;
                }
                letter = back;
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
    }

    /// Takes in nobody any more, writes the peers down, ends the shards.
    pub async fn stop(self) {
        for mail in &self.shared.mail {
            let (done, wait) = oneshot::channel();
            if mail.send(Letter::Stop(done)).is_ok() {
                let _ = wait.await;
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

type Bound = (Vec<Doors>, Vec<SocketAddr>, Vec<SocketAddr>);

fn bind(options: &Options, shards: usize) -> Result<Bound, StartError> {
    let mut doors: Vec<Doors> = (0..shards).map(|_| Doors::default()).collect();
    let (mut http, mut udp) = (Vec::new(), Vec::new());
    let absent = |error: &io::Error| options.listen_is_default && engine::is_absent(error);
    for addr in &options.http {
        match Listener::bind_shared(*addr, shards) {
            Ok(listeners) => {
                http.extend(listeners.first().map(Listener::local_addr));
                for (listener, doors) in listeners.into_iter().zip(&mut doors) {
                    doors.http.push(listener);
                }
            }
            Err(error) if absent(&error) => {}
            Err(error) => return Err(StartError::Listen { addr: *addr, error }),
        }
    }
    for addr in &options.udp {
        match Door::bind_shared(*addr, shards) {
            Ok(sockets) => {
                udp.extend(sockets.first().map(Door::local_addr));
                for (socket, doors) in sockets.into_iter().zip(&mut doors) {
                    doors.udp.push(socket);
                }
            }
            Err(error) if absent(&error) => {}
            Err(error) => return Err(StartError::Listen { addr: *addr, error }),
        }
    }
    Ok((doors, http, udp))
}

fn run_shard(index: usize, shared: &Arc<Shared>, life: Life) {
    if shared.pin
        && let Err(error) = runtime::pin_to_core(index)
    {
        tracing::warn!(shard = index, %error, "not pinned to a core");
    }
    let shared = shared.clone();
    let ran = runtime::run(async move {
        let Doors { http, udp } = life.doors;
        let desk = Rc::new(Desk::new(index, shared, udp));
        save::restore(&desk, &life.before);
        drop(life.before);
        runtime::spawn(life.heart.beat());
        runtime::spawn(desk.clone().sweep());
        runtime::spawn(save::keep(desk.clone()));
        for door in 0..desk.doors.len() {
            runtime::spawn(udp::listen(desk.clone(), door));
        }
        for listener in http {
            runtime::spawn(http::accept(desk.clone(), listener));
        }
        // Whoever started it may have gone.
        let _ = life.ready.send(());
        read_mail(desk, life.inbox).await;
    });
    if let Err(error) = ran {
        tracing::error!(shard = index, %error, "a shard could not run");
    }
}

/// Until told to stop.
async fn read_mail(desk: Rc<Desk>, mut inbox: Inbox<Letter>) {
    let mut post = udp::Post::default();
    while let Some(letter) = inbox.recv().await {
        match letter {
            Letter::Announces { door, handed } => {
                udp::answer_handed(&desk, door, &handed, &mut post)
            }
            Letter::Announce { asked, reply } => {
                let _ = reply.send(desk.announce_here(&asked));
            }
            Letter::Scrape { hashes, reply } => {
                let _ = reply.send(desk.scrape_here(&hashes));
            }
            Letter::Stats(reply) => {
                let _ = reply.send(desk.stats_here());
            }
            Letter::Allow(allow) => desk.table.borrow_mut().set_allow(allow),
            Letter::Stop(done) => {
                if let Err(error) = save::save(&desk).await {
                    tracing::error!(%error, "the peers could not be written down");
                }
                let _ = done.send(());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tracker::announce::Event;
    use crate::tracker::server::asked::Asked;
    use crate::tracker::server::stats::Stats;
    use crate::units::InfoHash;

    /// Far more than it takes.
    const LOOKS: usize = 600;

    async fn stats(tracking: &Tracking) -> Stats {
        let (reply, told) = oneshot::channel();
        assert!(tracking.shared.mail[0].send(Letter::Stats(reply)).is_ok());
        told.await.unwrap()
    }

    #[test]
    fn a_shard_forgets_the_silent() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            http: vec!["127.0.0.1:0".parse().unwrap()],
            udp: Vec::new(),
            listen_is_default: false,
            shards: 1,
            pin: false,
            limits: Limits {
                kept: Duration::from_secs(1),
                ..Limits::default()
            },
            allow: Allow::All,
            trusted: Vec::new(),
            connections_max: 1,
            store: dir.path().to_owned(),
            registry: None,
        };
        let ran = runtime::run(async move {
            let tracking = Tracking::start(options).unwrap();
            let asked = Asked {
                info_hash: InfoHash([1; 20]),
                peer: "127.0.0.1:1".parse().unwrap(),
                seed: true,
                event: Event::None,
                numwant: 1,
                both_families: false,
            };
            let (reply, told) = oneshot::channel();
            let letter = Letter::Announce { asked, reply };
            assert!(tracking.shared.mail[0].send(letter).is_ok());
            assert_eq!(told.await.unwrap().unwrap().counts.seeds, 1);
            for _ in 0..LOOKS {
                if stats(&tracking).await.swarms == 0 {
                    return tracking.stop().await;
                }
                runtime::sleep(Duration::from_millis(100)).await;
            }
            panic!("it is still known");
        });
        ran.unwrap();
    }
}
