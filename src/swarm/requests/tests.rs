//! Two requesters and one writer a block, whatever the order of events.

use proptest::prelude::*;

use super::*;
use crate::swarm::OriginKey;
use crate::units::BLOCK_LEN;

const LEN: u64 = 5 * 65_536 + 20_000;
const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);
const C: PeerKey = PeerKey(3);

fn table() -> Requests {
    let layout = Arc::new(Layout::single(LEN, 65_536));
    let none = FixedBitSet::with_capacity(layout.piece_count() as usize);
    Requests::new(layout, &none)
}

fn source(peer: PeerKey) -> Source {
    Source::Peer(([10, 0, 0, peer.0 as u8], 6881).into())
}

fn block(piece: u32, block: u32) -> Block {
    Block {
        piece: PieceIndex(piece),
        block: BlockIndex(block),
    }
}

const ORIGIN: Source = Source::Origin {
    origin: OriginKey(0),
    direct: true,
};

fn bytes_of(poured: &Poured) -> u64 {
    poured.parts.iter().map(|part| part.len() as u64).sum()
}

#[test]
fn blocks_of_a_piece_go_out_in_order_and_come_back_to_be_missing() {
    let mut table = table();
    let piece = PieceIndex(0);
    let asked: Vec<_> = std::iter::from_fn(|| table.take(piece, A)).collect();
    assert_eq!(asked, [0, 1, 2, 3].map(|index| block(0, index)));
    assert_eq!(table.next_ragged(0..6, B, |_| true), None);
    table.release(block(0, 2), A);
    assert_eq!(table.next_ragged(0..6, B, |_| true), Some(piece));
    assert_eq!(table.take(piece, B), Some(block(0, 2)));
    for index in [0, 1, 3] {
        table.release(block(0, index), A);
    }
    table.release(block(0, 2), B);
    assert_eq!((table.bytes(), table.fresh().contains(0)), (0, true));
}

#[test]
fn a_block_has_two_peers_at_most_and_the_first_to_bring_it_writes_it() {
    let mut table = table();
    let first = table.take(PieceIndex(0), A).unwrap();
    assert!(!table.take_second(first, A));
    assert!(table.take_second(first, B));
    assert!(!table.take_second(first, C));
    let arrival = table.arrive(first, B, source(B));
    assert_eq!(arrival.parts[0], 0..BLOCK_LEN);
    assert_eq!(arrival.rival, Some(A));
    assert_eq!(table.arrive(first, A, source(A)), Arrival::default());
    assert!(!table.take_second(first, C));
}

#[test]
fn a_fetch_and_a_peer_never_write_the_same_byte() {
    let mut table = table();
    let fetch = FetchKey(1);
    let bytes = ByteRange::new(0, 32_768);
    let first = table.take(PieceIndex(0), A).unwrap();
    table.buy(bytes, fetch);
    // The peer is quicker with the second block, the origin has begun the first.
    let arrival = table.arrive(block(0, 1), B, source(B));
    assert_eq!(arrival.parts[0], 0..BLOCK_LEN);
    let begun = table.pour(ByteRange::new(0, 1000), fetch, ORIGIN);
    assert_eq!(bytes_of(&begun), 1000);
    assert_eq!(table.arrive(first, A, source(A)), Arrival::default());
    assert_eq!(table.shown_until(0), 1000);
    let rest = table.pour(ByteRange::new(1000, 16_384), fetch, ORIGIN);
    assert_eq!(bytes_of(&rest), 15_384);
    let late = table.pour(ByteRange::new(16_384, 32_768), fetch, ORIGIN);
    assert_eq!(late, Poured::default());
    assert_eq!(table.shown_until(0), 16_384);
    let senders: Vec<_> = table.get(PieceIndex(0)).unwrap().senders().collect();
    assert_eq!(senders[..2], [ORIGIN, source(B)]);
}

#[test]
fn a_failed_fetch_leaves_its_bytes_and_gives_up_the_rest() {
    let mut table = table();
    let (first, second) = (FetchKey(1), FetchKey(2));
    let bytes = ByteRange::new(0, 16_384);
    table.buy(bytes, first);
    table.pour(ByteRange::new(0, 1000), first, ORIGIN);
    assert_eq!(table.look(block(0, 0)), Look::Bought);
    table.unbuy(bytes, first, false);
    assert_eq!(table.look(block(0, 0)), Look::Missing { bought: true });
    table.unbuy(bytes, first, true);
    assert_eq!(table.look(block(0, 0)), Look::Missing { bought: false });
    table.buy(bytes, second);
    let again = table.pour(ByteRange::new(0, 4000), second, ORIGIN);
    assert_eq!(again.parts, [1000..4000, 0..0, 0..0]);
    table.unbuy(bytes, second, true);
    let arrival = table.arrive(block(0, 0), A, source(A));
    assert_eq!(arrival.parts, [4000..16_384, 0..0, 0..0]);
    assert_eq!(
        table.get(PieceIndex(0)).unwrap().senders().next(),
        Some(Source::Mixed)
    );
}

