//! One connection's state: what both sides said, and what is to be said next (BEP 3, 6, 9, 10, 21).

mod downloads;
mod holdings;
mod uploads;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use crate::peer::PeerMisbehaved;
use crate::peer::extension::{self, Metadata, Offer};
use crate::peer::handshake::{self, Handshake};
use crate::peer::message::{self, Message, PIECE_HEAD_LEN, Parsed};
use crate::peer::session::downloads::{Downloads, Rejected};
use crate::peer::session::holdings::{Holdings, Told};
use crate::peer::session::uploads::{REQUEST_MAX, Uploads};
use crate::units::{BlockSpan, InfoHash, PeerId, PieceIndex, Time};

/// R44.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// R44's 120 s and a margin: clients send their keep-alive every two minutes (BEP 3), and the wire
/// takes time.
pub const IDLE_WAIT: Duration = Duration::from_secs(130);
/// Below the two minutes after which others hang up.
pub const KEEP_ALIVE: Duration = Duration::from_secs(110);
/// Events that one call leaves behind.
pub const EVENTS_MAX: usize = 64;
/// Messages a second that carry neither blocks nor news (R41).
const CONTROL_PER_S: u32 = 1000;
/// Control bytes that wait for a peer that does not read.
const BACKLOG_MAX: usize = 1024 * 1024;
/// Beyond this backlog no metadata is added to it.
const METADATA_BACKLOG_MAX: usize = BACKLOG_MAX / 2;
/// Pieces that a peer lets us ask for while it chokes us (BEP 6).
const ALLOWED_FAST_MAX: usize = 64;
/// Metadata requests of ours without an answer.
const METADATA_ASKED_MAX: usize = 256;
/// One connection is given the metadata so many times; it is no way around the choke.
const METADATA_COPIES_MAX: u64 = 3;

const _: () = assert!(IDLE_WAIT.as_secs() > KEEP_ALIVE.as_secs());
const _: () = assert!(BACKLOG_MAX > message::PIECES_MAX as usize / 8 + METADATA_BACKLOG_MAX);

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

/// What the peer said. Ranges `at` index the bytes given to the `handle_bytes` call that made the
/// event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answered by [`Session::start`].
    Handshake {
        peer_id: PeerId,
        info_hash: InfoHash,
    },
    /// An extended handshake: `client`, `reqq`, `metadata_len`, `upload_only` may have changed.
    Extended,
    /// A bitfield, have-all or have-none. While the number of pieces is unknown neither this nor
    /// `Have` is told: look at `pieces` after [`Session::know_pieces`].
    Bitfield,
    /// Of a piece that the peer did not have before.
    Have(PieceIndex),
    /// Without the fast extension, all that was asked is thereby forgotten; with it the peer
    /// rejects each.
    Choked,
    Unchoked,
    Interested,
    NotInterested,
    /// Asked for, even if cancelled since.
    Block {
        span: BlockSpan,
        at: Range<usize>,
    },
    /// A request that was not cancelled will not be served.
    Rejected(BlockSpan),
    AllowedFast(PieceIndex),
    Suggested(PieceIndex),
    /// To be answered by `upload` or `reject`; that it lies inside its piece is not checked here.
    Request(BlockSpan),
    /// The peer takes a request back; what was queued of it is gone.
    Cancelled(BlockSpan),
    /// To be answered by `send_metadata` or `reject_metadata`.
    MetadataRequest {
        piece: u32,
    },
    Metadata {
        piece: u32,
        total: u32,
        at: Range<usize>,
    },
    MetadataRejected {
        piece: u32,
    },
    /// Where the peer accepts connections (BEP 10 `p`).
    ListenPort(u16),
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
    setup: Setup,
    incoming: bool,
    remote: Option<Remote>,
    started: bool,
    offer: Offer,
    holdings: Holdings,
    /// Something came that a bitfield may not follow.
    bitfield_late: bool,
    long: Option<Long>,
    downloads: Downloads,
    uploads: Uploads,
    allowed_fast: Vec<PieceIndex>,
    metadata_asked: Vec<u32>,
    /// Bytes of metadata that the peer was given.
    metadata_sent: u64,
    choking_us: bool,
    interested_in_us: bool,
    choked: bool,
    interested: bool,
    flood: Flood,
    events: VecDeque<Event>,
    control: Vec<u8>,
    /// The latest `now` that was given.
    now: Time,
    opened: Time,
    heard: Time,
    said: Time,
}

