//! What is bought for a film of two megabits a second.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::*;
use crate::swarm::queue::Asked;
use crate::swarm::reader::PROMOTED_AFTER;
use crate::swarm::rendezvous::Turn;
use crate::units::{BLOCK_LEN, InfoHash, PeerId, PieceIndex};

const FILE: ByteRange = ByteRange::new(0, 64 << 20);
const RATE: f64 = 250_000.0;

struct Case {
    layout: Arc<Layout>,
    requests: Requests,
    supply: Supply,
    origin: OriginKey,
    all: FixedBitSet,
    rarity: Rarity,
    lot: Lot,
    queue: Queue,
}

fn lot(id: u8) -> Lot {
    Lot::new(InfoHash([9; 20]), PeerId([id; 20]))
}

fn case(policy: OriginPolicy) -> Case {
    let layout = Arc::new(Layout::single(FILE.end, 128 << 10));
    let count = layout.piece_count() as usize;
    let requests = Requests::new(Arc::clone(&layout), &FixedBitSet::with_capacity(count));
    let mut supply = Supply::new(policy, Lab::default());
    let origin = supply.add_origin(FILE, true);
    supply.set_estimate(origin, Duration::from_millis(50), 5e6);
    let mut all = FixedBitSet::with_capacity(count);
    all.insert_range(..);
    let mut rarity = Rarity::new(layout.piece_count());
    rarity.join(&all, true);
    Case {
        rarity,
        lot: lot(0),
        queue: Queue::default(),
        layout,
        requests,
        supply,
        origin,
        all,
    }
}

impl Case {
    /// With peers of these rates that have everything.
    fn plan(&self, now: Time, reader: &Reader, rates: &[f64]) -> Plan {
        let mates: Vec<_> = rates
            .iter()
            .enumerate()
            .map(|(key, &rate)| Mate {
                key: PeerKey(key),
                pieces: &self.all,
                usable: true,
                finish_s: 0.1,
                rate,
                young: false,
                srtt_s: 0.02,
                outstanding: 0,
                queue: &self.queue,
                rival: None,
            })
            .collect();
        let scene = Scene {
            now,
            layout: &self.layout,
            requests: &self.requests,
            rarity: &self.rarity,
            lot: self.lot,
            mates: &mates,
            prospects: false,
            forsaken: false,
            lately: false,
        };
        match self.supply.choose(now, reader) {
            Ok(origin) => self.supply.plan(&scene, reader, origin),
            Err(until) => Plan::Wait(until),
        }
    }
}

/// Beside viewers with these lots, who like us have nothing from this piece on.
fn plan_among(case: &Case, now: Time, reader: &Reader, rivals: &[Lot], front: u32) -> Plan {
    let mut none = case.all.clone();
    none.clear();
    let mate = |(key, &lot): (usize, &Lot)| Mate {
        key: PeerKey(key),
        pieces: &none,
        usable: false,
        finish_s: 0.1,
        rate: 0.0,
        young: false,
        srtt_s: 0.02,
        outstanding: 0,
        queue: &case.queue,
        rival: Some((lot, front)),
    };
    let mates: Vec<_> = rivals.iter().enumerate().map(mate).collect();
    let scene = Scene {
        now,
        layout: &case.layout,
        requests: &case.requests,
        rarity: &Rarity::new(case.layout.piece_count()),
        lot: case.lot,
        mates: &mates,
        prospects: false,
        forsaken: false,
        lately: false,
    };
    match case.supply.choose(now, reader) {
        Ok(origin) => case.supply.plan(&scene, reader, origin),
        Err(until) => Plan::Wait(until),
    }
}

/// What is bought at this time beside these viewers, each fetch done at once; and until when then
/// to wait.
fn bought_among(case: &mut Case, now: Time, reader: &Reader, rivals: &[Lot]) -> (Vec<u32>, Time) {
    let front = case.layout.piece_of(reader.ready()).0;
    let mut pieces = Vec::new();
    loop {
        match plan_among(case, now, reader, rivals, front) {
            Plan::Wait(until) => return (pieces, until),
            Plan::Buy {
                origin,
                range,
                cause,
            } => {
                assert_eq!(cause, Cause::Inject);
                let fetch = case.supply.start(now, origin, range, cause).unwrap();
                case.requests.buy(range, fetch.key);
                case.supply.finish(fetch.key);
                pieces.extend(case.layout.pieces_of(range));
            }
        }
    }
}

