//! Headless Chromium on one page, and the page that plays a film.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::bed::Bed;
use crate::bed::net::free_port;
use crate::bed::page::Page;
use crate::bed::process::Process;

/// A browser takes its time to start on a small machine with much else to do.
const LIMIT: Duration = Duration::from_secs(60);
/// From the order to seek until frames move again.
const SEEK_MS_MAX: f64 = 2000.0;

/// Runs until it is dropped.
pub struct Chromium {
    _process: Process,
}

impl Chromium {
    pub fn open(bed: &Bed, page: &Page) -> Self {
        let profile = bed.folder(&format!("chromium-{}", free_port()));
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-sync",
            ])
            .args([
                "--disable-component-update",
                "--disable-dev-shm-usage",
                "--mute-audio",
            ])
            .arg("--autoplay-policy=no-user-gesture-required")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(page.url())
            // What it keeps beside its profile goes to the bed as well.
            .env("HOME", &profile);
        let name = profile
            .file_name()
            .expect("named above")
            .to_string_lossy()
            .into_owned();
        Self {
            _process: Process::spawn(bed, &name, &mut command),
        }
    }
}

/// A page that plays `film`, reports how its time moves, seeks to 80 %, and reports again.
pub fn player_page(film: &str) -> Page {
    const SCRIPT: &str = r"
        const video = document.querySelector('video');
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        const moves = async (from) => {
            const begun = performance.now();
            while (!(video.currentTime > from + 0.2) || video.seeking) {
                if (video.error) throw video.error.code + ' ' + video.error.message;
                if (performance.now() - begun > 30000) throw 'no frame moves';
                await wait(20);
            }
            return performance.now() - begun;
        };
        video.play().catch(() => {});
        await moves(0);
        const times = [];
        for (let n = 0; n < 8; n += 1) { times.push(video.currentTime); await wait(250); }
        await report({ times, duration: video.duration, width: video.videoWidth });
        const to = video.duration * 0.8;
        video.currentTime = to;
        const took = await moves(to);
        await report({ to, took, now: video.currentTime, paused: video.paused });
    ";
    Page::serve(
        &format!("<video muted playsinline src='{film}'></video>"),
        SCRIPT,
    )
}

/// What issue and README promise of `<video>`.
#[track_caller]
pub fn assert_plays_and_seeks(page: &Page) {
    let playing = page.next_report(LIMIT);
    let times = playing["times"]
        .as_array()
        .unwrap_or_else(|| panic!("{playing}"));
    let times: Vec<f64> = times.iter().filter_map(Value::as_f64).collect();
    assert!(
        times.is_sorted() && times[times.len() - 1] > times[0] + 0.5,
        "{playing}"
    );
    assert!(
        (playing["duration"].as_f64().unwrap() - 20.0).abs() < 0.5,
        "{playing}"
    );
    assert_eq!(playing["width"], 640, "{playing}");
    let sought = page.next_report(LIMIT);
    assert!(sought["now"].as_f64() > sought["to"].as_f64(), "{sought}");
    assert!(
        sought["took"]
            .as_f64()
            .is_some_and(|took| took < SEEK_MS_MAX),
        "{sought}"
    );
}
