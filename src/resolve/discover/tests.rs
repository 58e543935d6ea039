//! Each place where a torrent may be found, and what is not taken for one.

use proptest::prelude::*;

use super::*;
use crate::http::head::parse_response;
use crate::http::pin::Pin;
use crate::resolve::discover::ask::SOURCES_MAX;
use crate::resolve::registry::REGISTRIES_MAX;
use crate::torrent::metainfo::Builder;
use crate::torrent::metainfo::FileEntry;
use crate::torrent::metainfo::make;

const PIECE: u32 = 16 * 1024;
const VIDEO: &str = "http://h.example/dir/film%20a.mp4?token=1";
const SIDECAR: &str = "http://h.example/dir/film%20a.mp4.torrent?token=1";

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn ask() -> Ask {
    ask_by(&[])
}

fn ask_by(trackers: &[&str]) -> Ask {
    Ask::Video {
        video: url(VIDEO),
        trackers: trackers.iter().map(|text| url(text)).collect(),
    }
}

/// Where the registry of the tracker `http://<host>/announce` knows the video.
fn at(host: &str) -> String {
    let query = "http%3A%2F%2Fh.example%2Fdir%2Ffilm%2520a.mp4%3Ftoken%3D1";
    format!("http://{host}/metainfo?url={query}")
}

fn making(wait: u64) -> Result<Body, Unfound> {
    Err(Unfound {
        status: Some(202),
        retry: Some(Duration::from_secs(wait)),
        why: String::new(),
    })
}

fn head(lines: &str) -> ResponseHead {
    let text = format!("HTTP/1.1 {lines}\r\n\r\n");
    parse_response(text.as_bytes()).unwrap().unwrap()
}

fn ok() -> ResponseHead {
    head("206 Partial Content\r\nETag: \"v1\"")
}

fn linked(target: &str) -> ResponseHead {
    let kind = "rel=describedby; type=\"application/x-bittorrent\"";
    head(&format!("200 OK\r\nLink: <{target}>; {kind}"))
}

fn film(length: usize) -> Vec<u8> {
    make("other name.mp4", PIECE, &vec![1; length])
}

fn came(bytes: &[u8]) -> Result<Body, Unfound> {
    Ok(Body::read(bytes))
}

fn several(files: &[(&str, u64)]) -> Vec<u8> {
    let length: u64 = files.iter().map(|file| file.1).sum();
    let files: Vec<_> = files
        .iter()
        .map(|(path, length)| FileEntry {
            path: path.split('/').map(str::to_owned).collect(),
            length: *length,
            pad: false,
        })
        .collect();
    let count = usize::try_from(length.div_ceil(u64::from(PIECE))).unwrap();
    Builder {
        name: "set".to_owned(),
        piece_len: PIECE,
        hashes: vec![[5; 20]; count],
        ..Builder::default()
    }
    .build_files(&files)
}

fn lost(status: u16) -> Result<Body, Unfound> {
    Err(Unfound {
        status: Some(status),
        retry: None,
        why: format!("status {status}"),
    })
}

/// What is asked for now.
fn gets(it: &mut Discover) -> Vec<(u64, String)> {
    std::iter::from_fn(|| it.poll_output())
        .map(|get| {
            assert_eq!(get.limit, TORRENT_LEN_MAX);
            (get.id, get.url.into())
        })
        .collect()
}

fn found(it: &mut Discover) -> Found {
    match it.take_outcome() {
        Some(Outcome::Torrent(found)) => *found,
        other => panic!("{other:?}"),
    }
}

fn failed(it: &mut Discover) -> (u16, &'static str, String) {
    match it.take_outcome() {
        Some(Outcome::Failed {
            status,
            code,
            detail,
        }) => (status, code, detail),
        other => panic!("{other:?}"),
    }
}

fn is_passthrough(it: &mut Discover) -> bool {
    matches!(it.take_outcome(), Some(Outcome::Passthrough))
}

