//! A whole film from one fast seeder, from an empty store, beside rqbit's stream endpoint.

use std::fs;
use std::time::Instant;

use crate::Plan;
use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::net::loopback;
use crate::bed::nginx::Nginx;
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub};
use crate::load;
use crate::report::{OURS, Report};
use crate::rqbit::Rqbit;
use crate::stored::peers_target;
use crate::usage;

const TRIAL: &str = "streamed";

pub fn run(plan: &Plan, report: &mut Report) {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", plan.film_len, 1024 * 1024);
    let nginx = Nginx::start(&bed);
    film.publish_torrent(nginx.root(), "");
    let seeder = Seeder::start(loopback(0), film.goods(), Conduct::default()).unwrap();
    for round in 0..plan.rounds {
        if round % 2 == 0 {
            ours(&bed, &film, &nginx, &seeder, round, report);
        }
        if let Some(program) = &plan.rqbit {
            let rqbit = Rqbit::start(&bed, program);
            let before = usage::cpu_s(rqbit.id());
            let begun = Instant::now();
            let target = rqbit.add(&film, seeder.addr());
            load::whole(rqbit.addr(), &target, &film);
            let seconds = begun.elapsed().as_secs_f64();
            add(
                report,
                "rqbit",
                round,
                &film,
                seconds,
                usage::cpu_s(rqbit.id()) - before,
            );
        }
        if round % 2 == 1 {
            ours(&bed, &film, &nginx, &seeder, round, report);
        }
    }
}

fn ours(bed: &Bed, film: &Film, nginx: &Nginx, seeder: &Seeder, round: usize, report: &mut Report) {
    let options = Options::new(bed);
    let store = options.store.clone();
    let stub = Stub::start_wrapped(bed, options, |inner| usage::pinned(&inner));
    let before = usage::cpu_s(stub.id());
    let carried = load::whole(stub.addr(), &peers_target(film, nginx, seeder), film);
    add(
        report,
        OURS,
        round,
        film,
        carried.seconds,
        usage::cpu_s(stub.id()) - before,
    );
    stub.kill();
    fs::remove_dir_all(store).unwrap();
}

fn add(
    report: &mut Report,
    name: &'static str,
    round: usize,
    film: &Film,
    seconds: f64,
    cpu_s: f64,
) {
    let bytes = film.len() as f64;
    report.add(TRIAL, name, round, "MB/s", bytes / 1e6 / seconds);
    report.add(TRIAL, name, round, "CPU-s/GB", cpu_s / (bytes / 1e9));
}
