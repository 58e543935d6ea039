//! What `publish` writes and prints, in the hands of real web servers and viewers.

mod from_nothing;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::bed::film::{CLIP, Film, clip_with_index_at_end};
use crate::bed::http;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::net::{free_port, loopback};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::origin::{Faults, Origin};
use crate::bed::process::Process;
use crate::bed::scene::LIMIT;
use crate::bed::site::{Server, Site};
use crate::bed::stub::{Options, Stub, printed_address, run, target_of};
use crate::bed::{Bed, wait_for, wait_until};

/// Every letter here means something to some server.
const AWKWARD: &str = "it's a (film), 50%$ [1].mp4";
const AWKWARD_URL: &str = "it's%20a%20(film),%2050%25$%20[1].mp4";
const TRACKER: &str = "udp://127.0.0.1:9/announce";

fn publish(bed: &Bed, words: &[&str]) -> Output {
    let mut command = Options::new(bed).command();
    run(command.arg("publish").args(words), LIMIT)
}

#[track_caller]
fn published(bed: &Bed, words: &[&str]) -> String {
    let output = publish(bed, words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The film that a torrent of the clip is of: its pieces' length is what publishing chose.
#[track_caller]
fn film_of(bed: &Bed, name: &str, torrent: &Path) -> Film {
    let torrent = fs::read(torrent).unwrap();
    let hashes = |film: &Film| {
        let bytes = film.torrent("", "");
        let info = &bytes[bytes.windows(6).position(|run| run == b"4:info").unwrap()..];
        torrent
            .windows(info.len() - 1)
            .any(|run| run == &info[..info.len() - 1])
    };
    let clip = fs::read(CLIP).unwrap();
    let films = (14..24).map(|log| Film::new(bed, name, clip.clone(), 1 << log));
    films
        .into_iter()
        .find(hashes)
        .expect("the torrent is of the clip")
}

/// The text under `# <server>`, as it was printed.
fn lines_for(told: &str, server: &str) -> String {
    let head = format!("# {server}");
    let rest = &told[told.find(&head).expect("told how") + head.len()..];
    let lines = rest
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("    "));
    let lines: Vec<_> = lines.map(|line| &line[4..]).collect();
    lines.join("\n")
}

/// A viewer finds the torrent by the head that the printed lines make the server send, and by
/// nothing else, and plays from a seeder.
fn plays_by_the_printed_lines(server: Server, name: &str) {
    let bed = Bed::new();
    let addr = loopback(free_port());
    let film = bed.dir().join(AWKWARD);
    fs::copy(CLIP, &film).unwrap();
    let url = format!("http://{addr}/films/{AWKWARD_URL}");
    let source = film.to_str().unwrap();
    let publish = |tracker: &str| published(&bed, &[source, "--url", &url, "--tracker", tracker]);
    // The tracker must know the torrent before, so it is made twice.
    publish(TRACKER);
    let torrent = bed.dir().join(format!("{AWKWARD}.torrent"));
    let known = film_of(&bed, AWKWARD, &torrent);
    let tracker = OpenTracker::start(&bed, &[&known]);
    let told = publish(&tracker.url());

    let lines = lines_for(&told, name);
    // Where nobody looks by himself.
    let moved = lines.replace(".mp4.torrent>", ".mp4.moved>");
    assert_ne!(lines, moved, "{told}");
    let site = Site::start(&bed, server, addr, &moved);
    fs::create_dir(site.root.join("films")).unwrap();
    fs::copy(&film, site.root.join("films").join(AWKWARD)).unwrap();
    fs::copy(&film, site.root.join("films/other.mp4")).unwrap();
    let place = site
        .root
        .join(format!("films/{AWKWARD}"))
        .with_extension("mp4.moved");
    fs::copy(&torrent, place).unwrap();

    let head = |path: &str| http::get(addr, path, &["Range: bytes=0-99"]).unwrap();
    let reply = head(&format!("/films/{AWKWARD_URL}"));
    assert_eq!(reply.status, 206, "{reply:?}");
    let link = reply.header("link").unwrap_or_else(|| panic!("{reply:?}"));
    assert!(
        link.starts_with(&format!("<http://{addr}/films/it%27s%20a%20(film),")),
        "{link}"
    );
    assert!(
        link.ends_with("; rel=\"describedby\"; type=\"application/x-bittorrent\""),
        "{link}"
    );
    assert_eq!(head("/films/other.mp4").header("link"), None);

    let seeder = Libtorrent::seed(&bed, &known, &torrent, &Conduct::default());
    wait_until("the seeder to be announced", LIMIT, || {
        tracker
            .scrape(&known)
            .is_some_and(|(seeders, _)| seeders >= 1)
    });
    let target = target_of(printed_address(&told));
    let stub = Stub::start(&bed);
    known.assert_same(&stub.get_all(target));
    let swarm = stub.swarm(&known.hex());
    assert!(swarm["bytes"]["from_peers"].as_u64().is_some(), "{swarm}");
    assert!(stub.bytes("from_peers") > 0, "{}", stub.stats());
    drop(seeder);
}

#[test]
fn nginx_names_the_torrent() {
    plays_by_the_printed_lines(Server::Nginx, "nginx");
}

#[test]
fn apache_names_the_torrent() {
    plays_by_the_printed_lines(Server::Apache, "Apache");
}

#[test]
fn caddy_names_the_torrent() {
    plays_by_the_printed_lines(Server::Caddy, "Caddy");
}

#[test]
fn a_film_on_the_web_is_read_once() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    for (name, film) in [
        ("clip.mp4", PathBuf::from(CLIP)),
        ("end.mp4", clip_with_index_at_end(&bed)),
    ] {
        fs::copy(&film, nginx.root().join(name)).unwrap();
        let url = nginx.url(name);
        let (near, far) = (
            bed.dir().join("near.torrent"),
            bed.dir().join("far.torrent"),
        );
        let (near, far) = (near.to_str().unwrap(), far.to_str().unwrap());
        let words = ["--tracker", TRACKER, "-o"];
        let local = [
            &[film.to_str().unwrap(), "--url", &url][..],
            &words,
            &[near],
        ]
        .concat();
        let told = published(&bed, &local);
        let remote = [&[url.as_str(), "--allow-private"][..], &words, &[far]].concat();
        let output = publish(&bed, &remote);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, told.replace(near, far));
        assert_eq!(fs::read(near).unwrap(), fs::read(far).unwrap());
        let warned = String::from_utf8(output.stderr).unwrap();
        assert_eq!(warned.contains("+faststart"), name == "end.mp4", "{warned}");
        // An index at the end is looked at beforehand.
        let len = fs::metadata(&film).unwrap().len();
        let sent = nginx.bytes_sent(name);
        assert!((len..=len + 4096).contains(&sent), "{sent} of {len}");
    }
    let torrent = bed.dir().join("secure.torrent");
    let ca_file = nginx.ca_file().to_str().unwrap();
    let url = nginx.https_url("clip.mp4");
    let words = [
        "--allow-private",
        "--tracker",
        TRACKER,
        "-o",
        torrent.to_str().unwrap(),
    ];
    let words = [&[url.as_str()], &words[..]].concat();
    let unknown = publish(&bed, &words);
    assert_eq!(unknown.status.code(), Some(69), "{unknown:?}");
    published(&bed, &[&words[..], &["--ca-file", ca_file]].concat());
    film_of(&bed, "clip.mp4", &torrent);
}

