//! Every byte of a film through the stub, whoever has it, lies, or goes away in the middle.

use std::sync::atomic::Ordering;

use crate::bed::aria2::Aria2;
use crate::bed::film::Film;
use crate::bed::libtorrent;
use crate::bed::net::loopback_host;
use crate::bed::player::play_in_time;
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::stub::{Options, Stub, target};
use crate::bed::transmission::Transmission;
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 16 * 1024 * 1024 + 4321;
const PIECE_LEN: u32 = 256 * 1024;

#[test]
fn peers_only() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let _seeder = scene.libtorrent(&libtorrent::Conduct::default());
    let stub = Stub::start(&scene.bed);
    scene
        .film
        .assert_same(&stub.get_all(&scene.torrent_target()));
    assert_eq!(stub.bytes("from_origin"), 0);
    assert!(stub.bytes("from_peers") >= FILM_LEN as u64);
}

#[test]
fn origin_only() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert_eq!(stub.bytes("from_peers"), 0);
    let bought = stub.bytes("from_origin");
    assert!(bought >= FILM_LEN as u64);
    assert!(
        bought <= scene.nginx.bytes_sent(&scene.film.name),
        "more than nginx sent"
    );
    // A second player costs the origin nothing.
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert_eq!(stub.bytes("from_origin"), bought);
}

#[test]
fn origin_only_without_any_torrent() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, PIECE_LEN);
    let nginx = crate::bed::nginx::Nginx::start(&bed);
    std::fs::copy(film.path(), nginx.root().join("film.bin")).unwrap();
    let stub = Stub::start(&bed);
    let target = target(&[], &nginx.url("film.bin"));
    film.assert_same(&stub.get_all(&target));
    let part = stub
        .get(&target, &["Range: bytes=1000000-1999999"])
        .unwrap();
    assert_eq!(part.status, 206);
    film.assert_part(1_000_000, &part.body);
    let causes = stub.stats()["origin_bytes_by_cause"].clone();
    assert!(
        causes["passthrough"].as_u64() >= Some(FILM_LEN as u64),
        "{causes}"
    );
}

#[test]
fn peers_and_origin() {
    // Neither alone is fast enough to have it all before the other begins. (nginx lets a second's
    // worth of each answer go at once.)
    let scene = Scene::limited(FILM_LEN, PIECE_LEN, "limit_rate 400k;");
    let slow = libtorrent::Conduct {
        up_limit: 6_000_000,
        ..Default::default()
    };
    let _seeder = scene.libtorrent(&slow);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert!(stub.bytes("from_peers") > 0);
    assert!(stub.bytes("from_origin") > 0);
}

#[test]
fn peers_that_die_half_way() {
    // An origin so slow that the peer gets the chance to be in the middle of it.
    let scene = Scene::limited(FILM_LEN, PIECE_LEN, "limit_rate 400k;");
    assert_survives_its_peer(&scene, "hybrid");
}

#[test]
fn peers_that_die_half_way_when_the_origin_is_the_last_resort() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    assert_survives_its_peer(&scene, "last-resort");
}

#[track_caller]
fn assert_survives_its_peer(scene: &Scene, policy: &str) {
    let mortal = libtorrent::Conduct {
        up_limit: 8_000_000,
        // The origin brings as much or more of it.
        die_after: FILM_LEN as u64 / 3,
        ..Default::default()
    };
    let mut seeder = scene.libtorrent(&mortal);
    let options = Options::new(&scene.bed).with(&["--origin-policy", policy]);
    let stub = Stub::start_with(&scene.bed, options);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert!(
        seeder.has_died(),
        "the peer was to die: {}",
        seeder.status()
    );
}

#[test]
fn an_origin_that_dies_half_way() {
    let mut scene = Scene::new(FILM_LEN, PIECE_LEN);
    let slow = libtorrent::Conduct {
        up_limit: 4_000_000,
        ..Default::default()
    };
    let _seeder = scene.libtorrent(&slow);
    let options = Options::new(&scene.bed).with(&["--origin-policy", "eager"]);
    let stub = Stub::start_with(&scene.bed, options);
    let mut client = stub.client();
    client.send("GET", &scene.target(), &[]).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut body = client.take(FILM_LEN / 4);
    scene.nginx.kill();
    body.extend(client.take(FILM_LEN - body.len()));
    scene.film.assert_same(&body);
    assert!(stub.bytes("from_origin") > 0);
    assert!(stub.bytes("from_peers") > 0);
}

/// One block in 50 is wrong. Peers are told apart by address, as they are in the world.
#[test]
fn a_peer_that_lies() {
    let scene = Scene::without_origin(FILM_LEN, PIECE_LEN);
    let peer = |host, conduct: Conduct| {
        let listen = (loopback_host(host), 0).into();
        let seeder = Seeder::start(listen, scene.film.goods(), conduct).unwrap();
        scene.tracker.announce(&scene.film, seeder.addr());
        seeder
    };
    let slow = || Conduct {
        rate: Some(4_000_000),
        ..Default::default()
    };
    let honest = [peer(2, slow()), peer(3, slow())];
    let liar = peer(
        4,
        Conduct {
            lie_every: Some(50),
            ..Default::default()
        },
    );
    let stub = Stub::start(&scene.bed);
    scene
        .film
        .assert_same(&stub.get_all(&scene.torrent_target()));
    assert!(
        liar.tally().lies.load(Ordering::Relaxed) > 0,
        "the liar was never asked"
    );
    wait_until("the liar to be shut out", LIMIT, || {
        liar.tally().open.load(Ordering::Relaxed) == 0
    });
    let stats = stub.stats();
    assert_eq!(stats["peers_banned"], 1, "{stats}");
    for peer in &honest {
        assert_eq!(
            peer.tally().accepted.load(Ordering::Relaxed),
            1,
            "an honest peer was dropped"
        );
    }
}

/// The origin's share of what lies beyond the first 5 s of film is under 2 %.
#[test]
fn origin_share_with_peers_that_can_carry_the_film() {
    const SECONDS: usize = 25;
    let bed = Bed::new();
    let film = Film::made(&bed, SECONDS, 128 * 1024);
    let scene = Scene::of(bed, film);
    let _libtorrent = scene.libtorrent(&libtorrent::Conduct::default());
    let _aria2 = Aria2::seed(&scene.bed, &scene.film, &scene.torrent);
    let local = loopback_host(1);
    let _transmission = Transmission::seed(&scene.bed, &scene.film, &scene.torrent, local);
    scene.wait_seeders(3);
    let stub = Stub::start(&scene.bed);
    play_in_time(
        &stub,
        &scene.target(),
        &scene.film,
        scene.film.len() / SECONDS,
    );
    let first = (scene.film.len() * 5 / SECONDS) as u64;
    let bought = scene.nginx.bytes_sent_from(&scene.film.name, first);
    let share = bought as f64 / (scene.film.len() as u64 - first) as f64;
    assert!(share < 0.02, "origin's share {share:.4}: {}", stub.stats());
}
