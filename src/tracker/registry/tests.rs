//! The registry held to its contract: who may ask and tell, what is fetched, what is retired.

use proptest::prelude::*;

use super::*;
use crate::torrent::metainfo::Builder;
use crate::torrent::stream_hash::StreamHash;
use crate::tracker::registry::job::AT_ONCE_MAX;
use crate::tracker::registry::job::QUEUE_MAX;
use crate::tracker::registry::job::TIME_MAX;

const TOKEN: &str = "Bearer 0123456789abcdef0123456789abcdef";
const OURS: &str = "http://t.example/announce";
const NOW: Time = Time::from_secs(5000);
const MINE: &str = "url=http://p.example/a.mp4";
const FREE: &str = "url=http://auto.example/a.mp4";

fn registry() -> Registry {
    Registry::new(Policy {
        tokens: Tokens::parse("0123456789abcdef0123456789abcdef p.example *.p.example").unwrap(),
        auto: vec![
            "auto.example".parse().unwrap(),
            "*.auto.example".parse().unwrap(),
        ],
        announce: vec![OURS.to_owned()],
        ..Policy::default()
    })
}

fn torrent(len: usize) -> Vec<u8> {
    Builder::of("a.mp4", 16_384, &vec![1; len]).build()
}

fn get(it: &mut Registry, now: Time, query: &str) -> Reply {
    it.handle_get(now, query, None, false)
}

fn put(it: &mut Registry, query: &str, body: &[u8]) -> u16 {
    it.handle_put(NOW, query, Some(TOKEN), body).status
}

fn outputs(it: &mut Registry) -> Vec<Output> {
    std::iter::from_fn(|| it.poll_output()).collect()
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let found = reply.headers.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

fn pin(etag: &str, length: u64) -> Pin {
    Pin {
        etag: Some(format!("\"{etag}\"")),
        last_modified: None,
        length: Some(length),
    }
}

fn film(len: usize, etag: &str) -> Film {
    let bytes = vec![1; len];
    let length = u64::try_from(len).unwrap();
    let mut hash = StreamHash::new(Some(length));
    hash.update(&bytes).unwrap();
    Film {
        hashed: hash.finish().unwrap(),
        pin: pin(etag, length),
    }
}

/// The one job that is to begin.
fn job(it: &mut Registry) -> JobId {
    let hashes = outputs(it).into_iter().filter_map(|output| match output {
        Output::Hash { id, .. } => Some(id),
        _ => None,
    });
    let ids: Vec<_> = hashes.collect();
    assert_eq!(ids.len(), 1);
    ids[0]
}

fn failed() -> Failed {
    Failed {
        why: "no".to_owned(),
        retry: None,
    }
}

#[test]
fn what_a_publisher_tells_is_given() {
    let mut it = registry();
    assert_eq!(get(&mut it, NOW, MINE).status, 404);
    assert_eq!(put(&mut it, MINE, &torrent(50_000)), 201);
    let stored = outputs(&mut it);
    let [
        Output::Store {
            record,
            torrent: kept,
        },
    ] = &stored[..]
    else {
        panic!("{stored:?}");
    };
    let metainfo = Metainfo::parse(kept).unwrap();
    assert_eq!(metainfo.trackers, [[OURS]]);
    assert_eq!(metainfo.web_seeds, ["http://p.example/a.mp4"]);
    assert_eq!((record.by, record.length), (By::Publisher, 50_000));
    let reply = get(&mut it, NOW, MINE);
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.body,
        Body::Torrent("http://p.example/a.mp4".to_owned())
    );
    assert_eq!(
        header(&reply, "Content-Type"),
        Some("application/x-bittorrent")
    );
    let etag = format!("\"{}\"", metainfo.info_hash);
    assert_eq!(header(&reply, "ETag"), Some(&*etag));
    for known in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        let reply = it.handle_get(NOW, MINE, Some(&known), false);
        assert_eq!((reply.status, header(&reply, "ETag")), (304, Some(&*etag)));
    }
    assert_eq!(it.handle_get(NOW, MINE, Some("\"x\""), true).status, 200);
    assert_eq!(put(&mut it, MINE, &torrent(60_000)), 200);
}

