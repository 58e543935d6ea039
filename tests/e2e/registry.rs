//! A tracker that knows the torrents of videos: told by `publish`, or found out by itself.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use crate::bed::film::{CLIP, Film};
use crate::bed::http::Reply;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::player::play_in_time;
use crate::bed::registrar::{Registrar, TOKEN};
use crate::bed::registry::Registry;
use crate::bed::scene::LIMIT;
use crate::bed::stub::{Options, Stub, run, target};
use crate::bed::{Bed, wait_for, wait_until};

const FILM_LEN: usize = 8 * 1024 * 1024 + 4321;
const PIECE_LEN: u32 = 64 * 1024;

/// With the publisher's token in a file.
fn publish(bed: &Bed, nginx: &Nginx, tracker: &str, token: &str) -> Output {
    let token = bed.write("token", format!("{token}\n"));
    let mut command = Options::new(bed).command();
    command.args(["publish", "--allow-private", CLIP]);
    command.args(["--url", &nginx.url("clip.mp4"), "--tracker", tracker]);
    command.arg("--output").arg(bed.dir().join("clip.torrent"));
    command.arg("--token-file").arg(token);
    run(&mut command, LIMIT)
}

/// The registry's word on a video, once it is more than that the torrent is being made.
#[track_caller]
fn settled(tracker: &Registrar, video: &str) -> Reply {
    wait_for("the torrent to be made", LIMIT, || {
        let reply = tracker.metainfo(video);
        (reply.status != 202).then_some(reply)
    })
}

#[track_caller]
fn assert_clip(body: &[u8]) {
    assert!(body == fs::read(CLIP).unwrap(), "the clip's bytes");
}

#[test]
fn a_published_film_is_found_by_the_tracker_alone() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    fs::copy(CLIP, nginx.root().join("clip.mp4")).unwrap();
    let video = nginx.url("clip.mp4");
    let tracker = Registrar::with_publisher(&bed, &nginx.addr().to_string());
    assert_eq!(tracker.metainfo(&video).status, 404);
    let output = publish(&bed, &nginx, &tracker.url(), TOKEN);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(&format!("registered {video}")), "{told}");
    let given = tracker.metainfo(&video);
    assert_eq!(given.status, 200);
    assert_eq!(
        given.header("content-type"),
        Some("application/x-bittorrent")
    );
    assert_eq!(
        given.body,
        fs::read(bed.dir().join("clip.torrent")).unwrap()
    );
    // A second time it is replaced; what was told outlives the tracker.
    assert!(
        publish(&bed, &nginx, &tracker.url(), TOKEN)
            .status
            .success()
    );
    let tracker = tracker.restart(&bed);
    assert_eq!(settled(&tracker, &video).body, given.body);
    let target = target(&[&tracker.url()], &video);
    let first = Stub::start(&bed);
    assert_clip(&first.get_all(&target));
    let hash = given.header("etag").unwrap().trim_matches('"');
    first.swarm(hash);
    let second = Stub::start(&bed);
    assert_eq!(
        second.get(&target, &["Range: bytes=0-0"]).unwrap().status,
        206
    );
    wait_until("the second viewer to have peers", LIMIT, || {
        second.swarm(hash)["peers"].as_u64() > Some(0)
    });
    assert_clip(&second.get_all(&target));
    assert!(second.bytes("from_peers") > 0, "{}", second.stats());
}

#[test]
fn a_token_that_is_none_is_refused_with_a_word_on_it() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    fs::copy(CLIP, nginx.root().join("clip.mp4")).unwrap();
    let tracker = Registrar::with_publisher(&bed, "other.example");
    for (token, word) in [
        (
            "somebody-else's-token-of-32-letters",
            "does not know the token",
        ),
        (TOKEN, "not for the host"),
    ] {
        let output = publish(&bed, &nginx, &tracker.url(), token);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{told}");
        assert!(told.contains(word), "{told}");
    }
    assert_eq!(tracker.metainfo(&nginx.url("clip.mp4")).status, 404);
    // A tracker without a registry is named too.
    let film = Film::clip(&bed, PIECE_LEN);
    let plain = OpenTracker::start(&bed, &[&film]);
    let output = publish(&bed, &nginx, &plain.url(), TOKEN);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{told}");
}

