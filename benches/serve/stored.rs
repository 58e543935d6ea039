//! A film that is in the store, served in ranges of four lengths, beside nginx with `sendfile`.

use crate::Plan;
use crate::bed::Bed;
use crate::bed::film::Film;
use crate::bed::net::loopback;
use crate::bed::nginx::Nginx;
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub};
use crate::load;
use crate::report::{OURS, Report};
use crate::usage;

const CONNECTIONS: u64 = 8;
const RANGES: [(&str, usize); 4] = [
    ("stored 4 KiB", 4 * 1024),
    ("stored 64 KiB", 64 * 1024),
    ("stored 1 MiB", 1024 * 1024),
    ("stored 8 MiB", 8 * 1024 * 1024),
];

pub fn run(plan: &Plan, report: &mut Report) {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", plan.film_len, 1024 * 1024);
    let nginx = Nginx::start_with(&bed, "access_log off;");
    film.publish(nginx.root(), "");
    usage::pin(nginx.id());
    let seeder = Seeder::start(loopback(0), film.goods(), Conduct::default()).unwrap();
    let stub = Stub::start_wrapped(&bed, Options::new(&bed), |inner| usage::pinned(&inner));
    let target = peers_target(&film, &nginx, &seeder);
    load::whole(stub.addr(), &target, &film);
    let contestants = [
        (OURS, stub.addr(), &*target, stub.id()),
        ("nginx", nginx.addr(), "/film.bin", nginx.id()),
    ];
    for round in 0..plan.rounds {
        for (trial, range_len) in RANGES {
            // Who begins takes turns as well.
            for nth in 0..contestants.len() {
                let (name, addr, target, id) = contestants[(nth + round) % contestants.len()];
                let before = usage::cpu_s(id);
                let carried =
                    load::ranges(addr, target, &film, range_len, CONNECTIONS, plan.load_s);
                let cpu_s = usage::cpu_s(id) - before;
                let bytes = carried.bytes as f64;
                report.add(trial, name, round, "MB/s", bytes / 1e6 / carried.seconds);
                report.add(trial, name, round, "CPU-s/GB", cpu_s / (bytes / 1e9));
                report.add(trial, name, round, "core busy", cpu_s / carried.seconds);
            }
        }
    }
}

/// The film by its torrent alone: every byte comes from that one peer.
pub fn peers_target(film: &Film, nginx: &Nginx, seeder: &Seeder) -> String {
    format!(
        "/magnet:?xt=urn:btih:{}&xs={}&x.pe={}",
        film.hex(),
        nginx.url("film.bin.torrent"),
        seeder.addr()
    )
}