#[test]
fn each_refusal_of_a_put_has_its_status() {
    let mut it = registry();
    let good = torrent(5);
    assert_eq!(put(&mut it, "url=nothing", &good), 400);
    let reply = it.handle_put(NOW, MINE, None, &good);
    assert_eq!(
        (reply.status, header(&reply, "WWW-Authenticate")),
        (401, Some("Bearer"))
    );
    assert_eq!(
        it.handle_put(NOW, MINE, Some("Bearer x"), &good).status,
        401
    );
    assert_eq!(put(&mut it, FREE, &good), 403);
    assert_eq!(put(&mut it, "url=http://p.example:81/a.mp4", &good), 403);
    assert_eq!(put(&mut it, MINE, b"<html>"), 422);
    assert_eq!(put(&mut it, MINE, &vec![b'd'; TORRENT_LEN_MAX + 1]), 413);
    assert!(outputs(&mut it).is_empty());
    it = Registry::new(Policy {
        entries_max: 1,
        ..registry().policy
    });
    assert_eq!(put(&mut it, MINE, &good), 201);
    assert_eq!(put(&mut it, MINE, &good), 200);
    assert_eq!(put(&mut it, "url=http://p.example/b.mp4", &good), 507);
}

#[test]
fn a_video_of_an_allowed_host_is_fetched_once() {
    let mut it = registry();
    assert_eq!(it.handle_get(NOW, FREE, None, true).status, 404);
    assert!(outputs(&mut it).is_empty());
    for _ in 0..3 {
        let reply = get(&mut it, NOW, FREE);
        assert_eq!(
            (reply.status, header(&reply, "Retry-After")),
            (202, Some("5"))
        );
    }
    let id = job(&mut it);
    it.handle_hashed(NOW, id, Ok(film(50_000, "v1")));
    let stored = outputs(&mut it);
    let [Output::Store { record, torrent }] = &stored[..] else {
        panic!("{stored:?}");
    };
    let metainfo = Metainfo::parse(torrent).unwrap();
    assert_eq!((record.by, metainfo.name.as_str()), (By::Auto, "a.mp4"));
    assert_eq!(metainfo.web_seeds, ["http://auto.example/a.mp4"]);
    assert_eq!(metainfo.trackers, [[OURS]]);
    let reply = get(&mut it, NOW, FREE);
    assert_eq!(
        (reply.status, header(&reply, "Video-ETag")),
        (200, Some("\"v1\""))
    );
    // A second word on it changes nothing.
    it.handle_hashed(NOW, id, Err(failed()));
    assert_eq!(get(&mut it, NOW, FREE).status, 200);
    assert!(outputs(&mut it).is_empty());
}

#[test]
fn other_hosts_and_folders_are_not_fetched() {
    let mut it = registry();
    for query in [
        MINE,
        "url=http://auto.example:81/a.mp4",
        "url=http://auto.example/films/",
        "url=http://127.0.0.1/a.mp4",
        "url=http://evilauto.example/a.mp4",
    ] {
        assert_eq!(get(&mut it, NOW, query).status, 404, "{query}");
    }
    assert_eq!(get(&mut it, NOW, "url=x").status, 400);
    assert!(outputs(&mut it).is_empty());
}

#[test]
fn a_failure_is_remembered_and_tried_again_later() {
    let mut it = registry();
    get(&mut it, NOW, FREE);
    let id = job(&mut it);
    it.handle_hashed(NOW, id, Err(failed()));
    let reply = get(&mut it, NOW, FREE);
    assert_eq!(
        (reply.status, header(&reply, "Retry-After")),
        (404, Some("60"))
    );
    assert!(outputs(&mut it).is_empty());
    let later = NOW + failure::WAIT_MIN;
    assert_eq!(get(&mut it, later, FREE).status, 202);
    let id = job(&mut it);
    // Whose versions cannot be told apart is not taken.
    let unstamped = Film {
        pin: Pin::default(),
        ..film(5, "")
    };
    it.handle_hashed(later, id, Ok(unstamped));
    assert_eq!(get(&mut it, later + failure::WAIT_MIN, FREE).status, 404);
    let id = {
        get(&mut it, later + failure::WAIT_MIN * 2, FREE);
        job(&mut it)
    };
    let end = it.next_timeout();
    it.handle_timeout(end);
    assert_eq!(outputs(&mut it), [Output::Cancel { id }]);
    assert_eq!(end, later + failure::WAIT_MIN * 2 + TIME_MAX);
    assert_eq!(get(&mut it, end, FREE).status, 404);
}

