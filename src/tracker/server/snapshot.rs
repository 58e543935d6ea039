//! The table as it is written to disk, and read back by the next process.
//!
//! No embedded store: peers come and go by the thousand a second, each announces again within the
//! hour, and losing the last seconds of them costs nobody anything. A store would write a log of
//! what the next snapshot makes void. So all of the table is written at intervals, in blocks that
//! each have a checksum, into a new file that takes the old one's place.

use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use crate::tracker::server::compact::Entry;
use crate::tracker::server::compact::Tick;
use crate::tracker::server::compact::V4;
use crate::tracker::server::compact::V6;
use crate::tracker::server::compact::ticks;
use crate::tracker::server::compact::v4_addr;
use crate::tracker::server::compact::v6_addr;
use crate::tracker::server::table::Swarm;
use crate::tracker::server::table::Table;
use crate::units::InfoHash;
use crate::units::Time;

/// What a file begins with; the last letter is the version of all that follows.
const MAGIC: &[u8; 8] = b"BTPEERS1";
/// Magic and the time of writing.
const FILE_HEAD_LEN: usize = 16;
/// Length and checksum.
const BLOCK_HEAD_LEN: usize = 12;
/// A longer block is none of ours: the length is read before the checksum can be.
const BLOCK_LEN_MAX: usize = 1 << 30;
/// Info-hash, completed, and how many of each family follow.
const SWARM_LEN: usize = 32;
/// Beside an address: age in ticks, and the seed's bit.
const AGE_LEN: usize = 2;
const SEED: u16 = 1 << 15;

/// A file that is no snapshot, or whose end is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("not a snapshot of peers")]
    Foreign,
    #[error("a block is damaged: what follows it is lost")]
    Block,
}

/// What a file begins with; `wall` in seconds since 1970.
pub fn head(wall: u64) -> Vec<u8> {
    [&MAGIC[..], &wall.to_be_bytes()].concat()
}

/// Begins a block in `out`, which [`seal`] ends.
pub fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.extend([0; BLOCK_HEAD_LEN]);
}

/// Appends the swarms of one part of the table.
pub fn put_part(table: &Table, now: Time, part: usize, out: &mut Vec<u8>) {
    for swarm in table.part(part) {
        put_swarm(swarm, Tick::at(now), out);
    }
}

/// Writes length and checksum into the block's head.
pub fn seal(block: &mut [u8]) {
    let (head, body) = block.split_at_mut(BLOCK_HEAD_LEN);
    let len = u32::try_from(body.len()).expect("a block is far shorter");
    head[..4].copy_from_slice(&len.to_be_bytes());
    head[4..].copy_from_slice(&sum(body).to_be_bytes());
}

/// Puts into `table` what a file holds, of the swarms that `ours` says are this table's. What was
/// read before the damage stays. `wall` is now, in seconds since 1970: peers grew older meanwhile.
pub fn restore(
    table: &mut Table,
    now: Time,
    wall: u64,
    file: &[u8],
    ours: impl Fn(InfoHash) -> bool,
) -> Result<(), Damaged> {
    let head = file.get(..FILE_HEAD_LEN).ok_or(Damaged::Foreign)?;
    let (magic, written) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Damaged::Foreign);
    }
    let written = u64::from_be_bytes(written.try_into().expect("eight"));
    let passed = ticks(wall.saturating_sub(written));
    let mut rest = &file[FILE_HEAD_LEN..];
    while !rest.is_empty() {
        let (body, next) = block(rest).ok_or(Damaged::Block)?;
        restore_block(table, now, passed, body, &ours).ok_or(Damaged::Block)?;
        rest = next;
    }
    Ok(())
}

