//! The whole process: shards on their cores, listeners, start and stop.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ClientConfig;

use crate::admin::stats::Stats;
use crate::reach::Reach;
use crate::ring::listener;
use crate::ring::listener::Listener;
use crate::ring::mailbox;
use crate::ring::mailbox::Inbox;
use crate::ring::mailbox::Mail;
use crate::ring::runtime;
use crate::ring::runtime::Heart;
use crate::ring::runtime::Watchdog;
use crate::shard::Letter;
use crate::shard::Shard;
use crate::shard::control;
use crate::shard::directory::Directory;
use crate::shard::peer;
use crate::shard::quota::Quotas;
use crate::shard::roster;
use crate::shard::seed;
use crate::shard::stub;
use crate::store::Store;
use crate::stub::address::Address;
use crate::stub::gate;
use crate::stub::gate::Gate;
use crate::stub::gate::Sites;
use crate::stub::reply::Failure;
use crate::units::OriginPolicy;
use crate::units::PeerId;
use crate::units::ShardId;
use crate::units::Time;
use crate::units::lab::Lab;

/// Letters that wait for one shard; a full mailbox drops connections, never blocks a shard.
const MAILBOX_MAX: usize = 4096;
/// Goodbyes to trackers and the last sync may take this long.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Statistics of a shard are waited for this long.
const STATS_WAIT: Duration = Duration::from_secs(2);

/// What an engine needs to know.
pub struct Options {
    pub listen: Vec<SocketAddr>,
    /// Nobody chose `listen`: a machine without IPv6 does without that address.
    pub listen_is_default: bool,
    pub admin: Option<SocketAddr>,
    pub peer_listen: Vec<SocketAddr>,
    pub shards: usize,
    /// Whether shard n runs on core n alone.
    pub pin: bool,
    pub allow_private: bool,
    pub proxy: bool,
    pub origin_policy: OriginPolicy,
    /// What the laboratory changes of it.
    pub lab: Lab,
    /// Names beside `localhost` and the loopback addresses that a Host may say.
    pub allow_hosts: Vec<String>,
    pub sites: Sites,
    /// Connections of players, all shards together.
    pub players_max: usize,
    /// Torrents open at a time, all shards together.
    pub swarms_max: usize,
    /// How long a swarm is kept that nobody watches and no peer takes anything from.
    pub seed_time: Duration,
    /// 64 hex digits.
    pub token: String,
}

/// What every shard may read.
pub struct Shared {
    pub options: Options,
    pub store: Arc<Store>,
    pub tls: Arc<ClientConfig>,
    pub directory: Directory,
    pub quotas: Quotas,
    pub mail: Vec<Mail<Letter>>,
    pub gate: Gate,
    pub reach: Reach,
    pub peer_id: PeerId,
    /// The port that trackers are told.
    pub peer_port: u16,
    /// This process's name in `Via`.
    pub agent: String,
    /// Of one shard.
    pub players_max: usize,
    /// Of one shard.
    pub swarms_max: usize,
    pub started: Time,
}

/// A running BitTube.
pub struct Engine {
    pub shared: Arc<Shared>,
    pub listen: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub peer_listen: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    /// Ends the process should a shard's ring stand still.
    _watchdog: Watchdog,
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        addr: SocketAddr,
        error: std::io::Error,
    },
    #[error("cannot start shard {shard}: {error}")]
    Shard { shard: usize, error: std::io::Error },
}

