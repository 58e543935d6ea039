//! Announces that are none: each is told so, and nothing is kept of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::bed::film::Random;
use crate::bed::http::Client;
use crate::bed::tracker::{Tracker, announce_target};
use crate::bed::{Bed, wait_until};

const HASH: [u8; 20] = [0xab; 20];
const LIMIT: Duration = Duration::from_secs(10);

/// What is wrong in the place of a good value, separated by blanks; and nothing at all.
const WRONG_VALUES: [(&str, &str); 4] = [
    (
        "info_hash",
        "abc % %zz %00 aaaaaaaaaaaaaaaaaaa aaaaaaaaaaaaaaaaaaaaa aaaaaaaaaaaaaaaaaaa% \
         aaaaaaaaaaaaaaaaaaa%4 aaaaaaaaaaaaaaaaaaa%4g aaaaaaaaaaaaaaaaaaaa% \
         %00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00",
    ),
    (
        "peer_id",
        "abc %f bbbbbbbbbbbbbbbbbbb bbbbbbbbbbbbbbbbbbbbb",
    ),
    ("port", "0 65536 -1 +1 0x50 80.5 99999999999999999999"),
    ("left", "x -1 +1 1.5 0x10 99999999999999999999"),
];

/// What is good once and wrong twice.
const SINGLE: &str = "info_hash=cccccccccccccccccccc peer_id=cccccccccccccccccccc port=1 left=1 \
    uploaded=1 downloaded=1 event=stopped numwant=1 compact=1";

/// What is wrong beside all that is good.
const WRONG_PAIRS: &str = "uploaded=-1 uploaded=x uploaded= downloaded=1e9 event=begun \
    event=STOPPED event=started%00 numwant=lots numwant=1.0 numwant=- numwant=--1 \
    numwant=99999999999999999999 compact=yes";

/// Queries, all of them wrong in one way.
fn queries() -> Vec<String> {
    let good = announce_target(&HASH, 6881, "&left=1");
    let without = |name: &str| {
        let kept = |pair: &&str| !pair.starts_with(&format!("{name}="));
        let (path, query) = good.split_once('?').unwrap();
        let pairs: Vec<_> = query.split('&').filter(kept).collect();
        format!("{path}?{}", pairs.join("&"))
    };
    let mut all = vec![
        "/announce".to_owned(),
        "/announce?".to_owned(),
        "/announce?&&&=&=".to_owned(),
        without("info_hash"),
        without("peer_id"),
        without("port"),
        format!("{}&info_hash={}", without("info_hash"), "a".repeat(3000)),
    ];
    for (name, values) in WRONG_VALUES {
        let values = values.split(' ').chain([""]);
        all.extend(values.map(|value| format!("{}&{name}={value}", without(name))));
    }
    all.extend(SINGLE.split(' ').map(|pair| {
        let (name, _) = pair.split_once('=').unwrap();
        format!("{}&{pair}&{pair}", without(name))
    }));
    all.extend(WRONG_PAIRS.split(' ').map(|pair| format!("{good}&{pair}")));
    all
}

#[test]
fn malformed_http_announces_get_a_failure_and_leave_nothing() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let queries = queries();
    assert!(queries.len() >= 60, "{}", queries.len());
    assert!(queries.iter().all(|query| !query.contains([' ', '\n'])));
    // All on one connection: a malformed announce does not even cost that.
    let mut client = Client::connect(tracker.v4).unwrap();
    for query in &queries {
        let reply = client.get(query, &[]).unwrap();
        assert_eq!(reply.status, 200, "{query}");
        assert!(
            reply.body.starts_with(b"d14:failure reason"),
            "{query}: {}",
            reply.text()
        );
    }
    for query in ["/scrape", "/scrape?info_hash=abc", "/scrape?info_hash=%00"] {
        let reply = client.get(query, &[]).unwrap();
        assert!(
            reply.body.starts_with(b"d14:failure reason"),
            "{query}: {}",
            reply.text()
        );
    }
    let stats = tracker.stats();
    assert_eq!(stats["http"]["malformed"], queries.len() + 3);
    assert_eq!(
        (&stats["swarms"], &stats["peers"]),
        (&0.into(), &0.into()),
        "{stats}"
    );
    assert_eq!(stats["http"]["announces"], 0);
    // The one that they were made from is fine, and so is one that wishes for the impossible or
    // says no more than it must.
    for more in ["&left=1", "&left=1&numwant=4000000000", "&numwant=-5", ""] {
        let reply = client
            .get(&announce_target(&HASH, 6881, more), &[])
            .unwrap();
        assert!(reply.body.starts_with(b"d8:complete"), "{}", reply.text());
    }
    assert_eq!(tracker.stats()["peers"], 1);
}

