//! The codec both ways, and each length that R40 refuses.

use proptest::prelude::*;

use super::*;

fn span(piece: u32, begin: u32, len: u32) -> BlockSpan {
    BlockSpan {
        piece: PieceIndex(piece),
        begin,
        len,
    }
}

fn message() -> impl Strategy<Value = Message<'static>> {
    let piece = any::<u32>().prop_map(PieceIndex);
    let spans = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(p, b, l)| span(p, b, l));
    prop_oneof![
        Just(Message::KeepAlive),
        Just(Message::Choke),
        Just(Message::Unchoke),
        Just(Message::Interested),
        Just(Message::NotInterested),
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        Just(Message::Bitfield(b"some pieces")),
        Just(Message::Extended {
            id: 3,
            payload: b"d1:md11:ut_metadatai1eee"
        }),
        piece.clone().prop_map(Message::Have),
        piece.clone().prop_map(Message::Suggest),
        piece.prop_map(Message::AllowedFast),
        spans.clone().prop_map(Message::Request),
        spans.clone().prop_map(Message::Cancel),
        spans.prop_map(Message::Reject),
        any::<u16>().prop_map(Message::Port),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_message_reads_back_and_no_part_of_it_is_enough(sent in message()) {
        let mut wire = Vec::new();
        sent.write(&mut wire);
        for cut in 0..wire.len() {
            prop_assert_eq!(parse(&wire[..cut], None), Ok(Parsed::More));
        }
        let len = wire.len();
        wire.extend(b"the next");
        prop_assert_eq!(parse(&wire, None), Ok(Parsed::Whole(sent, len)));
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>, pieces: Option<u32>) {
        let pieces = pieces.map(|count| count % PIECES_MAX);
        if let Ok(Parsed::Whole(_, len)) = parse(&bytes, pieces) {
            prop_assert!(len <= bytes.len());
        }
    }

    #[test]
    fn bitfields_read_back(bits in proptest::collection::vec(any::<bool>(), 1..300)) {
        let set: FixedBitSet = bits.iter().enumerate().filter(|(_, set)| **set).map(|(i, _)| i).collect();
        let mut pieces = FixedBitSet::with_capacity(bits.len());
        pieces.union_with(&set);
        let wire = bitfield_bytes(&pieces);
        prop_assert_eq!(bitfield_pieces(&wire, bits.len() as u32), Some(pieces));
        prop_assert_eq!(wire[0] & 0x80 != 0, bits[0]);
    }
}

#[test]
fn a_piece_is_its_head_and_its_bytes() {
    let block = span(5, 16_384, 16_384);
    let mut wire = piece_head(block).to_vec();
    assert_eq!(parse(&wire, Some(9)), Ok(Parsed::More));
    wire.resize(PIECE_HEAD_LEN + 16_384, 1);
    assert_eq!(
        parse(&wire, Some(9)),
        Ok(Parsed::Whole(Message::Piece(block), wire.len()))
    );
}

#[test]
fn r40_fixed_messages_have_exactly_their_length() {
    for (id, len) in [
        (id::CHOKE, 1),
        (id::UNCHOKE, 1),
        (id::INTERESTED, 1),
        (id::NOT_INTERESTED, 1),
        (id::HAVE, 5),
        (id::REQUEST, 13),
        (id::CANCEL, 13),
        (id::PORT, 3),
        (id::SUGGEST, 5),
        (id::HAVE_ALL, 1),
        (id::HAVE_NONE, 1),
        (id::REJECT, 13),
        (id::ALLOWED_FAST, 5),
    ] {
        for wrong in [len - 1, len + 1, len + 1000] {
            if wrong == 0 {
                continue;
            }
            let mut wire = u32::to_be_bytes(wrong).to_vec();
            wire.push(id);
            assert_eq!(
                parse(&wire, None),
                Err(PeerMisbehaved::drop("message-length")),
                "id {id} length {wrong}"
            );
        }
    }
}

#[test]
fn r40_long_messages_are_refused_on_their_head() {
    let judge = |len: u32, id: u8, pieces| {
        let mut wire = len.to_be_bytes().to_vec();
        wire.push(id);
        parse(&wire, pieces)
            .map(|found| found == Parsed::More)
            .map_err(|fault| fault.ban)
    };
    assert_eq!(judge(BLOCK_LEN + 9, id::PIECE, None), Ok(true));
    assert_eq!(judge(BLOCK_LEN + 10, id::PIECE, None), Err(false));
    assert_eq!(judge(9, id::PIECE, None), Err(false));
    assert_eq!(judge(EXTENDED_MAX + 1, id::EXTENDED, None), Err(false));
    assert_eq!(judge(1, id::EXTENDED, None), Err(false));
    assert_eq!(judge(3, id::BITFIELD, Some(9)), Ok(true));
    assert_eq!(judge(2, id::BITFIELD, Some(9)), Err(false));
    assert_eq!(judge(4, id::BITFIELD, Some(9)), Err(false));
    assert_eq!(judge(PIECES_MAX / 8 + 2, id::BITFIELD, None), Err(false));
    assert_eq!(
        parse(&u32::to_be_bytes(MESSAGE_MAX + 1), None),
        Err(PeerMisbehaved::ban("message-over-1-mib"))
    );
}

#[test]
fn what_fits_no_buffer_is_announced_by_its_head() {
    let pieces = 1_000_000;
    let mut wire = u32::to_be_bytes(1 + 125_000).to_vec();
    wire.push(id::BITFIELD);
    assert_eq!(
        parse(&wire, Some(pieces)),
        Ok(Parsed::Long {
            bitfield: true,
            head: 5,
            body: 125_000
        })
    );
}

#[test]
fn r41_spare_bits_are_zero() {
    assert!(bitfield_pieces(&[0xff, 0x80], 9).is_some());
    assert!(bitfield_pieces(&[0xff, 0xc0], 9).is_none());
    assert!(bitfield_pieces(&[0xff, 0x80, 0], 9).is_none());
    assert!(bitfield_pieces(&[0xff], 8).is_some());
}

#[test]
fn what_a_message_lacks_is_known_from_its_length() {
    let have = [0, 0, 0, 5, 4, 0, 0, 0, 9];
    for given in 0..=have.len() {
        let lacks = if given < 4 { 0 } else { have.len() - given };
        assert_eq!(missing(&have[..given]), lacks, "{given} bytes");
    }
    let block = (BLOCK_LEN + 9).to_be_bytes();
    assert_eq!(missing(&block), BLOCK_LEN as usize + 9);
    // What follows it is none of its business.
    assert_eq!(missing(&[&have[..], &block].concat()), 0);
    // A handshake, and a message that is read as it comes.
    assert_eq!(missing(b"\x13BitTorrent protocol"), 0);
    assert_eq!(missing(&(WHOLE_MAX as u32).to_be_bytes()), 0);
}
