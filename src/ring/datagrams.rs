//! Many datagrams a system call: received into one arena, answered from another.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use socket2::{Domain, Protocol, Type};

use crate::ring::listener::once_free;
use crate::ring::watched::Watched;

/// Datagrams of one system call.
pub const BATCH: usize = 64;
/// Bytes of a datagram that is received; a longer one is passed over.
pub const DATAGRAM_LEN_MAX: usize = 1500;
/// Bytes of each direction that wait in the kernel, as far as it grants them: at a million
/// datagrams a second this is a few milliseconds of patience.
const KERNEL_LEN: usize = 4 << 20;

/// Who sent a datagram, and to which address of ours: an answer that comes from another is none to
/// a client that has connected its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub addr: SocketAddr,
    /// Where the socket has more than one.
    ours: Option<IpAddr>,
}

impl From<SocketAddr> for Caller {
    /// Answered from whichever address the kernel chooses.
    fn from(addr: SocketAddr) -> Self {
        Self { addr, ours: None }
    }
}

/// A bound UDP socket. May be sent to its shard until the first receive.
pub struct Door {
    socket: Watched,
    addr: SocketAddr,
}

impl Door {
    /// One door a shard at `addr`; the kernel spreads senders over them. A port that any other
    /// program holds is [`io::ErrorKind::AddrInUse`]. Port 0 takes a free one, the same for all.
    pub fn bind_shared(addr: SocketAddr, shards: usize) -> io::Result<Vec<Self>> {
        once_free(|| Self::try_bind(addr, shards))
    }

    fn try_bind(addr: SocketAddr, shards: usize) -> io::Result<Vec<Self>> {
        // Whoever else has the port is found out without SO_REUSEPORT.
        let alone = socket(addr)?;
        alone.bind(&addr.into())?;
        let addr = local_addr(&alone)?;
        if shards == 1 {
            return Ok(vec![Self::new(alone, addr)]);
        }
        drop(alone);
        (0..shards)
            .map(|_| {
                let socket = socket(addr)?;
                socket.set_reuse_port(true)?;
                socket.bind(&addr.into())?;
                Ok(Self::new(socket, addr))
            })
            .collect()
    }

    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits for datagrams, and takes up to [`BATCH`] of them. Loses nothing when dropped. A
    /// sender that never falls silent is always there at once: the caller breathes in between.
    pub async fn recv(&self, into: &mut Incoming) -> io::Result<()> {
        let ready = self.socket.ready()?;
        loop {
            let mut guard = ready.readable().await?;
            match into.fill(ready.get_ref()) {
                Ok(()) => {
                    // All that was there: what comes next wakes us anew.
                    if into.count < BATCH {
                        guard.clear_ready();
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends all that the kernel takes at once, empties `from`, and says how many were lost.
    pub fn send(&self, from: &mut Outgoing) -> usize {
        let lost = match self.socket.ready() {
            Ok(ready) => from.flush(ready.get_ref()),
            Err(_) => from.len(),
        };
        from.clear();
        lost
    }

    fn new(socket: socket2::Socket, addr: SocketAddr) -> Self {
        Self {
            socket: Watched::new(socket),
            addr,
        }
    }
}

/// Room for the datagrams of one receive.
pub struct Incoming {
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_in6>,
    marks: Vec<Mark>,
    /// Of each; `None` if it was cut off.
    lens: [Option<usize>; BATCH],
    count: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            bytes: vec![0; BATCH * DATAGRAM_LEN_MAX],
            names: vec![nobody(); BATCH],
            marks: vec![Mark::none(); BATCH],
            lens: [None; BATCH],
            count: 0,
        }
    }
}

impl Incoming {
    /// Who sent what; what was too long is left out.
    pub fn iter(&self) -> impl Iterator<Item = (Caller, &[u8])> {
        (0..self.count).filter_map(|at| {
            let from = Caller {
                addr: address(&self.names[at])?,
                ours: self.marks[at].ours(),
            };
            let start = at * DATAGRAM_LEN_MAX;
            Some((from, &self.bytes[start..start + self.lens[at]?]))
        })
    }

    pub const fn is_full(&self) -> bool {
        self.count == BATCH
    }

    fn fill(&mut self, fd: &OwnedFd) -> io::Result<()> {
        self.count = 0;
        let bytes = self.bytes.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        // What is not marked anew must not be taken for what it was before.
        self.marks.fill(Mark::none());
        let marks = self.marks.as_mut_ptr();
        let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: bytes.wrapping_add(at * DATAGRAM_LEN_MAX).cast(),
            iov_len: DATAGRAM_LEN_MAX,
        });
        let parts = parts.as_mut_ptr();
        let mut heads: [libc::mmsghdr; BATCH] = std::array::from_fn(|at| {
            let mut head = head(parts.wrapping_add(at), names.wrapping_add(at), NAME_LEN);
            head.msg_hdr.msg_control = marks.wrapping_add(at).cast();
            head.msg_hdr.msg_controllen = size_of::<Mark>();
            head
        });
        // SAFETY: each head names one part, one name and one mark, each part its own stretch of
        // `bytes`; all live until the call returns, which does not wait.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                heads.as_mut_ptr(),
                wire(BATCH),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (len, head) in self.lens.iter_mut().zip(&heads[..self.count]) {
            let whole = head.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            *len = whole.then_some(head.msg_len as usize);
        }
        Ok(())
    }
}

/// Datagrams that wait to be sent in one go.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    ends: Vec<usize>,
    names: Vec<libc::sockaddr_in6>,
    marks: Vec<Mark>,
}

