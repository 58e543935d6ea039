//! Whole swarms on a virtual clock: the real scheduler of every node, played out from a seed.
//!
//! `SEED=n cargo test --test sim` replays a run exactly; `SIM_SEEDS=10000` plays that many small
//! worlds; `SIM_WHOLE=1` plays the scenarios at their whole size. Both are for `--profile sim`.
//! `SIM_LAB=no-rank` (or `no-inject`, `no-hedge`, `sequential`, `rarest`, `fallback`, `web-seed`,
//! `client-server`) leaves a part of the policy out, `SIM_PIECE_KIB=512` takes larger pieces.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a test panics on what should not be, and its numbers are small"
)]

mod bound; // what the origin must bring whatever anybody does
mod clock; // what happens next
mod link; // wires and access lines
mod node; // a viewer's machine
mod origin; // the video's own server, and its faults
mod peer; // tempers, and what messages say
mod play; // nodes come and go, players read, the origin answers
mod report; // one run's numbers
mod scenario; // S1 to S8, and random worlds
mod settle; // the driver of one swarm
mod store; // who wrote what
mod viewer; // a player as a script
mod wire; // connections between nodes
mod world; // all of it, event by event

use std::time::Instant;

use bittube::units::BLOCK_LEN;

use crate::report::Report;
use crate::scenario::Size;
use crate::world::{Setup, World};

fn play(setup: Setup) -> Report {
    let began = Instant::now();
    let mut world = World::new(setup);
    world.run();
    let report = Report::of(&world);
    let speed = report.simulated_s / began.elapsed().as_secs_f64();
    println!("{}", report::row(&report, speed));
    report
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    variable("SEED").unwrap_or(1)
}

fn size() -> Size {
    match variable("SIM_WHOLE") {
        Some(_) => scenario::WHOLE,
        None => Size {
            viewers: 0.4,
            length_s: 40.0,
        },
    }
}

/// One number of a scenario, beside what it is to become.
struct Level {
    scenario: String,
    what: &'static str,
    value: f64,
    target: f64,
    /// The target where it is met with a margin, else what it was once and 30 %.
    limit: f64,
}

