//! The other addresses, and the other commands.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bed::film::{CLIP, Film, clip_with_index_at_end};
use crate::bed::http::Client;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::net::{answers, free_port, loopback};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::process::Process;
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, free_ports, printed_address, run, target_of};
use crate::bed::{Bed, wait_until};

const FILM_LEN: usize = 4 * 1024 * 1024 + 99;

#[test]
fn a_magnet_from_peers_only() {
    let scene = Scene::without_origin(FILM_LEN, 65_536);
    let seeder = scene.libtorrent(&Conduct::default());
    let stub = Stub::start(&scene.bed);
    let hash = scene.film.hex();
    let by_tracker = format!(
        "/magnet:?xt=urn:btih:{hash}&dn=film.bin&tr={}",
        scene.tracker.url()
    );
    scene.film.assert_same(&stub.get_all(&by_tracker));
    let fresh = Stub::start(&scene.bed);
    let by_peer = format!(
        "/magnet:?xt=urn:btih:{}&x.pe={}",
        hash.to_uppercase(),
        seeder.addr()
    );
    let part = fresh
        .get(&by_peer, &["Range: bytes=1000000-1999999"])
        .unwrap();
    assert_eq!(part.status, 206, "{}", part.text());
    scene.film.assert_part(1_000_000, &part.body);
    assert_eq!(fresh.bytes("from_origin"), 0);
}

#[test]
fn a_magnet_with_its_torrent_and_web_seed() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let stub = Stub::start(&scene.bed);
    let magnet = format!(
        "/magnet:?xt=urn:btih:{}&xs={}&ws={}",
        scene.film.hex(),
        scene.nginx.url("film.bin.torrent"),
        scene.nginx.url("film.bin")
    );
    scene.film.assert_same(&stub.get_all(&magnet));
    assert!(scene.nginx.bytes_sent("film.bin") >= FILM_LEN as u64);
}

#[test]
fn a_torrent_with_a_web_seed() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let torrent = scene.film.torrent("", &scene.nginx.url("film.bin"));
    fs::write(scene.nginx.root().join("seeded.torrent"), torrent).unwrap();
    let stub = Stub::start(&scene.bed);
    let target = crate::bed::stub::target(&[], &scene.nginx.url("seeded.torrent"));
    scene.film.assert_same(&stub.get_all(&target));
}

#[test]
fn as_a_proxy_when_told_so_and_not_otherwise() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let ask = |stub: &Stub| {
        let mut client = Client::connect(stub.addr()).unwrap();
        let host = format!("Host: {}", scene.nginx.addr());
        client.get(&scene.nginx.url("film.bin"), &[&host]).unwrap()
    };
    let plain = Stub::start(&scene.bed);
    assert_eq!(ask(&plain).status, 421);
    let options = Options::new(&scene.bed).with(&["--proxy"]);
    let proxy = Stub::start_with(&scene.bed, options);
    let reply = ask(&proxy);
    assert_eq!(reply.status, 200, "{}", reply.text());
    scene.film.assert_same(&reply.body);
    let curl = Command::new("curl")
        .args([
            "-sSf",
            "-r",
            "1000-1999",
            "-x",
            &format!("http://{}", proxy.addr()),
        ])
        .arg(scene.nginx.url("film.bin"))
        .env_remove("no_proxy")
        .output()
        .unwrap();
    assert!(curl.status.success(), "{curl:?}");
    scene.film.assert_part(1000, &curl.stdout);
}

#[test]
fn get_writes_the_film() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let _seeder = scene.libtorrent(&Conduct::default());
    let options = Options::new(&scene.bed);
    let file = scene.bed.dir().join("got.bin");
    let mut command = options.command();
    command.args([
        "get",
        "--allow-private",
        scene.target().trim_start_matches('/'),
        "-o",
    ]);
    let output = run(command.arg(&file).args(free_ports()), LIMIT);
    assert!(output.status.success(), "{output:?}");
    scene.film.assert_same(&fs::read(file).unwrap());
    // What is not there ends in an error, and leaves no file behind.
    let nothing = scene.bed.dir().join("nothing.bin");
    let mut command = options.command();
    command.args([
        "get",
        "--allow-private",
        &scene.nginx.url("nothing.mp4"),
        "-o",
    ]);
    let output = run(command.arg(&nothing).args(free_ports()), LIMIT);
    assert!(!output.status.success());
    assert!(!nothing.exists());
}

