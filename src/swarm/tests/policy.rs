//! Several viewers of one film: what the origin gives for it, under the policy and without parts.

use std::time::Duration;

use crate::swarm::tests::world::{FILM, RATE, World};
use crate::swarm::tests::{MIB, assert_bought_once};
use crate::units::Cause;
use crate::units::lab::Lab;

/// What a crowd cost and suffered.
#[derive(Debug)]
struct Bill {
    /// Of the film, by cause in the order of `Cause::ALL`.
    copies: [f64; Cause::ALL.len()],
    stall_s: f64,
    /// Part of what peers brought.
    wasted: f64,
}

impl Bill {
    fn copies(&self) -> f64 {
        self.copies.iter().sum()
    }
}

/// So many viewers with 1.2 times the film's rate to give, all calling each other, one every
/// `apart` seconds; the film lasts as long as `length` says.
fn crowd(viewers: usize, length: u64, apart: f64, lab: Lab) -> Bill {
    let mut world = World::new(length, 128 << 10);
    world.lab = lab;
    for viewer in 0..viewers {
        let node = world.viewer();
        world.nodes[node].rate = 1.2 * RATE;
        world.origin(node, 40, 3e6, true);
        world.bitrate(node, RATE);
        for other in 0..viewer {
            world.connect(node, other);
        }
        world.play(node, world.file(), Some(FILM));
        world.run_for(Duration::from_secs_f64(apart));
    }
    let film_s = length as f64 / RATE;
    world.run_for(Duration::from_secs_f64(film_s + 3.0));
    let mut bill = Bill {
        copies: [0.0; Cause::ALL.len()],
        stall_s: 0.0,
        wasted: 0.0,
    };
    let (mut wasted, mut brought) = (0, 0);
    for node in 0..viewers {
        assert_bought_once(&world, node);
        let stats = world.nodes[node].swarm.stats();
        for (copies, cause) in bill.copies.iter_mut().zip(Cause::ALL) {
            *copies += stats.origin_bytes_by_cause.of(cause) as f64 / length as f64;
        }
        bill.stall_s += stats.stall_s;
        wasted += stats.bytes.wasted;
        brought += stats.bytes.from_peers;
    }
    bill.wasted = wasted as f64 / brought.max(1) as f64;
    bill
}

fn lab(words: &str) -> Lab {
    words.parse().unwrap()
}

#[test]
fn a_crowd_that_comes_at_once_shares_what_each_fetches() {
    let policy = crowd(8, 10 * MIB, 0.1, lab(""));
    assert!(policy.copies() < 3.0, "{policy:.3?}");
    assert!(policy.stall_s < 0.5 && policy.wasted < 0.02, "{policy:.3?}");
    // So many times what the policy takes.
    // What the rank is worth among many shows in tests/sim.
    for (words, least) in [("no-rank", 1.1), ("no-inject", 1.4), ("client-server", 2.7)] {
        let bill = crowd(8, 10 * MIB, 0.1, lab(words));
        assert!(
            bill.copies() > least * policy.copies(),
            "{words}: {bill:.3?} {policy:.3?}"
        );
    }
    let unhedged = crowd(8, 10 * MIB, 0.1, lab("no-hedge"));
    assert!(unhedged.stall_s > 5.0, "{unhedged:.3?}");
}

#[test]
fn plain_rules_cost_more() {
    let policy = crowd(8, 5 * MIB, 0.1, lab(""));
    for words in ["sequential,fallback", "rarest,fallback", "rarest,web-seed"] {
        let bill = crowd(8, 5 * MIB, 0.1, lab(words));
        assert!(
            bill.copies() > 1.5 * policy.copies(),
            "{words}: {bill:.3?} {policy:.3?}"
        );
    }
}

#[test]
fn who_comes_later_is_served_by_who_came_before() {
    let staggered = crowd(6, 10 * MIB, 5.0, lab(""));
    assert!(staggered.copies() < 2.0, "{staggered:.3?}");
    assert!(
        staggered.stall_s < 0.5 && staggered.wasted < 0.02,
        "{staggered:.3?}"
    );
}
