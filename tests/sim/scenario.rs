//! The scenarios S1 to S8 and one viewer alone, at any size, and small worlds at random.

use std::time::Duration;

use bittube::units::lab::Lab;
use bittube::units::{OriginPolicy, Time};
use rand::prelude::*;
use rand::rngs::StdRng;

use crate::node::{Leave, Spec};
use crate::origin::{self, Fault};
use crate::peer::Temper;
use crate::variable;
use crate::viewer::{Act, Script};
use crate::world::{Setup, World};

/// 2 Mbit/s.
pub const RATE: f64 = 250_000.0;
const PIECE_LEN: u32 = 128 * 1024;
/// Of the bitrate.
const UP: f64 = 1.2;
const DOWN: f64 = 4.0;
const ORIGIN: f64 = 15.0;

/// How much of a scenario is played.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Of the viewers that it names.
    pub viewers: f64,
    pub length_s: f64,
}

/// As `vod.md` has them in a whole run.
pub const WHOLE: Size = Size {
    viewers: 1.0,
    length_s: 180.0,
};

fn viewer(rng: &mut StdRng, joins: f64) -> Spec {
    Spec {
        joins: Duration::from_secs_f64(joins),
        leaves: Leave::AtEnd(Duration::ZERO),
        up: UP * RATE,
        down: DOWN * RATE,
        delay: Duration::from_micros(rng.random_range(3000..8000)),
        temper: Temper::default(),
        seeds: false,
        script: Script::default(),
    }
}

fn seed(rng: &mut StdRng) -> Spec {
    Spec {
        leaves: Leave::Never,
        seeds: true,
        ..viewer(rng, 0.0)
    }
}

fn world(name: &str, seed: u64, size: Size, nodes: Vec<Spec>) -> Setup {
    let last = nodes
        .iter()
        .map(|node| node.joins)
        .max()
        .unwrap_or_default();
    Setup {
        name: name.to_owned(),
        seed,
        rate: RATE,
        length_s: size.length_s,
        piece_len: variable("SIM_PIECE_KIB").map_or(PIECE_LEN, |kib| kib as u32 * 1024),
        origin: Some(origin::Spec {
            rate: ORIGIN * RATE,
            delay: Duration::from_millis(20),
            first_byte: Duration::ZERO,
            faults: Vec::new(),
        }),
        policy: OriginPolicy::Hybrid,
        looks: false,
        lab: lab(),
        nodes,
        breaks: None,
        ends: last + Duration::from_secs_f64(size.length_s * 4.0 + 60.0),
    }
}

/// Parts of the policy that are left out, or others in their place.
fn lab() -> Lab {
    let words = std::env::var("SIM_LAB").unwrap_or_default();
    words.parse().expect("as `serve --lab` takes them")
}

fn count(size: Size, of: usize) -> usize {
    ((of as f64 * size.viewers).round() as usize).max(2)
}