/// From a film and a web server to viewers that feed each other.
#[test]
fn publish_makes_what_a_site_needs() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let root = nginx.root();
    fs::copy(CLIP, root.join("clip.mp4")).unwrap();
    let torrent = root.join("clip.mp4.torrent");
    // The tracker must know the torrent before, so it is made twice.
    let publish = |tracker: &str| {
        let mut command = Options::new(&bed).command();
        command.arg("publish").arg(root.join("clip.mp4"));
        command.args(["--url", &nginx.url("clip.mp4"), "--tracker", tracker]);
        let output = run(&mut command, LIMIT);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = publish("udp://127.0.0.1:9/announce");
    let published = |piece_len: &u32| told.contains(&Film::clip(&bed, *piece_len).hex());
    let piece_len = (14..24).map(|log| 1 << log).find(published).unwrap();
    let film = Film::clip(&bed, piece_len);
    let tracker = OpenTracker::start(&bed, &[&film]);
    let told = publish(&tracker.udp_url());
    assert!(torrent.exists());
    let address = printed_address(&told);
    let target = target_of(address);
    assert!(
        told.contains(&format!("<source src=\"{address}\">")),
        "{told}"
    );
    let first = Stub::start(&bed);
    film.assert_same(&first.get_all(target));
    wait_until("the first viewer to seed", LIMIT, || {
        tracker.scrape(&film) == Some((1, 0))
    });
    let second = Stub::start(&bed);
    film.assert_same(&second.get_all(target));
    assert!(second.bytes("from_peers") > 0, "{}", second.stats());
    // Other clients take it as well.
    let got = Libtorrent::download(&bed, &torrent, &Conduct::default());
    got.wait_complete(&film, LIMIT);
}

#[test]
fn publish_says_what_is_wrong() {
    let bed = Bed::new();
    let publish = |film: &Path, words: &[&str]| {
        let mut command = Options::new(&bed).command();
        command.arg("publish").arg(film).args(words);
        command.args(["--tracker", "udp://127.0.0.1:9"]);
        run(&mut command, LIMIT)
    };
    let url = ["--url", "http://v.example/film.mp4"];
    let none = publish(&bed.dir().join("none.mp4"), &url);
    assert_eq!(none.status.code(), Some(66), "{none:?}");
    let empty = publish(&bed.write("empty.mp4", Vec::new()), &url);
    assert_eq!(empty.status.code(), Some(66), "{empty:?}");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("is empty"));
    let film = bed.write("film.mp4", vec![7; 100_000]);
    let nowhere = publish(
        &film,
        &[&url[..], &["-o", "/nowhere/film.torrent"]].concat(),
    );
    assert_eq!(nowhere.status.code(), Some(73), "{nowhere:?}");
    let unnamed = publish(&film, &["--url", "film.mp4"]);
    assert_eq!(unnamed.status.code(), Some(64), "{unnamed:?}");
    // An index behind the media is told, with what helps.
    let moved = clip_with_index_at_end(&bed);
    let warned = publish(&moved, &url);
    assert!(warned.status.success(), "{warned:?}");
    let said = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(said.contains("-movflags +faststart"), "{said}");
    assert!(!said.contains("not known"), "{said}");
}

#[test]
fn seed_keeps_a_swarm_supplied() {
    let scene = Scene::without_origin(FILM_LEN, 65_536);
    let options = Options::new(&scene.bed);
    let peer = loopback(free_port());
    let mut command = options.command();
    command
        .arg("seed")
        .arg(&scene.torrent)
        .arg("--data")
        .arg(scene.film.path());
    command.args(["--allow-private", "--peer-listen", &peer.to_string()]);
    // Meant for what was watched, not for what the user gives.
    command.env("BITTUBE_SEED_TIME", "0s");
    let mut seed = Process::spawn(&scene.bed, "seed", &mut command);
    seed.wait_ready(LIMIT, || answers(peer));
    scene.wait_seeders(1);
    std::thread::sleep(Duration::from_secs(4));
    let got = Libtorrent::download(&scene.bed, &scene.torrent, &Conduct::default());
    got.wait_complete(&scene.film, LIMIT);
    let stub = Stub::start(&scene.bed);
    scene
        .film
        .assert_same(&stub.get_all(&scene.torrent_target()));
}

#[test]
fn seed_does_not_seed_what_is_not_the_film() {
    let scene = Scene::without_origin(FILM_LEN, 65_536);
    let wrong = scene.bed.write("wrong.bin", vec![7; FILM_LEN]);
    let mut command = Options::new(&scene.bed).command();
    command
        .arg("seed")
        .arg(&scene.torrent)
        .arg("--data")
        .arg(wrong);
    command.args([
        "--allow-private",
        "--peer-listen",
        &loopback(free_port()).to_string(),
    ]);
    assert!(!run(&mut command, LIMIT).status.success());
}

#[test]
fn status_says_what_the_stub_does() {
    let scene = Scene::new(FILM_LEN, 65_536);
    let stub = Stub::start(&scene.bed);
    scene.film.assert_same(&stub.get_all(&scene.target()));
    let status = |more: &[&str]| {
        let mut command = stub.options().command();
        command
            .args(["status", "--admin", &stub.admin().to_string()])
            .args(more);
        let output = run(&mut command, Duration::from_secs(10));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!(json["swarms"][0]["info_hash"], scene.film.hex());
    assert_eq!(json["swarms"][0]["have_pieces"], scene.film.pieces());
    assert_eq!(json["bytes"]["to_players"], FILM_LEN);
    assert!(status(&[]).contains("film.bin"));
    let mut nobody = stub.options().command();
    nobody.args(["status", "--admin", &loopback(free_port()).to_string()]);
    assert!(!run(&mut nobody, Duration::from_secs(10)).status.success());
}

#[test]
fn demo_plays_its_clip_and_ends() {
    let bed = Bed::new();
    let output = run(Options::new(&bed).command().args(["demo", "--once"]), LIMIT);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("http://localhost:"), "{said}");
}
