//! What was typed, and what it means; limits named once and asserted against each other.
#![allow(
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    reason = "clap prints the comments on options as they are"
)]

mod directories;
pub mod registry;
mod size;
mod span;
mod tracker;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Deserializer};
use url::Url;

pub use crate::config::directories::Directories;
pub use crate::config::size::{BadSize, StoreLimit};
pub use crate::config::span::{BadSpan, Span};
pub use crate::config::tracker::{TrackerConfig, TrackerOptions};
use crate::units::OriginPolicy;
use crate::units::lab::Lab;

const STUB_PORT: u16 = 8081;
const ADMIN_PORT: u16 = 8082;
const PEER_PORT: u16 = 10_234;
const LOG_DEFAULT: &str = "info";
const SEED_TIME_DEFAULT: Duration = Duration::from_secs(12 * 3600);
const STORE_LIMIT_DEFAULT: u64 = 20_000_000_000;

/// Connections of players at most (R26), however many descriptors there are.
pub const PLAYERS_MAX: usize = 20_000;
/// Torrents open at a time, which is swarms that we are in.
const SWARMS_MAX: usize = 1000;
/// Of the process's descriptors, in hundredths; the rest is for peers, origins and files.
const PLAYERS_SHARE: u64 = 70;
/// With fewer descriptors than this nothing works for long.
pub const NOFILE_MIN: u64 = 256;
/// Memory of all buffers together (R29), in bytes.
pub const BUFFERS_LEN_MAX: usize = 256 << 20;
/// Of one player's connection: that waits for a request, and that is served.
pub const PLAYER_IDLE_LEN_MAX: usize = 64 << 10;
pub const PLAYER_ACTIVE_LEN_MAX: usize = 1 << 20;
/// Players that are served at the same time, each with all it may use.
const PLAYERS_ACTIVE_MIN: usize = 200;
pub const SHARDS_MAX: usize = 256;
/// Of each kind.
const LISTEN_MAX: usize = 16;
/// The longest piece of a torrent (R31).
const PIECE_LEN_MAX: u64 = 64 << 20;
/// A smaller store could not hold what one reader needs at a time.
const STORE_LIMIT_MIN: u64 = 256_000_000;

const _: () = {
    assert!(
        STUB_PORT != ADMIN_PORT,
        "third-party bytes never share an origin with control"
    );
    assert!(
        PLAYERS_SHARE < 100,
        "something is left for peers, origins and files"
    );
    assert!(
        NOFILE_MIN * (100 - PLAYERS_SHARE) / 100 >= 64,
        "and it is enough to play one film"
    );
    assert!(PLAYER_IDLE_LEN_MAX < PLAYER_ACTIVE_LEN_MAX);
    assert!(
        PLAYERS_ACTIVE_MIN * PLAYER_ACTIVE_LEN_MAX <= BUFFERS_LEN_MAX,
        "so many players are served before one has to wait"
    );
    assert!(
        SHARDS_MAX <= u16::MAX as usize,
        "shards are numbered by u16"
    );
    assert!(
        STORE_LIMIT_MIN >= 3 * PIECE_LEN_MAX,
        "one played, one coming, one uploaded"
    );
    assert!(STORE_LIMIT_DEFAULT >= STORE_LIMIT_MIN);
};

/// Exit codes, from sysexits.h.
pub mod exit {
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// What was given is not what it should be: a torrent, an address.
    pub const DATA: u8 = 65;
    /// A file that was named is not there.
    pub const NO_INPUT: u8 = 66;
    /// Something needed is not to be had: the ring, the running stub, a port, the film.
    pub const UNAVAILABLE: u8 = 69;
    /// A bug.
    pub const SOFTWARE: u8 = 70;
    /// The output cannot be made: the store is in use, a file cannot be created.
    pub const CANT_CREATE: u8 = 73;
    pub const IO: u8 = 74;
    /// A token that is not known, or not for this.
    pub const NO_PERMISSION: u8 = 77;
    /// The configuration is wrong, or unsafe.
    pub const CONFIG: u8 = 78;
}

