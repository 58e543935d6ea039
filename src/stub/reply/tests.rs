//! Replies, header by header.

use proptest::prelude::*;

use super::*;
use crate::http::head::ResponseHead;
use crate::http::head::parse_request;
use crate::http::head::parse_response;

const LEN: u64 = 1000;
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

fn entity() -> Entity {
    Entity {
        len: Some(LEN),
        etag: Some("\"abc-0\"".into()),
        etag_before: Some("\"def-o\"".into()),
        last_modified: Some(httpdate::parse_http_date(DATE).unwrap()),
        content_type: ContentType {
            value: "video/mp4".into(),
            attachment: false,
        },
    }
}

fn request(line: &str, lines: &str) -> RequestHead {
    let version = if line.contains(" HTTP/") {
        ""
    } else {
        " HTTP/1.1"
    };
    parse_request(format!("{line}{version}\r\nHost: localhost\r\n{lines}\r\n").as_bytes())
        .unwrap()
        .unwrap()
}

fn ask_of(entity: &Entity, line: &str, lines: &str) -> (Plan, ResponseHead) {
    let request = request(line, lines);
    let plan = plan(&request, entity, &Provenance::of(&request), false);
    let head = parse_response(&plan.head).unwrap().unwrap();
    assert_eq!(head.status, plan.status);
    assert_eq!(head.keep_alive(), plan.keep_alive);
    (plan, head)
}

fn ask(line: &str, lines: &str) -> (Plan, ResponseHead) {
    ask_of(&entity(), line, lines)
}

fn status(lines: &str) -> u16 {
    ask("GET /", lines).0.status
}

fn body_of(plan: &Plan) -> serde_json::Value {
    let head = parse_response(&plan.head).unwrap().unwrap();
    let body = &plan.head[head.len..];
    let len = body.len().to_string();
    assert_eq!(head.headers.get("content-length"), Some(len.as_str()));
    assert_eq!(head.headers.get("content-type"), Some("application/json"));
    assert_eq!(head.headers.get("cache-control"), Some("no-store"));
    serde_json::from_slice(body).unwrap()
}

#[test]
fn the_whole() {
    let (plan, head) = ask("GET /", "");
    assert_eq!(plan.status, 200);
    assert_eq!(plan.body, Some(ByteRange::new(0, LEN)));
    assert_eq!(plan.framing, Framing::Length(LEN));
    assert!(plan.keep_alive);
    for (name, value) in [
        ("content-length", "1000"),
        ("content-type", "video/mp4"),
        ("accept-ranges", "bytes"),
        ("etag", "\"abc-0\""),
        ("last-modified", DATE),
        ("vary", "Origin"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; media-src 'self'; sandbox; frame-ancestors 'none'",
        ),
    ] {
        assert_eq!(head.headers.get(name), Some(value), "{name}");
    }
    for name in [
        "content-range",
        "connection",
        "transfer-encoding",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "content-disposition",
        "set-cookie",
    ] {
        assert_eq!(head.headers.get(name), None, "{name}");
    }
}

#[test]
fn a_part() {
    let (plan, head) = ask("GET /", "Range: bytes=10-2000\r\n");
    assert_eq!(plan.status, 206);
    assert_eq!(plan.body, Some(ByteRange::new(10, LEN)));
    assert_eq!(head.headers.get("content-range"), Some("bytes 10-999/1000"));
    assert_eq!(head.headers.get("content-length"), Some("990"));
    assert_eq!(status("Range: bytes=0-0,5-6\r\n"), 200);
    assert_eq!(status("Range: bytes=0-0\r\nRange: bytes=5-6\r\n"), 200);
}

#[test]
fn beyond_the_end() {
    let (plan, head) = ask("GET /", "Range: bytes=1000-\r\nOrigin: https://a.org\r\n");
    assert_eq!((plan.status, plan.body), (416, None));
    assert!(plan.keep_alive);
    assert_eq!(head.headers.get("content-range"), Some("bytes */1000"));
    assert_eq!(
        head.headers.get("access-control-allow-origin"),
        Some("https://a.org")
    );
    assert_eq!(body_of(&plan)["error"], "range");
}

