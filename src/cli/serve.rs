//! `bittube serve`: the stub, until interrupted; and the engine that the other commands start.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::ClientConfig;

use crate::cli::Failed;
use crate::cli::token;
use crate::config::Config;
use crate::config::exit;
use crate::origin::tls;
use crate::ring::runtime;
use crate::ring::signals;
use crate::shard::engine::Engine;
use crate::shard::engine::Options;
use crate::shard::engine::StartError;
use crate::store::Limits;
use crate::store::Store;
use crate::store::StoreError;
use crate::stub::gate::Sites;

/// Runs the stub.
pub fn run(config: &Config) -> Result<(), Failed> {
    let engine = start(config, Doors::All)?;
    for addr in &engine.listen {
        println!("players  http://{addr}/<tracker>/<video URL>");
    }
    for addr in &engine.peer_listen {
        println!("peers    {addr}");
    }
    if let Some(addr) = engine.admin {
        println!(
            "control  http://{addr}/api/stats (token in {})",
            config.token_file.display()
        );
    }
    crate::cli::until_interrupted();
    tracing::info!("leaving");
    engine.stop();
    Ok(())
}

/// What an engine listens on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    All,
    /// A loopback port of its own for one player, and peers.
    Own,
    Peers,
}

/// Probes the ring, opens the store, binds, starts the shards.
pub fn start(config: &Config, doors: Doors) -> Result<Engine, Failed> {
    if let Err(refused) = runtime::probe() {
        return Err(Failed::new(exit::UNAVAILABLE, refused));
    }
    // A file beyond its limit is an error of that file, not the end of the process.
    signals::ignore_file_size_signal().map_err(|error| Failed::new(exit::SOFTWARE, error))?;
    let limits = Limits {
        limit: config.store_limit,
        ..Limits::default()
    };
    let store = Store::open(&config.store, limits).map_err(|error| {
        let code = match error {
            StoreError::Busy { .. } | StoreError::Io(_) => exit::CANT_CREATE,
        };
        Failed::new(code, anyhow::anyhow!("{}: {error}", config.store.display()))
    })?;
    let tls = trust(config.ca_file.as_deref())?;
    let token = match doors {
        Doors::All => token::load_or_make(&config.token_file)
            .with_context(|| config.token_file.display().to_string())
            .map_err(|error| Failed::new(exit::CANT_CREATE, error))?,
        Doors::Own | Doors::Peers => token::random(),
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = Options {
        listen: match doors {
            Doors::All => config.listen.clone(),
            Doors::Own => vec![any],
            Doors::Peers => Vec::new(),
        },
        listen_is_default: config.listen_is_default,
        admin: (doors == Doors::All).then_some(config.admin),
        peer_listen: config.peer_listen.clone(),
        shards: config.shards,
        pin: true,
        allow_private: config.allow_private,
        proxy: config.proxy,
        origin_policy: config.origin_policy,
        lab: config.lab,
        allow_hosts: config.allow_hosts.clone(),
        sites: sites(config),
        players_max: config.players_max,
        swarms_max: config.swarms_max,
        seed_time: config.seed_time,
        token,
    };
    let engine = Engine::start(options, Arc::clone(&store), tls).map_err(|error| {
        let code = match error {
            StartError::Listen { .. } => exit::UNAVAILABLE,
            StartError::Shard { .. } => exit::SOFTWARE,
        };
        Failed::new(code, error)
    })?;
    if let Some(addr) = engine.listen.first() {
        store.note(&format!("http://{addr}"));
    }
    Ok(engine)
}

/// Whose certificates are taken: the machine's roots and those of `ca_file`.
pub fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Failed> {
    let ca =
        ca_file.map(|path| fs::read(path).with_context(|| format!("--ca-file {}", path.display())));
    let ca = ca
        .transpose()
        .map_err(|error| Failed::new(exit::NO_INPUT, error))?;
    tls::config(ca.as_deref())
        .map_err(|error| Failed::new(exit::DATA, anyhow::anyhow!("certificates: {error}")))
}

fn sites(config: &Config) -> Sites {
    let Some(allowed) = &config.allow_sites else {
        return Sites::Open;
    };
    let mut sites = Sites::List(std::collections::BTreeSet::new());
    for site in allowed {
        sites.add(site);
    }
    sites
}