fn put_swarm(swarm: &Swarm, now: Tick, out: &mut Vec<u8>) {
    let count = |len: usize| u32::try_from(len).expect("a swarm is far smaller");
    out.extend(swarm.info_hash.0);
    out.extend(swarm.completed.to_be_bytes());
    out.extend(count(swarm.v4.len()).to_be_bytes());
    out.extend(count(swarm.v6.len()).to_be_bytes());
    for peer in swarm.v4.iter() {
        put_peer(peer, now, out);
    }
    for peer in swarm.v6.iter() {
        put_peer(peer, now, out);
    }
}

fn put_peer<E: Entry>(peer: E, now: Tick, out: &mut Vec<u8>) {
    peer.put(out);
    let stamp = peer.stamp();
    let seed = if stamp.is_seed() { SEED } else { 0 };
    out.extend((stamp.age(now) | seed).to_be_bytes());
}

/// A block's body if it is whole, and what follows it.
fn block(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(BLOCK_HEAD_LEN)?;
    let len = u32::from_be_bytes(head[..4].try_into().expect("four")) as usize;
    let sealed = u64::from_be_bytes(head[4..].try_into().expect("eight"));
    let (body, rest) = rest.split_at_checked(len)?;
    (len <= BLOCK_LEN_MAX && sum(body) == sealed).then_some((body, rest))
}

fn restore_block(
    table: &mut Table,
    now: Time,
    passed: u16,
    mut body: &[u8],
    ours: &impl Fn(InfoHash) -> bool,
) -> Option<()> {
    while !body.is_empty() {
        let (head, rest) = body.split_at_checked(SWARM_LEN)?;
        let info_hash = InfoHash(head[..20].try_into().expect("twenty"));
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four"));
        let (v4, rest) = records::<{ V4::WIRE_LEN + AGE_LEN }>(rest, number(24))?;
        let (v6, rest) = records::<{ V6::WIRE_LEN + AGE_LEN }>(rest, number(28))?;
        body = rest;
        if !ours(info_hash) {
            continue;
        }
        let mut put = |addr: SocketAddr, age: &[u8]| {
            let age = u16::from_be_bytes(age.try_into().expect("two"));
            let old = (age & !SEED).saturating_add(passed);
            table.restore(now, info_hash, addr, age & SEED != 0, old);
        };
        for record in v4 {
            let (addr, age) = record.split_at(V4::WIRE_LEN);
            let mut key = [0; 8];
            key[2..].copy_from_slice(addr);
            put(v4_addr(u64::from_be_bytes(key)).into(), age);
        }
        for record in v6 {
            let (addr, age) = record.split_at(V6::WIRE_LEN);
            put(v6_addr(addr.try_into().expect("eighteen")).into(), age);
        }
        table.restore_completed(info_hash, number(20));
    }
    Some(())
}

fn records<const LEN: usize>(bytes: &[u8], count: u32) -> Option<(&[[u8; LEN]], &[u8])> {
    let len = (count as usize).checked_mul(LEN)?;
    let (records, rest) = bytes.split_at_checked(len)?;
    Some((records.as_chunks::<LEN>().0, rest))
}

