//! What outlives a tracker, what is read again, and who may be tracked.

use std::io::Read as _;
use std::net::{Ipv6Addr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::bed::film::hex;
use crate::bed::http::{Client, get};
use crate::bed::net::outside_address;
use crate::bed::nginx::Nginx;
use crate::bed::tracker::{Tracker, announce_target};
use crate::bed::{Bed, stub, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

fn announce(tracker: &Tracker, hash: u8, port: u16, more: &str) -> String {
    tracker
        .get(&announce_target(&[hash; 20], port, more))
        .text()
}

fn restart_keeps_peers(how: Signal, words: &[&str]) {
    let bed = Bed::new();
    let mut tracker = Tracker::start_with(&bed, words);
    for hash in 1..=20 {
        announce(&tracker, hash, 1000 + u16::from(hash), "&left=0");
        let six = announce_target(&[hash; 20], 7, "&left=5&event=started");
        get(tracker.v6, &six, &[]).unwrap();
    }
    if how == Signal::KILL {
        tracker.wait_saved();
    }
    tracker.restart(&bed, how);
    let stats = tracker.stats();
    assert_eq!(stats["peers"], 40, "{stats}");
    assert_eq!(
        (&stats["seeds"], &stats["peers_v6"]),
        (&20.into(), &20.into())
    );
    for hash in 1..=20 {
        let reply = tracker.get(&announce_target(&[hash; 20], 9, "&left=1"));
        let peer = [&[127, 0, 0, 1][..], &(1000 + u16::from(hash)).to_be_bytes()].concat();
        let found = reply.body.windows(6).any(|window| window == peer);
        assert!(found, "{hash}: {}", reply.text());
        assert!(reply.text().contains("6:peers618:"), "{}", reply.text());
    }
}

#[test]
fn peers_outlive_a_restart() {
    restart_keeps_peers(Signal::TERM, &[]);
}

#[test]
fn peers_outlive_kill_9() {
    restart_keeps_peers(Signal::KILL, &[]);
}

#[test]
fn peers_outlive_a_restart_of_many_shards() {
    restart_keeps_peers(Signal::TERM, &["--shards", "3"]);
}

#[test]
fn shards_may_become_more_or_fewer() {
    let bed = Bed::new();
    let mut tracker = Tracker::start_with(&bed, &["--shards", "3"]);
    for hash in 1..=30 {
        announce(&tracker, hash, 1, "&left=1");
    }
    for shards in ["1", "2", "1"] {
        tracker.restart_with(&bed, Signal::TERM, &["--shards", shards]);
        assert_eq!(tracker.stats()["swarms"], 30, "{shards}");
    }
}

#[test]
fn shards_know_of_each_other() {
    let bed = Bed::new();
    let tracker = Tracker::start_with(&bed, &["--shards", "3"]);
    for hash in 1..=60 {
        for port in 1..=3 {
            announce(&tracker, hash, port, "&left=1&numwant=9");
        }
        let last = announce(&tracker, hash, 4, "&left=1&numwant=9");
        assert!(last.contains("5:peers18:"), "{hash}: {last}");
    }
    let hashes: Vec<_> = (1..=60u8)
        .map(|hash| format!("info_hash={}", format!("%{hash:02x}").repeat(20)))
        .collect();
    let scraped = tracker.get(&format!("/scrape?{}", hashes.join("&"))).text();
    assert_eq!(scraped.matches("10:incompletei4e").count(), 60, "{scraped}");
    let stats = tracker.stats();
    assert_eq!(
        (&stats["shards"], &stats["swarms"]),
        (&3.into(), &60.into())
    );
    assert_eq!(
        (&stats["peers"], &stats["http"]["announces"]),
        (&240.into(), &240.into())
    );
    tracker.stop();
}

#[test]
fn a_list_is_heeded_and_read_again() {
    let bed = Bed::new();
    let list = bed.write("list", format!("{}\n", hex(&[1; 20])));
    let words = ["--allow", list.to_str().unwrap()];
    let tracker = Tracker::start_with(&bed, &words);
    assert!(announce(&tracker, 1, 1, "").contains("8:interval"));
    let refused = announce(&tracker, 2, 1, "");
    assert!(
        refused.contains("not tracked here") && refused.contains("5:never"),
        "{refused}"
    );
    assert_eq!(tracker.stats()["peers"], 1);
    // A connection outlives the reload, and a list that cannot be read changes nothing.
    let mut client = Client::connect(tracker.v4).unwrap();
    client.get("/stats.json", &[]).unwrap();
    bed.write("list", "nonsense\n");
    tracker.signal(Signal::HUP);
    wait_until("the complaint", LIMIT, || tracker.log().contains("line 1"));
    assert!(announce(&tracker, 1, 1, "").contains("8:interval"));
    bed.write(
        "list",
        format!("# more\n{}\n{}\n", hex(&[2; 20]), hex(&[3; 20])),
    );
    tracker.signal(Signal::HUP);
    wait_until("the new list", LIMIT, || {
        announce(&tracker, 2, 1, "").contains("8:interval")
    });
    assert!(announce(&tracker, 1, 1, "").contains("not tracked here"));
    assert_eq!(tracker.stats()["allowed"], 2);
    assert_eq!(client.get("/stats.json", &[]).unwrap().status, 200);
}

#[test]
fn pages_are_for_people_and_programs() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    announce(&tracker, 1, 1, "&left=0");
    let page = tracker.get("/stats");
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        page.text().contains("<td>1 (1 IPv4, 0 IPv6)</td>"),
        "{}",
        page.text()
    );
    let json = get(tracker.v4, "/stats", &["Accept: application/json"]).unwrap();
    assert_eq!(json.header("content-type"), Some("application/json"));
    let metrics = tracker.get("/metrics").text();
    assert!(
        metrics.contains("\nbittube_tracker_peers_v4 1\n"),
        "{metrics}"
    );
    let mut client = Client::connect(tracker.v4).unwrap();
    client.send("HEAD", "/stats", &[]).unwrap();
    let head = client.reply("HEAD").unwrap();
    assert_eq!((head.status, head.length()), (200, Some(page.body.len())));
}

