//! Which piece a peer is asked for next: earliest deadline first, then rarest, then whatever lacks.

use std::ops::Range;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::swarm::PeerKey;
use crate::swarm::rarity::Rarity;
use crate::swarm::reader::{PROMOTED_AFTER, Reader, TARGET};
use crate::swarm::rendezvous::mixed;
use crate::swarm::requests::Requests;
use crate::torrent::layout::Layout;
use crate::units::lab::Pick;
use crate::units::{ByteRange, PieceIndex, Time};

/// What is due within this many seconds is fetched in its order.
pub const URGENT_S: f64 = 12.0;
/// What is due within this many seconds stays asked for when another player seeks.
const SEEK_SPARES_S: f64 = 2.0;
/// What is due within this many seconds is fetched rarest first.
pub const BAND_S: f64 = 60.0;
/// A player that began so lately, with less in a row ahead than this, s, takes nothing that is not
/// urgent: what it hoarded from further on would be another's line for what the other waits for.
const BEGINS: Duration = Duration::from_secs(25);
const SHORT_S: f64 = 3.0;
/// Pieces that are compared to find the rarest.
const COMPARED_MAX: usize = 256;

/// What the choice depends on, besides the peer.
pub struct Picker<'a> {
    pub now: Time,
    pub layout: &'a Layout,
    pub requests: &'a Requests,
    pub rarity: &'a Rarity,
    pub readers: &'a Slab<Reader>,
    /// The whole torrent is wanted, reader or not.
    pub want_all: bool,
    /// Ours alone: equal peers choose differently.
    pub salt: u64,
    pub pick: Pick,
}

/// Whom it is for.
pub struct Asker<'a> {
    pub key: PeerKey,
    pub pieces: &'a FixedBitSet,
    /// What is asked of it now comes after so many seconds; zero for the quickest, which takes the
    /// most urgent block however late.
    pub eta_s: f64,
    /// It chokes us: only these may be asked for (BEP 6).
    pub allowed: Option<&'a [PieceIndex]>,
}