#[test]
fn head_is_get_without_its_body() {
    for lines in ["", "Range: bytes=5-9\r\n", "If-None-Match: *\r\n"] {
        let (get, _) = ask("GET /", lines);
        let (head, _) = ask("HEAD /", lines);
        assert_eq!(get.head, head.head, "{lines}");
        assert_eq!((head.body, head.framing), (None, Framing::Empty));
    }
    let (plan, head) = ask("HEAD /", "Range: bytes=5000-\r\n");
    assert_eq!(head.len, plan.head.len(), "no body after the head");
}

#[test]
fn if_range_compares_strongly() {
    let part = |condition: &str| status(&format!("Range: bytes=0-1\r\nIf-Range: {condition}\r\n"));
    for same in [
        "\"abc-0\"",
        "\"def-o\"",
        DATE,
        "Sunday, 06-Nov-94 08:49:37 GMT",
    ] {
        assert_eq!(part(same), 206, "{same}");
    }
    for other in [
        "W/\"abc-0\"",
        "\"abc\"",
        "abc-0",
        "\"abc-0\", \"x\"",
        "*",
        "",
        "\"",
        LATER,
        EARLIER,
        "yesterday",
    ] {
        assert_eq!(part(other), 200, "{other}");
    }
    let two = "Range: bytes=0-1\r\nIf-Range: \"abc-0\"\r\nIf-Range: \"x\"\r\n";
    assert_eq!(status(two), 200);
    // Only a range has a condition.
    assert_eq!(status("If-Range: \"x\"\r\n"), 200);
    // What changed is sent whole, not refused for where the range lies.
    assert_eq!(status("Range: bytes=5000-\r\nIf-Range: \"x\"\r\n"), 200);

    let unknown = Entity {
        etag: None,
        etag_before: None,
        last_modified: None,
        ..entity()
    };
    let conditional = "Range: bytes=0-1\r\nIf-Range: \"abc-0\"\r\n";
    assert_eq!(ask_of(&unknown, "GET /", conditional).0.status, 200);
    let conditional = "Range: bytes=0-1\r\nIf-Range: yesterday\r\n";
    assert_eq!(ask_of(&unknown, "GET /", conditional).0.status, 200);
}

#[test]
fn not_modified() {
    for lines in [
        "If-None-Match: \"abc-0\"\r\n",
        "If-None-Match: W/\"abc-0\"\r\n",
        "If-None-Match: \"x\", \"def-o\"\r\n",
        "If-None-Match: \"x\"\r\nIf-None-Match: \"abc-0\"\r\n",
        "If-None-Match: *\r\n",
        "If-None-Match: \"abc-0\"\r\nRange: bytes=0-1\r\n",
        &format!("If-Modified-Since: {DATE}\r\n"),
        &format!("If-Modified-Since: {LATER}\r\n"),
    ] {
        let (plan, head) = ask("GET /", lines);
        assert_eq!((plan.status, plan.body), (304, None), "{lines}");
        assert_eq!(head.headers.get("etag"), Some("\"abc-0\""));
        assert_eq!(head.headers.get("last-modified"), Some(DATE));
        assert_eq!(head.headers.get("content-length"), None);
        assert_eq!(head.len, plan.head.len());
    }
    for lines in [
        "If-None-Match: \"x\"\r\n",
        "If-None-Match: abc-0\r\n",
        &format!("If-Modified-Since: {EARLIER}\r\n"),
        "If-Modified-Since: yesterday\r\n",
        // The tag decides where both are given.
        &format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {DATE}\r\n"),
    ] {
        assert_eq!(status(lines), 200, "{lines}");
    }
}

#[test]
fn preconditions_fail() {
    assert_eq!(status("If-Match: \"x\"\r\n"), 412);
    assert_eq!(status("If-Match: W/\"abc-0\"\r\n"), 412);
    assert_eq!(status("If-Match: \"x\", \"abc-0\"\r\n"), 200);
    assert_eq!(status("If-Match: *\r\n"), 200);
    assert_eq!(status(&format!("If-Unmodified-Since: {EARLIER}\r\n")), 412);
    assert_eq!(status(&format!("If-Unmodified-Since: {DATE}\r\n")), 200);
    let (plan, _) = ask("GET /", "If-Match: \"x\"\r\n");
    assert_eq!(body_of(&plan)["error"], "precondition");
}

