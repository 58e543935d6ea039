//! Two sessions talk over a pure pipe; then each rule of R40–R44 is broken in turn.

use proptest::prelude::*;

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::peer::extension::Metadata;
use crate::peer::handshake::Handshake;
use crate::peer::message::{WHOLE_MAX, piece_head};
use crate::peer::session::outbox::BACKLOG_MAX;
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
    pair_with(ours, theirs, true)
}

/// Without `fast`, neither is told that the other speaks BEP 6.
fn pair_with(ours: &FixedBitSet, theirs: &FixedBitSet, fast: bool) -> (Session, Session) {
    let heard = |mut hello: Vec<u8>| {
        if !fast {
            hello[27] = 0;
        }
        hello
    };
    let now = Time::ZERO;
    let mut a = Session::outgoing(now, setup(1, Some(PIECES)));
    let mut b = Session::incoming(now, setup(2, Some(PIECES)));
    let hello = heard(wire(&mut a));
    assert!(matches!(
        give(&mut b, now, &hello).unwrap()[..],
        [Event::Handshake { .. }]
    ));
    b.start(theirs, theirs.is_full());
    let hello = heard(wire(&mut b));
    let events = give(&mut a, now, &hello).unwrap();
    let told = [Event::Bitfield, Event::ListenPort(10_234), Event::Extended];
    // Without BEP 6 there is no have-none, so nothing is said of no pieces.
    let silent = !fast && theirs.is_clear();
    assert_eq!(events[1..], told[usize::from(silent)..]);
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
    assert_eq!(b.uploads.queued(), 1);
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
    // Who has it learns it late, with whatever is said next,
    assert!(a.have(PieceIndex(3)));
    assert!(wire(&mut a).is_empty());
    a.interested(false);
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::NotInterested, Event::Have(PieceIndex(3))]);
    // or when it is hurried; who lacks it at once.
    assert!(!a.hurry() && a.have(PieceIndex(4)) && a.hurry());
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::Have(PieceIndex(4))]);
    let (mut a, mut b) = pair(&none(), &none());
    assert!(!a.have(PieceIndex(5)));
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::Have(PieceIndex(5))]);
}

/// A session that a peer called up which is not ours: it says what the test says.
fn raw(pieces: Option<u32>, fast: bool) -> Session {
    let mut session = Session::incoming(Time::ZERO, setup(1, pieces));
    let mut theirs = Handshake::ours(InfoHash([7; 20]), PeerId([2; 20]));
    if !fast {
        theirs.reserved[7] = 0;
    }
    give(&mut session, Time::ZERO, &theirs.encode()).unwrap();
    session.start(&none(), false);
    wire(&mut session);
    session
}

fn bytes(messages: &[Message<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        message.write(&mut out);
    }
    out
}

fn say(session: &mut Session, messages: &[Message<'_>]) -> Result<Vec<Event>, PeerMisbehaved> {
    give(session, Time::from_secs(1), &bytes(messages))
}

fn block(span: BlockSpan) -> Vec<u8> {
    let mut out = piece_head(span).to_vec();
    out.resize(out.len() + span.len as usize, b'x');
    out
}

fn why<T: std::fmt::Debug>(result: Result<T, PeerMisbehaved>) -> &'static str {
    result.unwrap_err().why
}

#[test]
fn what_we_have_is_said_in_the_shortest_way() {
    let mut some = none();
    some.insert(1);
    for (fast, have, expected) in [
        (true, all(), bytes(&[Message::HaveAll])),
        (true, none(), bytes(&[Message::HaveNone])),
        (
            true,
            some.clone(),
            bytes(&[Message::Bitfield(&[0x40, 0, 0])]),
        ),
        (
            false,
            all(),
            bytes(&[Message::Bitfield(&[0xff, 0xff, 0xf0])]),
        ),
        (false, none(), Vec::new()),
        (false, some, bytes(&[Message::Bitfield(&[0x40, 0, 0])])),
    ] {
        let mut session = Session::incoming(Time::ZERO, setup(1, Some(PIECES)));
        let mut theirs = Handshake::ours(InfoHash([7; 20]), PeerId([2; 20]));
        theirs.reserved = [0; 8];
        theirs.reserved[7] = if fast { 4 } else { 0 };
        give(&mut session, Time::ZERO, &theirs.encode()).unwrap();
        wire(&mut session);
        session.start(&have, have.is_full());
        assert_eq!(wire(&mut session), expected, "fast {fast}");
    }
}

