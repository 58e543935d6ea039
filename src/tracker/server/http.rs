//! Announces and scrapes over HTTP: what a query asks, and the bencode that answers (BEP 3, 7, 23,
//! 24, 31, 48).

use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use crate::torrent::bencode::Encoder;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::tracker::server::asked::Asked;
use crate::tracker::server::asked::Malformed;
use crate::tracker::server::asked::NUMWANT;
use crate::tracker::server::asked::Refused;
use crate::tracker::server::table::Counts;
use crate::tracker::server::table::Limits;
use crate::tracker::server::table::Told;
use crate::units::InfoHash;

/// Swarms of one scrape, as many as a datagram's (BEP 15).
pub const SCRAPE_MAX: usize = 74;

/// An announce's query, which is what stood behind `?`, still percent-encoded. Unknown names are
/// passed over; of the known ones none may be there twice.
pub fn read_announce(query: &str, from: IpAddr) -> Result<Asked, Malformed> {
    let mut said = Said::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = match name {
            "info_hash" => &mut said.info_hash,
            "peer_id" => &mut said.peer_id,
            "port" => &mut said.port,
            "left" => &mut said.left,
            "uploaded" => &mut said.uploaded,
            "downloaded" => &mut said.downloaded,
            "event" => &mut said.event,
            "numwant" => &mut said.numwant,
            "compact" => &mut said.compact,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(Malformed("a parameter is there twice"));
        }
    }
    said.check(from)
}

/// The hashes of a scrape's query, in the order of the answer.
pub fn read_scrape(query: &str) -> Result<Vec<InfoHash>, Malformed> {
    let mut hashes = Vec::new();
    for pair in query.split('&') {
        let Some(value) = pair.strip_prefix("info_hash=") else {
            continue;
        };
        hashes.push(info_hash(Some(value))?);
        if hashes.len() > SCRAPE_MAX {
            return Err(Malformed("more than 74 info-hashes"));
        }
    }
    if hashes.is_empty() {
        return Err(Malformed("no info_hash: the whole table is not told"));
    }
    hashes.sort();
    hashes.dedup();
    Ok(hashes)
}

/// The body that answers an announce.
pub fn announce_body(limits: &Limits, client: IpAddr, told: &Told) -> Vec<u8> {
    let counts = told.counts;
    let mut out = Vec::with_capacity(192 + told.v4.len() + told.v6.len());
    // By hand, for this is most of what a tracker does; the keys are in their order.
    put(&mut out, format_args!("d8:completei{}e", counts.seeds));
    put(
        &mut out,
        format_args!("10:downloadedi{}e11:external ip", counts.completed),
    );
    match client {
        IpAddr::V4(ip) => put_bytes(&mut out, &ip.octets()),
        IpAddr::V6(ip) => put_bytes(&mut out, &ip.octets()),
    }
    put(
        &mut out,
        format_args!(
            "10:incompletei{}e8:intervali{}e12:min intervali{}e5:peers",
            counts.leechers,
            limits.interval.as_secs(),
            limits.min_interval.as_secs()
        ),
    );
    put_bytes(&mut out, &told.v4);
    if !told.v6.is_empty() {
        out.extend_from_slice(b"6:peers6");
        put_bytes(&mut out, &told.v6);
    }
    out.push(b'e');
    out
}

/// The body that answers a scrape; `found` in the order of their hashes, each once.
pub fn scrape_body(min_interval: Duration, found: &[(InfoHash, Counts)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + found.len() * 96);
    out.extend_from_slice(b"d5:filesd");
    for (info_hash, counts) in found {
        put_bytes(&mut out, &info_hash.0);
        put(
            &mut out,
            format_args!(
                "d8:completei{}e10:downloadedi{}e10:incompletei{}ee",
                counts.seeds, counts.completed, counts.leechers
            ),
        );
    }
    put(
        &mut out,
        format_args!(
            "e5:flagsd20:min_request_intervali{}eee",
            min_interval.as_secs()
        ),
    );
    out
}

