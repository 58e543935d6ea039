//! What several peers are sent over one uplink, and when it rests.

use std::time::Duration;

use crate::swarm::tests::MIB;
use crate::swarm::tests::world::{FILM, RATE, World};
use crate::units::{ByteRange, OriginPolicy, PieceIndex};

/// One viewer of a film, with an uplink of `up` and a seed that sends it so much, both in multiples
/// of the film's rate; three others know nobody else. What they are sent in 20 s, bytes.
fn handed_on(up: f64, seeded: f64) -> u64 {
    let mut world = World::new(24 * MIB, 128 << 10);
    let viewer = world.viewer_with(OriginPolicy::Never);
    let seed = world.seed(seeded * RATE);
    world.nodes[viewer].rate = up * RATE;
    world.bitrate(viewer, RATE);
    world.connect(viewer, seed);
    world.play(viewer, world.file(), Some(FILM));
    let others: Vec<_> = (0..3)
        .map(|_| {
            let other = world.viewer_with(OriginPolicy::Never);
            world.connect(other, viewer);
            world.play(other, world.file(), None);
            other
        })
        .collect();
    let got = |world: &World| -> u64 {
        let stats = others.iter().map(|&other| world.nodes[other].swarm.stats());
        stats.map(|stats| stats.bytes.from_peers).sum()
    };
    // Until it is known what the line sends.
    world.run_for(Duration::from_secs(20));
    let before = got(&world);
    world.run_for(Duration::from_secs(20));
    got(&world) - before
}

#[test]
fn a_thin_line_rests_while_its_own_player_starves() {
    let could = |up: f64| (20.0 * up * RATE) as u64;
    let starving = handed_on(0.15, 0.6);
    assert!(starving < could(0.15) / 10, "{starving}");
    let content = handed_on(0.15, 3.0);
    assert!(content > could(0.15) / 10 * 8, "{content}");
    // Of a line that carries the film others have more than it costs.
    let wide = handed_on(0.9, 0.6);
    assert!(wide > could(0.5), "{wide}");
}

#[test]
fn who_stands_still_tells_those_who_have_it_too() {
    let mut world = World::new(8 * MIB, 128 << 10);
    // Not the last piece, so that it stays no seed and the other stays interested.
    let before = world.viewer();
    world.origin(before, 10, 20e6, true);
    let most = ByteRange::new(0, 8 * MIB - (256 << 10));
    world.play(before, most, None);
    world.run_for(Duration::from_secs(2));
    let after = world.viewer_with(OriginPolicy::Never);
    world.connect(after, before);
    let part = ByteRange::new(0, 2 * MIB);
    world.play(after, part, None);
    let untold = |world: &World| {
        let (_, peer) = world.nodes[before].swarm.peers.iter().next().unwrap();
        let session = peer.ready().unwrap();
        let verified = world.nodes[after].store.verified.ones();
        verified
            .filter(|&piece| !session.has(PieceIndex(piece as u32)))
            .count()
    };
    let end = world.now + Duration::from_secs(10);
    world.run_until(end, |world| world.nodes[after].players[0].pos == part.end);
    assert!(world.now < end, "it has what it plays");
    assert!(untold(&world) > 0, "it can wait");
    world.run_for(Duration::from_secs(3));
    assert_eq!(untold(&world), 0);
}
