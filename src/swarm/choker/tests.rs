//! Who gets the slots, in the film's order, in turn and at once.

use proptest::prelude::*;

use super::*;

fn one(key: u32, first_missing: u32) -> Candidate<u32> {
    Candidate {
        key,
        interested: true,
        lacks: true,
        idle: false,
        first_missing,
        have_count: first_missing,
        rate_to_us: 0.0,
        rate_from_us: 1000.0,
    }
}

/// After one choice; the keys in order.
fn chosen(choker: &mut Choker<u32>, ours: Option<u32>, candidates: &[Candidate<u32>]) -> Vec<u32> {
    let due = choker.rechoke;
    choker.handle_timeout(due, ours, candidates);
    choker.unchoked().iter().copied().collect()
}

#[test]
fn the_nearest_behind_one_who_gives_and_one_newcomer() {
    let mut choker = Choker::new(Time::ZERO, SLOTS, 1);
    let mut peers: Vec<_> = (10..20).map(|at| one(at, at)).collect();
    // Ahead of us, and the only one that gives us anything.
    peers.push(Candidate {
        rate_to_us: 5e5,
        ..one(90, 90)
    });
    peers.push(one(3, 3));
    assert_eq!(chosen(&mut choker, Some(16), &peers), [3, 16, 90]);
    // Of twice as many, half are the nearest.
    choker.set_slots(6);
    let six = chosen(&mut choker, Some(16), &peers);
    assert!(
        [3, 14, 15, 16, 90].iter().all(|key| six.contains(key)),
        "{six:?}"
    );
    assert_eq!(six.len(), 6);
}

#[test]
fn a_wide_uplink_has_more_slots() {
    assert_eq!(
        [1, 2, 4, 16].map(|served| slots(SLOTS, served)),
        [3, 3, 6, 18]
    );
    assert_eq!([1, 4].map(|served| slots(8, served)), [8; 2]);
}

#[test]
fn a_seed_helps_those_who_stand_still() {
    let mut choker = Choker::new(Time::ZERO, SLOTS, 1);
    let mut peers: Vec<_> = (0..8).map(|key| one(key, 100)).collect();
    chosen(&mut choker, None, &peers);
    for _ in 0..3 {
        for moving in [0, 1, 2, 4, 6, 7] {
            peers[moving].first_missing += 5;
        }
        chosen(&mut choker, None, &peers);
    }
    assert!(choker.unchoked().is_superset(&BTreeSet::from([3, 5])));
}

#[test]
fn everybody_gets_a_turn_from_a_seed() {
    let mut choker = Choker::new(Time::ZERO, SLOTS, 7);
    let peers: Vec<_> = (0..20).map(|key| one(key, 100)).collect();
    let mut served = BTreeSet::new();
    // Two turns every 30 s.
    for _ in 0..30 {
        served.extend(chosen(&mut choker, None, &peers));
    }
    assert_eq!(served.len(), 20);
}

#[test]
fn a_turn_lasts_three_choices() {
    let mut choker = Choker::new(Time::ZERO, 1, 3);
    let peers: Vec<_> = (0..9).map(|key| one(key, 100)).collect();
    let turns: Vec<_> = (0..9)
        .flat_map(|_| chosen(&mut choker, Some(0), &peers))
        .collect();
    for turn in turns.chunks(3) {
        assert!(turn.iter().all(|key| *key == turn[0]), "{turns:?}");
    }
    assert_ne!(turns[0], turns[3]);
    assert_ne!(turns[3], turns[6]);
}

#[test]
fn a_free_slot_is_given_at_once_and_nobody_loses_one() {
    let now = Time::from_secs(1);
    let mut choker = Choker::new(Time::ZERO, 2, 1);
    let mut peers = vec![one(1, 5), one(2, 5), one(3, 5)];
    peers[1].interested = false;
    choker.handle_interested(now, Some(9), &peers[..1]);
    assert_eq!(choker.unchoked(), &BTreeSet::from([1]));
    choker.handle_interested(now, Some(9), &peers);
    assert_eq!(choker.unchoked(), &BTreeSet::from([1, 3]));
    peers[1].interested = true;
    peers[1].first_missing = 9;
    choker.handle_interested(now, Some(9), &peers);
    assert_eq!(choker.unchoked(), &BTreeSet::from([1, 3]));
    choker.handle_closed(1);
    choker.handle_interested(now, Some(9), &peers[1..]);
    assert_eq!(choker.unchoked(), &BTreeSet::from([2, 3]));
}

