//! `bittube tracker`: until interrupted; SIGHUP reads the list of allowed torrents again.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::Failed;
use crate::cli::registry;
use crate::config::TrackerConfig;
use crate::config::exit;
use crate::ring::runtime;
use crate::ring::signals;
use crate::shard::tracking::Options;
use crate::shard::tracking::StartError;
use crate::shard::tracking::Tracking;
use crate::tracker::server::allow::Allow;
use crate::tracker::server::table::Limits;

/// Runs a tracker.
pub fn run(config: &TrackerConfig) -> Result<(), Failed> {
    if let Err(refused) = runtime::probe() {
        return Err(Failed::new(exit::UNAVAILABLE, refused));
    }
    signals::ignore_file_size_signal().map_err(|error| Failed::new(exit::SOFTWARE, error))?;
    let door = registry::start(&config.registry, &config.http, &config.udp)?;
    let options = Options {
        registry: door.clone(),
        http: config.http.clone(),
        udp: config.udp.clone(),
        listen_is_default: config.listen_is_default,
        shards: config.shards,
        // One thread finds a free core better by itself.
        pin: config.shards > 1,
        limits: Limits {
            swarms_max: config.torrents_max,
            peers_max: config.peers_max,
            newcomers_max: config.address_max,
            ..Limits::default().with_interval(config.interval)
        },
        allow: allowed(config)?,
        trusted: config.trust_proxy.clone(),
        connections_max: config.connections_max,
        store: config.store.clone(),
    };
    // Before it is ready, so that no signal ends it from then on.
    let heard = runtime::run(async move {
        let mut signals = Signals::listen()?;
        let tracking = Tracking::start(options);
        let tracking = match tracking {
            Ok(tracking) => tracking,
            Err(error) => return Ok(Err(failed(error))),
        };
        println!("{}", ready(&tracking));
        while signals.next().await == Signal::Reload {
            if let Some(door) = &door
                && let Err(failed) = registry::reload(&config.registry, door)
            {
                tracing::error!("the tokens stay as they were: {:#}", failed.why);
            }
            match allowed(config) {
                Ok(Allow::All) => tracing::info!("there is no list to read again"),
                Ok(allow) => {
                    tracing::info!(listed = allow.listed(), "the list is read again");
                    tracking.set_allow(allow);
                }
                Err(failed) => tracing::error!("the list stays as it was: {:#}", failed.why),
            }
        }
        tracing::info!("leaving");
        tracking.stop().await;
        io::Result::Ok(Ok(()))
    });
    match heard {
        Ok(Ok(result)) => result,
        Ok(Err(error)) | Err(error) => Err(Failed::new(exit::SOFTWARE, error)),
    }
}

/// One line that says where it is asked.
fn ready(tracking: &Tracking) -> String {
    let http = tracking.http.iter();
    let http = http.map(|addr| format!("http://{addr}/announce"));
    let udp = tracking.udp.iter();
    let udp = udp.map(|addr| format!("udp://{addr}/announce"));
    let all: Vec<String> = http.chain(udp).collect();
    format!("tracker  {}", all.join(" "))
}

fn allowed(config: &TrackerConfig) -> Result<Allow, Failed> {
    let Some(path) = &config.allow else {
        return Ok(Allow::All);
    };
    let said = |path: &Path| format!("--allow {}", path.display());
    let text = fs::read_to_string(path)
        .with_context(|| said(path))
        .map_err(|error| Failed::new(exit::NO_INPUT, error))?;
    Allow::parse(&text)
        .with_context(|| said(path))
        .map_err(|error| Failed::new(exit::DATA, error))
}

fn failed(error: StartError) -> Failed {
    let code = match error {
        StartError::Listen { .. } => exit::UNAVAILABLE,
        StartError::Store { .. } => exit::CANT_CREATE,
        StartError::Shard { .. } => exit::SOFTWARE,
    };
    Failed::new(code, error)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    Reload,
    End,
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::SignalKind;
        use tokio::signal::unix::signal;
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.terminate.recv() => Signal::End,
        }
    }
}
