//! What a player gets, and what it costs: BitTube beside nginx, rqbit and the bare origin.
//!
//! `scripts/bench.sh` runs it. Contestants take turns within one run, the server on one core, load
//! and seeder on another; each figure is a median over rounds with the range beside it.
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

mod first; // first byte beside asking the origin; first byte after a seek
mod load; // the load generator
mod report; // medians, ranges, files
mod rqbit; // rqbit as contestant
mod stored; // a stored film at four range lengths, beside nginx
mod streamed; // a film from one fast seeder, beside rqbit
mod usage; // processor time of a server, and its core

use std::path::PathBuf;

use crate::report::Report;

/// How much of everything.
pub struct Plan {
    pub rounds: usize,
    pub film_len: usize,
    /// Seconds that each contestant is under load in a round.
    pub load_s: f64,
    pub cold_starts: usize,
    pub seeks: usize,
    pub rqbit: Option<PathBuf>,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let film_len = if quick { 192 } else { 768 } * 1024 * 1024;
        Self {
            rounds: if quick { 3 } else { 7 },
            film_len,
            load_s: if quick { 0.7 } else { 2.0 },
            cold_starts: if quick { 10 } else { 30 },
            seeks: if quick { 10 } else { 30 },
            rqbit: None,
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).cloned()
    };
    let mut plan = Plan::new(words.iter().any(|word| word == "--quick"));
    plan.rqbit = value("--rqbit").map(PathBuf::from);
    let only = value("--only");
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut report = Report::new(format!(
        "Server on core {}, load and seeder on another; contestants take turns in each round. \
         CPU-s/GB is processor time of the server and its children for 10^9 bytes delivered.",
        usage::SERVER_CORE
    ));
    report.version("nginx", report::said("nginx", &["-v"]));
    report.version("rqbit", "9.1.0".to_owned());
    if wanted("stored") {
        stored::run(&plan, &mut report);
    }
    if wanted("streamed") {
        streamed::run(&plan, &mut report);
    }
    if wanted("first") {
        first::run_starts(&plan, &mut report);
    }
    if wanted("seek") {
        first::run_seeks(&plan, &mut report);
    }
    print!("{}", report.summary());
    if let Some(folder) = value("--out") {
        report.write(folder.as_ref(), &words);
    }
}