impl Outgoing {
    /// One more datagram. Panics beyond [`BATCH`] of them: who pushes looks at
    /// [`Outgoing::is_full`] first.
    pub fn push(&mut self, to: Caller, datagram: &[u8]) {
        assert!(!self.is_full(), "a full batch is sent first");
        self.bytes.extend_from_slice(datagram);
        self.ends.push(self.bytes.len());
        self.names.push(name(to.addr));
        self.marks.push(Mark::of(to));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.ends.len() == BATCH
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.names.clear();
        self.marks.clear();
    }

    /// How many could not be sent.
    fn flush(&mut self, fd: &OwnedFd) -> usize {
        let count = self.ends.len();
        let bytes = self.bytes.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        let marks = self.marks.as_mut_ptr();
        let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|at| {
            let start = at.checked_sub(1).map_or(0, |before| self.end(before));
            libc::iovec {
                iov_base: bytes.wrapping_add(start).cast(),
                iov_len: self.end(at) - start,
            }
        });
        let parts = parts.as_mut_ptr();
        let mut heads: [libc::mmsghdr; BATCH] = std::array::from_fn(|at| {
            let v4 = self.names.get(at).is_some_and(is_v4);
            let len = if v4 { V4_NAME_LEN } else { NAME_LEN };
            let mut head = head(parts.wrapping_add(at), names.wrapping_add(at), len);
            let mark_len = self.marks.get(at).map_or(0, Mark::len);
            if mark_len > 0 {
                head.msg_hdr.msg_control = marks.wrapping_add(at).cast();
                head.msg_hdr.msg_controllen = mark_len;
            }
            head
        });
        let (mut at, mut lost) = (0, 0);
        while at < count {
            let rest = &mut heads[at..count];
            // SAFETY: the first `count` heads name a part, a name and perhaps a mark each,
            // which lie in `bytes`, `names` and `marks`; all live until the call returns, which
            // does not wait.
            let sent = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    rest.as_mut_ptr(),
                    wire(rest.len()),
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => at += sent,
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    // No room: a tracker's client asks again.
                    io::ErrorKind::WouldBlock => return lost + count - at,
                    // This one cannot be reached.
                    _ => {
                        at += 1;
                        lost += 1;
                    }
                },
            }
        }
        lost
    }

    /// Of what is not there: where the last one ends.
    fn end(&self, at: usize) -> usize {
        self.ends.get(at).copied().unwrap_or(self.bytes.len())
    }
}

