//! What a tracker does, counted: as JSON, as a page for people, and in Prometheus' form.

use std::fmt::Write as _;

use serde::Serialize;

/// All of it. The same type counts on one shard and adds up many.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    pub uptime_s: u64,
    pub shards: usize,
    pub swarms: usize,
    pub peers: usize,
    pub peers_v4: usize,
    pub peers_v6: usize,
    pub seeds: usize,
    /// Info-hashes on the list; none if all are tracked.
    pub allowed: Option<usize>,
    /// Connections of HTTP.
    pub connections: usize,
    pub http: Calls,
    pub udp: Calls,
    /// Addresses that were given a connection id.
    pub udp_connects: u64,
    /// Datagrams that were worth no answer, and answers that the kernel did not take.
    pub udp_noise: u64,
    pub udp_lost: u64,
    /// Announces that came at another shard than their swarm's.
    pub handed_over: u64,
    /// Announces and scrapes that another shard had no room for.
    pub overrun: u64,
    /// Peers in the last snapshot, and how long ago it was written.
    pub saved_peers: usize,
    pub saved_ago_s: Option<u64>,
}

/// Of one of the two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    pub announces: u64,
    pub scrapes: u64,
    /// Announces and scrapes that are none.
    pub malformed: u64,
    /// Turned down: not on the list, no room, too many of one address.
    pub refused: u64,
}

impl Calls {
    const fn add(&mut self, other: Self) {
        self.announces += other.announces;
        self.scrapes += other.scrapes;
        self.malformed += other.malformed;
        self.refused += other.refused;
    }
}