#[test]
fn a_peer_that_takes_nothing_makes_room() {
    let mut choker = Choker::new(Time::ZERO, 2, 1);
    // Nearest, but it never asks.
    let mut peers: Vec<_> = (0..4).map(|key| one(key, 10 + key)).collect();
    peers[3].rate_from_us = 0.0;
    assert!(chosen(&mut choker, Some(13), &peers).contains(&3));
    chosen(&mut choker, Some(13), &peers);
    let later = chosen(&mut choker, Some(13), &peers);
    assert!(!later.contains(&3), "{later:?}");
}

#[test]
fn a_slot_that_is_idle_is_lent_until_the_next_choice() {
    let mut choker = Choker::new(Time::ZERO, 2, 1);
    let mut peers: Vec<_> = (0..5).map(|key| one(key, 10 + key)).collect();
    let first = chosen(&mut choker, Some(14), &peers);
    assert_eq!(first.len(), 2);
    let idle = first[0] as usize;
    peers[idle].idle = true;
    let now = Time::ZERO + RECHOKE + LOOK;
    assert_eq!(choker.next_timeout(), now);
    choker.handle_interested(now, Some(14), &peers);
    assert_eq!(choker.unchoked().len(), 3);
    assert!(choker.unchoked().contains(&first[0]), "{first:?}");
    // It asks again, and one more is served for a while.
    peers[idle].idle = false;
    assert_eq!(chosen(&mut choker, Some(14), &peers).len(), 2);
    // Who has all that we have needs no slot.
    peers.iter_mut().for_each(|peer| peer.lacks = false);
    assert!(chosen(&mut choker, Some(14), &peers).is_empty());
}

#[test]
fn no_choice_before_its_time() {
    let mut choker = Choker::new(Time::ZERO, 2, 1);
    choker.handle_timeout(Time::from_secs(9), None, &[one(1, 1)]);
    assert!(choker.unchoked().is_empty());
    assert_eq!(choker.next_timeout(), Time::ZERO + RECHOKE);
}

fn candidates() -> impl Strategy<Value = Vec<Candidate<u32>>> {
    let candidate = (any::<[bool; 3]>(), 0..50u32, 0..50u32, 0..3u8, 0..2u8);
    proptest::collection::vec(candidate, 0..30).prop_map(|all| {
        let keyed = (0u32..).zip(all);
        keyed
            .map(
                |(key, ([interested, lacks, idle], first_missing, have_count, gives, takes))| {
                    Candidate {
                        key,
                        interested,
                        lacks,
                        idle,
                        first_missing,
                        have_count,
                        rate_to_us: f64::from(gives),
                        rate_from_us: f64::from(takes),
                    }
                },
            )
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn slots_are_full_as_long_as_anybody_wants_one(
        slots in 0..9usize,
        seed: u64,
        steps in proptest::collection::vec((candidates(), proptest::option::of(0..50u32), any::<bool>()), 1..20),
    ) {
        let mut choker = Choker::new(Time::ZERO, slots, seed);
        for (peers, ours, timed) in steps {
            let now = choker.rechoke;
            if timed {
                choker.handle_timeout(now, ours, &peers);
            } else {
                choker.handle_interested(now.before(RECHOKE / 2), ours, &peers);
            }
            let unchoked = choker.unchoked();
            prop_assert!(unchoked.iter().all(|key| peers[*key as usize].interested));
            prop_assert!(unchoked.len() <= slots * UNCHOKED_A_SLOT);
            let wanting = || peers.iter().filter(|peer| peer.interested && peer.lacks);
            let all = wanting().all(|peer| unchoked.contains(&peer.key));
            let used = wanting().filter(|peer| !peer.idle && unchoked.contains(&peer.key)).count();
            prop_assert!(all || used >= slots || unchoked.len() == slots * UNCHOKED_A_SLOT);
            prop_assert!(!timed || used <= slots);
        }
    }
}