fn warnings(it: &mut Discover) -> Vec<&'static str> {
    std::iter::from_fn(|| it.poll_warning())
        .map(|warning| warning.why)
        .collect()
}

#[test]
fn a_torrent_beside_the_video_waits_for_the_origin() {
    let mut it = Discover::new(Time::ZERO, ask());
    assert_eq!(gets(&mut it), [(0, SIDECAR.to_owned())]);
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    assert!(it.take_outcome().is_none());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    let found = found(&mut it);
    assert_eq!((found.file, found.metainfo.layout.length()), (0, 50_000));
    assert_eq!(found.origin, Some(url(VIDEO)));
    assert!(found.trackers.is_empty());
    assert_eq!(it.next_timeout(Time::ZERO), Time::NEVER);
    assert!(it.is_over());
    assert!(it.take_outcome().is_none() && gets(&mut it).is_empty());
}

#[test]
fn the_origin_may_answer_first_or_fail() {
    let mut it = Discover::new(Time::ZERO, ask());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), None);
    assert!(it.take_outcome().is_none());
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    assert_eq!(found(&mut it).file, 0);

    let mut it = Discover::new(Time::ZERO, ask());
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    it.handle_origin_failed(Time::ZERO, None);
    assert_eq!(found(&mut it).file, 0);

    let mut it = Discover::new(Time::ZERO, ask());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &head("503 Busy"), None);
    it.handle_body(Time::ZERO, 0, lost(404));
    assert!(is_passthrough(&mut it));
}

#[test]
fn describedby_goes_first() {
    let mut it = Discover::new(Time::ZERO, ask());
    assert_eq!(gets(&mut it).len(), 1);
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    it.handle_origin_head(
        Time::ZERO,
        &url(VIDEO),
        &linked("/t/a.torrent"),
        Some(60_000),
    );
    assert_eq!(
        gets(&mut it),
        [(1, "http://h.example/t/a.torrent".to_owned())]
    );
    it.handle_body(Time::ZERO, 1, came(&film(60_000)));
    assert_eq!(found(&mut it).metainfo.layout.length(), 60_000);

    // It leads nowhere: what stands beside the video is taken.
    let mut it = Discover::new(Time::ZERO, ask());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &linked("a.torrent"), None);
    it.handle_body(Time::ZERO, 1, lost(500));
    assert!(it.take_outcome().is_none());
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    assert_eq!(found(&mut it).metainfo.layout.length(), 50_000);
}

#[test]
fn a_redirect_may_describe_too_and_links_are_bounded() {
    let mut it = Discover::new(Time::ZERO, ask());
    let link = "rel=describedby; type=application/x-bittorrent";
    let links: Vec<_> = (0..9).map(|at| format!("<{at}.torrent>; {link}")).collect();
    let moved = format!("302 Found\r\nLocation: /x\r\nLink: {}", links.join(", "));
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &head(&moved), None);
    assert_eq!(gets(&mut it).len(), 1);
    it.handle_origin_head(Time::ZERO, &url("http://m.example/x"), &ok(), Some(5));
    for at in 0..3u64 {
        let url = format!("http://h.example/dir/{at}.torrent");
        assert_eq!(gets(&mut it), [(at + 1, url)]);
        it.handle_body(Time::ZERO, at + 1, came(b"<html>"));
    }
    assert!(gets(&mut it).is_empty());
    it.handle_body(Time::ZERO, 0, lost(404));
    assert!(is_passthrough(&mut it));
    assert_eq!(warnings(&mut it), ["bencode-malformed"; 3]);
}

