//! A film on the web: read once, from its first byte to its last, and kept nowhere.

use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use url::Url;

use crate::cli::Failed;
use crate::cli::progress;
use crate::cli::serve;
use crate::cli::token;
use crate::config::{Config, exit};
use crate::reach::Reach;
use crate::ring::listener;
use crate::ring::runtime;
use crate::shard::download::Web;
use crate::shard::hashing::{self, BadRead};
use crate::stub::gate;
use crate::torrent::stream_hash::Hashed;

/// Reads the film at `url`.
pub fn hash(url: &Url, config: &Config) -> Result<Hashed, Failed> {
    if let Err(refused) = runtime::probe() {
        return Err(Failed::new(exit::UNAVAILABLE, refused));
    }
    let web = web(config)?;
    refuse_private(url, &web.reach)?;
    let bar = progress::bar(0, "reading");
    bar.unset_length();
    let read = runtime::run(hashing::hash(&web, url, None, |total, len| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.inc(len);
    }));
    let (hashed, _) = read.context("the ring")?.map_err(|why| {
        let code = match why {
            BadRead::Origin(_) => exit::UNAVAILABLE,
            _ => exit::DATA,
        };
        Failed::new(code, anyhow!("{url}: {why}"))
    })?;
    bar.finish_and_clear();
    Ok(hashed)
}

pub fn web(config: &Config) -> Result<Web, Failed> {
    Ok(Web {
        reach: Reach::new(config.allow_private, Vec::new(), listener::is_here),
        tls: serve::trust(config.ca_file.as_deref())?,
        agent: gate::via_name(&token::random()[..8]),
    })
}

/// A name that leads to a private address is not told from an unknown one; an address is.
pub fn refuse_private(url: &Url, reach: &Reach) -> Result<(), Failed> {
    let ip = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.into(),
        Some(url::Host::Ipv6(ip)) => ip.into(),
        Some(url::Host::Domain("localhost")) => std::net::Ipv4Addr::LOCALHOST.into(),
        _ => return Ok(()),
    };
    let port = url.port_or_known_default().unwrap_or(80);
    if reach.web(SocketAddr::new(ip, port)) {
        return Ok(());
    }
    let why = anyhow!("{url}: not a public address; --allow-private allows private ones");
    Err(Failed::new(exit::USAGE, why))
}
