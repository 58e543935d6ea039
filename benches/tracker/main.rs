//! Announces a second: `bittube tracker` beside opentracker and aquatic_udp, by UDP and HTTP.
//!
//! `scripts/bench.sh --only tracker` runs it. Each server has one core, the load another; all know
//! the same peers of the same swarms, and take turns within one run.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a bench waits, blocks, and panics on what should not be"
)]
#![allow(dead_code, reason = "the bed offers more than a bench takes")]

#[path = "../../tests/e2e/bed/mod.rs"]
mod bed;
#[path = "../serve/report.rs"]
mod report; // medians, ranges, files
#[path = "../serve/usage.rs"]
mod usage; // processor time and memory of a server, and its core

mod contestant; // the servers
mod crowd; // who announces what
mod http; // load by HTTP
mod outcome; // what a load came to
mod udp; // load by UDP

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::contestant::Contestant;
use crate::crowd::Crowd;
use crate::http::Manner;
use crate::outcome::Outcome;
use crate::report::Report;

/// A preload is given up after this long.
const PRELOAD_MAX: Duration = Duration::from_secs(600);

struct Plan {
    crowd: Crowd,
    rounds: usize,
    /// That each contestant is under load in a round.
    load: Duration,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let crowd = match quick {
            true => Crowd::new(12_800, 1_280),
            false => Crowd::new(1_000_000, 100_000),
        };
        Self {
            crowd,
            rounds: if quick { 2 } else { 7 },
            load: Duration::from_millis(if quick { 300 } else { 3000 }),
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).cloned()
    };
    let quick = words.iter().any(|word| word == "--quick");
    let plan = Plan::new(quick);
    let mut report = Report::new(about(&plan));
    let bed = Bed::new();
    let aquatic = value("--aquatic").map(PathBuf::from);
    let contestants = Contestant::start_all(&bed, &plan.crowd, aquatic.as_deref(), &mut report);
    for contestant in &contestants {
        preload(&plan, contestant, &mut report);
    }
    measure(&plan, &contestants, "udp", &mut report, |contestant| {
        let addr = contestant.udp?;
        Some(udp::announces(addr, &plan.crowd, plan.load))
    });
    for (trial, manner) in [("http kept", Manner::Kept), ("http once", Manner::Once)] {
        measure(&plan, &contestants, trial, &mut report, |contestant| {
            let addr = contestant.http?;
            Some(http::announces(addr, &plan.crowd, manner, plan.load))
        });
    }
    drop(contestants);
    print!("{}", report.summary());
    if let Some(folder) = value("--out") {
        report.write(folder.as_ref(), &words);
    }
}

fn about(plan: &Plan) -> String {
    let (peers, swarms) = (plan.crowd.peers, plan.crowd.swarms.len());
    format!(
        "Server on core {}, which receives packets too, load on another; contestants take turns in \
         each round. {peers} peers in {swarms} swarms announce at random. Each server may have {} \
         announces by UDP at once, or {} connections; `kept` sends one announce after the other on \
         each, `once` one on each. \
         CPU-s/M is processor time of the server for a million announces, B/peer what its memory \
         grew by while the peers came. Lost: unanswered after {} ms.",
        usage::SERVER_CORE,
        udp::OUTSTANDING,
        http::CONNECTIONS,
        udp::LOST_AFTER.as_millis(),
    )
}

/// Every peer says that it has come.
fn preload(plan: &Plan, contestant: &Contestant, report: &mut Report) {
    let (before, begun) = (contestant.memory(), Instant::now());
    let outcome = match (contestant.udp, contestant.http) {
        (Some(addr), _) => udp::preload(addr, &plan.crowd, PRELOAD_MAX),
        (None, Some(addr)) => http::preload(addr, &plan.crowd, PRELOAD_MAX),
        (None, None) => panic!("it is reached by one way at least"),
    };
    assert_eq!(
        (outcome.answered, outcome.errors),
        (plan.crowd.peers as u64, 0),
        "{} did not take all peers",
        contestant.name
    );
    let grown = contestant.memory().saturating_sub(before);
    let seconds = begun.elapsed().as_secs_f64();
    report.add("preload", contestant.name, 0, "s", seconds);
    let each = grown as f64 / plan.crowd.peers as f64;
    report.add("preload", contestant.name, 0, "B/peer", each);
}

fn measure(
    plan: &Plan,
    contestants: &[Contestant],
    trial: &str,
    report: &mut Report,
    load: impl Fn(&Contestant) -> Option<Outcome>,
) {
    for round in 0..plan.rounds {
        // Whoever comes first in a round may find the machine otherwise than who comes last.
        for nth in 0..contestants.len() {
            let contestant = &contestants[(nth + round) % contestants.len()];
            let cpu = usage::cpu_s(contestant.id());
            let Some(outcome) = load(contestant) else {
                continue;
            };
            let cpu = usage::cpu_s(contestant.id()) - cpu;
            let answered = outcome.answered as f64;
            let mut add = |figure, value| report.add(trial, contestant.name, round, figure, value);
            add("announces/s", answered / outcome.seconds);
            add("CPU-s/M", cpu * 1e6 / answered);
            add("p50 us", outcome.percentile(0.5));
            add("p99 us", outcome.percentile(0.99));
            add("errors", outcome.errors as f64);
            add("lost", outcome.lost as f64);
            if outcome.connections > 0 {
                add("per connection", answered / outcome.connections as f64);
            }
        }
    }
}
