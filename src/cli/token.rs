//! The control port's token (R5): made at first start, readable by its owner alone.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// 32 random bytes as hex digits.
pub fn random() -> String {
    use rand::Rng as _;
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token in `path`, made if there is none.
pub fn load_or_make(path: &Path) -> io::Result<String> {
    match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded,
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let token = random();
    let mut options = fs::OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            writeln!(file, "{token}")?;
            Ok(token)
        }
        // Another BitTube that starts at the same moment was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(error),
    }
}

/// The token of a BitTube that has run before.
pub fn load(path: &Path) -> io::Result<String> {
    let token = fs::read_to_string(path)?.trim().to_owned();
    if token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(token);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "not 64 hex digits; delete it to make another",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/token");
        let token = load_or_make(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(load_or_make(&path).unwrap(), token);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "short\n").unwrap();
        assert!(load_or_make(&path).is_err());
    }
}
