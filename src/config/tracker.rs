//! `bittube tracker`: what was typed, and what it means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::registry::RegistryOptions;
use crate::config::{
    BadConfig, Directories, LISTEN_MAX, Machine, Options, SHARDS_MAX, Span, filled, log_filter,
    players_max, refused, socket_addr,
};
use crate::reach::network::Network;

const PORT: u16 = 6969;
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1800);
/// A shorter one is for tests and laboratories; for one that is longer clients do not wait.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const TORRENTS_MAX_DEFAULT: usize = 1_000_000;
const PEERS_MAX_DEFAULT: usize = 10_000_000;
const ADDRESS_MAX_DEFAULT: u32 = 20_000;

/// The options, as typed in the file's table `[tracker]`, the environment or on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrackerOptions {
    /// Where announces, scrapes and /stats are asked for by HTTP; may be repeated [default, if
    /// there is no --udp either: 0.0.0.0:6969 and [::]:6969]
    #[arg(
        long,
        value_name = "ADDR",
        env = "BITTUBE_TRACKER_HTTP",
        value_parser = socket_addr,
        value_delimiter = ','
    )]
    pub http: Vec<SocketAddr>,

    /// Where announces and scrapes come by UDP; may be repeated [default, if there is no --http
    /// either: 0.0.0.0:6969 and [::]:6969]
    #[arg(
        long,
        value_name = "ADDR",
        env = "BITTUBE_TRACKER_UDP",
        value_parser = socket_addr,
        value_delimiter = ','
    )]
    pub udp: Vec<SocketAddr>,

    /// What clients are told to wait between two announces; who is silent for twice as long, and
    /// for 20 minutes at least, is forgotten [default: 30m]
    #[arg(long, value_name = "TIME", env = "BITTUBE_TRACKER_INTERVAL")]
    pub interval: Option<Span>,

    /// Track only the torrents whose info-hashes FILE lists, one a line in hex; read again on
    /// SIGHUP [default: all]
    #[arg(long, value_name = "FILE", env = "BITTUBE_TRACKER_ALLOW")]
    pub allow: Option<PathBuf>,

    /// Where peers are kept while no tracker runs [default: bittube/tracker in the user's state
    /// directory]
    #[arg(long, value_name = "DIR", env = "BITTUBE_TRACKER_STORE")]
    pub store: Option<PathBuf>,

    /// Threads, each on a core of its own. One answers some hundred thousand announces a second,
    /// which most trackers never see [default: 1]
    #[arg(long, value_name = "N", env = "BITTUBE_TRACKER_SHARDS")]
    pub shards: Option<usize>,

    /// A reverse proxy, or a network of them, that is believed when its X-Forwarded-For says for
    /// whom it asks; may be repeated
    #[arg(
        long,
        value_name = "NETWORK",
        env = "BITTUBE_TRACKER_TRUST_PROXY",
        value_delimiter = ','
    )]
    pub trust_proxy: Vec<Network>,

    /// Torrents tracked at a time [default: 1000000]
    #[arg(long, value_name = "N", env = "BITTUBE_TRACKER_TORRENTS_MAX")]
    pub torrents_max: Option<usize>,

    /// Peers of all torrents together, some 30 bytes each [default: 10000000]
    #[arg(long, value_name = "N", env = "BITTUBE_TRACKER_PEERS_MAX")]
    pub peers_max: Option<usize>,

    /// New peers of one address, or one /64 of IPv6, in the time until the silent are forgotten
    /// [default: 20000]
    #[arg(long, value_name = "N", env = "BITTUBE_TRACKER_ADDRESS_MAX")]
    pub address_max: Option<u32>,

    #[command(flatten)]
    pub registry: RegistryOptions,
}

/// The options, as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerConfig {
    pub http: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
    /// Nobody named them: one that this machine does not have may be left out.
    pub listen_is_default: bool,
    pub interval: Duration,
    pub allow: Option<PathBuf>,
    pub store: PathBuf,
    pub shards: usize,
    pub trust_proxy: Vec<Network>,
    pub torrents_max: usize,
    pub peers_max: usize,
    pub address_max: u32,
    pub registry: RegistryOptions,
    /// Connections of HTTP at a time.
    pub connections_max: usize,
    pub log: String,
    pub log_json: bool,
}

impl TrackerOptions {
    /// These, and those of `under` where these say nothing.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        // Who names one way on the command line does not want the file's other way beside it.
        let (http, udp) = if self.http.is_empty() && self.udp.is_empty() {
            (under.http, under.udp)
        } else {
            (self.http, self.udp)
        };
        Self {
            http,
            udp,
            interval: self.interval.or(under.interval),
            allow: self.allow.or(under.allow),
            store: self.store.or(under.store),
            shards: self.shards.or(under.shards),
            trust_proxy: filled(self.trust_proxy, under.trust_proxy),
            torrents_max: self.torrents_max.or(under.torrents_max),
            peers_max: self.peers_max.or(under.peers_max),
            address_max: self.address_max.or(under.address_max),
            registry: self.registry.over(under.registry),
        }
    }
}

