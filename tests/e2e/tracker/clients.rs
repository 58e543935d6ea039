//! Real clients announce, scrape and find each other by the tracker: each is found and finds, by
//! HTTP and UDP, over IPv4 and IPv6. What is missing here is missing in the clients:
//!
//! - aria2 1.36 and rqbit 9.1 never scrape. `UDPTrackerRequest.h` of the one has a number for it
//!   that nothing sends, `tracker_comms_udp.rs` of the other has it in a comment; neither has it by
//!   HTTP.
//! - aria2 asks by UDP over IPv4 only: "currently we only utilize IPv4 DHT for UDP tracker",
//!   `NameResolveCommand.cc`.
//! - So does transmission 3.00: in `tr_urlParse` (`utils.c`) a host ends at its first colon, and
//!   `announcer-udp.c` reads every peer as one of IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::bed::aria2::Aria2;
use crate::bed::film::Film;
use crate::bed::http;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::net::{LOOPBACK, outside_address, outside_address6};
use crate::bed::nginx::Nginx;
use crate::bed::rqbit::Rqbit;
use crate::bed::scene::LIMIT;
use crate::bed::stub::{Options, Stub, target};
use crate::bed::tracker::{Tracker, announce_target};
use crate::bed::transmission::Transmission;
use crate::bed::{Bed, wait_for, wait_until};

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

    /// As the tracker saw it: so many announces came this way and no other, and scrapes if there
    /// were any; its peers are of the one family.
    #[track_caller]
    fn assert_taken(self, tracker: &Tracker, announces: u64, scraped: bool) {
        let stats = tracker.stats();
        let (family, other_family) = match self {
            Self::Http | Self::Udp => ("peers_v4", "peers_v6"),
            Self::Http6 | Self::Udp6 => ("peers_v6", "peers_v4"),
        };
        assert!(stats[family].as_u64() >= Some(1), "{stats}");
        assert_eq!(stats[other_family], 0, "{stats}");
        let (way, other_way) = match self {
            Self::Http | Self::Http6 => ("http", "udp"),
            Self::Udp | Self::Udp6 => ("udp", "http"),
        };
        assert!(
            stats[way]["announces"].as_u64() >= Some(announces),
            "{stats}"
        );
        assert_eq!(stats[way]["scrapes"].as_u64() > Some(0), scraped, "{stats}");
        for kind in ["announces", "scrapes"] {
            assert_eq!(stats[other_way][kind], 0, "{stats}");
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
    /// Whence peers announce.
    ip: IpAddr,
    bed: Bed,
}

impl Meeting {
    fn new(way: Way) -> Self {
        Self::of(way, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
    }

    /// Where peers are not taken for this machine's own.
    fn outside(way: Way) -> Self {
        Self::of(way, outside_address(), outside_address6())
    }

    fn of(way: Way, v4: Ipv4Addr, v6: Ipv6Addr) -> Self {
        let bed = Bed::new();
        let tracker = Tracker::start_on(&bed, v4, v6, &[]);
        let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
        let torrent = film.torrent_file(&bed, &way.url(&tracker));
        let ip = match way.ip() {
            IpAddr::V4(_) => v4.into(),
            IpAddr::V6(_) => v6.into(),
        };
        Self {
            tracker,
            torrent,
            film,
            way,
            ip,
            bed,
        }
    }

    fn libtorrent_seeds(&self) -> Libtorrent {
        let conduct = Conduct {
            ip: Some(self.ip),
            ..Default::default()
        };
        let seeder = Libtorrent::seed(&self.bed, &self.film, &self.torrent, &conduct);
        self.tracker.wait_seeds(1);
        seeder
    }

    /// From whoever has announced itself.
    fn libtorrent_downloads(&self) {
        self.tracker.wait_seeds(1);
        let conduct = Conduct {
            ip: Some(self.ip),
            ..Default::default()
        };
        let got = Libtorrent::download(&self.bed, &self.torrent, &conduct);
        got.wait_complete(&self.film, LIMIT);
    }

    #[track_caller]
    fn assert_way(&self, scraped: bool) {
        self.way.assert_taken(&self.tracker, 2, scraped);
    }
}

/// Both scrape as well, and hear of the seeder.
fn libtorrent_meets_libtorrent(way: Way) {
    let meeting = Meeting::new(way);
    let conduct = Conduct {
        ip: Some(meeting.ip),
        scrape: true,
        ..Default::default()
    };
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let seeder = Libtorrent::seed(bed, film, torrent, &conduct);
    meeting.tracker.wait_seeds(1);
    let got = Libtorrent::download(bed, torrent, &conduct);
    got.wait_complete(film, LIMIT);
    for peer in [&seeder, &got] {
        wait_until("libtorrent to scrape", LIMIT, || {
            peer.scraped().is_some_and(|(seeds, _)| seeds >= 1)
        });
    }
    meeting.assert_way(true);
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
    let seeder = Aria2::seed_at(bed, film, torrent, meeting.ip);
    meeting.libtorrent_downloads();
    meeting.assert_way(false);
    drop(seeder);
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let _seeder = meeting.libtorrent_seeds();
    Aria2::download_at(bed, torrent, meeting.ip).wait_complete(film, LIMIT);
    meeting.assert_way(false);
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
    let seeder = Rqbit::seed(bed, film, torrent, meeting.ip);
    meeting.libtorrent_downloads();
    meeting.assert_way(false);
    drop(seeder);
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let _seeder = meeting.libtorrent_seeds();
    Rqbit::download(bed, torrent, meeting.ip).wait_complete(film, LIMIT);
    meeting.assert_way(false);
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

/// It dials no address of loopback, so tracker and seeder are outside when it downloads.
fn transmission_meets_libtorrent(way: Way) {
    let meeting = Meeting::new(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let seeder = Transmission::seed(bed, film, torrent, meeting.ip);
    meeting.libtorrent_downloads();
    drop(seeder);
    let meeting = Meeting::outside(way);
    let Meeting {
        bed, film, torrent, ..
    } = &meeting;
    let _seeder = meeting.libtorrent_seeds();
    let got = Transmission::download(bed, torrent, meeting.ip);
    got.wait_complete(film, LIMIT);
    // By HTTP an announce's answer has told it all.
    if matches!(way, Way::Udp) {
        wait_until("transmission to scrape", LIMIT, || got.scraped().is_some());
    }
    meeting.assert_way(matches!(way, Way::Udp));
}

/// A torrent that is paused it scrapes within the first three minutes, drawn by lot: of many, some
/// soon.
fn transmission_scrapes(way: Way) {
    const FILMS: u8 = 60;
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let torrents = (1..=FILMS).map(|nth| {
        let film = Film::random(&bed, &format!("film-{nth}.bin"), 1000, 65_536);
        let seed = announce_target(&film.info_hash, u16::from(nth), "&left=0");
        let addr = match way.ip() {
            IpAddr::V4(_) => tracker.v4,
            IpAddr::V6(_) => tracker.v6,
        };
        assert!(
            http::get(addr, &seed, &[])
                .unwrap()
                .text()
                .contains("8:interval")
        );
        film.torrent_file(&bed, &way.url(&tracker))
    });
    let torrents: Vec<_> = torrents.collect();
    let paused = Transmission::paused(&bed, &torrents, way.ip());
    let scraped = wait_for("transmission to scrape", LIMIT, || paused.scraped());
    assert_eq!(scraped, (1, 0));
    way.assert_taken(&tracker, FILMS.into(), true);
}

#[test]
fn transmission_scrapes_by_http() {
    transmission_scrapes(Way::Http);
}

#[test]
fn transmission_scrapes_by_http_over_ipv6() {
    transmission_scrapes(Way::Http6);
}

#[test]
fn transmission_by_http() {
    transmission_meets_libtorrent(Way::Http);
}

#[test]
fn transmission_by_udp() {
    transmission_meets_libtorrent(Way::Udp);
}

#[test]
fn transmission_by_http_over_ipv6() {
    transmission_meets_libtorrent(Way::Http6);
}

/// Two viewers: the second one's film comes from the first, which the tracker names.
fn stubs_meet(way: Way) {
    let bed = Bed::new();
    let tracker = Tracker::start(&bed);
    let nginx = Nginx::start(&bed);
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let url = way.url(&tracker);
    film.publish(nginx.root(), &url);
    let target = target(&[&url], &nginx.url(&film.name));
    let start = || {
        let options = Options::new(&bed);
        let peer_ip = way.ip();
        Stub::start_with(&bed, Options { peer_ip, ..options })
    };
    let first = start();
    film.assert_same(&first.get_all(&target));
    tracker.wait_seeds(1);
    // The film is nowhere else any more.
    film.publish_torrent(nginx.root(), &url);
    std::fs::remove_file(nginx.root().join(&film.name)).unwrap();
    let second = start();
    film.assert_same(&second.get_all(&format!("/{}", nginx.url("film.bin.torrent"))));
    assert_eq!(second.bytes("from_origin"), 0);
    assert!(first.bytes("to_peers") >= film.len() as u64);
    way.assert_taken(&tracker, 2, false);
    first.stop();
    second.stop();
    wait_until("both to have said goodbye", LIMIT, || {
        tracker.scrape(&film) == (0, 0)
    });
}

#[test]
fn stubs_by_http() {
    stubs_meet(Way::Http);
}

#[test]
fn stubs_by_udp() {
    stubs_meet(Way::Udp);
}

#[test]
fn stubs_by_http_over_ipv6() {
    stubs_meet(Way::Http6);
}

#[test]
fn stubs_by_udp_over_ipv6() {
    stubs_meet(Way::Udp6);
}

/// All kinds at once, some by either way, find one seeder and each other.
#[test]
fn all_meet_in_one_swarm() {
    let bed = Bed::new();
    let outside = outside_address();
    let tracker = Tracker::start_on(&bed, outside, Ipv6Addr::LOCALHOST, &["--shards", "2"]);
    let film = Film::random(&bed, "film.bin", FILM_LEN, 65_536);
    let http = bed.write("http.torrent", film.torrent(&tracker.http(), ""));
    let udp = bed.write("udp.torrent", film.torrent(&tracker.udp(), ""));
    let ip = outside.into();
    let conduct = Conduct {
        ip: Some(ip),
        ..Default::default()
    };
    let seeder = Libtorrent::seed(&bed, &film, &udp, &conduct);
    tracker.wait_seeds(1);
    let mut aria2 = Aria2::download_at(&bed, &http, ip);
    let rqbit = Rqbit::download(&bed, &udp, ip);
    let libtorrent = Libtorrent::download(&bed, &http, &conduct);
    let transmission = Transmission::download(&bed, &udp, ip);
    aria2.wait_complete(&film, LIMIT);
    rqbit.wait_complete(&film, LIMIT);
    libtorrent.wait_complete(&film, LIMIT);
    transmission.wait_complete(&film, LIMIT);
    assert!(seeder.uploaded() > 0);
    // aria2 left when it had it, and rqbit tells no tracker that it has.
    tracker.wait_seeds(3);
}