impl Picker<'_> {
    /// A piece with a missing block that this peer has.
    pub fn next(&self, asker: &Asker<'_>) -> Option<PieceIndex> {
        if let Some(allowed) = asker.allowed {
            return self.allowed(asker, allowed);
        }
        match self.pick {
            Pick::Windows => self.urgent(asker).or_else(|| match self.is_short() {
                true => None,
                false => self.in_band(asker).or_else(|| self.beyond(asker)),
            }),
            Pick::Sequential => self.onwards(asker).or_else(|| self.beyond(asker)),
            Pick::Rarest => self.beyond(asker),
        }
    }

    /// Whether some reader needs the piece within [`URGENT_S`].
    pub fn is_urgent(&self, piece: PieceIndex) -> bool {
        let mut readers = self.readers.iter();
        readers.any(|(_, reader)| self.window(reader).contains(&piece.0))
    }

    /// Whether some reader needs the piece within `SEEK_SPARES_S`, so that a seek does not take
    /// it back.
    pub fn is_due(&self, piece: PieceIndex) -> bool {
        let mut readers = self.readers.iter();
        readers.any(|(_, reader)| {
            let end = reader.reach(self.now, SEEK_SPARES_S).max(reader.ready());
            let due = self.pieces(reader.ready(), end.min(reader.range().end));
            reader.is_hungry() && due.contains(&piece.0)
        })
    }

    /// Whether the peer has something that nobody was asked for yet, room or not.
    pub fn has_any(&self, asker: &Asker<'_>, range: Range<u32>) -> bool {
        let fresh = self.requests.next_fresh(range.clone(), asker.pieces);
        fresh.is_some() || self.started(asker, range).is_some()
    }

    /// Whether some reader waits for a piece that is not begun.
    pub fn lacks_urgent(&self) -> bool {
        let mut readers = self.readers.iter();
        readers.any(|(_, reader)| {
            let fresh = self.requests.fresh();
            self.requests
                .next_fresh(self.window(reader), fresh)
                .is_some()
        })
    }

    /// The pieces that a reader needs next.
    pub fn window(&self, reader: &Reader) -> Range<u32> {
        if !reader.is_hungry() {
            return 0..0;
        }
        let mut end = reader.reach(self.now, URGENT_S);
        // What a crowd is held back for is handed on meanwhile.
        if reader.is_probe() && !reader.is_in_crowd() {
            end = end.min(reader.range().start + PROMOTED_AFTER);
        }
        // The next byte is wanted even if the player is far ahead of the film.
        self.pieces(
            reader.ready(),
            end.clamp(reader.ready(), reader.range().end),
        )
    }

    /// Whether some player has begun among others and has next to nothing yet.
    fn is_short(&self) -> bool {
        let mut readers = self.readers.iter();
        let among = self.rarity.has_traders();
        among
            && readers.any(|(_, reader)| {
                let begins = self.now.since(reader.opened()) < BEGINS;
                let plays = reader.is_hungry() && reader.knows_rate();
                begins && plays && reader.slack_s(self.now, reader.ready()) < SHORT_S
            })
    }

    fn urgent(&self, asker: &Asker<'_>) -> Option<PieceIndex> {
        let mut best: Option<(f64, PieceIndex)> = None;
        for (_, reader) in self.readers {
            let mut window = self.window(reader);
            if window.is_empty() {
                continue;
            }
            if asker.eta_s > 0.0 && asker.eta_s > reader.slack_s(self.now, reader.ready()) {
                let in_time = reader.reach(self.now, asker.eta_s).max(reader.ready());
                window.start = self.pieces(in_time, in_time).end.max(window.start);
            }
            let Some(piece) = self.in_order(asker, window) else {
                continue;
            };
            let at = self.layout.piece_range(piece).start.max(reader.ready());
            let slack_s = match reader.is_starting() {
                // A player that waits for its first byte goes before one that has some.
                true => reader.slack_s(self.now, at) - TARGET.as_secs_f64(),
                false => reader.slack_s(self.now, at),
            };
            if best.is_none_or(|(least, _)| slack_s < least) {
                best = Some((slack_s, piece));
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// The film in its order to its end: what a plain player asks for.
    fn onwards(&self, asker: &Asker<'_>) -> Option<PieceIndex> {
        let mut readers = self.readers.iter();
        readers.find_map(|(_, reader)| {
            let file = self.pieces(reader.file().start, reader.file().end);
            self.in_order(asker, self.first(reader)..file.end)
        })
    }

    fn in_band(&self, asker: &Asker<'_>) -> Option<PieceIndex> {
        let mut readers = self.readers.iter();
        readers.find_map(|(_, reader)| {
            let start = self.window(reader).end.max(self.first(reader));
            let end = reader.reach(self.now, BAND_S).min(reader.file().end);
            let band = start..self.pieces(end, end).end.max(start);
            self.started(asker, band.clone())
                .or_else(|| self.rarest(asker, band))
        })
    }

    /// The rest of each file that is read, after the reader first; or of everything.
    fn beyond(&self, asker: &Asker<'_>) -> Option<PieceIndex> {
        let mut readers = self.readers.iter();
        let found = readers.find_map(|(_, reader)| {
            let file = self.pieces(reader.file().start, reader.file().end);
            let start = self.first(reader).clamp(file.start, file.end);
            self.started(asker, file.clone())
                .or_else(|| self.rarest(asker, start..file.end))
                .or_else(|| self.rarest(asker, file.start..start))
        });
        if found.is_some() || !self.want_all {
            return found;
        }
        let all = 0..self.layout.piece_count();
        self.started(asker, all.clone())
            .or_else(|| self.rarest(asker, all))
    }

    fn in_order(&self, asker: &Asker<'_>, range: Range<u32>) -> Option<PieceIndex> {
        let started = self.started(asker, range.clone());
        let fresh = self.fresh(asker, range);
        match (started, fresh) {
            (Some(started), Some(fresh)) => Some(started.min(fresh)),
            (started, fresh) => started.or(fresh),
        }
    }

    fn started(&self, asker: &Asker<'_>, range: Range<u32>) -> Option<PieceIndex> {
        let has = |piece: PieceIndex| asker.pieces.contains(piece.at());
        self.requests.next_ragged(range, asker.key, has)
    }

    fn fresh(&self, asker: &Asker<'_>, range: Range<u32>) -> Option<PieceIndex> {
        if !self.requests.has_room() {
            return None;
        }
        self.requests.next_fresh(range, asker.pieces)
    }

    /// With nobody to trade with the film's order is as good, and reads on.
    fn rarest(&self, asker: &Asker<'_>, range: Range<u32>) -> Option<PieceIndex> {
        let first = self.fresh(asker, range.clone())?;
        if !self.rarity.has_traders() {
            return Some(first);
        }
        let mut next = Some(first);
        let candidates = std::iter::from_fn(|| {
            let piece = next?;
            next = self
                .requests
                .next_fresh(piece.0 + 1..range.end, asker.pieces);
            Some(piece)
        });
        candidates
            .take(COMPARED_MAX)
            .min_by_key(|&piece| (self.rarity.of(piece), mixed(self.salt, piece)))
    }

    fn allowed(&self, asker: &Asker<'_>, allowed: &[PieceIndex]) -> Option<PieceIndex> {
        let mut pieces = allowed.iter().copied();
        pieces.find(|&piece| {
            let range = piece.0..piece.0 + 1;
            let wanted = self.want_all || !self.readers.is_empty();
            wanted && self.in_order(asker, range).is_some()
        })
    }

    /// The piece of the reader's next byte.
    fn first(&self, reader: &Reader) -> u32 {
        self.pieces(reader.ready(), reader.ready()).start
    }

    /// The pieces from the one that holds `start` to the one that holds `end`.
    fn pieces(&self, start: u64, end: u64) -> Range<u32> {
        let length = self.layout.length();
        if length == 0 {
            return 0..0;
        }
        let start = start.min(length - 1);
        let end = end.clamp(start + 1, length);
        self.layout.pieces_of(ByteRange::new(start, end))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::swarm::requests::Requests;

    const PIECE: u64 = 128 << 10;
    /// Ten pieces a second.
    const RATE: f64 = 1_310_720.0;
    const NOW: Time = Time::from_secs(5);

    struct Case {
        layout: Arc<Layout>,
        requests: Requests,
        rarity: Rarity,
        readers: Slab<Reader>,
        want_all: bool,
        pick: Pick,
        all: FixedBitSet,
        now: Time,
    }

    fn case() -> Case {
        let layout = Arc::new(Layout::single(1000 * PIECE, PIECE as u32));
        let mut all = FixedBitSet::with_capacity(1000);
        all.insert_range(..);
        let mut rarity = Rarity::new(1000);
        rarity.join(&all, true);
        Case {
            requests: Requests::new(Arc::clone(&layout), &FixedBitSet::with_capacity(1000)),
            layout,
            rarity,
            readers: Slab::new(),
            want_all: false,
            pick: Pick::Windows,
            all,
            now: NOW,
        }
    }

    impl Case {
        /// Past its probe, with one piece read, at this piece.
        fn read_at(&mut self, piece: u64) -> usize {
            let file = ByteRange::new(0, 1000 * PIECE);
            let start = (piece - 4) * PIECE;
            let range = ByteRange::new(start, file.end);
            let mut reader = Reader::new(NOW, range, file, Some(RATE));
            reader.set_ready(NOW, piece * PIECE);
            reader.handle_sent(NOW, 4 * PIECE, 0);
            self.readers.insert(reader)
        }

        fn next(&self, eta_s: f64) -> Option<u32> {
            self.next_of(eta_s, &self.all, None)
        }

        fn next_of(
            &self,
            eta_s: f64,
            pieces: &FixedBitSet,
            allowed: Option<&[PieceIndex]>,
        ) -> Option<u32> {
            let picker = Picker {
                now: self.now,
                layout: &self.layout,
                requests: &self.requests,
                rarity: &self.rarity,
                readers: &self.readers,
                want_all: self.want_all,
                salt: 7,
                pick: self.pick,
            };
            let asker = Asker {
                key: PeerKey(0),
                pieces,
                eta_s,
                allowed,
            };
            picker.next(&asker).map(|piece| piece.0)
        }

        fn have(&mut self, pieces: Range<u32>) {
            for piece in pieces {
                self.requests.finish(PieceIndex(piece));
            }
        }

        /// All that the reader waits for has come, up to this piece.
        fn play_to(&mut self, key: usize, piece: u64) {
            self.have(200..u32::try_from(piece).unwrap());
            self.readers[key].set_ready(NOW, piece * PIECE);
        }
    }

    #[test]
    fn the_most_urgent_reader_comes_first_and_nobody_means_nothing() {
        let mut case = case();
        assert_eq!(case.next(0.0), None);
        case.read_at(500);
        assert_eq!(case.next(0.0), Some(500));
        // Its playhead is at piece 300 and it has nothing: due in 0.4 s as well, and due later
        // once it has a second's worth.
        let other = case.read_at(300);
        case.have(300..310);
        case.readers[other].set_ready(NOW, 310 * PIECE);
        assert_eq!(case.next(0.0), Some(500));
        case.have(500..600);
        let first = case.readers.iter().next().unwrap().0;
        case.readers[first].set_ready(NOW, 600 * PIECE);
        assert_eq!(case.next(0.0), Some(310));
    }

    #[test]
    fn a_slow_peer_is_asked_for_what_it_can_bring_in_time() {
        let mut case = case();
        case.read_at(500);
        // In five seconds the playhead, four pieces behind, is at 496 + 50: that one is due.
        assert_eq!(case.next(5.0), Some(547));
    }

    #[test]
    fn started_pieces_are_finished_first_and_pieces_a_peer_lacks_are_skipped() {
        let mut case = case();
        case.read_at(500);
        case.requests.take(PieceIndex(503), PeerKey(9));
        case.have(500..503);
        assert_eq!(case.next(0.0), Some(503));
        let mut some = FixedBitSet::with_capacity(1000);
        some.insert(510);
        assert_eq!(case.next_of(0.0, &some, None), Some(510));
        assert_eq!(case.next_of(0.0, &some, Some(&[])), None);
        assert_eq!(
            case.next_of(0.0, &some, Some(&[PieceIndex(510)])),
            Some(510)
        );
    }

    #[test]
    fn who_has_just_begun_and_has_little_in_a_row_takes_only_what_is_urgent() {
        let mut case = case();
        let key = case.read_at(200);
        case.rarity.join(&FixedBitSet::with_capacity(1000), false);
        // All that is urgent but the first piece.
        case.have(201..196 + 121);
        let mut rest = case.all.clone();
        rest.remove(200);
        assert_eq!(case.next_of(0.0, &rest, None), None);
        assert_eq!(case.next(0.0), Some(200));
        case.have(200..201);
        let in_a_row = |case: &mut Case, pieces: u64| {
            case.readers[key].set_ready(NOW, (196 + pieces) * PIECE);
            case.next(0.0)
        };
        assert_eq!(in_a_row(&mut case, 29), None);
        assert!(in_a_row(&mut case, 31).is_some());
        in_a_row(&mut case, 29);
        case.now = NOW + BEGINS;
        assert!(case.next(0.0).is_some());
    }

    #[test]
    fn a_crowd_that_is_held_back_is_dealt_all_that_is_urgent() {
        let mut case = case();
        case.rarity.join(&FixedBitSet::with_capacity(1000), false);
        let file = ByteRange::new(0, 1000 * PIECE);
        let reader = Reader::new(NOW, file, file, Some(RATE));
        let key = case.readers.insert(reader);
        // As far as it may be a probe.
        case.have(0..6);
        assert_eq!(case.next(0.0), None);
        case.readers[key].handle_crowd();
        assert_eq!(case.next(0.0), Some(6));
    }

    #[test]
    fn beyond_the_urgent_the_rarest_comes_first_if_there_is_somebody_to_trade_with() {
        let mut case = case();
        let key = case.read_at(200);
        case.play_to(key, 196 + 121);
        assert_eq!(case.next(0.0), Some(196 + 121));
        case.have(196 + 121..196 + 122);
        let mut most = case.all.clone();
        most.remove(400);
        case.rarity.join(&most, false);
        assert_eq!(case.next(0.0), Some(400));
    }

    #[test]
    fn the_laboratory_asks_in_order_or_for_the_rarest_whatever_is_due() {
        let mut case = case();
        let key = case.read_at(200);
        let mut most = case.all.clone();
        most.remove(400);
        case.rarity.join(&most, false);
        let mut first = |pick| {
            case.pick = pick;
            case.next(0.0)
        };
        assert_eq!(first(Pick::Windows), Some(200));
        assert_eq!(first(Pick::Sequential), Some(200));
        assert_eq!(first(Pick::Rarest), Some(400));
        // What is urgent is here.
        case.play_to(key, 319);
        case.have(319..320);
        let mut first = |pick| {
            case.pick = pick;
            case.next(0.0)
        };
        assert_eq!(first(Pick::Windows), Some(400));
        assert_eq!(first(Pick::Sequential), Some(320));
    }

    #[test]
    fn an_idle_peer_takes_the_rest_of_the_file_and_then_its_beginning() {
        let mut case = case();
        case.read_at(200);
        case.have(200..1000);
        assert_eq!(case.next(0.0), Some(0));
        case.readers.clear();
        assert_eq!(case.next(0.0), None);
        case.want_all = true;
        assert_eq!(case.next(0.0), Some(0));
    }
}
