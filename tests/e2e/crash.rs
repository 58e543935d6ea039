//! What is left after a crash, a full disk, a small store, and a start that cannot be.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bed::film::{Film, Random};
use crate::bed::http::Client;
use crate::bed::net::{free_port, loopback, loopback_host};
use crate::bed::nginx::Nginx;
use crate::bed::process::{self, Process};
use crate::bed::scene::Scene;
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub, binary, on_store, run, target};
use crate::bed::{Bed, wait_until};

const KILLS: usize = 30;
const SEED: u64 = 7;

/// After each `kill -9` the next stub serves right bytes only, and asks no peer again for a piece
/// that was verified: of those the bed knows the ones that a player had in full.
#[test]
fn killed_at_30_random_moments_of_a_download() {
    const PIECE_LEN: usize = 128 * 1024;
    let scene = Scene::without_origin(64 * 1024 * 1024, PIECE_LEN as u32);
    let slow = Conduct {
        rate: Some(4_000_000),
        ..Default::default()
    };
    let listen = (loopback_host(2), 0).into();
    let seeder = Seeder::start(listen, scene.film.goods(), slow).unwrap();
    seeder.keep_requests();
    scene.tracker.announce(&scene.film, seeder.addr());
    let mut random = Random::new(SEED);
    let mut options = Options::new(&scene.bed);
    let (mut verified, mut known) = (0, 0);
    for kill in 0..=KILLS {
        let stub = Stub::start_with(&scene.bed, options);
        let playing = Playing::start(&stub, &scene);
        wait_until("the download to go on", Duration::from_secs(20), || {
            playing.received() > 0
        });
        let have = stub.swarm(&scene.film.hex())["have_pieces"]
            .as_u64()
            .unwrap();
        assert!(
            have >= known,
            "kill {kill}: {known} pieces were verified, {have} are left"
        );
        if kill < KILLS {
            thread::sleep(Duration::from_millis(20 + random.below(230) as u64));
            known = stub.swarm(&scene.film.hex())["have_pieces"]
                .as_u64()
                .unwrap();
            options = stub.kill();
        } else {
            seeder.set_rate(0);
            scene
                .film
                .assert_same(&stub.get_all(&scene.torrent_target()));
            options = stub.stop();
        }
        let received = playing.end();
        let asked = seeder.take_pieces();
        let again = asked.iter().find(|&&piece| (piece as usize) < verified);
        assert_eq!(
            again, None,
            "after kill {kill}, of {verified} verified pieces"
        );
        verified = verified.max(received / PIECE_LEN);
    }
    drop(options);
    assert!(
        known > 30,
        "too little was downloaded before the last kill: {known}"
    );
    let sent = seeder.tally().bytes.load(Ordering::Relaxed);
    // In flight at a kill is at most what a second of this rate carries.
    let most = scene.film.len() as u64 + KILLS as u64 * 3_000_000;
    assert!(
        sent <= most,
        "{sent} bytes were sent for {}",
        scene.film.len()
    );
}

