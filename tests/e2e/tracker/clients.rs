//! Real clients announce, scrape and find each other by the tracker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::bed::aria2::Aria2;
use crate::bed::film::Film;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::net::{LOOPBACK, free_port, outside_address};
use crate::bed::nginx::Nginx;
use crate::bed::rqbit::Rqbit;
use crate::bed::scene::LIMIT;
use crate::bed::stub::{Stub, target};
use crate::bed::tracker::Tracker;
use crate::bed::transmission::Transmission;
use crate::bed::{Bed, wait_until};

const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const FILM_LEN: usize = 4_000_000;

/// By which of the tracker's addresses a torrent is announced, and from where.
#[derive(Clone, Copy)]
enum Way {
    Http,
    Udp,
    Http6,
    Udp6,
}

impl Way {
    fn ip(self) -> IpAddr {
        match self {
            Self::Http | Self::Udp => LOOPBACK,
            Self::Http6 | Self::Udp6 => LOOPBACK6,
        }
    }

    fn url(self, tracker: &Tracker) -> String {
        match self {
            Self::Http => tracker.http(),
            Self::Udp => tracker.udp(),
            Self::Http6 => tracker.http6(),
            Self::Udp6 => tracker.udp6(),
        }
    }
}

/// A film that nobody can find but by the tracker. Programs before the bed: they end before their
/// logs go.
struct Meeting {
    tracker: Tracker,
    torrent: PathBuf,
    film: Film,
    way: Way,
    bed: Bed,
}

impl Meeting {
    fn new(way: Way) -> Self {
        let bed = Bed::new();
        let tracker = Tracker::start(&bed);
        let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
        let torrent = film.torrent_file(&bed, &way.url(&tracker));
        Self {
            tracker,
            torrent,
            film,
            way,
            bed,
        }
    }

    fn conduct(&self) -> Conduct {
        Conduct {
            ip: Some(self.way.ip()),
            scrape: true,
            ..Default::default()
        }
    }

    fn libtorrent_seeds(&self) -> Libtorrent {
        let seeder = Libtorrent::seed(&self.bed, &self.film, &self.torrent, &self.conduct());
        self.tracker.wait_seeds(&self.film, 1);
        seeder
    }

    /// From whoever has announced itself; and it says by scrape how many there were.
    fn libtorrent_downloads(&self) {
        self.tracker.wait_seeds(&self.film, 1);
        let got = Libtorrent::download(&self.bed, &self.torrent, &self.conduct());
        got.wait_complete(&self.film, LIMIT);
        wait_until("libtorrent to hear of both", LIMIT, || {
            got.scraped().is_some_and(|(seeds, _)| seeds >= 1)
        });
    }
}

fn libtorrent_meets_libtorrent(way: Way) {
    let meeting = Meeting::new(way);
    let seeder = meeting.libtorrent_seeds();
    meeting.libtorrent_downloads();
    // It has all now, and says so.
    meeting.tracker.wait_seeds(&meeting.film, 1);
    wait_until("the seeder to scrape", LIMIT, || seeder.scraped().is_some());
}

#[test]
fn libtorrent_by_http() {
    libtorrent_meets_libtorrent(Way::Http);
}

#[test]
fn libtorrent_by_udp() {
    libtorrent_meets_libtorrent(Way::Udp);
}

#[test]
fn libtorrent_by_http_over_ipv6() {
    libtorrent_meets_libtorrent(Way::Http6);
}

#[test]
fn libtorrent_by_udp_over_ipv6() {
    libtorrent_meets_libtorrent(Way::Udp6);
}

fn aria2_meets_libtorrent(way: Way) {
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let seeder = Aria2::seed_at(bed, film, torrent, way.ip());
    meeting.libtorrent_downloads();
    drop(seeder);
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let _seeder = meeting.libtorrent_seeds();
    Aria2::download_at(bed, torrent, way.ip()).wait_complete(film, LIMIT);
}

#[test]
fn aria2_by_http() {
    aria2_meets_libtorrent(Way::Http);
}

#[test]
fn aria2_by_udp() {
    aria2_meets_libtorrent(Way::Udp);
}

#[test]
fn aria2_by_http_over_ipv6() {
    aria2_meets_libtorrent(Way::Http6);
}

fn rqbit_meets_libtorrent(way: Way) {
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let seeder = Rqbit::seed(bed, film, torrent, way.ip());
    meeting.libtorrent_downloads();
    drop(seeder);
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let _seeder = meeting.libtorrent_seeds();
    Rqbit::download(bed, torrent, way.ip()).wait_complete(film, LIMIT);
}