/// What the peer's handshake fixed.
#[derive(Debug)]
struct Remote {
    peer_id: PeerId,
    /// Both sides offer it.
    fast: bool,
    extended: bool,
}

/// A message that is read as it comes.
#[derive(Debug)]
struct Long {
    left: usize,
    /// Of a bitfield; others are passed over.
    kept: Option<Vec<u8>>,
}

impl Session {
    pub fn outgoing(now: Time, setup: Setup) -> Self {
        let mut session = Self::new(now, setup, false);
        session.shake_hands();
        session
    }

    pub fn incoming(now: Time, setup: Setup) -> Self {
        Self::new(now, setup, true)
    }

    fn new(now: Time, setup: Setup, incoming: bool) -> Self {
        Self {
            holdings: Holdings::new(setup.pieces),
            setup,
            incoming,
            remote: None,
            started: false,
            offer: Offer::default(),
            bitfield_late: false,
            long: None,
            downloads: Downloads::default(),
            uploads: Uploads::default(),
            allowed_fast: Vec::new(),
            metadata_asked: Vec::new(),
            metadata_sent: 0,
            choking_us: true,
            interested_in_us: false,
            choked: true,
            interested: false,
            flood: Flood::default(),
            events: VecDeque::with_capacity(EVENTS_MAX),
            control: Vec::new(),
            now,
            opened: now,
            heard: now,
            said: now,
        }
    }

    /// Takes whole messages off the front of `bytes`, and says how many bytes they were; a part of
    /// one stays the caller's, who gives it again with more behind it. At most [`EVENTS_MAX`]
    /// events are made, so call until nothing is taken, draining `poll_event` after each call.
    pub fn handle_bytes(&mut self, now: Time, bytes: &[u8]) -> Result<usize, PeerMisbehaved> {
        self.now = now;
        if !bytes.is_empty() {
            self.heard = now;
        }
        self.check_backlog()?;
        if self.remote.is_none() {
            return self.handle_handshake(bytes);
        }
        let mut at = 0;
        while self.events.len() < EVENTS_MAX {
            let rest = &bytes[at..];
            if let Some(long) = &mut self.long {
                at += long.take(rest);
                if long.left > 0 {
                    break;
                }
                if let Some(body) = self.long.take().and_then(|long| long.kept) {
                    self.handle_bitfield(&body)?;
                }
                continue;
            }
            match message::parse(rest, self.holdings.count())? {
                Parsed::More => break,
                Parsed::Whole(message, len) => {
                    self.handle_message(message, at)?;
                    at += len;
                }
                Parsed::Long {
                    bitfield,
                    head,
                    body,
                } => {
                    self.flood.count(now)?;
                    self.long = Some(Long {
                        left: body,
                        kept: bitfield.then(Vec::new),
                    });
                    at += head;
                }
            }
        }
        Ok(at)
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Control messages go before blocks.
    pub fn poll_send(&mut self) -> Option<Send> {
        let send = if self.control.is_empty() {
            self.uploads.pop().map(Send::Block)
        } else {
            Some(Send::Bytes(std::mem::take(&mut self.control)))
        };
        if send.is_some() {
            self.said = self.now;
        }
        send
    }

    pub fn next_timeout(&self) -> Time {
        if self.remote.is_none() {
            self.opened + HANDSHAKE_WAIT
        } else {
            (self.heard + IDLE_WAIT).min(self.said + KEEP_ALIVE)
        }
    }

    pub fn handle_timeout(&mut self, now: Time) -> Result<(), PeerMisbehaved> {
        self.now = now;
        if self.remote.is_none() {
            if now >= self.opened + HANDSHAKE_WAIT {
                return Err(PeerMisbehaved::drop("no-handshake"));
            }
            return Ok(());
        }
        if now >= self.heard + IDLE_WAIT {
            return Err(PeerMisbehaved::drop("idle"));
        }
        if now >= self.said + KEEP_ALIVE {
            self.said = now;
            self.write(Message::KeepAlive);
        }
        self.check_backlog()
    }

    fn check_backlog(&self) -> Result<(), PeerMisbehaved> {
        if self.control.len() > BACKLOG_MAX {
            return Err(PeerMisbehaved::drop("does-not-read"));
        }
        Ok(())
    }

    fn write(&mut self, message: Message<'_>) {
        message.write(&mut self.control);
    }

    fn shake_hands(&mut self) {
        let ours = Handshake::ours(self.setup.info_hash, self.setup.peer_id);
        self.control.extend(ours.encode());
    }
}

/// What we say. All but the handshake waits for [`Session::start`]; before it these do nothing.
impl Session {
    /// Once, after [`Event::Handshake`]: tells what we have (of `have.len()` pieces, none where the
    /// metadata is unknown), then who we are (BEP 10).
    pub fn start(&mut self, have: &FixedBitSet, complete: bool) {
        let Some(remote) = &self.remote else { return };
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let (fast, extended) = (remote.fast, remote.extended);
        match (fast, have.is_clear()) {
            (true, _) if complete => self.write(Message::HaveAll),
            (true, true) => self.write(Message::HaveNone),
            (false, true) => {}
            (_, false) => self.write(Message::Bitfield(&message::bitfield_bytes(have))),
        }
        if extended {
            self.write_offer();
        }
    }