#[test]
fn what_is_no_request_is_told_so_and_ends() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let long_head = format!("GET /announce HTTP/1.1\r\nX: {}\r\n", "x".repeat(20_000));
    let long_target = format!("GET /announce?{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let good = announce_target(&HASH, 6881, "&left=1");
    let post = format!("POST {good} HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let head = format!("HEAD {good} HTTP/1.1\r\nConnection: close\r\n\r\n");
    for (raw, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("GET /announce HTTP/2.0\r\n\r\n", "400"),
        ("GET /announce HTTP/1.1\r\nA : b\r\n\r\n", "400"),
        ("GET /announce HTTP/1.1\nHost: x\n\n", "400"),
        (&long_head, "431"),
        (&long_target, "414"),
        ("GET /announce HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400"),
        (
            "GET /announce HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
        ),
        (
            "POST /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "405",
        ),
        (&post, "405"),
        (&head, "405"),
        ("DELETE /announce HTTP/1.0\r\n\r\n", "405"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0", "400"),
        (
            "PUT /metainfo HTTP/1.1\r\nContent-Length: 16777217\r\n\r\n",
            "413",
        ),
        ("DELETE /metainfo HTTP/1.1\r\n\r\n", "405"),
        ("GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", "404"),
        (
            "GET /metainfo?url=x HTTP/1.1\r\nConnection: close\r\n\r\n",
            "404",
        ),
        (
            "PUT /metainfo?url=x HTTP/1.0\r\nContent-Length: 5\r\n\r\nabcde",
            "404",
        ),
    ] {
        let answer = say(tracker.v4, raw);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{raw:.60}: {answer}"
        );
        // A client that asked for peers reads bencode.
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        if !raw.contains(" /metainfo") && status != "404" && !raw.starts_with("HEAD") {
            assert!(
                body.starts_with("d14:failure reason"),
                "{raw:.60}: {answer}"
            );
        }
    }
    let stats = tracker.stats();
    assert_eq!((&stats["peers"], &stats["swarms"]), (&0.into(), &0.into()));
    let answer = say(tracker.v4, &format!("GET {good} HTTP/1.0\r\n\r\n"));
    assert!(answer.contains("\r\n\r\nd8:complete"), "{answer}");
}

#[test]
fn garbage_gets_nothing_and_leaves_nothing() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let mut random = Random::new(4);
    for nth in 0..300 {
        let len = random.below(2000);
        let mut bytes = random.bytes(len);
        // Some have an announce's beginning, some an end.
        if nth % 3 == 1 {
            bytes.splice(..0, *b"GET /announce?info_hash=");
        }
        if nth % 2 == 1 {
            bytes.extend(b" HTTP/1.1\r\n\r\n");
        }
        let mut stream = TcpStream::connect(tracker.v4).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // It may have closed before all is said.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let reset = ended.is_err_and(|error| error.kind() != ErrorKind::ConnectionReset);
        assert!(!reset, "the connection does not end: {bytes:?}");
        let text = String::from_utf8_lossy(&answer);
        let failed = text.contains("\r\n\r\nd14:failure reason");
        assert!(answer.is_empty() || failed, "{bytes:?}: {text}");
    }
    let client = Udp::connect(tracker.v4);
    for nth in 0..2000 {
        let len = random.below(200);
        let mut bytes = random.bytes(len);
        // Half of them have the right connection id.
        if nth % 2 == 1 && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&client.id);
        }
        client.socket.send(&bytes).unwrap();
    }
    let stats = tracker.stats();
    assert_eq!((&stats["peers"], &stats["swarms"]), (&0.into(), &0.into()));
    // It is there as before.
    let client = Udp::connect(tracker.v4);
    assert_eq!(client.ask(&client.announce())[..4], [0, 0, 0, 1]);
}

#[test]
fn a_body_for_the_registry_is_read_whole() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let mut client = Client::connect(tracker.v4).unwrap();
    let body = vec![b'x'; 16 << 20];
    for _ in 0..2 {
        let head = format!(
            "PUT /metainfo?url=x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        client.send_raw(head.as_bytes()).unwrap();
        assert_eq!(client.head().unwrap().status, 100);
        client.send_raw(&body).unwrap();
        assert_eq!(
            client.reply("PUT").unwrap().status,
            404,
            "there is no registry"
        );
    }
    // The connection has kept its place.
    let reply = client.get(&announce_target(&HASH, 1, ""), &[]).unwrap();
    assert!(reply.text().contains("8:interval"));
}

