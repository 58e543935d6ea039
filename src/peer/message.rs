//! The messages after the handshake, read and written (BEP 3, 5, 6, 10), and their limits (R40).

use fixedbitset::FixedBitSet;

use crate::peer::PeerMisbehaved;
use crate::units::{BLOCK_LEN, BlockSpan, PieceIndex};

/// Length, id, piece and offset: what precedes a block's bytes on the wire.
pub const PIECE_HEAD_LEN: usize = 13;
/// A longer length prefix is no slip of a client: the address is banned (R40).
pub const MESSAGE_MAX: u32 = 1024 * 1024;
/// An extended message with its two ids (R40).
pub const EXTENDED_MAX: u32 = 128 * 1024 + 2;
/// Pieces of a torrent (R31); bounds a bitfield whose torrent is not known yet.
pub const PIECES_MAX: u32 = 2_097_152;
/// Messages up to this length, prefix included, are read whole: a receive buffer needs that much
/// room. Only bitfields and extended messages may be longer, and those are read as they come.
pub const WHOLE_MAX: usize = 32 * 1024;

const LEN_PREFIX: usize = 4;
/// The prefix and the id, which together decide whether a message may go on.
const HEAD_LEN: usize = 5;

/// Message ids (BEP 3, 5, 6, 10).
mod id {
    pub const CHOKE: u8 = 0;
    pub const UNCHOKE: u8 = 1;
    pub const INTERESTED: u8 = 2;
    pub const NOT_INTERESTED: u8 = 3;
    pub const HAVE: u8 = 4;
    pub const BITFIELD: u8 = 5;
    pub const REQUEST: u8 = 6;
    pub const PIECE: u8 = 7;
    pub const CANCEL: u8 = 8;
    pub const PORT: u8 = 9;
    pub const SUGGEST: u8 = 13;
    pub const HAVE_ALL: u8 = 14;
    pub const HAVE_NONE: u8 = 15;
    pub const REJECT: u8 = 16;
    pub const ALLOWED_FAST: u8 = 17;
    pub const EXTENDED: u8 = 20;
}

/// One message; it borrows the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(PieceIndex),
    Bitfield(&'a [u8]),
    Request(BlockSpan),
    /// The block's bytes follow the head of [`PIECE_HEAD_LEN`] bytes.
    Piece(BlockSpan),
    Cancel(BlockSpan),
    /// The peer's DHT port (BEP 5).
    Port(u16),
    Suggest(PieceIndex),
    HaveAll,
    HaveNone,
    Reject(BlockSpan),
    AllowedFast(PieceIndex),
    Extended {
        id: u8,
        payload: &'a [u8],
    },
    /// Of an extension that we did not offer.
    Unknown,
}

/// What [`parse`] found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    More,
    /// A message and its length on the wire.
    Whole(Message<'a>, usize),
    /// The head, `head` bytes long, of a message that is not read whole; `body` more bytes are its.
    Long {
        bitfield: bool,
        head: usize,
        body: usize,
    },
}

/// Reads the front of `bytes`. `pieces`, where known, fixes the length of a bitfield. A message is
/// refused on its head alone, before anybody waits for its body.
pub fn parse(bytes: &[u8], pieces: Option<u32>) -> Result<Parsed<'_>, PeerMisbehaved> {
    let Some(prefix) = bytes.first_chunk::<LEN_PREFIX>() else {
        return Ok(Parsed::More);
    };
    let len = u32::from_be_bytes(*prefix);
    if len == 0 {
        return Ok(Parsed::Whole(Message::KeepAlive, LEN_PREFIX));
    }
    if len > MESSAGE_MAX {
        return Err(PeerMisbehaved::ban("message-over-1-mib"));
    }
    let Some(&id) = bytes.get(LEN_PREFIX) else {
        return Ok(Parsed::More);
    };
    check_len(id, len, pieces)?;
    let end = LEN_PREFIX + len as usize;
    if end > WHOLE_MAX {
        return Ok(Parsed::Long {
            bitfield: id == id::BITFIELD,
            head: HEAD_LEN,
            body: end - HEAD_LEN,
        });
    }
    match bytes.get(HEAD_LEN..end) {
        Some(body) => Ok(Parsed::Whole(read(id, body), end)),
        None => Ok(Parsed::More),
    }
}

/// Bytes that the message at the front lacks, without which what is there is of no use. Zero where
/// none has begun, or one that is read as it comes.
pub fn missing(bytes: &[u8]) -> usize {
    let Some(prefix) = bytes.first_chunk::<LEN_PREFIX>() else {
        return 0;
    };
    let end = LEN_PREFIX + u32::from_be_bytes(*prefix) as usize;
    match end > WHOLE_MAX {
        true => 0,
        false => end.saturating_sub(bytes.len()),
    }
}

/// R40, R41: fixed messages have exactly their length, the others a limit.
fn check_len(id: u8, len: u32, pieces: Option<u32>) -> Result<(), PeerMisbehaved> {
    let fits = match id {
        id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED => len == 1,
        id::HAVE_ALL | id::HAVE_NONE => len == 1,
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => len == 5,
        id::REQUEST | id::CANCEL | id::REJECT => len == 13,
        id::PORT => len == 3,
        id::PIECE => (10..=BLOCK_LEN + 9).contains(&len),
        id::BITFIELD => match pieces {
            Some(pieces) => len == 1 + pieces.div_ceil(8),
            None => len <= 1 + PIECES_MAX / 8,
        },
        id::EXTENDED => (2..=EXTENDED_MAX).contains(&len),
        _ => true,
    };
    if fits {
        Ok(())
    } else {
        Err(PeerMisbehaved::drop("message-length"))
    }
}

