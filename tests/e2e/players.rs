//! Players as they are: Chromium, ffmpeg, curl; and many that wait while one plays.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::bed::chromium::{Chromium, assert_plays_and_seeks, player_page};
use crate::bed::film::Film;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::scene::{LIMIT, Scene};
use crate::bed::stub::{Options, Stub, target};

/// The clip at an origin and at a libtorrent seeder, and a stub.
struct Show {
    stub: Stub,
    _seeder: Libtorrent,
    scene: Scene,
}

impl Show {
    fn new() -> Self {
        let bed = Bed::new();
        let film = Film::clip(&bed, 65_536);
        let scene = Scene::of(bed, film);
        let seeder = scene.libtorrent(&Conduct::default());
        let stub = Stub::start(&scene.bed);
        Self {
            stub,
            _seeder: seeder,
            scene,
        }
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.stub.addr(), self.scene.target())
    }
}

#[test]
fn chromium_plays_and_seeks_at_a_page_on_another_origin() {
    let show = Show::new();
    let page = player_page(&show.url());
    let _browser = Chromium::open(&show.scene.bed, &page);
    assert_plays_and_seeks(&page);
    assert!(show.stub.bytes("from_peers") > 0);
}

#[test]
fn ffmpeg_decodes_the_whole_clip() {
    let show = Show::new();
    let decoded = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-xerror",
            "-i",
            &show.url(),
            "-f",
            "null",
            "-",
        ])
        .output()
        .unwrap();
    assert!(
        decoded.status.success() && decoded.stderr.is_empty(),
        "{decoded:?}"
    );
    let frames = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v",
            "-count_packets",
            "-show_entries",
        ])
        .args(["stream=nb_read_packets", "-of", "csv=p=0", &show.url()])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&frames.stdout).trim(),
        "500",
        "{frames:?}"
    );
}

#[test]
fn curl_gets_all_ranges() {
    let show = Show::new();
    let film = &show.scene.film;
    let curl = |more: &[&str]| {
        let got = Command::new("curl")
            .args(["-sSf"])
            .args(more)
            .arg(show.url())
            .output()
            .unwrap();
        assert!(got.status.success(), "{more:?}: {got:?}");
        got.stdout
    };
    film.assert_part(0, &curl(&["-r", "0-99"]));
    film.assert_part(film.len() - 100, &curl(&["-r", "-100"]));
    film.assert_part(1_000_000, &curl(&["-r", "1000000-"]));
    film.assert_part(123_456, &curl(&["-r", "123456-234567"]));
    film.assert_same(&curl(&[]));
    film.assert_same(&curl(&["--http1.0"]));
    let head = String::from_utf8(curl(&["-I"]))
        .unwrap()
        .to_ascii_lowercase();
    assert!(
        head.contains(&format!("content-length: {}", film.len())),
        "{head}"
    );
    assert!(head.contains("content-type: video/mp4"), "{head}");
    let part = show.scene.bed.dir().join("part.mp4");
    std::fs::write(&part, &film.data[..1_234_567]).unwrap();
    curl(&["-C", "-", "-o", part.to_str().unwrap()]);
    film.assert_same(&std::fs::read(part).unwrap());
}

#[test]
fn idle_and_paused_players_hold_nobody_up() {
    let scene = Scene::new(24 * 1024 * 1024, 256 * 1024);
    let _seeder = scene.libtorrent(&Conduct::default());
    let stub = Stub::start_with(
        &scene.bed,
        Options {
            shards: 1,
            ..Options::new(&scene.bed)
        },
    );
    let mut paused = Vec::new();
    for _ in 0..20 {
        let mut client = stub.client();
        client
            .send("GET", &scene.target(), &["Range: bytes=0-"])
            .unwrap();
        assert_eq!(client.head().unwrap().status, 206);
        paused.push(client);
        // Another that has asked nothing at all.
        paused.push(stub.client());
    }
    let begun = Instant::now();
    scene.film.assert_same(&stub.get_all(&scene.target()));
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "took {:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    let part = stub
        .get(&scene.target(), &["Range: bytes=20000000-20999999"])
        .unwrap();
    scene.film.assert_part(20_000_000, &part.body);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "took {:?}",
        begun.elapsed()
    );
    // Whoever goes on after a pause gets the rest, unbroken.
    let mut body = Vec::new();
    let mut buf = vec![0; 256 * 1024];
    while body.len() < scene.film.len() {
        let got = paused[0].read(&mut buf).unwrap();
        assert!(got > 0, "the paused player was cut off");
        body.extend_from_slice(&buf[..got]);
    }
    scene.film.assert_same(&body);
}

#[test]
fn a_seek_is_answered_while_the_rest_downloads() {
    let scene = Scene::without_origin(24 * 1024 * 1024, 1024 * 1024);
    let slow = Conduct {
        up_limit: 8_000_000,
        ..Default::default()
    };
    let _seeder = scene.libtorrent(&slow);
    let stub = Stub::start(&scene.bed);
    let mut first = stub.client();
    first.send("GET", &scene.torrent_target(), &[]).unwrap();
    assert_eq!(first.head().unwrap().status, 200);
    let begun = Instant::now();
    let part = stub
        .get(&scene.torrent_target(), &["Range: bytes=20000000-20099999"])
        .unwrap();
    scene.film.assert_part(20_000_000, &part.body);
    // The whole takes 3 s at this rate; the seek must not wait its turn behind it.
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "took {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_player_that_goes_away_leaves_nothing_running() {
    let scene = Scene::without_origin(16 * 1024 * 1024, 256 * 1024);
    let slow = Conduct {
        up_limit: 2_000_000,
        ..Default::default()
    };
    let _seeder = scene.libtorrent(&slow);
    let stub = Stub::start(&scene.bed);
    for start in [0, 5_000_000, 10_000_000] {
        let mut client = stub.client();
        let range = format!("Range: bytes={start}-");
        client
            .send("GET", &scene.torrent_target(), &[&range])
            .unwrap();
        assert_eq!(client.head().unwrap().status, 206);
    }
    crate::bed::wait_until("the readers to be gone", LIMIT, || {
        stub.swarm(&scene.film.hex())["readers"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}

/// `target` percent-encoded, and with the one slash that some proxies leave.
#[test]
fn spellings_of_an_address() {
    let show = Show::new();
    let film = &show.scene.film;
    let (tracker, video) = (show.scene.tracker.url(), show.scene.nginx.url(&film.name));
    let encoded = |url: &str| url.replace(':', "%3A").replace('/', "%2F");
    let folded = |url: &str| url.replacen("://", ":/", 1);
    let spellings = [
        target(&[&encoded(&tracker)], &encoded(&video)),
        target(&[&folded(&tracker)], &folded(&video)),
        target(&[&tracker, "http://127.0.0.1:1/announce"], &video),
        target(&[], &video),
    ];
    for spelling in spellings {
        let part = show
            .stub
            .get(&spelling, &["Range: bytes=1000-1999"])
            .unwrap();
        assert_eq!(part.status, 206, "{spelling}: {}", part.text());
        film.assert_part(1000, &part.body);
    }
}