/// Plays from the start, on a thread of its own, for as long as it goes.
struct Playing {
    received: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Playing {
    fn start(stub: &Stub, scene: &Scene) -> Self {
        let received = Arc::new(AtomicUsize::new(0));
        let (film, target, addr) = (scene.film.clone(), scene.torrent_target(), stub.addr());
        let counted = Arc::clone(&received);
        let thread = thread::spawn(move || {
            let mut client = Client::connect(addr).unwrap();
            client.send("GET", &target, &[]).unwrap();
            let Ok(head) = client.head() else { return };
            assert_eq!(head.status, 200);
            let mut buf = vec![0; 65_536];
            while let Ok(got @ 1..) = client.read(&mut buf) {
                let at = counted.fetch_add(got, Ordering::Relaxed);
                film.assert_part(at, &buf[..got]);
            }
        });
        Self { received, thread }
    }

    fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Once the stub is gone: bytes that came, every one of them right.
    #[track_caller]
    fn end(self) -> usize {
        self.thread.join().expect("no wrong byte");
        self.received.load(Ordering::Relaxed)
    }
}

#[test]
fn a_stop_in_good_order_keeps_everything() {
    let scene = Scene::new(4_000_000, 65_536);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let stub = Stub::start_with(&scene.bed, stub.stop());
    scene
        .film
        .assert_same(&stub.get_all(&scene.torrent_target()));
    assert_eq!(stub.bytes("from_origin"), 0);
}

#[test]
fn two_stubs_on_one_store() {
    let bed = Bed::new();
    let first = Stub::start(&bed);
    let options = on_store(&bed, &first.options().store);
    let said = refused(&options, loopback(free_port()), |command| command);
    assert_eq!(said.code, 73, "{}", said.text);
    assert!(
        said.text.contains(options.store.to_str().unwrap()),
        "{}",
        said.text
    );
}

#[test]
fn a_port_that_is_taken() {
    let bed = Bed::new();
    let holder = TcpListener::bind(loopback(free_port())).unwrap();
    let taken = holder.local_addr().unwrap();
    let said = refused(&Options::new(&bed), taken, |command| command);
    assert_ne!(said.code, 0);
    assert!(
        said.text.contains(&taken.port().to_string()),
        "{}",
        said.text
    );
    // Another stub's port is as taken as anybody's, though both would share it.
    let stub = Stub::start(&bed);
    let said = refused(&Options::new(&bed), stub.addr(), |command| command);
    assert!(
        said.text.contains(&stub.addr().port().to_string()),
        "{}",
        said.text
    );
}

/// As in a container whose seccomp profile forbids it.
#[test]
fn io_uring_refused_is_one_clear_line() {
    let bed = Bed::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/without_io_uring.py");
    let said = refused(&Options::new(&bed), loopback(free_port()), |inner| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script);
        process::wrap(command, &inner)
    });
    assert_eq!(said.code, 69, "{}", said.text);
    assert_eq!(said.text.trim().lines().count(), 1, "{}", said.text);
    assert!(said.text.contains("io_uring"), "{}", said.text);
    assert!(!said.text.contains("panicked"), "{}", said.text);
}

struct Said {
    code: i32,
    text: String,
}

/// Starts a stub that must end by itself, with what it says on its way out.
#[track_caller]
fn refused(
    options: &Options,
    http: std::net::SocketAddr,
    wrap: impl FnOnce(Command) -> Command,
) -> Said {
    let mut command = Command::new(binary());
    command.args(options.serve_words(http, loopback(free_port()), loopback(free_port())));
    let mut command = wrap(command);
    options.set_environment(&mut command);
    let output = run(&mut command, Duration::from_secs(10));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Said {
        code: output.status.code().unwrap_or(-1),
        text,
    }
}

/// The store is a file system of 8 MiB, the film of 24: the player has it all the same.
#[test]
fn a_full_disk() {
    let scene = Scene::new(24 * 1024 * 1024, 256 * 1024);
    let listen = (loopback_host(2), 0).into();
    let seeder = Seeder::start(listen, scene.film.goods(), Conduct::default()).unwrap();
    scene.tracker.announce(&scene.film, seeder.addr());
    let options = Options::new(&scene.bed);
    let store = options.store.clone();
    let mut stub = Stub::start_wrapped(&scene.bed, options, |inner| on_small_disk(&inner, &store));
    for _ in 0..2 {
        let begun = Instant::now();
        scene.film.assert_same(&stub.get_all(&scene.target()));
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
    }
    let part = stub
        .get(&scene.target(), &["Range: bytes=20000000-20099999"])
        .unwrap();
    scene.film.assert_part(20_000_000, &part.body);
    stub.assert_running();
}

/// In a mount namespace of its own, so that nothing is left behind.
fn on_small_disk(inner: &Command, store: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args([
        "sh",
        "-c",
        "mount -t tmpfs -o size=8m bittube \"$0\" && exec \"$@\"",
    ]);
    command.arg(store);
    process::wrap(command, inner)
}

