//! Announces and scrapes over HTTP: the URL to get, and what the answer says (BEP 3, 7, 23, 31,
//! 48).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::AsciiSet;
use url::Url;

use crate::torrent::bencode;
use crate::torrent::bencode::Dict;
use crate::torrent::bencode::Value;
use crate::tracker::Retry;
use crate::tracker::TrackerFailed;
use crate::tracker::announce;
use crate::tracker::announce::Announce;
use crate::tracker::announce::Counts;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::tracker::announce::Reply;
use crate::tracker::announce::shown;
use crate::units::InfoHash;

/// Bytes of an answer (R24); the driver reads no more.
pub const REPLY_LEN_MAX: usize = 1024 * 1024;
/// Where a tracker names none.
const INTERVAL_USUAL: Duration = Duration::from_secs(1800);
/// Bytes of a tracker's id that are sent back.
const TRACKER_ID_LEN_MAX: usize = 256;

/// Whether a tracker on a loopback address may be asked at this path (R24). Which addresses are
/// loopback is known only after the name is resolved: the driver asks then.
pub fn loopback_path_ok(url: &Url) -> bool {
    url.path().starts_with("/announce") || url.path().starts_with("/scrape")
}

/// All that RFC 3986 §2.3 does not call unreserved.
const RAW: &AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The URL to get. `base` keeps its own query; one that already holds what we are to say could
/// announce in another's name, and is refused (R24).
pub fn announce_url(base: &str, announce: &Announce) -> Result<String, TrackerFailed> {
    let mut out = open_query(check(base)?);
    let raw = |bytes| percent_encoding::percent_encode(bytes, RAW);
    write!(
        out,
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1&no_peer_id=1\
         &numwant={}&key={:08x}",
        raw(&announce.info_hash.0),
        raw(&announce.peer_id.0),
        announce.port,
        announce.uploaded,
        announce.downloaded,
        announce.left,
        announce.numwant,
        announce.key,
    )
    .expect("a String takes everything");
    match announce.event {
        Event::None => {}
        Event::Started => out.push_str("&event=started"),
        Event::Completed => out.push_str("&event=completed"),
        Event::Stopped => out.push_str("&event=stopped"),
    }
    if let Some(id) = &announce.tracker_id {
        out.push_str("&trackerid=");
        out.extend(raw(id));
    }
    Ok(out)
}

/// BEP 48: where the tracker is scraped that is announced to at `base`. Not every one is.
pub fn scrape_url(base: &str, info_hash: InfoHash) -> Result<String, TrackerFailed> {
    let mut url = check(base)?;
    let path = url.path();
    let (folder, last) = path.rsplit_once('/').unwrap_or(("", path));
    let Some(rest) = last.strip_prefix("announce") else {
        return Err(TrackerFailed::lasting("no scraping"));
    };
    let path = format!("{folder}/scrape{rest}");
    url.set_path(&path);
    let mut out = open_query(url);
    out.push_str("info_hash=");
    out.extend(percent_encoding::percent_encode(&info_hash.0, RAW));
    Ok(out)
}