/// The options, as typed in the file, the environment or on the command line. In the file the
/// names are those of the flags, without the dashes before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Where players ask; may be repeated [default: 127.0.0.1:8081 and [::1]:8081]
    #[arg(
        long,
        value_name = "ADDR",
        env = "BITTUBE_LISTEN",
        value_parser = socket_addr,
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// Where `bittube status` and the dashboard ask; loopback only [default: 127.0.0.1:8082]
    #[arg(long, value_name = "ADDR", env = "BITTUBE_ADMIN", value_parser = socket_addr)]
    pub admin: Option<SocketAddr>,

    /// Where other peers connect; may be repeated [default: 0.0.0.0:10234]
    #[arg(
        long,
        value_name = "ADDR",
        env = "BITTUBE_PEER_LISTEN",
        value_parser = socket_addr,
        value_delimiter = ','
    )]
    pub peer_listen: Vec<SocketAddr>,

    /// Where films are kept [default: bittube/store in the user's cache directory]
    #[arg(long, value_name = "DIR", env = "BITTUBE_STORE")]
    pub store: Option<PathBuf>,

    /// Most the store may hold, such as 500MB, 20GB or 1.5TiB; `none` lifts the limit. What was
    /// watched longest ago goes first [default: 20GB]
    #[arg(long, value_name = "SIZE", env = "BITTUBE_STORE_LIMIT")]
    pub store_limit: Option<StoreLimit>,

    /// How long a film is kept supplied that nobody watches and no peer takes from, such as 90s,
    /// 30m, 12h or 7d [default: 12h]
    #[arg(long, value_name = "TIME", env = "BITTUBE_SEED_TIME")]
    pub seed_time: Option<Span>,

    /// Torrents open at a time; for one more, the one unwatched longest is left [default: 1000]
    #[arg(long, value_name = "N", env = "BITTUBE_SWARMS_MAX")]
    pub swarms_max: Option<usize>,

    /// Threads, each on a core of its own [default: one a core]
    #[arg(long, value_name = "N", env = "BITTUBE_SHARDS")]
    pub shards: Option<usize>,

    /// When the video's own server is asked for bytes [default: hybrid]
    ///
    /// hybrid: for what peers cannot deliver in time. eager: for all that is needed soon, beside
    /// the peers. last-resort: only for what is due now. never: not once the torrent is known.
    #[arg(long, value_name = "WHEN", env = "BITTUBE_ORIGIN_POLICY", value_parser = policies())]
    #[serde(deserialize_with = "policy")]
    pub origin_policy: Option<OriginPolicy>,

    /// For measuring: rules of peers and origin that are replaced or left out
    #[arg(long, value_name = "WORDS", env = "BITTUBE_LAB", hide = true)]
    #[serde(skip)]
    pub lab: Option<Lab>,

    /// Allow private and loopback addresses as origin, tracker and peer, for a LAN or for tests
    #[arg(long, env = "BITTUBE_ALLOW_PRIVATE", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub allow_private: Option<bool>,

    /// More certificate authorities for https, as a PEM file
    #[arg(long, value_name = "FILE", env = "BITTUBE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Also serve as an HTTP proxy: `http_proxy=localhost:8081`, and pages need no change
    #[arg(long, env = "BITTUBE_PROXY", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub proxy: Option<bool>,

    /// A further name by which players may call this machine; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        env = "BITTUBE_ALLOW_HOST",
        value_delimiter = ','
    )]
    pub allow_host: Vec<String>,

    /// Whose web pages may ask: open (all, the browser asks its user) or list (those of
    /// --allow-site) [default: open, or list if there is an --allow-site]
    #[arg(long, value_name = "WHO", env = "BITTUBE_SITES")]
    pub sites: Option<SitePolicy>,

    /// A web site whose pages may ask, such as https://video.example; may be repeated
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "BITTUBE_ALLOW_SITE",
        value_delimiter = ','
    )]
    pub allow_site: Vec<String>,

    /// Let --listen name addresses that others can reach; needs --allow-site
    #[arg(long, env = "BITTUBE_PUBLIC", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub public: Option<bool>,

    /// What is logged, such as debug or bittube::swarm=trace,warn [default: info]
    #[arg(long, value_name = "FILTER", env = "BITTUBE_LOG")]
    pub log: Option<String>,

    /// Log as JSON, one object a line
    #[arg(long, env = "BITTUBE_LOG_JSON", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub log_json: Option<bool>,

    /// In the file a table of its own, `[tracker]`; on the command line the command's.
    #[arg(skip)]
    pub tracker: TrackerOptions,
}

/// Whose pages may ask (R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SitePolicy {
    Open,
    List,
}

/// The options, as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    /// Nobody named them: one that this machine does not have may be left out.
    pub listen_is_default: bool,
    pub admin: SocketAddr,
    pub peer_listen: Vec<SocketAddr>,
    pub store: PathBuf,
    /// In bytes.
    pub store_limit: Option<u64>,
    pub seed_time: Duration,
    pub swarms_max: usize,
    pub shards: usize,
    pub origin_policy: OriginPolicy,
    pub lab: Lab,
    pub allow_private: bool,
    pub ca_file: Option<PathBuf>,
    pub proxy: bool,
    /// In lower case.
    pub allow_hosts: Vec<String>,
    /// As browsers spell them, `scheme://host[:port]`; `None`: all.
    pub allow_sites: Option<Vec<String>>,
    pub log: String,
    pub log_json: bool,
    /// Where the control port's token is.
    pub token_file: PathBuf,
    /// Connections of players at a time.
    pub players_max: usize,
}