#[test]
fn metainfo_of_another_length_is_dropped() {
    let mut it = Discover::new(Time::ZERO, ask());
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_001));
    assert!(is_passthrough(&mut it));
    assert_eq!(warnings(&mut it), ["no file of the origin's length"]);

    let set = several(&[
        ("a.mp4", 10),
        ("b/film a.mp4", 20),
        ("c.mp4", 20),
        ("d.mp4", 30),
    ]);
    let file = |length| {
        let mut it = Discover::new(Time::ZERO, ask());
        it.handle_body(Time::ZERO, 0, came(&set.clone()));
        it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), length);
        match it.take_outcome() {
            Some(Outcome::Torrent(found)) => Some(found.file),
            _ => None,
        }
    };
    assert_eq!(file(Some(10)), Some(0));
    assert_eq!(file(Some(20)), Some(1));
    assert_eq!(file(Some(30)), Some(3));
    assert_eq!(file(Some(0)), None);
    assert_eq!(file(Some(60)), None);
    assert_eq!(file(None), Some(1));
}

#[test]
fn what_the_store_recalls_spares_the_fetch() {
    let recalled = Metainfo::parse(&film(50_000)).unwrap();
    let start = |validator: &str| {
        let mut it = Discover::new(Time::ZERO, ask());
        it.recall(recalled.clone(), validator.to_owned());
        assert!(gets(&mut it).is_empty());
        it
    };
    for (validator, head) in [
        ("\"v1\"", ok()),
        ("W/\"v1\"", ok()),
        ("", ok()),
        ("\"v1\"", head("200 OK")),
    ] {
        let mut it = start(validator);
        it.handle_origin_head(Time::ZERO, &url(VIDEO), &head, Some(50_000));
        assert_eq!(found(&mut it).metainfo, recalled);
        assert!(gets(&mut it).is_empty());
    }
    let mut offline = start("\"v1\"");
    offline.handle_origin_failed(Time::ZERO, None);
    assert_eq!(found(&mut offline).metainfo, recalled);
    for (validator, length) in [("\"v0\"", 50_000), ("\"v1\"", 50_001)] {
        let mut it = start(validator);
        it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(length));
        assert_eq!(warnings(&mut it).len(), 1);
        let asked = gets(&mut it);
        assert_eq!(asked[0].1, SIDECAR);
        it.handle_body(Time::ZERO, asked[0].0, lost(404));
        assert!(is_passthrough(&mut it));
    }
}

/// The origin has answered, and what lies beside the video is not there: the registries of these
/// trackers are asked, under the numbers from 1 on.
fn asked_at(trackers: &[&str]) -> Discover {
    let mut it = Discover::new(Time::ZERO, ask_by(trackers));
    assert_eq!(gets(&mut it), [(0, SIDECAR.to_owned())]);
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    it.handle_body(Time::ZERO, 0, lost(404));
    assert_eq!(gets(&mut it).len(), trackers.len());
    it
}

fn of_version(etag: &str) -> Result<Body, Unfound> {
    let pin = Pin {
        etag: Some(etag.to_owned()),
        ..Pin::default()
    };
    came(&film(50_000)).map(|body| body.stamped(pin))
}

#[test]
fn registries_are_asked_after_the_origin_and_go_before_the_sidecar() {
    let trackers = ["http://a.example/announce", "udp://b.example:7/x"];
    let mut it = Discover::new(Time::ZERO, ask_by(&trackers));
    assert_eq!(gets(&mut it), [(0, SIDECAR.to_owned())]);
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    let (a, b) = (at("a.example"), at("b.example:7"));
    assert_eq!(gets(&mut it), [(1, a), (2, b)]);
    it.handle_body(Time::ZERO, 1, lost(404));
    assert!(it.take_outcome().is_none());
    it.handle_body(Time::ZERO, 2, of_version("\"v1\""));
    assert_eq!(found(&mut it).trackers, trackers.map(|url| [url]));

    // A link of the origin goes before them, and spares them.
    let mut it = Discover::new(Time::ZERO, ask_by(&trackers));
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &linked("a.torrent"), None);
    assert_eq!(gets(&mut it).len(), 2);
    it.handle_body(Time::ZERO, 1, came(&film(60_000)));
    assert_eq!(found(&mut it).metainfo.layout.length(), 60_000);

    // Where the origin is down they are asked all the same.
    let mut it = Discover::new(Time::ZERO, ask_by(&trackers));
    gets(&mut it);
    it.handle_origin_failed(Time::ZERO, None);
    let asked = gets(&mut it);
    it.handle_body(Time::ZERO, asked[0].0, of_version("\"v1\""));
    assert_eq!(found(&mut it).file, 0);
}

