//! Datagrams as clients send them, and as nobody should.

use proptest::prelude::*;

use super::*;
use crate::tracker::announce::Announce;
use crate::tracker::announce::Answer;
use crate::tracker::udp::Call;
use crate::tracker::udp::Question;
use crate::units::PeerId;

const NOW: Time = Time::from_secs(1000);

fn keys() -> Keys {
    Keys::new([4; 32])
}

fn from() -> SocketAddr {
    "1.2.3.4:5000".parse().unwrap()
}

fn hear(bytes: &[u8]) -> (Heard, Vec<u8>) {
    let mut out = vec![1, 2, 3];
    let heard = read(NOW, &keys(), from(), bytes, &mut out);
    (heard, out)
}

/// A good announce, with its id.
fn announce() -> Vec<u8> {
    let mut out = keys()
        .connection_id(NOW, from().ip())
        .to_be_bytes()
        .to_vec();
    out.extend(ANNOUNCE.to_be_bytes());
    out.extend(77u32.to_be_bytes());
    out.extend([5; 20]);
    out.extend([6; 20]);
    out.extend([0; 8]);
    out.extend(9u64.to_be_bytes());
    out.extend([0; 8]);
    out.extend(2u32.to_be_bytes());
    out.extend([9, 9, 9, 9, 0, 0, 0, 1]);
    out.extend((-1i32).to_be_bytes());
    out.extend(6881u16.to_be_bytes());
    out
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = announce();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    out
}

fn error_of(bytes: &[u8]) -> String {
    let (heard, out) = hear(bytes);
    assert_eq!(heard, Heard::Malformed);
    assert_eq!((word(&out, 0), word(&out, 4)), (ERROR, 77));
    String::from_utf8(out[8..].to_vec()).unwrap()
}

#[test]
fn our_own_call_is_answered() {
    let said = Announce {
        info_hash: InfoHash([5; 20]),
        peer_id: PeerId([6; 20]),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: Event::Completed,
        numwant: 7,
        key: 0,
        tracker_id: None,
    };
    let heard = format!("/announce?{}", "x".repeat(400));
    let question = Question::Announce {
        said: Box::new(said),
        heard,
    };
    let mut call = Call::new(NOW, question, false, Duration::from_secs(30), 1);
    let (heard, out) = hear(&call.poll_datagram().unwrap());
    assert_eq!((heard, out.len()), (Heard::Connected, 16));
    assert_eq!(call.handle_datagram(NOW, &out), None);
    let (heard, out) = hear(&call.poll_datagram().unwrap());
    let Heard::Announce { transaction, asked } = heard else {
        panic!("{heard:?}");
    };
    assert!(out.is_empty());
    assert_eq!(asked.peer, "1.2.3.4:6881".parse().unwrap());
    assert_eq!(
        (asked.seed, asked.event, asked.numwant),
        (true, Event::Completed, 7)
    );
    let told = Told {
        counts: Counts {
            seeds: 1,
            leechers: 2,
            completed: 3,
        },
        v4: vec![9, 9, 9, 9, 0, 80],
        v6: Vec::new(),
    };
    let mut out = Vec::new();
    put_announce(
        &mut out,
        transaction,
        Duration::from_secs(900),
        false,
        &told,
    );
    let Answer::Announced(reply) = call.handle_datagram(NOW, &out).unwrap().unwrap() else {
        panic!("no scrape was asked for");
    };
    assert_eq!(reply.peers, ["9.9.9.9:80".parse().unwrap()]);
    assert_eq!((reply.seeders, reply.leechers), (Some(1), Some(2)));
    assert_eq!(reply.interval, Duration::from_secs(900));
}

