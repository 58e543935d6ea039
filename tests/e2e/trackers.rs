//! What trackers are asked, how often, and by how many at once.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::bed::http::Client;
use crate::bed::libtorrent::Conduct;
use crate::bed::mute::Mute;
use crate::bed::net::{free_port, loopback};
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, run, target};
use crate::bed::{Bed, wait_until};

/// Trackers that one shard asks at once, as the program has it.
const ASKS_MAX: usize = 50;

/// How large a swarm is, a tracker that does not say so is asked for by scrape.
#[test]
fn opentracker_is_scraped_when_an_announce_tells_no_counts() {
    let scene = Scene::new(1_000_000, 65_536);
    let _seeder = scene.libtorrent(&Conduct::default());
    for udp in [false, true] {
        let mute = Mute::before(&scene.tracker);
        let url = if udp { mute.udp_url() } else { mute.url() };
        let stub = Stub::start(&scene.bed);
        let video = scene.nginx.url(&scene.film.name);
        scene
            .film
            .assert_same(&stub.get_all(&target(&[&url], &video)));
        let counted = || {
            let swarm = stub.swarm(&scene.film.hex());
            let trackers = swarm["trackers"].as_array().unwrap().clone();
            let ours = trackers
                .iter()
                .find(|tracker| tracker["url"] == url.as_str());
            let ours = ours.unwrap_or_else(|| panic!("{swarm}"));
            let seeders = ours["seeders"].as_u64().unwrap_or(0);
            seeders >= 1 && ours["leechers"].is_u64()
        };
        wait_until("the swarm's size to be known", LIMIT, counted);
        assert!(mute.scrapes() >= 1, "the announce said nothing");
        let mut status = stub.options().command();
        status.args(["status", "--admin", &stub.admin().to_string()]);
        let said = String::from_utf8(run(&mut status, LIMIT).stdout).unwrap();
        assert!(said.contains(" seeders and "), "{said}");
    }
}

/// Sixty torrents whose tracker never answers: fifty are asked for, the others wait their turn.
#[test]
fn so_many_trackers_are_asked_at_once() {
    const TORRENTS: usize = 60;
    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nd8:intervali1800e1:xi0ee";
    let bed = Bed::new();
    let addr = loopback(free_port());
    let listener = TcpListener::bind(addr).unwrap();
    let (send, asked) = channel::<(String, TcpStream)>();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            if send.send((line, stream)).is_err() {
                return;
            }
        }
    });
    let stub = Stub::start_with(&bed, Options::new(&bed));
    let viewers: Vec<_> = (0..TORRENTS)
        .map(|n| {
            let mut viewer = Client::connect(stub.addr()).unwrap();
            let magnet = format!(
                "/magnet:?xt=urn:btih:{:040x}&tr=http://{addr}/announce",
                n + 1
            );
            viewer.send("GET", &magnet, &[]).unwrap();
            viewer
        })
        .collect();
    let first: Vec<_> = (0..ASKS_MAX)
        .map(|nth| {
            asked
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("{nth} were asked"))
        })
        .collect();
    assert!(
        asked.recv_timeout(Duration::from_secs(2)).is_err(),
        "one more at once"
    );
    let mut torrents: BTreeSet<_> = first.iter().map(|(line, _)| line.clone()).collect();
    for (_, mut stream) in first {
        stream.write_all(REPLY).ok();
    }
    while torrents.len() < TORRENTS {
        let (line, _) = asked.recv_timeout(LIMIT).expect("it is their turn");
        torrents.insert(line);
    }
    drop(viewers);
}
