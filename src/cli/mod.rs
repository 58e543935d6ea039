//! The commands, one file each.

pub mod args;
pub mod client;
pub mod demo;
pub mod get;
pub mod progress;
pub mod publish;
pub mod registry;
pub mod scratch;
pub mod seed;
pub mod serve;
pub mod status;
pub mod token;
pub mod tracker;

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use crate::cli::args::Args;
use crate::cli::args::Command;
use crate::cli::args::Given;
use crate::cli::args::TrackerGiven;
use crate::cli::publish::register::Registrar;
use crate::cli::serve::Doors;
use crate::config::BadConfig;
use crate::config::Config;
use crate::config::Machine;
use crate::config::TrackerConfig;
use crate::config::exit;
use crate::ring::runtime;

/// Why a command ended, and with which exit code (sysexits).
#[derive(Debug)]
pub struct Failed {
    pub code: u8,
    pub why: anyhow::Error,
}

impl Failed {
    pub fn new(code: u8, why: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            why: why.into(),
        }
    }
}

/// Errors without a code of their own are the software's.
impl From<anyhow::Error> for Failed {
    fn from(why: anyhow::Error) -> Self {
        Self {
            code: exit::SOFTWARE,
            why,
        }
    }
}

/// Carries out what was typed; the process's exit code.
pub fn main() -> u8 {
    let args = match Args::from_env() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(args.into_command()) {
        Ok(()) => 0,
        Err(failed) => {
            eprintln!("bittube: {:#}", failed.why);
            failed.code
        }
    }
}

fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::Serve { given } => serve::run(&configure(given)?),
        Command::Get {
            address,
            output,
            given,
        } => get(&address, output, &configure(given)?),
        Command::Seed {
            torrent,
            data,
            trackers,
            given,
        } => {
            let config = configure(given)?;
            let mut metainfo =
                seed::read_torrent(&torrent).map_err(|error| Failed::new(exit::NO_INPUT, error))?;
            metainfo
                .trackers
                .extend(trackers.iter().map(|url| vec![url.to_string()]));
            let engine = serve::start(&config, Doors::Peers)?;
            Ok(seed::run(engine, metainfo, data)?)
        }
        Command::Publish {
            source,
            videos,
            trackers,
            output,
            watch,
            token,
            token_file,
            given,
        } => {
            let config = configure(given)?;
            let registrar = Registrar::new(token, token_file.as_deref(), &config)?;
            let order = publish::Order {
                source,
                videos,
                trackers,
                output,
                watch,
                registrar,
            };
            publish::run(order, &config)
        }
        Command::Tracker { given } => tracker::run(&configure_tracker(given)?),
        Command::Status { json, given } => {
            let config = configure(given)?;
            let token = token::load(&config.token_file);
            let token = token.map_err(|error| {
                let path = config.token_file.display();
                let why = anyhow::anyhow!("{path}: {error}; no stub has run for this user");
                Failed::new(exit::NO_INPUT, why)
            })?;
            status::run(config.admin, &token, json)
                .map_err(|error| Failed::new(exit::UNAVAILABLE, error))
        }
        Command::Demo { once, given } => {
            configure(given)?;
            if let Err(refused) = runtime::probe() {
                return Err(Failed::new(exit::UNAVAILABLE, refused));
            }
            Ok(demo::run(once)?)
        }
    }
}

fn configure(given: Given) -> Result<Config, Failed> {
    let machine = Machine::here().map_err(bad_config)?;
    let config = given.config(&machine).map_err(bad_config)?;
    start_log(&config.log, config.log_json)?;
    Ok(config)
}

fn configure_tracker(given: TrackerGiven) -> Result<TrackerConfig, Failed> {
    let machine = Machine::here().map_err(bad_config)?;
    let config = given.config(&machine).map_err(bad_config)?;
    start_log(&config.log, config.log_json)?;
    Ok(config)
}

fn bad_config(error: BadConfig) -> Failed {
    Failed::new(error.exit_code(), error)
}

fn start_log(filter: &str, json: bool) -> Result<(), Failed> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failed::new(exit::USAGE, anyhow::anyhow!("--log: {error}")))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.init();
    }
    Ok(())
}

/// Through a stub that runs on the same store, else by an engine of its own.
fn get(address: &str, output: Option<PathBuf>, config: &Config) -> Result<(), Failed> {
    get::path_of(address).map_err(|error| Failed::new(exit::USAGE, error))?;
    let target = match output {
        Some(path) if path.as_os_str() == "-" => get::Target::Stdout,
        Some(path) => get::Target::File(path),
        None => get::Target::File(PathBuf::from(get::name_of(address))),
    };
    let engine = match serve::start(config, Doors::Own) {
        Ok(engine) => engine,
        Err(failed) if failed.code == exit::CANT_CREATE => {
            let Some(stub) = get::running_stub(&config.store) else {
                return Err(failed);
            };
            eprintln!("through the stub at {stub}");
            return Ok(get::run(stub, None, address, &target)?);
        }
        Err(failed) => return Err(failed),
    };
    let got = get::run(
        engine.listen[0],
        Some(engine.shared.clone()),
        address,
        &target,
    );
    engine.stop();
    got.map_err(|error| Failed::new(exit::UNAVAILABLE, error))
}

/// Until Ctrl-C or SIGTERM.
pub fn until_interrupted() {
    let waited = runtime::run(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let Ok(mut terminated) = tokio::signal::unix::signal(kind) else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    });
    if let Err(error) = waited {
        tracing::warn!(%error, "signals are not heard");
    }
}
