//! Magnet links (BEP 9, BEP 53): from text to where a torrent may be found.

use std::borrow::Cow;

use url::Url;

use crate::torrent::metainfo::FILES_MAX;
use crate::torrent::metainfo::URL_LEN_MAX;
use crate::units::InfoHash;

/// Parameters looked at, of all kinds together.
const PARAMETERS_MAX: usize = 512;
/// Kept of each kind of address.
const EACH_MAX: usize = 64;
/// File indexes that `so` may name, once its ranges are written out.
const SELECT_MAX: usize = 1024;
/// Bytes of `dn`, which is only shown.
const NAME_LEN_MAX: usize = 255;

/// What a magnet link says. Addresses are checked for form and scheme, not for reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// The first `xt` with a v1 hash.
    pub info_hash: InfoHash,
    /// `dn`
    pub name: Option<String>,
    /// `tr`: http, https and udp.
    pub trackers: Vec<String>,
    /// `ws`: http and https (BEP 19).
    pub web_seeds: Vec<String>,
    /// `xs`, then `as`: http and https addresses of the .torrent.
    pub sources: Vec<String>,
    /// `x.pe`: `host:port` or `[v6]:port`.
    pub peers: Vec<String>,
    /// `so`: indexes of the wished files, ascending (BEP 53).
    pub select: Option<Vec<u32>>,
}

/// A magnet link that names no v1 torrent; answered with 400 and this reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad magnet link: {reason}")]
pub struct BadMagnet {
    pub reason: &'static str,
}

impl Magnet {
    /// From the text after `?`, or from a whole `magnet:?…`; still percent-encoded.
    pub fn parse(query: &str) -> Result<Self, BadMagnet> {
        let query = match query.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("magnet:") => {
                query.split_once('?').map_or("", |(_, query)| query)
            }
            _ => query.strip_prefix('?').unwrap_or(query),
        };
        let mut topic = Topic::default();
        let mut found = Self {
            info_hash: InfoHash([0; 20]),
            name: None,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            sources: Vec::new(),
            peers: Vec::new(),
            select: None,
        };
        let mut substitutes = Vec::new();
        for parameter in query.split('&').take(PARAMETERS_MAX) {
            let Some((key, raw)) = parameter.split_once('=') else {
                continue;
            };
            if key_name(key) == "dn" {
                let name = raw.replace('+', " ");
                let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy();
                found.name.get_or_insert_with(|| cut(&name).to_owned());
                continue;
            }
            let Ok(value) = percent_encoding::percent_decode_str(raw).decode_utf8() else {
                continue;
            };
            match key_name(key) {
                "xt" => topic.hear(&value)?,
                "tr" => keep(&mut found.trackers, value, |it| {
                    is_url(it, &["http", "https", "udp"])
                }),
                "ws" => keep(&mut found.web_seeds, value, |it| is_url(it, WEB)),
                "xs" => keep(&mut found.sources, value, |it| is_url(it, WEB)),
                "as" => keep(&mut substitutes, value, |it| is_url(it, WEB)),
                "x.pe" => keep(&mut found.peers, value, is_host_port),
                "so" => found.select = found.select.or_else(|| select(&value)),
                _ => {}
            }
        }
        found.sources.append(&mut substitutes);
        found.info_hash = topic.info_hash()?;
        Ok(found)
    }
}

const WEB: &[&str] = &["http", "https"];

/// The name of a parameter: `tr.1` is `tr`, and a link copied out of HTML has `amp;tr`.
fn key_name(key: &str) -> &str {
    let key = key.strip_prefix("amp;").unwrap_or(key);
    match key.split_once('.') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => key,
    }
}

/// What the `xt` parameters said.
#[derive(Default)]
struct Topic {
    v1: Option<InfoHash>,
    bad: bool,
    v2: bool,
}

impl Topic {
    fn hear(&mut self, value: &str) -> Result<(), BadMagnet> {
        let lower = value.to_ascii_lowercase();
        if lower.starts_with("urn:btmh:") {
            self.v2 = true;
        }
        if let Some(hash) = lower.strip_prefix("urn:btih:") {
            let hash = InfoHash::parse(hash);
            if hash.is_some_and(InfoHash::is_zero) {
                return Err(BadMagnet {
                    reason: "zero-info-hash",
                });
            }
            self.bad |= hash.is_none();
            self.v1 = self.v1.or(hash);
        }
        Ok(())
    }

    fn info_hash(&self) -> Result<InfoHash, BadMagnet> {
        self.v1.ok_or(BadMagnet {
            reason: match (self.bad, self.v2) {
                (true, _) => "bad-info-hash",
                (false, true) => "v2-only",
                (false, false) => "no-info-hash",
            },
        })
    }
}

fn keep(list: &mut Vec<String>, value: Cow<'_, str>, good: impl Fn(&str) -> bool) {
    let known = list.iter().any(|known| *known == value);
    if list.len() < EACH_MAX && !known && good(&value) {
        list.push(value.into_owned());
    }
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    text.len() <= URL_LEN_MAX
        && Url::parse(text).is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
}

