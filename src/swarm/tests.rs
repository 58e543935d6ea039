//! Swarms wired in memory tell each other stories, under a virtual clock.

mod policy;
mod uploads;
mod world;

use std::time::Duration;

use crate::swarm::tests::world::{FILM, Film, World};
use crate::units::{BLOCK_LEN, ByteRange, Cause, OriginPolicy, PieceIndex, Time};

const MIB: u64 = 1 << 20;

fn secs(n: u64) -> Time {
    Time::from_secs(n)
}

/// No byte was asked of the origin twice.
fn assert_bought_once(world: &World, node: usize) {
    let mut asked = world.nodes[node].asked.clone();
    asked.sort();
    for pair in asked.windows(2) {
        assert!(pair[0].end <= pair[1].start, "bought twice: {pair:?}");
    }
}

fn done(world: &World, node: usize) -> bool {
    let players = &world.nodes[node].players;
    players.iter().all(|player| player.pos == player.range.end)
}

#[test]
fn peers_alone_bring_the_file_at_their_full_rate() {
    let mut world = World::new(16 * MIB, 256 << 10);
    let viewer = world.viewer();
    let (a, b) = (world.seed(4e6), world.seed(2e6));
    world.connect(viewer, a);
    world.connect(viewer, b);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.nodes[viewer].swarm.stats().bytes.from_peers, 0);
    world.play(viewer, world.file(), None);
    let start = world.now;
    world.run_until(secs(60), |world| done(world, viewer));
    assert!(done(&world, viewer) && world.nodes[viewer].complete);
    // 16 MiB at 6 MB/s are 2.8 s.
    let took = world.now.since(start).as_secs_f64();
    assert!(took < 3.6, "{took}");
    let stats = world.nodes[viewer].swarm.stats();
    assert_eq!(stats.bytes.to_players, 16 * MIB);
    assert_eq!(stats.bytes.from_origin, 0);
    assert!(stats.bytes.wasted < MIB / 2, "{stats:?}");
}

#[test]
fn origin_alone_runs_at_its_own_speed() {
    let mut world = World::new(32 * MIB, 256 << 10);
    let viewer = world.viewer();
    world.origin(viewer, 50, 20e6, true);
    let start = world.now;
    world.play(viewer, world.file(), None);
    world.run_until(secs(60), |world| done(world, viewer));
    let took = world.now.since(start).as_secs_f64();
    // 1.68 s at 20 MB/s.
    assert!(done(&world, viewer) && took < 2.1, "{took}");
    let player = &world.nodes[viewer].players[0];
    let first = player.first_byte.unwrap().since(start);
    assert!(first <= Duration::from_millis(55), "{first:?}");
    assert_bought_once(&world, viewer);
    let stats = world.nodes[viewer].swarm.stats();
    assert_eq!(stats.bytes.from_origin, 32 * MIB);
    assert_eq!(stats.bytes.wasted, 0);
    assert!(world.nodes[viewer].swarm.is_complete());
}

#[test]
fn a_film_is_bought_no_further_ahead_than_needed() {
    let mut world = World::new(64 * MIB, 256 << 10);
    let viewer = world.viewer();
    world.origin(viewer, 50, 20e6, true);
    world.bitrate(viewer, 250_000.0);
    world.play(viewer, world.file(), Some(FILM));
    world.run_for(Duration::from_secs(30));
    let stats = world.nodes[viewer].swarm.stats();
    // 30 s played, 10 s in the player, 20 s of lead and the fetches under way.
    assert!(
        stats.bytes.from_origin < 60 * 250_000 + 8 * MIB,
        "{stats:?}"
    );
    assert_eq!(stats.stalls, 0);
}

#[test]
fn whoever_calls_itself_does_so_once() {
    let mut world = World::new(MIB, 128 << 10);
    let viewer = world.viewer();
    world.play(viewer, world.file(), None);
    world.connect(viewer, viewer);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.connections(), 1);
    assert_eq!(world.nodes[viewer].banned, []);
}

