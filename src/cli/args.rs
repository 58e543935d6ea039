//! The command line, as typed.
#![allow(
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    reason = "clap prints the comments on options as they are"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command as Parser, CommandFactory, FromArgMatches};
use url::Url;

use crate::config::{BadConfig, Config, Machine, Options, TrackerConfig, TrackerOptions, exit};

/// BitTube plays web video over plain HTTP from a BitTorrent swarm.
///
/// Put http://localhost:8081/ before a film's address and open that: the film comes from other
/// viewers, and from its own server what they cannot deliver in time. The address may be that of a
/// video, a torrent file or a magnet link; a tracker's address may stand before it:
/// http://localhost:8081/https://tracker.example/announce/https://video.example/film.mp4
#[derive(Debug, clap::Parser)]
#[command(name = "bittube", version, args_conflicts_with_subcommands = true)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    given: Given,
}

const AFTER_HELP: &str = "Without a command, `serve` runs. An option on the command line outranks \
    the environment (BITTUBE_LISTEN for --listen, and so on), which outranks the configuration \
    file (listen = [\"127.0.0.1:8081\"]).";

/// Options that every command takes, though not every one shows them all.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Given {
    /// Read options from FILE [default: bittube/config.toml in the user's configuration directory]
    #[arg(long, value_name = "FILE", env = "BITTUBE_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: Options,
}

/// What a tracker takes. In the configuration file its options are a table of their own, and in
/// the environment they begin with `BITTUBE_TRACKER_`: a stub may run beside it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrackerGiven {
    /// Read options from FILE, where they are in the table [tracker] [default: bittube/config.toml
    /// in the user's configuration directory]
    #[arg(long, value_name = "FILE", env = "BITTUBE_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: TrackerOptions,

    /// What is logged, such as debug or bittube::tracker=trace,warn [default: info]
    #[arg(long, value_name = "FILTER", env = "BITTUBE_LOG")]
    log: Option<String>,

    /// Log as JSON, one object a line
    #[arg(long, env = "BITTUBE_LOG_JSON", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    log_json: Option<bool>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the stub, which players ask for films; this is the default
    Serve {
        #[command(flatten)]
        given: Given,
    },

    /// Get one film into a file, and show who delivers it
    Get {
        /// The film's address, as it stands behind http://localhost:8081/
        address: String,

        /// Write to FILE; `-` is the standard output [default: a name from the address]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,

        #[command(flatten)]
        given: Given,
    },

    /// Keep a swarm supplied from files of one's own
    Seed {
        /// The torrent file
        torrent: PathBuf,

        /// The torrent's file, or the directory that holds its files
        #[arg(long, value_name = "PATH")]
        data: PathBuf,

        /// Announce to this tracker also; may be repeated
        #[arg(long = "tracker", value_name = "URL", value_parser = tracker)]
        trackers: Vec<Url>,

        #[command(flatten)]
        given: Given,
    },

    /// Make torrents of films, and tell what to put into pages and web servers
    Publish {
        /// The film; or a folder of films, published as a playlist; or a film's URL, whose bytes
        /// are read once and kept nowhere
        #[arg(value_name = "FILE|FOLDER|URL")]
        source: PathBuf,

        /// The film's address on the web, or the folder's; repeat for further servers that have it
        /// [default: the URL]
        #[arg(long = "url", value_name = "VIDEO_URL", value_parser = video)]
        videos: Vec<Url>,

        /// Announce to this tracker; may be repeated
        #[arg(long = "tracker", value_name = "URL", value_parser = tracker, required = true)]
        trackers: Vec<Url>,

        /// Write the torrent to FILE, or a folder's playlist [default: the film's name with
        /// .torrent, playlist.m3u8 in the folder]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,

        /// Publish again whenever the film, or a film of the folder, was changed, until Ctrl-C
        #[arg(long)]
        watch: bool,

        /// Register the torrent at the trackers with this publisher's token; better in the
        /// environment, for others see a command line
        #[arg(
            long,
            value_name = "TOKEN",
            env = "BITTUBE_PUBLISH_TOKEN",
            hide_env_values = true
        )]
        token: Option<String>,

        /// Read the token from FILE
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,

        #[command(flatten)]
        given: Given,
    },

    /// Run a tracker, by HTTP and UDP, which tells viewers of each other
    Tracker {
        #[command(flatten)]
        given: TrackerGiven,
    },

    /// Tell what the running stub does
    Status {
        /// As JSON, as `/api/stats` has it
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        given: Given,
    },

    /// Show everything at once on this machine: origin, tracker, seeder and stub, with a clip
    Demo {
        /// End after the clip has been played and compared
        #[arg(long)]
        once: bool,

        #[command(flatten)]
        given: Given,
    },
}

