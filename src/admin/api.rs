//! Requests to the control port, decided without a socket (R5, R7, R9).

use std::time::Duration;

use crate::admin::metrics;
use crate::admin::stats::Stats;
use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::units::Time;

/// Wrong tokens taken a minute; beyond it every answer is 429 for a while (R5).
const FAILURES_MAX: u32 = 10;
const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Guards the control port of one process.
pub struct Api {
    token: String,
    /// `host:port` as a Host header may say it.
    hosts: Vec<String>,
    failures: u32,
    window_from: Time,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the shards, then call [`Api::render`].
    NeedsStats(Page),
    Reply(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Stats,
    Metrics,
}

impl Api {
    /// `token`: 64 hex digits; `port`: the one listened on.
    pub fn new(token: String, port: u16) -> Self {
        let hosts = ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}"));
        Self {
            token,
            hosts: hosts.to_vec(),
            failures: 0,
            window_from: Time::ZERO,
        }
    }

    pub fn handle_request(&mut self, now: Time, head: &RequestHead) -> Verdict {
        if let Some(refusal) = self.refuse(now, head) {
            return Verdict::Reply(refusal);
        }
        let path = head.target.split('?').next().unwrap_or_default();
        match path {
            "/healthz" => Verdict::Reply(page(200, "text/plain; charset=utf-8", b"ok\n", head)),
            "/api/stats" => Verdict::NeedsStats(Page::Stats),
            "/metrics" => Verdict::NeedsStats(Page::Metrics),
            _ => Verdict::Reply(error(404, "not-found", "no such page", &[], head)),
        }
    }

    pub fn render(page_asked: Page, stats: &Stats, head: &RequestHead) -> Vec<u8> {
        match page_asked {
            Page::Stats => {
                let body = serde_json::to_vec(stats).expect("plain data");
                page(200, "application/json", &body, head)
            }
            Page::Metrics => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                page(200, kind, metrics::render(stats).as_bytes(), head)
            }
        }
    }

    fn refuse(&mut self, now: Time, head: &RequestHead) -> Option<Vec<u8>> {
        let host = head.headers.get("host").map(str::to_ascii_lowercase);
        if head.headers.count("host") != 1 {
            return Some(error(
                400,
                "bad-host",
                "exactly one Host is needed",
                &[],
                head,
            ));
        }
        if !host.is_some_and(|host| self.hosts.contains(&host)) {
            return Some(error(
                421,
                "misdirected",
                "this is BitTube's control port",
                &[],
                head,
            ));
        }
        if matches!(head.method, Method::Options) {
            return Some(error(
                403,
                "no-cors",
                "no page may use the control port",
                &[],
                head,
            ));
        }
        if !matches!(head.method, Method::Get | Method::Head) {
            let allow = [("Allow", "GET, HEAD")];
            return Some(error(405, "method", "only GET and HEAD", &allow, head));
        }
        if foreign(head) {
            return Some(error(
                403,
                "foreign",
                "no page may use the control port",
                &[],
                head,
            ));
        }
        if head.target == "/healthz" {
            return None;
        }
        self.check_token(now, head)
    }

    fn check_token(&mut self, now: Time, head: &RequestHead) -> Option<Vec<u8>> {
        if now.since(self.window_from) > FAILURES_WINDOW {
            self.window_from = now;
            self.failures = 0;
        }
        if self.failures >= FAILURES_MAX {
            let wait = [("Retry-After", "60")];
            return Some(error(429, "too-many", "too many wrong tokens", &wait, head));
        }
        let given = head
            .headers
            .get("authorization")
            .and_then(|v| v.strip_prefix("Bearer "));
        if given.is_some_and(|given| same(given.as_bytes(), self.token.as_bytes())) {
            return None;
        }
        self.failures += 1;
        let how = [("WWW-Authenticate", "Bearer")];
        Some(error(
            401,
            "no-token",
            "Authorization: Bearer <token> is needed",
            &how,
            head,
        ))
    }
}

/// A page of another site asks, or a page at all: the control port has no pages yet.
fn foreign(head: &RequestHead) -> bool {
    let site = head.headers.get("sec-fetch-site");
    head.headers.count("origin") > 0 || site.is_some_and(|site| site != "none")
}

