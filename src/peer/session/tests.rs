//! Two sessions talk over a pure pipe; then each rule of R40–R44 is broken in turn.

use super::*;
use crate::peer::message::piece_head;
use crate::units::BLOCK_LEN;

const PIECES: u32 = 20;

fn setup(id: u8, pieces: Option<u32>) -> Setup {
    Setup {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId([id; 20]),
        listen_port: 10_234,
        pieces,
        metadata_len: pieces.map(|_| 20_000),
        upload_only: false,
    }
}

fn span(piece: u32, block: u32) -> BlockSpan {
    BlockSpan {
        piece: PieceIndex(piece),
        begin: block * BLOCK_LEN,
        len: BLOCK_LEN,
    }
}

fn all() -> FixedBitSet {
    let mut have = FixedBitSet::with_capacity(PIECES as usize);
    have.insert_range(..);
    have
}

fn none() -> FixedBitSet {
    FixedBitSet::with_capacity(PIECES as usize)
}

/// What a driver would write, blocks made of one letter.
fn wire(session: &mut Session) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(send) = session.poll_send() {
        match send {
            Send::Bytes(bytes) => out.extend(bytes),
            Send::Block(span) => {
                out.extend(piece_head(span));
                out.extend(vec![b'x'; span.len as usize]);
            }
        }
    }
    out
}

/// Gives `bytes` as a driver does, and the events they make.
fn give(session: &mut Session, now: Time, bytes: &[u8]) -> Result<Vec<Event>, PeerMisbehaved> {
    let mut events = Vec::new();
    let mut at = 0;
    loop {
        let used = session.handle_bytes(now, &bytes[at..])?;
        events.extend(std::iter::from_fn(|| session.poll_event()));
        if used == 0 {
            assert_eq!(at, bytes.len(), "whole messages were given");
            return Ok(events);
        }
        at += used;
    }
}

/// Both handshakes are through and both sides have said what they have.
fn pair(ours: &FixedBitSet, theirs: &FixedBitSet) -> (Session, Session) {
    let now = Time::ZERO;
    let mut a = Session::outgoing(now, setup(1, Some(PIECES)));
    let mut b = Session::incoming(now, setup(2, Some(PIECES)));
    let hello = wire(&mut a);
    assert!(matches!(
        give(&mut b, now, &hello).unwrap()[..],
        [Event::Handshake { .. }]
    ));
    b.start(theirs, theirs.is_full());
    let hello = wire(&mut b);
    let events = give(&mut a, now, &hello).unwrap();
    assert_eq!(
        events[1..],
        [Event::Bitfield, Event::ListenPort(10_234), Event::Extended]
    );
    a.start(ours, ours.is_full());
    let hello = wire(&mut a);
    give(&mut b, now, &hello).unwrap();
    (a, b)
}

#[test]
fn a_block_goes_from_one_session_to_the_other() {
    let now = Time::from_secs(1);
    let (mut a, mut b) = pair(&none(), &all());
    assert!(a.is_seed() && !b.is_seed() && a.fast() && b.fast());
    assert_eq!(
        a.client(),
        Some(concat!("BitTube ", env!("CARGO_PKG_VERSION")))
    );
    assert_eq!((a.reqq(), a.metadata_len()), (250, Some(20_000)));

    a.interested(true);
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::Interested]);
    b.choke(false);
    let events = give(&mut a, now, &wire(&mut b)).unwrap();
    assert_eq!(events, [Event::Unchoked]);

    a.request(span(3, 0));
    a.request(span(3, 1));
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(
        events,
        [Event::Request(span(3, 0)), Event::Request(span(3, 1))]
    );
    b.upload(span(3, 0));
    b.reject(span(3, 1));
    assert_eq!(b.queued_uploads(), 1);
    let events = give(&mut a, now, &wire(&mut b)).unwrap();
    let head = 17 + PIECE_HEAD_LEN;
    assert_eq!(
        events,
        [
            Event::Rejected(span(3, 1)),
            Event::Block {
                span: span(3, 0),
                at: head..head + BLOCK_LEN as usize
            }
        ]
    );
    assert_eq!(a.outstanding(), 0);
    a.have(PieceIndex(3));
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::Have(PieceIndex(3))]);
}
