//! Announces and scrapes over UDP: what a datagram asks, and those that answer (BEP 15, 41).

use std::net::SocketAddr;
use std::time::Duration;

use crate::tracker::announce::Event;
use crate::tracker::server::asked::Asked;
use crate::tracker::server::asked::Malformed;
use crate::tracker::server::asked::NUMWANT;
use crate::tracker::server::ids::Keys;
use crate::tracker::server::table::Counts;
use crate::tracker::server::table::Told;
use crate::units::InfoHash;
use crate::units::Time;

/// An answer is never longer: so much goes everywhere in one piece (RFC 8200 §5, less the heads).
pub const ANSWER_LEN_MAX: usize = 1232;
/// What a client says before it has a connection id.
const PROTOCOL: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// Of every request: connection id, action, transaction.
const HEAD_LEN: usize = 16;
const ANNOUNCE_LEN: usize = 98;
/// What stands before the peers of an answer.
const ANSWER_HEAD_LEN: usize = 20;
const V4_LEN: usize = 6;
const V6_LEN: usize = 18;
/// BEP 41's options.
const END: u8 = 0;
const NOTHING: u8 = 1;

/// What a datagram asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not worth an answer: it could not be told from any other, or would be longer than what was
    /// sent.
    Noise,
    /// Answered at once; what to send has been written.
    Connected,
    /// The same: an error has been written.
    Malformed,
    Announce {
        transaction: u32,
        asked: Asked,
    },
    Scrape {
        transaction: u32,
        hashes: Vec<InfoHash>,
    },
}

/// Reads a datagram. Before an address has shown that it hears us (its connection id), nothing
/// longer goes there than came from it. `out` is replaced.
pub fn read(now: Time, keys: &Keys, from: SocketAddr, bytes: &[u8], out: &mut Vec<u8>) -> Heard {
    out.clear();
    let Some((head, body)) = bytes.split_at_checked(HEAD_LEN) else {
        return Heard::Noise;
    };
    let transaction = word(head, 12);
    let (id, action) = (long(head, 0), word(head, 8));
    if id == PROTOCOL && action == CONNECT {
        out.extend(CONNECT.to_be_bytes());
        out.extend(transaction.to_be_bytes());
        out.extend(keys.connection_id(now, from.ip()).to_be_bytes());
        return Heard::Connected;
    }
    if !keys.is_connected(now, from.ip(), id) {
        put_error(out, transaction, "connect first");
        if out.len() > bytes.len() {
            out.clear();
            return Heard::Noise;
        }
        return Heard::Malformed;
    }
    let heard = match action {
        ANNOUNCE => announce(from, bytes).map(|asked| Heard::Announce { transaction, asked }),
        SCRAPE => scrape(body).map(|hashes| Heard::Scrape {
            transaction,
            hashes,
        }),
        _ => Err(Malformed("unknown action")),
    };
    heard.unwrap_or_else(|why| {
        put_error(out, transaction, why.0);
        Heard::Malformed
    })
}

/// The answer to an announce; `out` is replaced.
pub fn put_announce(
    out: &mut Vec<u8>,
    transaction: u32,
    interval: Duration,
    is_v6: bool,
    told: &Told,
) {
    out.clear();
    let interval = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX);
    let Counts {
        seeds, leechers, ..
    } = told.counts;
    for word in [ANNOUNCE, transaction, interval, leechers, seeds] {
        out.extend(word.to_be_bytes());
    }
    out.extend_from_slice(if is_v6 { &told.v6 } else { &told.v4 });
}

/// The answer to a scrape, in the order asked; `out` is replaced.
pub fn put_scrape(out: &mut Vec<u8>, transaction: u32, found: &[Counts]) {
    out.clear();
    out.extend(SCRAPE.to_be_bytes());
    out.extend(transaction.to_be_bytes());
    for counts in found {
        for word in [counts.seeds, counts.completed, counts.leechers] {
            out.extend(word.to_be_bytes());
        }
    }
}

/// `out` is replaced.
pub fn put_error(out: &mut Vec<u8>, transaction: u32, why: &str) {
    out.clear();
    out.extend(ERROR.to_be_bytes());
    out.extend(transaction.to_be_bytes());
    out.extend_from_slice(why.as_bytes());
}

fn announce(from: SocketAddr, bytes: &[u8]) -> Result<Asked, Malformed> {
    let Some((said, options)) = bytes.split_at_checked(ANNOUNCE_LEN) else {
        return Err(Malformed("announce too short"));
    };
    check_options(options)?;
    let info_hash = InfoHash(said[16..36].try_into().expect("twenty"));
    if info_hash.is_zero() {
        return Err(Malformed("invalid info_hash"));
    }
    let event = match word(said, 80) {
        0 => Event::None,
        1 => Event::Completed,
        2 => Event::Started,
        3 => Event::Stopped,
        _ => return Err(Malformed("invalid event")),
    };
    let port = u16::from_be_bytes(said[96..98].try_into().expect("two"));
    if port == 0 {
        return Err(Malformed("invalid port"));
    }
    let peer = SocketAddr::new(from.ip().to_canonical(), port);
    let len = if peer.is_ipv4() { V4_LEN } else { V6_LEN };
    let most = (ANSWER_LEN_MAX - ANSWER_HEAD_LEN) / len;
    // -1 and all else that is negative: as many as we like.
    let wished = i32::from_be_bytes(said[92..96].try_into().expect("four"));
    let numwant = usize::try_from(wished).unwrap_or(NUMWANT).min(most);
    Ok(Asked {
        info_hash,
        peer,
        seed: long(said, 64) == 0,
        event,
        numwant,
        both_families: false,
    })
}

/// What URL a client was given (BEP 41) is of no matter here, but what cannot be read is refused.
fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    while let Some((kind, rest)) = options.split_first() {
        options = match *kind {
            END => return Ok(()),
            NOTHING => rest,
            _ => {
                let (len, rest) = rest.split_first().ok_or(Malformed("option cut short"))?;
                rest.get(usize::from(*len)..)
                    .ok_or(Malformed("option cut short"))?
            }
        };
    }
    Ok(())
}

fn scrape(body: &[u8]) -> Result<Vec<InfoHash>, Malformed> {
    let (hashes, rest) = body.as_chunks::<20>();
    if hashes.is_empty() || !rest.is_empty() {
        return Err(Malformed("a scrape names whole info-hashes"));
    }
    // A datagram holds no more than BEP 15 allows.
    let hashes: Vec<_> = hashes.iter().copied().map(InfoHash).collect();
    if hashes.iter().any(|hash| hash.is_zero()) {
        return Err(Malformed("invalid info_hash"));
    }
    Ok(hashes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"))
}

#[cfg(test)]
mod tests;