#[test]
fn a_registry_that_is_down_costs_nothing() {
    let mut it = Discover::new(Time::ZERO, ask_by(&["http://a.example/announce"]));
    it.handle_body(Time::ZERO, 0, came(&film(50_000)));
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    // What lies beside the video waits for it a moment, no longer.
    let soon = it.next_timeout(Time::ZERO);
    assert!(soon <= Time::from_millis(300));
    it.handle_timeout(soon);
    assert_eq!(found(&mut it).metainfo.layout.length(), 50_000);

    let mut it = asked_at(&["http://a.example/announce"]);
    let mut now = Time::ZERO;
    while !it.is_over() {
        now = it.next_timeout(now);
        it.handle_timeout(now);
    }
    assert!(is_passthrough(&mut it) && now <= Time::from_secs(10));
}

#[test]
fn a_registrys_torrent_must_be_of_this_video_and_version() {
    let trackers = ["http://a.example/announce", "http://b.example/announce"];
    for (bad, why) in [
        (of_version("\"v2\""), "of another version of the video"),
        (came(&film(50_001)), "no file of the origin's length"),
        (came(b"<html>"), "bencode-malformed"),
    ] {
        let mut it = asked_at(&trackers);
        it.handle_body(Time::ZERO, 1, bad);
        assert!(it.take_outcome().is_none());
        assert_eq!(warnings(&mut it), [why]);
        // The other one's is taken.
        it.handle_body(Time::ZERO, 2, of_version("W/\"v1\""));
        assert_eq!(found(&mut it).file, 0);
    }
}

#[test]
fn a_torrent_that_is_being_made_is_joined_under_way() {
    let mut it = asked_at(&["http://a.example/announce"]);
    it.handle_body(Time::ZERO, 1, making(5));
    assert!(is_passthrough(&mut it) && !it.is_over());
    let again = it.next_timeout(Time::ZERO);
    assert_eq!(again, Time::from_secs(5));
    it.handle_timeout(again);
    assert_eq!(gets(&mut it), [(2, at("a.example"))]);
    it.handle_body(again, 2, making(7));
    let again = it.next_timeout(again);
    assert_eq!(again, Time::from_secs(12));
    it.handle_timeout(again);
    let asked = gets(&mut it);
    it.handle_body(again, asked[0].0, of_version("\"v1\""));
    assert_eq!(found(&mut it).file, 0);
    assert!(it.is_over());

    // It fails after all: nothing more is said.
    let mut it = asked_at(&["http://a.example/announce"]);
    it.handle_body(Time::ZERO, 1, making(1));
    assert!(is_passthrough(&mut it));
    it.handle_timeout(Time::from_secs(1));
    let asked = gets(&mut it);
    it.handle_body(Time::from_secs(2), asked[0].0, lost(404));
    assert!(it.is_over() && it.take_outcome().is_none());
}

#[test]
fn a_torrent_beside_the_video_is_taken_while_a_registry_makes_one() {
    for beside_first in [true, false] {
        let mut it = Discover::new(Time::ZERO, ask_by(&["http://a.example/announce"]));
        let [(beside, _)] = gets(&mut it)[..] else {
            panic!("the torrent beside the video is asked for first");
        };
        if beside_first {
            it.handle_body(Time::ZERO, beside, came(&film(50_000)));
        }
        it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
        let [(registry, _)] = gets(&mut it)[..] else {
            panic!("then the registry");
        };
        it.handle_body(Time::ZERO, registry, making(1));
        if !beside_first {
            it.handle_body(Time::ZERO, beside, came(&film(50_000)));
        }
        assert_eq!(found(&mut it).file, 0, "{beside_first}");
    }
}