#[test]
fn bytes_adopted_in_the_middle_of_a_block_are_shown_and_the_block_completed() {
    let mut table = table();
    let fetch = FetchKey(1);
    table.buy(ByteRange::new(70_000, 98_304), fetch);
    let poured = table.pour(ByteRange::new(70_000, 81_920), fetch, ORIGIN);
    assert_eq!(bytes_of(&poured), 11_920);
    assert_eq!(table.shown_until(70_000), 81_920);
    assert_eq!(table.look(block(1, 0)), Look::Missing { bought: false });
    let arrival = table.arrive(block(1, 0), A, source(A));
    assert_eq!(arrival.parts, [0..4464, 0..0, 0..0]);
    assert_eq!(table.look(block(1, 0)), Look::Stored);
}

#[test]
fn after_a_bad_hash_one_source_alone_is_listened_to() {
    let mut table = table();
    let piece = PieceIndex(5);
    while table.take(piece, A).is_some() {}
    for index in 0..2 {
        table.arrive(block(5, index), A, source(A));
    }
    assert!(table.get(piece).unwrap().is_whole());
    table.lose(piece);
    table.restart(piece, Some(Only::Peer(B)));
    assert_eq!(table.next_ragged(0..6, A, |_| true), None);
    assert_eq!(table.next_ragged(0..6, B, |_| true), Some(piece));
    assert_eq!(table.arrive(block(5, 0), A, source(A)), Arrival::default());
    assert_eq!(table.look(block(5, 0)), Look::Missing { bought: true });
    table.finish(piece);
    assert_eq!((table.bytes(), table.look(block(5, 0))), (0, Look::Stored));
}

#[test]
fn words_of_bits_are_scanned_together() {
    let mut a = FixedBitSet::with_capacity(200);
    let mut b = FixedBitSet::with_capacity(200);
    for bit in [3, 64, 130, 199] {
        a.insert(bit);
    }
    for bit in [64, 199] {
        b.insert(bit);
    }
    assert_eq!(next_common(&a, &b, 0..200), Some(64));
    assert_eq!(next_common(&a, &b, 65..200), Some(199));
    assert_eq!(next_common(&a, &b, 65..199), None);
    assert_eq!(next_common(&a, &FixedBitSet::new(), 0..200), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens, each byte is written once, nobody is asked twice, and what nobody brings
    /// can be asked for again until all is there.
    #[test]
    fn no_block_is_lost_or_written_twice(steps in proptest::collection::vec((0u8..7, 0u32..6, 0u32..4, 1usize..4), 0..400)) {
        let mut table = table();
        let layout = Arc::clone(&table.layout);
        let mut written = [0u64; 6];
        let mut asked: Vec<(Block, PeerKey)> = Vec::new();
        let mut fetches: Vec<(FetchKey, ByteRange)> = Vec::new();
        let mut keys = 0;
        for (what, piece, index, peer) in steps {
            let piece = PieceIndex(piece);
            let index = index.min(layout.block_count(piece) - 1);
            let at = block(piece.0, index);
            let peer = PeerKey(peer);
            match what {
                0 | 1 => asked.extend(table.take(piece, peer).map(|block| (block, peer))),
                2 => if table.take_second(at, peer) { asked.push((at, peer)); },
                3 => if let Some(place) = asked.iter().position(|one| *one == (at, peer)) {
                    asked.swap_remove(place);
                    table.release(at, peer);
                },
                4 => if let Some(place) = asked.iter().position(|one| *one == (at, peer)) {
                    asked.swap_remove(place);
                    let arrival = table.arrive(at, peer, source(peer));
                    for part in arrival.parts {
                        written[piece.at()] += u64::from(part.end - part.start);
                    }
                    if let Some(rival) = arrival.rival {
                        asked.retain(|one| *one != (at, rival));
                    }
                },
                5 => if matches!(table.look(at), Look::Missing { bought: false } | Look::Asked { bought: false, .. }) {
                    keys += 1;
                    let range = layout.block_range(at);
                    table.buy(range, FetchKey(keys));
                    fetches.push((FetchKey(keys), range));
                },
                _ => if let Some((fetch, range)) = fetches.pop() {
                    if index < 3 {
                        let poured = table.pour(range, fetch, ORIGIN);
                        written[layout.piece_of(range.start).at()] += bytes_of(&poured);
                        for rival in poured.rivals.into_iter().flatten() {
                            asked.retain(|one| *one != (layout.block_of(range.start), rival));
                        }
                    }
                    table.unbuy(range, fetch, true);
                },
            }
        }
        for (fetch, range) in fetches {
            table.unbuy(range, fetch, true);
        }
        for (block, peer) in asked {
            table.release(block, peer);
        }
        for piece in layout.pieces() {
            while let Some(block) = table.take(piece, A) {
                for part in table.arrive(block, A, source(A)).parts {
                    written[piece.at()] += u64::from(part.end - part.start);
                }
            }
            prop_assert_eq!(written[piece.at()], u64::from(layout.piece_len(piece)));
            prop_assert!(table.get(piece).is_some_and(Started::is_whole));
            table.finish(piece);
        }
        prop_assert_eq!(table.bytes(), 0);
        prop_assert!(table.is_all_asked());
    }
}
