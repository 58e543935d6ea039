//! Queries as clients send them, and as nobody should; answers as clients read them.

use proptest::prelude::*;

use super::*;
use crate::torrent::bencode;
use crate::tracker::Retry;
use crate::tracker::announce::Announce;
use crate::tracker::http::announce_url;
use crate::tracker::http::parse_reply;
use crate::units::PeerId;

const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 2, 3, 4));
const GOOD: &str = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881";

fn read(more: &str) -> Result<Asked, Malformed> {
    read_announce(&format!("{GOOD}{more}"), FROM)
}

#[test]
fn our_own_announce_is_understood() {
    let said = Announce {
        info_hash: InfoHash(*b"\x00\xffabc.-_~ &=+%/09AZa"),
        peer_id: PeerId(*b"-BU0100-abcdefghijkl"),
        port: 10234,
        uploaded: 1,
        downloaded: 2,
        left: 0,
        event: Event::Completed,
        numwant: 70,
        key: 1,
        tracker_id: Some(b"x".to_vec()),
    };
    let url = announce_url("http://t/announce?passkey=1", &said).unwrap();
    let (_, query) = url.split_once('?').unwrap();
    let asked = read_announce(query, "::ffff:1.2.3.4".parse().unwrap()).unwrap();
    let expected = Asked {
        info_hash: said.info_hash,
        peer: "1.2.3.4:10234".parse().unwrap(),
        seed: true,
        event: Event::Completed,
        numwant: 70,
        both_families: true,
    };
    assert_eq!(asked, expected);
}

#[test]
fn what_is_not_said_is_taken_as_usual() {
    let asked = read("").unwrap();
    assert_eq!(
        (asked.seed, asked.event, asked.numwant),
        (false, Event::None, NUMWANT)
    );
    assert!(!read("&left=1").unwrap().seed && read("&left=0").unwrap().seed);
    let numwant = |said: &str| read(&format!("&numwant={said}")).unwrap().numwant;
    assert_eq!((numwant("5"), numwant("0"), numwant("-1")), (5, 0, NUMWANT));
    assert_eq!((numwant(""), numwant("99999")), (NUMWANT, PEERS_MAX));
    for event in ["", "paused", "empty"] {
        assert_eq!(read(&format!("&event={event}")).unwrap().event, Event::None);
    }
    // A third party's address is not believed.
    assert_eq!(
        read("&ip=9.9.9.9&ipv6=::9&key=zz&compact=0")
            .unwrap()
            .peer
            .ip(),
        FROM
    );
}

#[test]
fn malformed_announces_are_told_why() {
    let id = "&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1";
    let zero = format!("info_hash={}{id}", "%00".repeat(20));
    for (query, why) in [
        ("", "invalid info_hash"),
        ("info_hash", "invalid info_hash"),
        ("info_hash=", "invalid info_hash"),
        (&format!("info_hash=aaa{id}"), "invalid info_hash"),
        (
            &format!("info_hash={}{id}", "a".repeat(21)),
            "invalid info_hash",
        ),
        (
            &format!("info_hash={}%6{id}", "a".repeat(19)),
            "invalid info_hash",
        ),
        (
            &format!("info_hash={}%zz{id}", "a".repeat(19)),
            "invalid info_hash",
        ),
        (
            &format!("info_hash={}%+1{id}", "a".repeat(19)),
            "invalid info_hash",
        ),
        (&zero, "invalid info_hash"),
        ("info_hash=aaaaaaaaaaaaaaaaaaaa", "invalid peer_id"),
        (
            "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=b&port=1",
            "invalid peer_id",
        ),
        (
            "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb",
            "invalid port",
        ),
    ] {
        assert_eq!(read_announce(query, FROM), Err(Malformed(why)), "{query}");
    }
    for (more, why) in [
        ("&port=1", "a parameter is there twice"),
        (
            "&info_hash=cccccccccccccccccccc",
            "a parameter is there twice",
        ),
        ("&left=x", "invalid left"),
        ("&left=-1", "invalid left"),
        ("&left=", "invalid left"),
        ("&left=18446744073709551616", "invalid left"),
        ("&uploaded=1.5", "invalid uploaded"),
        ("&downloaded=+1", "invalid downloaded"),
        ("&event=gone", "invalid event"),
        ("&event=STARTED", "invalid event"),
        ("&numwant=many", "invalid numwant"),
        ("&numwant=-x", "invalid numwant"),
        ("&compact=2", "invalid compact"),
    ] {
        assert_eq!(read(more), Err(Malformed(why)), "{more}");
    }
    let start = GOOD.replace("6881", "");
    for port in ["", "0", "65536", "x", "-1", "+80", "1e3"] {
        let query = format!("{start}{port}");
        assert_eq!(
            read_announce(&query, FROM),
            Err(Malformed("invalid port")),
            "{port}"
        );
    }
}