#[test]
fn what_the_store_recalls_spares_the_registries() {
    let recalled = Metainfo::parse(&film(50_000)).unwrap();
    let mut it = Discover::new(Time::ZERO, ask_by(&["http://a.example/announce"]));
    it.recall(recalled.clone(), "\"v1\"".to_owned());
    assert!(gets(&mut it).is_empty());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    assert_eq!(found(&mut it).metainfo, recalled);
    let mut it = Discover::new(Time::ZERO, ask_by(&["http://a.example/announce"]));
    it.recall(recalled, "\"v0\"".to_owned());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), Some(50_000));
    let asked: Vec<_> = gets(&mut it).into_iter().map(|get| get.1).collect();
    assert_eq!(asked[0], at("a.example"));
}

#[test]
fn a_torrent_address_plays_the_named_file_or_the_largest() {
    let set = several(&[("a.mp4", 10), ("b/c.mkv", 20), ("big.iso", 90)]);
    let start = |path: Option<&str>| {
        let ask = Ask::Torrent {
            url: url("http://t.example/x.torrent"),
            path: path.map(str::to_owned),
            trackers: vec![url("udp://own.example:1/")],
        };
        let mut it = Discover::new(Time::ZERO, ask);
        assert_eq!(
            gets(&mut it),
            [(0, "http://t.example/x.torrent".to_owned())]
        );
        it
    };
    for (path, file) in [
        (None, 1),
        (Some("a.mp4"), 0),
        (Some("set/b/c.mkv"), 1),
        (Some("big.iso"), 2),
    ] {
        let mut it = start(path);
        it.handle_body(Time::ZERO, 0, came(&set.clone()));
        let found = found(&mut it);
        assert_eq!((found.file, found.origin), (file, None));
        assert_eq!(found.trackers, [["udp://own.example:1/"]]);
    }
    let mut it = start(Some("nothing"));
    it.handle_body(Time::ZERO, 0, came(&set));
    assert_eq!(failed(&mut it).0, 404);
    let mut it = start(None);
    it.handle_body(Time::ZERO, 0, came(b"d4:infodee"));
    assert_eq!(
        failed(&mut it),
        (422, "bad-torrent", "no-pieces".to_owned())
    );
    let mut it = start(None);
    it.handle_body(Time::ZERO, 0, came(&vec![0; TORRENT_LEN_MAX + 1]));
    assert_eq!(failed(&mut it), (422, "bad-torrent", "too-long".to_owned()));
    for (answer, expect) in [(404, 404), (410, 404), (451, 451), (500, 502), (403, 502)] {
        let mut it = start(None);
        it.handle_body(Time::ZERO, 0, lost(answer));
        assert_eq!(failed(&mut it).0, expect);
    }
    let mut it = start(None);
    it.handle_timeout(it.next_timeout(Time::ZERO));
    assert_eq!(failed(&mut it).0, 504);
}

fn magnet(info_hash: &str, rest: &str, path: Option<&str>) -> Discover {
    let ask = Ask::Magnet {
        magnet: Magnet::parse(&format!("xt=urn:btih:{info_hash}{rest}")).unwrap(),
        path: path.map(str::to_owned),
    };
    Discover::new(Time::ZERO, ask)
}

