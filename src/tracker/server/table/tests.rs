//! Swarms as announces make them, and as time unmakes them.

use proptest::prelude::*;

use super::*;
use crate::tracker::announce::INTERVAL_MIN;
use crate::tracker::announce::compact_v4;
use crate::tracker::announce::compact_v6;

fn table(limits: Limits) -> Table {
    Table::new(limits, Keys::new([9; 32]), Arc::new(Allow::All), 1)
}

fn hash(n: u8) -> InfoHash {
    InfoHash([n; 20])
}

fn asked(swarm: u8, peer: &str, left: u64, event: Event) -> Asked {
    Asked {
        info_hash: hash(swarm),
        peer: peer.parse().unwrap(),
        seed: left == 0,
        event,
        numwant: 50,
        both_families: true,
    }
}

fn announce(it: &mut Table, now: Time, asked: &Asked) -> Result<(Vec<String>, Counts), Refused> {
    let mut told = Told::default();
    it.handle_announce(now, asked, &mut told)?;
    let all = compact_v4(&told.v4).chain(compact_v6(&told.v6));
    Ok((all.map(|peer| peer.to_string()).collect(), told.counts))
}

fn tell(it: &mut Table, swarm: u8, peer: &str, left: u64, event: Event) -> (Vec<String>, Counts) {
    announce(it, Time::ZERO, &asked(swarm, peer, left, event)).unwrap()
}

const fn counts(seeds: u32, leechers: u32, completed: u32) -> Counts {
    Counts {
        seeds,
        leechers,
        completed,
    }
}

/// As a shard does, which wakes when something is due.
fn live_until(it: &mut Table, secs: u64) {
    while it.next_timeout() < Time::from_secs(secs) {
        it.handle_timeout(it.next_timeout());
    }
}

#[test]
fn peers_of_both_families_meet() {
    let mut it = table(Limits::default());
    let first = tell(&mut it, 1, "1.2.3.4:1000", 5, Event::Started);
    assert_eq!(first, (vec![], counts(0, 1, 0)));
    let second = tell(&mut it, 1, "[2001:db8::1]:2000", 5, Event::Started);
    assert_eq!(second.0, ["1.2.3.4:1000"]);
    let again = tell(&mut it, 1, "1.2.3.4:1000", 5, Event::None);
    assert_eq!(again, (vec!["[2001:db8::1]:2000".into()], counts(0, 2, 0)));
    assert!(
        tell(&mut it, 2, "1.2.3.4:1000", 5, Event::None)
            .0
            .is_empty()
    );
    let own = Asked {
        both_families: false,
        ..asked(1, "1.2.3.4:1", 5, Event::None)
    };
    assert_eq!(
        announce(&mut it, Time::ZERO, &own).unwrap().0,
        ["1.2.3.4:1000"]
    );
    assert_eq!((it.totals().swarms, it.totals().peers()), (2, 4));
}

#[test]
fn seeds_are_not_given_to_seeds_and_stopped_leaves() {
    let mut it = table(Limits::default());
    tell(&mut it, 1, "1.1.1.1:1", 0, Event::Started);
    tell(&mut it, 1, "1.1.1.1:2", 7, Event::Started);
    let seed = tell(&mut it, 1, "1.1.1.1:3", 0, Event::Started);
    assert_eq!(seed, (vec!["1.1.1.1:2".into()], counts(2, 1, 0)));
    assert_eq!(tell(&mut it, 1, "1.1.1.1:2", 7, Event::None).0.len(), 2);
    assert_eq!(
        tell(&mut it, 1, "1.1.1.1:2", 0, Event::Completed).1,
        counts(3, 0, 1)
    );
    // Said twice it is counted once.
    assert_eq!(
        tell(&mut it, 1, "1.1.1.1:2", 0, Event::Completed).1,
        counts(3, 0, 1)
    );
    assert_eq!(
        tell(&mut it, 1, "1.1.1.1:1", 0, Event::Stopped),
        (vec![], counts(2, 0, 1))
    );
    assert_eq!(it.scrape(hash(1)), counts(2, 0, 1));
    tell(&mut it, 1, "1.1.1.1:2", 0, Event::Stopped);
    tell(&mut it, 1, "1.1.1.1:3", 0, Event::Stopped);
    tell(&mut it, 1, "1.1.1.1:3", 0, Event::Stopped);
    assert_eq!(it.totals(), Totals::default());
    assert_eq!(it.scrape(hash(1)), Counts::default());
}