/// Nobody published anything: the first viewer's request has the tracker do it, and nine tenths
/// of the third one's film come from the two before, as the web server's log tells.
#[test]
fn a_prefix_is_enough() {
    const SECONDS: usize = 40;
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let film = Film::made(&bed, SECONDS, PIECE_LEN);
    fs::copy(film.path(), nginx.root().join(&film.name)).unwrap();
    let video = nginx.url(&film.name);
    let tracker = Registrar::start(&bed, &["--auto-publish", &nginx.addr().to_string()]);
    let target = target(&[&tracker.url()], &video);
    // What was sent while each of them played; the tracker's own reading is in the first's.
    let mut sent = Vec::new();
    let viewers = [(); 3].map(|()| {
        let before = nginx.bytes_sent(&film.name);
        let viewer = Stub::start(&bed);
        play_in_time(&viewer, &target, &film, 3 * film.len() / SECONDS);
        sent.push(nginx.bytes_sent(&film.name) - before);
        viewer
    });
    let len = film.len() as u64;
    assert!(
        sent[0] >= 2 * len,
        "the tracker and the first viewer: {sent:?}"
    );
    assert!(
        10 * sent[2] <= len,
        "{sent:?} of {len}: {}",
        viewers[2].stats()
    );
    let made = settled(&tracker, &video);
    assert_eq!(made.status, 200);
    let hash = made.header("etag").unwrap().trim_matches('"');
    viewers.iter().for_each(|viewer| drop(viewer.swarm(hash)));
    // Another host's video, and what is no video, are not made.
    assert_eq!(tracker.metainfo("http://other.example/a.mp4").status, 404);
    fs::write(nginx.root().join("page.html"), "<html>").unwrap();
    assert_eq!(settled(&tracker, &nginx.url("page.html")).status, 404);
}

#[test]
fn a_changed_film_is_never_served_under_the_old_hash() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let path = nginx.root().join("clip.mp4");
    fs::copy(CLIP, &path).unwrap();
    let video = nginx.url("clip.mp4");
    let tracker = Registrar::start(&bed, &["--auto-publish", &nginx.addr().to_string()]);
    let old = settled(&tracker, &video);
    assert_eq!(old.status, 200);
    let changed = change(&path);
    // The registry still thinks that it is fresh, and the stub sees that it is not.
    let target = target(&[&tracker.url()], &video);
    let stub = Stub::start(&bed);
    assert!(
        stub.get_all(&target) == changed,
        "the bytes that are there now"
    );
    // After a start it looks first, and has the new one.
    let tracker = tracker.restart(&bed);
    let new = settled(&tracker, &video);
    assert_eq!(new.status, 200);
    assert_ne!(new.header("etag"), old.header("etag"));
    assert_ne!(new.header("video-etag"), old.header("video-etag"));
}

/// Other bytes, as many, and another time: what they are now.
fn change(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].reverse();
    fs::write(path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(5000);
    file.set_modified(past).unwrap();
    bytes
}

/// A film with its seeder, whose torrent lies nowhere but in registries.
struct Untold {
    film: Film,
    tracker: OpenTracker,
    nginx: Nginx,
    _seeder: Libtorrent,
}

impl Untold {
    fn start(bed: &Bed, limits: &str) -> Self {
        let film = Film::random(bed, "film.mp4", FILM_LEN, PIECE_LEN);
        let nginx = Nginx::start_with(bed, limits);
        fs::write(nginx.root().join(&film.name), &*film.data).unwrap();
        let tracker = OpenTracker::start(bed, &[&film]);
        let torrent = film.torrent_file(bed, &tracker.url());
        let seeder = Libtorrent::seed(bed, &film, &torrent, &Conduct::default());
        wait_until("the seeder to be announced", LIMIT, || {
            tracker.scrape(&film).is_some_and(|(seeds, _)| seeds > 0)
        });
        Self {
            film,
            tracker,
            nginx,
            _seeder: seeder,
        }
    }

