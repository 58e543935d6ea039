//! Pieces that the disk would not take, and when they may be asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::units::{PieceIndex, Time};

/// A piece that was not stored is asked of nobody for so long; twice as long each next time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so many in a row it is no piece's place on the disk: nothing at all is asked for.
const ROW_MAX: u32 = 3;

#[derive(Default)]
pub struct Losses {
    /// Until it is stored a piece's pause is remembered; R31 bounds pieces.
    pieces: BTreeMap<PieceIndex, Pause>,
    /// Pieces not stored since the last one that was.
    row: u32,
    all: Pause,
}

#[derive(Clone, Copy, Default)]
struct Pause {
    len: Duration,
    /// `None`: over.
    until: Option<Time>,
}

impl Losses {
    pub fn handle_lost(&mut self, now: Time, piece: PieceIndex) {
        self.pieces.entry(piece).or_default().begin(now);
        self.row = self.row.saturating_add(1);
        if self.row >= ROW_MAX {
            self.all.begin(now);
        }
    }

    pub fn handle_good(&mut self, piece: PieceIndex) {
        self.pieces.remove(&piece);
        self.row = 0;
        // What waits for the end of the pause hears of it at once.
        self.all.len = Duration::ZERO;
        self.all.until = self.all.until.map(|_| Time::ZERO);
    }

    /// Whether the disk took nothing lately, so that nobody is to be asked for anything.
    pub fn pauses_all(&self) -> bool {
        self.all.until.is_some()
    }

    pub fn next_timeout(&self) -> Time {
        let pauses = self.pieces.values().chain([&self.all]);
        let ends = pauses.filter_map(|pause| pause.until);
        ends.min().unwrap_or(Time::NEVER)
    }

    /// The pieces whose pause is over, each named once.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<PieceIndex> {
        self.all.end(now);
        let pieces = self.pieces.iter_mut();
        pieces
            .filter_map(|(piece, pause)| pause.end(now).then_some(*piece))
            .collect()
    }
}

impl Pause {
    /// What was under way when it began does not make it longer.
    fn begin(&mut self, now: Time) {
        if self.until.is_none() {
            self.len = (self.len * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.until = Some(now + self.len);
        }
    }

    fn end(&mut self, now: Time) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PieceIndex = PieceIndex(1);

    #[test]
    fn the_pause_of_a_piece_grows_to_its_maximum_and_ends_with_success() {
        let mut losses = Losses::default();
        let mut now = Time::from_secs(100);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            losses.handle_lost(now, A);
            losses.handle_lost(now + Duration::from_millis(1), A);
            assert!(losses.handle_timeout(now).is_empty());
            let pause = &losses.pieces[&A];
            let until = pause.until.unwrap();
            pauses.push(until.since(now).as_secs());
            now = until;
            assert_eq!(losses.handle_timeout(now), [A]);
            assert!(losses.handle_timeout(now).is_empty());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10, 10]);
        losses.handle_good(A);
        losses.handle_lost(now, A);
        assert_eq!(losses.next_timeout(), now + PAUSE_MIN);
    }

    #[test]
    fn one_bad_place_stops_nothing_else_and_a_full_disk_stops_all() {
        let mut losses = Losses::default();
        let now = Time::from_secs(100);
        for round in 0..10 {
            losses.handle_lost(now, A);
            losses.handle_good(PieceIndex(50 + round));
            assert!(!losses.pauses_all());
        }
        for piece in 10..13 {
            assert!(!losses.pauses_all());
            losses.handle_lost(now, PieceIndex(piece));
        }
        assert!(losses.pauses_all());
        losses.handle_good(PieceIndex(10));
        assert_eq!(losses.next_timeout(), Time::ZERO);
        losses.handle_timeout(now);
        assert!(!losses.pauses_all());
    }
}