/// The control message that says which address of ours a datagram came to, or is to come from
/// (ip(7), ipv6(7)).
#[derive(Clone, Copy)]
#[repr(C)]
struct Mark {
    head: libc::cmsghdr,
    /// Of IPv4 it is shorter, an `in_pktinfo`: interface, address of ours, address in the packet.
    info: libc::in6_pktinfo,
}

/// Behind the head without a gap.
const _: () = assert!(std::mem::offset_of!(Mark, info) == size_of::<libc::cmsghdr>());

impl Mark {
    const fn none() -> Self {
        Self {
            head: libc::cmsghdr {
                cmsg_len: 0,
                cmsg_level: 0,
                cmsg_type: 0,
            },
            info: libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
                ipi6_ifindex: 0,
            },
        }
    }

    fn of(to: Caller) -> Self {
        let mut mark = Self::none();
        let addr = &mut mark.info.ipi6_addr.s6_addr;
        let info_len = match to.ours {
            None => return mark,
            Some(IpAddr::V4(ours)) => {
                addr[4..8].copy_from_slice(&ours.octets());
                mark.head.cmsg_level = libc::IPPROTO_IP;
                mark.head.cmsg_type = libc::IP_PKTINFO;
                size_of::<libc::in_pktinfo>()
            }
            Some(IpAddr::V6(ours)) => {
                *addr = ours.octets();
                if let SocketAddr::V6(to) = to.addr {
                    mark.info.ipi6_ifindex = to.scope_id();
                }
                mark.head.cmsg_level = libc::IPPROTO_IPV6;
                mark.head.cmsg_type = libc::IPV6_PKTINFO;
                size_of::<libc::in6_pktinfo>()
            }
        };
        mark.head.cmsg_len = size_of::<libc::cmsghdr>() + info_len;
        mark
    }

    fn ours(&self) -> Option<IpAddr> {
        let addr = &self.info.ipi6_addr.s6_addr;
        match (self.head.cmsg_level, self.head.cmsg_type) {
            _ if self.head.cmsg_len == 0 => None,
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ours: [u8; 4] = addr[4..8].try_into().expect("four");
                Some(ours.into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => Some((*addr).into()),
            _ => None,
        }
    }

    const fn len(&self) -> usize {
        self.head
            .cmsg_len
            .next_multiple_of(align_of::<libc::cmsghdr>())
    }
}

const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
const V4_NAME_LEN: usize = size_of::<libc::sockaddr_in>();

fn head(part: *mut libc::iovec, name: *mut libc::sockaddr_in6, name_len: usize) -> libc::mmsghdr {
    // SAFETY: numbers and pointers, of which zero is one each.
    let mut head: libc::mmsghdr = unsafe { std::mem::zeroed() };
    head.msg_hdr.msg_iov = part;
    head.msg_hdr.msg_iovlen = 1;
    head.msg_hdr.msg_name = name.cast();
    head.msg_hdr.msg_namelen = wire(name_len);
    head
}

fn wire(small: usize) -> u32 {
    u32::try_from(small).expect("a batch and a name are small")
}