#[test]
fn commands_before_start_say_nothing() {
    let mut session = Session::incoming(Time::ZERO, setup(1, Some(PIECES)));
    session.have(PieceIndex(0));
    session.interested(true);
    session.choke(false);
    session.request(span(0, 0));
    session.request_metadata(0);
    assert_eq!(session.poll_send(), None);
}

#[test]
fn a_choke_without_the_fast_extension_forgets_what_was_asked() {
    let mut session = raw(Some(PIECES), false);
    say(&mut session, &[Message::Unchoke]).unwrap();
    session.request(span(0, 0));
    let events = say(&mut session, &[Message::Choke]).unwrap();
    assert_eq!(events, [Event::Choked]);
    assert_eq!(session.outstanding(), 0);
    session.request(span(0, 1));
    assert_eq!(session.outstanding(), 0, "it would not answer");
    // The block was under way when it choked us.
    let events = give(&mut session, Time::from_secs(1), &block(span(0, 0))).unwrap();
    assert!(matches!(events[..], [Event::Block { .. }]));
}

#[test]
fn a_choke_with_the_fast_extension_waits_for_each_rejection() {
    let mut session = raw(Some(PIECES), true);
    say(&mut session, &[Message::HaveAll, Message::Unchoke]).unwrap();
    session.request(span(0, 0));
    session.request(span(0, 1));
    let events = say(
        &mut session,
        &[
            Message::Choke,
            Message::Reject(span(0, 1)),
            Message::AllowedFast(PieceIndex(4)),
        ],
    )
    .unwrap();
    assert_eq!(
        events,
        [
            Event::Choked,
            Event::Rejected(span(0, 1)),
            Event::AllowedFast(PieceIndex(4))
        ]
    );
    assert_eq!(session.outstanding(), 1);
    assert!(session.allowed_fast(PieceIndex(4)) && !session.allowed_fast(PieceIndex(0)));
    session.request(span(4, 0));
    assert_eq!(session.outstanding(), 2);
}

#[test]
fn our_choke_drops_the_queue_and_a_fast_peer_hears_of_each() {
    for fast in [true, false] {
        let mut session = raw(Some(PIECES), fast);
        session.choke(false);
        say(
            &mut session,
            &[Message::Request(span(0, 0)), Message::Request(span(0, 1))],
        )
        .unwrap();
        session.upload(span(0, 1));
        wire_until_control_is_out(&mut session);
        session.choke(true);
        let mut expected = vec![Message::Choke];
        if fast {
            expected.push(Message::Reject(span(0, 0)));
            expected.push(Message::Reject(span(0, 1)));
        }
        assert_eq!(wire(&mut session), bytes(&expected));
        session.upload(span(0, 0));
        assert_eq!(session.poll_send(), None, "asked for before the choke");
    }
}

/// Takes the control bytes, leaves the blocks.
fn wire_until_control_is_out(session: &mut Session) {
    assert!(matches!(session.poll_send(), Some(Send::Bytes(_))));
}

#[test]
fn a_request_taken_back_is_not_served() {
    let mut session = raw(Some(PIECES), true);
    session.choke(false);
    wire(&mut session);
    let both = [Message::Request(span(0, 0)), Message::Request(span(0, 1))];
    say(&mut session, &both).unwrap();
    session.upload(span(0, 0));
    let back = [Message::Cancel(span(0, 0)), Message::Cancel(span(0, 1))];
    let events = say(&mut session, &back).unwrap();
    assert_eq!(
        events,
        [Event::Cancelled(span(0, 0)), Event::Cancelled(span(0, 1))]
    );
    session.upload(span(0, 1));
    assert_eq!(
        wire(&mut session),
        bytes(&[Message::Reject(span(0, 0)), Message::Reject(span(0, 1))])
    );
}

#[test]
fn control_goes_before_blocks() {
    let mut session = raw(Some(PIECES), true);
    session.choke(false);
    say(&mut session, &[Message::Request(span(0, 0))]).unwrap();
    session.upload(span(0, 0));
    session.have(PieceIndex(9));
    assert_eq!(
        session.poll_send(),
        Some(Send::Bytes(bytes(&[
            Message::Unchoke,
            Message::Have(PieceIndex(9))
        ])))
    );
    assert_eq!(session.poll_send(), Some(Send::Block(span(0, 0))));
    assert_eq!(session.poll_send(), None);
}