/// Two films of which the store holds one and a half.
#[test]
fn a_small_store_evicts_and_goes_on() {
    const FILM_LEN: usize = 170_000_000;
    const STORE_LIMIT: u64 = 256_000_000;
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let options = Options::new(&bed).with(&["--store-limit", "256MB"]);
    let store = options.store.clone();
    let stub = Stub::start_with(&bed, options);
    for name in ["first.bin", "second.bin"] {
        let film = Film::random(&bed, name, FILM_LEN, 1024 * 1024);
        film.publish(nginx.root(), "");
        let target = target(&[], &nginx.url(name));
        film.assert_same(&stub.get_all(&target));
        let part = stub
            .get(&target, &["Range: bytes=1000000-1999999"])
            .unwrap();
        film.assert_part(1_000_000, &part.body);
    }
    wait_until(
        "the store to be within its limit",
        Duration::from_secs(20),
        || used(&store) <= STORE_LIMIT,
    );
    // What was evicted is bought again; what was not, is not.
    let bought = stub.bytes("from_origin");
    let first = Film::random(&bed, "first.bin", FILM_LEN, 1024 * 1024);
    first.assert_same(&stub.get_all(&target(&[], &nginx.url("first.bin"))));
    let again = stub.bytes("from_origin") - bought;
    assert!(
        again > 0 && again < FILM_LEN as u64 + 1_000_000,
        "bought again: {again}"
    );
}

/// A film of an earlier run goes, whole, before a piece of the one that is played.
#[test]
fn an_idle_film_makes_room() {
    const FILM_LEN: usize = 140_000_000;
    const STORE_LIMIT: u64 = 256_000_000;
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let [first, second] = ["first.bin", "second.bin"].map(|name| {
        let film = Film::random(&bed, name, FILM_LEN, 1024 * 1024);
        film.publish(nginx.root(), "");
        (film, target(&[], &nginx.url(name)))
    });
    let play = |stub: &Stub, (film, target): &(Film, String)| {
        film.assert_same(&stub.get_all(target));
    };
    let options = Options::new(&bed).with(&["--store-limit", "256MB"]);
    let stub = Stub::start_with(&bed, options);
    play(&stub, &first);
    let stub = Stub::start_with(&bed, stub.stop());
    play(&stub, &second);
    let bought = stub.bytes("from_origin");
    play(&stub, &second);
    let again = stub.bytes("from_origin") - bought;
    // Without the first film's room it is 24 MB at least.
    assert!(again < 16_000_000, "bought again: {again}");
    wait_until(
        "the store to be within its limit",
        Duration::from_secs(20),
        || used(&stub.options().store) <= STORE_LIMIT,
    );
}

/// Bytes of disk under a folder; holes count for nothing.
fn used(folder: &std::path::Path) -> u64 {
    let du = Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(folder)
        .output()
        .unwrap();
    String::from_utf8_lossy(&du.stdout)
        .split('\t')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn the_end_comes_soon_after_it_is_asked_for() {
    let scene = Scene::without_origin(8_000_000, 65_536);
    let slow = Conduct {
        rate: Some(500_000),
        ..Default::default()
    };
    let seeder = Seeder::start(loopback(0), scene.film.goods(), slow).unwrap();
    scene.tracker.announce(&scene.film, seeder.addr());
    let stub = Stub::start(&scene.bed);
    let playing = Playing::start(&stub, &scene);
    let mut idle = stub.client();
    thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    stub.stop();
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert!(idle.head().is_err());
    playing.end();
}

/// Nothing of the bed outlives its test, whatever it was doing.
#[test]
fn a_process_of_the_bed_ends_with_it() {
    let bed = Bed::new();
    let sleeper = Process::spawn(&bed, "sleeper", Command::new("sleep").arg("600"));
    let id = sleeper.id();
    drop(sleeper);
    assert!(!std::path::Path::new(&format!("/proc/{id}/cmdline")).exists());
}