    fn write_offer(&mut self) {
        let Setup {
            metadata_len,
            listen_port,
            upload_only,
            ..
        } = self.setup;
        let payload = extension::handshake(metadata_len, listen_port, upload_only);
        self.write(Message::Extended {
            id: extension::HANDSHAKE,
            payload: &payload,
        });
    }

    /// The metadata has come: what the peer said before is judged by it, and the peer learns that
    /// it may ask us for metadata.
    pub fn know_pieces(&mut self, count: u32, metadata_len: u32) -> Result<(), PeerMisbehaved> {
        self.setup.metadata_len = Some(metadata_len);
        self.metadata_asked.clear();
        self.holdings.know(count)?;
        self.repeat_offer();
        Ok(())
    }

    /// BEP 21: we want nothing more, or something again.
    pub fn set_upload_only(&mut self, upload_only: bool) {
        if std::mem::replace(&mut self.setup.upload_only, upload_only) != upload_only {
            self.repeat_offer();
        }
    }

    fn repeat_offer(&mut self) {
        if self.started && self.remote.as_ref().is_some_and(|remote| remote.extended) {
            self.write_offer();
        }
    }

    pub fn have(&mut self, piece: PieceIndex) {
        if self.started {
            self.write(Message::Have(piece));
        }
    }

    pub fn interested(&mut self, interested: bool) {
        if !self.started || self.interested == interested {
            return;
        }
        self.interested = interested;
        self.write(if interested {
            Message::Interested
        } else {
            Message::NotInterested
        });
    }

    /// A choke drops what was asked of us and not sent; a fast peer is told of each (BEP 6).
    pub fn choke(&mut self, choke: bool) {
        if !self.started || self.choked == choke {
            return;
        }
        self.choked = choke;
        self.write(if choke {
            Message::Choke
        } else {
            Message::Unchoke
        });
        let fast = self.fast();
        for span in self.uploads.choke() {
            if fast {
                Message::Reject(span).write(&mut self.control);
            }
        }
    }

    /// Asks for a block. A peer without the fast extension that chokes us would not answer, so it
    /// is not asked: [`Event::Choked`] has told, or is about to.
    pub fn request(&mut self, span: BlockSpan) {
        if self.started && (self.fast() || !self.choking_us) {
            self.downloads.ask(span);
            self.write(Message::Request(span));
        }
    }

    /// Does nothing if the request is over.
    pub fn cancel(&mut self, span: BlockSpan) {
        if self.downloads.cancel(span) {
            self.write(Message::Cancel(span));
        }
    }