#[test]
fn metadata_goes_from_one_session_to_the_other() {
    let now = Time::from_secs(1);
    let info = vec![b'i'; 20_000];
    let mut a = Session::outgoing(now, setup(1, None));
    let mut b = Session::incoming(now, setup(2, Some(PIECES)));
    give(&mut b, now, &wire(&mut a)).unwrap();
    b.start(&all(), true);
    let events = give(&mut a, now, &wire(&mut b)).unwrap();
    assert!(!events.contains(&Event::Bitfield), "of unknown size");
    assert!(a.is_seed() && a.has(PieceIndex(3)) && a.pieces().is_empty());
    assert_eq!(a.metadata_len(), Some(20_000));
    a.start(&FixedBitSet::new(), false);

    for piece in 0..3 {
        a.request_metadata(piece);
    }
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    let asked = |piece| Event::MetadataRequest { piece };
    assert!(events.ends_with(&[asked(0), asked(1)]), "the third is none");
    b.send_metadata(0, 20_000, &info[..16_384]);
    b.send_metadata(1, 20_000, &info[16_384..]);
    let sent = wire(&mut b);
    let mut lens = Vec::new();
    let mut rejected = Vec::new();
    let mut at = 0;
    while at < sent.len() {
        let used = a.handle_bytes(now, &sent[at..]).unwrap();
        while let Some(event) = a.poll_event() {
            match event {
                Event::Metadata {
                    piece,
                    total,
                    at: data,
                } => {
                    assert_eq!(sent[at..][data.clone()], info[..data.len()]);
                    lens.push((piece, total, data.len()));
                }
                Event::MetadataRejected { piece } => rejected.push(piece),
                other => panic!("{other:?}"),
            }
        }
        at += used;
    }
    assert_eq!(lens, [(0, 20_000, 16_384), (1, 20_000, 3_616)]);
    assert_eq!(rejected, [2]);

    a.know_pieces(PIECES, 20_000).unwrap();
    assert!(a.pieces().is_full());
    let events = give(&mut b, now, &wire(&mut a)).unwrap();
    assert!(events.contains(&Event::Extended));
    assert_eq!(b.metadata_len(), Some(20_000));
}

#[test]
fn metadata_is_no_way_around_the_choke() {
    let mut session = raw(Some(PIECES), true);
    let offer = extension::handshake(None, 0, false);
    let hello = Message::Extended {
        id: 0,
        payload: &offer,
    };
    say(&mut session, &[hello]).unwrap();
    let part = vec![b'i'; 16_384];
    for _ in 0..10 {
        session.send_metadata(0, 16_384, &part);
    }
    let sent = wire(&mut session).len();
    assert!((3 * 16_384..4 * 16_384).contains(&sent), "{sent}");
}

#[test]
fn who_wants_nothing_more_says_so() {
    let (mut a, mut b) = pair(&none(), &none());
    assert!(!b.upload_only());
    a.set_upload_only(true);
    a.set_upload_only(true);
    let events = give(&mut b, Time::ZERO, &wire(&mut a)).unwrap();
    assert_eq!(events, [Event::ListenPort(10_234), Event::Extended]);
    assert!(b.upload_only());
}

#[test]
fn metadata_of_a_wrong_length_or_unasked_is_not_taken() {
    let mut session = raw(None, true);
    let offer = extension::handshake(Some(20_000), 0, false);
    let hello = Message::Extended {
        id: 0,
        payload: &offer,
    };
    say(&mut session, &[hello]).unwrap();
    let data = |len: usize| {
        let mut payload = Metadata::Data {
            piece: 1,
            total: 20_000,
            at: 0,
        }
        .encode();
        payload.resize(payload.len() + len, b'i');
        payload
    };
    let say_data = |session: &mut Session, len| {
        let payload = data(len);
        say(
            session,
            &[Message::Extended {
                id: 1,
                payload: &payload,
            }],
        )
    };
    assert_eq!(say_data(&mut session, 3_616), Ok(vec![]), "not asked for");
    session.request_metadata(1);
    assert!(matches!(
        say_data(&mut session, 3_616).unwrap()[..],
        [Event::Metadata { piece: 1, .. }]
    ));
    assert_eq!(why(say_data(&mut session, 3_617)), "ut-metadata");
}

#[test]
fn r40_a_message_over_a_mebibyte_bans() {
    let mut session = raw(Some(PIECES), true);
    let fault = give(&mut session, Time::ZERO, &[0x00, 0x10, 0x00, 0x01]).unwrap_err();
    assert!(fault.ban);
}

#[test]
fn r40_long_extended_messages_are_passed_over_in_parts() {
    let mut session = raw(Some(PIECES), true);
    let payload = vec![b'?'; 100_000];
    let mut wire = bytes(&[Message::Extended {
        id: 77,
        payload: &payload,
    }]);
    wire.extend(bytes(&[Message::Interested]));
    for part in wire.chunks(1000) {
        assert_eq!(session.handle_bytes(Time::ZERO, part), Ok(part.len()));
    }
    assert_eq!(session.poll_event(), Some(Event::Interested));
}