#[test]
fn of_what_nobody_has_each_viewer_fetches_what_it_has_drawn() {
    let (now, lots) = (Time::from_secs(2), [0, 1, 2, 3].map(lot));
    let (_, reader) = playing();
    let mut owners = vec![0; 64];
    for (place, &ours) in lots.iter().enumerate() {
        let rivals: Vec<_> = lots
            .iter()
            .copied()
            .filter(|&other| other != ours)
            .collect();
        let mut case = case(OriginPolicy::Hybrid);
        case.lot = ours;
        let (mut bought, until) = bought_among(&mut case, now, &reader, &rivals);
        bought.sort_unstable();
        // From what it has to what is due in twenty seconds.
        let drawn = (20..=41).filter(|&piece| {
            let turn = Turn::of(PieceIndex(piece), ours, rivals.iter().copied());
            turn.rank == 0
        });
        bought.retain(|&piece| piece != 19);
        assert_eq!(bought, drawn.collect::<Vec<_>>(), "{place}");
        assert!(until > now);
        bought.iter().for_each(|&piece| owners[piece as usize] += 1);
    }
    assert!(
        owners[20..=41].iter().all(|&owners| owners == 1),
        "{owners:?}"
    );
}

#[test]
fn a_crowd_that_waits_for_its_start_throws_in_what_follows() {
    let rivals = [lot(1), lot(2), lot(3)];
    let bought = |crowd: bool| {
        let mut case = case(OriginPolicy::Hybrid);
        let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
        if crowd {
            reader.handle_crowd();
        }
        reader.set_ready(Time::ZERO, 250_000);
        reader.handle_sent(Time::ZERO, 250_000, 0);
        bought_among(&mut case, Time::ZERO, &reader, &rivals).0
    };
    // One request alone may be a look at the film's head: up to where it would be known as play.
    let probe = PROMOTED_AFTER.div_ceil(128 << 10);
    assert!(bought(false).iter().all(|&piece| u64::from(piece) <= probe));
    let drawn: Vec<u32> = bought(true);
    let last = *drawn.last().unwrap();
    assert!(u64::from(last) > probe, "{drawn:?}");
    // 3.3 s until it begins, and 12 s ahead of that.
    assert!(drawn.iter().all(|&piece| piece <= 24), "{drawn:?}");
}

#[test]
fn who_is_held_back_in_a_crowd_buys_nothing_for_itself_at_first() {
    let mut case = case(OriginPolicy::Hybrid);
    // So slow that whoever else began would buy at once.
    let first_byte = Duration::from_millis(50);
    case.supply.set_estimate(case.origin, first_byte, 150e3);
    let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
    reader.set_ready(Time::ZERO, 100_000);
    reader.handle_sent(Time::ZERO, 100_000, 0);
    let plan = |reader: &Reader, millis| case.plan(Time::from_millis(millis), reader, &[1000.0]);
    assert!(matches!(plan(&reader, 0), Plan::Buy { .. }));
    reader.handle_crowd();
    let Plan::Wait(until) = plan(&reader, 0) else {
        panic!("bought at once");
    };
    // It begins after 3.3 s, and has 0.4 s of film.
    let millis = until.since(Time::ZERO).as_millis();
    assert!((1300..1800).contains(&millis), "{millis}");
    let due = u64::try_from(millis).unwrap() + 10;
    assert!(matches!(plan(&reader, due), Plan::Buy { .. }));
}

#[test]
fn who_has_not_drawn_a_piece_steps_in_before_its_deadline_and_not_much_earlier() {
    let (_, reader) = playing();
    let ours = lot(0);
    let piece = (20..41).map(PieceIndex).find(|&piece| {
        let turn = Turn::of(piece, ours, [lot(1)].into_iter());
        turn.rank == 1
    });
    let start = u64::from(piece.unwrap().0) * (128 << 10);
    let mut first = None;
    for tick in 0..300 {
        let now = Time::from_millis(2000 + tick * 100);
        let mut case = case(OriginPolicy::Hybrid);
        let front = case.layout.piece_of(reader.ready()).0;
        // All else is here already.
        for other in case.layout.pieces().filter(|&other| Some(other) != piece) {
            case.requests.finish(other);
        }
        let plan = plan_among(&case, now, &reader, &[lot(1)], front);
        let ours = |range: ByteRange| range.start == start;
        if matches!(plan, Plan::Buy { range, .. } if ours(range)) {
            first = Some(reader.slack_s(now, start));
            break;
        }
    }
    let slack_s = first.unwrap();
    assert!((0.7..0.9).contains(&slack_s), "{slack_s}");
}