#[test]
fn what_breaks_off_goes_on_if_it_is_the_same() {
    let bed = Bed::new();
    let clip = Arc::new(fs::read(CLIP).unwrap());
    let len = clip.len() as u64;
    let read = |faults: Faults| {
        let origin = Origin::start(&clip, None, faults);
        let torrent = bed.dir().join(format!("{}.torrent", origin.addr().port()));
        let words = ["--allow-private", "--tracker", TRACKER, "-o"];
        let url = origin.url("clip.mp4");
        let words = [&[url.as_str()][..], &words, &[torrent.to_str().unwrap()]].concat();
        (publish(&bed, &words), torrent, origin)
    };
    let cut = Faults {
        cut_after: Some(len / 2),
        ..Faults::default()
    };
    let (output, torrent, origin) = read(cut.clone());
    assert!(output.status.success(), "{output:?}");
    film_of(&bed, "clip.mp4", &torrent);
    assert!(
        origin.asked() >= 2 && origin.sent() == len,
        "{} {}",
        origin.asked(),
        origin.sent()
    );

    let changed = Faults {
        changes_after: Some(len / 4),
        ..cut
    };
    let (output, torrent, _) = read(changed);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("changed"),
        "{output:?}"
    );
    assert!(!torrent.exists());
}

#[test]
fn publish_says_what_is_wrong_with_a_source() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let code = |words: &[&str]| {
        let output = publish(&bed, &[words, &["--tracker", TRACKER]].concat());
        assert!(output.stdout.is_empty(), "{output:?}");
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let here = nginx.url("none.mp4");
    let (denied, why) = code(&[&here]);
    assert_eq!(
        (denied, why.contains("--allow-private")),
        (64, true),
        "{why}"
    );
    let (missing, why) = code(&[&here, "--allow-private"]);
    assert_eq!((missing, why.contains("404")), (69, true), "{why}");
    assert_eq!(code(&["http://v.example/"]).0, 64);
    assert_eq!(code(&["http://v.example/a.mp4", "--watch"]).0, 64);
    assert_eq!(code(&[CLIP]).0, 64, "nobody said where it is");
    assert_eq!(code(&[CLIP, "--url", "http://v.example/films/"]).0, 64);
    // Nobody writes to it, and opening it would wait for that.
    let fifo = bed.dir().join("fifo.mp4");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let (code, why) = code(&[fifo.to_str().unwrap(), "--url", "http://v.example/a.mp4"]);
    assert_eq!((code, why.contains("not a file")), (66, true), "{why}");
}

