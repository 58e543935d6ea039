//! Cuts the peer's bytes into messages; a long one is read as it comes.

use crate::peer::PeerMisbehaved;
use crate::peer::message::{self, Message, Parsed};

#[derive(Debug, Default)]
pub struct Intake {
    long: Option<Long>,
}

/// What is at the front of the bytes.
pub enum Next<'a> {
    /// A part of something, to be continued.
    More,
    Whole(Message<'a>),
    /// The head of a long message.
    LongBegins,
    /// The end of one: a bitfield's body, nothing of others.
    LongEnds(Option<Vec<u8>>),
}

/// A message longer than the caller's buffer may be.
#[derive(Debug)]
struct Long {
    left: usize,
    /// Of a bitfield; others are passed over.
    kept: Option<Vec<u8>>,
}

impl Intake {
    /// With how many bytes are thereby taken. `pieces`: their number, if it is known.
    pub fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        pieces: Option<u32>,
    ) -> Result<(Next<'a>, usize), PeerMisbehaved> {
        if let Some(mut long) = self.long.take() {
            let len = long.take(bytes);
            if long.left == 0 {
                return Ok((Next::LongEnds(long.kept), len));
            }
            self.long = Some(long);
            return Ok((Next::More, len));
        }
        Ok(match message::parse(bytes, pieces)? {
            Parsed::More => (Next::More, 0),
            Parsed::Whole(message, len) => (Next::Whole(message), len),
            Parsed::Long {
                bitfield,
                head,
                body,
            } => {
                self.long = Some(Long {
                    left: body,
                    kept: bitfield.then(Vec::new),
                });
                (Next::LongBegins, head)
            }
        })
    }
}

impl Long {
    /// How many of `bytes` belong to it.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let len = self.left.min(bytes.len());
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes[..len]);
        }
        self.left -= len;
        len
    }
}
