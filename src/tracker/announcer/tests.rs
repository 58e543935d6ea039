//! Announces to trackers that work, fail and mislead, on a made-up clock.

use proptest::prelude::*;

use super::*;
use crate::torrent::bencode::Encoder;
use crate::tracker::announce;

fn tiers(tiers: &[&[&str]]) -> Vec<Vec<String>> {
    let owned = |tier: &&[&str]| tier.iter().map(|url| (*url).to_owned()).collect();
    tiers.iter().map(owned).collect()
}

fn announcer(list: &[&[&str]]) -> Announcer {
    let id = PeerId(*b"-BU0100-abcdefghijkl");
    let mut announcer = Announcer::new(Time::ZERO, tiers(list), InfoHash([7; 20]), id, 10234, 1);
    announcer.totals(1, 2, 3);
    announcer
}

/// Announces that came out: id and URL.
fn announces(announcer: &mut Announcer) -> Vec<(u64, String)> {
    std::iter::from_fn(|| announcer.poll_output())
        .filter_map(|output| match output {
            Output::Ask { id, ask, .. } => match ask {
                Ask::HttpAnnounce(url) | Ask::Udp { url, .. } => Some((id, url)),
                Ask::HttpScrape(..) => panic!("nobody asked for a scrape"),
            },
            Output::Peers(_) => None,
        })
        .collect()
}

/// What an HTTP tracker answered.
fn reply(it: &mut Announcer, now: Time, id: u64, body: Result<&[u8], TrackerFailed>) {
    let reply = body.and_then(http::parse_reply);
    it.handle_answer(now, id, reply.map(Answer::Announced));
}

/// The one announce that came out.
fn one(announcer: &mut Announcer) -> (u64, String) {
    let mut all = announces(announcer);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn host(url: &str) -> String {
    Url::parse(url).unwrap().host_str().unwrap().to_owned()
}

fn event(url: &str) -> Option<String> {
    let url = Url::parse(url).unwrap();
    let mut pairs = url.query_pairs();
    pairs
        .find(|(key, _)| key == "event")
        .map(|(_, value)| value.into_owned())
}

fn answer(interval: i64, min: i64) -> Vec<u8> {
    silent(interval, min)
        .int(b"complete", 1)
        .int(b"incomplete", 2)
        .finish()
}

/// An answer that says nothing of how many there are.
fn silent(interval: i64, min: i64) -> Encoder<'static> {
    Encoder::new()
        .int(b"interval", interval)
        .int(b"min interval", min)
        .bytes(b"peers", &b"\x01\x02\x03\x04\x1a\xe1"[..])
}

fn failed() -> Result<&'static [u8], TrackerFailed> {
    Err(TrackerFailed::new("refused"))
}