#[test]
fn a_late_bitfield_counts_as_haves() {
    let mut session = raw(Some(PIECES), true);
    let first = Message::Bitfield(&[0x80, 0, 0]);
    let later = Message::Bitfield(&[0x81, 0, 0x10]);
    let new = [Event::Have(PieceIndex(7)), Event::Have(PieceIndex(19))];
    let events = say(&mut session, &[first, later, later]).unwrap();
    assert_eq!(events[0], Event::Bitfield);
    assert_eq!(events[1..], new);
    let wrong = Message::Bitfield(&[0, 0, 0x01]);
    assert_eq!(why(say(&mut session, &[wrong])), "bitfield-of-another-size");
    let mut session = raw(None, true);
    say(&mut session, &[first, later]).unwrap();
    session.know_pieces(PIECES, 20_000).unwrap();
    assert_eq!(session.pieces().ones().collect::<Vec<_>>(), [0, 7, 19]);
}

#[test]
fn r41_have_all_comes_once_and_first() {
    let bits = Message::Bitfield(&[0xff, 0xff, 0xf0]);
    for before in [
        bits,
        Message::Have(PieceIndex(0)),
        Message::HaveNone,
        Message::Interested,
    ] {
        let mut session = raw(Some(PIECES), true);
        assert_eq!(
            why(say(&mut session, &[before, Message::HaveAll])),
            "bitfield-late"
        );
    }
    let mut session = raw(Some(PIECES), true);
    let offer = extension::handshake(None, 0, false);
    let hello = Message::Extended {
        id: 0,
        payload: &offer,
    };
    say(&mut session, &[Message::KeepAlive, hello, bits]).unwrap();
    assert!(session.is_seed() && session.upload_only());
}

#[test]
fn r41_a_bitfield_has_its_size_and_no_spare_bits() {
    let mut session = raw(Some(PIECES), true);
    let spare = Message::Bitfield(&[0, 0, 0x01]);
    assert_eq!(why(say(&mut session, &[spare])), "bitfield-of-another-size");
    let mut session = raw(Some(PIECES), true);
    let short = Message::Bitfield(&[0, 0]);
    assert_eq!(why(say(&mut session, &[short])), "message-length");
}

#[test]
fn r41_a_have_names_a_piece() {
    let mut session = raw(Some(PIECES), true);
    let last = PieceIndex(PIECES - 1);
    let events = say(&mut session, &[Message::Have(last), Message::Have(last)]);
    assert_eq!(events, Ok(vec![Event::Have(last)]));
    let none = Message::Have(PieceIndex(PIECES));
    assert_eq!(why(say(&mut session, &[none])), "have-of-no-piece");
}

#[test]
fn r41_what_was_said_before_the_metadata_is_judged_by_it() {
    let early = [
        Message::Bitfield(&[0x80, 0, 0]),
        Message::Have(PieceIndex(5)),
    ];
    let mut session = raw(None, true);
    assert_eq!(say(&mut session, &early), Ok(vec![]));
    session.know_pieces(PIECES, 20_000).unwrap();
    assert_eq!(session.pieces().ones().collect::<Vec<_>>(), [0, 5]);

    let mut session = raw(None, true);
    say(&mut session, &early).unwrap();
    assert_eq!(
        why(session.know_pieces(100, 20_000)),
        "bitfield-of-another-size"
    );
    let mut session = raw(None, true);
    say(&mut session, &early[1..]).unwrap();
    assert_eq!(why(session.know_pieces(5, 20_000)), "have-of-no-piece");

    let mut session = raw(None, true);
    let haves: Vec<_> = (0..4097).map(|at| Message::Have(PieceIndex(at))).collect();
    assert_eq!(why(say(&mut session, &haves)), "have-before-metadata");
}

#[test]
fn r41_a_bitfield_longer_than_a_buffer_is_gathered() {
    let count = 1_000_003;
    for pieces in [Some(count), None] {
        let mut session = raw(pieces, true);
        let bits = vec![0xff; 125_001];
        let mut wire = bytes(&[Message::Bitfield(&bits)]);
        *wire.last_mut().unwrap() = 0xe0;
        assert!(wire.len() > WHOLE_MAX);
        for part in wire.chunks(4096) {
            assert_eq!(session.handle_bytes(Time::ZERO, part), Ok(part.len()));
        }
        let told = session.poll_event();
        assert_eq!(told, pieces.map(|_| Event::Bitfield));
        session.know_pieces(count, 20_000).unwrap();
        assert!(session.is_seed());
    }
}