/// Compared in the same time wherever the first difference lies.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differing = given
        .iter()
        .zip(token)
        .fold(0, |seen, (a, b)| seen | (a ^ b));
    given.len() == token.len() && differing == 0
}

/// The fixed form of every error (security.md, status code summary).
pub fn error(
    status: u16,
    code: &str,
    detail: &str,
    headers: &[(&str, &str)],
    head: &RequestHead,
) -> Vec<u8> {
    let body = serde_json::json!({ "error": code, "detail": detail }).to_string();
    write(status, "application/json", headers, body.as_bytes(), head)
}

fn page(status: u16, kind: &str, body: &[u8], head: &RequestHead) -> Vec<u8> {
    write(status, kind, &[], body, head)
}

fn write(
    status: u16,
    kind: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    head: &RequestHead,
) -> Vec<u8> {
    let mut writer = HeadWriter::response(status)
        .header("Content-Type", kind)
        .header("Content-Length", body.len())
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        .header(
            "Content-Security-Policy",
            "default-src 'none'; frame-ancestors 'none'",
        )
        .header("Cross-Origin-Resource-Policy", "same-origin")
        .header("Referrer-Policy", "no-referrer");
    for (name, value) in headers {
        writer = writer.header(name, value);
    }
    let keep = if head.keep_alive() {
        "keep-alive"
    } else {
        "close"
    };
    let mut reply = writer.header("Connection", keep).finish();
    if !matches!(head.method, Method::Head) {
        reply.extend_from_slice(body);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;

    fn ask(api: &mut Api, text: &str) -> String {
        let head = head::parse_request(text.as_bytes()).unwrap().unwrap();
        match api.handle_request(Time::from_secs(1), &head) {
            Verdict::Reply(reply) => String::from_utf8(reply)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .into(),
            Verdict::NeedsStats(page) => format!("{page:?}"),
        }
    }

    fn api() -> Api {
        Api::new("s3cret".into(), 8082)
    }

    #[test]
    fn a_token_opens_the_pages() {
        let with = "Host: localhost:8082\r\nAuthorization: Bearer s3cret\r\n\r\n";
        assert_eq!(
            ask(&mut api(), &format!("GET /api/stats HTTP/1.1\r\n{with}")),
            "Stats"
        );
        assert_eq!(
            ask(&mut api(), &format!("GET /metrics HTTP/1.1\r\n{with}")),
            "Metrics"
        );
        assert!(ask(&mut api(), &format!("GET /x HTTP/1.1\r\n{with}")).contains("404"));
    }

    #[test]
    fn without_it_nothing_but_health() {
        let host = "Host: 127.0.0.1:8082\r\n";
        let mut api = api();
        assert!(ask(&mut api, &format!("GET /healthz HTTP/1.1\r\n{host}\r\n")).contains("200"));
        let wrong =
            format!("GET /api/stats HTTP/1.1\r\n{host}Authorization: Bearer s3creT\r\n\r\n");
        for _ in 0..10 {
            assert!(ask(&mut api, &wrong).contains("401"));
        }
        assert!(ask(&mut api, &wrong).contains("429"));
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let rest = "Authorization: Bearer s3cret\r\n";
        for (request, status) in [
            (
                "GET /api/stats HTTP/1.1\r\nHost: evil.example:8082\r\n",
                "421",
            ),
            (
                "GET /api/stats HTTP/1.1\r\nHost: localhost:8082\r\nOrigin: https://e.x\r\n",
                "403",
            ),
            (
                "GET /api/stats HTTP/1.1\r\nHost: localhost:8082\r\nSec-Fetch-Site: cross-site\r\n",
                "403",
            ),
            (
                "OPTIONS /api/stats HTTP/1.1\r\nHost: localhost:8082\r\n",
                "403",
            ),
            (
                "POST /api/stats HTTP/1.1\r\nHost: localhost:8082\r\n",
                "405",
            ),
            ("GET /api/stats HTTP/1.1\r\n", "400"),
        ] {
            let line = ask(&mut api(), &format!("{request}{rest}\r\n"));
            assert!(line.contains(status), "{request}: {line}");
        }
    }
}