#[test]
fn peers_that_carry_the_film_leave_the_origin_little() {
    let mut world = World::new(24 * MIB, 128 << 10);
    let viewer = world.viewer();
    let (a, b) = (world.seed(300_000.0), world.seed(300_000.0));
    world.origin(viewer, 50, 5e6, true);
    world.bitrate(viewer, 250_000.0);
    world.connect(viewer, a);
    world.connect(viewer, b);
    world.play(viewer, world.file(), Some(FILM));
    world.run_for(Duration::from_secs(12));
    let early = world.nodes[viewer].swarm.stats();
    world.run_for(Duration::from_secs(60));
    let stats = world.nodes[viewer].swarm.stats();
    assert_eq!(stats.stalls, 0);
    assert!(early.bytes.from_origin < 6 * 250_000, "{early:?}");
    let late = stats.bytes.from_origin - early.bytes.from_origin;
    assert!(late * 50 < stats.bytes.to_players, "{late} of {stats:?}");
    let first = world.nodes[viewer].players[0].first_byte.unwrap();
    assert!(first <= secs(1) + Duration::from_millis(60), "{first:?}");
    assert_bought_once(&world, viewer);
    let sum: u64 = Cause::ALL
        .iter()
        .map(|&cause| stats.origin_bytes_by_cause.of(cause))
        .sum();
    assert_eq!(sum, stats.bytes.from_origin);
}