/// A tracker's address that may be asked.
fn check(base: &str) -> Result<Url, TrackerFailed> {
    let mut url = Url::parse(base).map_err(|_| TrackerFailed::lasting("not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(TrackerFailed::lasting("neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.port() == Some(0) {
        return Err(TrackerFailed::lasting("user name or port 0 in its URL"));
    }
    let reserved = ["info_hash", "peer_id", "port", "event"];
    if url.query_pairs().any(|(key, _)| reserved.contains(&&*key)) {
        return Err(TrackerFailed::lasting("its URL holds an announce already"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The URL, up to where a query goes on.
fn open_query(url: Url) -> String {
    let mut out = String::from(url);
    if !out.contains('?') {
        out.push('?');
    } else if !out.ends_with(['?', '&']) {
        out.push('&');
    }
    out
}

/// A scrape's body: what it says of the one torrent that was asked for.
pub fn parse_scrape(body: &[u8], info_hash: InfoHash) -> Result<Counts, TrackerFailed> {
    let dict = dictionary(body)?;
    let files = dict.dict(b"files");
    let file = files.and_then(|files| files.dict(&info_hash.0));
    let count = |key: &[u8]| u32::try_from(file?.int(key)?).ok();
    match (count(b"complete"), count(b"incomplete")) {
        (Some(seeders), Some(leechers)) => Ok(Counts { seeders, leechers }),
        _ => Err(TrackerFailed::new("scrape without counts")),
    }
}

/// An answer's body. `external ip` and all else that is not in [`Reply`] is passed over.
pub fn parse_reply(body: &[u8]) -> Result<Reply, TrackerFailed> {
    let dict = dictionary(body)?;
    let duration = |key: &[u8]| {
        let seconds = dict.int(key)?;
        let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Some(announce::interval(wait))
    };
    let count = |key: &[u8]| u32::try_from(dict.int(key)?).ok();
    let mut peers = Vec::new();
    match dict.get(b"peers") {
        Some(Value::Bytes(compact)) => peers.extend(announce::compact_v4(compact).take(PEERS_MAX)),
        Some(Value::List(list)) => {
            let listed = list.iter().filter_map(|peer| listed_peer(peer.dict()?));
            peers.extend(listed.take(PEERS_MAX));
        }
        _ => {}
    }
    let compact = dict.bytes(b"peers6").unwrap_or_default();
    peers.extend(announce::compact_v6(compact).take(PEERS_MAX - peers.len()));
    Ok(Reply {
        interval: duration(b"interval").unwrap_or(INTERVAL_USUAL),
        min_interval: duration(b"min interval"),
        peers,
        seeders: count(b"complete"),
        leechers: count(b"incomplete"),
        tracker_id: dict
            .bytes(b"tracker id")
            .filter(|id| !id.is_empty() && id.len() <= TRACKER_ID_LEN_MAX)
            .map(<[u8]>::to_vec),
        warning: dict.bytes(b"warning message").map(shown),
    })
}

/// What an answer says, if it is no failure.
fn dictionary(body: &[u8]) -> Result<Dict<'_>, TrackerFailed> {
    if body.len() > REPLY_LEN_MAX {
        return Err(TrackerFailed::new("answer too long"));
    }
    // Some trackers end the body with a line break.
    let (value, _) = bencode::parse_prefix(body)
        .map_err(|error| TrackerFailed::new(format!("answer is no bencode: {error}")))?;
    let dict = value
        .dict()
        .ok_or_else(|| TrackerFailed::new("answer is no dictionary"))?;
    if let Some(why) = dict.bytes(b"failure reason") {
        return Err(TrackerFailed {
            why: shown(why),
            retry: retry(dict),
        });
    }
    Ok(dict)
}

/// BEP 31: minutes, or the word `never`.
fn retry(dict: Dict<'_>) -> Retry {
    let minutes = match dict.get(b"retry in") {
        Some(Value::Bytes(b"never")) => return Retry::Never,
        Some(Value::Int(minutes)) => u64::try_from(minutes).ok(),
        Some(value) => value.text().and_then(|text| text.parse().ok()),
        None => None,
    };
    minutes.map_or(Retry::BackOff, |minutes| {
        let wait = Duration::from_secs(minutes.saturating_mul(60));
        Retry::After(announce::interval(wait))
    })
}

/// A peer of the dictionary form (BEP 3); one given by name is left out.
fn listed_peer(peer: Dict<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = peer.text(b"ip")?.parse().ok()?;
    let port = u16::try_from(peer.int(b"port")?).ok()?;
    (port != 0).then(|| SocketAddr::from((ip, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tracker::announce::INTERVAL_MAX;
    use crate::tracker::announce::INTERVAL_MIN;
    use crate::tracker::announce::TEXT_LEN_MAX;
    use crate::units::PeerId;

    fn announce() -> Announce {
        Announce {
            info_hash: InfoHash(*b"\x00\xffabc.-_~ &=+%/09AZaz"[..20].as_array().unwrap()),
            peer_id: PeerId(*b"-BU0100-abcdefghijkl"),
            port: 10234,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: Event::Started,
            numwant: 50,
            key: 0xab,
            tracker_id: None,
        }
    }

    fn refused(base: &str) -> Retry {
        announce_url(base, &announce()).unwrap_err().retry
    }

    #[test]
    fn the_url_says_it_all() {
        let said = "info_hash=%00%FFabc.-_~%20%26%3D%2B%25%2F09AZa\
            &peer_id=-BU0100-abcdefghijkl&port=10234&uploaded=1&downloaded=2&left=3&compact=1\
            &no_peer_id=1&numwant=50&key=000000ab&event=started";
        let url = |base| announce_url(base, &announce()).unwrap();
        assert_eq!(
            url("http://t/announce"),
            format!("http://t/announce?{said}")
        );
        assert_eq!(
            url("https://t:8443/a?passkey=%41b&#frag"),
            format!("https://t:8443/a?passkey=%41b&{said}")
        );
        assert_eq!(url("http://t?k=1"), format!("http://t/?k=1&{said}"));
        let with_id = Announce {
            event: Event::None,
            tracker_id: Some(b"\x01 x".to_vec()),
            ..announce()
        };
        let url = announce_url("http://t/", &with_id).unwrap();
        assert!(url.ends_with("&key=000000ab&trackerid=%01%20x"), "{url}");
    }

    #[test]
    fn urls_that_announce_for_others_are_refused() {
        for base in [
            "http://t/a?info_hash=1",
            "http://t/a?x=1&peer%5Fid=1",
            "http://t/a?port",
            "http://t/a?event=",
            "udp://t:1/a",
            "http://u:p@t/a",
            "http://u@t/a",
            "http://t:0/a",
            "t/a",
            "",
        ] {
            assert_eq!(refused(base), Retry::Never, "{base}");
        }
        assert!(announce_url("http://t/a?ports=1&xevent=2", &announce()).is_ok());
    }

    #[test]
    fn loopback_trackers_are_asked_at_announce_only() {
        let ok = |url: &str| loopback_path_ok(&Url::parse(url).unwrap());
        assert!(ok("http://127.0.0.1:6969/announce"));
        assert!(ok("http://127.0.0.1:6969/announce.php?x=1"));
        assert!(ok("http://127.0.0.1:6969/scrape"));
        assert!(!ok("http://127.0.0.1:8080/"));
        assert!(!ok("http://127.0.0.1:8080/api/announce"));
    }

    #[test]
    fn a_scrape_is_asked_for_beside_the_announce() {
        let hash = InfoHash([0xff; 20]);
        let said = format!("info_hash={}", "%FF".repeat(20));
        let url = |base| scrape_url(base, hash).unwrap();
        assert_eq!(url("http://t/announce"), format!("http://t/scrape?{said}"));
        assert_eq!(
            url("https://t:1/announce/announce.php?k=1#x"),
            format!("https://t:1/announce/scrape.php?k=1&{said}")
        );
        for base in [
            "http://t/a",
            "http://t/announce/",
            "http://t/x-announce",
            "http://t/?announce",
            "http://u@t/announce",
            "http://t/announce?info_hash=1",
        ] {
            let failed = scrape_url(base, hash).unwrap_err();
            assert_eq!(failed.retry, Retry::Never, "{base}");
        }
    }

    #[test]
    fn a_scrape_tells_of_one_torrent() {
        let hash = InfoHash(*b"aaaaaaaaaaaaaaaaaaaa");
        let body = b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi50e\
            10:incompletei10eeee";
        let counts = Counts {
            seeders: 5,
            leechers: 10,
        };
        assert_eq!(parse_scrape(body, hash), Ok(counts));
        assert!(parse_scrape(body, InfoHash([1; 20])).is_err());
        let failed = parse_scrape(b"d14:failure reason2:no8:retry in5:nevere", hash).unwrap_err();
        assert_eq!((failed.why.as_str(), failed.retry), ("no", Retry::Never));
        let one = "d5:filesd20:aaaaaaaaaaaaaaaaaaaa";
        for body in [
            "",
            "de",
            "d5:filesdee",
            "d5:filesi1ee",
            &format!("{one}deee"),
            &format!("{one}i1eee"),
            &format!("{one}d8:completei-1e10:incompletei0eeee"),
            &format!("{one}d8:completei1eeee"),
        ] {
            assert!(parse_scrape(body.as_bytes(), hash).is_err(), "{body}");
        }
    }

    #[test]
    fn compact_peers_of_both_families() {
        let body = b"d8:completei5e11:external ip4:\x01\x02\x03\x0410:incompletei7e8:intervali900e\
            12:min intervali120e5:peers14:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\x00\x00zz\
            6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x5010:tracker id2:\xff!e\n";
        let reply = parse_reply(body).unwrap();
        assert_eq!(
            reply,
            Reply {
                interval: Duration::from_secs(900),
                min_interval: Some(Duration::from_secs(120)),
                peers: vec![
                    "1.2.3.4:6881".parse().unwrap(),
                    "[2001:db8::1]:80".parse().unwrap()
                ],
                seeders: Some(5),
                leechers: Some(7),
                tracker_id: Some(b"\xff!".to_vec()),
                warning: None,
            }
        );
    }

    #[test]
    fn listed_peers_and_no_interval() {
        let body = b"d5:peersld2:ip7:1.2.3.47:peer id1:x4:porti81eed2:ip3:::14:porti82ee\
            d2:ip4:name4:porti83eed2:ip7:1.2.3.44:porti0eed2:ip7:1.2.3.44:porti65536eei1eee";
        let reply = parse_reply(body).unwrap();
        let peers: Vec<SocketAddr> =
            vec!["1.2.3.4:81".parse().unwrap(), "[::1]:82".parse().unwrap()];
        assert_eq!(reply.peers, peers);
        assert_eq!(reply.interval, INTERVAL_USUAL);
        assert_eq!(reply.min_interval, None);
    }

    #[test]
    fn intervals_and_peers_are_clamped() {
        let interval = |text: &str| {
            parse_reply(format!("d8:intervali{text}ee").as_bytes())
                .unwrap()
                .interval
        };
        assert_eq!(interval("0"), INTERVAL_MIN);
        assert_eq!(interval("-5"), INTERVAL_MIN);
        assert_eq!(interval("9223372036854775807"), INTERVAL_MAX);
        let mut body = b"d5:peers1500:".to_vec();
        body.extend([1u8; 1500]);
        body.extend(b"6:peers618:");
        body.extend([1u8; 18]);
        body.push(b'e');
        assert_eq!(parse_reply(&body).unwrap().peers.len(), PEERS_MAX);
    }

    #[test]
    fn failures_say_when_to_come_again() {
        let failed = |body: &str| parse_reply(body.as_bytes()).unwrap_err();
        let plain = failed("d14:failure reason5:a\u{1b}b\nc5:peers0:e");
        assert_eq!((plain.why.as_str(), plain.retry), ("a b c", Retry::BackOff));
        let after = |body: &str| failed(body).retry;
        assert_eq!(
            after("d14:failure reason1:x8:retry ini5ee"),
            Retry::After(Duration::from_secs(300))
        );
        assert_eq!(
            after("d14:failure reason1:x8:retry in1:2e"),
            Retry::After(Duration::from_secs(120))
        );
        assert_eq!(
            after("d14:failure reason1:x8:retry in5:nevere"),
            Retry::Never
        );
        assert_eq!(
            after("d14:failure reason1:x8:retry ini9223372036854775807ee"),
            Retry::After(INTERVAL_MAX)
        );
        for garbage in ["", "<html>404</html>", "le", "d"] {
            assert_eq!(after(garbage), Retry::BackOff, "{garbage}");
        }
        let long = failed(&format!("d14:failure reason1000:{}e", "é".repeat(500)));
        assert_eq!(long.why.len(), TEXT_LEN_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn hostile_replies_do_not_panic(
            key in "(peers|peers6|interval|failure reason|retry in|tracker id)",
            value in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let body = bencode::Encoder::new().bytes(key.as_bytes(), &value[..]).finish();
            let _ = parse_reply(&body);
            let _ = parse_scrape(&body, InfoHash([1; 20]));
            let raw = [b"d", format!("{}:{key}", key.len()).as_bytes(), &value, b"e"].concat();
            if let Ok(reply) = parse_reply(&raw) {
                prop_assert!(reply.peers.iter().all(|peer| peer.port() != 0));
            }
        }

        #[test]
        fn the_announced_hash_is_read_back(hash in any::<[u8; 20]>()) {
            let said = Announce { info_hash: InfoHash(hash), ..announce() };
            let url = announce_url("http://t/a", &said).unwrap();
            let (_, query) = url.split_once("info_hash=").unwrap();
            let raw = query.split('&').next().unwrap();
            prop_assert_eq!(percent_encoding::percent_decode_str(raw).collect::<Vec<u8>>(), hash);
        }
    }
}