#[test]
fn r41_a_flood_ends_it_and_news_are_no_flood() {
    let now = Time::from_secs(5);
    let mut session = raw(Some(PIECES), true);
    let toggles = bytes(&[Message::Unchoke, Message::Choke]).repeat(500);
    assert_eq!(
        give(&mut session, now, &toggles).map(|events| events.len()),
        Ok(1000)
    );
    let next = now + Duration::from_secs(1);
    assert!(give(&mut session, next, &toggles).is_ok());
    let keep_alive = bytes(&[Message::KeepAlive]);
    assert_eq!(why(give(&mut session, next, &keep_alive)), "message-flood");

    let mut session = raw(Some(5000), true);
    let news: Vec<_> = (0..5000).map(|at| Message::Have(PieceIndex(at))).collect();
    assert_eq!(
        say(&mut session, &news).map(|events| events.len()),
        Ok(5000)
    );
    assert!(session.is_seed());
    assert_eq!(why(say(&mut session, &news)), "message-flood");
}

#[test]
fn r42_a_request_has_a_length_and_a_piece() {
    let request = |piece, begin, len| {
        Message::Request(BlockSpan {
            piece: PieceIndex(piece),
            begin,
            len,
        })
    };
    for (bad, reason) in [
        (request(0, 0, 0), "request-length"),
        (request(0, 0, REQUEST_MAX + 1), "request-length"),
        (request(0, u32::MAX, 2), "request-length"),
        (request(PIECES, 0, 2), "no-such-piece"),
    ] {
        let mut session = raw(Some(PIECES), true);
        session.choke(false);
        assert_eq!(why(say(&mut session, &[bad])), reason);
    }
    let mut session = raw(Some(PIECES), true);
    session.choke(false);
    assert!(say(&mut session, &[request(0, 0, REQUEST_MAX)]).is_ok());
}

#[test]
fn r42_over_2000_requests_end_it() {
    let mut session = raw(Some(PIECES), true);
    session.choke(false);
    let many = vec![Message::Request(span(0, 0)); 2000];
    assert_eq!(
        say(&mut session, &many).map(|events| events.len()),
        Ok(2000)
    );
    for _ in 0..1000 {
        session.upload(span(0, 0));
    }
    assert_eq!(why(say(&mut session, &many[..1])), "over-2000-requests");
}

#[test]
fn r42_requests_of_a_choked_peer_are_refused_and_counted() {
    for fast in [true, false] {
        let mut session = raw(Some(PIECES), fast);
        let many = vec![Message::Request(span(0, 0)); 300];
        assert_eq!(say(&mut session, &many), Ok(vec![]));
        let answers = if fast { 300 } else { 0 };
        let rejects = vec![Message::Reject(span(0, 0)); answers];
        assert_eq!(wire(&mut session), bytes(&rejects));
        assert_eq!(why(say(&mut session, &many[..1])), "requests-while-choked");
    }
}

#[test]
fn r43_unrequested_blocks_end_it_and_late_ones_do_not() {
    let now = Time::from_secs(1);
    let mut session = raw(Some(PIECES), true);
    say(&mut session, &[Message::Unchoke]).unwrap();
    for _ in 0..100 {
        session.request(span(1, 0));
        session.cancel(span(1, 0));
        let events = give(&mut session, now, &block(span(1, 0))).unwrap();
        assert!(matches!(events[..], [Event::Block { .. }]), "late");
    }
    // 64 of them, or less than a tenth of all bytes, are tolerated, and told to nobody.
    for _ in 0..64 {
        assert_eq!(give(&mut session, now, &block(span(2, 0))), Ok(vec![]));
    }
    assert_eq!(
        why(give(&mut session, now, &block(span(2, 0)))),
        "unrequested-blocks"
    );
}

#[test]
fn r43_a_rejected_or_second_cancel_is_nothing() {
    let mut session = raw(Some(PIECES), true);
    say(&mut session, &[Message::Unchoke]).unwrap();
    wire(&mut session);
    session.request(span(1, 0));
    session.cancel(span(1, 0));
    session.cancel(span(1, 0));
    assert_eq!(
        wire(&mut session),
        bytes(&[Message::Request(span(1, 0)), Message::Cancel(span(1, 0))])
    );
    let events = say(&mut session, &[Message::Reject(span(1, 0))]);
    assert_eq!(events, Ok(vec![]), "we know that it is over");
}

