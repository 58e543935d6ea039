//! The first byte: of a cold start beside asking the origin, and after a seek.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::bed::Bed;
use crate::bed::film::{Film, Random};
use crate::bed::net::loopback;
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::origin::{Faults, Origin};
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub, target};
use crate::load::{self, Reader};
use crate::report::{OURS, Report};
use crate::rqbit::Rqbit;
use crate::stored::peers_target;
use crate::usage;

const ORIGIN_DELAY: Duration = Duration::from_millis(30);
/// A start through the stub may take this much longer than without it: a tenth and 2 ms.
const START_SLOWER: (f64, f64) = (1.10, 2.0);
const SEEK_MS_MAX: f64 = 5.0;
/// What has been played before the seek.
const BEFORE_SEEK: u64 = 32 * 1024 * 1024;
const PART: u64 = 1024 * 1024;

/// Each start with a stub that has never run before, against the same origin asked directly.
pub fn run_starts(plan: &Plan, report: &mut Report) {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 8 * 1024 * 1024, 256 * 1024);
    let tracker = OpenTracker::start(&bed, &[&film]);
    let faults = || Faults {
        delay: ORIGIN_DELAY,
        ..Default::default()
    };
    let torrent = film.torrent(&tracker.url(), "");
    let known = Origin::start(&film.data, Some(torrent), faults());
    let bare = Origin::start(&film.data, None, faults());
    for (trial, origin) in [("start", &known), ("start, no torrent", &bare)] {
        for round in 0..plan.cold_starts {
            let direct = load::first_byte(origin.addr(), "/film.bin", None);
            report.add(trial, "origin", round, "ms", direct * 1e3);
            let options = Options::new(&bed);
            let store = options.store.clone();
            let stub = Stub::start_wrapped(&bed, options, |inner| usage::pinned(&inner));
            let target = target(&[&tracker.url()], &origin.url("film.bin"));
            let through = load::first_byte(stub.addr(), &target, None);
            report.add(trial, OURS, round, "ms", through * 1e3);
            stub.kill();
            fs::remove_dir_all(store).unwrap();
        }
        let (ours, theirs) = (
            report.median(trial, OURS, "ms"),
            report.median(trial, "origin", "ms"),
        );
        let most = theirs * START_SLOWER.0 + START_SLOWER.1;
        let kept = if ours <= most { "kept" } else { "BROKEN" };
        report.note(format!(
            "{trial}: {ours:.1} ms, promised at most {most:.1} ms: {kept}"
        ));
    }
}

/// Into what nobody has asked for yet, while the beginning comes in as fast as it can.
pub fn run_seeks(plan: &Plan, report: &mut Report) {
    let trial = "cold seek";
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", plan.film_len, 1024 * 1024);
    let nginx = Nginx::start(&bed);
    film.publish_torrent(nginx.root(), "");
    let seeder = Seeder::start(loopback(0), film.goods(), Conduct::default()).unwrap();
    let mut random = Random::new(5);
    for round in 0..plan.seeks {
        let to = film.len() / 2 + random.below(film.len() / 2 - 1024);
        let options = Options::new(&bed);
        let store = options.store.clone();
        let stub = Stub::start_wrapped(&bed, options, |inner| usage::pinned(&inner));
        let target = peers_target(&film, &nginx, &seeder);
        report.add(
            trial,
            OURS,
            round,
            "ms",
            seek(stub.addr(), &target, film.len() as u64, to) * 1e3,
        );
        stub.kill();
        fs::remove_dir_all(store).unwrap();
        if let Some(program) = &plan.rqbit {
            let rqbit = Rqbit::start(&bed, program);
            let target = rqbit.add(&film, seeder.addr());
            report.add(
                trial,
                "rqbit",
                round,
                "ms",
                seek(rqbit.addr(), &target, film.len() as u64, to) * 1e3,
            );
        }
    }
    let ours = report.median(trial, OURS, "ms");
    let kept = if ours <= SEEK_MS_MAX {
        "kept"
    } else {
        "BROKEN"
    };
    report.note(format!(
        "{trial}: {ours:.1} ms, promised at most {SEEK_MS_MAX} ms: {kept}"
    ));
}

/// Seconds to the first byte of a new request at `to`, on a connection of its own.
fn seek(addr: SocketAddr, target: &str, film_len: u64, to: usize) -> f64 {
    let mut playing = Reader::connect(addr).unwrap();
    playing.ask(addr, target, None).unwrap();
    playing.head().unwrap();
    playing.body(BEFORE_SEEK, |_, _| ()).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // The player reads on, in parts, and never beyond the film's end.
            let parts = (film_len - BEFORE_SEEK) / PART;
            for _ in 0..parts {
                if over.load(Ordering::Relaxed) || playing.body(PART, |_, _| ()).is_err() {
                    return;
                }
            }
        });
        let begun = Instant::now();
        load::first_byte(addr, target, Some(to));
        let seconds = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        seconds
    })
}