#[test]
fn a_quarter_is_kept_for_the_other_family() {
    let mut it = table(Limits::default());
    for n in 0..100 {
        tell(&mut it, 1, &format!("1.1.{n}.1:1"), 1, Event::None);
        tell(&mut it, 1, &format!("[2001:db8:{n}::1]:1"), 1, Event::None);
    }
    for n in 0..5 {
        tell(&mut it, 2, &format!("1.1.{n}.1:1"), 1, Event::None);
        tell(&mut it, 2, &format!("[2001:db8:{n}::1]:1"), 1, Event::None);
    }
    let mut split = |swarm, peer: &str| {
        let (all, _) = tell(&mut it, swarm, peer, 1, Event::None);
        let v6 = all.iter().filter(|addr| addr.starts_with('[')).count();
        (all.len() - v6, v6)
    };
    assert_eq!(split(1, "9.9.9.9:9"), (38, 12));
    assert_eq!(split(1, "[2001:db8::9]:9"), (12, 38));
    assert_eq!(split(2, "9.9.9.9:9"), (5, 5));
}

#[test]
fn the_silent_are_forgotten_after_two_intervals() {
    let mut it = table(Limits::default());
    live_until(&mut it, 100);
    for n in 0..=255 {
        let all = [
            asked(n.max(1), "1.2.3.4:1", 1, Event::None),
            asked(n.max(1), "[::1]:1", 0, Event::None),
        ];
        for asked in all {
            announce(&mut it, Time::from_secs(100), &asked).unwrap();
        }
    }
    live_until(&mut it, 1900);
    announce(
        &mut it,
        Time::from_secs(1900),
        &asked(5, "1.2.3.4:1", 1, Event::None),
    )
    .unwrap();
    live_until(&mut it, 3700);
    assert_eq!(it.totals().peers(), 510);
    // Their time is over, and a quarter of it later all have been looked at.
    live_until(&mut it, 4610);
    assert_eq!(
        (it.totals().peers(), it.scrape(hash(5))),
        (1, counts(0, 1, 0))
    );
    live_until(&mut it, 6420);
    assert_eq!(it.totals(), Totals::default());
}

/// Our own, libtorrent's and rtorrent's do not come more often, whatever they are told.
#[test]
fn a_short_interval_forgets_no_client_that_keeps_its_own_pace() {
    for pace in [INTERVAL_MIN.as_secs(), 300, 600] {
        let mut it = table(Limits::default().with_interval(Duration::from_secs(10)));
        assert_eq!(it.limits().min_interval, Duration::from_secs(10));
        let mut now = 0;
        // One of its announces may be lost.
        for wait in [pace, 2 * pace, pace] {
            announce(
                &mut it,
                Time::from_secs(now),
                &asked(1, "1.2.3.4:1", 1, Event::None),
            )
            .unwrap();
            now += wait;
            live_until(&mut it, now);
            assert_eq!(it.totals().peers(), 1, "{pace} s");
        }
        live_until(&mut it, now + 1510);
        assert_eq!(it.totals(), Totals::default());
    }
    let long = Limits::default().with_interval(Duration::from_secs(3600));
    assert_eq!(
        (long.kept.as_secs(), long.min_interval.as_secs()),
        (7200, 60)
    );
}

#[test]
fn a_sweep_is_spread_over_time() {
    let mut it = table(Limits::default());
    let mut now = Time::from_secs(1);
    it.handle_timeout(now);
    let mut steps = 0;
    while now < Time::from_secs(901) {
        now = it.next_timeout();
        it.handle_timeout(now);
        steps += 1;
    }
    assert!(
        (PARTS..=PARTS + 4).contains(&steps),
        "{steps} in a quarter of an hour"
    );
    // After a long sleep a few parts are swept, not all.
    it.handle_timeout(now + Duration::from_secs(86400));
    assert!(it.next_timeout() >= now + Duration::from_secs(86400));
}

#[test]
fn tables_are_bounded() {
    let limits = Limits {
        swarms_max: 2,
        peers_max: 6,
        swarm_peers_max: 3,
        ..Limits::default()
    };
    let mut it = table(limits);
    for n in 0..10 {
        tell(&mut it, 1, &format!("1.1.1.{n}:1"), 1, Event::None);
    }
    assert_eq!(it.scrape(hash(1)).leechers, 3);
    tell(&mut it, 2, "1.1.1.1:1", 1, Event::None);
    let turned_down = |it: &mut Table, swarm, peer: &str| {
        announce(it, Time::ZERO, &asked(swarm, peer, 1, Event::None)).unwrap_err()
    };
    assert_eq!(turned_down(&mut it, 3, "1.1.1.1:1"), Refused::Full);
    tell(&mut it, 2, "1.1.1.2:1", 1, Event::None);
    tell(&mut it, 2, "1.1.1.3:1", 1, Event::None);
    assert_eq!(turned_down(&mut it, 2, "[2001:db8::1]:1"), Refused::Full);
    // Who is there may come again, and a stranger's `stopped` needs no room.
    tell(&mut it, 2, "1.1.1.3:1", 0, Event::None);
    tell(&mut it, 3, "1.1.1.1:1", 1, Event::Stopped);
    assert_eq!((it.totals().swarms, it.totals().peers()), (2, 6));
}

