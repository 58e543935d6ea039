//! A film on the web: read once, from its first byte to its last, and kept nowhere.

use std::net::SocketAddr;

use anyhow::{Context as _, anyhow};
use url::Url;

use crate::cli::Failed;
use crate::cli::progress;
use crate::cli::serve;
use crate::cli::token;
use crate::config::{Config, exit};
use crate::origin::OriginFailed;
use crate::origin::pin::Pin;
use crate::reach::Reach;
use crate::ring::listener;
use crate::ring::runtime;
use crate::shard::download::{Downloading, Web};
use crate::stub::gate;
use crate::torrent::stream_hash::{BadStream, Hashed, INDEX_LEN, StreamHash};
use crate::units::ByteRange;

/// Reads the film at `url`.
pub fn hash(url: &Url, config: &Config) -> Result<Hashed, Failed> {
    if let Err(refused) = runtime::probe() {
        return Err(Failed::new(exit::UNAVAILABLE, refused));
    }
    let web = web(config)?;
    refuse_private(url, &web.reach)?;
    let read = runtime::run(read(&web, url)).context("the ring")?;
    read.map_err(|why| {
        let code = match why {
            BadRead::Stream(_) => exit::DATA,
            BadRead::Origin(_) => exit::UNAVAILABLE,
        };
        Failed::new(code, anyhow!("{url}: {why}"))
    })
}

#[derive(Debug, thiserror::Error)]
enum BadRead {
    #[error(transparent)]
    Origin(#[from] OriginFailed),
    #[error(transparent)]
    Stream(#[from] BadStream),
}

async fn read(web: &Web, url: &Url) -> Result<Hashed, BadRead> {
    let bar = progress::bar(0, "reading");
    bar.unset_length();
    let mut download = Downloading::new(web, url.clone(), ByteRange::new(0, u64::MAX), None);
    let mut stream: Option<StreamHash> = None;
    let mut bad = None;
    loop {
        let more = download.carry(|total, bytes| {
            if bad.is_some() {
                return;
            }
            if let Some(total) = total {
                bar.set_length(total);
            }
            let stream = stream.get_or_insert_with(|| StreamHash::new(total));
            bad = stream.update(bytes).err();
            bar.inc(bytes.len() as u64);
        });
        let more = more.await?;
        if let Some(bad) = bad {
            return Err(bad.into());
        }
        if !more {
            bar.finish_and_clear();
            return Ok(stream.ok_or(BadStream::Empty)?.finish()?);
        }
        let wanted = stream
            .as_mut()
            .and_then(|stream| Some((stream.wants_index()?, stream)));
        if let Some((at, stream)) = wanted {
            match part(web, url, at, download.pin().cloned()).await {
                Ok(index) => stream.handle_index(&index),
                // Then the film is cut by its size.
                Err(error) => tracing::info!(%error, "the film's index is not read ahead"),
            }
            download.paused();
        }
    }
}

/// The first of the bytes from `at` on.
async fn part(web: &Web, url: &Url, at: u64, pin: Option<Pin>) -> Result<Vec<u8>, OriginFailed> {
    let range = ByteRange::new(at, at.saturating_add(INDEX_LEN));
    let mut download = Downloading::new(web, url.clone(), range, pin);
    let mut bytes = Vec::new();
    while download
        .carry(|_, more| bytes.extend_from_slice(more))
        .await?
    {}
    Ok(bytes)
}

fn web(config: &Config) -> Result<Web, Failed> {
    Ok(Web {
        reach: Reach::new(config.allow_private, Vec::new(), listener::is_here),
        tls: serve::trust(config)?,
        agent: gate::via_name(&token::random()[..8]),
    })
}

/// A name that leads to a private address is not told from an unknown one; an address is.
fn refuse_private(url: &Url, reach: &Reach) -> Result<(), Failed> {
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
