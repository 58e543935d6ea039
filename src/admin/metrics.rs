//! `/metrics`: the same numbers as `/api/stats`, in Prometheus' text form.

use std::fmt::Write as _;

use crate::admin::stats::FIRST_BYTE_BOUNDS_S;
use crate::admin::stats::Stats;

/// The whole page, version 0.0.4 of the text format.
pub fn render(stats: &Stats) -> String {
    let mut page = Page(String::with_capacity(4096));
    let bytes = &stats.bytes;
    page.family(
        "bittube_bytes_total",
        "counter",
        "Bytes received, by source.",
    );
    page.sample("bittube_bytes_total", "source=\"peer\"", bytes.from_peers);
    page.sample(
        "bittube_bytes_total",
        "source=\"origin\"",
        bytes.from_origin,
    );
    page.family(
        "bittube_origin_bytes_total",
        "counter",
        "Bytes bought from origins, by cause.",
    );
    for (cause, count) in &stats.origin_bytes_by_cause {
        page.sample(
            "bittube_origin_bytes_total",
            &format!("cause=\"{cause}\""),
            *count,
        );
    }
    page.family(
        "bittube_served_bytes_total",
        "counter",
        "Bytes sent, by receiver.",
    );
    page.sample(
        "bittube_served_bytes_total",
        "to=\"player\"",
        bytes.to_players,
    );
    page.sample("bittube_served_bytes_total", "to=\"peer\"", bytes.to_peers);
    page.histogram(stats);
    for (name, help, value) in counters(stats) {
        page.family(name, "counter", help);
        page.line(name, value);
    }
    for (name, help, value) in gauges(stats) {
        page.family(name, "gauge", help);
        page.line(name, value);
    }
    page.0
}

type Row = (&'static str, &'static str, f64);

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are doubles"
)]
fn counters(stats: &Stats) -> [Row; 9] {
    [
        (
            "bittube_swarms_ended_total",
            "Swarms left because nobody needed them, or for want of room.",
            stats.swarms_ended as f64,
        ),
        (
            "bittube_wasted_bytes_total",
            "Received and not used.",
            stats.bytes.wasted as f64,
        ),
        (
            "bittube_stall_seconds_total",
            "Time that playheads stood still.",
            stats.stall_s,
        ),
        (
            "bittube_deadline_missed_total",
            "Blocks that came after their deadline.",
            stats.deadline_missed as f64,
        ),
        (
            "bittube_pieces_good_total",
            "Pieces verified.",
            stats.pieces_good as f64,
        ),
        (
            "bittube_pieces_bad_total",
            "Pieces refused.",
            stats.pieces_bad as f64,
        ),
        (
            "bittube_peers_banned_total",
            "Liars shut out.",
            stats.peers_banned as f64,
        ),
        (
            "bittube_requests_total",
            "Requests of players.",
            stats.requests as f64,
        ),
        (
            "bittube_refused_total",
            "Requests refused.",
            stats.refused as f64,
        ),
    ]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' numbers are doubles"
)]
fn gauges(stats: &Stats) -> [Row; 6] {
    let peers: u32 = stats.swarms.iter().map(|swarm| swarm.peers).sum();
    [
        ("bittube_peers", "Peers connected.", f64::from(peers)),
        ("bittube_swarms", "Swarms alive.", stats.swarms.len() as f64),
        (
            "bittube_buffer_bytes",
            "Memory of buffers in use.",
            stats.buffers as f64,
        ),
        (
            "bittube_players",
            "Connections of players.",
            stats.players as f64,
        ),
        (
            "bittube_store_bytes",
            "Bytes in the store.",
            stats.store.used as f64,
        ),
        ("bittube_uptime_seconds", "Since the start.", stats.uptime_s),
    ]
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn line(&mut self, name: &str, value: f64) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// `first_byte_counts` counts each reply once; the format wants running sums.
    fn histogram(&mut self, stats: &Stats) {
        let name = "bittube_first_byte_seconds";
        self.family(
            name,
            "histogram",
            "From a request's head to its first body byte.",
        );
        let mut sum = 0;
        for (bound, count) in FIRST_BYTE_BOUNDS_S.iter().zip(&stats.first_byte_counts) {
            sum += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let all: u64 = stats.first_byte_counts.iter().sum();
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(
            self.0,
            "{name}_sum {}\n{name}_count {all}",
            stats.first_byte_sum_s
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Cause;

    #[test]
    fn names_of_the_design_are_there() {
        let mut stats = Stats {
            first_byte_counts: vec![0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 4],
            ..Stats::default()
        };
        stats.add_origin_bytes(Cause::Hedge, 7);
        let page = render(&stats);
        for line in [
            "bittube_bytes_total{source=\"peer\"} 0",
            "bittube_bytes_total{source=\"origin\"} 7",
            "bittube_origin_bytes_total{cause=\"hedge\"} 7",
            "bittube_served_bytes_total{to=\"player\"} 0",
            "bittube_first_byte_seconds_bucket{le=\"0.0025\"} 2",
            "bittube_first_byte_seconds_bucket{le=\"5\"} 3",
            "bittube_first_byte_seconds_bucket{le=\"+Inf\"} 7",
            "bittube_stall_seconds_total 0",
            "bittube_deadline_missed_total 0",
            "bittube_peers 0",
            "bittube_swarms 0",
        ] {
            assert!(
                page.lines().any(|have| have == line),
                "no line {line:?} in\n{page}"
            );
        }
    }
}