#[test]
fn a_put_outranks_a_fetch_under_way() {
    let mut it = registry();
    it.policy.auto.push("p.example".parse().unwrap());
    assert_eq!(get(&mut it, NOW, MINE).status, 202);
    let id = job(&mut it);
    assert_eq!(put(&mut it, MINE, &torrent(7)), 201);
    let told = outputs(&mut it);
    assert!(told.contains(&Output::Cancel { id }), "{told:?}");
    it.handle_hashed(NOW, id, Ok(film(9, "v1")));
    assert!(outputs(&mut it).is_empty());
    assert_eq!(get(&mut it, NOW, MINE).status, 200);
}

#[test]
fn the_queue_is_bounded() {
    let mut it = registry();
    let query = |nth: usize| format!("url=http://h{nth}.auto.example/a.mp4");
    let mut now = NOW;
    for nth in 0..AT_ONCE_MAX + QUEUE_MAX {
        assert_eq!(get(&mut it, now, &query(nth)).status, 202, "{nth}");
        now = now + Duration::from_secs(10);
    }
    let reply = get(&mut it, now, &query(999));
    assert_eq!(reply.status, 503);
    assert!(header(&reply, "Retry-After").is_some());
    let running = outputs(&mut it);
    assert_eq!(running.len(), AT_ONCE_MAX);
}

fn known(now: Time) -> Registry {
    let mut it = registry();
    get(&mut it, now, FREE);
    let id = job(&mut it);
    it.handle_hashed(now, id, Ok(film(50_000, "v1")));
    outputs(&mut it);
    it
}

fn video() -> Url {
    Url::parse("http://auto.example/a.mp4").unwrap()
}

#[test]
fn an_old_entry_is_looked_at_before_it_is_given() {
    let mut it = known(NOW);
    let check = [Output::Check { url: video() }];
    // In the background at first.
    let mut now = NOW + FRESH;
    assert_eq!(get(&mut it, now, FREE).status, 200);
    assert_eq!(get(&mut it, now, FREE).status, 200);
    assert_eq!(outputs(&mut it), check);
    it.handle_checked(now, &video(), Ok(pin("v1", 50_000)));
    assert_eq!(get(&mut it, now, FREE).status, 200);
    assert!(outputs(&mut it).is_empty());
    now = now + STALE_MAX;
    let reply = get(&mut it, now, FREE);
    assert_eq!(
        (reply.status, header(&reply, "Retry-After")),
        (202, Some("1"))
    );
    assert_eq!(outputs(&mut it), check);
    // A server that is down contradicts nothing.
    it.handle_checked(now, &video(), Err(failed()));
    assert_eq!(get(&mut it, now, FREE).status, 200);
}

#[test]
fn a_changed_video_is_retired_and_hashed_anew() {
    for changed in [pin("v2", 50_000), pin("v1", 50_001)] {
        let mut it = known(NOW);
        let now = NOW + STALE_MAX;
        get(&mut it, now, FREE);
        outputs(&mut it);
        it.handle_checked(now, &video(), Ok(changed));
        let told = outputs(&mut it);
        let url = video().to_string();
        assert_eq!(told[0], Output::Delete { url });
        let Output::Hash { id, .. } = told[1] else {
            panic!("{told:?}");
        };
        assert_eq!(get(&mut it, now, FREE).status, 202);
        it.handle_hashed(now, id, Ok(film(60_000, "v2")));
        let reply = get(&mut it, now, FREE);
        assert_eq!(header(&reply, "Video-ETag"), Some("\"v2\""));
    }
}

#[test]
fn of_a_publishers_video_the_version_is_learnt_and_held_to() {
    let mut it = registry();
    put(&mut it, MINE, &torrent(7));
    outputs(&mut it);
    let url = Url::parse("http://p.example/a.mp4").unwrap();
    let mut now = NOW + FRESH;
    assert_eq!(get(&mut it, now, MINE).status, 200);
    assert_eq!(outputs(&mut it), [Output::Check { url: url.clone() }]);
    it.handle_checked(now, &url, Ok(pin("v1", 7)));
    assert!(matches!(&outputs(&mut it)[..], [Output::Note { record }] if record.etag.is_some()));
    now = now + FRESH;
    get(&mut it, now, MINE);
    outputs(&mut it);
    it.handle_checked(now, &url, Ok(pin("v2", 7)));
    assert_eq!(
        outputs(&mut it),
        [Output::Delete {
            url: url.to_string()
        }]
    );
    assert_eq!(get(&mut it, now, MINE).status, 404);
}