#[test]
fn answers_are_read_by_clients() {
    let told = Told {
        counts: Counts {
            seeds: 3,
            leechers: 4,
            completed: 5,
        },
        v4: vec![1, 2, 3, 4, 0x1a, 0xe1],
        v6: [&[0x20, 1], &[0; 14][..], &[0, 80]].concat(),
    };
    let limits = Limits::default();
    let body = announce_body(&limits, FROM, &told);
    let reply = parse_reply(&body).unwrap();
    let peers: Vec<_> = reply.peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["1.2.3.4:6881", "[2001::]:80"]);
    assert_eq!((reply.seeders, reply.leechers), (Some(3), Some(4)));
    assert_eq!(reply.interval, limits.interval);
    assert_eq!(reply.min_interval, Some(limits.min_interval));
    let dict = bencode::parse(&body).unwrap().dict().unwrap();
    assert_eq!(dict.bytes(b"external ip"), Some(&[1, 2, 3, 4][..]));
    assert_eq!(dict.int(b"downloaded"), Some(5));
    let keys: Vec<_> = dict.iter().map(|(key, _)| key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let v6 = announce_body(&limits, "::1".parse().unwrap(), &Told::default());
    let dict = bencode::parse(&v6).unwrap().dict().unwrap();
    assert_eq!(dict.bytes(b"external ip").map(<[u8]>::len), Some(16));
    assert_eq!(
        (dict.bytes(b"peers"), dict.bytes(b"peers6")),
        (Some(&b""[..]), None)
    );
}

#[test]
fn failures_say_when_to_come_again() {
    let failed = |body: Vec<u8>| parse_reply(&body).unwrap_err();
    let plain = failed(malformed_body(Malformed("invalid port")));
    assert_eq!(
        (plain.why.as_str(), plain.retry),
        ("invalid port", Retry::BackOff)
    );
    assert_eq!(
        failed(refused_body(Refused::NotAllowed)).retry,
        Retry::Never
    );
    let full = failed(refused_body(Refused::Full));
    assert_eq!(full.why, "tracker is full");
    assert_eq!(full.retry, Retry::After(Duration::from_secs(300)));
}

#[test]
fn scrapes_name_their_swarms() {
    let (a, b) = (
        format!("info_hash={}", "a".repeat(20)),
        format!("info_hash={}", "b".repeat(20)),
    );
    let hashes = read_scrape(&format!("{b}&x=1&{a}&{b}")).unwrap();
    assert_eq!(hashes, [InfoHash([b'a'; 20]), InfoHash([b'b'; 20])]);
    let counts = Counts {
        seeds: 1,
        leechers: 2,
        completed: 3,
    };
    let found: Vec<_> = hashes.into_iter().map(|hash| (hash, counts)).collect();
    let body = scrape_body(Duration::from_secs(60), &found);
    let dict = bencode::parse(&body).unwrap().dict().unwrap();
    let files = dict.dict(b"files").unwrap();
    let one = files.dict(&[b'b'; 20]).unwrap();
    assert_eq!(
        (one.int(b"complete"), one.int(b"incomplete")),
        (Some(1), Some(2))
    );
    assert_eq!(one.int(b"downloaded"), Some(3));
    assert_eq!(
        dict.dict(b"flags").unwrap().int(b"min_request_interval"),
        Some(60)
    );
    let many = vec![a.as_str(); SCRAPE_MAX + 1].join("&");
    for query in ["", "info_hash=x", "x=1", &many] {
        assert!(read_scrape(query).is_err(), "{query}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn hostile_queries_do_not_panic(query in "([a-z_]{0,9}=?[%0-9a-fé&+]{0,30}&?){0,6}") {
        let _ = read_announce(&query, FROM);
        let _ = read_scrape(&query);
        let _ = read(&query);
    }

    #[test]
    fn any_hash_is_read_back(hash in any::<[u8; 20]>()) {
        let mut query = GOOD.replace("info_hash=aaaaaaaaaaaaaaaaaaaa", "info_hash=");
        query.insert_str(10, &hash.map(|byte| format!("%{byte:02x}")).concat());
        let read = read_announce(&query, FROM);
        if hash == [0; 20] {
            prop_assert!(read.is_err());
        } else {
            prop_assert_eq!(read.unwrap().info_hash, InfoHash(hash));
        }
    }
}