    /// Queues a block that the peer asked for; does nothing if it took the request back.
    pub fn upload(&mut self, span: BlockSpan) {
        self.uploads.serve(span);
    }

    /// Refuses a request; without the fast extension in silence.
    pub fn reject(&mut self, span: BlockSpan) {
        if self.uploads.remove(span) && self.fast() {
            self.write(Message::Reject(span));
        }
    }

    pub fn request_metadata(&mut self, piece: u32) {
        let room = self.metadata_asked.len() < METADATA_ASKED_MAX;
        if room && self.write_metadata(Metadata::Request { piece }, &[]) {
            self.metadata_asked.push(piece);
        }
    }

    /// `total` is the length of the info dictionary, `data` the bytes of this piece of it.
    pub fn send_metadata(&mut self, piece: u32, total: u32, data: &[u8]) {
        let enough = self.metadata_sent >= METADATA_COPIES_MAX * u64::from(total);
        if enough || self.control.len() > METADATA_BACKLOG_MAX {
            return self.reject_metadata(piece);
        }
        let at = 0;
        if self.write_metadata(Metadata::Data { piece, total, at }, data) {
            self.metadata_sent += u64::try_from(data.len()).expect("usize fits");
        }
    }

    pub fn reject_metadata(&mut self, piece: u32) {
        self.write_metadata(Metadata::Reject { piece }, &[]);
    }

    /// Whether the peer takes such messages.
    fn write_metadata(&mut self, metadata: Metadata, data: &[u8]) -> bool {
        let id = self.offer.ut_metadata.unwrap_or(0);
        if !self.started || id == 0 {
            return false;
        }
        let mut payload = metadata.encode();
        payload.extend_from_slice(data);
        self.write(Message::Extended {
            id,
            payload: &payload,
        });
        true
    }
}

/// What is known of the peer.
impl Session {
    /// Both handshakes are done.
    pub fn ready(&self) -> bool {
        self.remote.is_some()
    }

    pub fn remote_id(&self) -> Option<PeerId> {
        self.remote.as_ref().map(|remote| remote.peer_id)
    }

    /// Its own words, printable.
    pub fn client(&self) -> Option<&str> {
        self.offer.client.as_deref()
    }

    pub fn choking_us(&self) -> bool {
        self.choking_us
    }

    /// By us.
    pub fn choked(&self) -> bool {
        self.choked
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

    pub fn is_seed(&self) -> bool {
        self.holdings.is_seed()
    }

    /// Both sides speak BEP 6.
    pub fn fast(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.fast)
    }

    /// May be asked for while the peer chokes us.
    pub fn allowed_fast(&self, piece: PieceIndex) -> bool {
        self.allowed_fast.contains(&piece)
    }

    /// Requests that it lets us queue.
    pub fn reqq(&self) -> u32 {
        self.offer.reqq.unwrap_or(extension::REQQ)
    }

    /// It wants nothing of us (BEP 21).
    pub fn upload_only(&self) -> bool {
        self.offer.upload_only == Some(true) || self.is_seed()
    }

    /// `Some` only if it answers requests for metadata.
    pub fn metadata_len(&self) -> Option<u32> {
        self.offer
            .metadata_len
            .filter(|_| self.offer.ut_metadata.is_some_and(|id| id != 0))
    }

    /// Our requests that are neither answered nor cancelled.
    pub fn outstanding(&self) -> usize {
        self.downloads.len()
    }

    /// Blocks promised and not yet given to the socket.
    pub fn queued_uploads(&self) -> usize {
        self.uploads.queued()
    }
}

/// What the peer says.
impl Session {
    fn handle_handshake(&mut self, bytes: &[u8]) -> Result<usize, PeerMisbehaved> {
        let Some(theirs) = Handshake::parse(bytes)? else {
            return Ok(0);
        };
        if theirs.info_hash != self.setup.info_hash {
            return Err(PeerMisbehaved::drop("info-hash"));
        }
        if theirs.peer_id == self.setup.peer_id {
            return Err(PeerMisbehaved::drop("self"));
        }
        if self.incoming {
            self.shake_hands();
        }
        self.remote = Some(Remote {
            peer_id: theirs.peer_id,
            fast: theirs.fast(),
            extended: theirs.extended(),
        });
        self.events.push_back(Event::Handshake {
            peer_id: theirs.peer_id,
            info_hash: theirs.info_hash,
        });
        // The rest waits for the next call, so that `start` comes before any answer.
        Ok(handshake::LEN)
    }

