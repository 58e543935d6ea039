//! Which addresses and ports may be connected to (R4, R19, R20, R22, R44).

pub mod network;

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

/// Asked with the very address that is about to be connected to, never with a name: a name may
/// resolve to something else the second time.
#[derive(Clone, Debug)]
pub struct Reach {
    allow_private: bool,
    own: Vec<SocketAddr>,
    is_here: fn(IpAddr) -> bool,
}

impl Reach {
    /// `own`: our listeners, which are never a target, whatever else is allowed. `is_here` tells
    /// this machine's addresses.
    pub const fn new(
        allow_private: bool,
        own: Vec<SocketAddr>,
        is_here: fn(IpAddr) -> bool,
    ) -> Self {
        Self {
            allow_private,
            own,
            is_here,
        }
    }

    /// Whether anything at that address may be spoken to.
    pub fn ip(&self, ip: IpAddr) -> bool {
        match unwrap(ip) {
            IpAddr::V4(v4) => self.allows(v4.to_bits().into(), V4_DENIED, 32),
            IpAddr::V6(v6) => self.allows(v6.to_bits(), V6_DENIED, 128),
        }
    }

    /// An origin, a web seed or an HTTP tracker.
    pub fn web(&self, addr: SocketAddr) -> bool {
        let port = addr.port();
        let port_allowed = match port {
            0 => false,
            _ if self.allow_private => true,
            80 | 443 => true,
            _ => port >= 1024 && !PORTS_BAD.contains(&port),
        };
        port_allowed && self.ip(addr.ip()) && !self.is_own(addr)
    }

    /// A UDP tracker: no port of a protocol that answers a datagram with a larger one.
    pub fn udp_tracker(&self, addr: SocketAddr) -> bool {
        let port = addr.port();
        let port_allowed = port > 0 && (self.allow_private || !PORTS_REFLECTING.contains(&port));
        port_allowed && self.ip(addr.ip()) && !self.is_own(addr)
    }

    /// A peer.
    pub fn peer(&self, addr: SocketAddr) -> bool {
        let port = addr.port();
        let port_allowed = port >= 1024 || (self.allow_private && port > 0);
        port_allowed && self.ip(addr.ip()) && !self.is_own(addr)
    }

    fn allows(&self, bits: u128, denied: &[Denied], width: u32) -> bool {
        !denied.iter().any(|entry| {
            bits >> (width - entry.prefix) == entry.network >> (width - entry.prefix)
                && !(entry.private && self.allow_private)
        })
    }

    /// A listener on all addresses is met on each of this machine's, and a tracker names one.
    fn is_own(&self, addr: SocketAddr) -> bool {
        let ip = unwrap(addr.ip());
        self.own.iter().any(|own| {
            let own_ip = unwrap(own.ip());
            own.port() == addr.port()
                && (own_ip == ip
                    || (own_ip.is_unspecified() && (ip.is_loopback() || (self.is_here)(ip))))
        })
    }
}

struct Denied {
    network: u128,
    prefix: u32,
    /// A network that people own: a LAN, this machine. `--allow-private` opens it.
    private: bool,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Denied {
    Denied {
        network: Ipv4Addr::new(a, b, c, d).to_bits() as u128,
        prefix,
        private: false,
    }
}

const fn v6(a: u16, b: u16, c: u16, prefix: u32) -> Denied {
    Denied {
        network: Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_bits(),
        prefix,
        private: false,
    }
}

const fn private(denied: Denied) -> Denied {
    Denied {
        private: true,
        ..denied
    }
}

/// IANA's special-purpose registry (RFC 6890), multicast and class E.
const V4_DENIED: &[Denied] = &[
    v4(0, 0, 0, 0, 8),
    private(v4(10, 0, 0, 0, 8)),
    private(v4(100, 64, 0, 0, 10)),
    private(v4(127, 0, 0, 0, 8)),
    private(v4(169, 254, 0, 0, 16)),
    private(v4(172, 16, 0, 0, 12)),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    private(v4(192, 168, 0, 0, 16)),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 3),
    // Azure's host agent: credentials, on an address that looks public.
    v4(168, 63, 129, 16, 32),
];

const V6_DENIED: &[Denied] = &[
    v6(0, 0, 0, 128),
    private(Denied {
        network: 1,
        prefix: 128,
        private: true,
    }),
    v6(0x64, 0xff9b, 1, 48),
    v6(0x100, 0, 0, 64),
    // Teredo (2001::/32) lies in it, so there is nothing to unwrap.
    v6(0x2001, 0, 0, 23),
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x3fff, 0, 0, 20),
    v6(0x5f00, 0, 0, 16),
    private(v6(0xfc00, 0, 0, 7)),
    private(v6(0xfe80, 0, 0, 10)),
    private(v6(0xfec0, 0, 0, 10)),
    v6(0xff00, 0, 0, 8),
];

