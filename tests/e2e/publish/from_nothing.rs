//! README's script, run as it stands there, and held against what its web server logged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::bed::net::{answers, free_ports_in_a_row, loopback};
use crate::bed::stub::{binary, run};
use crate::bed::{Bed, wait_for};
use crate::publish::readme;

/// It plays a film of 40 s twice, faster than a person would.
const LIMIT: Duration = Duration::from_secs(300);
/// Those that the script names, counted from the first.
const PORTS: u16 = 8;
/// The film's seconds, as the script makes it.
const SECONDS: u64 = 40;

/// One line of the script's log: an answer's end, and what of the film it was.
struct Sent {
    at: f64,
    start: u64,
    bytes: u64,
}

impl Sent {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        let [at, bytes, "/film.mp4", range] = words[..] else {
            return None;
        };
        let start = range.strip_prefix("bytes=").map_or(0, |range| {
            let (start, _) = range.split_once('-').unwrap();
            start.parse().unwrap()
        });
        Some(Self {
            at: at.parse().unwrap(),
            start,
            bytes: bytes.parse().unwrap(),
        })
    }

    fn film(lines: &str) -> Vec<Self> {
        lines.lines().filter_map(Self::parse).collect()
    }

    /// Of these bytes, those behind the film's first `start`.
    fn behind(&self, start: u64) -> u64 {
        (self.start + self.bytes).saturating_sub(start.max(self.start))
    }
}

/// The folder that the script makes for itself.
fn folder(bed: &Bed) -> Option<PathBuf> {
    let mut made = fs::read_dir(bed.dir()).unwrap();
    made.find_map(|entry| Some(entry.unwrap().path()).filter(|path| path.join("www").exists()))
}

/// When the second viewer comes, and what the log said until then: all that is the first one's.
fn second_comes(bed: &Bed) -> (f64, String) {
    wait_for("the second viewer", LIMIT, || {
        let folder = folder(bed).filter(|folder| folder.join("second").exists())?;
        let log = fs::read_to_string(folder.join("access.log")).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Some((now.unwrap().as_secs_f64(), log))
    })
}

fn script(bed: &Bed, port: u16) -> Command {
    let program = binary();
    let first = program.parent().unwrap().display();
    let path = format!("{first}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg(bed.write("site.sh", readme("bash")));
    command.env("PATH", path).env("TMPDIR", bed.dir());
    command.env("PORT", port.to_string());
    command.env("XDG_CONFIG_HOME", bed.dir());
    command
}

/// Neither after five seconds by the clock nor behind five seconds of film is it the web server's.
#[test]
fn the_second_viewers_film_comes_from_the_first() {
    let bed = Bed::new();
    let port = free_ports_in_a_row(PORTS);
    let (output, (begun, before)) = thread::scope(|scope| {
        let output = scope.spawn(|| run(&mut script(&bed, port), LIMIT));
        let seen = second_comes(&bed);
        (output.join().unwrap(), seen)
    });
    assert!(output.status.success(), "{output:?}");
    for port in port..port + PORTS {
        assert!(!answers(loopback(port)), "{port} is still listened on");
    }

    let folder = folder(&bed).unwrap();
    let film = fs::read(folder.join("www/film.mp4")).unwrap();
    for viewer in ["first.mp4", "second.mp4"] {
        assert!(fs::read(folder.join(viewer)).unwrap() == film, "{viewer}");
    }
    let log = fs::read_to_string(folder.join("access.log")).unwrap();
    let len = film.len() as u64;
    let sum = |sent: &[Sent]| sent.iter().map(|sent| sent.bytes).sum::<u64>();
    assert!(sum(&Sent::film(&before)) >= len, "{before}");
    let mut second = Sent::film(log.strip_prefix(&before).unwrap());
    let all = sum(&second);
    let behind = second.iter().map(|sent| sent.behind(len * 5 / SECONDS));
    let behind = behind.sum::<u64>();
    second.retain(|sent| sent.at > begun + 5.0);
    let late = sum(&second);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(20 * late < len, "after 5 s: {late} of {len}\n{told}\n{log}");
    assert!(
        20 * behind < len,
        "behind 5 s: {behind} of {len}\n{told}\n{log}"
    );
    // What it prints at last is what was logged, by its own clock.
    let all = 100.0 * all as f64 / len as f64;
    let last = told.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("nginx sent {all:.1} % of it, ")),
        "{told}\n{log}"
    );
    assert!(last.ends_with(" % of it after 5 s"), "{told}");
}
