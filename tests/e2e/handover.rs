//! From what passes through to the swarm: the origin is asked for nothing twice on the way.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::bed::film::Film;
use crate::bed::http::{self, Client};
use crate::bed::nginx::Nginx;
use crate::bed::origin::{Faults, Origin};
use crate::bed::registry::Registry;
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, target};
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 300_001;
const PIECE_LEN: u32 = 64 * 1024;
/// What passes through at a time until the torrent is found.
const RANGE_LEN: usize = 64 * 1024;
/// What may be asked for twice where two ranges meet.
const BLOCK_LEN: u64 = 16 * 1024;

/// A film of which so much is told at once, the rest with time: nginx lets a second's worth of
/// each answer go before it holds back.
fn scene(limits: &str) -> Scene {
    Scene::limited(FILM_LEN, PIECE_LEN, limits)
}

#[track_caller]
fn assert_bought_once(nginx: &Nginx, film: &Film) {
    let (sent, len) = (nginx.bytes_sent(&film.name), film.len() as u64);
    assert!(
        (len..=len + BLOCK_LEN).contains(&sent),
        "{sent} of {len}: {:?}",
        nginx.sent(&film.name)
    );
}

/// A request waits for its first byte once, whoever sends the rest.
#[track_caller]
fn assert_first_bytes(stub: &Stub, requests: usize) {
    let right = format!("Authorization: Bearer {}", stub.token());
    let metrics = http::get(stub.admin(), "/metrics", &[&right]).unwrap();
    let count = format!("\nbittube_first_byte_seconds_count {requests}\n");
    assert!(metrics.text().contains(&count), "{}", metrics.text());
}

/// Found while it passes through, and played from its start by one viewer alone.
#[track_caller]
fn plays_and_is_bought_once(scene: &Scene) {
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let passed = stub.stats()["origin_bytes_by_cause"]["passthrough"].as_u64();
    assert!(passed > Some(0) && passed < Some(scene.film.len() as u64));
    wait_until("all of it to be the swarm's", LIMIT, || {
        stub.swarm(&scene.film.hex())["have_pieces"] == scene.film.pieces()
    });
    assert_first_bytes(&stub, 1);
    assert_bought_once(&scene.nginx, &scene.film);
}

#[test]
fn a_torrent_that_is_found_at_once() {
    let bed = Bed::new();
    let film = Film::clip(&bed, PIECE_LEN);
    plays_and_is_bought_once(&Scene::of(bed, film));
}

#[test]
fn a_torrent_that_is_found_while_the_first_range_passes() {
    plays_and_is_bought_once(&scene("limit_rate 48k;"));
}

#[test]
fn a_torrent_that_is_found_while_a_later_range_passes() {
    let slow = "location ~ [.]torrent$ { limit_rate 256; }";
    plays_and_is_bought_once(&scene(&format!("limit_rate 48k; {slow}")));
}

/// What is asked of the origin first depends on it. The film is one piece, which comes slowly.
fn rate_is_heard_before_a_piece(by_registry: bool) {
    let bed = Bed::new();
    let film = Film::clip(&bed, 4 * 1024 * 1024);
    assert_eq!(film.pieces(), 1);
    let nginx = Nginx::start_with(&bed, "limit_rate 48k;");
    fs::write(nginx.root().join(&film.name), &*film.data).unwrap();
    let path = format!("/{}", film.name);
    let head = http::get(nginx.addr(), &path, &["Range: bytes=0-0"]).unwrap();
    let registry = Registry::start(film.torrent("", ""), head.header("etag").unwrap(), false);
    if !by_registry {
        film.publish_torrent(nginx.root(), "");
    }
    let stub = Stub::start_with(&bed, Options::new(&bed).with(&["--log", "bittube=debug"]));
    let mut player = stub.client();
    let target = target(&[&registry.url()], &nginx.url(&film.name));
    if by_registry {
        // A probe, as Safari's, tells too little.
        let probe = player.get(&target, &["Range: bytes=0-1"]).unwrap();
        assert_eq!(probe.status, 206);
        wait_until("the registry to be asked again", LIMIT, || {
            registry.asked() > 1
        });
    }
    player.send("GET", &target, &[]).unwrap();
    assert_eq!(player.head().unwrap().status, 200);
    player.read(&mut [0]).unwrap();
    registry.make_ready();
    wait_until("the rate to be heard", LIMIT, || {
        stub.log().contains("bytes a second, from the container")
    });
    let swarm = stub.swarm(&film.hex());
    assert_eq!(swarm["have_pieces"], 0, "{swarm}");
}

#[test]
fn how_fast_a_film_plays_is_heard_before_a_piece_is_whole() {
    rate_is_heard_before_a_piece(false);
}

#[test]
fn how_fast_a_film_plays_is_heard_while_its_torrent_is_made() {
    rate_is_heard_before_a_piece(true);
}

/// A player that soon takes no more: what its socket and the stub's do not hold waits in the stub.
fn narrow(stub: &Stub) -> Client {
    let socket = Socket::new(Domain::for_address(stub.addr()), Type::STREAM, None).unwrap();
    // As little as there may be of both: the stub's side has room for so many packets.
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_tcp_mss(88).unwrap();
    socket.connect(&stub.addr().into()).unwrap();
    Client::over(stub.addr(), socket.into()).unwrap()
}

/// While it takes nothing the second third of the first range comes, and then the last.
#[test]
fn a_player_that_pauses_meanwhile() {
    let scene = scene("limit_rate 28k;");
    let stub = Stub::start(&scene.bed);
    let mut player = narrow(&stub);
    player.send("GET", &scene.target(), &[]).unwrap();
    assert_eq!(player.head().unwrap().status, 200);
    let mut body = vec![0; scene.film.len()];
    let mut at = player.read(&mut body[..1024]).unwrap();
    thread::sleep(Duration::from_secs(2));
    let swarm = stub.swarm(&scene.film.hex());
    assert_eq!(swarm["readers"][0]["offset"], RANGE_LEN, "{swarm}");
    while at < body.len() {
        let more = player.read(&mut body[at..]).unwrap();
        assert!(more > 0, "the body ended after {at} bytes");
        at += more;
    }
    scene.film.assert_same(&body);
    assert_bought_once(&scene.nginx, &scene.film);
}

/// What it has not taken yet is not what another waits for.
#[test]
fn a_paused_player_holds_up_no_other() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", FILM_LEN, PIECE_LEN);
    let slow = Faults {
        rate: Some(80_000),
        ..Faults::default()
    };
    let origin = Origin::start(&film.data, Some(film.torrent("", "")), slow);
    let before = Origin::start(&Arc::new(vec![7; 20_000]), None, Faults::default());
    let stub = Stub::start(&bed);
    let film_target = target(&[], &origin.url("film.bin"));
    let mut player = narrow(&stub);
    // Fills the sockets, so that the first range finds no room as a whole.
    let before = target(&[], &before.url("before.bin"));
    player.send("GET", &before, &[]).unwrap();
    player.send("GET", &film_target, &[]).unwrap();
    wait_until("the swarm to go on", LIMIT, || {
        stub.swarm(&film.hex())["readers"][0]["offset"] == RANGE_LEN
    });
    film.assert_same(&stub.get_all(&film_target));
    assert_eq!(player.reply("GET").unwrap().body, vec![7; 20_000]);
    film.assert_same(&player.reply("GET").unwrap().body);
}
