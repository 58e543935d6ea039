//! One connection's state: what both sides said, and what is to be said next (BEP 3, 6, 9, 10, 21).

mod downloads;
mod events;
mod holdings;
mod intake;
mod introduction;
mod metadata;
mod offers;
mod outbox;
mod pulse;
mod uploads;

use fixedbitset::FixedBitSet;

use crate::peer::PeerMisbehaved;
use crate::peer::extension;
use crate::peer::handshake;
use crate::peer::message::{self, Message, PIECE_HEAD_LEN};
use crate::peer::session::downloads::{Downloads, Rejected};
use crate::peer::session::events::Events;
pub use crate::peer::session::events::{EVENTS_MAX, Event};
use crate::peer::session::holdings::{Holdings, Told};
use crate::peer::session::intake::{Intake, Next};
use crate::peer::session::introduction::Introduction;
use crate::peer::session::metadata::{Exchange, Heard};
use crate::peer::session::offers::Offers;
use crate::peer::session::outbox::Outbox;
use crate::peer::session::pulse::Pulse;
pub use crate::peer::session::pulse::{HANDSHAKE_WAIT, IDLE_WAIT, KEEP_ALIVE};
use crate::peer::session::uploads::{REQUEST_MAX, Uploads};
use crate::units::{BlockSpan, InfoHash, PeerId, PieceIndex, Time};

#[derive(Clone, Debug)]
pub struct Setup {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    /// Zero: we accept no connections.
    pub listen_port: u16,
    /// `None`: the metadata is not known yet.
    pub pieces: Option<u32>,
    pub metadata_len: Option<u32>,
    /// BEP 21: we want nothing.
    pub upload_only: bool,
}

/// What goes to the socket next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Send {
    Bytes(Vec<u8>),
    /// `peer::message::piece_head(span)`, then the bytes of the span.
    Block(BlockSpan),
}

/// Either direction; the first bytes each way are the handshake.
#[derive(Debug)]
pub struct Session {
    incoming: bool,
    introduction: Introduction,
    started: bool,
    offers: Offers,
    holdings: Holdings,
    intake: Intake,
    downloads: Downloads,
    uploads: Uploads,
    metadata: Exchange,
    interested_in_us: bool,
    interested: bool,
    events: Events,
    outbox: Outbox,
    pulse: Pulse,
}

impl Session {
    pub fn outgoing(now: Time, setup: Setup) -> Self {
        let mut session = Self::new(now, &setup, false);
        session.shake_hands();
        session
    }

    pub fn incoming(now: Time, setup: Setup) -> Self {
        Self::new(now, &setup, true)
    }

    fn new(now: Time, setup: &Setup, incoming: bool) -> Self {
        Self {
            incoming,
            introduction: Introduction::new(setup.info_hash, setup.peer_id),
            started: false,
            offers: Offers::new(setup),
            holdings: Holdings::new(setup.pieces),
            intake: Intake::default(),
            downloads: Downloads::default(),
            uploads: Uploads::default(),
            metadata: Exchange::default(),
            interested_in_us: false,
            interested: false,
            events: Events::new(),
            outbox: Outbox::default(),
            pulse: Pulse::new(now),
        }
    }