/// Each in the list, in the order in which people count, and each plays.
#[test]
fn a_folder_is_a_playlist() {
    let bed = Bed::new();
    let nginx = Nginx::start(&bed);
    let root = nginx.root().join("my films");
    fs::create_dir_all(root.join("season 2")).unwrap();
    for name in ["part 10.mp4", "part 2.mp4", "season 2/part 1.mp4"] {
        fs::copy(CLIP, root.join(name)).unwrap();
    }
    fs::write(root.join("notes.txt"), "no film").unwrap();
    std::os::unix::fs::symlink(CLIP, root.join("elsewhere.mp4")).unwrap();
    let folder = root.to_str().unwrap();
    let url = nginx.url("my%20films");
    let told = published(&bed, &[folder, "--url", &url, "--tracker", TRACKER]);
    let list = fs::read_to_string(root.join("playlist.m3u8")).unwrap();
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(
        (lines[0], lines[2]),
        ("#EXTM3U", "#PLAYLIST:my films"),
        "{list}"
    );
    let seconds = lines[3]
        .strip_prefix("#EXTINF:")
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    assert!(seconds.parse::<u32>().unwrap() > 0, "{list}");
    let titles = lines
        .iter()
        .skip(3)
        .step_by(2)
        .map(|line| line.split_once(',').unwrap().1);
    assert_eq!(titles.collect::<Vec<_>>(), ["part 2", "part 10", "part 1"]);
    let clip = fs::read(CLIP).unwrap();
    let stub = Stub::start(&bed);
    let addresses: Vec<_> = lines.iter().skip(4).step_by(2).collect();
    for address in &addresses {
        assert!(told.contains(**address), "{told}");
        let target = target_of(address);
        assert!(stub.get_all(target) == clip, "{address}");
    }
    assert!(
        addresses[2].ends_with("/my%20films/season%202/part%201.mp4"),
        "{list}"
    );
    // Each by the torrent beside it, which names the film: so there are three.
    let stats = stub.stats();
    assert_eq!(stats["swarms"].as_array().unwrap().len(), 3, "{stats}");

    // Again, it is the same; a list that somebody made is left alone.
    published(&bed, &[folder, "--url", &url, "--tracker", TRACKER]);
    assert_eq!(
        fs::read_to_string(root.join("playlist.m3u8")).unwrap(),
        list
    );
    fs::write(root.join("playlist.m3u8"), "#EXTM3U\nmine.mp4\n").unwrap();
    let refused = publish(&bed, &[folder, "--url", &url, "--tracker", TRACKER]);
    assert_eq!(refused.status.code(), Some(73), "{refused:?}");
    let none = bed.folder("none");
    let none = publish(
        &bed,
        &[none.to_str().unwrap(), "--url", &url, "--tracker", TRACKER],
    );
    assert_eq!(none.status.code(), Some(66), "{none:?}");
}

