//! Whole swarms on a virtual clock: the real scheduler of every node, played out from a seed.
//!
//! `SEED=n cargo test --test sim` replays a run exactly; `SIM_SEEDS=10000` plays that many small
//! worlds; `SIM_WHOLE=1` plays the scenarios at their whole size, for `--release`.
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
            viewers: 0.5,
            length_s: 60.0,
        },
    }
}

#[test]
fn scenarios() {
    println!("\n{}", report::HEAD);
    let (seed, size) = (seed(), size());
    play(scenario::alone(seed, size));
    play(scenario::s1("S1 flash", seed, size));
    play(scenario::s2("S2 staggered", seed, size, 30));
    play(scenario::s3(seed, size));
    play(scenario::s4(seed, size));
    play(scenario::s5(seed, size));
    play(scenario::s6(seed, size, true));
    play(scenario::s6(seed, size, false));
    play(scenario::s7(seed, size, false));
    play(scenario::s7(seed, size, true));
    play(scenario::s8(seed, size));
}

#[test]
fn small_worlds_hold() {
    let count = variable("SIM_SEEDS").unwrap_or(50);
    println!("\n{}", report::HEAD);
    for seed in seed()..seed() + count {
        play(scenario::random(seed));
    }
}
