//! A script of answers, and what came of them.

use proptest::prelude::*;

use super::*;

const FILE: &[u8] = b"0123456789";

/// A server: what it answers to each request in turn, and how the connection ends then.
enum Says {
    /// In order, or by a reset.
    Ends(Vec<u8>, bool),
    /// Silence after that.
    Stalls(Vec<u8>),
    Unreachable,
}

struct Came {
    requests: Vec<String>,
    file: Vec<u8>,
    end: Result<(), OriginFailed>,
    /// When it was over.
    at: Time,
}

fn run(mut download: Download, script: Vec<Says>) -> Came {
    run_in(&mut download, script, usize::MAX)
}

/// Bytes are handed in at most `step` at a time.
fn run_in(download: &mut Download, script: Vec<Says>, step: usize) -> Came {
    let mut script = script.into_iter();
    let (mut requests, mut file, mut now) = (Vec::new(), Vec::new(), Time::ZERO);
    loop {
        let Some(output) = download.poll_output() else {
            now = download.next_timeout();
            assert_ne!(now, Time::NEVER, "it neither ended nor waits");
            download.handle_timeout(now);
            continue;
        };
        let conn = match output {
            Output::Connect { conn, .. } => {
                let unreachable = matches!(script.as_slice().first(), Some(Says::Unreachable));
                let result = match unreachable {
                    true => Err(passing("connect")),
                    false => Ok(()),
                };
                if unreachable {
                    script.next();
                }
                download.handle_connected(now, conn, result);
                continue;
            }
            Output::Send { conn, bytes } => {
                requests.push(String::from_utf8(bytes).unwrap());
                conn
            }
            Output::Close { .. } => continue,
            Output::Done => {
                return Came {
                    requests,
                    file,
                    end: Ok(()),
                    at: now,
                };
            }
            Output::Failed(error) => {
                return Came {
                    requests,
                    file,
                    end: Err(error),
                    at: now,
                };
            }
        };
        let (bytes, orderly) = match script.next().expect("no more is asked") {
            Says::Ends(bytes, orderly) => (bytes, Some(orderly)),
            Says::Stalls(bytes) => (bytes, None),
            Says::Unreachable => panic!("it was reached"),
        };
        let mut held = Vec::new();
        for part in bytes.chunks(step.min(bytes.len()).max(1)) {
            held.extend_from_slice(part);
            loop {
                let taken = download.handle_bytes(now, conn, &held);
                file.extend_from_slice(&held[taken.data.clone()]);
                held.drain(..taken.consumed);
                if taken.data.is_empty() && (taken.consumed == 0 || held.is_empty()) {
                    break;
                }
            }
        }
        match orderly {
            Some(true) => download.handle_closed(now, conn),
            Some(false) => download.handle_broken(now, conn),
            None => {}
        }
    }
}

fn download(range: ByteRange) -> Download {
    let url = Url::parse("https://v.example/film.mp4#t").unwrap();
    Download::new(Time::ZERO, url, range, None, "bittube-1")
}

fn whole() -> Download {
    download(ByteRange::new(0, u64::MAX))
}

/// A 200 of the file, cut after `sent` bytes of its body.
fn all(sent: usize, headers: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 10\r\n\r\n");
    [head.as_bytes(), &FILE[..sent]].concat()
}

fn part(from: usize, to: usize, sent: usize, headers: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 206 P\r\n{headers}Content-Range: bytes {from}-{}/10\r\nContent-Length: {}\r\n\r\n",
        to - 1,
        to - from
    );
    [head.as_bytes(), &FILE[from..from + sent]].concat()
}

const TAG: &str = "ETag: \"v1\"\r\n";
const OTHER: &str = "ETag: \"v2\"\r\n";

fn ends(bytes: Vec<u8>) -> Says {
    Says::Ends(bytes, true)
}

#[test]
fn a_file_comes_whole_and_once() {
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6\r\n456789\r\n\
        0\r\n\r\n";
    let until_close = [&b"HTTP/1.0 200 OK\r\n\r\n"[..], FILE].concat();
    for answer in [all(10, ""), chunked.to_vec(), until_close] {
        for step in [1, 7, 1000] {
            let came = run_in(&mut whole(), vec![ends(answer.clone())], step);
            assert_eq!((came.end, came.file.as_slice()), (Ok(()), FILE));
            assert!(!came.requests[0].contains("Range"), "{:?}", came.requests);
        }
    }
}

#[test]
fn a_break_is_taken_up_where_it_was() {
    let script = vec![
        Says::Ends(all(3, TAG), false),
        ends(part(3, 10, 2, TAG)),
        Says::Stalls(part(5, 10, 1, "")),
        Says::Unreachable,
        ends(part(6, 10, 4, TAG)),
    ];
    let came = run(whole(), script);
    assert_eq!((came.end, came.file.as_slice()), (Ok(()), FILE));
    for (request, from) in came.requests[1..].iter().zip([3, 5, 6]) {
        assert!(
            request.contains(&format!("\r\nRange: bytes={from}-9\r\n")),
            "{request}"
        );
        assert!(request.contains("\r\nIf-Range: \"v1\"\r\n"), "{request}");
    }
    // One, two, thirty of silence, four, eight.
    assert_eq!(came.at, Time::from_secs(1 + 2 + 30 + 4 + 8));
}

#[test]
fn another_file_is_never_mixed_in() {
    for second in [
        all(10, OTHER),
        part(3, 10, 7, OTHER),
        all(10, ""),
        b"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: 11\r\n\r\n0123456789a".to_vec(),
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 3-9/11\r\nContent-Length: 7\r\n\r\n3456789"
            .to_vec(),
    ] {
        let text = String::from_utf8_lossy(&second).into_owned();
        let came = run(whole(), vec![ends(all(3, TAG)), ends(second)]);
        assert_eq!(came.end, Err(changed()), "{text}");
        assert_eq!(came.file, FILE[..3]);
    }
}

