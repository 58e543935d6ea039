//! What there may be at most: swarms, streams and torrents of a site, connections, memory.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::bed::film::{CLIP, Film, Random};
use crate::bed::http::Client;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::nginx::Nginx;
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, target};
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 4_000_000;
const PIECE_LEN: u32 = 65_536;

/// Info-hashes of the swarms there are.
fn swarms(stub: &Stub) -> Vec<String> {
    let stats = stub.stats();
    let swarms = stats["swarms"].as_array().unwrap();
    let hash = |swarm: &serde_json::Value| swarm["info_hash"].as_str().unwrap().to_owned();
    swarms.iter().map(hash).collect()
}

/// Films on a web server, each with a torrent that names it as its web seed.
fn shelf(bed: &Bed, nginx: &Nginx, count: usize, len: usize) -> Vec<Film> {
    let films: Vec<_> = (0..count)
        .map(|n| Film::random(bed, &format!("film{n}.bin"), len, PIECE_LEN))
        .collect();
    publish(nginx, &films);
    films
}

fn publish(nginx: &Nginx, films: &[Film]) {
    for film in films {
        film.publish(nginx.root(), "");
        let torrent = film.torrent("", &nginx.url(&film.name));
        fs::write(
            nginx.root().join(format!("{}.web.torrent", film.name)),
            torrent,
        )
        .unwrap();
    }
}

fn by_torrent(nginx: &Nginx, film: &Film) -> String {
    target(&[], &nginx.url(&format!("{}.web.torrent", film.name)))
}

#[test]
fn a_swarm_that_nobody_needs_ends_and_begins_anew() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    let stub = Stub::start_with(
        &scene.bed,
        Options::new(&scene.bed).with(&["--seed-time", "1s"]),
    );
    scene.film.assert_same(&stub.get_all(&scene.target()));
    scene.wait_seeders(1);
    wait_until("the swarm to end", LIMIT, || swarms(&stub).is_empty());
    wait_until("the tracker to hear of it", LIMIT, || {
        scene.tracker.scrape(&scene.film) == Some((0, 0))
    });
    let bought = stub.bytes("from_origin");
    assert!(bought >= FILM_LEN as u64, "what it counted is kept");
    assert_eq!(stub.bytes("to_players"), FILM_LEN as u64);
    assert_eq!(stub.stats()["swarms_ended"].as_u64(), Some(1));
    // The store was closed in order: nothing is bought twice, and it takes part again.
    let torrent = scene.torrent_target();
    scene.film.assert_same(&stub.get_all(&torrent));
    assert_eq!(stub.bytes("from_origin"), bought);
    assert_eq!(stub.bytes("to_players"), 2 * FILM_LEN as u64);
    scene.wait_seeders(1);
    stub.stop();
}

#[test]
fn a_peer_that_downloads_keeps_its_swarm() {
    let scene = Scene::new(FILM_LEN, PIECE_LEN);
    let options = Options::new(&scene.bed).with(&["--seed-time", "4s"]);
    let stub = Stub::start_with(&scene.bed, options);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let slow = Conduct {
        down_limit: 400_000,
        peer: Some(stub.peer()),
        ..Conduct::default()
    };
    let bare = scene.film.torrent_file(&scene.bed, "");
    let peer = Libtorrent::download(&scene.bed, &bare, &slow);
    peer.wait_complete(&scene.film, LIMIT);
    assert!(stub.bytes("to_peers") >= FILM_LEN as u64);
    wait_until("the swarm to end", LIMIT, || swarms(&stub).is_empty());
}

#[test]
fn the_swarm_unwatched_longest_makes_room() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let films = shelf(&bed, &nginx, 2, 16 * FILM_LEN);
    let stub = Stub::start_with(&bed, Options::new(&bed).with(&["--swarms-max", "1"]));
    films[0].assert_same(&stub.get_all(&by_torrent(&nginx, &films[0])));
    assert_eq!(swarms(&stub), [films[0].hex()]);
    thread::sleep(Duration::from_millis(2100));
    // Somebody begins to watch the second, and pauses.
    let mut paused = stub.client();
    let second = by_torrent(&nginx, &films[1]);
    paused.send("GET", &second, &[]).unwrap();
    assert_eq!(paused.head().unwrap().status, 200);
    assert_eq!(swarms(&stub), [films[1].hex()]);
    thread::sleep(Duration::from_millis(2100));
    // It does not make room, for it is watched. What has an origin plays all the same.
    let refused = stub.get(&by_torrent(&nginx, &films[0]), &[]).unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let video = target(&[], &nginx.url(&films[0].name));
    let part = stub.get(&video, &["Range: bytes=1000-1999999"]).unwrap();
    assert_eq!(part.status, 206);
    films[0].assert_part(1000, &part.body);
    assert_eq!(swarms(&stub), [films[1].hex()]);
    let mut rest = vec![0; films[1].len()];
    let mut at = 0;
    while at < rest.len() {
        match paused.read(&mut rest[at..]).unwrap() {
            0 => break,
            count => at += count,
        }
    }
    films[1].assert_same(&rest[..at]);
}