#[test]
fn the_laboratory_takes_away_what_it_says() {
    let now = Time::from_secs(2);
    let (_, reader) = playing();
    let rivals = [1, 2, 3].map(lot);
    let bought = |words: &str| {
        let mut case = case(OriginPolicy::Hybrid);
        case.supply.lab = words.parse().unwrap();
        bought_among(&mut case, now, &reader, &rivals).0.len()
    };
    let policy = bought("");
    assert!((1..15).contains(&policy), "{policy}");
    assert!(bought("no-rank") >= 22);
    assert_eq!(bought("no-inject"), 0);
    assert_eq!(bought("no-hedge"), policy);
    assert_eq!(bought("fallback"), 0);
    // A peer has everything, and brings nothing in time.
    let hedged = |words: &str| {
        let mut case = case(OriginPolicy::Hybrid);
        case.supply.lab = words.parse().unwrap();
        let late = case.plan(Time::from_secs(9), &reader, &[10_000.0]);
        matches!(late, Plan::Buy { .. })
    };
    assert!(hedged("") && hedged("no-inject") && hedged("no-rank") && hedged("fallback"));
    assert!(!hedged("no-hedge"));
}

/// Has played for nine of the ten seconds that it had.
fn playing() -> (Time, Reader) {
    let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
    reader.set_ready(Time::ZERO, 2_500_000);
    reader.handle_sent(Time::ZERO, 2_500_000, 0);
    (Time::from_secs(9), reader)
}

fn is_buy(plan: Plan, cause: Cause) -> bool {
    matches!(plan, Plan::Buy { cause: known, .. } if known == cause)
}

#[test]
fn a_cold_start_is_bought_at_once_unless_peers_are_quicker() {
    let case = case(OriginPolicy::Hybrid);
    let reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
    let alone = case.plan(Time::ZERO, &reader, &[]);
    assert!(is_buy(alone, Cause::Start));
    let slow = case.plan(Time::ZERO, &reader, &[50_000.0]);
    assert!(is_buy(slow, Cause::Start));
    let quick = case.plan(Time::ZERO, &reader, &[50e6]);
    assert!(matches!(quick, Plan::Wait(at) if at > Time::ZERO));
}

#[test]
fn alone_a_range_follows_the_one_before_unless_the_origin_is_slow() {
    let mut case = case(OriginPolicy::Hybrid);
    let reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
    let Plan::Buy { range, cause, .. } = case.plan(Time::ZERO, &reader, &[]) else {
        panic!("nothing bought");
    };
    let fetch = case.supply.start(Time::ZERO, case.origin, range, cause);
    let fetch = fetch.unwrap().key;
    case.requests.buy(range, fetch);
    assert!(is_buy(case.plan(Time::ZERO, &reader, &[]), Cause::Start));
    // Once little is to come; at 50 ms and 3 MB/s that is 150 kB.
    let start = ByteRange::new(range.end, range.end + (1 << 20));
    let second = case.supply.start(Time::ZERO, case.origin, start, cause);
    let second = second.unwrap().key;
    case.requests.buy(start, second);
    case.supply.finish(fetch);
    let mut plan_at = |rate, to_come| {
        let origin = case.origin;
        let first_byte = Duration::from_millis(50);
        case.supply.set_estimate(origin, first_byte, rate);
        case.supply.fetch_mut(second).unwrap().at = start.end - to_come;
        case.plan(Time::ZERO, &reader, &[])
    };
    assert!(matches!(plan_at(3e6, 140_000), Plan::Buy { .. }));
    let wait = plan_at(3e6, 450_000);
    assert!(
        matches!(wait, Plan::Wait(at) if at == Time::from_millis(100)),
        "{wait:?}"
    );
    // One that hardly keeps up with the film may be slow by the connection.
    assert!(matches!(plan_at(1.2 * RATE, 450_000), Plan::Buy { .. }));
}

#[test]
fn a_hedge_waits_for_its_latest_start_and_spares_what_peers_bring() {
    let case = case(OriginPolicy::Hybrid);
    let (late, reader) = playing();
    let early = case.plan(Time::from_secs(2), &reader, &[10_000.0]);
    assert!(matches!(early, Plan::Wait(at) if at > Time::from_secs(5)));
    assert!(is_buy(case.plan(late, &reader, &[10_000.0]), Cause::Hedge));
    assert!(matches!(case.plan(late, &reader, &[5e6]), Plan::Wait(_)));
}

