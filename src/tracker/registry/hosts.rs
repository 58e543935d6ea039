//! Which web servers' videos somebody may speak for: patterns of hosts.

use std::fmt;
use std::str::FromStr;

use url::Host;
use url::Url;

/// A host as `example.org`, `*.example.org` (what stands below it, not itself), `127.0.0.1:8080` or
/// `[::1]`; http and https alike. Without a port, those of the schemes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    host: Host,
    below: bool,
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a host is written example.org, *.example.org or example.org:8080")]
pub struct BadPattern;

impl Pattern {
    pub fn allows(&self, url: &Url) -> bool {
        let port = match self.port {
            Some(port) => url.port_or_known_default() == Some(port),
            None => url.port().is_none(),
        };
        let web = matches!(url.scheme(), "http" | "https");
        web && port && url.host().is_some_and(|host| self.names(&host.to_owned()))
    }

    fn names(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Host::Domain(pattern), Host::Domain(name)) if self.below => name
                .strip_suffix(pattern.as_str())
                .is_some_and(|above| above.len() > 1 && above.ends_with('.')),
            (pattern, host) => pattern == host,
        }
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let rest = text.strip_prefix("*.");
        let below = rest.is_some();
        let rest = rest.unwrap_or(text);
        // As an address is read: lower case, punycode, no second meaning.
        let odd = |byte: u8| matches!(byte, b'/' | b'\\' | b'@' | b'?' | b'#' | b'*');
        if rest.bytes().any(odd) {
            return Err(BadPattern);
        }
        let url = Url::parse(&format!("http://{rest}")).map_err(|_| BadPattern)?;
        let host = url.host().ok_or(BadPattern)?.to_owned();
        if below && !matches!(host, Host::Domain(_)) {
            return Err(BadPattern);
        }
        // The parse forgets a port that is the scheme's own.
        let typed = rest
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        let port = typed.map(|(_, port)| port.parse().ok().filter(|port| *port != 0));
        match port {
            Some(None) => Err(BadPattern),
            port => Ok(Self {
                host,
                below,
                port: port.flatten(),
            }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(pattern: &str, url: &str) -> bool {
        let pattern: Pattern = pattern.parse().unwrap();
        pattern.allows(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_host_is_itself_on_the_usual_ports() {
        for url in ["http://example.org/a", "https://EXAMPLE.org:443/a"] {
            assert!(allows("Example.ORG", url), "{url}");
        }
        for url in [
            "http://example.org:8080/a",
            "http://www.example.org/a",
            "http://example.org.evil/a",
            "http://evilexample.org/a",
            "ftp://example.org/a",
        ] {
            assert!(!allows("example.org", url), "{url}");
        }
        assert!(allows("bücher.example", "http://xn--bcher-kva.example/"));
    }

    #[test]
    fn what_stands_below_a_host_is_not_the_host() {
        for url in ["http://a.example.org/", "https://a.b.example.org/"] {
            assert!(allows("*.example.org", url), "{url}");
        }
        for url in [
            "http://example.org/",
            "http://evilexample.org/",
            "http://.example.org/",
        ] {
            assert!(
                Url::parse(url).is_ok_and(|_| !allows("*.example.org", url)),
                "{url}"
            );
        }
    }

    #[test]
    fn ports_and_addresses_are_exact() {
        assert!(allows("127.0.0.1:8080", "http://127.0.0.1:8080/a"));
        assert!(!allows("127.0.0.1:8080", "http://127.0.0.1/a"));
        assert!(!allows("127.0.0.1:8080", "http://127.0.0.2:8080/a"));
        assert!(allows("[::1]:81", "http://[0:0:0:0:0:0:0:1]:81/"));
        assert!(allows("[::1]", "http://[::1]/"));
        assert!(allows("a.example:443", "https://a.example/"));
        assert!(allows("a.example:80", "http://a.example/"));
        assert!(!allows("a.example:80", "https://a.example/"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.org",
            "*.127.0.0.1",
            "*.[::1]",
            "a b",
            "http://a.org",
            "a.org/x",
            "u@a.org",
            "a.org:",
            "a.org:0",
            "a.org:99999",
            "a.org:x",
            "a.org:80:80",
            "[::1",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_read_is_written_the_same(text in "(\\*\\.)?[a-z0-9.\\[\\]:*@/-]{0,20}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern));
            }
        }
    }
}