#[test]
fn a_rejection_answers_what_was_cancelled_first() {
    let mut session = raw(Some(PIECES), true);
    say(&mut session, &[Message::Unchoke]).unwrap();
    session.request(span(1, 0));
    session.cancel(span(1, 0));
    session.request(span(1, 0));
    let reject = [Message::Reject(span(1, 0))];
    assert_eq!(say(&mut session, &reject), Ok(vec![]));
    let over = vec![Event::Rejected(span(1, 0))];
    assert_eq!(say(&mut session, &reject), Ok(over));
}

#[test]
fn r44_handshake_idle_and_keep_alive_have_their_time() {
    let start = Time::from_secs(100);
    let mut session = Session::outgoing(start, setup(1, Some(PIECES)));
    assert_eq!(session.next_timeout(), start + HANDSHAKE_WAIT);
    assert_eq!(session.handle_timeout(start), Ok(()));
    let due = session.next_timeout();
    assert_eq!(why(session.handle_timeout(due)), "no-handshake");

    let mut session = raw(Some(PIECES), true);
    let due = session.next_timeout();
    assert_eq!(due, Time::ZERO + KEEP_ALIVE);
    session.handle_timeout(due).unwrap();
    assert_eq!(wire(&mut session), [0, 0, 0, 0]);
    let due = session.next_timeout();
    assert_eq!(due, Time::ZERO + IDLE_WAIT);
    assert_eq!(why(session.handle_timeout(due)), "idle");

    let mut session = raw(Some(PIECES), true);
    give(&mut session, Time::from_secs(60), &[0, 0, 0, 0]).unwrap();
    session.handle_timeout(Time::ZERO + IDLE_WAIT).unwrap();
}

#[test]
fn r44_ourselves_and_other_torrents_are_not_talked_to() {
    let mut session = Session::incoming(Time::ZERO, setup(1, None));
    let ours = Handshake::ours(InfoHash([7; 20]), PeerId([1; 20]));
    let fault = give(&mut session, Time::ZERO, &ours.encode()).unwrap_err();
    assert_eq!(fault, PeerMisbehaved::drop("self"));
    let mut session = Session::incoming(Time::ZERO, setup(1, None));
    let other = Handshake::ours(InfoHash([8; 20]), PeerId([2; 20]));
    assert_eq!(
        why(give(&mut session, Time::ZERO, &other.encode())),
        "info-hash"
    );
    assert_eq!(session.poll_send(), None, "nor told who we are");
}

#[test]
fn fast_messages_need_the_fast_extension() {
    for message in [
        Message::HaveAll,
        Message::HaveNone,
        Message::Suggest(PieceIndex(0)),
        Message::AllowedFast(PieceIndex(0)),
        Message::Reject(span(0, 0)),
    ] {
        let mut session = raw(Some(PIECES), false);
        assert_eq!(why(say(&mut session, &[message])), "fast-not-agreed");
    }
}

#[test]
fn a_peer_that_does_not_read_is_left() {
    let mut session = raw(Some(PIECES), true);
    for _ in 0..=BACKLOG_MAX / 9 {
        session.have(PieceIndex(0));
    }
    assert_eq!(
        why(session.handle_timeout(Time::from_secs(1))),
        "does-not-read"
    );
}

#[test]
fn a_call_leaves_few_events() {
    let mut session = raw(Some(PIECES), true);
    session.choke(false);
    let many = bytes(&vec![Message::Request(span(0, 0)); 200]);
    let used = session.handle_bytes(Time::ZERO, &many).unwrap();
    assert_eq!(used, 17 * EVENTS_MAX);
    assert_eq!(session.handle_bytes(Time::ZERO, &many[used..]), Ok(0));
}

/// An event with its bytes in place of where they were.
fn told(event: &Event, from: &[u8]) -> (Event, Vec<u8>) {
    match event.clone() {
        Event::Block { span, at } => (Event::Block { span, at: 0..0 }, from[at].to_vec()),
        Event::Metadata { piece, total, at } => {
            let data = from[at].to_vec();
            (
                Event::Metadata {
                    piece,
                    total,
                    at: 0..0,
                },
                data,
            )
        }
        event => (event, Vec::new()),
    }
}

type Received = (Vec<(Event, Vec<u8>)>, Result<(), PeerMisbehaved>);

