//! The info-hashes that a tracker is for, where it is not for all.

use std::collections::BTreeSet;

use crate::units::InfoHash;

/// Hashes on a list; more are refused.
pub const ALLOWED_MAX: usize = 10_000_000;

/// Which torrents are tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    #[default]
    All,
    /// In order.
    Listed(Box<[InfoHash]>),
}

/// A list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadList {
    #[error("line {line}: not an info-hash, which is 40 hex digits or 32 of base32")]
    Line { line: usize },
    #[error("more than {ALLOWED_MAX} info-hashes")]
    TooLong,
}

impl Allow {
    /// One info-hash a line; empty lines, and all behind `#`, are passed over.
    pub fn parse(text: &str) -> Result<Self, BadList> {
        let mut listed = BTreeSet::new();
        for (at, line) in text.lines().enumerate() {
            let word = line.split('#').next().unwrap_or_default().trim();
            if word.is_empty() {
                continue;
            }
            let hash = InfoHash::parse(word).filter(|hash| !hash.is_zero());
            listed.insert(hash.ok_or(BadList::Line { line: at + 1 })?);
            if listed.len() > ALLOWED_MAX {
                return Err(BadList::TooLong);
            }
        }
        Ok(Self::Listed(listed.into_iter().collect()))
    }

    pub fn allows(&self, info_hash: InfoHash) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.binary_search(&info_hash).is_ok(),
        }
    }

    /// How many are on the list; `None` if there is none.
    pub fn listed(&self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Listed(listed) => Some(listed.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_its_remarks() {
        let text = "# films\n0123456789abcdef0123456789abcdef01234567 # one\n\n \
            AERUKZ4JVPG66AJDIVTYTK6N54ASGRLH\nff00000000000000000000000000000000000000\r\n";
        let allow = Allow::parse(text).unwrap();
        assert_eq!(allow.listed(), Some(2), "one is there twice");
        assert!(allow.allows(InfoHash::parse("0123456789abcdef0123456789abcdef01234567").unwrap()));
        assert!(!allow.allows(InfoHash([1; 20])));
        let empty = Allow::parse("").unwrap();
        assert!(!empty.allows(InfoHash([1; 20])) && Allow::All.allows(InfoHash([1; 20])));
    }

    #[test]
    fn the_faulty_line_is_named() {
        for line in ["x", "0123", &"0".repeat(40), &"z".repeat(40)] {
            let text = format!("# head\n{line}\n");
            assert_eq!(
                Allow::parse(&text),
                Err(BadList::Line { line: 2 }),
                "{line}"
            );
        }
    }
}
