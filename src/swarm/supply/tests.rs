//! What is bought for a film of two megabits a second.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::*;
use crate::units::{InfoHash, PeerId};

const FILE: ByteRange = ByteRange::new(0, 64 << 20);
const RATE: f64 = 250_000.0;

struct Case {
    layout: Arc<Layout>,
    requests: Requests,
    supply: Supply,
    origin: OriginKey,
    all: FixedBitSet,
    rarity: Rarity,
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
                rival: None,
            })
            .collect();
        let scene = Scene {
            now,
            layout: &self.layout,
            requests: &self.requests,
            rarity: &self.rarity,
            lot: lot(0),
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

/// Has played for nine of the ten seconds that it had.
fn playing() -> (Time, Reader) {
    let mut reader = Reader::new(Time::ZERO, FILE, FILE, Some(RATE));
    reader.set_ready(Time::ZERO, 2_500_000);
    reader.handle_sent(Time::ZERO, 2_500_000);
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
fn a_hedge_waits_for_its_latest_start_and_spares_what_peers_bring() {
    let case = case(OriginPolicy::Hybrid);
    let (late, reader) = playing();
    let early = case.plan(Time::from_secs(2), &reader, &[10_000.0]);
    assert!(matches!(early, Plan::Wait(at) if at > Time::from_secs(5)));
    assert!(is_buy(case.plan(late, &reader, &[10_000.0]), Cause::Hedge));
    assert!(matches!(case.plan(late, &reader, &[5e6]), Plan::Wait(_)));
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
    assert!(matches!(last.plan(now, &reader, &[]), Plan::Buy { .. }));
    let far = last.plan(Time::from_secs(2), &reader, &[]);
    assert!(matches!(far, Plan::Wait(at) if at > Time::from_secs(5)));
}
