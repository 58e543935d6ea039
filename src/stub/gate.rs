//! Who may ask the stub, and for what kind of thing, before anything is looked up.
//!
//! Any page in the user's browser can send requests to localhost. The Host check stops rebound
//! names (R2), the destination check stops our bytes from becoming a document, a script or a
//! worker (R14), and provenance tells a page's request from the user's own (DESIGN §10).

use std::collections::BTreeSet;

use url::Url;

use crate::http::head::Method;
use crate::http::head::RequestHead;

/// Longer than any origin a browser sends.
const SITE_LEN_MAX: usize = 300;

#[derive(Clone, Debug)]
pub struct Gate {
    /// The ports we listen on.
    pub ports: Vec<u16>,
    /// `--allow-host`: a name that stands for us, with our port; or a Host value as it is.
    pub allow_hosts: Vec<String>,
    /// `--proxy`: targets in absolute-form that name others are served.
    pub proxy: bool,
    /// Our name in `Via`, as [`via_name`] makes it.
    pub via: String,
    pub sites: Sites,
}

/// `--sites`: whose pages may use this stub (R12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// All: the browser's own prompt is the consent.
    Open,
    /// Those approved, as [`Provenance::site`] spells them.
    List(BTreeSet<String>),
}

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// A page made it; else it is the user's own (curl, mpv, `bittube get`).
    pub web: bool,
    /// The page's origin, `scheme://host[:port]`; a page may keep it back.
    pub site: Option<String>,
}

/// Policy, not syntax: the answer, and whether the connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub detail: &'static str,
    pub close: bool,
}

/// What a target asks of us, once the gate let it pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// In origin-form, or cut down to it: [`crate::stub::address::Address::parse`].
    Ours(&'a str),
    /// In absolute-form, for another host:
    /// [`crate::stub::address::Address::from_absolute_form`].
    Proxied(&'a str),
    /// `*`, of OPTIONS.
    Server,
}

/// The name that a proxy of ours goes by in `Via` (R4).
pub fn via_name(id: &str) -> String {
    format!("bittube-{id}")
}

impl Gate {
    pub fn check(&self, head: &RequestHead) -> Result<Provenance, Refusal> {
        if head.headers.count("host") != 1 {
            return Err(close(400, "bad-request", "expected one Host header"));
        }
        if head.method == Method::Connect {
            return Err(close(405, "method", "CONNECT is not offered"));
        }
        let target = self.target(head)?;
        let proxied = matches!(target, Target::Proxied(_));
        let host = head.headers.get("host").unwrap_or_default();
        if !proxied && !self.is_ours(host) {
            return Err(MISDIRECTED);
        }
        if !matches!(head.method, Method::Get | Method::Head | Method::Options) {
            return Err(close(
                405,
                "method",
                "only GET, HEAD and OPTIONS are offered",
            ));
        }
        if self.has_passed_us(head) {
            return Err(keep(508, "loop", "this request came through us before"));
        }
        if head
            .headers
            .all("service-worker")
            .any(|value| value.eq_ignore_ascii_case("script"))
        {
            return Err(keep(403, "destination", "not for service workers"));
        }
        // A proxied reply belongs to the other host's origin, not to ours.
        if !proxied && !has_allowed_destination(head) {
            return Err(keep(403, "destination", "only as media or by fetch()"));
        }
        let provenance = Provenance::of(head);
        if !self.sites.approve(&provenance) {
            return Err(keep(
                403,
                "site",
                "approve this site in the dashboard first",
            ));
        }
        Ok(provenance)
    }

    /// The target by its form (RFC 9112 §3.2).
    pub fn target<'a>(&self, head: &'a RequestHead) -> Result<Target<'a>, Refusal> {
        let target = head.target.as_str();
        if target.starts_with('/') {
            return Ok(Target::Ours(target));
        }
        if target == "*" && head.method == Method::Options {
            return Ok(Target::Server);
        }
        let Some((scheme, rest)) = target.split_once("://") else {
            return Err(close(400, "bad-request", "a malformed target"));
        };
        let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if scheme.eq_ignore_ascii_case("http") && self.is_ours(&rest[..path_at]) {
            let path = &rest[path_at..];
            return Ok(Target::Ours(if path.is_empty() { "/" } else { path }));
        }
        if self.proxy {
            return Ok(Target::Proxied(target));
        }
        Err(MISDIRECTED)
    }

    /// Whether a Host names us. Exact: `localhost.`, `user@localhost` and `0.0.0.0` do not.
    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // A colon within brackets is part of an IPv6 address.
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        let port_ours = match port {
            None => self.ports.contains(&80),
            Some(port) => {
                port.bytes().all(|byte| byte.is_ascii_digit())
                    && port.parse().is_ok_and(|port| self.ports.contains(&port))
            }
        };
        let same = |allowed: &str| allowed.eq_ignore_ascii_case(name);
        let named = ["localhost", "127.0.0.1", "[::1]"].into_iter().any(same)
            || self.allow_hosts.iter().any(|allowed| same(allowed));
        (port_ours && named)
            || self
                .allow_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn has_passed_us(&self, head: &RequestHead) -> bool {
        head.headers
            .tokens("via")
            .filter_map(|hop| hop.split_ascii_whitespace().nth(1))
            .any(|by| by.eq_ignore_ascii_case(&self.via))
    }
}

