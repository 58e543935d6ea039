//! Real clients as seeders to the stub and as downloaders from it, each alone, and many at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;

use crate::bed::aria2::Aria2;
use crate::bed::film::Film;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::net::{loopback_host, outside_address};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, target};
use crate::bed::transmission::Transmission;
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 8 * 1024 * 1024 + 4321;
const PIECE_LEN: u32 = 128 * 1024;

#[test]
fn libtorrent_seeds_to_us() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let seeder = scene.libtorrent(&Conduct::default());
    plays_from_peers(&scene);
    assert!(seeder.addr().port() != 0);
}

#[test]
fn transmission_seeds_to_us() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let local = loopback_host(1);
    let _seeder = Transmission::seed(&scene.bed, &scene.film, &scene.torrent, local);
    scene.wait_seeders(1);
    plays_from_peers(&scene);
}

#[test]
fn aria2_seeds_to_us() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let _seeder = Aria2::seed(&scene.bed, &scene.film, &scene.torrent);
    scene.wait_seeders(1);
    plays_from_peers(&scene);
}

#[track_caller]
fn plays_from_peers(scene: &Scene) {
    let stub = Stub::start(&scene.bed);
    scene
        .film
        .assert_same(&stub.get_all(&scene.torrent_target()));
    assert!(stub.bytes("from_peers") >= FILM_LEN as u64);
}

#[test]
fn libtorrent_downloads_from_us() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    let stub = complete(&scene, Options::new(&scene.bed));
    let got = Libtorrent::download(&scene.bed, &scene.torrent, &Conduct::default());
    got.wait_complete(&scene.film, LIMIT);
    assert_uploaded(&stub);
}

#[test]
fn aria2_downloads_from_us() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    let stub = complete(&scene, Options::new(&scene.bed));
    Aria2::download(&scene.bed, &scene.torrent).wait_complete(&scene.film, LIMIT);
    assert_uploaded(&stub);
}

/// The seeder is known to the tracker by HTTP, and to us by UDP alone.
#[test]
fn peers_are_found_by_udp() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let udp = scene.tracker.udp_url();
    scene.film.publish_torrent(scene.nginx.root(), &udp);
    let _seeder = scene.libtorrent(&Conduct::default());
    plays_from_peers(&scene);
}

#[test]
fn we_are_found_by_udp() {
    let mut scene = Scene::new(FILM_LEN, PIECE_LEN);
    let udp = scene.tracker.udp_url();
    scene.film.publish_torrent(scene.nginx.root(), &udp);
    scene.torrent = scene.film.torrent_file(&scene.bed, &udp);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.udp_target()));
    scene.wait_seeders(1);
    let got = Libtorrent::download(&scene.bed, &scene.torrent, &Conduct::default());
    got.wait_complete(&scene.film, LIMIT);
    assert_uploaded(&stub);
    // Both seed now.
    scene.wait_seeders(2);
    stub.stop();
    wait_until("the tracker to hear of the end", LIMIT, || {
        let known = scene.tracker.scrape(&scene.film);
        known.is_some_and(|(seeders, _)| seeders < 2)
    });
}

/// It dials no address of 127.0.0.0/8, so tracker and stub are outside.
#[test]
fn transmission_downloads_from_us() {
    let mut scene = Scene::new(FILM_LEN, PIECE_LEN);
    let outside = IpAddr::V4(outside_address());
    scene.tracker = OpenTracker::start_on(&scene.bed, outside, &[&scene.film]);
    scene.torrent = scene.film.torrent_file(&scene.bed, &scene.tracker.url());
    scene
        .film
        .publish_torrent(scene.nginx.root(), &scene.tracker.url());
    let options = Options {
        peer_ip: outside,
        ..Options::new(&scene.bed)
    };
    let stub = complete(&scene, options);
    let got = Transmission::download(&scene.bed, &scene.torrent, loopback_host(2));
    got.wait_complete(&scene.film, LIMIT);
    assert_uploaded(&stub);
}

/// A stub that has the whole film from the origin, and has told the tracker.
fn complete(scene: &Scene, options: Options) -> Stub {
    let stub = Stub::start_with(&scene.bed, options);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    scene.wait_seeders(1);
    stub
}

#[track_caller]
fn assert_uploaded(stub: &Stub) {
    wait_until("the upload to be counted", LIMIT, || {
        stub.bytes("to_peers") >= FILM_LEN as u64
    });
}

/// A stub that is still getting the film gives what it has to one that follows.
#[test]
fn one_stub_feeds_another() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let slow = Conduct {
        up_limit: 2_000_000,
        ..Default::default()
    };
    let _seeder = scene.libtorrent(&slow);
    let first = Stub::start(&scene.bed);
    let second = Stub::start(&scene.bed);
    thread::scope(|scope| {
        for stub in [&first, &second] {
            let scene = &scene;
            scope.spawn(move || {
                scene
                    .film
                    .assert_same(&stub.get_all(&scene.torrent_target()))
            });
        }
    });
    let between = first.bytes("to_peers") + second.bytes("to_peers");
    assert!(between > 0, "neither gave the other anything");
}

#[test]
fn two_shards_and_six_swarms_at_once() {
    let bed = Bed::new();
    let films: Vec<_> = (0..6)
        .map(|n| Film::random(&bed, &format!("film-{n}.bin"), 4_000_000 + n, 65_536))
        .collect();
    let nginx = Nginx::start(&bed);
    let tracker = OpenTracker::start(&bed, &films.iter().collect::<Vec<_>>());
    let mut seeders = Vec::new();
    for (n, film) in films.iter().enumerate() {
        film.publish(nginx.root(), &tracker.url());
        // Every second one has a peer as well.
        if n % 2 == 0 {
            let torrent = film.torrent_file(&bed, &tracker.url());
            seeders.push(Libtorrent::seed(&bed, film, &torrent, &Conduct::default()));
        }
    }
    let stub = Stub::start_with(
        &bed,
        Options {
            shards: 2,
            ..Options::new(&bed)
        },
    );
    let target = |film: &Film| target(&[&tracker.url()], &nginx.url(&film.name));
    thread::scope(|scope| {
        for film in &films {
            let (stub, target) = (&stub, target(film));
            scope.spawn(move || film.assert_same(&stub.get_all(&target)));
        }
    });
    let stats = stub.stats();
    let swarms = stats["swarms"].as_array().unwrap();
    assert_eq!(swarms.len(), films.len(), "{stats}");
    let shards: BTreeSet<_> = swarms.iter().map(|swarm| swarm["shard"].as_u64()).collect();
    assert_eq!(shards, BTreeSet::from([Some(0), Some(1)]), "{stats}");
    // One connection that goes from film to film, hence from shard to shard.
    let mut client = stub.client();
    for film in films.iter().chain(films.iter().rev()) {
        let part = client
            .get(&target(film), &["Range: bytes=100000-299999"])
            .unwrap();
        assert_eq!(part.status, 206);
        film.assert_part(100_000, &part.body);
    }
}