/// All listeners, before any shard runs.
struct Bound {
    /// One a shard.
    doors: Vec<Doors>,
    listen: Vec<SocketAddr>,
    peer_listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Bound {
    fn of(options: &Options, shards: usize) -> Result<Self, StartError> {
        let mut doors: Vec<Doors> = (0..shards).map(|_| Doors::default()).collect();
        let mut listen = Vec::new();
        for addr in &options.listen {
            match open(*addr, &mut doors, |doors| &mut doors.stub) {
                Ok(local) => listen.push(local),
                Err(StartError::Listen { error, .. })
                    if options.listen_is_default && is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut peer_listen = Vec::new();
        for addr in &options.peer_listen {
            peer_listen.push(open(*addr, &mut doors, |doors| &mut doors.peer)?);
        }
        let mut admin = None;
        if let Some(addr) = options.admin {
            let bound = Listener::bind_shared(addr, 1);
            let mut bound = bound.map_err(|error| StartError::Listen { addr, error })?;
            let listener = bound.pop().expect("one was asked for");
            admin = Some(listener.local_addr());
            doors[0].admin = Some(listener);
        }
        Ok(Self {
            doors,
            listen,
            peer_listen,
            admin,
        })
    }
}

/// What one shard listens on.
#[derive(Default)]
struct Doors {
    stub: Vec<Listener>,
    peer: Vec<Listener>,
    admin: Option<Listener>,
}

impl Engine {
    /// Binds everything before any shard runs, so that a taken port is told at once.
    pub fn start(
        options: Options,
        store: Arc<Store>,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, StartError> {
        let shards = options.shards.max(1);
        let Bound {
            doors,
            listen,
            peer_listen,
            admin,
        } = Bound::of(&options, shards)?;
        let (mail, inboxes): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mailbox::mailbox(MAILBOX_MAX)).unzip();
        let own: Vec<SocketAddr> = listen
            .iter()
            .chain(&peer_listen)
            .chain(&admin)
            .copied()
            .collect();
        let random = random();
        let id: String = random[20..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let shared = Arc::new(Shared {
            gate: Gate {
                ports: listen.iter().map(SocketAddr::port).collect(),
                allow_hosts: options.allow_hosts.clone(),
                proxy: options.proxy,
                via: gate::via_name(&id),
                sites: options.sites.clone(),
            },
            reach: Reach::new(options.allow_private, own, listener::is_here),
            peer_id: PeerId::ours(random[..12].try_into().expect("twelve of them")),
            peer_port: peer_listen.first().map_or(0, SocketAddr::port),
            agent: gate::via_name(&id),
            players_max: options.players_max.div_ceil(shards),
            swarms_max: options.swarms_max.div_ceil(shards),
            directory: Directory::new(shards),
            quotas: Quotas::default(),
            started: runtime::now(),
            options,
            store,
            tls,
            mail,
        });
        let mut threads = Vec::new();
        let (watchdog, hearts) =
            Watchdog::start(shards).map_err(|error| StartError::Shard { shard: 0, error })?;
        let doors = doors.into_iter().zip(inboxes).zip(hearts);
        for (index, ((doors, inbox), heart)) in doors.enumerate() {
            let shared = shared.clone();
            let life = Life {
                index,
                inbox,
                heart,
            };
            let seed = u64::from_le_bytes(random[12..20].try_into().expect("eight of them"));
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || run_shard(shared, doors, life, seed.wrapping_add(index as u64)));
            threads.push(thread.map_err(|error| StartError::Shard {
                shard: index,
                error,
            })?);
        }
        Ok(Self {
            shared,
            listen,
            admin,
            peer_listen,
            threads,
            _watchdog: watchdog,
        })
    }

    /// Sends a letter to the shard that is to have a swarm.
    pub fn seed(&self, order: crate::shard::SeedOrder) {
        let info_hash = order.metainfo.info_hash;
        let home = self.shared.directory.claim_swarm(info_hash, ShardId(0));
        let letter = Letter::Seed(Box::new(order));
        // The mailbox of an engine that just started is empty.
        let _ = self.shared.mail[usize::from(home.0)].send(letter);
    }

    /// Tells trackers goodbye, makes the store durable, ends the shards.
    pub fn stop(self) {
        for mail in &self.shared.mail {
            let (done, wait) = tokio::sync::oneshot::channel();
            if mail.send(Letter::Stop(done)).is_ok() {
                let _ = wait.blocking_recv();
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Statistics of all shards, as far as they answer in time.
    pub async fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for mail in &self.mail {
            let (reply, wait) = tokio::sync::oneshot::channel();
            if mail.send(Letter::Stats(reply)).is_err() {
                continue;
            }
            if let Ok(Ok(share)) = tokio::time::timeout(STATS_WAIT, wait).await {
                stats.add(share);
            }
        }
        stats
    }

    /// R20: a denied address that is spelt out is refused before any packet is sent.
    pub fn check_address(&self, address: &Address) -> Result<(), Failure> {
        for url in address.urls() {
            let port = url.port_or_known_default().unwrap_or(80);
            let ip = match url.host() {
                Some(url::Host::Ipv4(ip)) => ip.into(),
                Some(url::Host::Ipv6(ip)) => ip.into(),
                Some(url::Host::Domain("localhost")) => std::net::Ipv4Addr::LOCALHOST.into(),
                _ => continue,
            };
            if !self.reach.web(SocketAddr::new(ip, port)) {
                let detail =
                    "not a public address; --allow-private allows private and loopback ones";
                return Err(Failure::new(403, "private-address", detail));
            }
        }
        Ok(())
    }
}

/// The machine has no such address, which is not the same as a taken port.
pub(in crate::shard) fn is_absent(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(libc::EADDRNOTAVAIL) || errno == Some(libc::EAFNOSUPPORT)
}

fn open(
    addr: SocketAddr,
    doors: &mut [Doors],
    which: impl Fn(&mut Doors) -> &mut Vec<Listener>,
) -> Result<SocketAddr, StartError> {
    let bound = Listener::bind_shared(addr, doors.len());
    let bound = bound.map_err(|error| StartError::Listen { addr, error })?;
    let local = bound.first().map_or(addr, Listener::local_addr);
    for (listener, doors) in bound.into_iter().zip(doors) {
        which(doors).push(listener);
    }
    Ok(local)
}

/// What makes one shard's thread run and end.
struct Life {
    index: usize,
    inbox: Inbox<Letter>,
    heart: Heart,
}

fn run_shard(shared: Arc<Shared>, doors: Doors, life: Life, seed: u64) {
    let Life {
        index,
        inbox,
        heart,
    } = life;
    if shared.options.pin
        && let Err(error) = runtime::pin_to_core(index)
    {
        tracing::warn!(shard = index, %error, "not pinned to a core");
    }
    let id = ShardId(u16::try_from(index).expect("shards are few"));
    let ran = runtime::run(async move {
        let shard = Shard::new(id, shared, seed);
        runtime::spawn(heart.beat());
        runtime::spawn(roster::tend(shard.clone()));
        for listener in doors.stub {
            runtime::spawn(stub::accept(shard.clone(), listener));
        }
        for listener in doors.peer {
            runtime::spawn(peer::accept(shard.clone(), listener));
        }
        if let Some(listener) = doors.admin {
            runtime::spawn(control::accept(shard.clone(), listener));
        }
        read_mail(shard, inbox).await;
    });
    if let Err(error) = ran {
        tracing::error!(shard = index, %error, "a shard could not run");
    }
}

/// Until told to stop.
async fn read_mail(shard: Rc<Shard>, mut inbox: Inbox<Letter>) {
    while let Some(letter) = inbox.recv().await {
        match letter {
            Letter::Player {
                socket,
                addr,
                early,
            } => stub::arrive(&shard, socket, addr, &early),
            Letter::Peer {
                socket,
                addr,
                early,
            } => peer::arrive(&shard, socket, addr, early),
            Letter::Seed(order) => {
                runtime::spawn(seed::join(shard.clone(), *order));
            }
            Letter::Stats(reply) => {
                let _ = reply.send(shard.stats());
            }
            Letter::Stop(done) => {
                let goodbye = tokio::time::timeout(STOP_WAIT, shard.say_goodbye()).await;
                if goodbye.is_err() {
                    tracing::warn!(shard = shard.id.0, "goodbyes took too long");
                }
                let _ = done.send(());
                return;
            }
        }
    }
}

fn random() -> [u8; 24] {
    use rand::Rng as _;
    let mut random = [0; 24];
    rand::rng().fill_bytes(&mut random);
    random
}