/// What the configuration depends on beside the options.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cores: usize,
    /// Descriptors that the process may have.
    pub nofile: u64,
    pub directories: Directories,
}

/// One line that says what to change; ends the start.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Malformed {
        path: PathBuf,
        error: toml::de::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl BadConfig {
    /// From [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                exit::NO_INPUT
            }
            Self::Unreadable { .. } => exit::IO,
            Self::Malformed { .. } | Self::Refused(_) => exit::CONFIG,
        }
    }
}

impl Options {
    /// Reads the file at `path`, or the user's own if there is one.
    pub fn read(path: Option<&Path>, directories: &Directories) -> Result<Self, BadConfig> {
        let own = directories.config_file();
        let named = path.unwrap_or(&own).to_owned();
        match std::fs::read_to_string(&named) {
            Ok(text) => {
                toml::from_str(&text).map_err(|error| BadConfig::Malformed { path: named, error })
            }
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(BadConfig::Unreadable { path: named, error }),
        }
    }

    /// These, and those of `under` where these say nothing.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            listen: filled(self.listen, under.listen),
            admin: self.admin.or(under.admin),
            peer_listen: filled(self.peer_listen, under.peer_listen),
            store: self.store.or(under.store),
            store_limit: self.store_limit.or(under.store_limit),
            seed_time: self.seed_time.or(under.seed_time),
            swarms_max: self.swarms_max.or(under.swarms_max),
            shards: self.shards.or(under.shards),
            origin_policy: self.origin_policy.or(under.origin_policy),
            lab: self.lab.or(under.lab),
            allow_private: self.allow_private.or(under.allow_private),
            ca_file: self.ca_file.or(under.ca_file),
            proxy: self.proxy.or(under.proxy),
            allow_host: filled(self.allow_host, under.allow_host),
            sites: self.sites.or(under.sites),
            allow_site: filled(self.allow_site, under.allow_site),
            public: self.public.or(under.public),
            log: self.log.or(under.log),
            log_json: self.log_json.or(under.log_json),
            tracker: self.tracker.over(under.tracker),
        }
    }
}

impl Config {
    pub fn new(options: Options, machine: &Machine) -> Result<Self, BadConfig> {
        let Directories { state, cache, .. } = &machine.directories;
        let log = log_filter(options.log)?;
        let listen_is_default = options.listen.is_empty();
        let config = Self {
            listen: filled(options.listen, loopback(STUB_PORT).to_vec()),
            listen_is_default,
            admin: options.admin.unwrap_or(loopback(ADMIN_PORT)[0]),
            peer_listen: filled(options.peer_listen, vec![peers_any()]),
            store: options.store.unwrap_or_else(|| cache.join("store")),
            store_limit: options
                .store_limit
                .unwrap_or(StoreLimit(Some(STORE_LIMIT_DEFAULT)))
                .0,
            seed_time: options.seed_time.map_or(SEED_TIME_DEFAULT, |span| span.0),
            swarms_max: options.swarms_max.unwrap_or(SWARMS_MAX),
            shards: options
                .shards
                .unwrap_or_else(|| machine.cores.clamp(1, SHARDS_MAX)),
            origin_policy: options.origin_policy.unwrap_or_default(),
            lab: options.lab.unwrap_or_default(),
            allow_private: options.allow_private.unwrap_or(false),
            ca_file: options.ca_file,
            proxy: options.proxy.unwrap_or(false),
            allow_hosts: hosts(options.allow_host)?,
            allow_sites: sites(options.sites, &options.allow_site)?,
            log,
            log_json: options.log_json.unwrap_or(false),
            token_file: state.join("token"),
            players_max: players_max(machine.nofile)?,
        };
        config.check(options.public.unwrap_or(false))?;
        Ok(config)
    }

