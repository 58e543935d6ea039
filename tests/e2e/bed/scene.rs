//! What most tests begin with: a film, an origin that may have it, a tracker that knows it.

use std::path::PathBuf;
use std::time::Duration;

use crate::bed::film::Film;
use crate::bed::libtorrent::{Conduct, Libtorrent};
use crate::bed::nginx::Nginx;
use crate::bed::opentracker::OpenTracker;
use crate::bed::stub::target;
use crate::bed::{Bed, wait_until};

/// Longest that any film of these sizes may take to come through.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Programs before the bed: they end before their logs go.
pub struct Scene {
    pub nginx: Nginx,
    pub tracker: OpenTracker,
    /// As a file, with the tracker in it.
    pub torrent: PathBuf,
    pub film: Film,
    pub bed: Bed,
}

impl Scene {
    /// The origin has the film, and its torrent beside it.
    pub fn new(len: usize, piece_len: u32) -> Self {
        let bed = Bed::new();
        let film = Film::random(&bed, "film.bin", len, piece_len);
        let scene = Self::around(bed, film);
        scene.film.publish(scene.nginx.root(), &scene.tracker.url());
        scene
    }

    /// As [`Scene::new`]; `limits` slow the origin down.
    pub fn limited(len: usize, piece_len: u32, limits: &str) -> Self {
        let mut scene = Self::new(len, piece_len);
        scene.nginx = Nginx::start_with(&scene.bed, limits);
        scene.film.publish(scene.nginx.root(), &scene.tracker.url());
        scene
    }

    /// The origin has the torrent and no film: only peers do.
    pub fn without_origin(len: usize, piece_len: u32) -> Self {
        let bed = Bed::new();
        let film = Film::random(&bed, "film.bin", len, piece_len);
        let scene = Self::around(bed, film);
        scene
            .film
            .publish_torrent(scene.nginx.root(), &scene.tracker.url());
        scene
    }

    /// As [`Scene::new`], with a film made already.
    pub fn of(bed: Bed, film: Film) -> Self {
        let scene = Self::around(bed, film);
        scene.film.publish(scene.nginx.root(), &scene.tracker.url());
        scene
    }

    fn around(bed: Bed, film: Film) -> Self {
        let nginx = Nginx::start(&bed);
        let tracker = OpenTracker::start(&bed, &[&film]);
        let torrent = film.torrent_file(&bed, &tracker.url());
        Self {
            nginx,
            tracker,
            torrent,
            film,
            bed,
        }
    }

    /// `/<tracker>/<video>`.
    pub fn target(&self) -> String {
        target(&[&self.tracker.url()], &self.nginx.url(&self.film.name))
    }

    /// The same with the tracker's other address.
    pub fn udp_target(&self) -> String {
        target(&[&self.tracker.udp_url()], &self.nginx.url(&self.film.name))
    }

    /// `/<url ending in .torrent>`.
    pub fn torrent_target(&self) -> String {
        target(&[], &self.nginx.url(&format!("{}.torrent", self.film.name)))
    }

    /// A libtorrent seeder that the tracker knows already.
    pub fn libtorrent(&self, conduct: &Conduct) -> Libtorrent {
        let seeder = Libtorrent::seed(&self.bed, &self.film, &self.torrent, conduct);
        self.wait_seeders(1);
        seeder
    }

    #[track_caller]
    pub fn wait_seeders(&self, count: u64) {
        wait_until("seeders to be announced", LIMIT, || {
            self.tracker
                .scrape(&self.film)
                .is_some_and(|(seeders, _)| seeders >= count)
        });
    }
}
