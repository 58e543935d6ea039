//! What the laboratory replaces or takes away, to see what each rule is worth.
//!
//! Baselines run in the same code as the policy, so that a comparison is of rules and of nothing
//! else. No user sees any of this.

use std::str::FromStr;

/// The default is the policy, whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lab {
    pub pick: Pick,
    pub buy: Buy,
    /// Everybody injects what nobody has, as soon as the first in order would.
    pub no_rank: bool,
    /// What nobody has is bought like what peers cannot bring in time.
    pub no_inject: bool,
    /// What somebody has is never bought, once playing.
    pub no_hedge: bool,
    /// It takes and gives nothing: a free rider.
    pub no_upload: bool,
}

/// Which piece a peer is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    #[default]
    Windows,
    /// The film's order, as far as the queues go.
    Sequential,
    /// Whatever fewest have, wherever it is in the file.
    Rarest,
}

/// What the origin is asked for, under `OriginPolicy::Hybrid`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buy {
    #[default]
    Hybrid,
    /// Everything: there are no peers.
    ClientServer,
    /// All that is not here [`FALLBACK_S`] before it is due.
    Fallback,
    /// What the picker would ask of a peer that has everything (BEP 19).
    WebSeed,
}

/// So long before its deadline a naive player gives peers up.
pub const FALLBACK_S: f64 = 3.0;

/// What can be said, joined by commas: `sequential,fallback`.
pub const WORDS: [&str; 9] = [
    "sequential",
    "rarest",
    "client-server",
    "fallback",
    "web-seed",
    "no-rank",
    "no-inject",
    "no-hedge",
    "no-upload",
];

impl FromStr for Lab {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lab = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word {
                "sequential" => lab.pick = Pick::Sequential,
                "rarest" => lab.pick = Pick::Rarest,
                "client-server" => lab.buy = Buy::ClientServer,
                "fallback" => lab.buy = Buy::Fallback,
                "web-seed" => lab.buy = Buy::WebSeed,
                "no-rank" => lab.no_rank = true,
                "no-inject" => lab.no_inject = true,
                "no-hedge" => lab.no_hedge = true,
                "no-upload" => lab.no_upload = true,
                _ => return Err(format!("`{word}` is none of {}", WORDS.join(", "))),
            }
        }
        Ok(lab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_no_other() {
        assert_eq!("".parse(), Ok(Lab::default()));
        let naive = Lab {
            pick: Pick::Rarest,
            buy: Buy::Fallback,
            ..Lab::default()
        };
        assert_eq!("rarest,fallback".parse(), Ok(naive));
        for word in WORDS {
            assert_ne!(word.parse(), Ok(Lab::default()), "{word}");
        }
        assert!("rarest,first".parse::<Lab>().is_err());
    }
}