#[test]
fn what_is_overdue_is_not_expected_at_once() {
    let (now, reader) = playing();
    let plan = |expect| {
        let mut case = case(OriginPolicy::Hybrid);
        let piece = case.layout.piece_of(reader.ready());
        while let Some(block) = case.requests.take(piece, PeerKey(0)) {
            let (len, at) = (BLOCK_LEN, Time::ZERO);
            case.queue.push(Asked {
                block,
                len,
                at,
                expect,
            });
        }
        case.plan(now, &reader, &[5e6])
    };
    assert!(matches!(plan(now), Plan::Wait(_)));
    // A second late, and needed in a second.
    assert!(is_buy(plan(Time::from_secs(8)), Cause::Hedge));
}

#[test]
fn beside_other_viewers_no_long_range_is_bought() {
    let case = case(OriginPolicy::Hybrid);
    let (_, reader) = playing();
    let now = Time::from_millis(10_500);
    // It has everything, and chokes us.
    let bought = |rival: Option<Lot>| {
        let mate = Mate {
            key: PeerKey(0),
            pieces: &case.all,
            usable: false,
            finish_s: 0.1,
            rate: 0.0,
            young: false,
            srtt_s: 0.02,
            outstanding: 0,
            queue: &case.queue,
            rival: rival.map(|lot| (lot, 100)),
        };
        let scene = Scene {
            now,
            layout: &case.layout,
            requests: &case.requests,
            rarity: &case.rarity,
            lot: case.lot,
            mates: &[mate],
            prospects: false,
            forsaken: false,
            lately: true,
        };
        match case.supply.plan(&scene, &reader, case.origin) {
            Plan::Buy { range, .. } => range.len(),
            Plan::Wait(_) => 0,
        }
    };
    assert!(bought(None) > HEDGE_BYTES_MAX);
    let beside = bought(Some(lot(1)));
    assert!((1..=HEDGE_BYTES_MAX).contains(&beside), "{beside}");
}

#[test]
fn no_block_is_bought_twice_and_two_fetches_are_the_limit() {
    let mut case = case(OriginPolicy::Hybrid);
    let (now, reader) = playing();
    let mut bought = Vec::new();
    while let Plan::Buy {
        origin,
        range,
        cause,
    } = case.plan(now, &reader, &[])
    {
        let fetch = case.supply.start(now, origin, range, cause).unwrap();
        case.requests.buy(range, fetch.key);
        bought.push(range);
    }
    assert_eq!(bought.len(), FETCHES_MAX);
    assert!(bought[0].end <= bought[1].start);
    let first = case.supply.fetches()[0].key;
    case.supply.finish(first);
    assert!(
        matches!(case.plan(now, &reader, &[]), Plan::Buy { range, .. } if range.start >= bought[1].end)
    );
}

#[test]
fn a_downed_origin_is_asked_again_when_it_is_up() {
    let mut case = case(OriginPolicy::Hybrid);
    let (now, reader) = playing();
    case.supply.set_down(case.origin, Time::from_secs(20));
    assert_eq!(
        case.plan(now, &reader, &[]),
        Plan::Wait(Time::from_secs(20))
    );
    let buys = case.plan(Time::from_secs(20), &reader, &[]);
    assert!(matches!(buys, Plan::Buy { .. }));
}

#[test]
fn policies_differ() {
    let (now, reader) = playing();
    assert_eq!(
        case(OriginPolicy::Never).plan(now, &reader, &[]),
        Plan::Wait(Time::NEVER)
    );
    let eager = case(OriginPolicy::Eager).plan(now, &reader, &[5e6]);
    assert!(matches!(eager, Plan::Buy { .. }));
    let last = case(OriginPolicy::LastResort);
    assert!(matches!(
        last.plan(now, &reader, &[10_000.0]),
        Plan::Wait(_)
    ));
    let due = Time::from_millis(9600);
    assert!(matches!(last.plan(due, &reader, &[]), Plan::Buy { .. }));
    let far = last.plan(Time::from_secs(2), &reader, &[]);
    assert!(matches!(far, Plan::Wait(at) if at > Time::from_secs(5)));
}

#[test]
fn a_fetch_is_late_by_what_its_origin_usually_takes() {
    let mut case = case(OriginPolicy::Hybrid);
    let (now, reader) = playing();
    let Plan::Buy {
        origin,
        range,
        cause,
    } = case.plan(now, &reader, &[])
    else {
        panic!("nothing is bought");
    };
    case.supply.start(now, origin, range, cause).unwrap();
    assert_eq!(case.supply.next_late(), now + FETCH_LATE);
    let usual = Duration::from_secs(3);
    case.supply.set_estimate(origin, usual, 1e6);
    let late = now + usual * FETCH_LATE_TIMES;
    assert_eq!(case.supply.next_late(), late);
    assert_eq!(case.supply.late(now + FETCH_LATE).len(), 0);
    assert_eq!(case.supply.late(late).len(), 1);
}
