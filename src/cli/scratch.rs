//! A directory that goes away with its owner.

use std::io;
use std::path::Path;
use std::path::PathBuf;

pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, private directory among the temporary files.
    pub fn new(name: &str) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let unique = crate::cli::token::random();
        let path = std::env::temp_dir().join(format!("{name}-{}", &unique[..12]));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "a temporary directory stays");
        }
    }
}