/// All that comes until the other side closes.
fn say(to: SocketAddr, raw: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The answer may come, and the connection end, before all is said.
    let _ = stream.write_all(raw.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn requests_in_pieces_and_in_a_row_are_answered_in_order() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let mut client = Client::connect(tracker.v4).unwrap();
    let targets: Vec<_> = (1..=200u16)
        .map(|port| announce_target(&HASH, port, &format!("&numwant=0&left={}", port % 2)))
        .collect();
    let all: String = targets
        .iter()
        .map(|target| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .collect();
    let (first, rest) = all.split_at(50);
    client.send_raw(first.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.send_raw(rest.as_bytes()).unwrap();
    // A household has 64 places in a swarm.
    for nth in 1..=200u64 {
        let text = client.reply("GET").unwrap().text();
        assert!(text.starts_with("d8:complete"), "{text}");
        let known = nth.min(64);
        let (seeds, leechers) = (
            number(&text, "8:completei"),
            number(&text, "10:incompletei"),
        );
        assert_eq!(seeds + leechers, known, "{nth}");
    }
}

fn number(text: &str, key: &str) -> u64 {
    let rest = &text[text.find(key).unwrap() + key.len()..];
    rest[..rest.find('e').unwrap()].parse().unwrap()
}

/// A client of BEP 15 that says what it is told.
struct Udp {
    socket: UdpSocket,
    id: [u8; 8],
}

impl Udp {
    fn connect(to: SocketAddr) -> Self {
        let any = if to.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Self { socket, id: [0; 8] };
        let answer = client.ask(
            &[
                &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80][..],
                &[0; 4],
                b"tran",
            ]
            .concat(),
        );
        assert_eq!((&answer[..4], &answer[4..8]), (&[0; 4][..], &b"tran"[..]));
        client.id = answer[8..16].try_into().unwrap();
        client
    }

    fn ask(&self, datagram: &[u8]) -> Vec<u8> {
        self.socket.send(datagram).unwrap();
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    fn head(&self, action: u32) -> Vec<u8> {
        [&self.id[..], &action.to_be_bytes(), b"tran"].concat()
    }

    fn announce(&self) -> Vec<u8> {
        let mut out = self.head(1);
        out.extend(HASH);
        out.extend([b'p'; 20]);
        out.extend([0; 8]);
        out.extend(1u64.to_be_bytes());
        out.extend([0; 8]);
        out.extend([0; 12]);
        out.extend((-1i32).to_be_bytes());
        out.extend(6881u16.to_be_bytes());
        out
    }
}

#[test]
fn malformed_udp_announces_get_an_error_and_leave_nothing() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    for to in [tracker.v4, tracker.v6] {
        let client = Udp::connect(to);
        let good = client.announce();
        let with = |at: usize, bytes: &[u8]| {
            let mut out = good.clone();
            out[at..at + bytes.len()].copy_from_slice(bytes);
            out
        };
        let mut all = vec![
            with(16, &[0; 20]),
            with(96, &[0, 0]),
            // Who has not connected, or says it in another's name.
            with(0, &[0; 8]),
            with(0, &[0xff; 8]),
            with(0, &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80]),
            with(7, &[good[7] ^ 1]),
        ];
        all.extend([0u32, 3, 4, 255, u32::MAX].map(|action| with(8, &action.to_be_bytes())));
        all.extend([4u32, 5, 1 << 31, u32::MAX].map(|event| with(80, &event.to_be_bytes())));
        // Cut short; or with an option that is (BEP 41).
        all.extend((16..good.len()).map(|len| good[..len].to_vec()));
        all.extend((1..=102).map(|more| [&good[..], &vec![0xff; more]].concat()));
        let options = [
            &[2][..],
            &[2, 9, b'x'],
            &[1, 1, 2, 200],
            &[7],
            &[9, 1],
            &[2, 1, b'a', 2],
        ];
        all.extend(options.map(|option| [&good, option].concat()));
        let scrape = client.head(2);
        let parts = (0..=184).filter(|len| *len == 0 || len % 20 != 0);
        all.extend(parts.map(|len| [&scrape, &vec![7; len][..]].concat()));
        all.push([&scrape[..], &[0; 20]].concat());
        assert!(all.len() >= 30, "{}", all.len());
        for datagram in &all {
            let answer = client.ask(datagram);
            assert_eq!(
                (&answer[..4], &answer[4..8]),
                (&[0, 0, 0, 3][..], &b"tran"[..]),
                "{datagram:?}"
            );
            assert!(answer.len() > 8 && answer.len() < 64);
        }
        let stats = tracker.stats();
        assert_eq!(
            (&stats["swarms"], &stats["peers"]),
            (&0.into(), &0.into()),
            "{stats}"
        );
        assert_eq!(stats["udp"]["announces"], 0);
    }
    let client = Udp::connect(tracker.v4);
    assert_eq!(client.ask(&client.announce())[..4], [0, 0, 0, 1]);
    assert_eq!(tracker.stats()["peers"], 1);
}

#[test]
fn who_has_not_connected_is_sent_no_more_than_it_sent() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let client = Udp::connect(tracker.v4);
    let mut stranger = client.announce();
    stranger[..8].fill(9);
    stranger.resize(200, 9);
    for len in 0..stranger.len() {
        client.socket.send(&stranger[..len]).unwrap();
    }
    client.socket.send(&[9; 4000]).unwrap();
    let answer = client.ask(&client.announce());
    let mut answers = vec![answer];
    while answers.last().unwrap()[..4] != [0, 0, 0, 1] {
        let mut buffer = [0; 2048];
        let len = client.socket.recv(&mut buffer).unwrap();
        answers.push(buffer[..len].to_vec());
    }
    let errors = answers.len() - 1;
    // As long as the error itself, or longer, was what earned it.
    let len = answers[0].len();
    assert_eq!(errors, stranger.len() - len);
    wait_until("noise to be counted", LIMIT, || {
        tracker.stats()["udp_noise"].as_u64() >= Some(len as u64)
    });
}