#[test]
fn a_server_without_parts_is_read_again_from_its_start() {
    let came = run(whole(), vec![ends(all(3, TAG)), ends(all(10, TAG))]);
    assert_eq!((came.end, came.file.as_slice()), (Ok(()), FILE));
    let part = download(ByteRange::new(4, 6));
    assert!(run(part, vec![ends(all(10, TAG))]).end.is_err());
}

#[test]
fn without_a_validator_nothing_is_taken_up() {
    let came = run(whole(), vec![ends(all(3, ""))]);
    let error = came.end.unwrap_err();
    assert!(error.why.contains("ETag"), "{error}");
}

#[test]
fn breaks_have_an_end_unless_it_goes_on() {
    let stuck = || vec![Says::Ends(all(0, TAG), false)];
    let script: Vec<_> = (0..=BREAKS_MAX).flat_map(|_| stuck()).collect();
    let came = run(whole(), script);
    assert!(came.end.is_err() && came.file.is_empty());
    let first = run(whole(), vec![Says::Unreachable]);
    assert!(
        first.end.is_err() && first.at == Time::ZERO,
        "nobody waits at the start"
    );
    let refused = run(whole(), vec![ends(b"HTTP/1.1 404 No\r\n\r\n".to_vec())]);
    assert_eq!(refused.end.unwrap_err().status, Some(404));

    let length = PROGRESS * 20;
    let mut script = Vec::new();
    let body = vec![7; usize::try_from(PROGRESS).unwrap()];
    for nth in 0..20 {
        let head = match nth {
            0 => format!("HTTP/1.1 200 OK\r\n{TAG}Content-Length: {length}\r\n\r\n"),
            _ => format!(
                "HTTP/1.1 206 P\r\nContent-Range: bytes {}-{}/{length}\r\n\r\n",
                nth * PROGRESS,
                length - 1
            ),
        };
        script.push(Says::Ends([head.as_bytes(), &body].concat(), false));
    }
    let came = run(whole(), script);
    assert_eq!((came.end, came.file.len() as u64), (Ok(()), length));
}

#[test]
fn a_busy_server_says_when() {
    let later = |after: &str| {
        let busy = format!("HTTP/1.1 503 L\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n");
        let script = vec![
            ends(all(3, TAG)),
            ends(busy.into_bytes()),
            ends(part(3, 10, 7, TAG)),
        ];
        run(whole(), script)
    };
    let came = later("40");
    assert_eq!((came.end, came.at), (Ok(()), Time::from_secs(1 + 40)));
    assert_eq!(later("301").end.unwrap_err().status, Some(503));
}

#[test]
fn a_part_is_asked_for_and_no_more_is_taken() {
    let came = run(
        download(ByteRange::new(4, 6)),
        vec![ends(part(4, 6, 2, TAG))],
    );
    assert_eq!((came.end, came.file.as_slice()), (Ok(()), &FILE[4..6]));
    assert!(came.requests[0].contains("Range: bytes=4-5"));
    let more = run(
        download(ByteRange::new(4, 6)),
        vec![ends(part(2, 10, 8, TAG))],
    );
    assert_eq!((more.end, more.file.as_slice()), (Ok(()), &FILE[4..6]));
    let to_end = run(
        download(ByteRange::new(4, 60)),
        vec![ends(part(4, 10, 6, TAG))],
    );
    assert_eq!((to_end.end, to_end.file.as_slice()), (Ok(()), &FILE[4..]));
}

#[test]
fn redirects_are_followed_five_times_and_forgotten_at_a_break() {
    let to = b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: https://cdn.example/x\r\n\r\n";
    let script = vec![
        ends(to.to_vec()),
        ends(all(3, TAG)),
        ends(to.to_vec()),
        ends(part(3, 10, 7, TAG)),
    ];
    let came = run(whole(), script);
    assert_eq!(came.end, Ok(()));
    let hosts = ["v.example", "cdn.example", "v.example", "cdn.example"];
    for (request, host) in came.requests.iter().zip(hosts) {
        assert!(
            request.contains(&format!("\r\nHost: {host}\r\n")),
            "{request}"
        );
    }
    let loops = (0..6).map(|_| ends(to.to_vec())).collect();
    assert_eq!(run(whole(), loops).end.unwrap_err().status, Some(302));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// However answers are cut, what came is the file or its beginning.
    #[test]
    fn any_cuts_give_the_file_or_its_beginning(
        cuts in prop::collection::vec((0usize..=10, any::<bool>(), any::<bool>()), 1..12),
        step in 1usize..40,
    ) {
        let mut at = 0;
        let mut script = Vec::new();
        for (nth, (cut, orderly, heeds)) in cuts.into_iter().enumerate() {
            let (bytes, come) = if nth == 0 || !heeds {
                (all(cut, TAG), cut.max(at))
            } else {
                let sent = cut.min(10 - at);
                (part(at, 10, sent, TAG), at + sent)
            };
            script.push(Says::Ends(bytes, orderly));
            at = come;
            if at == 10 {
                break;
            }
        }
        // More than the breaks that are got over.
        script.extend((0..=BREAKS_MAX).map(|_| Says::Ends(b"HTTP/1.1 500 E\r\n\r\n".to_vec(), true)));
        let came = run_in(&mut whole(), script, step);
        prop_assert_eq!(&came.file, &FILE[..came.file.len()]);
        prop_assert_eq!(came.end.is_ok(), came.file.len() == 10);
    }
}