fn nobody() -> libc::sockaddr_in6 {
    name(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
}

/// Both families fit the longer name: a `sockaddr_in` has its port in the same place, and its
/// address where the other has `sin6_flowinfo`.
fn name(addr: SocketAddr) -> libc::sockaddr_in6 {
    let family = match addr {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut name = libc::sockaddr_in6 {
        sin6_family: libc::sa_family_t::try_from(family).expect("families are small"),
        sin6_port: addr.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    match addr {
        SocketAddr::V4(addr) => name.sin6_flowinfo = addr.ip().to_bits().to_be(),
        SocketAddr::V6(addr) => {
            name.sin6_addr.s6_addr = addr.ip().octets();
            name.sin6_scope_id = addr.scope_id();
        }
    }
    name
}

fn is_v4(name: &libc::sockaddr_in6) -> bool {
    i32::from(name.sin6_family) == libc::AF_INET
}

fn address(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    let port = u16::from_be(name.sin6_port);
    match i32::from(name.sin6_family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from_bits(u32::from_be(name.sin6_flowinfo));
            Some(SocketAddr::from((ip, port)))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn socket(addr: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // So that [::] and 0.0.0.0 can be bound side by side.
        socket.set_only_v6(true)?;
    }
    if addr.ip().is_unspecified() {
        mark_datagrams(&socket, addr.is_ipv4())?;
    }
    // The kernel grants what its administrator allows.
    let _ = socket.set_recv_buffer_size(KERNEL_LEN);
    let _ = socket.set_send_buffer_size(KERNEL_LEN);
    Ok(socket)
}

/// From now on each datagram says which address of ours it came to.
fn mark_datagrams(socket: &socket2::Socket, v4: bool) -> io::Result<()> {
    let (level, option) = if v4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    };
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads the one number at that address before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            wire(size_of_val(&on)),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn local_addr(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    let addr = socket.local_addr()?.as_socket();
    addr.ok_or_else(|| io::Error::other("a UDP socket without an address"))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::ring::runtime;

    /// A client that hears nobody but whom it asks.
    fn echo(at: &str, asked: &str) {
        let door = Door::bind_shared(at.parse().unwrap(), 1)
            .unwrap()
            .pop()
            .unwrap();
        let to = SocketAddr::new(asked.parse().unwrap(), door.local_addr().port());
        let client = UdpSocket::bind(at).unwrap();
        client.connect(to).unwrap();
        client
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        client.send(&[7; DATAGRAM_LEN_MAX + 1]).unwrap();
        for n in 0..100u8 {
            client.send(&vec![n; usize::from(n) * 12]).unwrap();
        }
        let seen = runtime::run(async move {
            let (mut incoming, mut outgoing) = (Incoming::default(), Outgoing::default());
            let mut seen = 0;
            while seen < 100 {
                door.recv(&mut incoming).await.unwrap();
                for (from, datagram) in incoming.iter() {
                    assert_eq!(datagram, vec![seen; usize::from(seen) * 12]);
                    outgoing.push(from, datagram);
                    seen += 1;
                }
                assert_eq!(door.send(&mut outgoing), 0);
                assert!(outgoing.is_empty());
            }
            seen
        })
        .unwrap();
        assert_eq!(seen, 100);
        let mut buffer = [0; 2000];
        for n in 0..100u8 {
            assert_eq!(client.recv(&mut buffer).unwrap(), usize::from(n) * 12);
        }
    }

    #[test]
    fn what_comes_goes_back_in_both_families() {
        echo("127.0.0.1:0", "127.0.0.1");
        echo("[::1]:0", "::1");
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        echo("0.0.0.0:0", "127.0.0.77");
        echo("[::]:0", "::1");
    }

    #[test]
    fn a_taken_port_is_told_and_shards_share_one() {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let doors = Door::bind_shared(loopback, 3).unwrap();
        let addr = doors[0].local_addr();
        assert!(doors.iter().all(|door| door.local_addr() == addr));
        for shards in [1, 2] {
            let taken = Door::bind_shared(addr, shards).map(|doors| doors.len());
            assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        drop(doors);
        assert_eq!(Door::bind_shared(addr, 2).unwrap().len(), 2);
    }

    #[test]
    fn one_that_cannot_be_reached_holds_up_no_other() {
        let door = Door::bind_shared("127.0.0.1:0".parse().unwrap(), 1)
            .unwrap()
            .pop()
            .unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = client.local_addr().unwrap();
        let lost = runtime::run(async move {
            let mut outgoing = Outgoing::default();
            outgoing.push(to.into(), b"one");
            // A socket of the other family cannot go there.
            let elsewhere: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
            outgoing.push(elsewhere.into(), b"none");
            outgoing.push(to.into(), b"two");
            door.send(&mut outgoing)
        })
        .unwrap();
        assert_eq!(lost, 1);
        let mut buffer = [0; 10];
        for text in [b"one", b"two"] {
            let len = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], text);
        }
    }
}
