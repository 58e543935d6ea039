//! Heads that are read, heads that are refused, and heads that are written.

use proptest::prelude::*;

use super::*;

fn request(text: &str) -> RequestHead {
    parse_request(text.as_bytes()).unwrap().unwrap()
}

fn refused(text: &str) -> BadRequest {
    parse_request(text.as_bytes()).unwrap_err()
}

fn response(text: &str) -> ResponseHead {
    parse_response(text.as_bytes()).unwrap().unwrap()
}

#[test]
fn a_request_is_read() {
    let text = "GET /http://t/announce/http://h/v.mp4?a=b HTTP/1.1\r\nHost: localhost:8081\r\nRANGE:  bytes=0-1 \r\nX: 1\r\nx: 2\r\nEmpty:\r\n\r\nGET";
    let head = request(text);
    assert_eq!(head.method, Method::Get);
    assert_eq!(head.target, "/http://t/announce/http://h/v.mp4?a=b");
    assert_eq!((head.minor, head.len), (1, text.len() - 3));
    assert_eq!(head.headers.get("range"), Some("bytes=0-1"));
    assert_eq!(head.headers.get("empty"), Some(""));
    assert_eq!(head.headers.get("nothing"), None);
    assert_eq!(head.headers.all("x").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(head.headers.count("X"), 2);
    assert_eq!(head.headers.iter().next(), Some(("Host", "localhost:8081")));
    assert_eq!(head.body_len(), Ok(0));
}

#[test]
fn every_prefix_is_incomplete() {
    let text = b"\r\nHEAD / HTTP/1.0\r\nHost: a\r\n\r\n";
    for len in 0..text.len() {
        assert!(parse_request(&text[..len]).unwrap().is_none(), "{len}");
    }
    assert_eq!(parse_request(text).unwrap().unwrap().len, text.len());
}

#[test]
fn ambiguous_syntax_is_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ] {
        let bad = refused(text);
        assert_eq!((bad.status, bad.code), (400, "bad-request"), "{text:?}");
    }
    // A line that is wrong is refused before the head is complete.
    assert_eq!(refused("GET / HTTP/1.1\nHost").status, 400);
}

#[test]
fn targets_may_hold_what_players_leave_unencoded() {
    for target in [
        "/http://h/é 视频.mp4".replace(' ', ""),
        "/http://h/a|b{c}[d]\"<e>^`\\".into(),
    ] {
        assert_eq!(
            request(&format!("GET {target} HTTP/1.1\r\n\r\n")).target,
            target
        );
    }
}

#[test]
fn a_body_needs_its_length() {
    let head = request("POST / HTTP/1.1\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\n");
    assert_eq!(head.body_len(), Ok(12));
    let head = request("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(head.body_len().unwrap_err().code, "length-required");
}

#[test]
fn limits_have_their_own_answers() {
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(TARGET_LEN_MAX));
    assert_eq!(refused(&long).status, 414);
    let unfinished = format!("GET /{}", "a".repeat(REQUEST_LINE_LEN_MAX));
    assert_eq!(refused(&unfinished).status, 414);
    let just = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(TARGET_LEN_MAX - 1));
    assert_eq!(request(&just).target.len(), TARGET_LEN_MAX);

    let lines = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(n));
    assert_eq!(request(&lines(100)).headers.count("a"), 100);
    assert_eq!(refused(&lines(101)).status, 431);

    let wide = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(HEAD_LEN_MAX));
    assert_eq!(refused(&wide).status, 431);
    assert!(
        parse_request(&wide.as_bytes()[..HEAD_LEN_MAX - 1])
            .unwrap()
            .is_none()
    );
}

#[test]
fn connections_are_kept_as_rfc_9112_says() {
    let kept = |version: &str, connection: &str| {
        request(&format!(
            "GET / HTTP/{version}\r\nConnection: {connection}\r\n\r\n"
        ))
        .keep_alive()
    };
    assert!(kept("1.1", "x"));
    assert!(!kept("1.1", "x, Close"));
    assert!(!kept("1.0", "x"));
    assert!(kept("1.0", "Keep-Alive"));
}

#[test]
fn responses_are_framed() {
    let framing = |lines: &str, status: u16, to_head: bool| {
        response(&format!("HTTP/1.1 {status} X\r\n{lines}\r\n")).framing(to_head)
    };
    assert_eq!(
        framing("Content-Length: 7\r\n", 200, false),
        Ok(Framing::Length(7))
    );
    assert_eq!(
        framing("Content-Length: 7\r\n", 200, true),
        Ok(Framing::Empty)
    );
    assert_eq!(
        framing("Content-Length: 7\r\n", 304, false),
        Ok(Framing::Empty)
    );
    assert_eq!(framing("", 204, false), Ok(Framing::Empty));
    assert_eq!(framing("", 200, false), Ok(Framing::UntilClose));
    assert_eq!(
        framing("Transfer-Encoding: Chunked\r\n", 200, false),
        Ok(Framing::Chunked)
    );
    for lines in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: -1\r\n",
    ] {
        assert!(framing(lines, 200, false).is_err(), "{lines}");
    }
    let old = response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(old.framing(false).is_err());
    assert!(!old.keep_alive());
}

#[test]
fn a_head_that_never_ends_is_refused() {
    let text = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(1 << 20));
    assert!(parse_response(text.as_bytes()).is_err());
    assert!(parse_response(&text.as_bytes()[..1000]).unwrap().is_none());
}

#[test]
fn a_written_line_cannot_be_split() {
    let head = HeadWriter::request(Method::Get, "/a b\r\nX: é")
        .header("Host", "h")
        .header("Evil", "a\r\nSet-Cookie: b")
        .header("Nul", "\0")
        .header("Content-Length", 12)
        .finish();
    assert_eq!(
        String::from_utf8(head).unwrap(),
        "GET /a%20b%0D%0AX:%20%C3%A9 HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n"
    );
    assert_eq!(
        HeadWriter::response(421).finish(),
        b"HTTP/1.1 421 Misdirected Request\r\n\r\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn hostile_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_request(&bytes);
        let _ = parse_response(&bytes);
        let mut begun = b"GET / HTTP/1.1\r\n".to_vec();
        begun.extend(&bytes);
        if let Ok(Some(head)) = parse_request(&begun) {
            prop_assert!(head.len <= begun.len());
            prop_assert!(begun[..head.len].ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn what_is_written_is_read(name in "[A-Za-z-]{1,20}", value in "[!-~]([ -~]{0,40}[!-~])?") {
        let head = HeadWriter::response(206).header(&name, &value).finish();
        let read = parse_response(&head).unwrap().unwrap();
        prop_assert_eq!(read.headers.get(&name), Some(value.as_str()));
        prop_assert_eq!(read.len, head.len());
    }
}