#[test]
fn what_was_kept_is_looked_at_first_after_a_start() {
    let mut before = known(NOW);
    let record = before
        .entries
        .get_mut(video().as_str())
        .unwrap()
        .record
        .clone();
    let mut it = registry();
    assert!(it.restore(Time::ZERO, record.clone()));
    assert_eq!(get(&mut it, Time::ZERO, FREE).status, 202);
    assert_eq!(outputs(&mut it), [Output::Check { url: video() }]);
    it.handle_checked(Time::ZERO, &video(), Ok(pin("v1", 50_000)));
    assert_eq!(get(&mut it, Time::ZERO, FREE).status, 200);
    // Its file is gone: the next one finds out anew.
    assert_eq!(it.lost(video().as_str()).status, 404);
    let url = video().to_string();
    assert_eq!(outputs(&mut it), [Output::Delete { url }]);
    assert_eq!(get(&mut it, Time::ZERO, FREE).status, 202);
    it = Registry::new(Policy {
        entries_max: 0,
        ..registry().policy
    });
    assert!(!it.restore(Time::ZERO, record));
    // Nobody would ever ask for its files, or count them.
    let url = video().to_string();
    assert_eq!(outputs(&mut it), [Output::Delete { url }]);
}

#[test]
fn what_went_for_a_torrent_that_found_no_room_is_deleted() {
    let auto = known(NOW).entries.remove(video().as_str()).unwrap().record;
    let room = Policy {
        bytes_max: 1000,
        ..registry().policy
    };
    let gone = [Output::Delete {
        url: auto.url.clone(),
    }];
    let mut it = Registry::new(room.clone());
    assert!(it.restore(NOW, auto.clone()));
    assert_eq!(put(&mut it, MINE, &torrent(100 * 16_384)), 507);
    assert_eq!(outputs(&mut it), gone);
    let mut it = Registry::new(room);
    assert!(it.restore(NOW, auto.clone()));
    let large = Record {
        url: "http://p.example/a.mp4".to_owned(),
        torrent_len: 1001,
        by: By::Publisher,
        ..auto
    };
    let own = Output::Delete {
        url: large.url.clone(),
    };
    assert!(!it.restore(NOW, large));
    assert_eq!(outputs(&mut it), [gone[0].clone(), own]);
}

#[test]
fn other_rules_hold_at_once() {
    let mut it = registry();
    it.set_hosts(Tokens::default(), vec!["p.example".parse().unwrap()]);
    assert_eq!(get(&mut it, NOW, FREE).status, 404);
    assert_eq!(get(&mut it, NOW, MINE).status, 202);
    assert_eq!(put(&mut it, MINE, &torrent(5)), 401);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever comes in whatever order: what is given is what was last stored and not deleted.
    #[test]
    fn what_is_given_is_what_is_kept(steps in prop::collection::vec((0u8..9, 0u8..4), 0..60)) {
        let mut it = Registry::new(Policy { entries_max: 2, ..registry().policy });
        let mut kept = std::collections::BTreeMap::new();
        let (mut jobs, mut checks) = (Vec::new(), Vec::new());
        let mut now = NOW;
        for (step, nth) in steps {
            now = now + Duration::from_secs(40);
            let host = if nth < 2 { "auto.example" } else { "p.example" };
            let query = format!("url=http://{host}/{nth}.mp4");
            match step {
                0..4 => {
                    let reply = get(&mut it, now, &query);
                    if let Body::Torrent(url) = &reply.body {
                        let record: &Record = kept.get(url).expect("it is kept");
                        let etag = format!("\"{}\"", record.info_hash);
                        prop_assert_eq!(header(&reply, "ETag"), Some(etag.as_str()));
                    }
                }
                4 => drop(put(&mut it, &query, &torrent(usize::from(step)))),
                5 => if let Some(id) = jobs.pop() {
                    it.handle_hashed(now, id, Ok(film(9, "v1")));
                },
                6 => if let Some(id) = jobs.pop() { it.handle_hashed(now, id, Err(failed())) },
                7 => if let Some(url) = checks.pop() {
                    it.handle_checked(now, &url, Ok(pin(if nth == 0 { "v2" } else { "v1" }, 9)));
                },
                _ => it.handle_timeout(now),
            }
            for output in outputs(&mut it) {
                match output {
                    Output::Store { record, .. } | Output::Note { record } => {
                        kept.insert(record.url.clone(), record);
                    }
                    Output::Delete { url } => drop(kept.remove(&url)),
                    Output::Hash { id, .. } => jobs.push(id),
                    Output::Cancel { id } => jobs.retain(|known| *known != id),
                    Output::Check { url } => checks.push(url),
                }
            }
            prop_assert!(kept.len() <= 2 && jobs.len() <= AT_ONCE_MAX);
        }
    }
}
