//! `bittube status`: what the running stub does.

use std::net::SocketAddr;

use anyhow::Context as _;
use anyhow::bail;
use indicatif::HumanBytes;

use crate::admin::stats::Stats;
use crate::admin::stats::SwarmStats;
use crate::cli::client;
use crate::ring::runtime;

/// Longest answer that is read.
const REPLY_MAX: usize = 16 * 1024 * 1024;

/// Asks the control port at `admin` and prints its answer, as JSON or for a person.
pub fn run(admin: SocketAddr, token: &str, json: bool) -> anyhow::Result<()> {
    let bearer = format!("Bearer {token}");
    let mut body = Vec::new();
    let asked = runtime::run(async {
        let headers = [("Authorization", bearer.as_str())];
        client::get(admin, "/api/stats", &headers, |_, bytes| {
            if body.len() + bytes.len() > REPLY_MAX {
                return Err(std::io::Error::other("the answer is too long"));
            }
            body.extend_from_slice(bytes);
            Ok(())
        })
        .await
    });
    let head = asked
        .context("the ring")?
        .with_context(|| format!("no BitTube answers at {admin}"))?;
    if head.status != 200 {
        bail!("the control port at {admin} answers {}", head.status);
    }
    if json {
        println!("{}", String::from_utf8_lossy(&body));
        return Ok(());
    }
    let stats: Stats = serde_json::from_slice(&body).context("an answer of another version")?;
    print!("{}", describe(&stats));
    Ok(())
}

fn describe(stats: &Stats) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let bytes = &stats.bytes;
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line(
        "up",
        format!("{:.0} s, {} players", stats.uptime_s, stats.players),
    );
    line("from peers", HumanBytes(bytes.from_peers).to_string());
    let causes: Vec<_> = stats
        .origin_bytes_by_cause
        .iter()
        .filter(|(_, n)| **n > 0)
        .collect();
    let causes = causes
        .iter()
        .map(|(cause, n)| format!("{cause} {}", HumanBytes(**n)));
    let causes = causes.collect::<Vec<_>>().join(", ");
    let origin = HumanBytes(bytes.from_origin);
    line(
        "from origin",
        if causes.is_empty() {
            origin.to_string()
        } else {
            format!("{origin} ({causes})")
        },
    );
    line("to players", HumanBytes(bytes.to_players).to_string());
    line("to peers", HumanBytes(bytes.to_peers).to_string());
    line("wasted", HumanBytes(bytes.wasted).to_string());
    let limit = stats
        .store
        .limit
        .map(|limit| format!(" of {}", HumanBytes(limit)));
    line(
        "store",
        format!(
            "{}{}",
            HumanBytes(stats.store.used),
            limit.unwrap_or_default()
        ),
    );
    for swarm in &stats.swarms {
        describe_swarm(swarm, &mut line);
    }
    text
}

fn describe_swarm(swarm: &SwarmStats, line: &mut impl FnMut(&str, String)) {
    let done = u64::from(swarm.have_pieces) * 100 / u64::from(swarm.pieces.max(1));
    let name = if swarm.name.is_empty() {
        &swarm.info_hash
    } else {
        &swarm.name
    };
    line("", String::new());
    line(
        "swarm",
        format!("{name} ({}), shard {}", swarm.info_hash, swarm.shard),
    );
    line(
        "  has",
        format!(
            "{done} % of {}, {} peers",
            HumanBytes(swarm.length),
            swarm.peers
        ),
    );
    for reader in &swarm.readers {
        let (at, slack) = (HumanBytes(reader.offset), reader.slack_s);
        let stalls = format!("{} stalls, {:.1} s", reader.stalls, reader.stall_s);
        line("  reader", format!("at {at}, {slack:.1} s ahead, {stalls}"));
    }
    for tracker in &swarm.trackers {
        let mut text = format!("{} {}", tracker.url, tracker.status);
        if let (Some(seeders), Some(leechers)) = (tracker.seeders, tracker.leechers) {
            text += &format!(", of {seeders} seeders and {leechers} leechers");
        }
        line("  tracker", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::stats::TrackerStats;
    use crate::units::Cause;

    #[test]
    fn a_person_sees_who_delivered() {
        let swarm = SwarmStats {
            name: "a.mp4".into(),
            pieces: 4,
            have_pieces: 1,
            trackers: vec![TrackerStats {
                url: "http://t/".into(),
                status: "2 peers".into(),
                seeders: Some(3),
                leechers: Some(4),
            }],
            ..Default::default()
        };
        let mut stats = Stats {
            swarms: vec![swarm],
            ..Stats::default()
        };
        stats.bytes.from_peers = 2048;
        stats.add_origin_bytes(Cause::Hedge, 1024);
        let text = describe(&stats);
        assert!(text.contains("from peers   2.00 KiB"), "{text}");
        assert!(text.contains("hedge 1.00 KiB"), "{text}");
        assert!(text.contains("25 %"), "{text}");
        assert!(
            text.contains("http://t/ 2 peers, of 3 seeders and 4 leechers"),
            "{text}"
        );
    }
}