impl TrackerConfig {
    pub fn new(options: Options, machine: &Machine) -> Result<Self, BadConfig> {
        let Directories { state, .. } = &machine.directories;
        let log = log_filter(options.log)?;
        let typed = options.tracker;
        let listen_is_default = typed.http.is_empty() && typed.udp.is_empty();
        let any = if listen_is_default {
            vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT),
            ]
        } else {
            Vec::new()
        };
        let config = Self {
            http: filled(typed.http, any.clone()),
            udp: filled(typed.udp, any),
            listen_is_default,
            interval: typed.interval.map_or(INTERVAL_DEFAULT, |span| span.0),
            allow: typed.allow,
            store: typed.store.unwrap_or_else(|| state.join("tracker")),
            shards: typed.shards.unwrap_or(1),
            trust_proxy: typed.trust_proxy,
            torrents_max: typed.torrents_max.unwrap_or(TORRENTS_MAX_DEFAULT),
            peers_max: typed.peers_max.unwrap_or(PEERS_MAX_DEFAULT),
            address_max: typed.address_max.unwrap_or(ADDRESS_MAX_DEFAULT),
            registry: typed.registry,
            connections_max: players_max(machine.nofile)?,
            log,
            log_json: options.log_json.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), BadConfig> {
        for (name, listed) in [("--http", &self.http), ("--udp", &self.udp)] {
            if listed.len() > LISTEN_MAX {
                return Err(refused(format!(
                    "{name} names more than {LISTEN_MAX} addresses"
                )));
            }
            let mut fixed: Vec<_> = listed.iter().filter(|addr| addr.port() != 0).collect();
            fixed.sort();
            if let Some(twice) = fixed.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(refused(format!("{name} names {} twice", twice[0])));
            }
        }
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&self.interval) {
            return Err(refused("--interval must be 10s to 1h"));
        }
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(refused(format!("--shards must be 1 to {SHARDS_MAX}")));
        }
        if self.torrents_max == 0 || self.peers_max == 0 || self.address_max == 0 {
            return Err(refused(
                "--torrents-max, --peers-max and --address-max must be at least 1",
            ));
        }
        if self.store.as_os_str().is_empty() {
            return Err(refused("--store names no directory"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(toml: &str) -> Result<TrackerConfig, BadConfig> {
        let directories = Directories {
            config: PathBuf::from("/c"),
            state: PathBuf::from("/s"),
            cache: PathBuf::from("/k"),
        };
        let machine = Machine {
            cores: 4,
            nofile: 1000,
            directories,
        };
        TrackerConfig::new(toml::from_str(toml).unwrap(), &machine)
    }

    #[test]
    fn nothing_typed_is_a_tracker_for_all() {
        let config = config("").unwrap();
        let shown =
            |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&config.http), ["0.0.0.0:6969", "[::]:6969"]);
        assert_eq!(config.http, config.udp);
        assert!(config.listen_is_default && config.allow.is_none());
        assert_eq!(config.store, Path::new("/s/tracker"));
        assert_eq!((config.shards, config.connections_max), (1, 700));
        assert_eq!(config.interval, Duration::from_secs(1800));
    }

    #[test]
    fn the_file_has_a_table_for_it() {
        let config = config(
            r#"
            log = "warn"
            shards = 7
            [tracker]
            http = ["127.0.0.1:7000"]
            interval = "10m"
            allow = "/etc/list"
            trust-proxy = ["127.0.0.1", "10.0.0.0/8"]
            shards = 2
            "#,
        )
        .unwrap();
        assert_eq!(
            (config.http.len(), config.udp.len()),
            (1, 0),
            "one way named, no other"
        );
        assert!(!config.listen_is_default);
        assert_eq!((config.shards, config.log.as_str()), (2, "warn"));
        assert_eq!(
            (config.trust_proxy.len(), config.interval.as_secs()),
            (2, 600)
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for toml in [
            "http = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "interval = \"5s\"",
            "interval = \"2h\"",
            "shards = 0",
            "peers-max = 0",
            "store = \"\"",
        ] {
            let error = config(&format!("[tracker]\n{toml}")).expect_err(toml);
            assert_eq!(error.exit_code(), crate::config::exit::CONFIG);
        }
        assert!(toml::from_str::<Options>("[tracker]\nlisten = 1").is_err());
        assert!(toml::from_str::<Options>("[tracker]\ntrust-proxy = [\"x\"]").is_err());
    }

    #[test]
    fn flags_outrank_the_file() {
        let file: Options =
            toml::from_str("[tracker]\nudp = [\"0.0.0.0:1\"]\ninterval = \"10m\"\nshards = 3")
                .unwrap();
        let typed = TrackerOptions {
            http: vec!["127.0.0.1:2".parse().unwrap()],
            shards: Some(4),
            ..TrackerOptions::default()
        };
        let both = typed.over(file.tracker);
        assert_eq!(
            (both.http.len(), both.udp.len(), both.shards),
            (1, 0, Some(4))
        );
        assert_eq!(both.interval, Some(Span(Duration::from_secs(600))));
    }
}