#[test]
fn what_is_watched_is_published_again() {
    let bed = Bed::new();
    let folder = bed.folder("films");
    let film = folder.join("a.mp4");
    fs::copy(CLIP, &film).unwrap();
    let torrent = folder.join("a.mp4.torrent");
    let list = folder.join("playlist.m3u8");
    for source in [&film, &folder] {
        let mut command = Options::new(&bed).command();
        command
            .arg("publish")
            .arg(source)
            .args(["--watch", "--tracker", TRACKER]);
        command.args(["--url", "http://v.example/films"]);
        let mut process = Process::spawn(&bed, "publish", &mut command);
        process.wait_ready(LIMIT, || {
            torrent.exists() && (source == &film || list.exists())
        });
        let first = fs::read(&torrent).unwrap();
        wait_until("the watch", LIMIT, || process.log().contains("watching"));
        // Written in two halves, a while apart.
        let clip = fs::read(CLIP).unwrap();
        let other = [&clip[..], b"\0\0\0\x08free"].concat();
        fs::write(&film, &other[..other.len() / 2]).unwrap();
        thread::sleep(Duration::from_millis(1500));
        fs::write(&film, &other).unwrap();
        let second = wait_for("another torrent", LIMIT, || {
            let now = fs::read(&torrent).unwrap();
            (now != first).then_some(now)
        });
        let length = format!("6:lengthi{}e", other.len());
        let whole = second
            .windows(length.len())
            .any(|run| run == length.as_bytes());
        assert!(whole, "half a film was published");
        if source == &folder {
            fs::copy(CLIP, folder.join("b.mp4")).unwrap();
            wait_until("another film in the list", LIMIT, || {
                fs::read_to_string(&list).unwrap().contains("films/b.mp4")
            });
        }
        process.signal(Signal::INT);
        let ended = process.wait(LIMIT);
        assert!(ended.success(), "{ended:?}");
        fs::copy(CLIP, &film).unwrap();
        fs::remove_file(&torrent).unwrap();
    }
}

/// What README shows between ```` ```<language> ```` and the next fence.
fn readme(language: &str) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Whatever is put in the place of a name must find it.
fn put(conf: &str, name: &str, value: &str) -> String {
    assert!(conf.contains(name), "{name} in {conf}");
    conf.replacen(name, value, 1)
}

/// README's configuration with this machine's addresses: a site at `site`, and at `door` the way
/// to `tracker`.
fn configuration(
    server: Server,
    site: SocketAddr,
    door: SocketAddr,
    root: &Path,
    tracker: SocketAddr,
) -> String {
    let conf = match server {
        Server::Caddy => {
            let conf = put(
                &readme("caddyfile"),
                "v.example {",
                &format!("http://{site} {{"),
            );
            put(&conf, "t.example {", &format!("http://{door} {{"))
        }
        _ => {
            let conf = put(&readme("nginx"), "listen 80;", &format!("listen {site};"));
            put(&conf, "listen 80;", &format!("listen {door};"))
        }
    };
    let conf = put(&conf, "/srv/www", root.to_str().unwrap());
    put(&conf, "127.0.0.1:6969", &tracker.to_string())
}