    fn video(&self) -> String {
        self.nginx.url(&self.film.name)
    }

    fn torrent(&self) -> Vec<u8> {
        self.film.torrent(&self.tracker.url(), "")
    }

    fn etag(&self) -> String {
        let reply = crate::bed::http::get(
            self.nginx.addr(),
            &format!("/{}", self.film.name),
            &["Range: bytes=0-0"],
        );
        reply.unwrap().header("etag").unwrap().to_owned()
    }
}

#[test]
fn a_torrent_that_is_being_made_is_joined_under_way() {
    let bed = Bed::new();
    let untold = Untold::start(&bed, "limit_rate 200k;");
    let registry = Registry::start(untold.torrent(), &untold.etag(), false);
    let stub = Stub::start(&bed);
    let target = target(&[&registry.url()], &untold.video());
    thread::scope(|scope| {
        let whole = scope.spawn(|| stub.get_all(&target));
        wait_until("the registry to be asked again", LIMIT, || {
            registry.asked() > 1
        });
        registry.make_ready();
        untold.film.assert_same(&whole.join().unwrap());
    });
    assert!(stub.bytes("from_peers") > 0, "{}", stub.stats());
}

/// As after the tracker's restart: it wants to ask the video's server first, which is dead.
#[test]
fn a_dead_site_is_played_once_the_registry_knows() {
    let bed = Bed::new();
    let mut untold = Untold::start(&bed, "");
    let registry = Registry::start(untold.torrent(), &untold.etag(), false);
    untold.nginx.kill();
    let stub = Stub::start(&bed);
    let target = target(&[&registry.url()], &untold.video());
    thread::scope(|scope| {
        let whole = scope.spawn(|| stub.get_all(&target));
        wait_until("the registry to be asked", LIMIT, || registry.asked() > 0);
        registry.make_ready();
        untold.film.assert_same(&whole.join().unwrap());
    });
    // One that never has it is not waited for without end.
    let never = Registry::start(untold.torrent(), "", false);
    let other = untold.nginx.url("other.mp4");
    let reply = stub.get(&crate::bed::stub::target(&[&never.url()], &other), &[]);
    assert_eq!(reply.unwrap().status, 502);
}

#[test]
fn a_registry_of_another_version_is_not_believed() {
    let bed = Bed::new();
    let untold = Untold::start(&bed, "");
    let wrong = Film::random(&bed, "other.mp4", FILM_LEN, PIECE_LEN);
    let registry = Registry::start(wrong.torrent(&untold.tracker.url(), ""), "\"old\"", true);
    let stub = Stub::start(&bed);
    let asked = target(&[&registry.url()], &untold.video());
    untold.film.assert_same(&stub.get_all(&asked));
    assert!(registry.asked() > 0);
    assert!(stub.stats()["swarms"].as_array().unwrap().is_empty());
    // Another tracker's word is taken all the same.
    let right = Registry::start(untold.torrent(), &untold.etag(), true);
    let stub = Stub::start(&bed);
    let asked = target(&[&registry.url(), &right.url()], &untold.video());
    untold.film.assert_same(&stub.get_all(&asked));
    stub.swarm(&untold.film.hex());
}

#[test]
fn a_registry_that_is_down_or_silent_is_done_without() {
    let bed = Bed::new();
    let untold = Untold::start(&bed, "");
    let silent = Registry::silent();
    let nobody = "http://127.0.0.1:9/announce";
    let right = Registry::start(untold.torrent(), &untold.etag(), true);
    let trackers = [&silent.url(), nobody, &right.url()];
    let stub = Stub::start(&bed);
    let asked = target(&trackers, &untold.video());
    untold.film.assert_same(&stub.get_all(&asked));
    stub.swarm(&untold.film.hex());
    // And with nothing but those two, the torrent beside the video.
    untold
        .film
        .publish_torrent(untold.nginx.root(), &untold.tracker.url());
    let stub = Stub::start(&bed);
    let asked = target(&trackers[..2], &untold.video());
    untold.film.assert_same(&stub.get_all(&asked));
    stub.swarm(&untold.film.hex());
}
