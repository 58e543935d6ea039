//! Reverse proxies that are believed when they say for whom they ask.

use std::net::IpAddr;

use crate::reach::network::Network;

/// For whom `from` asks: what the last of its `X-Forwarded-For` lines says last, if it is a proxy
/// of ours, for that is what the proxy itself wrote. `None`: it is ours, and does not say.
pub fn client(trusted: &[Network], from: IpAddr, forwarded: Option<&str>) -> Option<IpAddr> {
    if !trusted.iter().any(|network| network.holds(from)) {
        return Some(from);
    }
    let last = forwarded?.rsplit(',').next()?.trim();
    // Some proxies add a port.
    let ip = last.parse().ok().or_else(|| {
        let bare = last.trim_matches(['[', ']']).parse().ok();
        bare.or_else(|| Some(last.parse::<std::net::SocketAddr>().ok()?.ip()))
    });
    ip.map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_proxies_are_believed_and_only_their_last_word() {
        let ours = ["10.0.0.0/8".parse().unwrap()];
        let of =
            |from: &str, said| client(&ours, from.parse().unwrap(), said).map(|ip| ip.to_string());
        let some = |ip: &str| Some(ip.to_owned());
        assert_eq!(of("9.9.9.9", Some("1.1.1.1")), some("9.9.9.9"));
        assert_eq!(of("10.0.0.1", Some("6.6.6.6, 1.1.1.1")), some("1.1.1.1"));
        assert_eq!(of("10.0.0.1", Some("1.1.1.1:5555")), some("1.1.1.1"));
        assert_eq!(of("10.0.0.1", Some("[2001:db8::1]:5")), some("2001:db8::1"));
        assert_eq!(of("10.0.0.1", Some("[2001:db8::1]")), some("2001:db8::1"));
        assert_eq!(of("10.0.0.1", Some("::ffff:1.1.1.1")), some("1.1.1.1"));
        for said in [None, Some(""), Some("unknown"), Some("1.1.1.1,")] {
            assert_eq!(of("10.0.0.1", said), None, "{said:?}");
        }
    }
}
