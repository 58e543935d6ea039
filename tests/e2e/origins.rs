//! Origins over https, and origins with faults.

use std::time::{Duration, Instant};

use crate::bed::film::Film;
use crate::bed::libtorrent::Conduct;
use crate::bed::origin::{Faults, Origin};
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, target};
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 4 * 1024 * 1024 + 99;

#[test]
fn https_with_the_right_authority() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let ca_file = scene.nginx.ca_file().to_str().unwrap();
    let options = Options::new(&scene.bed).with(&["--ca-file", ca_file]);
    let stub = Stub::start_with(&scene.bed, options);
    let with_torrent = target(&[&scene.tracker.url()], &scene.nginx.https_url("film.bin"));
    scene.film.assert_same(&stub.get_all(&with_torrent));
    std::fs::write(scene.nginx.root().join("bare.bin"), &*scene.film.data).unwrap();
    scene
        .film
        .assert_same(&stub.get_all(&target(&[], &scene.nginx.https_url("bare.bin"))));
}

#[test]
fn https_with_an_unknown_authority_is_refused() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let stub = Stub::start(&scene.bed);
    let reply = stub
        .get(&target(&[], &scene.nginx.https_url("film.bin")), &[])
        .unwrap();
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert_eq!(scene.nginx.bytes_sent("film.bin"), 0);
}

#[test]
fn one_connection_is_used_again() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    scene.nginx.bytes_sent("film.bin");
    let mut connections: Vec<_> = scene
        .nginx
        .sent("film.bin")
        .iter()
        .map(|sent| sent.connection)
        .collect();
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() <= 3, "{:?}", scene.nginx.sent("film.bin"));
}

#[test]
fn who_comes_while_the_origin_is_down_has_the_swarm_once_it_is_back() {
    let mut scene = Scene::new(FILM_LEN, 65_536);
    let _seeder = scene.libtorrent(&Conduct::default());
    scene.wait_seeders(1);
    scene.nginx.kill();
    let stub = Stub::start(&scene.bed);
    for _ in 0..2 {
        assert_eq!(stub.get(&scene.target(), &[]).unwrap().status, 502);
    }
    scene.nginx.revive(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    stub.swarm(&scene.film.hex());
}

/// The player asks once, and plays on.
#[test]
fn a_torrent_that_could_not_be_had_at_first_is_looked_for_again() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let late = Faults {
        torrent_after: Duration::from_secs(1),
        rate: Some(700_000),
        ..Default::default()
    };
    let origin = Origin::start(&film.data, Some(film.torrent("", "")), late);
    let stub = Stub::start(&bed);
    film.assert_same(&stub.get_all(&target(&[], &origin.url("film.bin"))));
    stub.swarm(&film.hex());
}

/// Not a measurement (see `scripts/bench.sh`): only that nothing waits for what it need not.
#[test]
fn a_slow_origin_is_asked_at_once() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let slow = Faults {
        delay: Duration::from_millis(300),
        ..Default::default()
    };
    let origin = Origin::start(&film.data, Some(film.torrent("", "")), slow);
    let stub = Stub::start(&bed);
    let begun = Instant::now();
    let mut client = stub.client();
    client
        .send("GET", &target(&[], &origin.url("film.bin")), &[])
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut first = [0; 1];
    assert_eq!(client.read(&mut first).unwrap(), 1);
    assert!(
        begun.elapsed() < Duration::from_millis(550),
        "{:?}",
        begun.elapsed()
    );
}

/// The film's burst would fill a short queue before the torrent's few packets.
#[test]
fn the_torrent_is_asked_for_before_the_film() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let torrent = Some(film.torrent("", ""));
    let origin = Origin::start(&film.data, torrent, Faults::default());
    let stub = Stub::start(&bed);
    let target = target(&[], &origin.url("film.bin"));
    film.assert_same(&stub.get_all(&target));
    wait_until("both to be asked for", LIMIT, || {
        origin.openings().len() >= 2
    });
    assert_eq!(origin.openings()[0], "/film.bin.torrent");
}

#[test]
fn an_origin_without_ranges() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let whole = Faults {
        ignores_ranges: true,
        ..Default::default()
    };
    let origin = Origin::start(&film.data, Some(film.torrent("", "")), whole);
    let stub = Stub::start(&bed);
    let target = target(&[], &origin.url("film.bin"));
    film.assert_same(&stub.get_all(&target));
    let part = stub
        .get(&target, &["Range: bytes=1000000-1000999"])
        .unwrap();
    assert_eq!(part.status, 206);
    film.assert_part(1_000_000, &part.body);
}

/// The second half of another file must never follow the first half of this one.
#[test]
fn a_file_that_changes_under_way_is_not_mixed() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let changes = Faults {
        changes_after: Some(1_500_000),
        ..Default::default()
    };
    let origin = Origin::start(&film.data, None, changes);
    let stub = Stub::start(&bed);
    let mut client = stub.client();
    client
        .send("GET", &target(&[], &origin.url("film.bin")), &[])
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut body = Vec::new();
    let mut buf = vec![0; 65_536];
    while let Ok(got @ 1..) = client.read(&mut buf) {
        body.extend_from_slice(&buf[..got]);
    }
    film.assert_part(0, &body);
    // Either it was got in one go before the change, or the body broke off.
    assert!(body.len() == film.len() || body.len() < FILM_LEN);
    assert!(!body.is_empty());
}

#[test]
fn an_origin_that_dies_alone_breaks_the_body_off() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let mortal = Faults {
        die_after: Some(1_000_000),
        ..Default::default()
    };
    let origin = Origin::start(&film.data, None, mortal);
    let mut stub = Stub::start(&bed);
    let mut client = stub.client();
    client
        .send("GET", &target(&[], &origin.url("film.bin")), &[])
        .unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let mut body = Vec::new();
    let mut buf = vec![0; 65_536];
    while let Ok(got @ 1..) = client.read(&mut buf) {
        body.extend_from_slice(&buf[..got]);
    }
    film.assert_part(0, &body);
    assert!(body.len() < film.len());
    stub.assert_running();
}

#[test]
fn what_is_not_there_is_said_so() {
    let scene = Scene::new(100_000, 16_384);
    let stub = Stub::start(&scene.bed);
    let nothing = stub
        .get(&target(&[], &scene.nginx.url("nothing.mp4")), &[])
        .unwrap();
    assert_eq!(nothing.status, 404, "{}", nothing.text());
    let nobody = stub.get("/http://127.0.0.1:9/film.mp4", &[]).unwrap();
    assert_eq!(nobody.status, 502, "{}", nobody.text());
    let nonsense = stub.get("/nonsense", &[]).unwrap();
    assert!((400..500).contains(&nonsense.status), "{}", nonsense.status);
}
