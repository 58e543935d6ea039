//! Who may register videos of which hosts: the tokens of publishers.

use aws_lc_rs::constant_time;
use aws_lc_rs::digest;
use url::Url;

use crate::tracker::registry::hosts::BadPattern;
use crate::tracker::registry::hosts::Pattern;

/// Shorter ones could be guessed.
pub const TOKEN_LEN_MIN: usize = 32;
const TOKEN_LEN_MAX: usize = 512;
const TOKENS_MAX: usize = 10_000;
const PATTERNS_MAX: usize = 1000;
const DIGEST_LEN: usize = 32;

/// Publishers' tokens, kept as their SHA-256.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    publishers: Vec<Publisher>,
}

#[derive(Clone, Debug)]
struct Publisher {
    digest: [u8; DIGEST_LEN],
    hosts: Vec<Pattern>,
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// No token, or none that is known.
    Unknown,
    /// Known, but this host is another's.
    Elsewhere,
    Granted,
}

/// A line of the file that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadTokens {
    pub line: usize,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("a token has 32 to 512 visible ASCII characters")]
    Token,
    #[error("no host after the token")]
    NoHost,
    #[error("{0}")]
    Host(BadPattern),
    #[error("this token stands further up already")]
    Twice,
    #[error("too many")]
    TooMany,
}

impl Tokens {
    /// A publisher a line: the token, then hosts. Empty lines and those that begin with `#` are
    /// passed over.
    pub fn parse(text: &str) -> Result<Self, BadTokens> {
        let mut tokens = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let added = tokens.add(line);
                added.map_err(|why| BadTokens { line: at + 1, why })?;
            }
        }
        Ok(tokens)
    }

    fn add(&mut self, line: &str) -> Result<(), Why> {
        let mut words = line.split_ascii_whitespace();
        let token = words.next().unwrap_or_default();
        let length = TOKEN_LEN_MIN..=TOKEN_LEN_MAX;
        if !length.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Why::Token);
        }
        let hosts: Vec<Pattern> = words
            .take(PATTERNS_MAX + 1)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(Why::Host)?;
        let digest = sha256(token);
        match hosts.len() {
            0 => return Err(Why::NoHost),
            1..=PATTERNS_MAX if self.publishers.len() < TOKENS_MAX => {}
            _ => return Err(Why::TooMany),
        }
        if self.publishers.iter().any(|known| known.digest == digest) {
            return Err(Why::Twice);
        }
        self.publishers.push(Publisher { digest, hosts });
        Ok(())
    }

    /// `authorization`: the request's header of that name. Takes as long whichever token it is, and
    /// whether it is one or not.
    pub fn right(&self, authorization: Option<&str>, url: &Url) -> Right {
        let said = authorization.and_then(bearer).unwrap_or_default();
        let digest = sha256(said);
        let mut publisher = None;
        for known in &self.publishers {
            if constant_time::verify_slices_are_equal(&known.digest, &digest).is_ok() {
                publisher = Some(known);
            }
        }
        match publisher {
            None => Right::Unknown,
            Some(known) if known.hosts.iter().any(|host| host.allows(url)) => Right::Granted,
            Some(_) => Right::Elsewhere,
        }
    }

    /// Whether any publisher speaks for that host.
    pub fn allow(&self, url: &Url) -> bool {
        let mut hosts = self.publishers.iter().flat_map(|known| &known.hosts);
        hosts.any(|host| host.allows(url))
    }
}

/// RFC 6750 §2.1; the scheme in any case (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_LEN_MAX).then_some(token)
}

fn sha256(token: &str) -> [u8; DIGEST_LEN] {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_token_speaks_for_its_hosts_only() {
        let file = format!("# ours\n\n{ONE} a.example *.a.example\n  {TWO}\tb.example:8080\n");
        let tokens = Tokens::parse(&file).unwrap();
        let right = |said: &str, video: &str| tokens.right(Some(said), &url(video));
        let (one, two) = (format!("Bearer {ONE}"), format!("bearer  {TWO}"));
        assert_eq!(right(&one, "https://a.example/x"), Right::Granted);
        assert_eq!(right(&one, "https://w.a.example/x"), Right::Granted);
        assert_eq!(right(&one, "http://b.example:8080/x"), Right::Elsewhere);
        assert_eq!(right(&two, "http://b.example:8080/x"), Right::Granted);
        assert_eq!(right(&two, "http://b.example/x"), Right::Elsewhere);
    }

    #[test]
    fn what_is_no_token_has_no_right() {
        let tokens = Tokens::parse(&format!("{ONE} a.example")).unwrap();
        let video = url("http://a.example/x");
        for said in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some(ONE),
            Some("Basic 0123456789abcdef0123456789abcdef"),
            Some("Bearer 0123456789abcdef0123456789abcde"),
            Some("Bearer 0123456789abcdef0123456789abcdeF"),
            Some("Bearer 0123456789abcdef0123456789abcdef0"),
        ] {
            assert_eq!(tokens.right(said, &video), Right::Unknown, "{said:?}");
        }
        let none = Tokens::default();
        assert!(tokens.allow(&video) && !none.allow(&video));
        assert_eq!(
            none.right(Some(&format!("Bearer {ONE}")), &video),
            Right::Unknown
        );
        assert_eq!(none.right(Some("Bearer "), &video), Right::Unknown);
    }

    #[test]
    fn bad_lines_are_named() {
        let bad = |text: &str| Tokens::parse(text).unwrap_err();
        assert_eq!(bad("short a.example").why, Why::Token);
        assert_eq!(
            bad(&format!("#\n{ONE}")),
            BadTokens {
                line: 2,
                why: Why::NoHost
            }
        );
        assert_eq!(bad(&format!("{ONE} *")).why, Why::Host(BadPattern));
        assert_eq!(bad(&format!("{ONE} a\n{ONE} b")).why, Why::Twice);
        assert_eq!(
            bad(&format!("{ONE} {}", "a ".repeat(1001))).why,
            Why::TooMany
        );
        assert_eq!(bad(&format!("é{ONE} a.example")).why, Why::Token);
        assert_eq!(
            bad(&format!("{} a.example", "x".repeat(513))).why,
            Why::Token
        );
    }
}
