//! The bed's own parts, each against another real one: a red test here is not BitTube's fault.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::bed::Bed;
use crate::bed::aria2::Aria2;
use crate::bed::chromium::{Chromium, assert_plays_and_seeks, player_page};
use crate::bed::film::{CLIP, Film};
use crate::bed::http::get;
use crate::bed::libtorrent::{self, Libtorrent};
use crate::bed::net::{loopback, loopback_host, outside_address};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::seeder::{Conduct, Seeder};
use crate::bed::transmission::Transmission;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn libtorrent_seeds_to_aria2() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let tracker = OpenTracker::start(&bed, &[&film]);
    let torrent = film.torrent_file(&bed, &tracker.url());
    let seeder = Libtorrent::seed(&bed, &film, &torrent, &libtorrent::Conduct::default());
    Aria2::download(&bed, &torrent).wait_complete(&film, LIMIT);
    assert!(seeder.uploaded() >= film.len() as u64 || seeder.status()["peers"] != 0);
}

#[test]
fn aria2_seeds_to_libtorrent() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let torrent = film.torrent_file(&bed, "");
    let seeder = Aria2::seed(&bed, &film, &torrent);
    let to = libtorrent::Conduct {
        peer: Some(seeder.addr()),
        ..Default::default()
    };
    Libtorrent::download(&bed, &torrent, &to).wait_complete(&film, LIMIT);
}

#[test]
fn transmission_seeds_to_libtorrent() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let torrent = film.torrent_file(&bed, "");
    let seeder = Transmission::seed(&bed, &film, &torrent, Ipv4Addr::LOCALHOST);
    let to = libtorrent::Conduct {
        peer: Some(seeder.addr()),
        ..Default::default()
    };
    Libtorrent::download(&bed, &torrent, &to).wait_complete(&film, LIMIT);
}

/// It dials no address of 127.0.0.0/8 that a tracker gives: whoever seeds to it must be outside.
/// (libtorrent would bind such an address to its device, where nothing from this machine arrives.)
#[test]
fn transmission_downloads_from_outside_loopback() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let outside = outside_address().into();
    let tracker = OpenTracker::start_on(&bed, outside, &[&film]);
    let torrent = film.torrent_file(&bed, &tracker.url());
    let listen = SocketAddr::new(outside, 0);
    let seeder = Seeder::start(listen, film.goods(), Conduct::default()).unwrap();
    tracker.announce(&film, seeder.addr());
    Transmission::download(&bed, &torrent, loopback_host(2)).wait_complete(&film, LIMIT);
}

#[test]
fn the_beds_seeder_serves_libtorrent_and_dies_when_told() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let tracker = OpenTracker::start(&bed, &[&film]);
    let torrent = film.torrent_file(&bed, &tracker.url());
    let seeder = Seeder::start(loopback(0), film.goods(), Conduct::default()).unwrap();
    tracker.announce(&film, seeder.addr());
    let got = Libtorrent::download(&bed, &torrent, &libtorrent::Conduct::default());
    got.wait_complete(&film, LIMIT);
    assert!(seeder.tally().bytes.load(Ordering::Relaxed) >= film.len() as u64);

    let mortal = Conduct {
        die_after: Some(1_000_000),
        ..Default::default()
    };
    let mortal = Seeder::start(loopback(0), film.goods(), mortal).unwrap();
    let to = libtorrent::Conduct {
        peer: Some(mortal.addr()),
        ..Default::default()
    };
    let bare = film.torrent_file(&bed, "");
    let cut_off = Libtorrent::download(&bed, &bare, &to);
    crate::bed::wait_until("the seeder to die", LIMIT, || mortal.is_dead());
    assert!(cut_off.status()["progress"].as_f64() < Some(1.0));
}

#[test]
fn libtorrent_finds_the_lies_of_the_beds_seeder() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let torrent = film.torrent_file(&bed, "");
    let liar = Conduct {
        lie_every: Some(50),
        ..Default::default()
    };
    let liar = Seeder::start(loopback(0), film.goods(), liar).unwrap();
    let to = libtorrent::Conduct {
        peer: Some(liar.addr()),
        ..Default::default()
    };
    let victim = Libtorrent::download(&bed, &torrent, &to);
    crate::bed::wait_until("the liar to be thrown out", LIMIT, || {
        let tally = liar.tally();
        tally.lies.load(Ordering::Relaxed) > 0 && tally.open.load(Ordering::Relaxed) == 0
    });
    assert_eq!(victim.status()["seed"].as_bool(), Some(false));
}

#[test]
fn a_libtorrent_seeder_dies_half_way() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 4_000_000, 65_536);
    let torrent = film.torrent_file(&bed, "");
    let half = libtorrent::Conduct {
        die_after: 2_000_000,
        up_limit: 2_000_000,
        ..Default::default()
    };
    let mut seeder = Libtorrent::seed(&bed, &film, &torrent, &half);
    let to = libtorrent::Conduct {
        peer: Some(seeder.addr()),
        ..Default::default()
    };
    let cut_off = Libtorrent::download(&bed, &torrent, &to);
    crate::bed::wait_until("the seeder to die", LIMIT, || seeder.has_died());
    assert!(cut_off.status()["progress"].as_f64() < Some(1.0));
}

#[test]
fn nginx_serves_ranges_over_http_and_https_and_counts_them() {
    let bed = Bed::new();
    let film = Film::random(&bed, "film.bin", 1_000_000, 65_536);
    let nginx = Nginx::start(&bed);
    film.publish(nginx.root(), "");
    let part = get(nginx.addr(), "/film.bin", &["Range: bytes=1000-1999"]).unwrap();
    assert_eq!(part.status, 206);
    film.assert_part(1000, &part.body);
    film.assert_same(&get(nginx.addr(), "/film.bin", &[]).unwrap().body);
    let curl = Command::new("curl")
        .args(["-sf", "--cacert"])
        .arg(nginx.ca_file())
        .arg(nginx.https_url("film.bin"))
        .output()
        .unwrap();
    assert!(curl.status.success(), "{curl:?}");
    film.assert_same(&curl.stdout);
    assert_eq!(nginx.bytes_sent("film.bin"), 2_001_000);
    assert_eq!(nginx.bytes_sent_from("film.bin", 1500), 500 + 2 * 998_500);
}

#[test]
fn chromium_plays_and_seeks_the_clip_straight_from_nginx() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    std::fs::copy(CLIP, nginx.root().join("clip.mp4")).unwrap();
    let page = player_page(&nginx.url("clip.mp4"));
    let _browser = Chromium::open(&bed, &page);
    assert_plays_and_seeks(&page);
}
