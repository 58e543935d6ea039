//! What a run came to: one row of numbers, and the table of many.

use std::fmt::Write as _;

use bittube::units::Cause;

use crate::bound;
use crate::node::{Leave, Node};
use crate::viewer::{Act, START_S};
use crate::world::World;

#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub name: String,
    pub seed: u64,
    /// Of the film, from the origin.
    pub copies: f64,
    /// As nodes received them, in the order of [`Cause::ALL`].
    pub by_cause: [f64; Cause::ALL.len()],
    /// In copies.
    pub bound: f64,
    /// What players got beyond the origin's bytes, of what they got.
    pub offload: f64,
    pub stalls: usize,
    pub stall_s: f64,
    pub stall_longest: f64,
    /// Of them, for what another node had, s.
    pub needless_s: f64,
    /// Of play time.
    pub stalled: f64,
    pub starts: Vec<f64>,
    pub seeks: Vec<f64>,
    /// Received and not kept, of what was kept.
    pub duplicates: f64,
    /// Of what could have been uploaded.
    pub upload: f64,
    pub banned: usize,
    /// Of those who met a liar, who did not ban it; zero to one.
    pub pardoned: f64,
    pub events: u64,
    pub simulated_s: f64,
    pub digest: u64,
}

impl Report {
    pub fn of(world: &World) -> Self {
        let film = world.layout.length() as f64;
        let nodes = || world.nodes.iter().flatten();
        let viewers = || nodes().filter(|node| !node.spec.seeds);
        let sum = |part: fn(&Node) -> u64| nodes().map(part).sum::<u64>() as f64;
        let sent = world.server.as_ref().map_or(0, |server| server.sent) as f64;
        let mut by_cause = [0.0; Cause::ALL.len()];
        for node in nodes() {
            for (total, bytes) in by_cause.iter_mut().zip(node.counts.by_cause) {
                *total += bytes as f64 / film;
            }
        }
        let records = || viewers().map(|node| &node.viewer.record);
        let mut starts: Vec<f64> = records().flat_map(|one| one.starts.clone()).collect();
        let mut seeks: Vec<f64> = records().flat_map(|one| one.seeks.clone()).collect();
        let stalls: Vec<f64> = records().flat_map(|one| one.stalls.clone()).collect();
        starts.sort_by(f64::total_cmp);
        seeks.sort_by(f64::total_cmp);
        let stall_s: f64 = stalls.iter().sum();
        let shown: f64 = records().map(|one| one.shown).sum();
        let kept: u64 = viewers().map(|node| node.store.kept).sum();
        let got = sum(|node| node.counts.from_peers + node.counts.from_origin);
        let now = world.now();
        let could: f64 = nodes()
            .filter(|node| !node.spec.temper.rides_free)
            .map(|node| node.spec.up * node.online_s(now))
            .sum();
        Self {
            name: world.setup.name.clone(),
            seed: world.setup.seed,
            copies: sent / film,
            by_cause,
            bound: bound_of(world),
            offload: 1.0 - sent / (shown * world.setup.rate),
            stalls: stalls.len(),
            stall_s,
            stall_longest: stalls.iter().copied().fold(0.0, f64::max),
            needless_s: world.needless_s,
            stalled: stall_s / (shown + stall_s),
            starts,
            seeks,
            duplicates: (got - kept as f64) / kept as f64,
            upload: sum(|node| node.counts.to_peers) / could,
            banned: nodes().map(|node| node.counts.banned.len()).sum(),
            pardoned: pardoned(world),
            events: world.events,
            simulated_s: now.since(World::START).as_secs_f64(),
            digest: world.digest,
        }
    }

    pub fn start(&self, part: f64) -> f64 {
        quantile(&self.starts, part)
    }

    pub fn seek(&self, part: f64) -> f64 {
        quantile(&self.seeks, part)
    }
}

/// A liar is met by who got a wrong block of it.
fn pardoned(world: &World) -> f64 {
    let nodes = || world.nodes.iter().flatten();
    let met: usize = nodes().map(|node| node.counts.lied_by.len()).sum();
    let banned = nodes().map(|node| {
        let bans = &node.counts.banned;
        let lied = node.counts.lied_by.iter();
        lied.filter(|ip| bans.iter().any(|ban| ban.ip() == **ip))
            .count()
    });
    let banned: usize = banned.sum();
    if met == 0 {
        0.0
    } else {
        1.0 - banned as f64 / met as f64
    }
}

/// Of sorted values; zero of none.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.max(1) - 1).copied().unwrap_or(0.0)
}

/// From what was planned, not from what happened.
fn bound_of(world: &World) -> f64 {
    let length_s = world.setup.length_s;
    let members = world.setup.nodes.iter().map(|spec| {
        let joins = spec.joins.as_secs_f64();
        let mut plays = vec![bound::Play {
            opens: joins,
            closes: f64::MAX,
            from: 0.0,
        }];
        let mut quits = f64::MAX;
        for (after, act) in &spec.script.acts {
            let at = joins + after.as_secs_f64();
            match act {
                Act::Seek(part) => {
                    plays.last_mut().expect("one is there").closes = at;
                    plays.push(bound::Play {
                        opens: at,
                        closes: f64::MAX,
                        from: part * length_s,
                    });
                }
                Act::Quit => quits = at,
                Act::Pause | Act::Resume | Act::Idle => {}
            }
        }
        let last = plays.last().expect("one is there");
        let shown = last.opens + bound::DELAY_S + length_s - last.from;
        let leaves = match spec.leaves {
            Leave::AtEnd(linger) => shown.min(quits) + linger.as_secs_f64(),
            Leave::Killed(after) => joins + after.as_secs_f64(),
            Leave::Never => shown.min(quits),
        };
        for play in &mut plays {
            play.closes = play.closes.min(leaves);
        }
        let rides_free = spec.temper.rides_free || spec.temper.lies.is_some();
        bound::Member {
            joins,
            leaves: if spec.seeds { 1e9 } else { leaves },
            upload: if rides_free {
                0.0
            } else {
                spec.up / world.setup.rate
            },
            seeds: spec.seeds,
            plays: if spec.seeds { Vec::new() } else { plays },
        }
    });
    bound::copies(length_s, START_S, &members.collect::<Vec<_>>())
}

pub const HEAD: &str = "scenario         seed copies (start inject hedge)  bound offload | stalls   sum s  \
     max s    % | start p50   p95 | seek p50   p95 |  dup %   up % banned | x real";

pub fn row(report: &Report, speed: f64) -> String {
    let [start, inject, hedge, _] = report.by_cause;
    let mut row = format!(
        "{:16} {:4} {:6.2} ({start:5.2} {inject:6.2} {hedge:5.2}) {:6.2} {:6.1}% |",
        report.name,
        report.seed,
        report.copies,
        report.bound,
        report.offload * 100.0
    );
    write!(
        row,
        " {:6} {:7.1} {:6.2} {:4.1} | {:9.2} {:5.2} | {:8.2} {:5.2} |",
        report.stalls,
        report.stall_s,
        report.stall_longest,
        report.stalled * 100.0,
        report.start(0.5),
        report.start(0.95),
        report.seek(0.5),
        report.seek(0.95)
    )
    .expect("memory");
    write!(
        row,
        " {:6.2} {:6.1} {:6} | {speed:6.0}",
        report.duplicates * 100.0,
        report.upload * 100.0,
        report.banned
    )
    .expect("memory");
    row
}
