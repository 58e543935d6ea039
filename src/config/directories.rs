//! Where files are: the service manager's directories, else the XDG ones.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etcetera::base_strategy::{BaseStrategy, Xdg};

use crate::config::BadConfig;

const NAME: &str = "bittube";

/// This program's own, each with its name in it already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    pub config: PathBuf,
    /// The control port's token.
    pub state: PathBuf,
    /// The films.
    pub cache: PathBuf,
}

impl Directories {
    /// By this process's environment.
    pub fn here() -> Result<Self, BadConfig> {
        Self::of(Xdg::new().ok().as_ref(), |name| std::env::var_os(name))
    }

    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// `xdg`: `None` if the user has no home.
    fn of(
        xdg: Option<&Xdg>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, BadConfig> {
        let find = |name: &str, own: fn(&Xdg) -> PathBuf| {
            variable(name)
                .as_deref()
                .and_then(|value| first(Path::new(value)))
                .or_else(|| xdg.map(|xdg| own(xdg).join(NAME)))
                .ok_or_else(|| {
                    BadConfig::Refused(format!("neither ${name} nor $HOME says where files go"))
                })
        };
        Ok(Self {
            config: find("CONFIGURATION_DIRECTORY", Xdg::config_dir)?,
            state: find("STATE_DIRECTORY", |xdg| {
                xdg.state_dir().unwrap_or_else(|| xdg.data_dir())
            })?,
            cache: find("CACHE_DIRECTORY", Xdg::cache_dir)?,
        })
    }
}

/// systemd separates several directories by colons (systemd.exec(5)).
fn first(value: &Path) -> Option<PathBuf> {
    let path = std::env::split_paths(value).next()?;
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_managers_directories_come_first() {
        let xdg = Xdg::new().unwrap();
        let from_xdg = Directories::of(Some(&xdg), |_| None).unwrap();
        assert_eq!(from_xdg.cache, xdg.cache_dir().join("bittube"));
        assert_eq!(
            from_xdg.config_file(),
            xdg.config_dir().join("bittube/config.toml")
        );
        let given = |name: &str| match name {
            "STATE_DIRECTORY" => Some(OsString::from("/var/lib/bittube:/var/lib/other")),
            "CACHE_DIRECTORY" => Some(OsString::from("relative")),
            _ => None,
        };
        let given = Directories::of(Some(&xdg), given).unwrap();
        assert_eq!(given.state, Path::new("/var/lib/bittube"));
        assert_eq!(
            given.cache, from_xdg.cache,
            "what is not absolute is not systemd's"
        );
    }

    #[test]
    fn without_a_home_all_must_be_given() {
        let all = |_: &str| Some(OsString::from("/srv/x"));
        assert_eq!(
            Directories::of(None, all).unwrap().config,
            Path::new("/srv/x")
        );
        let error = Directories::of(None, |_| None).unwrap_err();
        assert!(error.to_string().contains("$HOME"), "{error}");
    }
}
