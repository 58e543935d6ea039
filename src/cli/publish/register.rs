//! The torrent told to its trackers' registries, with the publisher's token.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use url::Url;

use crate::cli::Failed;
use crate::cli::publish::remote;
use crate::config::{Config, exit};
use crate::origin::OriginFailed;
use crate::origin::get::{Get, Load};
use crate::resolve::registry::metainfo_url;
use crate::ring::runtime;
use crate::shard::download::Web;
use crate::shard::fetch;

/// Bytes of an answer that are read.
const ANSWER_LEN_MAX: usize = 64 * 1024;
/// Bytes of a token's file.
const TOKEN_FILE_LEN_MAX: u64 = 4096;

/// A publisher's right to register.
pub struct Registrar {
    web: Box<Web>,
    token: String,
}

impl Registrar {
    /// `file`: where the token stands; else `token`, as typed or from the environment. `None` if
    /// there is neither, for then nothing is registered.
    pub fn new(
        token: Option<String>,
        file: Option<&Path>,
        config: &Config,
    ) -> Result<Option<Self>, Failed> {
        let token = match (token, file) {
            (Some(token), _) => token,
            (None, Some(path)) => read(path).map_err(|error| Failed::new(exit::NO_INPUT, error))?,
            (None, None) => return Ok(None),
        };
        let token = token.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = anyhow!("a publisher's token is one word of visible ASCII characters");
            return Err(Failed::new(exit::USAGE, why));
        }
        if let Err(refused) = runtime::probe() {
            return Err(Failed::new(exit::UNAVAILABLE, refused));
        }
        let web = Box::new(remote::web(config)?);
        Ok(Some(Self { web, token }))
    }

    /// Tells every tracker's registry that this is the torrent of each of the videos. A tracker may
    /// keep no registry, or be down; one at least must take it, and none may refuse it.
    pub fn register(&self, torrent: &[u8], videos: &[Url], trackers: &[Url]) -> Result<(), Failed> {
        for video in videos {
            let (mut taken, mut absent, mut refusal) = (0, None, None);
            for place in places(trackers, video) {
                match self.put(&place, torrent) {
                    Ok(()) => {
                        taken += 1;
                        println!("registered {video} at {}", base(&place));
                    }
                    Err(failed) => {
                        eprintln!("bittube: {:#}", failed.why);
                        let first = if failed.code == exit::UNAVAILABLE {
                            &mut absent
                        } else {
                            &mut refusal
                        };
                        first.get_or_insert(failed);
                    }
                }
            }
            let failed = refusal.or(if taken == 0 { absent } else { None });
            if let Some(failed) = failed {
                let why = anyhow!("{video} is not registered everywhere");
                return Err(Failed::new(failed.code, why));
            }
        }
        Ok(())
    }

    fn put(&self, place: &Url, torrent: &[u8]) -> Result<(), Failed> {
        remote::refuse_private(place, &self.web.reach)?;
        if place.scheme() == "http" && !is_loopback(place) {
            eprintln!(
                "bittube: the token goes to {} in the clear; https would hide it",
                base(place)
            );
        }
        let load = Load {
            authorization: format!("Bearer {}", self.token),
            content_type: "application/x-bittorrent",
            body: torrent.to_vec(),
        };
        let put = Get::put(
            runtime::now(),
            place.clone(),
            &self.web.agent,
            ANSWER_LEN_MAX,
            load,
        );
        let told = runtime::run(fetch::carry(&self.web.reach, &self.web.tls, put));
        match told.context("the ring")? {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(place, &error)),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let name = || path.display().to_string();
    if fs::metadata(path).with_context(name)?.len() > TOKEN_FILE_LEN_MAX {
        return Err(anyhow!("{} holds more than a token", path.display()));
    }
    fs::read_to_string(path).with_context(name)
}

/// Each registry once.
fn places(trackers: &[Url], video: &Url) -> Vec<Url> {
    let mut places: Vec<Url> = Vec::new();
    for place in trackers.iter().filter_map(|url| metainfo_url(url, video)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

fn base(place: &Url) -> String {
    place[..url::Position::BeforePath].to_owned()
}

fn is_loopback(place: &Url) -> bool {
    match place.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What the publisher can do about it.
fn refused(place: &Url, error: &OriginFailed) -> Failed {
    let base = base(place);
    let (code, why) = match error.status {
        Some(401) => (exit::NO_PERMISSION, "does not know the token"),
        Some(403) => (
            exit::NO_PERMISSION,
            "knows the token, but not for the host of the video",
        ),
        // Some trackers call what they do not know a bad request.
        Some(400 | 404 | 405 | 501) => (exit::UNAVAILABLE, "keeps no registry"),
        Some(413) => (exit::DATA, "finds the torrent too long"),
        Some(422) => (
            exit::DATA,
            "finds no torrent of that video in it, or one of a film too long",
        ),
        Some(507) => (exit::UNAVAILABLE, "has no room left"),
        _ => (exit::UNAVAILABLE, "was not reached"),
    };
    Failed::new(code, anyhow!("the registry at {base} {why} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn each_registry_is_told_once() {
        let trackers = [
            "udp://t.example:80/announce",
            "http://t.example/a",
            "https://t.example/a",
        ];
        let places = places(&trackers.map(url), &url("http://v.example/a.mp4"));
        let bases: Vec<_> = places.iter().map(base).collect();
        assert_eq!(bases, ["http://t.example", "https://t.example"]);
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let place = url("https://t.example:8/metainfo?url=x");
        let mut seen = std::collections::BTreeSet::new();
        for status in [401, 403, 404, 413, 422, 507] {
            let error = OriginFailed::lasting(format!("answered {status}")).with_status(status);
            let text = format!("{:#}", refused(&place, &error).why);
            assert!(text.contains("https://t.example:8 "), "{text}");
            assert!(text.contains(&status.to_string()), "{text}");
            assert!(
                seen.insert(text.replace(&status.to_string(), "")),
                "{status}"
            );
        }
        let silent = refused(&place, &OriginFailed::lasting("connect: refused"));
        assert_eq!(silent.code, exit::UNAVAILABLE);
        assert!(format!("{:#}", silent.why).contains("connect: refused"));
    }

    #[test]
    fn only_this_machine_is_told_in_the_clear_without_a_word() {
        for text in ["http://127.0.0.1:1/", "http://[::1]/", "http://localhost/"] {
            assert!(is_loopback(&url(text)));
        }
        assert!(!is_loopback(&url("http://t.example/")));
    }
}