#[test]
fn a_length_may_be_unknown() {
    let endless = Entity {
        len: None,
        ..entity()
    };
    let (plan, head) = ask_of(&endless, "GET /", "Range: bytes=0-1\r\n");
    assert_eq!((plan.status, plan.framing), (200, Framing::Chunked));
    assert_eq!(plan.body, Some(ByteRange::new(0, u64::MAX)));
    assert!(plan.keep_alive);
    assert_eq!(head.framing(false), Ok(Framing::Chunked));
    assert_eq!(head.headers.get("accept-ranges"), None);

    let (plan, head) = ask_of(&endless, "GET / HTTP/1.0", "Connection: keep-alive\r\n");
    assert_eq!(plan.framing, Framing::UntilClose);
    assert!(!plan.keep_alive);
    assert_eq!(head.headers.get("connection"), Some("close"));

    let (plan, _) = ask_of(&endless, "HEAD /", "");
    assert_eq!((plan.framing, plan.body), (Framing::Empty, None));

    let empty = Entity {
        len: Some(0),
        ..entity()
    };
    let (plan, head) = ask_of(&empty, "GET /", "Range: bytes=0-\r\n");
    assert_eq!((plan.status, plan.body), (200, None));
    assert_eq!(head.headers.get("content-length"), Some("0"));
}

#[test]
fn connections_are_kept_only_where_both_can() {
    assert!(!ask("GET /", "Connection: close\r\n").0.keep_alive);
    assert!(!ask("GET / HTTP/1.0", "").0.keep_alive);
    let (plan, head) = ask("GET / HTTP/1.0", "Connection: keep-alive\r\n");
    assert!(plan.keep_alive);
    assert_eq!(head.headers.get("connection"), Some("keep-alive"));
    assert!(!ask("GET /", "Content-Length: 5\r\n").0.keep_alive);
    let request = request("GET /", "");
    let last = plan_last(&request);
    assert!(!last.keep_alive);
    assert!(
        last.head
            .windows(19)
            .any(|line| line == b"Connection: close\r\n")
    );
}

fn plan_last(request: &RequestHead) -> Plan {
    plan(request, &entity(), &Provenance::USER, true)
}

#[test]
fn approved_origins_may_read() {
    let (_, head) = ask("GET /", "Origin: https://a.org\r\n");
    assert_eq!(
        head.headers.get("access-control-allow-origin"),
        Some("https://a.org")
    );
    assert_eq!(
        head.headers.get("access-control-expose-headers"),
        Some("Content-Range, Accept-Ranges, ETag, Content-Length")
    );
    for lines in [
        "Origin: null\r\n",
        "Referer: https://a.org/x\r\n",
        "Origin: https://A.org\r\n",
        "Origin: https://a.org/path\r\n",
        "Origin: nonsense\r\n",
    ] {
        let (_, head) = ask("GET /", lines);
        assert_eq!(
            head.headers.get("access-control-allow-origin"),
            None,
            "{lines}"
        );
        assert_eq!(head.headers.get("vary"), Some("Origin"));
    }
}

#[test]
fn preflights() {
    let lines = "Origin: https://a.org\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range\r\n";
    let (plan, head) = ask("OPTIONS /x", lines);
    assert_eq!((plan.status, plan.body), (204, None));
    assert_eq!(
        head.headers.get("access-control-allow-origin"),
        Some("https://a.org")
    );
    assert_eq!(
        head.headers.get("access-control-allow-methods"),
        Some("GET, HEAD, OPTIONS")
    );
    let allowed = head.headers.get("access-control-allow-headers").unwrap();
    assert!(allowed.starts_with("Range, If-Range"));
    assert_eq!(
        head.headers.get("access-control-allow-private-network"),
        None
    );
    assert_eq!(head.headers.get("content-length"), None);

    let network = "Access-Control-Request-Private-Network: true\r\n";
    let (_, head) = ask("OPTIONS /x", &format!("{lines}{network}"));
    assert_eq!(
        head.headers.get("access-control-allow-private-network"),
        Some("true")
    );
    let (_, head) = ask("OPTIONS *", network);
    assert_eq!(
        head.headers.get("access-control-allow-private-network"),
        None
    );
    assert_eq!(head.headers.get("allow"), Some("GET, HEAD, OPTIONS"));
}

