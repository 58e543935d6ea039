//! A stream of piece messages through a session, in receives of two lengths.

mod measure;

use bittube::peer::message::piece_head;
use bittube::peer::session::{Event, Send, Session, Setup};
use bittube::units::{BLOCK_LEN, BlockSpan, InfoHash, PeerId, PieceIndex, Time};
use fixedbitset::FixedBitSet;

const PIECES: u32 = 4096;
const BLOCKS_PER_PIECE: u32 = 16;
/// Blocks that are asked for at once.
const ASKED: usize = 128;
/// Blocks of one round.
const BLOCKS: usize = ASKED * 64;
const NOW: Time = Time::from_secs(1);

fn main() {
    let mut whole = || round(ASKED * (BLOCK_LEN as usize + 13));
    let mut large = || round(256 * 1024);
    let mut small = || round(16 * 1024);
    measure::compare(
        "MB/s",
        1e6,
        &mut [
            ("all at once", &mut whole),
            ("receives of 256 KiB", &mut large),
            ("receives of 16 KiB", &mut small),
        ],
    );
}

/// Bytes a second of block payload that a session takes in, `receive_len` bytes at a time.
fn round(receive_len: usize) -> f64 {
    let mut session = connected();
    let spans: Vec<BlockSpan> = (0..PIECES)
        .flat_map(|piece| (0..BLOCKS_PER_PIECE).map(move |block| span(piece, block)))
        .take(BLOCKS)
        .collect();
    let streams: Vec<Vec<u8>> = spans.chunks(ASKED).map(stream).collect();
    let mut came = 0;
    let rate = measure::rate(BLOCKS * BLOCK_LEN as usize, || {
        for (asked, stream) in spans.chunks(ASKED).zip(&streams) {
            asked.iter().for_each(|&span| session.request(span));
            while session.poll_send().is_some() {}
            let (mut taken, mut received) = (0, 0);
            while received < stream.len() {
                received = stream.len().min(received + receive_len);
                loop {
                    let used = session.handle_bytes(NOW, &stream[taken..received]);
                    taken += used.expect("the stream is right");
                    let before = came;
                    while let Some(event) = session.poll_event() {
                        came += usize::from(matches!(event, Event::Block { .. }));
                    }
                    if came == before {
                        break;
                    }
                }
            }
        }
    });
    assert_eq!(came, BLOCKS);
    rate
}

fn span(piece: u32, block: u32) -> BlockSpan {
    BlockSpan {
        piece: PieceIndex(piece),
        begin: block * BLOCK_LEN,
        len: BLOCK_LEN,
    }
}

fn stream(spans: &[BlockSpan]) -> Vec<u8> {
    let mut out = Vec::new();
    for &span in spans {
        out.extend(piece_head(span));
        out.resize(out.len() + BLOCK_LEN as usize, 7);
    }
    out
}

/// Our side of a connection to a seed that lets us ask.
fn connected() -> Session {
    let setup = |id| Setup {
        info_hash: InfoHash([7; 20]),
        peer_id: PeerId([id; 20]),
        listen_port: 10_234,
        pieces: Some(PIECES),
        metadata_len: Some(100_000),
        upload_only: false,
    };
    let mut ours = Session::outgoing(NOW, setup(1));
    let mut theirs = Session::incoming(NOW, setup(2));
    let none = FixedBitSet::with_capacity(PIECES as usize);
    let mut all = none.clone();
    all.insert_range(..);
    let mut started = [false; 2];
    for _ in 0..4 {
        pass(&mut ours, &mut theirs);
        pass(&mut theirs, &mut ours);
        if theirs.ready() && !started[1] {
            theirs.start(&all, true);
            theirs.choke(false);
            started[1] = true;
        }
        if ours.ready() && !started[0] {
            ours.start(&none, false);
            ours.interested(true);
            started[0] = true;
        }
    }
    assert!(!ours.choking_us() && ours.is_seed());
    ours
}

fn pass(from: &mut Session, to: &mut Session) {
    let mut bytes = Vec::new();
    while let Some(send) = from.poll_send() {
        if let Send::Bytes(more) = send {
            bytes.extend(more);
        }
    }
    let mut taken = 0;
    loop {
        let used = to.handle_bytes(NOW, &bytes[taken..]);
        let used = used.expect("both are ours");
        while to.poll_event().is_some() {}
        taken += used;
        if used == 0 {
            return;
        }
    }
}