    /// Takes whole messages off the front of `bytes`, and says how many bytes they were; a part of
    /// one stays the caller's, who gives it again with more behind it. At most [`EVENTS_MAX`]
    /// events are made, so call until nothing is taken, draining `poll_event` after each call.
    pub fn handle_bytes(&mut self, now: Time, bytes: &[u8]) -> Result<usize, PeerMisbehaved> {
        self.pulse.handle_bytes(now, !bytes.is_empty());
        self.outbox.check()?;
        if !self.ready() {
            return self.handle_handshake(bytes);
        }
        let mut at = 0;
        while !self.events.is_full() {
            let (next, len) = self.intake.next(&bytes[at..], self.holdings.count())?;
            match next {
                Next::More => return Ok(at + len),
                Next::Whole(message) => self.handle_message(message, at)?,
                Next::LongBegins => self.pulse.count()?,
                Next::LongEnds(Some(bitfield)) => self.handle_bitfield(&bitfield)?,
                Next::LongEnds(None) => {}
            }
            at += len;
        }
        Ok(at)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// Control messages go before blocks.
    pub fn poll_send(&mut self) -> Option<Send> {
        self.poll_control().or_else(|| self.poll_block())
    }

    pub fn poll_control(&mut self) -> Option<Send> {
        let bytes = self.outbox.take()?;
        self.pulse.handle_said();
        Some(Send::Bytes(bytes))
    }

    pub fn poll_block(&mut self) -> Option<Send> {
        let span = self.uploads.pop()?;
        self.pulse.handle_said();
        Some(Send::Block(span))
    }

    /// The block that [`Session::poll_block`] gives.
    pub fn next_upload(&self) -> Option<BlockSpan> {
        self.uploads.next()
    }

    pub fn next_timeout(&self) -> Time {
        self.pulse.next_timeout(self.ready())
    }

    pub fn handle_timeout(&mut self, now: Time) -> Result<(), PeerMisbehaved> {
        if self.pulse.handle_timeout(now, self.ready())? {
            self.outbox.write(Message::KeepAlive);
        }
        self.outbox.check()
    }

    fn shake_hands(&mut self) {
        self.outbox.write_handshake(self.introduction.ours());
    }
}

/// What we say. All but the handshake waits for [`Session::start`]; before it these do nothing.
impl Session {
    /// Once, after [`Event::Handshake`]: tells what we have (of `have.len()` pieces, none where the
    /// metadata is unknown), then who we are (BEP 10).
    pub fn start(&mut self, have: &FixedBitSet, complete: bool) {
        if !self.ready() || std::mem::replace(&mut self.started, true) {
            return;
        }
        let fast = self.fast();
        match (fast, have.is_clear()) {
            (true, _) if complete => self.outbox.write(Message::HaveAll),
            (true, true) => self.outbox.write(Message::HaveNone),
            (false, true) => {}
            (_, false) => self
                .outbox
                .write(Message::Bitfield(&message::bitfield_bytes(have))),
        }
        self.write_offers();
    }

    fn write_offers(&mut self) {
        if self.started && self.introduction.extended() {
            self.offers.write(&mut self.outbox);
        }
    }

    /// The metadata has come: what the peer said before is judged by it, and the peer learns that
    /// it may ask us for metadata.
    pub fn know_pieces(&mut self, count: u32, metadata_len: u32) -> Result<(), PeerMisbehaved> {
        self.offers.know_metadata(metadata_len);
        self.metadata.forget();
        self.holdings.know(count)?;
        self.write_offers();
        Ok(())
    }

    /// BEP 21: we want nothing more, or something again.
    pub fn set_upload_only(&mut self, upload_only: bool) {
        if self.offers.set_upload_only(upload_only) {
            self.write_offers();
        }
    }

    pub fn interested(&mut self, interested: bool) {
        if !self.started || self.interested == interested {
            return;
        }
        self.interested = interested;
        self.outbox.write(if interested {
            Message::Interested
        } else {
            Message::NotInterested
        });
    }

    /// A choke drops what was asked of us and not sent; a fast peer is told of each (BEP 6).
    pub fn choke(&mut self, choke: bool) {
        if !self.started || self.uploads.choked() == choke {
            return;
        }
        self.outbox.write(if choke {
            Message::Choke
        } else {
            Message::Unchoke
        });
        let fast = self.fast();
        for span in self.uploads.choke(choke) {
            if fast {
                self.outbox.write(Message::Reject(span));
            }
        }
    }

    /// Asks for a block. A peer without the fast extension that chokes us would not answer, so it
    /// is not asked: [`Event::Choked`] has told, or is about to.
    pub fn request(&mut self, span: BlockSpan) {
        if self.started && (self.fast() || !self.choking_us()) {
            self.downloads.ask(span);
            self.outbox.write(Message::Request(span));
        }
    }

    /// Does nothing if the request is over.
    pub fn cancel(&mut self, span: BlockSpan) {
        if self.downloads.cancel(span) {
            self.outbox.write(Message::Cancel(span));
        }
    }

    /// Queues a block that the peer asked for; does nothing if it took the request back.
    pub fn upload(&mut self, span: BlockSpan) {
        self.uploads.serve(span);
    }

    /// Refuses a request; without the fast extension in silence.
    pub fn reject(&mut self, span: BlockSpan) {
        if self.uploads.remove(span) && self.fast() {
            self.outbox.write(Message::Reject(span));
        }
    }

    pub fn request_metadata(&mut self, piece: u32) {
        if let Some(id) = self.metadata_id() {
            self.metadata.request(&mut self.outbox, id, piece);
        }
    }

    /// `total` is the length of the info dictionary, `data` the bytes of this piece of it.
    pub fn send_metadata(&mut self, piece: u32, total: u32, data: &[u8]) {
        if let Some(id) = self.metadata_id() {
            self.metadata.send(&mut self.outbox, id, piece, total, data);
        }
    }