#[test]
fn one_address_has_its_share() {
    let limits = Limits {
        home_peers_max: 3,
        newcomers_max: 8,
        ..Limits::default()
    };
    let mut it = table(limits);
    for port in 1..=5 {
        tell(
            &mut it,
            1,
            &format!("1.1.1.1:{port}"),
            u64::from(port > 1),
            Event::None,
        );
    }
    assert_eq!(it.scrape(hash(1)).leechers + it.scrape(hash(1)).seeds, 3);
    for swarm in 2..=4 {
        tell(&mut it, swarm, "1.1.1.1:1", 1, Event::None);
    }
    let ninth = announce(&mut it, Time::ZERO, &asked(9, "1.1.1.1:1", 1, Event::None));
    assert_eq!(ninth.unwrap_err(), Refused::TooMany);
    tell(&mut it, 4, "1.1.1.1:1", 1, Event::None);
    tell(&mut it, 9, "1.1.1.2:1", 1, Event::None);
    let later = Time::from_secs(3600);
    announce(&mut it, later, &asked(9, "1.1.1.1:1", 1, Event::None)).unwrap();
}

#[test]
fn what_is_not_listed_is_refused_and_what_no_longer_is_goes() {
    let mut it = table(Limits::default());
    for swarm in 1..=9 {
        tell(&mut it, swarm, "1.1.1.1:1", 0, Event::None);
    }
    let list = format!("{}\n{}\n", hash(3), hash(200));
    it.set_allow(Arc::new(Allow::parse(&list).unwrap()));
    let refused = announce(
        &mut it,
        Time::ZERO,
        &asked(1, "1.1.1.1:1", 1, Event::Stopped),
    );
    assert_eq!(refused.unwrap_err(), Refused::NotAllowed);
    tell(&mut it, 200, "1.1.1.1:1", 1, Event::None);
    live_until(&mut it, 901);
    assert_eq!((it.totals().swarms, it.totals().seeds), (2, 1));
}

#[test]
fn a_peer_costs_little_memory() {
    // What a million peers in 100,000 swarms take, reckoned from what is allocated for some.
    let mut it = table(Limits {
        home_peers_max: 1000,
        newcomers_max: u32::MAX,
        ..Limits::default()
    });
    for n in 0..100_000u32 {
        let mut info_hash = [1; 20];
        info_hash[..4].copy_from_slice(&(n / 10).to_be_bytes());
        let asked = Asked {
            info_hash: InfoHash(info_hash),
            ..asked(1, &format!("1.2.{}.{}:1", n % 250, n % 10), 1, Event::None)
        };
        announce(&mut it, Time::ZERO, &asked).unwrap();
    }
    // A slot of the hash table has a byte beside it, an allocation sixteen.
    let slots: usize = it.parts.iter().map(|part| part.capacity() * 8 / 7).sum();
    let peers: usize = (0..PARTS)
        .flat_map(|part| it.part(part))
        .map(|swarm| swarm.v4.iter().count() * 8 * 5 / 4 + 16)
        .sum();
    let each = (slots * (size_of::<Swarm>() + 1) + peers) / 100_000;
    assert!((16..=40).contains(&each), "{each} bytes a peer");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        // Each lives through days of sweeps.
        cases: 40,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_announces_keep_the_counts_in_step(
        list in proptest::collection::vec(
            (1u8..5, 1u16..6, 0u64..2, 0u8..4, 0u64..3000, any::<bool>()), 0..60),
    ) {
        let mut it = table(Limits {
            swarms_max: 3, peers_max: 9, swarm_peers_max: 3, home_peers_max: 2, ..Limits::default()
        });
        let mut now = Time::ZERO;
        for (swarm, n, left, event, wait, v6) in list {
            now = now + Duration::from_secs(wait);
            live_until(&mut it, now.as_millis() / 1000);
            let events = [Event::None, Event::Started, Event::Completed, Event::Stopped];
            let peer = if v6 { format!("[::{}]:{n}", n % 2) } else { format!("1.1.1.{}:{n}", n % 2) };
            let _ = announce(&mut it, now, &asked(swarm, &peer, left, events[usize::from(event)]));
            let mut sum = Totals::default();
            for swarm in (0..PARTS).flat_map(|part| it.part(part)) {
                prop_assert!(!swarm.is_empty());
                prop_assert!(swarm.v4.len() <= 3 && swarm.v6.len() <= 3);
                let seeds = swarm.v4.iter().filter(|peer| peer.stamp().is_seed()).count()
                    + swarm.v6.iter().filter(|peer| peer.stamp().is_seed()).count();
                prop_assert_eq!(small(seeds), swarm.seeds);
                sum.know(swarm);
            }
            prop_assert_eq!(sum, it.totals());
            prop_assert!(sum.swarms <= 3 && sum.peers() <= 9);
        }
    }
}
