//! Listening sockets: one a shard, accepting without an operation that could be lost.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Type};

use crate::ring::runtime;
use crate::ring::stream::Socket;
use crate::ring::watched::Watched;
use crate::units::Time;

const BACKLOG: i32 = 1024;
/// The pause after the first accept that failed for want of files or memory; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1600);

/// What a killed program listened at is free only once the kernel has ended its ring: a taken port
/// is tried again so many times, after this pause.
const TAKEN_TRIES: u32 = 20;
const TAKEN_PAUSE: Duration = Duration::from_millis(50);

/// `bind`, until it is done or another program is sure to have the port.
#[expect(clippy::disallowed_methods, reason = "no shard runs on this thread")]
pub(in crate::ring) fn once_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TAKEN_TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::thread::sleep(TAKEN_PAUSE);
            }
            bound => return bound,
        }
    }
    bind()
}

/// Whether an address is one of this machine's: whether a socket can have it.
pub fn is_here(ip: IpAddr) -> bool {
    /// Nobody has it (RFC 5737). Where it can be bound, binding tells nothing
    /// (`ip_nonlocal_bind`).
    const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    let binds = |ip| UdpSocket::bind((ip, 0)).is_ok();
    binds(ip) && !binds(NOBODY.into())
}

/// Takes connections on one shard. May be sent to its shard until the first accept.
pub struct Listener {
    socket: Watched,
    addr: SocketAddr,
    /// The last pause, and when it ends.
    pause: Cell<(Duration, Time)>,
}

impl Listener {
    /// One listener a shard at `addr`; the kernel spreads connections over them. A port that any
    /// other program holds, another BitTube too, is [`io::ErrorKind::AddrInUse`], after a second.
    /// Port 0 takes a free one, the same for all.
    pub fn bind_shared(addr: SocketAddr, shards: usize) -> io::Result<Vec<Self>> {
        once_free(|| Self::try_bind(addr, shards))
    }

    fn try_bind(addr: SocketAddr, shards: usize) -> io::Result<Vec<Self>> {
        // Without SO_REUSEPORT a port with any listener is refused (H7). Held until ours listen,
        // so that nobody else gets in between.
        let probe = socket(addr)?;
        probe.bind(&addr.into())?;
        let addr = local_addr(&probe)?;
        let sockets = (0..shards)
            .map(|_| {
                let socket = socket(addr)?;
                socket.set_reuse_port(true)?;
                socket.bind(&addr.into())?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect::<io::Result<Vec<_>>>()?;
        sockets
            .into_iter()
            .map(|socket| {
                socket.listen(BACKLOG)?;
                Ok(Self {
                    socket: Watched::new(socket),
                    addr,
                    pause: Cell::new((Duration::ZERO, Time::ZERO)),
                })
            })
            .collect()
    }

    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection and where it comes from. May be dropped: no connection is lost. Short
    /// of files or memory it pauses and tries again; errors are those of the listener itself.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let ready = self.socket.ready()?;
        loop {
            let (_, until) = self.pause.get();
            let wait = until.since(runtime::now());
            if !wait.is_zero() {
                runtime::sleep(wait).await;
            }
            let mut guard = ready.readable().await?;
            // A system call, not an operation: an operation that is dropped takes the next client
            // along (H5).
            let accepted = rustix::net::acceptfrom_with(ready, SocketFlags::CLOEXEC);
            match accepted {
                Ok((fd, from)) => {
                    self.pause.set((Duration::ZERO, Time::ZERO));
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    // Without an address it is gone already.
                    if let Some(from) = from {
                        return Ok((Socket::accepted(fd), from));
                    }
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => self.pause(),
                // These speak of the one connection, not of the listener (accept(2)).
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PERM
                    | Errno::PROTO
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::NETUNREACH
                    | Errno::TIMEDOUT,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn pause(&self) {
        let (last, _) = self.pause.get();
        let pause = (last * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause.set((pause, runtime::now() + pause));
        tracing::warn!(addr = %self.addr, ?pause, "out of files or memory: no accept");
    }
}

fn socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Connections have it from their listener (tcp(7)).
    socket.set_tcp_nodelay(true)?;
    if addr.is_ipv6() {
        // So that [::] and 0.0.0.0 can be listened at side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn local_addr(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    let addr = socket.local_addr()?.as_socket();
    addr.ok_or_else(|| io::Error::other("a TCP socket without an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    fn kind(addr: SocketAddr, shards: usize) -> Result<usize, io::ErrorKind> {
        let bound = Listener::bind_shared(addr, shards);
        bound.map(|all| all.len()).map_err(|error| error.kind())
    }

    #[test]
    fn this_machine_knows_its_addresses() {
        assert!(is_here([127, 0, 0, 1].into()));
        assert!(!is_here([1, 1, 1, 1].into()) && !is_here([192, 0, 2, 1].into()));
    }

    #[test]
    fn a_taken_port_is_told_whoever_has_it() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        assert_eq!(kind(addr, 1), Err(io::ErrorKind::AddrInUse));
        drop(other);
        // Another of our kind, which would share it.
        let ours = Listener::bind_shared(addr, 2).unwrap();
        assert_eq!(kind(addr, 2), Err(io::ErrorKind::AddrInUse));
        drop(ours);
        assert_eq!(kind(addr, 2), Ok(2));
    }

    #[test]
    fn a_port_that_is_about_to_be_free_is_waited_for() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        let mut tries = 0;
        let mut other = Some(other);
        let bound = once_free(|| {
            tries += 1;
            if tries == 4 {
                other.take();
            }
            Listener::try_bind(addr, 2)
        });
        assert_eq!((bound.unwrap().len(), tries), (2, 4));
    }

    #[test]
    fn both_families_have_the_same_port() {
        let four = Listener::bind_shared(LOOPBACK.into(), 1).unwrap();
        let six = SocketAddr::from(([0u16; 8], four[0].local_addr().port()));
        match Listener::bind_shared(six, 1) {
            Ok(six) => assert_eq!(six[0].local_addr().port(), four[0].local_addr().port()),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::AddrInUse),
        }
    }

    #[test]
    fn every_shard_takes_connections_of_the_one_port() {
        const CLIENTS: usize = 64;
        let listeners = Listener::bind_shared(LOOPBACK.into(), 2).unwrap();
        let to = listeners[0].local_addr();
        assert!(to.port() != 0 && listeners.iter().all(|one| one.local_addr() == to));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.connect(&to.into()).unwrap();
                client
            })
            .collect();
        let (count, counted) = std::sync::mpsc::channel();
        let shards: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let count = count.clone();
                std::thread::spawn(move || {
                    runtime::run(async move {
                        let mut taken = 0;
                        let idle = Duration::from_millis(300);
                        while let Ok(connection) =
                            tokio::time::timeout(idle, listener.accept()).await
                        {
                            let (socket, from) = connection.unwrap();
                            assert_eq!(socket.peer_addr().unwrap(), from);
                            taken += 1;
                        }
                        count.send(taken).unwrap();
                    })
                })
            })
            .collect();
        shards
            .into_iter()
            .for_each(|shard| shard.join().unwrap().unwrap());
        drop((count, clients));
        let taken: Vec<usize> = counted.iter().collect();
        assert_eq!(taken.iter().sum::<usize>(), CLIENTS);
        assert!(taken.iter().all(|&taken| taken > 0), "{taken:?}");
    }
}