/// Requests that meet swarms at every moment of their end, from two shards.
#[test]
fn whoever_asks_for_a_swarm_that_ends_gets_its_film() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let films = shelf(&bed, &nginx, 4, 600_000);
    let options = Options {
        shards: 2,
        ..Options::new(&bed)
    };
    let stub = Stub::start_with(&bed, options.with(&["--seed-time", "0s"]));
    thread::scope(|scope| {
        for (n, film) in films.iter().enumerate() {
            let (stub, nginx) = (&stub, &nginx);
            scope.spawn(move || {
                let mut random = Random::new(n as u64 + 1);
                for _ in 0..8 {
                    film.assert_same(&stub.get_all(&by_torrent(nginx, film)));
                    let video = target(&[], &nginx.url(&film.name));
                    film.assert_same(&stub.get_all(&video));
                    // Its time is up after two seconds, looked at each half.
                    thread::sleep(Duration::from_millis(1900 + random.below(800) as u64));
                }
            });
        }
    });
    wait_until("all to end", LIMIT, || swarms(&stub).is_empty());
    wait_until("their files to be closed", LIMIT, || {
        let open = fs::read_dir(format!("/proc/{}/fd", stub.id())).unwrap();
        let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let hex: Vec<_> = films.iter().map(Film::hex).collect();
        let of_films = open.filter(|path| {
            let path = path.to_string_lossy();
            hex.iter().any(|hex| path.contains(hex))
        });
        of_films.count() == 0
    });
    assert!(!stub.log().contains("ERROR"), "{}", stub.log());
    stub.stop();
}

/// Large enough that a player who does not read holds its reply open.
fn clips(bed: &Bed, nginx: &Nginx, count: usize, len: usize) -> Vec<Film> {
    let clip = fs::read(CLIP).unwrap();
    let films: Vec<_> = (0..count)
        .map(|n| {
            let mut data = clip.clone();
            data.extend(Random::new(n as u64).bytes(len));
            Film::new(bed, &format!("clip{n}.mp4"), data, PIECE_LEN)
        })
        .collect();
    publish(nginx, &films);
    films
}

#[test]
fn a_site_has_eight_streams_on_all_shards_together() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let films = clips(&bed, &nginx, 4, 16 * FILM_LEN);
    let options = Options {
        shards: 2,
        ..Options::new(&bed)
    };
    let stub = Stub::start_with(&bed, options);
    let video = |n: usize| target(&[], &nginx.url(&films[n % films.len()].name));
    let site = "Origin: https://a.example";
    let mut paused: Vec<_> = (0..8)
        .map(|n| {
            let mut client = stub.client();
            client.send("GET", &video(n), &[site]).unwrap();
            assert_eq!(client.head().unwrap().status, 200);
            client
        })
        .collect();
    let ask = |from: &[&str]| {
        let lines = [from, &["Range: bytes=0-99"]].concat();
        stub.get(&video(0), &lines).unwrap()
    };
    let refused = ask(&[site]);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(
        refused.text().contains("site-streams"),
        "{}",
        refused.text()
    );
    assert!(refused.header("retry-after").is_some());
    let allowed = refused.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://a.example"), "the page may read why");
    assert_eq!(ask(&["Origin: https://b.example"]).status, 206);
    assert_eq!(ask(&[]).status, 206, "the user's own");
    paused.pop();
    wait_until("the stream to end", LIMIT, || ask(&[site]).status == 206);
}

#[test]
fn a_site_opens_four_torrents_a_minute() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let films = clips(&bed, &nginx, 6, 100_000);
    let stub = Stub::start(&bed);
    let site = "Referer: https://a.example/page";
    let status = |film: &Film, from: &[&str]| {
        let lines = [from, &["Range: bytes=0-99"]].concat();
        let reply = stub.get(&by_torrent(&nginx, film), &lines).unwrap();
        if reply.status == 429 {
            assert!(reply.text().contains("site-torrents"), "{}", reply.text());
            assert!(reply.header("retry-after").is_some());
        }
        reply.status
    };
    for film in &films[..4] {
        assert_eq!(status(film, &[site]), 206);
    }
    assert_eq!(status(&films[4], &[site]), 429);
    assert_eq!(status(&films[0], &[site]), 206, "it is open already");
    // What has an origin plays from there, and is neither kept nor given to others.
    let video = target(&[], &nginx.url(&films[5].name));
    let reply = stub.get(&video, &[site]).unwrap();
    films[5].assert_same(&reply.body);
    assert_eq!(swarms(&stub).len(), 4);
    // The limit is that site's alone.
    assert_eq!(status(&films[4], &["Origin: https://b.example"]), 206);
    assert_eq!(stub.get_all(&video).len(), films[5].len());
    wait_until("the user's own to be joined", LIMIT, || {
        swarms(&stub).len() == 6
    });
}