impl Sites {
    /// The user's own requests always are.
    pub fn approve(&self, provenance: &Provenance) -> bool {
        match self {
            _ if !provenance.web => true,
            Self::Open => true,
            Self::List(sites) => provenance
                .site
                .as_ref()
                .is_some_and(|site| sites.contains(site)),
        }
    }

    /// Adds what a person typed; false if it is no origin.
    pub fn add(&mut self, site: &str) -> bool {
        let Some(site) = origin_of(site) else {
            return false;
        };
        if let Self::List(sites) = self {
            sites.insert(site);
        }
        true
    }
}

impl Provenance {
    /// The user's own.
    pub const USER: Self = Self {
        web: false,
        site: None,
    };

    pub fn of(head: &RequestHead) -> Self {
        let headers = &head.headers;
        let foreign_fetch = headers.all("sec-fetch-site").any(|site| site != "none");
        let web = headers.count("origin") > 0 || headers.count("referer") > 0 || foreign_fetch;
        let site = match headers.get("origin") {
            Some(origin) => origin_of(origin),
            None => headers.get("referer").and_then(origin_of),
        };
        Self { web, site }
    }
}

const MISDIRECTED: Refusal = close(421, "host", "this name is not ours");

const fn close(status: u16, code: &'static str, detail: &'static str) -> Refusal {
    Refusal {
        status,
        code,
        detail,
        close: true,
    }
}

const fn keep(status: u16, code: &'static str, detail: &'static str) -> Refusal {
    Refusal {
        close: false,
        ..close(status, code, detail)
    }
}

/// R14. A browser that sends no `Sec-Fetch-Dest`, or a player, is not told apart here.
fn has_allowed_destination(head: &RequestHead) -> bool {
    let site = head.headers.get("sec-fetch-site");
    head.headers
        .all("sec-fetch-dest")
        .all(|destination| match destination {
            "video" | "audio" | "track" | "empty" => true,
            "document" => matches!(site, Some("none" | "same-origin")),
            _ => false,
        })
}