#[test]
fn a_magnet_tries_its_sources_then_peers() {
    let set = several(&[("a.mp4", 10), ("b.mp4", 20)]);
    let hash = Metainfo::parse(&set).unwrap().info_hash.to_string();
    let rest =
        "&xs=http://x/1&xs=http://x/2&as=http://x/3&tr=http://t/a&ws=http://w/&x.pe=1.2.3.4:5&so=0";
    let mut it = magnet(&hash, rest, None);
    assert_eq!(gets(&mut it), [(0, "http://x/1".to_owned())]);
    it.handle_body(Time::ZERO, 0, lost(404));
    assert_eq!(gets(&mut it), [(1, "http://x/2".to_owned())]);
    it.handle_body(Time::ZERO, 1, came(&film(5)));
    assert_eq!(warnings(&mut it), ["another torrent than the link names"]);
    assert_eq!(gets(&mut it), [(2, "http://x/3".to_owned())]);
    it.handle_body(Time::ZERO, 2, came(&set));
    let it = found(&mut it);
    assert_eq!(it.file, 0);
    assert_eq!(it.trackers, [["http://t/a"]]);
    assert_eq!(it.peers, ["1.2.3.4:5"]);
    assert_eq!(it.metainfo.web_seeds, ["http://w/"]);
    assert_eq!(it.web_seeds, [url("http://w/set/a.mp4")]);

    let mut it = magnet(&hash, "", Some("a.mp4"));
    assert!(gets(&mut it).is_empty());
    match it.take_outcome() {
        Some(Outcome::Magnet { magnet, path }) => {
            assert_eq!(magnet.info_hash.to_string(), hash);
            assert_eq!(path.as_deref(), Some("a.mp4"));
        }
        other => panic!("{other:?}"),
    }
    let many: String = (0..9).map(|at| format!("&xs=http://x/{at}")).collect();
    let mut it = magnet(&hash, &many, None);
    for at in 0..SOURCES_MAX {
        it.handle_timeout(it.next_timeout(Time::ZERO));
        assert_eq!(
            gets(&mut it).len(),
            usize::from(at + 1 < SOURCES_MAX) + usize::from(at == 0)
        );
    }
    assert!(matches!(it.take_outcome(), Some(Outcome::Magnet { .. })));
}

#[test]
fn trackers_come_once_and_private_ones_alone() {
    let with = |private: &str| {
        let info = format!(
            "d6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa{private}e"
        );
        let lists = "13:announce-listll27:HTTP://own.example/announce8:http://tel8:http://uee";
        format!("d{lists}4:info{info}e").into_bytes()
    };
    let tiers = |body: Vec<u8>| {
        let mut it = Discover::new(Time::ZERO, ask_by(&["http://own.example/announce"]));
        it.handle_body(Time::ZERO, 0, came(&body));
        it.handle_origin_failed(Time::ZERO, None);
        it.handle_timeout(it.next_timeout(Time::ZERO));
        found(&mut it).trackers
    };
    let own = "http://own.example/announce";
    assert_eq!(tiers(with("")), [[own], ["http://t"], ["http://u"]]);
    let private = tiers(with("7:privatei1e"));
    assert_eq!(
        private,
        [
            vec!["HTTP://own.example/announce", "http://t"],
            vec!["http://u"]
        ]
    );
}