    pub fn reject_metadata(&mut self, piece: u32) {
        if let Some(id) = self.metadata_id() {
            self.metadata.reject(&mut self.outbox, id, piece);
        }
    }

    /// If the peer takes such messages now.
    fn metadata_id(&self) -> Option<u8> {
        self.offers.metadata_id().filter(|_| self.started)
    }
}

/// What is known of the peer.
impl Session {
    /// Both handshakes are done.
    pub fn ready(&self) -> bool {
        self.introduction.is_done()
    }

    pub fn remote_id(&self) -> Option<PeerId> {
        self.introduction.remote_id()
    }

    /// Its own words, printable.
    pub fn client(&self) -> Option<&str> {
        self.offers.client()
    }

    pub fn choking_us(&self) -> bool {
        self.downloads.choking_us()
    }

    /// By us.
    pub fn choked(&self) -> bool {
        self.uploads.choked()
    }

    /// We told it that we want something.
    pub fn is_interesting(&self) -> bool {
        self.interested
    }

    pub fn interested_in_us(&self) -> bool {
        self.interested_in_us
    }

    /// What it has; of length zero while the number of pieces is unknown.
    pub fn pieces(&self) -> &FixedBitSet {
        self.holdings.pieces()
    }

    pub fn has(&self, piece: PieceIndex) -> bool {
        self.holdings.has(piece)
    }

    /// Pieces that it has.
    pub fn held(&self) -> u32 {
        self.holdings.held()
    }

    pub fn is_seed(&self) -> bool {
        self.holdings.is_seed()
    }

    /// Both sides speak BEP 6.
    pub fn fast(&self) -> bool {
        self.introduction.fast()
    }

    /// May be asked for while the peer chokes us.
    pub fn allowed_fast(&self, piece: PieceIndex) -> bool {
        self.downloads.allowed_fast(piece)
    }

    /// Requests that it lets us queue.
    pub fn reqq(&self) -> u32 {
        self.offers.reqq()
    }

    /// It wants nothing of us (BEP 21).
    pub fn upload_only(&self) -> bool {
        self.offers.upload_only() || self.is_seed()
    }

    /// `Some` only if it answers requests for metadata.
    pub fn metadata_len(&self) -> Option<u32> {
        self.offers.metadata_len()
    }

    /// Our requests that are neither answered nor cancelled.
    pub fn outstanding(&self) -> usize {
        self.downloads.len()
    }
}

/// What the peer says.
impl Session {
    fn handle_handshake(&mut self, bytes: &[u8]) -> Result<usize, PeerMisbehaved> {
        let Some(theirs) = self.introduction.handle_bytes(bytes)? else {
            return Ok(0);
        };
        if self.incoming {
            self.shake_hands();
        }
        self.events.push(Event::Handshake {
            peer_id: theirs.peer_id,
            info_hash: theirs.info_hash,
        });
        // The rest waits for the next call, so that `start` comes before any answer.
        Ok(handshake::LEN)
    }

    /// `at`: where the message begins in the caller's bytes.
    fn handle_message(&mut self, message: Message<'_>, at: usize) -> Result<(), PeerMisbehaved> {
        if matches!(
            message,
            Message::Piece(_)
                | Message::Request(_)
                | Message::Have(_)
                | Message::Choke
                | Message::Unchoke
                | Message::Interested
                | Message::NotInterested
        ) {
            self.holdings.pass_first();
        }
        match message {
            Message::Piece(span) => return self.handle_block(span, at),
            Message::Request(span) => return self.handle_request(span),
            Message::Have(piece) => return self.handle_have(piece),
            Message::Reject(span) => return self.handle_reject(span),
            Message::Cancel(span) => return self.handle_cancel(span),
            _ => self.pulse.count()?,
        }
        match message {
            Message::KeepAlive | Message::Port(_) | Message::Unknown => {}
            Message::Choke => self.handle_choke(),
            Message::Unchoke => {
                if self.downloads.unchoke() {
                    self.events.push(Event::Unchoked);
                }
            }
            Message::Interested => self.handle_interest(true),
            Message::NotInterested => self.handle_interest(false),
            Message::Bitfield(body) => self.handle_bitfield(body)?,
            Message::HaveAll => {
                self.expect_fast()?;
                self.holdings.expect_first()?;
                self.holdings.have_all();
                self.tell_bitfield();
            }
            Message::HaveNone => {
                self.expect_fast()?;
                self.holdings.expect_first()?;
                self.tell_bitfield();
            }
            Message::Suggest(piece) => {
                self.expect_fast()?;
                self.holdings.expect_piece(piece)?;
                self.events.push(Event::Suggested(piece));
            }
            Message::AllowedFast(piece) => self.handle_allowed_fast(piece)?,
            Message::Extended { id, payload } => {
                // The payload follows the prefix and the two ids.
                self.handle_extended(id, payload, at + 6)?;
            }
            Message::Piece(_)
            | Message::Request(_)
            | Message::Have(_)
            | Message::Reject(_)
            | Message::Cancel(_) => unreachable!("handled above"),
        }
        Ok(())
    }