#[test]
fn clients_are_told_the_interval_that_was_asked_for() {
    let bed = Bed::new();
    let tracker = Tracker::start_with(&bed, &["--interval", "10s"]);
    let told = announce(&tracker, 1, 1, "");
    assert!(told.contains("8:intervali10e12:min intervali10e"), "{told}");
}

#[test]
fn only_a_trusted_proxy_says_who_asks() {
    let bed = Bed::new();
    let open = Tracker::start(&bed);
    let trusting = Tracker::start_with(&bed, &["--trust-proxy", "127.0.0.1"]);
    let ask = |tracker: &Tracker, said: &[&str]| {
        let target = announce_target(&[1; 20], 1, "");
        get(tracker.v4, &target, said).unwrap().body
    };
    let told = |body: &[u8], ip: [u8; 4]| {
        let key = [b"11:external ip4:", &ip[..]].concat();
        body.windows(key.len()).any(|window| window == key)
    };
    let said = "X-Forwarded-For: 6.6.6.6, 9.8.7.6";
    assert!(told(&ask(&open, &[said]), [127, 0, 0, 1]));
    assert!(told(&ask(&trusting, &[said]), [9, 8, 7, 6]));
    assert!(ask(&trusting, &[]).starts_with(b"d14:failure reason"));
    // By nginx, as README would have it.
    let nginx = Nginx::start_with(&bed, &proxied(&trusting));
    let target = format!("/tracker{}", announce_target(&[2; 20], 1, ""));
    let reply = get(nginx.addr(), &target, &["X-Forwarded-For: 6.6.6.6"]).unwrap();
    assert!(told(&reply.body, [127, 0, 0, 1]), "{}", reply.text());
}

fn proxied(tracker: &Tracker) -> String {
    format!(
        "location /tracker/ {{ proxy_pass http://{}/; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}",
        tracker.v4
    )
}

#[test]
fn what_hinders_the_start_is_told() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let addr = tracker.v4.to_string();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(stub::binary());
        command.arg("tracker").args(words).env("HOME", bed.dir());
        let output = stub::run(&mut command, LIMIT);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let other = bed.folder("other");
    let other = other.to_str().unwrap();
    for way in ["--http", "--udp"] {
        let (code, why) = run(&[way, &addr, "--store", other]);
        assert_eq!(code, Some(69), "{why}");
        assert!(why.contains(&addr), "{why}");
    }
    let store = tracker.store().to_str().unwrap();
    let (code, why) = run(&["--http", "127.0.0.1:0", "--store", store]);
    assert_eq!(code, Some(73), "{why}");
    let (code, _) = run(&[
        "--http",
        "127.0.0.1:0",
        "--store",
        other,
        "--allow",
        "/nowhere",
    ]);
    assert_eq!(code, Some(66));
    let bad = bed.write("bad", "x\n");
    let (code, why) = run(&["--store", other, "--allow", bad.to_str().unwrap()]);
    assert_eq!((code, why.contains("line 1")), (Some(65), true), "{why}");
    assert_eq!(run(&["--interval", "5s"]).0, Some(78));
    assert_eq!(run(&["--listen", "127.0.0.1:0"]).0, Some(64));
}

#[test]
fn one_address_has_its_share_of_connections() {
    let bed = Bed::new();
    let tracker = Tracker::start_on(&bed, outside_address(), Ipv6Addr::LOCALHOST, &[]);
    let outside = tracker.v4;
    let target = announce_target(&[1; 20], 1, "");
    let mut open: Vec<_> = (0..64)
        .map(|_| {
            let mut client = Client::connect(outside).unwrap();
            assert_eq!(client.get(&target, &[]).unwrap().status, 200);
            client
        })
        .collect();
    assert!(get(outside, &target, &[]).is_err(), "one too many");
    // Other addresses are not hindered, and whoever leaves makes room.
    let six = get(tracker.v6, "/stats.json", &[]).unwrap();
    assert_eq!(six.status, 200);
    open.pop();
    wait_until("room for another", LIMIT, || {
        get(outside, &target, &[]).is_ok()
    });
}

#[test]
fn silent_connections_end_and_do_not_hinder_others() {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let idle: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(tracker.v4).unwrap())
        .collect();
    assert!(announce(&tracker, 1, 1, "").contains("8:interval"));
    // Half a head and no more of it: ten seconds.
    let mut slow = TcpStream::connect(tracker.v4).unwrap();
    std::io::Write::write_all(&mut slow, b"GET /announce").unwrap();
    slow.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(slow.read(&mut [0; 16]).unwrap(), 0, "it is closed");
    drop(idle);
    wait_until("connections to be given back", LIMIT, || {
        tracker.stats()["connections"] == 1
    });
}