/// Against damage, not against forgery: the key is known.
fn sum(body: &[u8]) -> u64 {
    SipHasher13::new().hash(body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::tracker::announce::Event;
    use crate::tracker::server::allow::Allow;
    use crate::tracker::server::asked::Asked;
    use crate::tracker::server::ids::Keys;
    use crate::tracker::server::table::Limits;
    use crate::tracker::server::table::PARTS;
    use crate::tracker::server::table::Told;

    const WALL: u64 = 1_800_000_000;

    fn table() -> Table {
        let allow = Arc::new(Allow::All);
        Table::new(Limits::default(), Keys::new([5; 32]), allow, 1)
    }

    fn announce(
        table: &mut Table,
        now: Time,
        hash: u8,
        peer: &str,
        left: u8,
        event: Event,
    ) -> Told {
        let asked = Asked {
            info_hash: InfoHash([hash; 20]),
            peer: peer.parse().unwrap(),
            seed: left == 0,
            event,
            numwant: 50,
            both_families: true,
        };
        let mut told = Told::default();
        table.handle_announce(now, &asked, &mut told).unwrap();
        told
    }

    fn write(table: &Table, now: Time) -> Vec<u8> {
        let mut file = head(WALL);
        let mut block = Vec::new();
        for parts in (0..PARTS).collect::<Vec<_>>().chunks(300) {
            begin(&mut block);
            for part in parts {
                put_part(table, now, *part, &mut block);
            }
            seal(&mut block);
            file.extend_from_slice(&block);
        }
        file
    }

    fn filled(now: Time) -> Table {
        let mut table = table();
        for hash in 1..=40 {
            announce(&mut table, now, hash, "1.2.3.4:5", 1, Event::Started);
            announce(&mut table, now, hash, "1.2.3.4:5", 0, Event::Completed);
            announce(&mut table, now, hash, "[2001:db8::9]:6", hash, Event::None);
        }
        table
    }

    #[test]
    fn what_was_written_is_read_by_the_next() {
        let now = Time::from_secs(10_000);
        let old = filled(now);
        let file = write(&old, now + Duration::from_secs(40));
        let mut new = table();
        // Another process, whose clock has just begun.
        restore(&mut new, Time::from_secs(3), WALL + 60, &file, |_| true).unwrap();
        assert_eq!(new.totals(), old.totals());
        let counts = new.scrape(InfoHash([7; 20]));
        assert_eq!((counts.seeds, counts.leechers, counts.completed), (1, 1, 1));
        let told = announce(
            &mut new,
            Time::from_secs(4),
            7,
            "9.9.9.9:9",
            1,
            Event::Started,
        );
        assert_eq!(told.v4, [1, 2, 3, 4, 0, 5]);
        assert_eq!(told.v6.len(), 18);
        // They were 100 s old: they go when their hour is over.
        for (secs, left) in [(3490, 81), (4500, 0)] {
            while new.next_timeout() < Time::from_secs(secs) {
                new.handle_timeout(new.next_timeout());
            }
            assert_eq!(new.totals().peers(), left, "after {secs} s");
        }
    }

    #[test]
    fn shards_take_what_is_theirs_and_nobody_the_old() {
        let now = Time::from_secs(100);
        let file = write(&filled(now), now);
        let mut half = table();
        restore(&mut half, now, WALL, &file, |hash| hash.0[0] % 2 == 0).unwrap();
        assert_eq!(half.totals().swarms, 20);
        let mut late = table();
        restore(&mut late, now, WALL + 3700, &file, |_| true).unwrap();
        assert_eq!(late.totals().peers(), 0);
        // A clock that was set back makes nobody younger.
        let mut back = table();
        restore(&mut back, now, WALL - 5000, &file, |_| true).unwrap();
        assert_eq!(back.totals().peers(), 80);
    }

    #[test]
    fn damage_costs_what_follows_it() {
        let now = Time::from_secs(100);
        let file = write(&filled(now), now);
        let read = |file: &[u8]| {
            let mut table = table();
            let result = restore(&mut table, now, WALL, file, |_| true);
            (result, table.totals().peers())
        };
        assert_eq!(read(b"").0, Err(Damaged::Foreign));
        assert_eq!(read(&[b'x'; 100]).0, Err(Damaged::Foreign));
        let mut bent = file.clone();
        *bent.last_mut().unwrap() ^= 1;
        let (result, peers) = read(&bent);
        assert_eq!(result, Err(Damaged::Block));
        assert!(peers > 0 && peers < 80, "{peers}");
        assert_eq!(read(&file[..file.len() - 1]), (Err(Damaged::Block), peers));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn hostile_blocks_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut block = vec![0; BLOCK_HEAD_LEN];
            block.extend(body);
            seal(&mut block);
            let file = [head(WALL), block].concat();
            let mut table = table();
            let _ = restore(&mut table, Time::ZERO, WALL, &file, |_| true);
        }
    }
}