    fn handle_block(&mut self, span: BlockSpan, at: usize) -> Result<(), PeerMisbehaved> {
        if self.downloads.arrived(span)? {
            let start = at + PIECE_HEAD_LEN;
            self.events.push(Event::Block {
                span,
                at: start..start + span.len as usize,
            });
        }
        Ok(())
    }

    fn handle_request(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        if span.len == 0 || span.len > REQUEST_MAX || span.begin.checked_add(span.len).is_none() {
            return Err(PeerMisbehaved::drop("request-length"));
        }
        if self.choked() {
            self.uploads.ask_choked()?;
            if self.fast() {
                self.outbox.write(Message::Reject(span));
            }
            return Ok(());
        }
        self.holdings.expect_piece(span.piece)?;
        self.uploads.ask(span)?;
        self.events.push(Event::Request(span));
        Ok(())
    }

    /// BEP 6: a cancelled request is still answered, here by a rejection.
    fn handle_cancel(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        if !self.uploads.remove(span) {
            return self.pulse.count();
        }
        if self.fast() {
            self.outbox.write(Message::Reject(span));
        }
        self.events.push(Event::Cancelled(span));
        Ok(())
    }

    fn handle_reject(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        self.expect_fast()?;
        match self.downloads.rejected(span) {
            Rejected::Outstanding => self.events.push(Event::Rejected(span)),
            Rejected::Cancelled => {}
            Rejected::Unknown => self.pulse.count()?,
        }
        Ok(())
    }

    /// A `have` of a new piece is no flood: there are only so many pieces.
    fn handle_have(&mut self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        match self.holdings.have(piece)? {
            Told::New => self.events.push(Event::Have(piece)),
            Told::Kept => {}
            Told::Known => self.pulse.count()?,
        }
        Ok(())
    }

    fn handle_choke(&mut self) {
        let fast = self.fast();
        if self.downloads.choke(fast) {
            self.events.push(Event::Choked);
        }
    }

    fn handle_interest(&mut self, interested: bool) {
        if std::mem::replace(&mut self.interested_in_us, interested) != interested {
            self.events.push(if interested {
                Event::Interested
            } else {
                Event::NotInterested
            });
        }
    }

    fn handle_bitfield(&mut self, body: &[u8]) -> Result<(), PeerMisbehaved> {
        if self.holdings.is_late() {
            let new = self.holdings.late_bitfield(body)?;
            new.into_iter()
                .for_each(|piece| self.events.push(Event::Have(piece)));
            return Ok(());
        }
        self.holdings.expect_first()?;
        self.holdings.bitfield(body)?;
        self.tell_bitfield();
        Ok(())
    }

    fn tell_bitfield(&mut self) {
        if self.holdings.count().is_some() {
            self.events.push(Event::Bitfield);
        }
    }

    fn handle_allowed_fast(&mut self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        self.expect_fast()?;
        self.holdings.expect_piece(piece)?;
        if self.downloads.allow_fast(piece) {
            self.events.push(Event::AllowedFast(piece));
        }
        Ok(())
    }

    fn handle_extended(&mut self, id: u8, payload: &[u8], at: usize) -> Result<(), PeerMisbehaved> {
        match id {
            extension::HANDSHAKE => {
                let port = self.offers.handle(payload)?;
                if let Some(port) = port {
                    self.events.push(Event::ListenPort(port));
                }
                self.events.push(Event::Extended);
            }
            extension::UT_METADATA => self.handle_metadata(payload, at)?,
            _ => {}
        }
        Ok(())
    }

    fn handle_metadata(&mut self, payload: &[u8], at: usize) -> Result<(), PeerMisbehaved> {
        let total = self.offers.own_metadata_len();
        match self.metadata.handle(payload, at, total)? {
            Heard::Nothing => {}
            Heard::Tell(event) => self.events.push(event),
            Heard::Refuse(piece) => self.reject_metadata(piece),
        }
        Ok(())
    }

    fn expect_fast(&self) -> Result<(), PeerMisbehaved> {
        if self.fast() {
            Ok(())
        } else {
            Err(PeerMisbehaved::drop("fast-not-agreed"))
        }
    }
}

#[cfg(test)]
mod tests;