    /// `at`: where the message begins in the caller's bytes.
    fn handle_message(&mut self, message: Message<'_>, at: usize) -> Result<(), PeerMisbehaved> {
        match message {
            Message::Piece(span) => return self.handle_block(span, at),
            Message::Request(span) => return self.handle_request(span),
            Message::Have(piece) => return self.handle_have(piece),
            Message::Reject(span) => return self.handle_reject(span),
            Message::Cancel(span) => return self.handle_cancel(span),
            _ => self.flood.count(self.now)?,
        }
        match message {
            Message::KeepAlive | Message::Port(_) | Message::Unknown => {}
            Message::Choke => self.handle_choke(),
            Message::Unchoke => {
                self.bitfield_late = true;
                if std::mem::replace(&mut self.choking_us, false) {
                    self.events.push_back(Event::Unchoked);
                }
            }
            Message::Interested => self.handle_interest(true),
            Message::NotInterested => self.handle_interest(false),
            Message::Bitfield(body) => self.handle_bitfield(body)?,
            Message::HaveAll => {
                self.expect_fast()?;
                self.expect_first()?;
                self.holdings.have_all();
                self.tell_bitfield();
            }
            Message::HaveNone => {
                self.expect_fast()?;
                self.expect_first()?;
                self.tell_bitfield();
            }
            Message::Suggest(piece) => {
                self.expect_fast()?;
                self.expect_piece(piece)?;
                self.events.push_back(Event::Suggested(piece));
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
        self.bitfield_late = true;
        if self.downloads.arrived(span)? {
            let start = at + PIECE_HEAD_LEN;
            self.events.push_back(Event::Block {
                span,
                at: start..start + span.len as usize,
            });
        }
        Ok(())
    }

    fn handle_request(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        self.bitfield_late = true;
        if span.len == 0 || span.len > REQUEST_MAX || span.begin.checked_add(span.len).is_none() {
            return Err(PeerMisbehaved::drop("request-length"));
        }
        if self.choked {
            self.uploads.ask_choked()?;
            if self.fast() {
                self.write(Message::Reject(span));
            }
            return Ok(());
        }
        self.expect_piece(span.piece)?;
        self.uploads.ask(span)?;
        self.events.push_back(Event::Request(span));
        Ok(())
    }

    /// BEP 6: a cancelled request is still answered, here by a rejection.
    fn handle_cancel(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        if !self.uploads.remove(span) {
            return self.flood.count(self.now);
        }
        if self.fast() {
            self.write(Message::Reject(span));
        }
        self.events.push_back(Event::Cancelled(span));
        Ok(())
    }

    fn handle_reject(&mut self, span: BlockSpan) -> Result<(), PeerMisbehaved> {
        self.expect_fast()?;
        match self.downloads.rejected(span) {
            Rejected::Outstanding => self.events.push_back(Event::Rejected(span)),
            Rejected::Cancelled => {}
            Rejected::Unknown => self.flood.count(self.now)?,
        }
        Ok(())
    }

    /// A `have` of a new piece is no flood: there are only so many pieces.
    fn handle_have(&mut self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        self.bitfield_late = true;
        match self.holdings.have(piece)? {
            Told::New => self.events.push_back(Event::Have(piece)),
            Told::Kept => {}
            Told::Known => self.flood.count(self.now)?,
        }
        Ok(())
    }

    fn handle_choke(&mut self) {
        self.bitfield_late = true;
        if std::mem::replace(&mut self.choking_us, true) {
            return;
        }
        if !self.fast() {
            self.downloads.forget();
        }
        self.events.push_back(Event::Choked);
    }

    fn handle_interest(&mut self, interested: bool) {
        self.bitfield_late = true;
        if std::mem::replace(&mut self.interested_in_us, interested) != interested {
            self.events.push_back(if interested {
                Event::Interested
            } else {
                Event::NotInterested
            });
        }
    }

    fn handle_bitfield(&mut self, body: &[u8]) -> Result<(), PeerMisbehaved> {
        self.expect_first()?;
        self.holdings.bitfield(body)?;
        self.tell_bitfield();
        Ok(())
    }

    fn tell_bitfield(&mut self) {
        if self.holdings.count().is_some() {
            self.events.push_back(Event::Bitfield);
        }
    }

    fn handle_allowed_fast(&mut self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        self.expect_fast()?;
        self.expect_piece(piece)?;
        if self.allowed_fast.len() < ALLOWED_FAST_MAX && !self.allowed_fast(piece) {
            self.allowed_fast.push(piece);
            self.events.push_back(Event::AllowedFast(piece));
        }
        Ok(())
    }

    fn handle_extended(&mut self, id: u8, payload: &[u8], at: usize) -> Result<(), PeerMisbehaved> {
        match id {
            extension::HANDSHAKE => {
                let offer = Offer::parse(payload)?;
                if let Some(port) = offer.listen_port {
                    self.events.push_back(Event::ListenPort(port));
                }
                self.offer.update(offer);
                self.events.push_back(Event::Extended);
            }
            extension::UT_METADATA => self.handle_metadata(payload, at)?,
            _ => {}
        }
        Ok(())
    }

    fn handle_metadata(&mut self, payload: &[u8], at: usize) -> Result<(), PeerMisbehaved> {
        match Metadata::parse(payload)? {
            Metadata::Request { piece } => {
                let total = self.setup.metadata_len.unwrap_or(0);
                if extension::metadata_piece_len(piece, total) > 0 {
                    self.events.push_back(Event::MetadataRequest { piece });
                } else {
                    self.reject_metadata(piece);
                }
            }
            Metadata::Data {
                piece,
                total,
                at: data,
            } => {
                if self.metadata_answered(piece) {
                    let at = at + data..at + payload.len();
                    self.events.push_back(Event::Metadata { piece, total, at });
                }
            }
            Metadata::Reject { piece } => {
                if self.metadata_answered(piece) {
                    self.events.push_back(Event::MetadataRejected { piece });
                }
            }
            Metadata::Unknown => {}
        }
        Ok(())
    }

    /// Whether it was asked for; what was not is passed over.
    fn metadata_answered(&mut self, piece: u32) -> bool {
        let found = self.metadata_asked.iter().position(|asked| *asked == piece);
        if let Some(at) = found {
            self.metadata_asked.swap_remove(at);
        }
        found.is_some()
    }

    fn expect_fast(&self) -> Result<(), PeerMisbehaved> {
        if self.fast() {
            Ok(())
        } else {
            Err(PeerMisbehaved::drop("fast-not-agreed"))
        }
    }

    /// R41: what a peer has is said once, and before anything that depends on it.
    fn expect_first(&mut self) -> Result<(), PeerMisbehaved> {
        if std::mem::replace(&mut self.bitfield_late, true) {
            return Err(PeerMisbehaved::drop("bitfield-late"));
        }
        Ok(())
    }

    /// While the number of pieces is unknown there is nothing to hold it against.
    fn expect_piece(&self, piece: PieceIndex) -> Result<(), PeerMisbehaved> {
        match self.holdings.count() {
            Some(count) if piece.0 >= count => Err(PeerMisbehaved::drop("no-such-piece")),
            _ => Ok(()),
        }
    }
}

impl Long {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let len = self.left.min(bytes.len());
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&bytes[..len]);
        }
        self.left -= len;
        len
    }
}

/// Counts messages in windows of one second (R41).
#[derive(Debug, Default)]
struct Flood {
    window: Time,
    count: u32,
}

impl Flood {
    fn count(&mut self, now: Time) -> Result<(), PeerMisbehaved> {
        if now >= self.window + Duration::from_secs(1) {
            self.window = now;
            self.count = 0;
        }
        self.count += 1;
        if self.count > CONTROL_PER_S {
            return Err(PeerMisbehaved::drop("message-flood"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
