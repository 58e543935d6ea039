//! The registry of `bittube tracker`: started as its options say, told again what may have changed.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use url::Url;

use crate::cli::Failed;
use crate::cli::serve;
use crate::cli::token;
use crate::config::exit;
use crate::config::registry::RegistryOptions;
use crate::reach::Reach;
use crate::ring::listener;
use crate::shard::download::Web;
use crate::shard::registry;
use crate::shard::registry::Door;
use crate::stub::gate;
use crate::tracker::registry::Policy;
use crate::tracker::registry::hosts::Pattern;
use crate::tracker::registry::tokens::Tokens;

/// `None` without `--registry`. `http`, `udp`: what the tracker listens on.
pub fn start(
    options: &RegistryOptions,
    http: &[SocketAddr],
    udp: &[SocketAddr],
) -> Result<Option<Door>, Failed> {
    let (tokens, auto) = hosts(options)?;
    let Some(dir) = &options.dir else {
        if options.tokens.is_some() || !auto.is_empty() {
            return Err(usage("--tokens and --auto-publish need a --registry"));
        }
        return Ok(None);
    };
    let own = http.iter().chain(udp).copied().collect();
    let web = Web {
        reach: Reach::new(
            options.allow_private.unwrap_or(false),
            own,
            listener::is_here,
        ),
        tls: serve::trust(options.ca_file.as_deref())?,
        agent: gate::via_name(&token::random()[..8]),
    };
    let policy = Policy {
        tokens,
        auto,
        announce: announce(options, http, udp)?,
        ..Policy::default()
    };
    let started = registry::start(registry::Options {
        dir: dir.clone(),
        policy,
        web,
    });
    let door = started.with_context(|| format!("--registry {}", dir.display()));
    door.map(Some)
        .map_err(|error| Failed::new(exit::CANT_CREATE, error))
}

/// Reads the tokens again; what was known before stays if they cannot be read.
pub fn reload(options: &RegistryOptions, door: &Door) -> Result<(), Failed> {
    let (tokens, auto) = hosts(options)?;
    if door.set_hosts(tokens, auto) {
        Ok(())
    } else {
        let why = anyhow!("the registry is busy");
        Err(Failed::new(exit::UNAVAILABLE, why))
    }
}

/// Who may register, and what is published by itself.
fn hosts(options: &RegistryOptions) -> Result<(Tokens, Vec<Pattern>), Failed> {
    let auto = options.auto_publish.iter().map(|text| {
        let bad = |error| usage(format!("--auto-publish {text}: {error}"));
        text.parse().map_err(bad)
    });
    let auto = auto.collect::<Result<_, _>>()?;
    let Some(path) = &options.tokens else {
        return Ok((Tokens::default(), auto));
    };
    let said = || format!("--tokens {}", path.display());
    let text = fs::read_to_string(path)
        .with_context(said)
        .map_err(|error| Failed::new(exit::NO_INPUT, error))?;
    let tokens = Tokens::parse(&text)
        .with_context(said)
        .map_err(|error| Failed::new(exit::DATA, error))?;
    Ok((tokens, auto))
}

/// As others reach us: as typed, else where we listen, unless that says nothing.
fn announce(
    options: &RegistryOptions,
    http: &[SocketAddr],
    udp: &[SocketAddr],
) -> Result<Vec<String>, Failed> {
    for text in &options.announce_url {
        let url = Url::parse(text).ok();
        let known = |url: Url| matches!(url.scheme(), "http" | "https" | "udp") && url.has_host();
        if !url.is_some_and(known) {
            return Err(usage(format!("--announce-url {text}: no tracker's URL")));
        }
    }
    if !options.announce_url.is_empty() {
        return Ok(options.announce_url.clone());
    }
    let named = |addr: &&SocketAddr| !addr.ip().is_unspecified();
    let http = http.iter().filter(named);
    let http = http.map(|addr| format!("http://{addr}/announce"));
    let udp = udp.iter().filter(named);
    Ok(http
        .chain(udp.map(|addr| format!("udp://{addr}/announce")))
        .collect())
}

fn usage(why: impl Into<String>) -> Failed {
    Failed::new(exit::USAGE, anyhow!(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(options: &RegistryOptions) -> (u8, String) {
        let failed = start(options, &[], &[]).err().expect("a failure");
        (failed.code, format!("{:#}", failed.why))
    }

    #[test]
    fn mistakes_are_told_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        fs::write(&file, "short a.example\n").unwrap();
        let with = |set: &dyn Fn(&mut RegistryOptions)| {
            let mut options = RegistryOptions {
                dir: Some(dir.path().join("kept")),
                ..RegistryOptions::default()
            };
            set(&mut options);
            failure(&options)
        };
        let bad = with(&|options| options.tokens = Some(file.clone()));
        assert_eq!(bad.0, exit::DATA);
        assert!(bad.1.contains("line 1"), "{}", bad.1);
        assert_eq!(
            with(&|options| options.tokens = Some(dir.path().join("none"))).0,
            exit::NO_INPUT
        );
        for set in [
            &(|options: &mut RegistryOptions| options.auto_publish = vec!["*".into()])
                as &dyn Fn(&mut RegistryOptions),
            &|options| options.announce_url = vec!["ftp://t/".into()],
            &|options| (options.dir, options.auto_publish) = (None, vec!["a.example".into()]),
        ] {
            assert_eq!(with(set).0, exit::USAGE);
        }
        assert!(!dir.path().join("kept").exists());
        assert!(matches!(
            start(&RegistryOptions::default(), &[], &[]),
            Ok(None)
        ));
    }

    #[test]
    fn torrents_name_the_tracker_as_others_reach_it() {
        let all = ["0.0.0.0:1", "[::]:1", "192.0.2.1:2"].map(|addr| addr.parse().unwrap());
        let mut options = RegistryOptions::default();
        let found = announce(&options, &all, &all[2..]).unwrap();
        assert_eq!(
            found,
            ["http://192.0.2.1:2/announce", "udp://192.0.2.1:2/announce"]
        );
        options.announce_url = vec!["https://t.example/announce".to_owned()];
        assert_eq!(
            announce(&options, &all, &all).unwrap(),
            options.announce_url
        );
    }
}