impl Stats {
    /// Another shard's.
    pub fn add(&mut self, other: &Self) {
        self.uptime_s = self.uptime_s.max(other.uptime_s);
        self.shards += other.shards;
        self.swarms += other.swarms;
        self.peers += other.peers;
        self.peers_v4 += other.peers_v4;
        self.peers_v6 += other.peers_v6;
        self.seeds += other.seeds;
        self.allowed = self.allowed.or(other.allowed);
        self.connections += other.connections;
        self.http.add(other.http);
        self.udp.add(other.udp);
        self.udp_connects += other.udp_connects;
        self.udp_noise += other.udp_noise;
        self.udp_lost += other.udp_lost;
        self.handed_over += other.handed_over;
        self.overrun += other.overrun;
        self.saved_peers += other.saved_peers;
        self.saved_ago_s = self.saved_ago_s.max(other.saved_ago_s);
    }

    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers")
    }

    /// Prometheus' text form, version 0.0.4.
    pub fn metrics(&self) -> String {
        let mut page = String::with_capacity(4096);
        for (name, help, value) in self.gauges() {
            let _ = write!(
                page,
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
            );
        }
        let name = "bittube_tracker_calls_total";
        let _ = writeln!(
            page,
            "# HELP {name} Requests, by way and what became of them."
        );
        let _ = writeln!(page, "# TYPE {name} counter");
        for (way, calls) in [("http", self.http), ("udp", self.udp)] {
            for (kind, count) in [
                ("announce", calls.announces),
                ("scrape", calls.scrapes),
                ("malformed", calls.malformed),
                ("refused", calls.refused),
            ] {
                let _ = writeln!(page, "{name}{{way=\"{way}\",kind=\"{kind}\"}} {count}");
            }
        }
        for (name, help, value) in self.counters() {
            let _ = write!(
                page,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"
            );
        }
        page
    }

    /// For people. Numbers only: nothing in it is a stranger's text.
    pub fn page(&self) -> String {
        let mut page = String::from(PAGE_HEAD);
        let mut row = |name: &str, value: String| {
            let _ = writeln!(page, "<tr><th>{name}</th><td>{value}</td></tr>");
        };
        let uptime = self.uptime_s;
        let (days, hours, minutes) = (uptime / 86400, uptime / 3600 % 24, uptime / 60 % 60);
        row("up", format!("{days} d {hours} h {minutes} min"));
        row("torrents", self.swarms.to_string());
        row(
            "peers",
            format!(
                "{} ({} IPv4, {} IPv6)",
                self.peers, self.peers_v4, self.peers_v6
            ),
        );
        row("of them seeds", self.seeds.to_string());
        for (way, calls) in [("UDP", self.udp), ("HTTP", self.http)] {
            row(&format!("announces by {way}"), calls.announces.to_string());
            row(&format!("scrapes by {way}"), calls.scrapes.to_string());
            row(&format!("malformed by {way}"), calls.malformed.to_string());
            row(&format!("refused by {way}"), calls.refused.to_string());
        }
        let listed = self
            .allowed
            .map_or_else(|| "all".into(), |count| format!("{count}, listed"));
        row("torrents allowed", listed);
        page.push_str("</table>\n");
        page
    }

    fn gauges(&self) -> [(&'static str, &'static str, u64); 8] {
        let count = |count: usize| count as u64;
        [
            (
                "bittube_tracker_uptime_seconds",
                "Since the start.",
                self.uptime_s,
            ),
            (
                "bittube_tracker_swarms",
                "Torrents that have peers.",
                count(self.swarms),
            ),
            (
                "bittube_tracker_peers_v4",
                "Peers of IPv4.",
                count(self.peers_v4),
            ),
            (
                "bittube_tracker_peers_v6",
                "Peers of IPv6.",
                count(self.peers_v6),
            ),
            (
                "bittube_tracker_seeds",
                "Peers that have everything.",
                count(self.seeds),
            ),
            (
                "bittube_tracker_connections",
                "Open HTTP connections.",
                count(self.connections),
            ),
            (
                "bittube_tracker_saved_peers",
                "Peers in the last snapshot.",
                count(self.saved_peers),
            ),
            (
                "bittube_tracker_saved_ago_seconds",
                "Since the last snapshot; 0 if there is none yet.",
                self.saved_ago_s.unwrap_or(0),
            ),
        ]
    }

    const fn counters(&self) -> [(&'static str, &'static str, u64); 5] {
        [
            (
                "bittube_tracker_udp_connects_total",
                "Connection ids given.",
                self.udp_connects,
            ),
            (
                "bittube_tracker_udp_noise_total",
                "Datagrams not worth an answer.",
                self.udp_noise,
            ),
            (
                "bittube_tracker_udp_lost_total",
                "Answers that the kernel did not take.",
                self.udp_lost,
            ),
            (
                "bittube_tracker_handed_over_total",
                "Announces that came at another shard.",
                self.handed_over,
            ),
            (
                "bittube_tracker_overrun_total",
                "Announces that found a shard's mailbox full.",
                self.overrun,
            ),
        ]
    }
}

const PAGE_HEAD: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n\
    <meta http-equiv=\"refresh\" content=\"10\">\n<title>BitTube tracker</title>\n\
    <h1>BitTube tracker</h1>\n<table>\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(announces: u64) -> Stats {
        Stats {
            uptime_s: 90_061,
            shards: 1,
            peers: 3,
            udp: Calls {
                announces,
                ..Calls::default()
            },
            ..Stats::default()
        }
    }

    #[test]
    fn shards_add_up_and_all_forms_tell_it() {
        let mut sum = stats(5);
        sum.add(&stats(7));
        assert_eq!((sum.shards, sum.peers, sum.uptime_s), (2, 6, 90_061));
        let json: serde_json::Value = serde_json::from_str(&sum.json()).unwrap();
        assert_eq!(json["udp"]["announces"], 12);
        assert_eq!(json["allowed"], serde_json::Value::Null);
        let metrics = sum.metrics();
        let line = "bittube_tracker_calls_total{way=\"udp\",kind=\"announce\"} 12";
        assert!(metrics.lines().any(|have| have == line), "{metrics}");
        assert!(metrics.ends_with('\n'));
        let page = sum.page();
        assert!(
            page.contains("1 d 1 h 1 min") && page.contains("<td>12</td>"),
            "{page}"
        );
    }
}