/// What each command shows of the common options beside `--config` and the log's; `serve` shows
/// all.
const SHOWN: [(&str, &[&str]); 5] = [
    (
        "get",
        &[
            "listen",
            "admin",
            "peer_listen",
            "store",
            "store_limit",
            "shards",
            "origin_policy",
            "allow_private",
            "ca_file",
        ],
    ),
    (
        "seed",
        &["peer_listen", "store", "shards", "allow_private", "ca_file"],
    ),
    ("publish", &["allow_private", "ca_file"]),
    ("status", &["admin"]),
    ("demo", &[]),
];
const SHOWN_ALWAYS: [&str; 3] = ["config", "log", "log_json"];
/// Heeded by `serve` and shown nowhere.
const SHOWN_NEVER: &str = "lab";

impl Args {
    /// This process's. Prints help, version or what is wrong; then the exit code is the error.
    pub fn from_env() -> Result<Self, u8> {
        Self::parse(std::env::args_os()).map_err(|error| {
            // There is nobody left to tell that printing failed.
            let _ = error.print();
            if error.use_stderr() { exit::USAGE } else { 0 }
        })
    }

    pub fn parse(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut parser = parser();
        let mut matches = parser.try_get_matches_from_mut(words)?;
        refuse_hidden(&mut parser, &matches)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut parser))
    }

    /// The command, and the options as typed.
    pub fn into_command(self) -> Command {
        let Self { command, given } = self;
        command.unwrap_or(Command::Serve { given })
    }
}

impl Given {
    /// With the configuration file and the machine taken into account.
    pub fn config(self, machine: &Machine) -> Result<Config, BadConfig> {
        let file = Options::read(self.config.as_deref(), &machine.directories)?;
        Config::new(self.options.over(file), machine)
    }
}

impl TrackerGiven {
    /// With the configuration file and the machine taken into account.
    pub fn config(self, machine: &Machine) -> Result<TrackerConfig, BadConfig> {
        let file = Options::read(self.config.as_deref(), &machine.directories)?;
        let typed = Options {
            tracker: self.options,
            log: self.log,
            log_json: self.log_json,
            ..Options::default()
        };
        TrackerConfig::new(typed.over(file), machine)
    }
}

/// The derived parser, in which commands do not show what they do not heed.
fn parser() -> Parser {
    let hide = |command: Parser, shown: &[&str]| {
        command.mut_args(|arg| {
            let hidden =
                is_common(arg.get_id().as_str()) && !shown.contains(&arg.get_id().as_str());
            arg.hide(hidden).hide_env(true)
        })
    };
    let parser = Args::command().mut_args(|arg| arg.hide_env(true));
    let parser = ["serve", "tracker"]
        .into_iter()
        .fold(parser, |parser, name| {
            parser.mut_subcommand(name, |command| command.mut_args(|arg| arg.hide_env(true)))
        });
    SHOWN.iter().fold(parser, |parser, (name, shown)| {
        let shown = [shown, SHOWN_ALWAYS.as_slice()].concat();
        parser.mut_subcommand(name, |command| hide(command, &shown))
    })
}

fn is_common(id: &str) -> bool {
    <Given as clap::Args>::augment_args(Parser::new(""))
        .get_arguments()
        .any(|arg| arg.get_id() == id)
}

/// An option that a command does not heed is an error where it is typed, and passed over in the
/// environment, which is the same for all commands.
fn refuse_hidden(parser: &mut Parser, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let command = parser
        .find_subcommand_mut(name)
        .expect("clap has just found it");
    let typed = command
        .get_arguments()
        .filter(|arg| arg.is_hide_set() && !(name == "serve" && arg.get_id() == SHOWN_NEVER))
        .find(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
    match typed.and_then(|arg| arg.get_long()) {
        Some(long) => {
            let why = format!("`{name}` has no use for --{long}");
            Err(command.error(ErrorKind::UnknownArgument, why))
        }
        None => Ok(()),
    }
}

fn tracker(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https" | "udp") && url.has_host() {
        Ok(url)
    } else {
        Err(String::from("a tracker is http, https or udp"))
    }
}