/// The origin of a URL in one spelling; `None` for `null` and what is no URL with a host.
fn origin_of(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let site = match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    };
    (site.len() <= SITE_LEN_MAX && site.bytes().all(|byte| byte.is_ascii_graphic())).then_some(site)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head::parse_request;

    fn gate() -> Gate {
        Gate {
            ports: vec![8081],
            allow_hosts: vec!["tv.lan".into(), "proxy.example:443".into()],
            proxy: false,
            via: via_name("0a1b"),
            sites: Sites::Open,
        }
    }

    fn head(line: &str, headers: &str) -> RequestHead {
        parse_request(format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes())
            .unwrap()
            .unwrap()
    }

    /// A GET with our Host and these lines.
    fn get(lines: &str) -> Result<Provenance, Refusal> {
        gate().check(&head("GET /x", &format!("Host: localhost:8081\r\n{lines}")))
    }

    fn status_of(line: &str, headers: &str) -> u16 {
        gate()
            .check(&head(line, headers))
            .map_or_else(|no| no.status, |_| 200)
    }

    #[test]
    fn only_our_names_with_our_port() {
        for host in [
            "localhost:8081",
            "LOCALHOST:8081",
            "127.0.0.1:8081",
            "[::1]:8081",
            "tv.lan:8081",
            "tv.lan",
            "proxy.example:443",
        ] {
            assert_eq!(
                status_of("GET /x", &format!("Host: {host}\r\n")),
                200,
                "{host}"
            );
        }
        for host in [
            "localhost",
            "localhost:80",
            "localhost:8082",
            "localhost:",
            "localhost:+8081",
            "localhost.:8081",
            "a@localhost:8081",
            "0.0.0.0:8081",
            "[::]:8081",
            "::1:8081",
            "127.0.0.2:8081",
            "127.1:8081",
            "evil.example:8081",
            "localhost.evil.example:8081",
            "localhost:8081.evil.example",
            "proxy.example",
            "",
            "localhost:8081:8081",
            "localhost:8081, evil",
        ] {
            let headers = format!("Host: {host}\r\n");
            let refusal = gate().check(&head("GET /x", &headers)).expect_err(host);
            assert_eq!((refusal.status, refusal.close), (421, true), "{host}");
        }
        assert_eq!(status_of("GET /x", ""), 400);
        assert_eq!(
            status_of("GET /x", "Host: localhost:8081\r\nHost: localhost:8081\r\n"),
            400
        );
        let port_80 = Gate {
            ports: vec![80],
            ..gate()
        };
        assert!(
            port_80
                .check(&head("GET /x", "Host: localhost\r\n"))
                .is_ok()
        );
    }

    #[test]
    fn methods_and_forms_of_targets() {
        let ours = "Host: localhost:8081\r\n";
        for (line, status) in [
            ("HEAD /x", 200),
            ("OPTIONS /x", 200),
            ("OPTIONS *", 200),
            ("POST /x", 405),
            ("PUT /x", 405),
            ("DELETE /x", 405),
            ("TRACE /x", 405),
            ("CONNECT localhost:8081", 405),
            ("CONNECT evil.example:443", 405),
            ("GET *", 400),
            ("GET x", 400),
            ("GET http://localhost:8081/x", 200),
            ("GET http://evil.example/x", 421),
            ("GET http://localhost:8081@evil.example/x", 421),
            ("GET https://localhost:8081/x", 421),
        ] {
            assert_eq!(status_of(line, ours), status, "{line}");
        }
        let same = head("GET http://localhost:8081?x", ours);
        assert_eq!(gate().target(&same), Ok(Target::Ours("?x")));
        let same = head("GET http://127.0.0.1:8081", ours);
        assert_eq!(gate().target(&same), Ok(Target::Ours("/")));
    }

    #[test]
    fn a_proxy_serves_other_hosts() {
        let proxy = Gate {
            proxy: true,
            ..gate()
        };
        let other = head(
            "GET http://h.org/v.mp4",
            "Host: h.org\r\nSec-Fetch-Dest: document\r\n",
        );
        assert!(proxy.check(&other).is_ok());
        assert_eq!(
            proxy.target(&other),
            Ok(Target::Proxied("http://h.org/v.mp4"))
        );
        assert_eq!(gate().check(&other).unwrap_err().status, 421);
        let rebound = head("GET /x", "Host: h.org:8081\r\n");
        assert_eq!(proxy.check(&rebound).unwrap_err().status, 421);
    }

    #[test]
    fn loops_end() {
        assert_eq!(
            get("Via: 1.0 a, 1.1 bittube-0a1b\r\n").unwrap_err().status,
            508
        );
        assert_eq!(
            get("Via: 1.0 a\r\nVia: 1.1 BitTube-0A1B (x)\r\n")
                .unwrap_err()
                .status,
            508
        );
        assert!(get("Via: 1.1 bittube-ffff\r\n").is_ok());
    }

    #[test]
    fn our_bytes_become_no_document() {
        let dest = |dest: &str, site: &str| {
            get(&format!(
                "Sec-Fetch-Dest: {dest}\r\nSec-Fetch-Site: {site}\r\n"
            ))
            .map_or_else(|no| no.status, |_| 200)
        };
        for ok in ["video", "audio", "track", "empty"] {
            assert_eq!(dest(ok, "cross-site"), 200, "{ok}");
        }
        for no in [
            "iframe", "script", "worker", "object", "embed", "image", "style", "", "Video",
        ] {
            assert_eq!(dest(no, "same-origin"), 403, "{no}");
        }
        assert_eq!(dest("document", "none"), 200);
        assert_eq!(dest("document", "same-origin"), 200);
        assert_eq!(dest("document", "same-site"), 403);
        assert_eq!(dest("document", "cross-site"), 403);
        assert_eq!(get("Sec-Fetch-Dest: document\r\n").unwrap_err().status, 403);
        assert_eq!(get("Service-Worker: script\r\n").unwrap_err().status, 403);
        assert!(!get("Service-Worker: script\r\n").unwrap_err().close);
    }

    #[test]
    fn provenance_tells_pages_from_people() {
        let site = |lines: &str| {
            let provenance = get(lines).unwrap();
            (provenance.web, provenance.site.unwrap_or_default())
        };
        assert_eq!(get("User-Agent: curl\r\n"), Ok(Provenance::USER));
        assert_eq!(get("Sec-Fetch-Site: none\r\n"), Ok(Provenance::USER));
        let page = |site: &str| (true, site.to_owned());
        assert_eq!(site("Origin: https://A.org:443\r\n"), page("https://a.org"));
        assert_eq!(
            site("Referer: http://a.org:81/b?c\r\n"),
            page("http://a.org:81")
        );
        assert_eq!(
            site("Origin: https://a.org\r\nReferer: http://b.org/\r\n"),
            page("https://a.org")
        );
        assert_eq!(site("Origin: null\r\nReferer: http://b.org/\r\n"), page(""));
        assert_eq!(site("Sec-Fetch-Site: cross-site\r\n"), page(""));
        assert_eq!(
            site("Origin: chrome-extension://abc\r\n"),
            page("chrome-extension://abc")
        );
        assert_eq!(site("Referer:\r\n"), page(""));
    }

    #[test]
    fn a_list_of_sites_is_kept() {
        let mut gate = gate();
        gate.sites = Sites::List(BTreeSet::new());
        assert!(gate.sites.add("https://A.org/page"));
        assert!(!gate.sites.add("a.org"));
        let check = |lines: &str| {
            gate.check(&head("GET /x", &format!("Host: localhost:8081\r\n{lines}")))
                .map_or_else(|no| no.code, |_| "ok")
        };
        assert_eq!(check(""), "ok");
        assert_eq!(check("Origin: https://a.org\r\n"), "ok");
        assert_eq!(check("Referer: https://a.org/x\r\n"), "ok");
        assert_eq!(check("Origin: https://b.org\r\n"), "site");
        assert_eq!(check("Origin: http://a.org\r\n"), "site");
        assert_eq!(check("Origin: null\r\n"), "site");
        assert_eq!(check("Sec-Fetch-Site: cross-site\r\n"), "site");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_foreign_host_never_passes(host in "[!-~]{0,24}") {
            let names = ["localhost:8081", "127.0.0.1:8081", "[::1]:8081", "tv.lan:8081", "tv.lan", "proxy.example:443"];
            prop_assume!(!names.contains(&host.to_ascii_lowercase().as_str()));
            prop_assert_eq!(status_of("GET /x", &format!("Host: {host}\r\n")), 421);
        }
    }
}