#[test]
fn answers_fit_one_packet_in_both_families() {
    let asked = |from: &str, wished: i32| {
        let from: SocketAddr = from.parse().unwrap();
        let mut bytes = with(92, &wished.to_be_bytes());
        let id = keys().connection_id(NOW, from.ip());
        bytes[..8].copy_from_slice(&id.to_be_bytes());
        match read(NOW, &keys(), from, &bytes, &mut Vec::new()) {
            Heard::Announce { asked, .. } => asked.numwant,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (asked("1.2.3.4:1", -1), asked("1.2.3.4:1", 0)),
        (NUMWANT, 0)
    );
    assert!(20 + 6 * asked("1.2.3.4:1", i32::MAX) <= ANSWER_LEN_MAX);
    assert!(20 + 18 * asked("[2001:db8::1]:1", i32::MAX) <= ANSWER_LEN_MAX);
}

#[test]
fn malformed_announces_are_told_why() {
    assert!(matches!(hear(&announce()).0, Heard::Announce { .. }));
    for (bytes, why) in [
        (with(16, &[0; 20]), "invalid info_hash"),
        (with(80, &4u32.to_be_bytes()), "invalid event"),
        (with(80, &u32::MAX.to_be_bytes()), "invalid event"),
        (with(96, &[0, 0]), "invalid port"),
        (with(8, &0u32.to_be_bytes()), "unknown action"),
        (with(8, &3u32.to_be_bytes()), "unknown action"),
        (with(8, &u32::MAX.to_be_bytes()), "unknown action"),
        (announce()[..97].to_vec(), "announce too short"),
        (announce()[..16].to_vec(), "announce too short"),
        ([announce(), vec![2]].concat(), "option cut short"),
        ([announce(), vec![2, 3, b'a']].concat(), "option cut short"),
        ([announce(), vec![9, 1]].concat(), "option cut short"),
        (
            with(8, &2u32.to_be_bytes()),
            "a scrape names whole info-hashes",
        ),
        (
            with(8, &2u32.to_be_bytes())[..16].to_vec(),
            "a scrape names whole info-hashes",
        ),
        (
            with(8, &2u32.to_be_bytes())[..35].to_vec(),
            "a scrape names whole info-hashes",
        ),
    ] {
        assert_eq!(error_of(&bytes), why);
    }
    for fine in [vec![0], vec![1, 1], vec![2, 1, b'a', 0, 2], vec![9, 0]] {
        let (heard, _) = hear(&[announce(), fine].concat());
        assert!(matches!(heard, Heard::Announce { .. }));
    }
}

#[test]
fn who_has_not_connected_is_sent_nothing_longer() {
    for bad in [with(0, &[0; 8]), with(0, &PROTOCOL.to_be_bytes())] {
        for len in 0..bad.len() {
            let (heard, out) = hear(&bad[..len]);
            assert!(out.len() <= len);
            assert!(matches!(heard, Heard::Noise | Heard::Malformed));
            assert_eq!(heard == Heard::Noise, out.is_empty());
        }
        assert_eq!(error_of(&bad), "connect first");
    }
}

#[test]
fn scrapes_name_their_swarms() {
    let mut bytes = with(8, &SCRAPE.to_be_bytes());
    bytes.truncate(16 + 40);
    let (heard, _) = hear(&bytes);
    let hashes = vec![InfoHash([5; 20]), InfoHash([6; 20])];
    assert_eq!(
        heard,
        Heard::Scrape {
            transaction: 77,
            hashes
        }
    );
    let counts = Counts {
        seeds: 1,
        leechers: 2,
        completed: 3,
    };
    let mut out = Vec::new();
    put_scrape(&mut out, 77, &[counts, counts]);
    assert_eq!(out.len(), 8 + 24);
    assert_eq!((word(&out, 8), word(&out, 12), word(&out, 16)), (1, 3, 2));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_datagram_is_answered_by_no_more(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_, out) = hear(&bytes);
        prop_assert!(out.len() <= bytes.len());
        let connected = [&announce()[..12], &bytes].concat();
        let (_, out) = hear(&connected);
        prop_assert!(out.len() <= 64);
    }
}