/// The IPv4 address that an IPv6 one stands for: mapped (`::ffff/96`), compatible (`::/96`),
/// NAT64 (`64:ff9b::/96`, RFC 6052) or 6to4 (`2002::/16`).
fn unwrap(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let embedded = match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return ip,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            [high, low]
        }
        [0x2002, high, low, ..] => [high, low],
        _ => return ip,
    };
    let [a, b] = embedded[0].to_be_bytes();
    let [c, d] = embedded[1].to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Ports from 1024 up that the Fetch standard blocks ("port blocking"): protocols that would
/// take our request for a command.
const PORTS_BAD: &[u16] = &[
    1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669,
    6679, 6697, 10080,
];

const PORTS_REFLECTING: &[u16] = &[53, 123, 137, 161, 389, 1900, 5353, 11211];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const PRIVATE: &[&str] = &[
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:c0a8:101::5",
    ];

    const NEVER: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:1ff::1",
        "2001:db8::1",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
        "ff02::1",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "::ffff:168.63.129.16",
        "64:ff9b::a83f:8110",
        "2002:e000:1::",
    ];

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "128.0.0.1",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "192.0.1.0",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2a00::1",
        "4000::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ];

    #[test]
    fn only_the_public_internet_by_default() {
        let reach = Reach::new(false, vec![], |_| false);
        for text in PUBLIC {
            assert!(reach.ip(ip(text)), "{text}");
        }
        for text in PRIVATE.iter().chain(NEVER) {
            assert!(!reach.ip(ip(text)), "{text}");
        }
    }

    #[test]
    fn allow_private_opens_the_lan_and_nothing_else() {
        let reach = Reach::new(true, vec![], |_| false);
        for text in PUBLIC.iter().chain(PRIVATE) {
            assert!(reach.ip(ip(text)), "{text}");
        }
        for text in NEVER {
            assert!(!reach.ip(ip(text)), "{text}");
        }
    }

    #[test]
    fn ports_are_those_of_the_web() {
        let reach = Reach::new(false, vec![], |_| false);
        let web = |port| reach.web(SocketAddr::new(ip("1.1.1.1"), port));
        for port in [80, 443, 1024, 6969, 8080, 8443, 65535] {
            assert!(web(port), "{port}");
        }
        for port in [
            0, 1, 22, 25, 81, 444, 1023, 2049, 5060, 6000, 6667, 6697, 10080,
        ] {
            assert!(!web(port), "{port}");
        }
        let peer = |port| reach.peer(SocketAddr::new(ip("1.1.1.1"), port));
        assert!(peer(1024) && peer(6881) && peer(6667) && !peer(1023) && !peer(80) && !peer(0));
        let udp = |port| reach.udp_tracker(SocketAddr::new(ip("1.1.1.1"), port));
        assert!(udp(80) && udp(451) && udp(6969));
        for port in [0, 53, 123, 137, 161, 389, 1900, 5353, 11211] {
            assert!(!udp(port), "{port}");
        }

        let open = Reach::new(true, vec![], |_| false);
        assert!(open.web(addr("127.0.0.1:22")) && !open.web(addr("127.0.0.1:0")));
        assert!(open.peer(addr("10.1.2.3:1")) && !open.peer(addr("10.1.2.3:0")));
        assert!(open.udp_tracker(addr("10.1.2.3:53")));
    }

    #[test]
    fn our_own_listeners_are_never_a_target() {
        let own = vec![
            addr("127.0.0.1:8081"),
            addr("[::1]:8081"),
            addr("0.0.0.0:10234"),
        ];
        let reach = Reach::new(true, own, |ip| ip == Ipv4Addr::new(10, 0, 0, 7));
        for text in [
            "127.0.0.1:8081",
            "[::1]:8081",
            "[::ffff:127.0.0.1]:8081",
            "127.0.0.1:10234",
            "127.9.9.9:10234",
            "[::1]:10234",
            "10.0.0.7:10234",
        ] {
            let addr = addr(text);
            assert!(!reach.web(addr) && !reach.peer(addr), "{text}");
            assert!(!reach.udp_tracker(addr), "{text}");
        }
        assert!(reach.web(addr("127.0.0.1:8080")));
        assert!(reach.web(addr("127.0.0.2:8081")));
        assert!(reach.peer(addr("192.168.0.9:10234")));
        assert!(reach.peer(addr("10.0.0.7:10235")));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn wrapping_hides_nothing(bits: u32, allow_private: bool) {
            let reach = Reach::new(allow_private, vec![], |_| false);
            let inner = Ipv4Addr::from_bits(bits);
            let [high, low] = [(bits >> 16) as u16, bits as u16];
            let allowed = reach.ip(inner.into());
            for wrapped in [
                inner.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 1, 2, 3, 4, 5),
            ] {
                prop_assert_eq!(reach.ip(wrapped.into()), allowed, "{}", wrapped);
            }
        }
    }
}
