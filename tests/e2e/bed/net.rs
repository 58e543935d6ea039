//! Ports that nobody has, and addresses that are not loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Below the kernel's own range, so that no outgoing connection takes one meanwhile.
const PORT_FIRST: u16 = 11_000;
const PORT_LAST: u16 = 32_000;

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port on which nobody listens, given out once in this process.
pub fn free_port() -> u16 {
    free_ports_in_a_row(1)
}

/// The first of so many.
pub fn free_ports_in_a_row(count: u16) -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let span = PORT_LAST - PORT_FIRST;
    let next = NEXT.get_or_init(|| {
        // Test runs side by side start apart.
        let apart = u32::from(span) & std::process::id().wrapping_mul(2_654_435_761) >> 8;
        AtomicU16::new(u16::try_from(apart).expect("masked to 16 bits") % span)
    });
    loop {
        let port = PORT_FIRST + next.fetch_add(count, Ordering::Relaxed) % span;
        let is_free = |port| {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        };
        if (port..port + count).all(is_free) {
            return port;
        }
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(LOOPBACK, port)
}

/// One address of 127.0.0.0/8 each: peers that are told apart by address.
pub fn loopback_host(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, host)
}

pub fn answers(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_millis(200)).is_ok()
}

/// An address of this machine outside 127.0.0.0/8, which some peers (transmission) refuse to dial.
/// Where the machine has no private one, one is added to `lo`, which needs root.
pub fn outside_address() -> Ipv4Addr {
    static FOUND: OnceLock<IpAddr> = OnceLock::new();
    let made = Ipv4Addr::new(10, 255, 81, 1).into();
    let towards = (Ipv4Addr::new(198, 51, 100, 1), 9).into();
    match *FOUND.get_or_init(|| outside(towards, made)) {
        IpAddr::V4(outside) => outside,
        IpAddr::V6(_) => unreachable!("of the family that was asked for"),
    }
}

/// The same for IPv6 and `::1`.
pub fn outside_address6() -> Ipv6Addr {
    static FOUND: OnceLock<IpAddr> = OnceLock::new();
    let made = Ipv6Addr::new(0xfd51, 0, 0, 0, 0, 0, 0, 1).into();
    let towards = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into();
    match *FOUND.get_or_init(|| outside(towards, made)) {
        IpAddr::V6(outside) => outside,
        IpAddr::V4(_) => unreachable!("of the family that was asked for"),
    }
}

fn outside(towards: SocketAddr, made: IpAddr) -> IpAddr {
    if let Some(own) = own_address(towards) {
        return own;
    }
    // Left there by an earlier run, it is as good. No other machine is asked whether it has it.
    let bits = if made.is_ipv4() { 32 } else { 128 };
    let mut command = Command::new("ip");
    command.args(["address", "add", &format!("{made}/{bits}"), "dev", "lo"]);
    command.args(["nodad"].iter().filter(|_| made.is_ipv6()));
    let added = command.output();
    let usable = TcpListener::bind((made, 0)).is_ok();
    assert!(
        usable,
        "no address but loopback's, and none could be added: {added:?}"
    );
    made
}

/// The source address towards the world; nothing is sent to find it.
fn own_address(towards: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match towards {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(towards).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let private = match own {
        IpAddr::V4(own) => own.is_private(),
        IpAddr::V6(own) => own.is_unique_local(),
    };
    private.then_some(own)
}