/// `check_len` has passed, so that each field is there.
fn read(id: u8, body: &[u8]) -> Message<'_> {
    match id {
        id::CHOKE => Message::Choke,
        id::UNCHOKE => Message::Unchoke,
        id::INTERESTED => Message::Interested,
        id::NOT_INTERESTED => Message::NotInterested,
        id::HAVE => Message::Have(PieceIndex(word(body, 0))),
        id::BITFIELD => Message::Bitfield(body),
        id::REQUEST => Message::Request(span(body)),
        id::PIECE => Message::Piece(BlockSpan {
            piece: PieceIndex(word(body, 0)),
            begin: word(body, 4),
            len: u32::try_from(body.len() - 8).expect("check_len"),
        }),
        id::CANCEL => Message::Cancel(span(body)),
        id::PORT => Message::Port(u16::from_be_bytes([body[0], body[1]])),
        id::SUGGEST => Message::Suggest(PieceIndex(word(body, 0))),
        id::HAVE_ALL => Message::HaveAll,
        id::HAVE_NONE => Message::HaveNone,
        id::REJECT => Message::Reject(span(body)),
        id::ALLOWED_FAST => Message::AllowedFast(PieceIndex(word(body, 0))),
        id::EXTENDED => Message::Extended {
            id: body[0],
            payload: &body[1..],
        },
        _ => Message::Unknown,
    }
}

fn word(body: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*body[at..].first_chunk().expect("check_len"))
}

fn span(body: &[u8]) -> BlockSpan {
    BlockSpan {
        piece: PieceIndex(word(body, 0)),
        begin: word(body, 4),
        len: word(body, 8),
    }
}

impl Message<'_> {
    /// Appends the message as it goes on the wire; of a piece its head only.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Self::KeepAlive => out.extend([0; LEN_PREFIX]),
            Self::Choke => head(out, 1, id::CHOKE),
            Self::Unchoke => head(out, 1, id::UNCHOKE),
            Self::Interested => head(out, 1, id::INTERESTED),
            Self::NotInterested => head(out, 1, id::NOT_INTERESTED),
            Self::HaveAll => head(out, 1, id::HAVE_ALL),
            Self::HaveNone => head(out, 1, id::HAVE_NONE),
            Self::Have(piece) => write_piece(out, id::HAVE, piece),
            Self::Suggest(piece) => write_piece(out, id::SUGGEST, piece),
            Self::AllowedFast(piece) => write_piece(out, id::ALLOWED_FAST, piece),
            Self::Request(span) => write_span(out, id::REQUEST, span),
            Self::Cancel(span) => write_span(out, id::CANCEL, span),
            Self::Reject(span) => write_span(out, id::REJECT, span),
            Self::Piece(span) => out.extend(piece_head(span)),
            Self::Port(port) => {
                head(out, 3, id::PORT);
                out.extend(port.to_be_bytes());
            }
            Self::Bitfield(bits) => {
                head(out, 1 + bits.len(), id::BITFIELD);
                out.extend(bits);
            }
            Self::Extended { id, payload } => {
                head(out, 2 + payload.len(), id::EXTENDED);
                out.push(id);
                out.extend(payload);
            }
            Self::Unknown => {}
        }
    }
}

fn head(out: &mut Vec<u8>, len: usize, id: u8) {
    let len = u32::try_from(len).expect("our messages are short");
    out.extend(len.to_be_bytes());
    out.push(id);
}

fn write_piece(out: &mut Vec<u8>, id: u8, piece: PieceIndex) {
    head(out, 5, id);
    out.extend(piece.0.to_be_bytes());
}

fn write_span(out: &mut Vec<u8>, id: u8, span: BlockSpan) {
    head(out, 13, id);
    for word in [span.piece.0, span.begin, span.len] {
        out.extend(word.to_be_bytes());
    }
}

/// What the writer sends before the `span.len` bytes of a block.
pub fn piece_head(span: BlockSpan) -> [u8; PIECE_HEAD_LEN] {
    let mut out = [0; PIECE_HEAD_LEN];
    out[..4].copy_from_slice(&(span.len + 9).to_be_bytes());
    out[4] = id::PIECE;
    out[5..9].copy_from_slice(&span.piece.0.to_be_bytes());
    out[9..].copy_from_slice(&span.begin.to_be_bytes());
    out
}

/// The body of a bitfield message: the first piece is the high bit of the first byte.
pub fn bitfield_bytes(pieces: &FixedBitSet) -> Vec<u8> {
    let mut out: Vec<u8> = pieces
        .as_slice()
        .iter()
        .flat_map(|block| block.to_le_bytes())
        .map(u8::reverse_bits)
        .collect();
    out.truncate(pieces.len().div_ceil(8));
    out
}

/// The pieces that a bitfield of `count` names; `None` if its size is another or a spare bit is set
/// (R41).
pub fn bitfield_pieces(body: &[u8], count: u32) -> Option<FixedBitSet> {
    let count = count as usize;
    if body.len() != count.div_ceil(8) {
        return None;
    }
    let used = count % 8;
    if used != 0 && body.last()? & (0xff >> used) != 0 {
        return None;
    }
    let blocks = body.chunks(size_of::<usize>()).map(|chunk| {
        let mut block = [0; size_of::<usize>()];
        for (byte, bits) in block.iter_mut().zip(chunk) {
            *byte = bits.reverse_bits();
        }
        usize::from_le_bytes(block)
    });
    Some(FixedBitSet::with_capacity_and_blocks(count, blocks))
}

#[cfg(test)]
mod tests;