#[test]
fn failures_are_fixed_json() {
    let asked = request("GET /", "Origin: https://a.org\r\n");
    let plan = fail(&asked, &Provenance::of(&asked), &Failure::BUSY, false);
    assert_eq!(
        body_of(&plan),
        serde_json::json!({"error": "busy", "detail": Failure::BUSY.detail})
    );
    let head = parse_response(&plan.head).unwrap().unwrap();
    assert_eq!(
        (head.status, head.headers.get("retry-after")),
        (503, Some("5"))
    );
    assert_eq!(
        head.headers.get("access-control-allow-origin"),
        Some("https://a.org")
    );
    assert!(plan.keep_alive);
}

#[test]
fn refusals_tell_a_page_nothing() {
    let asked = request("POST /", "Origin: https://a.org\r\n");
    let refusal = Refusal {
        status: 405,
        code: "method",
        detail: "x",
        close: true,
    };
    let plan = refuse(Some(&asked), &refusal.into(), false);
    let head = parse_response(&plan.head).unwrap().unwrap();
    assert_eq!(head.headers.get("allow"), Some("GET, HEAD, OPTIONS"));
    assert!(
        head.headers
            .iter()
            .all(|(name, _)| !name.starts_with("Access-Control"))
    );
    assert_eq!(head.headers.get("connection"), Some("close"));
    assert!(!plan.keep_alive);
    assert_eq!(body_of(&plan)["error"], "method");

    let plan = refuse(None, &Failure::TIMEOUT, false);
    assert!(!plan.keep_alive);
    assert_eq!(plan.status, 408);
    let kept = refuse(Some(&asked), &Failure::new(403, "site", "x"), false);
    assert!(kept.keep_alive);
    let head = request("HEAD /", "");
    let plan = refuse(Some(&head), &Failure::new(404, "not-found", "x"), false);
    assert_eq!(
        parse_response(&plan.head).unwrap().unwrap().len,
        plan.head.len()
    );
}

#[test]
fn tags_are_strong_and_our_own() {
    let hash = InfoHash([0xab; 20]);
    let tag = etag_of_file(hash, 3);
    assert_eq!(tag, format!("\"{}-3\"", "ab".repeat(20)));
    let origin = etag_of_origin("W/\"x\r\nSet-Cookie: a\"", Some(5));
    assert_eq!(origin.len(), 44);
    assert!(origin.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_ne!(origin, etag_of_origin("W/\"x\r\nSet-Cookie: a\"", Some(6)));
    assert_ne!(origin, etag_of_origin("\"y\"", Some(5)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_plan_agrees_with_itself(
        method in prop::sample::select(vec!["GET", "HEAD", "OPTIONS"]),
        range in "(bytes=[0-9, -]{0,8})?",
        if_range in prop::sample::select(vec!["", "\"abc-0\"", "\"x\"", DATE]),
        none_match in prop::sample::select(vec!["", "*", "\"x\""]),
        len in prop::option::of(0..50u64),
    ) {
        let lines: String = [("Range", range.as_str()), ("If-Range", if_range), ("If-None-Match", none_match)]
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let entity = Entity { len, ..entity() };
        let (plan, head) = ask_of(&entity, &format!("{method} /"), &lines);
        match head.framing(method == "HEAD").unwrap() {
            Framing::Length(announced) => {
                let sent = (plan.head.len() - head.len) as u64 + plan.body.map_or(0, ByteRange::len);
                prop_assert_eq!(announced, sent);
            }
            Framing::Empty => prop_assert_eq!((plan.body, plan.head.len()), (None, head.len)),
            framing => prop_assert_eq!(framing, plan.framing),
        }
        if let (Some(body), Some(len)) = (plan.body, len) {
            prop_assert!(body.start < body.end && body.end <= len);
        }
    }
}