/// Of a scenario: what is measured, the target, and the limit.
fn levels(report: &Report, rows: &[(&'static str, f64, f64, f64)]) -> Vec<Level> {
    let level = |&(what, value, target, limit): &(&'static str, f64, f64, f64)| Level {
        scenario: report.name.clone(),
        what,
        value,
        target,
        limit,
    };
    rows.iter().map(level).collect()
}

fn all_levels(seed: u64, size: Size) -> Vec<Level> {
    let mut all = Vec::new();
    let one = play(scenario::alone(seed, size));
    let off = (one.copies - 1.0).abs();
    let block = f64::from(BLOCK_LEN) / (scenario::RATE * size.length_s);
    all.extend(levels(
        &one,
        &[
            ("copies beside 1", off, block, block),
            ("stalls", one.stalls as f64, 0.0, 0.0),
        ],
    ));
    let s1 = play(scenario::s1("S1 flash", seed, size));
    all.extend(levels(
        &s1,
        &[
            ("copies / bound", s1.copies / s1.bound, 2.0, 2.2),
            ("longest stall, s", s1.stall_longest, 1.0, 0.5),
            ("start p95, s", s1.start(0.95), 4.0, 4.0),
            duplicates(&s1, 2.0),
        ],
    ));
    let s2 = play(scenario::s2("S2 staggered", seed, size, 30));
    all.extend(levels(
        &s2,
        &[
            ("copies", s2.copies, 3.0, 3.0),
            ("start p95, s", s2.start(0.95), 2.0, 2.0),
            ("stalls", s2.stalls as f64, 0.0, 0.0),
            duplicates(&s2, 2.0),
        ],
    ));
    all.extend(scarce_and_restless(seed, size));
    for (flash, base, limit, stalls) in [(true, &s1, 1.8, 0.0), (false, &s2, 2.15, 0.0)] {
        let s6 = play(scenario::s6(seed, size, flash));
        let added = (s6.bound - base.bound).max(0.0);
        let more = s6.copies / (base.copies + 1.2 * added);
        all.extend(levels(
            &s6,
            &[
                ("copies / (without + 1.2 deficit)", more, 1.0, limit),
                ("stalls", s6.stalls as f64, 0.0, stalls),
            ],
        ));
    }
    all.extend(troubled(seed, size));
    all
}

/// S3, S4, S5.
fn scarce_and_restless(seed: u64, size: Size) -> Vec<Level> {
    let s3 = play(scenario::s3(seed, size));
    let mut all = levels(
        &s3,
        &[
            ("copies / bound", s3.copies / s3.bound, 1.25, 1.7),
            ("stalled, %", s3.stalled * 100.0, 1.0, 1.0),
            duplicates(&s3, 2.3),
        ],
    );
    let s4 = play(scenario::s4(seed, size));
    let bought = 100.0 - s4.offload * 100.0;
    all.extend(levels(
        &s4,
        &[
            ("not offloaded, %", bought, 17.0, 30.0),
            ("longest stall, s", s4.stall_longest, 1.0, 1.0),
            duplicates(&s4, 2.0),
        ],
    ));
    let s5 = play(scenario::s5(seed, size));
    all.extend(levels(
        &s5,
        &[
            ("seek p95, s", s5.seek(0.95), 1.5, 1.5),
            ("copies", s5.copies, 2.0, 2.0),
            duplicates(&s5, 2.4),
        ],
    ));
    all
}

/// S7 and S8.
fn troubled(seed: u64, size: Size) -> Vec<Level> {
    let mut all = Vec::new();
    for (slow, limit, most) in [(false, 4.7, 10.0), (true, 4.7, 34.0)] {
        let s7 = play(scenario::s7(seed, size, slow));
        let longest = ("longest stall, s", s7.stall_longest, 1.0, limit);
        let needless = ("needless stalls, s", s7.needless_s, 0.0, most);
        all.extend(levels(&s7, &[longest, needless]));
    }
    let s8 = play(scenario::s8(seed, size));
    let vain = s8.duplicates * 100.0;
    all.extend(levels(
        &s8,
        &[
            ("received in vain, %", vain, 2.0, 5.0),
            ("liars met and not banned, of 1", s8.pardoned, 0.0, 0.0),
        ],
    ));
    all
}

fn duplicates(report: &Report, limit: f64) -> (&'static str, f64, f64, f64) {
    ("duplicates, %", report.duplicates * 100.0, 2.0, limit)
}

#[test]
fn scenarios_are_no_worse_than_they_were() {
    println!("\n{}", report::HEAD);
    let levels = all_levels(seed(), size());
    println!("\ntargets");
    for level in &levels {
        let met = if level.value <= level.target {
            "met"
        } else {
            "   "
        };
        println!(
            "{:18} {:34} {:8.2}  target {:6.2} {met}",
            level.scenario, level.what, level.value, level.target
        );
    }
    if variable("SEED").is_none() && variable("SIM_WHOLE").is_none() {
        for level in &levels {
            assert!(
                level.value <= level.limit,
                "{}: {} is {}, over {}",
                level.scenario,
                level.what,
                level.value,
                level.limit
            );
        }
    }
}

#[test]
fn a_wide_uplink_serves_all_at_once() {
    println!("\n{}", report::HEAD);
    let size = Size {
        viewers: 0.5,
        length_s: 40.0,
    };
    // Three at a time would carry 4.5 of the 12.
    let report = play(scenario::seedbox(seed(), size));
    assert_eq!(report.stalls, 0, "{report:?}");
    assert!(report.start(1.0) < 6.0, "{report:?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in seed()..seed() + 4 {
        let [first, second] = [(), ()].map(|()| play(scenario::random(seed)));
        assert_eq!(first, second);
    }
    let other = play(scenario::random(seed() + 4));
    assert_ne!(other.digest, play(scenario::random(seed())).digest);
}

/// Worlds in which something once did not hold. 643: what an origin alone was to bring waited for it
/// after it was found to have another film. 952, 5781: a block was bought beside an open fetch for
/// it. 905: a peer whose line broke often was not called again for half an hour. 6817: the first block
/// of a piece, before where the player had sought to, was bought by nobody.
const FOUND: [u64; 6] = [643, 905, 952, 4885, 5781, 6817];

#[test]
fn what_must_hold_holds_in_small_worlds() {
    let count = variable("SIM_SEEDS").unwrap_or(50);
    println!("\n{}", report::HEAD);
    let found = FOUND.iter().copied().filter(|_| variable("SEED").is_none());
    for seed in (seed()..seed() + count).chain(found) {
        print!("{seed} ");
        play(scenario::random(seed));
    }
}