/// The same command with at most so many descriptors.
fn with_nofile(command: &Command, nofile: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {nofile} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn the_connections_idle_longest_make_room() {
    let scene = Scene::new(16 * FILM_LEN, PIECE_LEN);
    // 179 players at most, by the share of descriptors that is theirs; 143 are plenty.
    let options = Options::new(&scene.bed);
    let stub = Stub::start_wrapped(&scene.bed, options, |command| with_nofile(&command, 256));
    let mut paused = stub.client();
    paused.send("GET", &scene.target(), &[]).unwrap();
    assert_eq!(paused.head().unwrap().status, 200);
    let asked = || {
        let mut client = stub.client();
        client.send("OPTIONS", "*", &[]).unwrap();
        assert_eq!(client.reply("OPTIONS").unwrap().status, 204);
        client
    };
    let mut idle: Vec<_> = (0..142).map(|_| asked()).collect();
    for client in &mut idle {
        client.send("OPTIONS", "*", &[]).unwrap();
        assert_eq!(client.reply("OPTIONS").unwrap().status, 204, "143 may stay");
    }
    let newer: Vec<_> = (0..10).map(|_| asked()).collect();
    for client in &mut idle[..10] {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the longest idle go");
    }
    for client in idle[10..].iter_mut().chain(&mut { newer }) {
        client.send("OPTIONS", "*", &[]).unwrap();
        assert_eq!(client.reply("OPTIONS").unwrap().status, 204);
    }
    let mut rest = vec![0; scene.film.len()];
    let mut at = 0;
    while at < rest.len() {
        at += paused.read(&mut rest[at..]).unwrap();
    }
    scene.film.assert_same(&rest);
}

/// A player that takes next to nothing: what it does not take waits in the stub.
fn paused_player(stub: &Stub, target: &str) -> (u16, Client) {
    let socket = Socket::new(Domain::for_address(stub.addr()), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&stub.addr().into()).unwrap();
    let mut client = Client::over(stub.addr(), socket.into()).unwrap();
    client.send("GET", target, &[]).unwrap();
    (client.head().unwrap().status, client)
}

#[test]
fn memory_for_players_has_an_end() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let film = Film::random(&bed, "film.bin", 16 * FILM_LEN, PIECE_LEN);
    fs::copy(film.path(), nginx.root().join("film.bin")).unwrap();
    let stub = Stub::start(&bed);
    let target = target(&[], &nginx.url("film.bin"));
    let mut players = Vec::new();
    let refused = loop {
        assert!(players.len() < 1500, "nobody was refused");
        match paused_player(&stub, &target) {
            (200, client) => players.push(client),
            (status, _) => break status,
        }
    };
    assert_eq!(refused, 503);
    assert!(players.len() >= 200, "{} at once", players.len());
    let resident = fs::read_to_string(format!("/proc/{}/status", stub.id())).unwrap();
    let resident = resident
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 400 * 1024, "{resident}");
    players.truncate(10);
    let part = stub.get(&target, &["Range: bytes=5-99"]).unwrap();
    assert_eq!(part.status, 206, "memory came back: {}", part.text());
    film.assert_part(5, &part.body);
}

#[test]
fn idle_peers_hold_small_buffers() {
    const PEERS: u64 = 150;
    let scene = Scene::new(1_000_000, PIECE_LEN);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let hex = scene.film.hex();
    stub.swarm(&hex);
    let peers: Vec<_> = (0..PEERS)
        .map(|n| {
            let mut peer = TcpStream::connect(stub.peer()).unwrap();
            let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
            hello.extend(scene.film.goods().info_hash);
            hello.extend(format!("-BED000-{n:012}").bytes());
            peer.write_all(&hello).unwrap();
            peer
        })
        .collect();
    wait_until("peers to be known", LIMIT, || {
        stub.swarm(&hex)["peers"].as_u64() == Some(PEERS)
    });
    let buffers = stub.stats()["buffers"].as_u64().unwrap();
    assert!(buffers >= PEERS * 4096, "{buffers}");
    assert!(buffers <= PEERS * 64 * 1024 + 2 * 1024 * 1024, "{buffers}");
    drop(peers);
    wait_until("it to be given back", LIMIT, || {
        stub.stats()["buffers"].as_u64() < Some(2 * 1024 * 1024)
    });
}