#[test]
fn silence_ends_in_passthrough() {
    let mut it = Discover::new(Time::ZERO, ask());
    let deadline = it.next_timeout(Time::ZERO);
    it.handle_timeout(deadline.before(Duration::from_nanos(1)));
    assert!(it.take_outcome().is_none());
    it.handle_timeout(deadline);
    assert!(is_passthrough(&mut it));
    it.handle_body(deadline, 0, came(&film(5)));
    it.handle_origin_head(deadline, &url(VIDEO), &ok(), None);
    assert!(it.take_outcome().is_none());

    // A directory has no .torrent beside it.
    let ask = Ask::Video {
        video: url("http://h.example/live/"),
        trackers: Vec::new(),
    };
    let mut it = Discover::new(Time::ZERO, ask);
    assert!(gets(&mut it).is_empty());
    it.handle_origin_head(Time::ZERO, &url(VIDEO), &ok(), None);
    assert!(is_passthrough(&mut it));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// In whatever order answers come, a search ends, and asks no more than its bounds.
    #[test]
    fn every_search_ends(
        steps in proptest::collection::vec(0u8..10, 0..14),
        described in any::<bool>(),
        kind in 0u8..4,
    ) {
        let mut it = match kind {
            0 => Discover::new(Time::ZERO, ask()),
            1 => magnet(&"1".repeat(40), "&xs=http://x/1&xs=http://x/2", None),
            2 => Discover::new(Time::ZERO, ask_by(&["http://a/", "udp://b:1", "http://c/"])),
            _ => Discover::new(Time::ZERO, Ask::Torrent {
                url: url("http://t/x.torrent"), path: None, trackers: Vec::new(),
            }),
        };
        let mut now = Time::ZERO;
        let mut flying = Vec::new();
        let (mut asked, mut again) = (0, 0);
        let mut ends = Vec::new();
        for step in steps.into_iter().chain(std::iter::repeat_n(7, 40)) {
            let fetched = gets(&mut it);
            asked += fetched.len();
            flying.extend(fetched);
            let id = flying.last().map_or(99, |get| get.0);
            match step {
                0 => it.handle_origin_head(now, &url(VIDEO), &if described { linked("x") } else { ok() }, Some(50_000)),
                1 => it.handle_origin_failed(now, None),
                2 => it.handle_body(now, id, came(&film(50_000))),
                3 => it.handle_body(now, id, came(&film(40_000))),
                4 => it.handle_body(now, id, lost(404)),
                5 => it.handle_body(now, id, came(b"de")),
                6 => { flying.pop(); }
                8 => {
                    again += 1;
                    it.handle_body(now, id, making(3));
                }
                9 => {
                    let other = Pin { etag: Some("\"v2\"".to_owned()), ..Pin::default() };
                    it.handle_body(now, id, came(&film(50_000)).map(|body| body.stamped(other)));
                }
                _ => {
                    now = now.max(it.next_timeout(now).min(Time::from_secs(10_000)));
                    it.handle_timeout(now);
                    prop_assert!(it.next_timeout(now) > now, "it would spin");
                }
            }
            ends.extend(it.take_outcome());
        }
        prop_assert!(it.is_over());
        prop_assert!(matches!(
            &ends[..],
            [_] | [Outcome::Passthrough, Outcome::Torrent(_)]
        ), "{ends:?}");
        prop_assert!(asked <= 1 + DESCRIBED_MAX + REGISTRIES_MAX + again);
        prop_assert!(gets(&mut it).is_empty());
    }
}

#[test]
fn what_may_be_there_a_moment_later_is_looked_for_again_soon() {
    let sought = |origin: Option<&str>, beside: Result<Body, Unfound>| {
        let mut it = Discover::new(Time::ZERO, ask());
        match origin {
            Some(lines) => it.handle_origin_head(Time::ZERO, &url(VIDEO), &head(lines), None),
            None => it.handle_origin_failed(Time::ZERO, None),
        }
        it.handle_body(Time::ZERO, 0, beside);
        assert!(is_passthrough(&mut it));
        it.again_after()
    };
    let silent = || {
        let mut nobody = lost(0);
        if let Err(unfound) = &mut nobody {
            unfound.status = None;
        }
        nobody
    };
    let (here, gone) = ("200 OK", "404 Not Found");
    assert_eq!(sought(Some(here), lost(404)), AGAIN_AFTER);
    assert_eq!(sought(Some(gone), lost(404)), AGAIN_AFTER);
    assert_eq!(sought(Some(here), lost(503)), AGAIN_SOON);
    assert_eq!(sought(Some(here), silent()), AGAIN_SOON);
    // One that refuses may have said for how long.
    assert_eq!(sought(Some("503 Busy"), lost(503)), AGAIN_AFTER);
    // Its server is down: each request is a new look.
    assert_eq!(sought(None, silent()), Duration::ZERO);
    let mut refused = Discover::new(Time::ZERO, ask());
    refused.handle_origin_failed(Time::ZERO, Some(429));
    assert_eq!(refused.again_after(), AGAIN_AFTER);
}