/// A name or address with a port that is not 0; the name is resolved by others.
fn is_host_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.port() != 0;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(name);
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    is_name && digits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// `0,2,4-6` (BEP 53). What is no index or range is passed over; `None` if nothing is left.
fn select(text: &str) -> Option<Vec<u32>> {
    let last_max = u32::try_from(FILES_MAX - 1).expect("small");
    let mut out: Vec<u32> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            continue;
        };
        let room = SELECT_MAX - out.len();
        out.extend((first..=last.min(last_max)).take(room));
    }
    out.sort_unstable();
    out.dedup();
    (!out.is_empty()).then_some(out)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a";

    fn magnet(rest: &str) -> Magnet {
        Magnet::parse(&format!("magnet:?xt=urn:btih:{HASH}{rest}")).unwrap()
    }

    fn reason(query: &str) -> &'static str {
        Magnet::parse(query).unwrap_err().reason
    }

    #[test]
    fn every_parameter_is_read() {
        let found = magnet(
            "&dn=Big+Buck%20Bunny%2B&tr=udp%3A%2F%2Ft.example%3A1337%2Fannounce&tr.1=http://u/a%3Fk%3D1\
             &ws=https%3A%2F%2Fw.example%2Fa%2Bb.mp4&xs=https://x/t.torrent&as=http://y/t.torrent\
             &x.pe=1.2.3.4:6881&x.pe=[2001:db8::1]:80&x.pe=peer.example:6881&so=0,2,4-6&unknown=1&tr=http://u/a%3Fk%3D1",
        );
        assert_eq!(found.info_hash.to_string(), HASH);
        assert_eq!(found.name.as_deref(), Some("Big Buck Bunny+"));
        assert_eq!(
            found.trackers,
            ["udp://t.example:1337/announce", "http://u/a?k=1"]
        );
        assert_eq!(found.web_seeds, ["https://w.example/a+b.mp4"]);
        assert_eq!(found.sources, ["https://x/t.torrent", "http://y/t.torrent"]);
        assert_eq!(
            found.peers,
            ["1.2.3.4:6881", "[2001:db8::1]:80", "peer.example:6881"]
        );
        assert_eq!(found.select, Some(vec![0, 2, 4, 5, 6]));
    }

    #[test]
    fn forms_of_the_link() {
        let plain = magnet("");
        for text in [
            format!("xt=urn:btih:{HASH}"),
            format!("?xt=urn:btih:{HASH}"),
            format!("MAGNET:?xt=URN:BTIH:{}", HASH.to_uppercase()),
            format!("magnet:/film.mp4?xt=urn%3Abtih%3A{HASH}"),
            format!("magnet:?a=1&amp;xt.1=urn:btih:{HASH}"),
            "xt=urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK".to_owned(),
            format!(
                "xt=urn:btmh:1220aa&xt=urn:btih:{HASH}&xt=urn:btih:0123456789012345678901234567890123456789"
            ),
        ] {
            assert_eq!(Magnet::parse(&text).unwrap(), plain, "{text}");
        }
    }

    #[test]
    fn what_names_no_v1_torrent_is_refused() {
        assert_eq!(reason("xt=urn:btmh:1220caf1"), "v2-only");
        assert_eq!(reason("xt=urn:btih:xyz"), "bad-info-hash");
        assert_eq!(reason("dn=a"), "no-info-hash");
        assert_eq!(reason(""), "no-info-hash");
        assert_eq!(reason("magnet:"), "no-info-hash");
        let zero = format!("xt=urn:btih:{HASH}&xt=urn:btih:{}", "0".repeat(40));
        assert_eq!(reason(&zero), "zero-info-hash");
    }

    #[test]
    fn odd_addresses_are_left_out() {
        let found = magnet(
            "&tr=wss://w/&tr=http://&tr=%ff&tr=&ws=ftp://f/a&xs=urn:btpk:aa&xs=dchub://x\
             &x.pe=1.2.3.4:0&x.pe=1.2.3.4&x.pe=:80&x.pe=a%20b:80&x.pe=a:99999&x.pe=a:+80&so=x,-,3-1",
        );
        assert_eq!(found, magnet(""));
    }

    #[test]
    fn counts_are_bounded() {
        let trackers: String = (0..200).map(|at| format!("&tr=http://t{at}/")).collect();
        assert_eq!(magnet(&trackers).trackers.len(), EACH_MAX);
        assert_eq!(
            magnet("&so=0-4294967295,0-99999").select.unwrap().len(),
            SELECT_MAX
        );
        assert_eq!(
            magnet("&so=99999,100000,4294967295").select,
            Some(vec![99_999])
        );
        let name = magnet(&format!("&dn={}", "é".repeat(300))).name.unwrap();
        assert_eq!(name.len(), 254);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn hostile_text_does_not_panic(text in "(magnet:)?[?&=.:,%a-z0-9+-]{0,80}\\PC{0,20}") {
            let _ = Magnet::parse(&text);
            let _ = Magnet::parse(&format!("xt=urn:btih:{HASH}&so={text}&x.pe={text}&dn={text}"));
        }
    }
}