#[test]
fn rqbit_by_http() {
    rqbit_meets_libtorrent(Way::Http);
}

#[test]
fn rqbit_by_udp() {
    rqbit_meets_libtorrent(Way::Udp);
}

#[test]
fn rqbit_by_http_over_ipv6() {
    rqbit_meets_libtorrent(Way::Http6);
}

#[test]
fn rqbit_by_udp_over_ipv6() {
    rqbit_meets_libtorrent(Way::Udp6);
}

/// Bound to an address of IPv4 it asks no tracker over IPv6: there `ip` is any.
fn transmission_seeds(way: Way, ip: Ipv4Addr) {
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let seeder = Transmission::seed(bed, film, torrent, ip);
    meeting.libtorrent_downloads();
    wait_until("transmission to scrape", LIMIT, || {
        seeder.scraped().is_some()
    });
}

#[test]
fn transmission_by_http() {
    transmission_seeds(Way::Http, Ipv4Addr::LOCALHOST);
}

#[test]
fn transmission_by_udp() {
    transmission_seeds(Way::Udp, Ipv4Addr::LOCALHOST);
}

#[test]
fn transmission_by_http_over_ipv6() {
    transmission_seeds(Way::Http6, Ipv4Addr::UNSPECIFIED);
}

/// It dials no address of 127.0.0.0/8, so tracker and seeder are outside.
fn transmission_finds_a_seeder(url: impl Fn(&Tracker) -> String) {
    let bed = Bed::new();
    let outside = outside_address();
    let conduct = Conduct {
        ip: Some(outside.into()),
        ..Default::default()
    };
    let tracker = Tracker::start_on(&bed, SocketAddr::new(outside.into(), free_port()));
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let torrent = film.torrent_file(&bed, &url(&tracker));
    let _seeder = Libtorrent::seed(&bed, &film, &torrent, &conduct);
    tracker.wait_seeds(&film, 1);
    Transmission::download(&bed, &torrent, outside).wait_complete(&film, LIMIT);
}

#[test]
fn transmission_finds_a_seeder_by_http() {
    transmission_finds_a_seeder(Tracker::http);
}

#[test]
fn transmission_finds_a_seeder_by_udp() {
    transmission_finds_a_seeder(Tracker::udp);
}

/// Two viewers: the second one's film comes from the first, which the tracker names.
fn stubs_meet(url: impl Fn(&Tracker) -> String) {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let nginx = Nginx::start(&bed);
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let url = url(&tracker);
    film.publish(nginx.root(), &url);
    let target = target(&[&url], &nginx.url(&film.name));
    let first = Stub::start(&bed);
    film.assert_same(&first.get_all(&target));
    tracker.wait_seeds(&film, 1);
    // The film is nowhere else any more.
    film.publish_torrent(nginx.root(), &url);
    std::fs::remove_file(nginx.root().join(&film.name)).unwrap();
    let second = Stub::start(&bed);
    film.assert_same(&second.get_all(&format!("/{}", nginx.url("film.bin.torrent"))));
    assert_eq!(second.bytes("from_origin"), 0);
    assert!(first.bytes("to_peers") >= film.len() as u64);
    first.stop();
    second.stop();
    wait_until("both to have said goodbye", LIMIT, || {
        tracker.scrape(&film) == (0, 0)
    });
}

#[test]
fn stubs_by_http() {
    stubs_meet(Tracker::http);
}

#[test]
fn stubs_by_udp() {
    stubs_meet(Tracker::udp);
}

/// All kinds at once, each by the way it likes best, find one seeder and each other.
#[test]
fn all_meet_in_one_swarm() {
    let bed = Bed::new();
    let tracker = Tracker::start_with(&bed, &["--shards", "2"]);
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let http = bed.write("http.torrent", film.torrent(&tracker.http(), ""));
    let udp = bed.write("udp.torrent", film.torrent(&tracker.udp(), ""));
    let seeder = Libtorrent::seed(&bed, &film, &udp, &Conduct::default());
    tracker.wait_seeds(&film, 1);
    let mut aria2 = Aria2::download(&bed, &http);
    let rqbit = Rqbit::download(&bed, &udp, LOOPBACK);
    let libtorrent = Libtorrent::download(&bed, &http, &Conduct::default());
    aria2.wait_complete(&film, LIMIT);
    rqbit.wait_complete(&film, LIMIT);
    libtorrent.wait_complete(&film, LIMIT);
    assert!(seeder.uploaded() > 0);
    tracker.wait_seeds(&film, 2);
}