/// The body that says why there is none; its status is 200 nevertheless.
pub fn malformed_body(why: Malformed) -> Vec<u8> {
    Encoder::new().text(b"failure reason", why.0).finish()
}

/// The same for an announce that is turned down, with when to come again (BEP 31).
pub fn refused_body(why: Refused) -> Vec<u8> {
    let text = why.to_string();
    let body = Encoder::new().text(b"failure reason", &text);
    match why.retry_min() {
        Some(minutes) => body.int(b"retry in", minutes).finish(),
        None => body.text(b"retry in", "never").finish(),
    }
}

/// The parameters of an announce, as found.
#[derive(Default)]
struct Said<'a> {
    info_hash: Option<&'a str>,
    peer_id: Option<&'a str>,
    port: Option<&'a str>,
    left: Option<&'a str>,
    uploaded: Option<&'a str>,
    downloaded: Option<&'a str>,
    event: Option<&'a str>,
    numwant: Option<&'a str>,
    compact: Option<&'a str>,
}

impl Said<'_> {
    fn check(&self, from: IpAddr) -> Result<Asked, Malformed> {
        let info_hash = info_hash(self.info_hash)?;
        twenty(self.peer_id).ok_or(Malformed("invalid peer_id"))?;
        let port = self
            .port
            .and_then(number)
            .and_then(|port| port.try_into().ok());
        let port = port
            .filter(|port| *port != 0)
            .ok_or(Malformed("invalid port"))?;
        for (count, why) in [
            (self.uploaded, "invalid uploaded"),
            (self.downloaded, "invalid downloaded"),
            (self.left, "invalid left"),
        ] {
            if count.is_some_and(|count| number(count).is_none()) {
                return Err(Malformed(why));
            }
        }
        if self
            .compact
            .is_some_and(|compact| !matches!(compact, "" | "0" | "1"))
        {
            return Err(Malformed("invalid compact"));
        }
        let event = match self.event {
            // BEP 21's `paused` is said by those who want no more than they have.
            None | Some("" | "empty" | "paused") => Event::None,
            Some("started") => Event::Started,
            Some("completed") => Event::Completed,
            Some("stopped") => Event::Stopped,
            Some(_) => return Err(Malformed("invalid event")),
        };
        Ok(Asked {
            info_hash,
            peer: SocketAddr::new(from.to_canonical(), port),
            seed: self.left.and_then(number) == Some(0),
            event,
            numwant: numwant(self.numwant)?,
            both_families: true,
        })
    }
}

/// Some clients say -1 for as many as we like.
fn numwant(said: Option<&str>) -> Result<usize, Malformed> {
    match said {
        None | Some("") => Ok(NUMWANT),
        Some(said) => match said.strip_prefix('-').unwrap_or(said) {
            digits if number(digits).is_none() => Err(Malformed("invalid numwant")),
            _ if said.starts_with('-') => Ok(NUMWANT),
            digits => {
                let wished = number(digits).and_then(|wished| usize::try_from(wished).ok());
                Ok(wished.map_or(PEERS_MAX, |wished| wished.min(PEERS_MAX)))
            }
        },
    }
}

fn info_hash(said: Option<&str>) -> Result<InfoHash, Malformed> {
    let hash = twenty(said).map(InfoHash).filter(|hash| !hash.is_zero());
    hash.ok_or(Malformed("invalid info_hash"))
}

/// Twenty bytes, percent-encoded as far as need be.
fn twenty(said: Option<&str>) -> Option<[u8; 20]> {
    let mut bytes = said?.bytes();
    let mut out = [0; 20];
    for byte in &mut out {
        *byte = match bytes.next()? {
            b'%' => {
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                high << 4 | low
            }
            plain => plain,
        };
    }
    bytes.next().is_none().then_some(out)
}

fn digit(letter: u8) -> Option<u8> {
    let value = char::from(letter).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Digits and nothing else; `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, format_args!("{}:", bytes.len()));
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes everything");
}

#[cfg(test)]
mod tests;