#[test]
fn slow_peers_and_the_origin_share_the_film() {
    let mut world = World::new(16 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(120_000.0);
    world.origin(viewer, 50, 5e6, true);
    world.bitrate(viewer, 250_000.0);
    world.connect(viewer, seed);
    world.play(viewer, world.file(), Some(FILM));
    world.run_for(Duration::from_secs(50));
    let stats = world.nodes[viewer].swarm.stats();
    assert!(stats.stall_s < 0.5, "{stats:?}");
    assert!(stats.bytes.from_peers > 40 * 100_000, "{stats:?}");
    assert!(stats.origin_bytes_by_cause.of(Cause::Hedge) > 10 * 130_000);
    assert_bought_once(&world, viewer);
}

#[test]
fn when_the_peer_dies_the_origin_carries_on() {
    let mut world = World::new(16 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(1e6);
    world.origin(viewer, 50, 5e6, true);
    world.bitrate(viewer, 250_000.0);
    world.connect(viewer, seed);
    let film = Film {
        rate: 250_000.0,
        buffer_s: 5.0,
    };
    world.play(viewer, world.file(), Some(film));
    world.run_for(Duration::from_secs(5));
    world.nodes[seed].mute = true;
    world.run_for(Duration::from_secs(5));
    world.cut(seed);
    world.run_until(secs(120), |world| done(world, viewer));
    assert!(done(&world, viewer));
    let stats = world.nodes[viewer].swarm.stats();
    assert_eq!(stats.stalls, 0, "{stats:?}");
    assert_bought_once(&world, viewer);
}

#[test]
fn when_the_origin_dies_peers_carry_on() {
    let mut world = World::new(8 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(500_000.0);
    let origin = world.origin(viewer, 50, 1e6, true);
    world.bitrate(viewer, 250_000.0);
    let film = Film {
        rate: 250_000.0,
        buffer_s: 5.0,
    };
    world.play(viewer, world.file(), Some(film));
    world.run_for(Duration::from_secs(2));
    world.connect(viewer, seed);
    world.nodes[viewer].origins.get_mut(&origin).unwrap().down = true;
    world.run_until(secs(60), |world| done(world, viewer));
    assert!(done(&world, viewer));
    assert_eq!(world.nodes[viewer].swarm.stats().stalls, 0);
}

#[test]
fn the_liar_is_banned_and_nobody_else() {
    let mut world = World::new(8 * MIB, 256 << 10);
    let viewer = world.viewer();
    let seeds = [world.seed(1e6), world.seed(1e6), world.seed(1e6)];
    world.nodes[seeds[1]].lies = Some(|span| span.begin == 5 * BLOCK_LEN);
    for seed in seeds {
        world.connect(viewer, seed);
    }
    world.run_for(Duration::from_millis(200));
    world.play(viewer, world.file(), None);
    world.run_until(secs(60), |world| done(world, viewer));
    assert!(done(&world, viewer) && world.nodes[viewer].swarm.is_complete());
    let liar = world.nodes[seeds[1]].addr;
    assert_eq!(world.nodes[viewer].banned, [liar]);
    assert!(world.nodes[viewer].swarm.stats().bad_pieces >= 1);
}

#[test]
fn the_origin_settles_who_lied() {
    let mut world = World::new(8 * MIB, 256 << 10);
    let viewer = world.viewer();
    let seeds = [world.seed(1e6), world.seed(1e6)];
    world.nodes[seeds[0]].lies = Some(|span| span.begin / BLOCK_LEN / 4 == 2);
    world.origin(viewer, 50, 1e6, true);
    for seed in seeds {
        world.connect(viewer, seed);
    }
    world.run_for(Duration::from_secs(1));
    world.play(viewer, world.file(), None);
    world.run_until(secs(60), |world| done(world, viewer));
    assert!(done(&world, viewer));
    assert_eq!(world.nodes[viewer].banned, [world.nodes[seeds[0]].addr]);
    assert!(world.nodes[viewer].differs.is_empty());
}

#[test]
fn an_origin_of_another_film_is_found_out() {
    let mut world = World::new(4 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(1e6);
    let origin = world.origin(viewer, 10, 5e6, false);
    world.nodes[viewer].origins.get_mut(&origin).unwrap().wrong = true;
    world.play(viewer, world.file(), None);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.nodes[viewer].differs, [origin]);
    assert_eq!(world.nodes[viewer].players[0].pos, 0);
    world.connect(viewer, seed);
    world.run_until(secs(60), |world| done(world, viewer));
    assert!(done(&world, viewer) && world.nodes[viewer].banned.is_empty());
}

#[test]
fn a_seek_takes_back_what_is_queued() {
    let mut world = World::new(64 * MIB, MIB as u32);
    let viewer = world.viewer();
    let seed = world.seed(100e6);
    world.connect(viewer, seed);
    world.run_for(Duration::from_millis(100));
    world.bitrate(viewer, 500_000.0);
    let head = world.play(viewer, world.file(), None);
    world.run_for(Duration::from_millis(200));
    world.hang_up(viewer, head);
    let target = ByteRange::new(50 * MIB, 64 * MIB);
    let seek = world.play(viewer, target, None);
    let swarm = &world.nodes[viewer].swarm;
    let stats = swarm.stats();
    assert!(stats.cancelled > 10, "{stats:?}");
    // Its first piece goes before all else, until the player has its first byte.
    let awaited = [49 * MIB, 50 * MIB, 51 * MIB - 1, 51 * MIB].map(|at| swarm.is_awaited(at));
    assert_eq!(awaited, [false, true, true, false]);
    let start = world.now;
    world.run_until(secs(5), |world| {
        world.nodes[viewer].players[seek].first_byte.is_some()
    });
    // One round trip of 20 ms, what was on the wire, and the piece itself: 10 ms.
    let took = world.now.since(start);
    assert!(took < Duration::from_millis(60), "{took:?}");
    world.run_for(Duration::from_millis(100));
    let swarm = &world.nodes[viewer].swarm;
    let next = swarm.readable(world.nodes[viewer].players[seek].reader).end;
    assert!(next > 50 * MIB && !swarm.is_awaited(next), "{next}");
}

#[test]
fn a_paused_player_freezes_its_clock_and_the_origin_rests() {
    let mut world = World::new(64 * MIB, 256 << 10);
    let viewer = world.viewer();
    world.origin(viewer, 50, 20e6, true);
    world.bitrate(viewer, 250_000.0);
    let film = Film {
        rate: 250_000.0,
        buffer_s: 5.0,
    };
    let player = world.play(viewer, world.file(), Some(film));
    world.run_for(Duration::from_secs(10));
    world.nodes[viewer].players[player].paused = true;
    let (now, reader) = (world.now, world.nodes[viewer].players[player].reader);
    world.nodes[viewer].swarm.handle_blocked(now, reader);
    world.run_for(Duration::from_secs(2));
    let before = world.nodes[viewer].swarm.stats();
    world.run_for(Duration::from_secs(600));
    let after = world.nodes[viewer].swarm.stats();
    assert_eq!(before.bytes.from_origin, after.bytes.from_origin);
    assert_eq!(after.stalls, 0);
    assert!((before.readers[0].slack_s - after.readers[0].slack_s).abs() < 0.01);
}

#[test]
fn a_magnet_link_gets_its_metadata_and_then_the_film() {
    let mut world = World::new(2 * MIB, 128 << 10);
    let stranger = world.stranger();
    let seed = world.seed(5e6);
    world.connect(stranger, seed);
    world.run_for(Duration::from_secs(1));
    assert!(world.nodes[stranger].swarm.layout().is_some());
    world.play(stranger, world.file(), None);
    world.run_until(secs(30), |world| done(world, stranger));
    assert!(done(&world, stranger));
}

#[test]
fn viewers_trade_and_the_whole_torrent_comes_without_a_reader() {
    let mut world = World::new(8 * MIB, 128 << 10);
    let (a, b) = (world.viewer(), world.viewer());
    let seed = world.seed(1e6);
    for node in [a, b] {
        let now = world.now;
        world.nodes[node].swarm.want_all(now, true);
        world.connect(node, seed);
    }
    world.connect(a, b);
    let start = world.now;
    world.run_until(secs(120), |world| {
        world.nodes[a].complete && world.nodes[b].complete
    });
    assert!(world.nodes[a].complete && world.nodes[b].complete);
    // Alone the seed would need 16.8 s for both.
    let took = world.now.since(start).as_secs_f64();
    assert!(took < 15.0, "{took}");
    assert!(world.nodes[a].swarm.stats().bytes.to_peers > MIB);
}

#[test]
fn without_a_reader_nothing_is_asked_for() {
    let mut world = World::new(8 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(1e6);
    world.connect(viewer, seed);
    let player = world.play(viewer, world.file(), None);
    world.run_for(Duration::from_secs(2));
    world.hang_up(viewer, player);
    world.run_for(Duration::from_secs(1));
    let before = world.nodes[viewer].swarm.stats().bytes.from_peers;
    world.run_for(Duration::from_secs(10));
    let after = world.nodes[viewer].swarm.stats().bytes.from_peers;
    assert!(before > MIB && before == after, "{before} {after}");
}

#[test]
fn an_unshown_origin_is_read_only_after_the_hash() {
    let mut world = World::new(4 * MIB, 256 << 10);
    let viewer = world.viewer();
    world.origin(viewer, 10, 5e6, false);
    world.play(viewer, ByteRange::new(MIB + 100, 3 * MIB), None);
    world.run_until(secs(10), |world| done(world, viewer));
    assert!(done(&world, viewer));
    assert_bought_once(&world, viewer);
}

#[test]
fn never_means_never() {
    let mut world = World::new(4 * MIB, 256 << 10);
    let viewer = world.viewer_with(OriginPolicy::Never);
    world.origin(viewer, 10, 5e6, true);
    world.play(viewer, world.file(), None);
    world.run_for(Duration::from_secs(20));
    assert!(world.nodes[viewer].asked.is_empty());
}

#[test]
fn a_full_disk_is_tried_again_after_pauses_that_grow() {
    for by_origin in [false, true] {
        let mut world = World::new(16 * MIB, 256 << 10);
        let viewer = world.viewer();
        if by_origin {
            world.origin(viewer, 50, 5e6, true);
        } else {
            let seed = world.seed(5e6);
            world.connect(viewer, seed);
        }
        world.nodes[viewer].store.full = Some(|_| true);
        world.play(viewer, world.file(), None);
        world.run_for(Duration::from_secs(60));
        let brought = |world: &World| {
            let bytes = world.nodes[viewer].swarm.stats().bytes;
            bytes.from_peers + bytes.from_origin
        };
        // Nine tries; at full rate it would be 300 MB.
        let tried = brought(&world);
        assert!(tried > 0 && tried < 40 * MIB, "{tried}");
        world.run_for(Duration::from_millis(500));
        let before = brought(&world);
        world.run_for(Duration::from_millis(500));
        assert_eq!(brought(&world), before);
        world.nodes[viewer].store.full = None;
        world.run_until(world.now + Duration::from_secs(40), |world| {
            done(world, viewer)
        });
        assert!(done(&world, viewer));
        assert!(world.nodes[viewer].banned.is_empty());
    }
}

#[test]
fn a_piece_that_cannot_be_stored_holds_up_no_other() {
    let mut world = World::new(16 * MIB, 256 << 10);
    let viewer = world.viewer();
    let seed = world.seed(5e6);
    world.connect(viewer, seed);
    // A reader waits for it, too.
    world.nodes[viewer].store.full = Some(|piece| piece.0 == 0);
    world.play(viewer, world.file(), None);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.nodes[viewer].swarm.have().count_ones(..), 63);
    let stats = world.nodes[viewer].swarm.stats();
    let again = stats.bytes.from_peers - 63 * (256 << 10);
    assert!(again > 0 && again <= 6 * (256 << 10), "{again}");
    world.nodes[viewer].store.full = None;
    world.run_until(secs(70), |world| done(world, viewer));
    assert!(done(&world, viewer) && world.nodes[viewer].complete);
}

#[test]
fn a_lost_piece_is_fetched_again_and_nobody_blamed() {
    let mut world = World::new(4 * MIB, 256 << 10);
    let viewer = world.viewer();
    let seed = world.seed(5e6);
    world.connect(viewer, seed);
    let player = world.play(viewer, ByteRange::new(0, 2 * MIB), None);
    world.run_until(secs(20), |world| world.nodes[viewer].swarm.is_complete());
    world.hang_up(viewer, player);
    let (now, piece) = (world.now, PieceIndex(3));
    assert!(world.nodes[viewer].swarm.evictable(piece));
    world.nodes[viewer].store.lose(piece);
    world.nodes[viewer]
        .swarm
        .handle_piece(now, piece, crate::swarm::Verdict::Lost);
    world.connect(viewer, seed);
    let again = world.play(viewer, ByteRange::new(700 << 10, 900 << 10), None);
    assert!(!world.nodes[viewer].swarm.evictable(piece));
    world.run_until(world.now + Duration::from_secs(60), |world| {
        let player = &world.nodes[viewer].players[again];
        player.pos == player.range.end
    });
    assert!(world.nodes[viewer].swarm.is_complete());
    assert!(world.nodes[viewer].banned.is_empty());
}

#[test]
fn pieces_of_abandoned_seeks_make_room() {
    let mut world = World::new(160 * MIB, 16 * MIB as u32);
    let viewer = world.viewer();
    let seed = world.seed(25e6);
    world.connect(viewer, seed);
    world.run_for(Duration::from_millis(100));
    // Eight pieces of 16 MiB are all that may be begun at a time.
    for place in 0..9 {
        let range = ByteRange::new(place * 16 * MIB, 160 * MIB);
        let player = world.play(viewer, range, None);
        world.run_for(Duration::from_millis(150));
        world.hang_up(viewer, player);
    }
    let range = ByteRange::new(150 * MIB, 151 * MIB);
    let player = world.play(viewer, range, None);
    let start = world.now;
    world.run_until(secs(60), |world| {
        world.nodes[viewer].players[player].pos > range.start
    });
    // The piece takes 0.67 s; those before it would take 5 s.
    let took = world.now.since(start).as_secs_f64();
    assert!(took < 1.2, "{took}");
}

#[test]
fn time_goes_on_while_a_stranger_finds_nobody() {
    let mut world = World::new(2 * MIB, 128 << 10);
    let stranger = world.stranger();
    let other = world.stranger();
    world.connect(stranger, other);
    // Fails if a timeout in the past is named for ever.
    world.run_for(Duration::from_secs(300));
    assert!(world.nodes[stranger].swarm.layout().is_none());
}

/// What a passthrough had handed over is followed by the whole film, from the origin or a peer.
fn assert_plays_on_after(adopted: &[(u64, u64, u64)], direct: bool) {
    for with_origin in [true, false] {
        let mut world = World::new(MIB, 64 << 10);
        let viewer = world.viewer();
        let origin = world.origin(viewer, 10, 5e6, direct);
        for &(start, end, brought) in adopted {
            let range = ByteRange::new(start, end);
            world.adopt(viewer, origin, range, brought);
        }
        if !with_origin {
            let now = world.now;
            world.nodes[viewer].swarm.remove_origin(now, origin);
            let seed = world.seed(5e6);
            world.connect(viewer, seed);
        }
        world.play(viewer, world.file(), None);
        world.run_until(secs(20), |world| done(world, viewer));
        assert!(done(&world, viewer), "{adopted:?} {direct} {with_origin}");
        assert!(world.nodes[viewer].swarm.is_complete());
    }
}

#[test]
fn what_a_passthrough_had_leaves_nothing_out() {
    let rows: &[&[(u64, u64, u64)]] = &[
        // Safari's probe.
        &[(0, 2, 2)],
        &[(1, 2, 1), (0, 1, 1)],
        &[(0, 2, 2), (100, 200, 100)],
        &[(100, 200, 100), (40, 50, 10), (16_000, 17_000, 1000)],
        &[(100, 200, 100), (300, 400, 100), (500, 600, 100)],
        &[(0, 20_000, 20_000)],
        &[(16_384, 32_768, 16_384), (5, 70_000, 69_995)],
        &[(0, 100_000, 30_000)],
        &[(1_048_575, 1_048_576, 1), (65_535, 65_537, 2)],
    ];
    for adopted in rows {
        assert_plays_on_after(adopted, true);
        assert_plays_on_after(adopted, false);
    }
}

#[test]
fn an_origin_that_takes_its_time_is_listened_to_when_it_speaks() {
    let mut world = World::new(2 * MIB, 64 << 10);
    let viewer = world.viewer();
    // Longer than a fetch may be silent.
    world.origin(viewer, 4000, 5e6, true);
    world.play(viewer, world.file(), None);
    world.run_until(secs(120), |world| done(world, viewer));
    assert!(done(&world, viewer));
    assert_bought_once(&world, viewer);
}

/// The only peer dies half-way; how long the rest of 16 MiB then takes a greedy player.
fn rest_without_the_peer(bitrate: Option<f64>, pause: bool) -> f64 {
    let mut world = World::new(16 * MIB, 128 << 10);
    let viewer = world.viewer_with(OriginPolicy::LastResort);
    let seed = world.seed(8e6);
    world.origin(viewer, 10, 20e6, true);
    if let Some(rate) = bitrate {
        world.bitrate(viewer, rate);
    }
    world.connect(viewer, seed);
    let player = world.play(viewer, world.file(), None);
    world.run_until(secs(60), |world| {
        world.nodes[viewer].players[player].pos > 8 * MIB
    });
    let bought = world.nodes[viewer].swarm.stats().bytes.from_origin;
    assert!(bought < MIB / 2, "{bought}");
    if pause {
        let (now, reader) = (world.now, world.nodes[viewer].players[player].reader);
        world.nodes[viewer].swarm.handle_blocked(now, reader);
    }
    world.kill(seed);
    let start = world.now;
    world.run_until(secs(600), |world| done(world, viewer));
    assert!(done(&world, viewer));
    assert_bought_once(&world, viewer);
    world.now.since(start).as_secs_f64()
}

#[test]
fn the_last_resort_takes_over_when_nobody_is_left() {
    // 8 MiB at 20 MB/s, and the time in which another peer might have been found.
    for pause in [false, true] {
        let took = rest_without_the_peer(None, pause);
        assert!(took < 6.0, "{took}");
        let took = rest_without_the_peer(Some(500_000.0), pause);
        assert!(took < 6.0, "{took}");
    }
}

#[test]
fn a_reader_is_stranded_when_nobody_can_bring_its_next_byte() {
    let mut world = World::new(4 * MIB, 128 << 10);
    let viewer = world.viewer();
    let seed = world.seed(1e6);
    let origin = world.origin(viewer, 10, 5e6, true);
    world.nodes[viewer]
        .origins
        .get_mut(&origin)
        .unwrap()
        .refuses = true;
    world.connect(viewer, seed);
    let player = world.play(viewer, world.file(), None);
    let reader = world.nodes[viewer].players[player].reader;
    let stranded = |world: &World| world.nodes[viewer].swarm.is_stranded(reader);
    assert!(!stranded(&world));
    world.run_for(Duration::from_secs(1));
    assert!(!stranded(&world) && !world.nodes[viewer].asked.is_empty());
    world.kill(seed);
    assert!(!done(&world, viewer) && stranded(&world));
    // It is not asked again, whatever is measured of it, until it is added anew.
    let asked = world.nodes[viewer].asked.len();
    world.nodes[viewer]
        .swarm
        .set_estimate(origin, Duration::from_millis(1), 5e6);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.nodes[viewer].asked.len(), asked);
    let now = world.now;
    world.nodes[viewer].swarm.remove_origin(now, origin);
    world.origin(viewer, 10, 5e6, true);
    assert!(!stranded(&world));
    world.run_for(Duration::from_secs(5));
    assert!(done(&world, viewer) && !stranded(&world));
}

#[test]
fn a_peer_without_the_piece_saves_nobody() {
    let mut world = World::new(4 * MIB, 128 << 10);
    let (viewer, other) = (world.viewer(), world.viewer());
    world.connect(viewer, other);
    let player = world.play(viewer, world.file(), None);
    let reader = world.nodes[viewer].players[player].reader;
    assert!(!world.nodes[viewer].swarm.is_stranded(reader));
    world.run_for(Duration::from_secs(1));
    assert!(world.nodes[viewer].swarm.is_stranded(reader));
}

/// Bytes that a greedy player of a film of unknown rate gets from a quick origin beside one peer:
/// in the first second, and from then to the end.
fn bought_by_greed(length: u64, rate: f64, delay: Duration, early: bool) -> (u64, u64) {
    let mut world = World::new(length, 128 << 10);
    world.delay = delay;
    let viewer = world.viewer();
    let seed = world.seed(rate);
    world.origin(viewer, 5, 300e6, true);
    world.connect(viewer, seed);
    if early {
        world.run_for(Duration::from_secs(1));
    }
    world.play(viewer, world.file(), None);
    world.run_until(world.now + Duration::from_secs(1), |world| {
        done(world, viewer)
    });
    let first = world.nodes[viewer].swarm.stats().bytes.from_origin;
    world.run_until(secs(300), |world| done(world, viewer));
    assert!(done(&world, viewer));
    let whole = world.nodes[viewer].swarm.stats().bytes.from_origin;
    (first, whole - first)
}

#[test]
fn greed_moves_no_deadline() {
    let near = Duration::from_micros(50);
    let far = Duration::from_millis(20);
    for early in [true, false] {
        for (length, rate, delay) in [
            (64 * MIB, 400e6, near),
            (64 * MIB, 20e6, near),
            (64 * MIB, 20e6, far),
            (48 * MIB, 1.5e6, far),
        ] {
            let (first, rest) = bought_by_greed(length, rate, delay, early);
            assert!(first <= 5 * MIB / 4, "{rate} {early}: {first} {rest}");
            assert!(rest * 50 < length, "{rate} {early}: {first} {rest}");
        }
    }
}

/// A link like loopback to one seed of `rate`.
fn beside_a_fast_seed(rate: f64) -> (World, usize) {
    let mut world = World::new(80 * MIB, MIB as u32);
    world.delay = Duration::from_micros(50);
    let viewer = world.viewer();
    let seed = world.seed(rate);
    world.connect(viewer, seed);
    world.run_for(Duration::from_millis(100));
    (world, viewer)
}

#[test]
fn a_short_queue_keeps_a_fast_link_busy() {
    for rate in [100e6, 400e6] {
        let (mut world, viewer) = beside_a_fast_seed(rate);
        world.play(viewer, world.file(), None);
        let time = Duration::from_millis(150);
        world.run_for(time);
        let got = world.nodes[viewer].swarm.stats().bytes.from_peers as f64;
        let full = rate * time.as_secs_f64();
        assert!(got > 0.9 * full, "{got} of {full}");
    }
}

#[test]
fn a_seek_beside_a_fast_seed_waits_for_little_more_than_its_piece() {
    for rate in [300e6, 900e6] {
        for closes_first in [true, false] {
            let (mut world, viewer) = beside_a_fast_seed(rate);
            let head = world.play(viewer, world.file(), None);
            world.run_for(Duration::from_millis(50));
            if closes_first {
                world.hang_up(viewer, head);
            }
            let seek = world.play(viewer, ByteRange::new(70 * MIB, 80 * MIB), None);
            let start = world.now;
            world.run_until(start + Duration::from_secs(5), |world| {
                world.nodes[viewer].players[seek].first_byte.is_some()
            });
            let took = world.now.since(start).as_secs_f64();
            // The piece, the queue before it, and round trips.
            let piece = MIB as f64 / rate;
            assert!(took < piece + 0.0025, "{rate} {closes_first}: {took}");
        }
    }
}

/// A viewer beside an origin, so many seeds that send a block in 16 s, and one of `rate`.
fn beside_tricklers(tricklers: usize, rate: Option<f64>) -> World {
    let mut world = World::new(16 * MIB, 128 << 10);
    let viewer = world.viewer();
    world.origin(viewer, 50, 3e6, true);
    world.bitrate(viewer, 250_000.0);
    let slow: Vec<_> = (0..tricklers).map(|_| world.seed(1000.0)).collect();
    for seed in slow {
        world.connect(viewer, seed);
    }
    if let Some(rate) = rate {
        let seed = world.seed(rate);
        world.connect(viewer, seed);
    }
    world.run_for(Duration::from_secs(1));
    world.play(viewer, world.file(), Some(FILM));
    world.run_for(Duration::from_secs(80));
    world
}

#[test]
fn who_trickles_holds_nobody_up() {
    for (tricklers, rate) in [
        (1, None),
        (4, None),
        (3, Some(150_000.0)),
        (8, Some(300_000.0)),
    ] {
        let world = beside_tricklers(tricklers, rate);
        let stats = world.nodes[0].swarm.stats();
        assert!(done(&world, 0));
        assert!(
            stats.stall_s < 0.5,
            "{tricklers} {rate:?}: {} {stats:?}",
            stats.stall_s
        );
    }
}