const fn at(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

#[test]
fn all_tiers_start_in_parallel_and_say_what_is_left() {
    let mut it = announcer(&[&["http://a/"], &["http://b/", "http://c/"]]);
    assert_eq!(it.next_timeout(), Time::ZERO);
    it.handle_timeout(Time::ZERO);
    let all = announces(&mut it);
    assert_eq!(all.len(), 2);
    for (_, url) in &all {
        assert!(url.contains("&uploaded=1&downloaded=2&left=3&"), "{url}");
        assert_eq!(event(url).as_deref(), Some("started"));
    }
    assert_eq!(host(&all[0].1), "a");
    reply(&mut it, at(1), all[0].0, Ok(&answer(900, 60)));
    let peers = it.poll_output();
    assert_eq!(
        peers,
        Some(Output::Peers(vec!["1.2.3.4:6881".parse().unwrap()]))
    );
    assert_eq!(it.poll_output(), None);
}

#[test]
fn udp_trackers_take_turns_with_the_others() {
    let mut it = announcer(&[&["UDP://d:1/a?k=2"], &["wss://e/"]]);
    it.handle_timeout(Time::ZERO);
    let call = it.poll_output();
    let Some(Output::Ask {
        id,
        ask:
            Ask::Udp {
                question: Question::Announce { said, heard },
                ..
            },
        ..
    }) = call
    else {
        panic!("{call:?}");
    };
    assert_eq!((said.left, said.event), (3, Event::Started));
    assert_eq!(heard, "/a?k=2");
    let peers = vec!["1.2.3.4:6881".parse().unwrap()];
    let reply = announce::Reply {
        interval: Duration::from_secs(900),
        min_interval: None,
        peers: peers.clone(),
        seeders: Some(1),
        leechers: Some(2),
        tracker_id: None,
        warning: None,
    };
    it.handle_answer(at(1), id, Ok(Answer::Announced(reply)));
    assert_eq!(it.poll_output(), Some(Output::Peers(peers)));
    assert_eq!(it.next_timeout(), at(901));
    it.handle_timeout(at(901));
    let (id, _) = one(&mut it);
    it.handle_answer(at(902), id, Err(TrackerFailed::new("silence")));
    assert_eq!(it.status()[0].state, State::Failed("silence".to_owned()));
    it.stop(at(903));
    let said = it.poll_output();
    let Some(Output::Ask {
        ask:
            Ask::Udp {
                question: Question::Announce { said, .. },
                ..
            },
        ..
    }) = said
    else {
        panic!("{said:?}");
    };
    assert_eq!(said.event, Event::Stopped);
}

#[test]
fn a_tier_is_tried_in_turn_and_success_moves_to_the_front() {
    let mut it = announcer(&[&["http://a/", "http://b/", "http://c/"]]);
    it.handle_timeout(Time::ZERO);
    let mut tried = Vec::new();
    for _ in 0..2 {
        let (id, url) = one(&mut it);
        tried.push(host(&url));
        reply(&mut it, at(1), id, failed());
    }
    let (id, url) = one(&mut it);
    tried.push(host(&url));
    reply(&mut it, at(1), id, Ok(&answer(900, 60)));
    let order: Vec<_> = it.status().iter().map(|view| host(&view.url)).collect();
    assert_eq!(
        order,
        [tried[2].clone(), tried[0].clone(), tried[1].clone()]
    );
    tried.sort();
    assert_eq!(tried, ["a", "b", "c"]);
    // The regular announce comes at the interval, to the one that works, with no event.
    assert_eq!(it.next_timeout(), at(901));
    assert!(announces(&mut it).is_empty());
    it.handle_timeout(at(900));
    assert!(announces(&mut it).is_empty());
    it.handle_timeout(at(901));
    let (_, url) = one(&mut it);
    assert_eq!((host(&url), event(&url)), (order[0].clone(), None));
}

#[test]
fn shuffling_follows_the_seed() {
    let urls: Vec<String> = (0..20).map(|at| format!("http://t{at}/")).collect();
    let order = |seed| {
        let id = PeerId([1; 20]);
        let it = Announcer::new(
            Time::ZERO,
            vec![urls.clone()],
            InfoHash([7; 20]),
            id,
            1,
            seed,
        );
        it.status()
            .into_iter()
            .map(|view| view.url)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn back_off_doubles_to_half_an_hour() {
    let mut it = announcer(&[&["http://a/"]]);
    let mut now = Time::ZERO;
    for failure in 0..12u32 {
        it.handle_timeout(now);
        let (id, url) = one(&mut it);
        assert_eq!(event(&url).as_deref(), Some("started"));
        reply(&mut it, now, id, failed());
        let wait = it.next_timeout().since(now).as_secs_f64();
        let nominal = (15.0 * f64::from(1 << failure)).min(1800.0);
        assert!(
            (nominal * 0.75..=nominal * 1.25).contains(&wait),
            "{failure}: {wait}"
        );
        assert!(matches!(it.status()[0].state, State::Failed(_)));
        now = it.next_timeout();
    }
    // More peers are not asked of a tracker that fails.
    it.more_peers(now.before(Duration::from_secs(1)));
    assert!(announces(&mut it).is_empty());
}

#[test]
fn trackers_say_when_to_come_again_or_never() {
    let mut it = announcer(&[&["http://a/"], &["http://b/"]]);
    it.handle_timeout(Time::ZERO);
    let all = announces(&mut it);
    reply(
        &mut it,
        at(0),
        all[0].0,
        Ok(b"d14:failure reason1:x8:retry ini5ee"),
    );
    reply(
        &mut it,
        at(0),
        all[1].0,
        Ok(b"d14:failure reason4:gone8:retry in5:nevere"),
    );
    assert_eq!(it.next_timeout(), at(300));
    let status = it.status();
    assert_eq!(status[0].next, at(300));
    assert_eq!(status[1].next, Time::NEVER);
    assert_eq!(status[1].state, State::Refused("gone".to_owned()));
    it.handle_timeout(at(300));
    assert_eq!(host(&one(&mut it).1), "a");
}

#[test]
fn more_peers_wait_for_the_min_interval() {
    for (min, first) in [(120, 120), (1, 60)] {
        let mut it = announcer(&[&["http://a/"]]);
        it.handle_timeout(Time::ZERO);
        let (id, _) = one(&mut it);
        reply(&mut it, Time::ZERO, id, Ok(&answer(1800, min)));
        it.more_peers(at(10));
        assert!(announces(&mut it).is_empty());
        assert_eq!(it.next_timeout(), at(first));
        it.handle_timeout(at(first));
        let (id, url) = one(&mut it);
        assert_eq!(event(&url), None);
        reply(&mut it, at(first), id, Ok(&answer(1800, min)));
        assert_eq!(it.next_timeout(), at(first + 1800));
        it.more_peers(at(first + 500));
        one(&mut it);
    }
}

#[test]
fn completed_is_told_once_to_those_who_know_us() {
    let mut it = announcer(&[&["http://a/"], &["http://b/"], &["http://c/"]]);
    it.handle_timeout(Time::ZERO);
    let all = announces(&mut it);
    reply(&mut it, at(1), all[0].0, Ok(&answer(1800, 60)));
    reply(&mut it, at(1), all[1].0, failed());
    it.totals(0, 10, 0);
    it.completed(at(2));
    let (id, url) = one(&mut it);
    assert_eq!(
        (host(&url), event(&url).as_deref()),
        ("a".to_owned(), Some("completed"))
    );
    assert!(url.contains("&left=0&"));
    reply(&mut it, at(3), id, Ok(&answer(1800, 60)));
    assert!(announces(&mut it).is_empty());
    // c's `started` was under way with the old `left`: it hears of the end when it answers.
    reply(&mut it, at(4), all[2].0, Ok(&answer(1800, 60)));
    let (_, url) = one(&mut it);
    assert_eq!(
        (host(&url), event(&url).as_deref()),
        ("c".to_owned(), Some("completed"))
    );
    // b hears of it by `left` when it is back.
    it.handle_timeout(at(30));
    let (_, url) = one(&mut it);
    assert_eq!(
        (host(&url), event(&url).as_deref()),
        ("b".to_owned(), Some("started"))
    );
    assert!(url.contains("&left=0&"));
}

#[test]
fn stop_tells_those_who_know_us_and_is_bounded() {
    let mut it = announcer(&[
        &["http://a/"],
        &["http://b/"],
        &["http://c/"],
        &["http://d/"],
        &["http://e/"],
    ]);
    it.handle_timeout(Time::ZERO);
    let all = announces(&mut it);
    // The last one waits, and so has heard nothing.
    for (id, _) in &all[..4] {
        assert!(it.handle_begun(Time::ZERO, *id));
    }
    reply(&mut it, at(1), all[0].0, Ok(&answer(1800, 60)));
    reply(&mut it, at(1), all[1].0, failed());
    reply(&mut it, at(1), all[3].0, Ok(&answer(1800, 60)));
    while it.poll_output().is_some() {}
    it.stop(at(2));
    it.stop(at(2));
    let told = announces(&mut it);
    let hosts: Vec<_> = told.iter().map(|(_, url)| host(url)).collect();
    assert_eq!(hosts, ["a", "c", "d"]);
    for (_, url) in &told {
        assert_eq!(event(url).as_deref(), Some("stopped"));
        assert!(url.contains("&numwant=0&"));
    }
    // The answer to c's `started` comes too late to matter.
    reply(&mut it, at(3), all[2].0, Ok(&answer(1800, 60)));
    reply(&mut it, at(3), told[0].0, Ok(&answer(1800, 60)));
    reply(&mut it, at(3), told[1].0, failed());
    assert!(!it.stopped());
    assert_eq!(it.next_timeout(), at(7));
    it.handle_timeout(at(7));
    assert!(it.stopped());
    assert_eq!(it.next_timeout(), Time::NEVER);
    it.more_peers(at(8));
    it.completed(at(8));
    it.add_trackers(at(8), vec!["http://f/".to_owned()]);
    it.handle_timeout(at(9));
    assert_eq!(it.poll_output(), None);
}

#[test]
fn what_cannot_be_asked_keeps_its_place() {
    let mut it = announcer(&[&["udp://a/"], &["wss://b/"], &["c"], &["http://d/?port=1"]]);
    it.handle_timeout(Time::ZERO);
    assert_eq!(it.poll_output(), None);
    assert_eq!(it.next_timeout(), Time::NEVER);
    let states: Vec<_> = it.status().into_iter().map(|view| view.state).collect();
    assert_eq!(states[0], State::Refused("no port in its URL".to_owned()));
    assert!(
        states
            .iter()
            .all(|state| matches!(state, State::Refused(_)))
    );
    it.stop(at(1));
    assert!(it.stopped());
}

#[test]
fn an_answer_that_never_comes_counts_as_failure() {
    let mut it = announcer(&[&["http://a/"]]);
    it.handle_timeout(Time::ZERO);
    let (id, _) = one(&mut it);
    // It waits until others are done, however long that takes.
    assert_eq!(it.next_timeout(), Time::NEVER);
    assert!(it.handle_begun(at(100), id) && it.handle_begun(at(101), id));
    assert_eq!(it.next_timeout(), at(135));
    it.handle_timeout(at(134));
    assert_eq!(it.status()[0].state, State::Announcing);
    it.handle_timeout(at(135));
    assert!(matches!(it.status()[0].state, State::Failed(_)));
    assert!(!it.handle_begun(at(136), id), "nobody waits for it");
    reply(&mut it, at(136), id, Ok(&answer(900, 60)));
    assert!(matches!(it.status()[0].state, State::Failed(_)));
}

/// The scrape that came out, if one did.
fn scrape(it: &mut Announcer) -> Option<(u64, String)> {
    std::iter::from_fn(|| it.poll_output()).find_map(|output| match output {
        Output::Ask {
            id,
            ask: Ask::HttpScrape(url, _),
            deadline,
        } => {
            assert_eq!(deadline, SCRAPE_TIMEOUT);
            Some((id, url))
        }
        _ => None,
    })
}

#[test]
fn who_tells_no_counts_is_scraped_once_an_interval() {
    let mut it = announcer(&[&["http://a/announce"]]);
    it.handle_timeout(Time::ZERO);
    let (id, _) = one(&mut it);
    reply(&mut it, at(1), id, Ok(&silent(900, 60).finish()));
    let (id, url) = scrape(&mut it).expect("it said nothing");
    assert!(url.starts_with("http://a/scrape?info_hash=%07%07"), "{url}");
    let counts = Counts {
        seeders: 3,
        leechers: 4,
    };
    it.handle_answer(at(2), id, Ok(Answer::Scraped(counts)));
    assert_eq!(it.status()[0].counts, Some(counts));
    assert_eq!(it.status()[0].state, State::Working(None));
    assert_eq!(it.next_timeout(), at(901));
    // More peers are asked for before that, and no second scrape.
    it.more_peers(at(61));
    let (id, _) = one(&mut it);
    reply(&mut it, at(62), id, Ok(&silent(900, 60).finish()));
    assert_eq!(scrape(&mut it), None);
    assert_eq!(it.status()[0].counts, Some(counts), "better than nothing");
    it.handle_timeout(at(962));
    let (id, _) = one(&mut it);
    reply(&mut it, at(963), id, Ok(&silent(900, 60).finish()));
    let (id, _) = scrape(&mut it).expect("the interval is over");
    // That it fails changes nothing.
    it.handle_answer(at(964), id, Err(TrackerFailed::new("no")));
    assert_eq!(it.status()[0].state, State::Working(None));
    assert_eq!(it.next_timeout(), at(963 + 900));
    // The end is told also while one is on its way.
    it.handle_timeout(at(963 + 900));
    let (id, _) = one(&mut it);
    reply(&mut it, at(1864), id, Ok(&silent(900, 60).finish()));
    assert!(scrape(&mut it).is_some());
    it.stop(at(1865));
    assert_eq!(event(&one(&mut it).1).as_deref(), Some("stopped"));
}

#[test]
fn counts_are_believed_unless_peers_contradict_them() {
    for (peers, seeders, scraped) in [(1, 1, false), (1, 0, true), (0, 0, false)] {
        let mut it = announcer(&[&["http://a/announce"]]);
        it.handle_timeout(Time::ZERO);
        let (id, _) = one(&mut it);
        let said = Encoder::new()
            .int(b"complete", seeders)
            .int(b"incomplete", 0);
        let said = said.bytes(b"peers", [7; 6].repeat(peers));
        reply(&mut it, at(1), id, Ok(&said.finish()));
        assert_eq!(scrape(&mut it).is_some(), scraped);
    }
    let mut it = announcer(&[&["http://a/ann"]]);
    it.handle_timeout(Time::ZERO);
    let (id, _) = one(&mut it);
    reply(&mut it, at(1), id, Ok(&silent(900, 60).finish()));
    assert_eq!(scrape(&mut it), None, "it cannot be");
}

#[test]
fn trackers_are_added_once_and_bounded() {
    let mut it = announcer(&[&["http://a/"]]);
    let more: Vec<String> = (0..200).map(|at| format!("http://t{at}/")).collect();
    it.add_trackers(at(1), vec!["http://a/".to_owned(), "http://a/".to_owned()]);
    it.add_trackers(at(1), more);
    assert_eq!(it.status().len(), TRACKERS_MAX);
    it.handle_timeout(at(1));
    assert_eq!(announces(&mut it).len(), 2);
}

#[test]
fn many_tiers_take_turns() {
    let urls: Vec<String> = (0..40).map(|at| format!("http://t{at}/")).collect();
    let tiers = urls.iter().map(|url| vec![url.clone()]).collect();
    let mut it = Announcer::new(Time::ZERO, tiers, InfoHash([7; 20]), PeerId([1; 20]), 1, 1);
    it.handle_timeout(Time::ZERO);
    let mut flying = announces(&mut it);
    let mut asked = flying.len();
    assert_eq!(asked, FLIGHTS_MAX);
    for (id, _) in &flying {
        it.handle_begun(Time::ZERO, *id);
    }
    // Those that wait their turn are no reason to wake.
    assert_eq!(it.next_timeout(), at(35));
    while let Some((id, _)) = flying.pop() {
        reply(&mut it, at(1), id, failed());
        let more = announces(&mut it);
        asked += more.len();
        flying.extend(more);
    }
    assert_eq!(asked, 40);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever trackers do: one announce at a time a tier, none without cause in less than a
    /// minute after an answer, and always another to come.
    #[test]
    fn any_course_of_events(steps in proptest::collection::vec((0u8..8, 1u64..4000), 1..60)) {
        let mut it = announcer(&[&["http://a/", "http://b/"], &["http://c/", "udp://d/"]]);
        let mut now = Time::ZERO;
        let mut flying: Vec<(u64, usize)> = Vec::new();
        let mut answered = [Time::ZERO; 2];
        let mut ever = [false; 2];
        for (step, wait) in steps {
            now = now + Duration::from_secs(wait);
            match step {
                0 | 1 => it.handle_timeout(now),
                2 => it.more_peers(now),
                3 => it.completed(now),
                4 | 5 => if let Some((id, tier)) = flying.pop() {
                    // An announce that timed out inside is no longer awaited.
                    if it.tiers[tier].flight.as_ref().is_some_and(|flight| flight.id == id) {
                        answered[tier] = now;
                        ever[tier] = true;
                    }
                    reply(&mut it, now, id, Ok(&answer(100, 1)));
                },
                6 => if let Some((id, _)) = flying.pop() {
                    reply(&mut it, now, id, failed());
                },
                _ => reply(&mut it, now, wait, Ok(&[])),
            }
            for (id, url) in announces(&mut it) {
                let tier = usize::from(host(&url) == "c");
                flying.retain(|(_, other)| *other != tier);
                flying.push((id, tier));
                it.handle_begun(now, id);
                if event(&url).is_none() && ever[tier] {
                    prop_assert!(now.since(answered[tier]) >= ASK_AGAIN);
                }
            }
            prop_assert!(it.next_timeout() < Time::NEVER);
        }
        it.stop(now);
        while it.poll_output().is_some() {}
        it.handle_timeout(now + STOP_TIMEOUT);
        prop_assert!(it.stopped());
    }
}