/// As the stub takes it (R11): a fragment would be lost, a password told to all.
pub fn video(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(String::from("a film's address is http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(String::from("without user name, password and #fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Directories, StoreLimit};
    use crate::units::OriginPolicy;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("bittube").chain(line.split_whitespace());
        Args::parse(words).map(Args::into_command)
    }

    fn options(line: &str) -> Options {
        match parse(line).unwrap() {
            Command::Serve { given } => given.options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_parser_is_sound() {
        parser().debug_assert();
    }

    #[test]
    fn serve_is_the_default() {
        assert_eq!(options(""), Options::default());
        let line = "--listen 127.0.0.1:1 --listen [::1]:2 --store-limit 5GB --shards 2 --proxy";
        let typed = options(line);
        assert_eq!(typed, options(&format!("serve {line}")));
        assert_eq!(
            typed.listen,
            ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]
        );
        assert_eq!(typed.store_limit, Some(StoreLimit(Some(5_000_000_000))));
        assert_eq!((typed.shards, typed.proxy), (Some(2), Some(true)));
    }

    #[test]
    fn a_switch_can_be_turned_off_again() {
        assert_eq!(options("--allow-private=false").allow_private, Some(false));
        assert_eq!(options("--allow-private").allow_private, Some(true));
        assert_eq!(options("").allow_private, None);
    }

    #[test]
    fn get_takes_an_address_and_a_file() {
        let Command::Get {
            address,
            output,
            given,
        } = parse("get https://video.example/a.mp4 -o a.mp4 --origin-policy last-resort").unwrap()
        else {
            panic!("get");
        };
        assert_eq!(address, "https://video.example/a.mp4");
        assert_eq!(output.as_deref(), Some(Path::new("a.mp4")));
        assert_eq!(given.options.origin_policy, Some(OriginPolicy::LastResort));
    }

    #[test]
    fn seed_takes_a_torrent_its_data_and_trackers() {
        let line = "seed a.torrent --data /films --tracker http://a/announce --tracker udp://b:1";
        let Command::Seed { data, trackers, .. } = parse(line).unwrap() else {
            panic!("seed");
        };
        assert_eq!(data, Path::new("/films"));
        let trackers: Vec<&str> = trackers.iter().map(Url::as_str).collect();
        assert_eq!(trackers, ["http://a/announce", "udp://b:1"]);
    }

    #[test]
    fn publish_takes_a_film_its_addresses_and_trackers() {
        let line = "publish a.mp4 --url https://v/a.mp4 --url http://w/b.mp4 --tracker udp://t:1";
        let Command::Publish {
            videos, trackers, ..
        } = parse(line).unwrap()
        else {
            panic!("publish");
        };
        let videos: Vec<&str> = videos.iter().map(Url::as_str).collect();
        assert_eq!(videos, ["https://v/a.mp4", "http://w/b.mp4"]);
        assert_eq!(trackers[0].as_str(), "udp://t:1");
        for url in ["ftp://v/a", "https://v/a#t=1", "https://u@v/a", "a.mp4"] {
            let line = format!("publish a.mp4 --url {url} --tracker udp://t:1");
            assert!(parse(&line).is_err(), "{url}");
        }
        assert!(parse("publish a.mp4 --url https://v/a.mp4").is_err());
        let line = "publish a.mp4 --tracker udp://t:1 --token secret --token-file f";
        let Command::Publish {
            token, token_file, ..
        } = parse(line).unwrap()
        else {
            panic!("publish");
        };
        assert_eq!(token.as_deref(), Some("secret"));
        assert_eq!(token_file.as_deref(), Some(Path::new("f")));
        let line = "publish https://v/a.mp4 --tracker udp://t:1 --watch --allow-private";
        assert!(matches!(
            parse(line),
            Ok(Command::Publish { watch: true, .. })
        ));
    }

    #[test]
    fn tracker_takes_its_own_options() {
        let line =
            "tracker --http 127.0.0.1:1 --udp [::1]:2 --interval 15m --trust-proxy 10.0.0.0/8";
        let Command::Tracker { given } = parse(line).unwrap() else {
            panic!("tracker");
        };
        assert_eq!(given.options.http, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(given.options.udp, ["[::1]:2".parse().unwrap()]);
        assert_eq!(given.options.trust_proxy, ["10.0.0.0/8".parse().unwrap()]);
        for line in [
            "tracker --listen 127.0.0.1:1",
            "tracker --interval 15",
            "tracker --http 80",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let help = parse("tracker --help").unwrap_err().to_string();
        assert!(help.contains("--allow") && !help.contains("[env"), "{help}");
        for arg in <TrackerGiven as clap::Args>::augment_args(Parser::new("")).get_arguments() {
            let long = arg.get_long().unwrap();
            let common = ["config", "log", "log-json"].contains(&long);
            let prefix = if common {
                "BITTUBE_"
            } else {
                "BITTUBE_TRACKER_"
            };
            let variable = format!("{prefix}{}", long.replace('-', "_").to_ascii_uppercase());
            assert_eq!(arg.get_env().unwrap(), variable.as_str());
            assert!(arg.get_help().is_some(), "{long}");
        }
    }

    #[test]
    fn status_and_demo_have_their_switch() {
        assert!(matches!(
            parse("status --json"),
            Ok(Command::Status { json: true, .. })
        ));
        assert!(matches!(
            parse("demo --once"),
            Ok(Command::Demo { once: true, .. })
        ));
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "sevre",
            "get",
            "seed a.torrent",
            "seed a.torrent --data d --tracker ftp://x/",
            "--listen 8081",
            "--listen localhost:8081",
            "--shards many",
            "--store-limit 20apples",
            "--origin-policy sometimes",
            "--sites some",
            "--no-dht",
            "--allow-private false",
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.use_stderr(), "{line}");
        }
        let error = parse("--listen 8081").unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:8081"), "it says how: {error}");
        for line in ["--help", "get --help", "--version"] {
            assert!(!parse(line).expect_err(line).use_stderr(), "{line}");
        }
    }

    #[test]
    fn a_command_refuses_what_it_does_not_heed() {
        let error = parse("status --store /x").unwrap_err();
        assert!(error.to_string().contains("--store"), "{error}");
        assert!(parse("get x --public").is_err());
        assert!(parse("get x --store /x").is_ok());
        assert!(parse("get x --lab no-rank").is_err());
        let help = parse("status --help").unwrap_err().to_string();
        assert!(
            help.contains("--admin") && !help.contains("--store"),
            "{help}"
        );
    }

    #[test]
    fn every_option_has_its_variable_and_says_what_it_does() {
        for arg in <Given as clap::Args>::augment_args(Parser::new("")).get_arguments() {
            let long = arg.get_long().unwrap();
            let variable = format!("BITTUBE_{}", long.replace('-', "_").to_ascii_uppercase());
            assert_eq!(arg.get_env().unwrap(), variable.as_str());
            assert!(arg.get_help().is_some(), "{long}");
        }
    }

    #[test]
    fn the_laboratory_is_heeded_by_serve_and_shown_by_nobody() {
        let Command::Serve { given } = parse("serve --lab sequential,fallback").unwrap() else {
            panic!("serve");
        };
        assert_eq!(given.options.lab, "sequential,fallback".parse().ok());
        assert!(parse("serve --lab naive").is_err());
        for line in ["--help", "serve --help", "get --help", "demo --help"] {
            let help = parse(line).unwrap_err().to_string();
            assert!(!help.contains("--lab"), "{line}");
        }
    }

    #[test]
    fn what_is_shown_exists() {
        for id in SHOWN.iter().flat_map(|(_, ids)| *ids).chain(&SHOWN_ALWAYS) {
            assert!(is_common(id), "{id}");
        }
    }

    #[test]
    fn flags_outrank_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("my.toml");
        std::fs::write(&file, "shards = 3\nlog = \"debug\"\nallow-private = true\n").unwrap();
        let machine = Machine {
            cores: 8,
            nofile: 1024,
            directories: Directories {
                config: dir.path().join("none"),
                state: dir.path().to_owned(),
                cache: dir.path().to_owned(),
            },
        };
        let config = |line: &str| {
            let line = line.replace("FILE", file.to_str().unwrap());
            match parse(&line).unwrap() {
                Command::Serve { given } => given.config(&machine),
                other => panic!("{other:?}"),
            }
        };
        let mixed = config("--config FILE --shards 5 --allow-private=false").unwrap();
        assert_eq!((mixed.shards, mixed.log.as_str()), (5, "debug"));
        assert!(!mixed.allow_private);
        assert_eq!(config("").unwrap().shards, 8, "no file is no fault");
        let missing = config("--config FILE.not").unwrap_err();
        assert_eq!(missing.exit_code(), exit::NO_INPUT);
    }
}