fn exponential(rng: &mut StdRng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

pub fn s1(name: &str, seed: u64, size: Size) -> Setup {
    let rng = &mut StdRng::seed_from_u64(seed);
    let nodes = (0..count(size, 24)).map(|_| {
        let joins = rng.random_range(0.0..2.0);
        viewer(rng, joins)
    });
    let nodes = nodes.collect();
    world(name, seed, size, nodes)
}

pub fn s2(name: &str, seed: u64, size: Size, viewers: usize) -> Setup {
    let rng = &mut StdRng::seed_from_u64(seed);
    // As many are on at a time as in a whole run.
    let apart = 5.0 * size.length_s / WHOLE.length_s / size.viewers;
    let nodes = (0..count(size, viewers)).map(|place| viewer(rng, place as f64 * apart));
    let nodes = nodes.collect();
    world(name, seed, size, nodes)
}

pub fn s3(seed: u64, size: Size) -> Setup {
    let mut setup = s1("S3 starved", seed, size);
    for (place, node) in setup.nodes.iter_mut().enumerate() {
        node.up = RATE * if place % 2 == 0 { 0.15 } else { 1.05 };
    }
    setup
}

pub fn s4(seed: u64, size: Size) -> Setup {
    let rng = &mut StdRng::seed_from_u64(seed);
    let whole = 300.0 * size.length_s / WHOLE.length_s;
    let mut nodes = Vec::new();
    for _ in 0..count(size, 24) {
        let mut at = rng.random_range(0.0..2.0);
        while at < whole {
            let stays = exponential(rng, 40.0).max(5.0).min(whole - at + 1.0);
            let mut node = viewer(rng, at);
            node.leaves = Leave::Killed(Duration::from_secs_f64(stays));
            nodes.push(node);
            at += stays + 0.5;
        }
    }
    nodes.sort_by_key(|node| node.joins);
    world("S4 churn", seed, size, nodes)
}

pub fn s5(seed: u64, size: Size) -> Setup {
    let mut setup = s2("S5 seeks", seed, size, 24);
    let rng = &mut StdRng::seed_from_u64(seed ^ 5);
    for node in &mut setup.nodes {
        let mut at = 0.0;
        loop {
            at += 10.0 + exponential(rng, 30.0);
            if at > size.length_s {
                break;
            }
            let act = Act::Seek(rng.random());
            node.script.acts.push((Duration::from_secs_f64(at), act));
        }
    }
    let seeds: Vec<_> = (0..2).map(|_| self::seed(rng)).collect();
    setup.nodes.splice(0..0, seeds);
    setup
}

pub fn s6(seed: u64, size: Size, flash: bool) -> Setup {
    let mut setup = match flash {
        true => s1("S6 riders, flash", seed, size),
        false => s2("S6 riders, stag.", seed, size, 30),
    };
    for node in setup.nodes.iter_mut().step_by(4) {
        node.temper.rides_free = true;
    }
    setup
}

pub fn s7(seed: u64, size: Size, slow: bool) -> Setup {
    let name = if slow {
        "S7 origin slow"
    } else {
        "S7 origin down"
    };
    let mut setup = s2(name, seed, size, 30);
    setup.looks = true;
    let from = World::START + Duration::from_secs_f64(size.length_s / 3.0);
    let to = from + Duration::from_secs_f64(30.0 * size.length_s / WHOLE.length_s);
    let fault = match slow {
        true => Fault::Slow {
            from,
            to: Time::NEVER,
            first_byte: Duration::from_secs(3),
        },
        false => Fault::Down { from, to },
    };
    setup
        .origin
        .as_mut()
        .expect("it has one")
        .faults
        .push(fault);
    setup
}

pub fn s8(seed: u64, size: Size) -> Setup {
    let mut setup = s2("S8 poisoner", seed, size, 30);
    let rng = &mut StdRng::seed_from_u64(seed ^ 8);
    let mut liar = self::seed(rng);
    liar.temper.lies = Some(4);
    setup.nodes.push(liar);
    setup
}

pub fn alone(seed: u64, size: Size) -> Setup {
    let rng = &mut StdRng::seed_from_u64(seed);
    let nodes = vec![viewer(rng, 0.0)];
    world("N=1", seed, size, nodes)
}

/// A seed with a line for all of them, who have none to each other and take a part of it each.
pub fn seedbox(seed: u64, size: Size) -> Setup {
    let mut setup = s1("seedbox", seed, size);
    for node in &mut setup.nodes {
        node.down = 1.5 * RATE;
        node.temper.rides_free = true;
    }
    let rng = &mut StdRng::seed_from_u64(seed ^ 9);
    let wide = Spec {
        up: 40.0 * RATE,
        ..self::seed(rng)
    };
    setup.nodes.push(wide);
    setup.origin = None;
    setup
}

/// A small world in which anything may happen; what must hold holds in it.
pub fn random(seed: u64) -> Setup {
    let rng = &mut StdRng::seed_from_u64(seed);
    let size = Size {
        viewers: 1.0,
        length_s: rng.random_range(6.0..25.0),
    };
    let spread = *[0.5, 5.0, 20.0].choose(rng).expect("some");
    let mut nodes = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        let joins = rng.random_range(0.0..spread);
        nodes.push(random_viewer(rng, joins, size.length_s));
    }
    for _ in 0..rng.random_range(0..3) {
        let mut node = self::seed(rng);
        node.up = RATE * rng.random_range(0.1..8.0);
        node.temper = random_temper(rng);
        nodes.push(node);
    }
    let mut setup = world("random", seed, size, nodes);
    setup.piece_len = 1 << rng.random_range(15..20);
    setup.breaks = rng
        .random_bool(0.3)
        .then(|| Duration::from_secs_f64(rng.random_range(0.5..5.0)));
    let origin = setup.origin.as_mut().expect("it has one");
    origin.rate = RATE * rng.random_range(1.5..20.0);
    origin.first_byte = Duration::from_millis(rng.random_range(0..400));
    if rng.random_bool(0.4) {
        origin.faults.push(random_fault(rng));
    }
    let changes = |fault: &Fault| matches!(fault, Fault::Changes { .. });
    if origin.faults.iter().any(changes) {
        // The right film is to be had from somebody.
        setup.nodes.push(self::seed(rng));
    }
    setup.ends = Duration::from_secs(900);
    setup
}

