//! The start of a film that is held back: others began at its place a moment ago.
//!
//! What all wait for is handed on among them meanwhile. Who began at once would stall, and each
//! would ask the origin for the same.

use std::time::Duration;

use crate::units::Time;

/// A player in a crowd is promised its first byte after this long.
pub const CROWD_TARGET: Duration = Duration::from_millis(3300);
/// So much of the film is sent at first, s: the player learns what it is, and does not begin.
pub const SENT_S: f64 = 1.0;
/// It may begin before its time with so much, s.
pub const LEAD_S: f64 = 6.0;
/// A player that was sent so much, s, has begun.
pub const PLAYS_AFTER_S: f64 = 2.0;

pub struct Hold {
    /// Its player waits since then.
    asked: Time,
    in_crowd: bool,
    /// Nothing from there on is sent before its time.
    from: Option<u64>,
}

impl Hold {
    pub const fn new(asked: Time) -> Self {
        Self {
            asked,
            in_crowd: false,
            from: None,
        }
    }

    pub fn handle_asked(&mut self, at: Time) {
        self.asked = at;
    }

    /// What lies before `from` may go out.
    pub fn begin(&mut self, from: u64) {
        self.in_crowd = true;
        self.from = Some(from);
    }

    /// It was held back, or is.
    pub const fn is_in_crowd(&self) -> bool {
        self.in_crowd
    }

    pub const fn lasts(&self) -> bool {
        self.from.is_some()
    }

    /// When it is over if it was not before.
    pub fn ends(&self) -> Time {
        self.asked + CROWD_TARGET
    }

    /// Whether it lasted until now.
    pub fn release(&mut self) -> bool {
        self.from.take().is_some()
    }

    /// Of what is `ready`, the end of what may be sent.
    pub fn limit(&self, ready: u64) -> u64 {
        self.from.map_or(ready, |from| from.min(ready))
    }
}