    fn check(&self, public: bool) -> Result<(), BadConfig> {
        self.check_listeners(public)?;
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(refused(format!("--shards must be 1 to {SHARDS_MAX}")));
        }
        if self
            .store_limit
            .is_some_and(|limit| limit < STORE_LIMIT_MIN)
        {
            let least = STORE_LIMIT_MIN / 1_000_000;
            return Err(refused(format!(
                "--store-limit must be at least {least}MB: a film's window needs that much"
            )));
        }
        if self.swarms_max == 0 {
            return Err(refused("--swarms-max must be at least 1"));
        }
        if self.store.as_os_str().is_empty() {
            return Err(refused("--store names no directory"));
        }
        Ok(())
    }

    /// R1: what others can reach is asked for by name, and then by listed sites only.
    fn check_listeners(&self, public: bool) -> Result<(), BadConfig> {
        if self.listen.len() > LISTEN_MAX || self.peer_listen.len() > LISTEN_MAX {
            return Err(refused(format!(
                "more than {LISTEN_MAX} addresses to listen on"
            )));
        }
        let open = self.listen.iter().find(|addr| !is_loopback(addr.ip()));
        if let Some(addr) = open
            && !public
        {
            return Err(refused(format!(
                "--listen {addr} can be reached by others: add --public and --allow-site, or \
                 listen on 127.0.0.1"
            )));
        }
        if public && self.allow_sites.as_ref().is_none_or(Vec::is_empty) {
            return Err(refused(
                "--public needs --allow-site: the sites whose pages may use this stub",
            ));
        }
        if !is_loopback(self.admin.ip()) {
            return Err(refused(format!(
                "--admin {} can be reached by others: the control port stays on 127.0.0.1 or [::1]",
                self.admin
            )));
        }
        let mut taken = BTreeSet::new();
        let all = self.listen.iter().chain(&self.peer_listen);
        for addr in all.chain([&self.admin]).filter(|addr| addr.port() != 0) {
            if !taken.insert(addr) {
                return Err(refused(format!("{addr} is to be listened on twice")));
            }
        }
        Ok(())
    }
}

impl Machine {
    /// This one.
    pub fn here() -> Result<Self, BadConfig> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            nofile: limit.current.unwrap_or(u64::MAX),
            directories: Directories::here()?,
        })
    }
}

fn log_filter(typed: Option<String>) -> Result<String, BadConfig> {
    let log = typed.unwrap_or_else(|| LOG_DEFAULT.to_owned());
    match tracing_subscriber::EnvFilter::try_new(&log) {
        Ok(_) => Ok(log),
        Err(error) => Err(refused(format!("--log {log:?}: {error}"))),
    }
}

/// R26.
fn players_max(nofile: u64) -> Result<usize, BadConfig> {
    if nofile < NOFILE_MIN {
        return Err(refused(format!(
            "only {nofile} files may be open, {NOFILE_MIN} are needed: `ulimit -n {NOFILE_MIN}`"
        )));
    }
    let share = u128::from(nofile) * u128::from(PLAYERS_SHARE) / 100;
    Ok(usize::try_from(share).map_or(PLAYERS_MAX, |share| share.min(PLAYERS_MAX)))
}

fn hosts(names: Vec<String>) -> Result<Vec<String>, BadConfig> {
    let check = |name: String| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_part) {
            return Err(refused(format!("--allow-host {name:?}: not a host name")));
        }
        Ok(name.to_ascii_lowercase())
    };
    names.into_iter().map(check).collect()
}

fn sites(policy: Option<SitePolicy>, listed: &[String]) -> Result<Option<Vec<String>>, BadConfig> {
    match policy {
        Some(SitePolicy::Open) if !listed.is_empty() => Err(refused(
            "--sites open and --allow-site contradict each other",
        )),
        Some(SitePolicy::Open) => Ok(None),
        None if listed.is_empty() => Ok(None),
        Some(SitePolicy::List) | None => {
            let sites: Result<BTreeSet<String>, BadConfig> =
                listed.iter().map(|s| site(s)).collect();
            Ok(Some(sites?.into_iter().collect()))
        }
    }
}

/// As a browser spells it in `Origin`.
fn site(text: &str) -> Result<String, BadConfig> {
    let bad = || {
        refused(format!(
            "--allow-site {text:?}: not a site, which is https:// or http:// and a host name"
        ))
    };
    let url = Url::parse(text).map_err(|_| bad())?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if bare && matches!(url.scheme(), "http" | "https") {
        Ok(url.origin().ascii_serialization())
    } else {
        Err(bad())
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

const fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
    ]
}

const fn peers_any() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PEER_PORT)
}

fn filled<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

fn refused(why: impl Into<String>) -> BadConfig {
    BadConfig::Refused(why.into())
}

fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| String::from("write it as 127.0.0.1:8081 or [::1]:8081"))
}

const POLICIES: [(&str, OriginPolicy); 4] = [
    ("hybrid", OriginPolicy::Hybrid),
    ("eager", OriginPolicy::Eager),
    ("last-resort", OriginPolicy::LastResort),
    ("never", OriginPolicy::Never),
];

fn policies() -> impl TypedValueParser<Value = OriginPolicy> {
    PossibleValuesParser::new(POLICIES.map(|(name, _)| name)).try_map(|name| policy_of(&name))
}

fn policy_of(name: &str) -> Result<OriginPolicy, String> {
    let found = POLICIES.iter().find(|(known, _)| *known == name);
    let names = POLICIES.map(|(name, _)| name).join(", ");
    found
        .map(|(_, policy)| *policy)
        .ok_or_else(|| format!("not one of {names}"))
}

fn policy<'de, D: Deserializer<'de>>(from: D) -> Result<Option<OriginPolicy>, D::Error> {
    let name = String::deserialize(from)?;
    policy_of(&name).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
