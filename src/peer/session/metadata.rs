//! The info dictionary in pieces: which we asked for, and how much the peer was given (BEP 9).

use crate::peer::PeerMisbehaved;
use crate::peer::extension::{self, Metadata};
use crate::peer::message::Message;
use crate::peer::session::Event;
use crate::peer::session::outbox::Outbox;

/// Metadata requests of ours without an answer.
const ASKED_MAX: usize = 256;
/// One connection is given the metadata so many times; it is no way around the choke.
const COPIES_MAX: u64 = 3;

#[derive(Debug, Default)]
pub struct Exchange {
    asked: Vec<u32>,
    /// Bytes that the peer was given.
    sent: u64,
}

/// What a message of the peer's leads to.
pub enum Heard {
    Nothing,
    Tell(Event),
    /// It asks for a piece that there is none of.
    Refuse(u32),
}

/// `id`: under which the peer takes these messages.
impl Exchange {
    pub fn request(&mut self, outbox: &mut Outbox, id: u8, piece: u32) {
        if self.asked.len() < ASKED_MAX {
            write(outbox, id, Metadata::Request { piece }, &[]);
            self.asked.push(piece);
        }
    }

    /// `total` is the length of the info dictionary. Refuses a peer that had enough, or that does
    /// not read.
    pub fn send(&mut self, outbox: &mut Outbox, id: u8, piece: u32, total: u32, data: &[u8]) {
        let enough = self.sent >= COPIES_MAX * u64::from(total);
        if enough || !outbox.takes_metadata() {
            return self.reject(outbox, id, piece);
        }
        let at = 0;
        write(outbox, id, Metadata::Data { piece, total, at }, data);
        self.sent += u64::try_from(data.len()).expect("usize fits");
    }

    pub fn reject(&self, outbox: &mut Outbox, id: u8, piece: u32) {
        write(outbox, id, Metadata::Reject { piece }, &[]);
    }

    /// The metadata is known: further answers are of no use.
    pub fn forget(&mut self) {
        self.asked.clear();
    }

    /// `at`: where the payload begins in the caller's bytes; `total`: bytes of metadata that we
    /// have.
    pub fn handle(
        &mut self,
        payload: &[u8],
        at: usize,
        total: u32,
    ) -> Result<Heard, PeerMisbehaved> {
        Ok(match Metadata::parse(payload)? {
            Metadata::Request { piece } => {
                if extension::metadata_piece_len(piece, total) > 0 {
                    Heard::Tell(Event::MetadataRequest { piece })
                } else {
                    Heard::Refuse(piece)
                }
            }
            Metadata::Data {
                piece,
                total,
                at: data,
            } if self.answered(piece) => {
                let at = at + data..at + payload.len();
                Heard::Tell(Event::Metadata { piece, total, at })
            }
            Metadata::Reject { piece } if self.answered(piece) => {
                Heard::Tell(Event::MetadataRejected { piece })
            }
            Metadata::Data { .. } | Metadata::Reject { .. } | Metadata::Unknown => Heard::Nothing,
        })
    }

    /// Whether it was asked for; what was not is passed over.
    fn answered(&mut self, piece: u32) -> bool {
        let found = self.asked.iter().position(|asked| *asked == piece);
        if let Some(at) = found {
            self.asked.swap_remove(at);
        }
        found.is_some()
    }
}

fn write(outbox: &mut Outbox, id: u8, metadata: Metadata, data: &[u8]) {
    let mut payload = metadata.encode();
    payload.extend_from_slice(data);
    outbox.write(Message::Extended {
        id,
        payload: &payload,
    });
}
