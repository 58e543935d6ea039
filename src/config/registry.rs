//! What a tracker's registry is told, as typed.

use std::path::PathBuf;

use serde::Deserialize;

/// In the configuration file they are the table `[tracker.registry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistryOptions {
    /// Keep the torrents of videos in DIR, and give them to who asks for /metainfo?url=VIDEO_URL
    #[arg(
        long = "registry",
        value_name = "DIR",
        env = "BITTUBE_TRACKER_REGISTRY"
    )]
    pub dir: Option<PathBuf>,

    /// Make the torrent of any video of HOST when it is first asked for: example.org,
    /// *.example.org, example.org:8080; may be repeated
    #[arg(
        long,
        value_name = "HOST",
        env = "BITTUBE_TRACKER_AUTO_PUBLISH",
        value_delimiter = ',',
        num_args = 1..
    )]
    pub auto_publish: Vec<String>,

    /// Let publishers register torrents: each line of FILE is a token of 32 characters or more and
    /// the hosts that it speaks for; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "BITTUBE_TRACKER_TOKENS")]
    pub tokens: Option<PathBuf>,

    /// The tracker's address as others reach it, for torrents that name none; may be repeated
    /// [default: those that it listens on, where they are no wildcards]
    #[arg(
        long,
        value_name = "URL",
        env = "BITTUBE_TRACKER_ANNOUNCE_URL",
        value_delimiter = ','
    )]
    pub announce_url: Vec<String>,

    /// Make torrents of videos at private and loopback addresses too
    #[arg(long, env = "BITTUBE_TRACKER_ALLOW_PRIVATE", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    pub allow_private: Option<bool>,

    /// Trust the certificates in this PEM file too, where videos are fetched from
    #[arg(long, value_name = "FILE", env = "BITTUBE_TRACKER_CA_FILE")]
    pub ca_file: Option<PathBuf>,
}

impl RegistryOptions {
    /// What is missing here is taken from `under`.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        let list = |over: Vec<String>, under| if over.is_empty() { under } else { over };
        Self {
            dir: self.dir.or(under.dir),
            auto_publish: list(self.auto_publish, under.auto_publish),
            tokens: self.tokens.or(under.tokens),
            announce_url: list(self.announce_url, under.announce_url),
            allow_private: self.allow_private.or(under.allow_private),
            ca_file: self.ca_file.or(under.ca_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: RegistryOptions,
    }

    fn typed(line: &str) -> RegistryOptions {
        Line::parse_from(line.split(' ')).options
    }

    #[test]
    fn hosts_are_listed_in_any_way() {
        for line in [
            "x --registry d --auto-publish a.org *.b.org",
            "x --registry d --auto-publish a.org --auto-publish *.b.org",
            "x --auto-publish a.org,*.b.org --registry d --allow-private=false",
        ] {
            let typed = typed(line);
            assert_eq!(typed.auto_publish, ["a.org", "*.b.org"], "{line}");
            assert_eq!(typed.dir, Some("d".into()));
        }
        assert_eq!(typed("x --allow-private").allow_private, Some(true));
    }

    #[test]
    fn what_is_typed_outranks_the_file() {
        let file = "dir = \"d\"\nauto-publish = [\"a\"]\nallow-private = true\ntokens = \"t\"";
        let file: RegistryOptions = toml::from_str(file).unwrap();
        let both = typed("x --registry e --auto-publish b --allow-private=false").over(file);
        assert_eq!(both.dir, Some("e".into()));
        assert_eq!(both.auto_publish, ["b"]);
        assert_eq!(both.allow_private, Some(false));
        assert_eq!(both.tokens, Some("t".into()));
        assert!(toml::from_str::<RegistryOptions>("auto = 1").is_err());
    }
}