fn random_viewer(rng: &mut StdRng, joins: f64, length_s: f64) -> Spec {
    let mut node = viewer(rng, joins);
    node.up = RATE * rng.random_range(0.05..4.0);
    node.down = RATE * rng.random_range(1.5..10.0);
    node.delay = Duration::from_millis(rng.random_range(1..60));
    node.temper = random_temper(rng);
    node.script.probes = rng.random_bool(0.3);
    let mut act = |after: f64, act| {
        let after = Duration::from_secs_f64(after);
        node.script.acts.push((after, act));
    };
    for _ in 0..rng.random_range(0..4) {
        let after = rng.random_range(0.0..length_s);
        match rng.random_range(0..6) {
            0..3 => act(after, Act::Seek(rng.random())),
            3 => {
                act(after, Act::Pause);
                act(after + rng.random_range(0.1..8.0), Act::Resume);
            }
            4 => (0..rng.random_range(1..9)).for_each(|_| act(after, Act::Idle)),
            _ => act(after, Act::Quit),
        }
    }
    node.leaves = match rng.random_range(0..5) {
        0 => Leave::Killed(Duration::from_secs_f64(rng.random_range(0.1..length_s))),
        1 => Leave::AtEnd(Duration::ZERO),
        2 => Leave::Never,
        _ => Leave::AtEnd(Duration::from_secs_f64(rng.random_range(0.0..20.0))),
    };
    node
}

fn random_temper(rng: &mut StdRng) -> Temper {
    Temper {
        lies: rng.random_bool(0.15).then(|| rng.random_range(1..20)),
        ignores_cancel: rng.random_bool(0.2),
        rides_free: rng.random_bool(0.15),
    }
}

fn random_fault(rng: &mut StdRng) -> Fault {
    let from = World::START + Duration::from_secs_f64(rng.random_range(0.0..20.0));
    let to = from + Duration::from_secs_f64(rng.random_range(0.5..20.0));
    match rng.random_range(0..5) {
        0 => Fault::Down { from, to },
        1 => Fault::Busy {
            from,
            to,
            status: if rng.random() { 429 } else { 503 },
            retry_s: rng.random_range(1..5),
        },
        2 => Fault::Slow {
            from,
            to,
            first_byte: Duration::from_millis(rng.random_range(500..5000)),
        },
        3 => Fault::Changes { at: from },
        _ => Fault::Closes {
            after: rng.random_range(1..20) * origin::QUANTUM,
        },
    }
}