/// All events of `stream`, received in parts of the given lengths, and how it ended.
fn receive(stream: &[u8], parts: &[usize], pieces: Option<u32>) -> Received {
    let now = Time::from_secs(1);
    let mut session = raw(pieces, true);
    let offer = extension::handshake(Some(300), 0, false);
    let hello = Message::Extended {
        id: 0,
        payload: &offer,
    };
    say(&mut session, &[hello]).unwrap();
    session.choke(false);
    (0..4).for_each(|block| session.request(span(0, block)));
    session.request_metadata(0);
    let mut parts = parts.iter().copied().cycle();
    let (mut seen, mut at, mut end) = (Vec::new(), 0, 0);
    while end < stream.len() {
        end = (end + parts.next().unwrap_or(stream.len())).min(stream.len());
        loop {
            let part = &stream[at..end];
            let used = session.handle_bytes(now, part);
            while let Some(event) = session.poll_event() {
                seen.push(told(&event, part));
            }
            wire(&mut session);
            match used {
                Ok(0) => break,
                Ok(used) => at += used,
                Err(fault) => return (seen, Err(fault)),
            }
        }
        assert!(end - at < WHOLE_MAX, "no message waits for more");
    }
    (seen, Ok(()))
}

/// Streams that go deep: well-formed messages of small numbers, with noise between.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let spans = (0..PIECES + 1, 0..4u32).prop_map(|(piece, at)| span(piece, at));
    let piece = (0..PIECES + 1).prop_map(PieceIndex);
    let extended = prop_oneof![
        Just(extension::handshake(Some(20_000), 1, true)),
        Just(Metadata::Request { piece: 0 }.encode()),
        Just(Metadata::Reject { piece: 0 }.encode()),
        Just(
            [
                &b"d8:msg_typei1e5:piecei0e10:total_sizei300ee"[..],
                &[b'm'; 300]
            ]
            .concat()
        ),
        Just(b"d8:msg_typei1e5:piecei-1ee".to_vec()),
        Just(b"d1:md11:ut_metadatai300ee8:metadata_sizei-5e4:reqqi-1e1:v3:\x01\xffbe".to_vec()),
        Just(b"l".repeat(100)),
        any::<Vec<u8>>(),
    ];
    let message = prop_oneof![
        2 => Just(bytes(&[Message::Unchoke])),
        1 => Just(bytes(&[Message::Choke])),
        1 => Just(bytes(&[Message::Interested])),
        1 => Just(bytes(&[Message::HaveAll])),
        1 => Just(bytes(&[Message::Bitfield(&[1, 2, 0x30])])),
        3 => piece.clone().prop_map(|piece| bytes(&[Message::Have(piece)])),
        1 => piece.prop_map(|piece| bytes(&[Message::AllowedFast(piece)])),
        3 => spans.clone().prop_map(|span| bytes(&[Message::Request(span)])),
        2 => spans.clone().prop_map(|span| bytes(&[Message::Cancel(span)])),
        2 => spans.clone().prop_map(|span| bytes(&[Message::Reject(span)])),
        2 => spans.prop_map(block),
        4 => (0..4u32).prop_map(|at| block(span(0, at))),
        3 => (0..3u8, extended).prop_map(|(id, payload)| bytes(&[Message::Extended { id, payload: &payload }])),
        1 => (any::<u8>(), 0..100_000usize).prop_map(|(id, len)| {
            let mut out = (len as u32 + 1).to_be_bytes().to_vec();
            out.push(id);
            out.resize(len + 5, 0);
            out
        }),
        1 => any::<Vec<u8>>(),
    ];
    proptest::collection::vec(message, 1..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn how_a_stream_is_cut_changes_nothing(
        stream in stream(),
        parts in proptest::collection::vec(prop_oneof![1..20usize, 1..40_000usize], 1..8),
        known: bool,
    ) {
        let pieces = known.then_some(PIECES);
        let whole = receive(&stream, &[stream.len()], pieces);
        let cut = receive(&stream, &parts, pieces);
        prop_assert_eq!(whole, cut);
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Interested(bool),
    Choke(bool),
    Request(u32),
    Cancel(u32),
    Have(u32),
    /// Answers the oldest request.
    Answer(bool),
    /// So many bytes reach the other side.
    Deliver(usize),
}

fn act() -> impl Strategy<Value = (bool, Act)> {
    let act = prop_oneof![
        any::<bool>().prop_map(Act::Interested),
        prop_oneof![Just(false), Just(false), Just(true)].prop_map(Act::Choke),
        (0..6u32).prop_map(Act::Request),
        (0..6u32).prop_map(Act::Request),
        (0..6u32).prop_map(Act::Cancel),
        (0..PIECES).prop_map(Act::Have),
        any::<bool>().prop_map(Act::Answer),
        prop_oneof![1..40usize, 1..60_000usize].prop_map(Act::Deliver),
        prop_oneof![1..40usize, 1..60_000usize].prop_map(Act::Deliver),
    ];
    (any::<bool>(), act)
}

/// One end: a session, what it has put on the wire, and what it was asked for.
struct End {
    session: Session,
    sent: Vec<u8>,
    read: Vec<u8>,
    asked: VecDeque<BlockSpan>,
    told: FixedBitSet,
}

impl End {
    fn new(session: Session) -> Self {
        Self {
            session,
            sent: Vec::new(),
            read: Vec::new(),
            asked: VecDeque::new(),
            told: none(),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Interested(interested) => self.session.interested(interested),
            Act::Choke(choke) => {
                if choke {
                    self.asked.clear();
                }
                self.session.choke(choke);
            }
            Act::Request(at) => self.session.request(span(at, 0)),
            Act::Cancel(at) => self.session.cancel(span(at, 0)),
            Act::Have(piece) => {
                self.told.insert(piece as usize);
                self.session.have(PieceIndex(piece));
            }
            Act::Answer(serve) => match self.asked.pop_front() {
                Some(span) if serve => self.session.upload(span),
                Some(span) => self.session.reject(span),
                None => {}
            },
            Act::Deliver(_) => {}
        }
        self.sent.extend(wire(&mut self.session));
    }

    /// Takes up to `len` bytes from the other end.
    fn take(&mut self, from: &mut Vec<u8>, len: usize) -> Result<(), PeerMisbehaved> {
        self.read.extend(from.drain(..len.min(from.len())));
        loop {
            let used = self.session.handle_bytes(Time::from_secs(1), &self.read)?;
            while let Some(event) = self.session.poll_event() {
                match event {
                    Event::Request(span) => self.asked.push_back(span),
                    Event::Cancelled(span) => {
                        let at = self.asked.iter().position(|asked| *asked == span);
                        at.map(|at| self.asked.remove(at));
                    }
                    Event::Block { span, at } => {
                        assert_eq!(self.read[at], vec![b'x'; span.len as usize]);
                    }
                    _ => {}
                }
            }
            self.read.drain(..used);
            if used == 0 {
                return Ok(());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn two_honest_sessions_never_end_each_other_and_come_to_agree(
        acts in proptest::collection::vec(act(), 1..120),
        fast: bool,
    ) {
        let (a, b) = pair_with(&none(), &none(), fast);
        let mut ends = [End::new(a), End::new(b)];
        for (second, act) in acts {
            let [a, b] = &mut ends;
            let (one, other) = if second { (b, a) } else { (a, b) };
            match act {
                Act::Deliver(len) => prop_assert_eq!(one.take(&mut other.sent, len), Ok(())),
                act => one.act(act),
            }
            one.sent.extend(wire(&mut one.session));
        }
        let [a, b] = &mut ends;
        for _ in 0..3 {
            for end in [&mut *a, &mut *b] {
                while !end.asked.is_empty() {
                    end.act(Act::Answer(true));
                }
                end.session.hurry();
                end.sent.extend(wire(&mut end.session));
            }
            prop_assert_eq!(a.take(&mut b.sent, usize::MAX), Ok(()));
            prop_assert_eq!(b.take(&mut a.sent, usize::MAX), Ok(()));
        }
        for (one, other) in [(&*a, &*b), (&*b, &*a)] {
            prop_assert_eq!(one.session.choking_us(), other.session.choked());
            prop_assert_eq!(one.session.interested_in_us(), other.session.is_interesting());
            prop_assert_eq!(one.session.pieces(), &other.told);
            prop_assert_eq!(one.session.uploads.queued(), 0);
            // Without the fast extension a refusal is silent.
            if fast {
                prop_assert_eq!(one.session.outstanding(), 0);
            }
        }
    }

    #[test]
    fn any_first_bytes_are_survived(
        bytes: Vec<u8>,
        honest in 0..=handshake::LEN,
        outgoing: bool,
        part in 1..50usize,
    ) {
        let mut session = if outgoing {
            Session::outgoing(Time::ZERO, setup(1, None))
        } else {
            Session::incoming(Time::ZERO, setup(1, None))
        };
        let hello = Handshake::ours(InfoHash([7; 20]), PeerId([2; 20])).encode();
        let stream = [&hello[..honest], &bytes].concat();
        let (mut at, mut end) = (0, 0);
        while end < stream.len() {
            end = (end + part).min(stream.len());
            while let Ok(used) = session.handle_bytes(Time::ZERO, &stream[at..end]) && used > 0 {
                while session.poll_event().is_some() {}
                at += used;
            }
        }
        prop_assert_eq!(session.ready(), session.remote_id().is_some());
    }
}