/// Two viewers meet by a tracker behind the server; the other tracker of the film is dead.
fn a_site_that_grows(server: Server) {
    let bed = Bed::new();
    let [site, door] = [(); 2].map(|()| loopback(free_port()));
    let root = bed.folder("www");
    let film = root.join(AWKWARD);
    fs::copy(CLIP, &film).unwrap();
    let url = format!("http://{site}/{AWKWARD_URL}");
    let tracker = format!("http://{door}/announce");
    let words = [film.to_str().unwrap(), "--url", &url, "--tracker", TRACKER];
    let told = published(&bed, &[&words[..], &["--tracker", &tracker]].concat());
    let torrent = root.join(format!("{AWKWARD}.torrent"));
    let known = film_of(&bed, AWKWARD, &torrent);
    let opentracker = OpenTracker::start(&bed, &[&known]);
    let conf = configuration(server, site, door, &root, opentracker.addr());
    let _server = Site::run(&bed, server, &[site, door], &conf, &root);

    let get = |path: &str| http::get(site, path, &["Range: bytes=0-9"]).unwrap();
    let reply = get(&format!("/{AWKWARD_URL}?t=1"));
    let link = format!("</{AWKWARD_URL}.torrent>; rel=\"describedby\"");
    let said = reply.header("link").unwrap_or_else(|| panic!("{reply:?}"));
    assert!(said.starts_with(&link), "{said}");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let reply = get(&format!("/{AWKWARD_URL}.torrent"));
    assert_eq!(
        (reply.status, reply.header("link")),
        (206, None),
        "{reply:?}"
    );
    assert_eq!(
        reply.header("content-type"),
        Some("application/x-bittorrent")
    );
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));

    let target = target_of(printed_address(&told));
    let first = Stub::start(&bed);
    known.assert_same(&first.get_all(target));
    wait_until("the first viewer to seed", LIMIT, || {
        opentracker.scrape(&known) == Some((1, 0))
    });
    let second = Stub::start(&bed);
    known.assert_same(&second.get_all(target));
    assert!(second.bytes("from_peers") > 0, "{}", second.stats());
}

#[test]
fn a_site_that_grows_with_nginx() {
    a_site_that_grows(Server::Nginx);
}

#[test]
fn a_site_that_grows_with_caddy() {
    a_site_that_grows(Server::Caddy);
}

/// A tracker behind a server must learn who asks, and from the server alone.
#[test]
fn a_tracker_behind_a_server_hears_who_asks() {
    for server in [Server::Nginx, Server::Caddy] {
        let bed = Bed::new();
        let [site, door, tracker] = [(); 3].map(|()| loopback(free_port()));
        let listener = TcpListener::bind(tracker).unwrap();
        let heard = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut input = BufReader::new(&stream);
            while !head.ends_with("\r\n\r\n") {
                assert!(input.read_line(&mut head).unwrap() > 0, "{head}");
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde")
                .unwrap();
            head
        });
        let root = bed.folder("www");
        let conf = configuration(server, site, door, &root, tracker);
        let _server = Site::run(&bed, server, &[site, door], &conf, &root);
        let target = "/announce?info_hash=%00%ff%2B&port=1";
        let reply = http::get(door, target, &["X-Forwarded-For: 1.2.3.4"]).unwrap();
        assert_eq!(reply.body, b"de");
        let head = heard.join().unwrap();
        assert!(
            head.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{head}"
        );
        let lines: Vec<_> = head.lines().map(str::to_ascii_lowercase).collect();
        let said = lines
            .iter()
            .filter_map(|line| line.strip_prefix("x-forwarded-for: "));
        assert_eq!(said.collect::<Vec<_>>(), ["127.0.0.1"], "{head}");
    }
}
