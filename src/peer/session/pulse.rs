//! When each side last spoke, and whether the peer says too much (R41, R44).

use std::time::Duration;

use crate::peer::PeerMisbehaved;
use crate::units::Time;

/// R44.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// R44's 120 s and a margin: clients send their keep-alive every two minutes (BEP 3), and the wire
/// takes time.
pub const IDLE_WAIT: Duration = Duration::from_secs(130);
/// Below the two minutes after which others hang up.
pub const KEEP_ALIVE: Duration = Duration::from_secs(110);
/// Messages a second that carry neither blocks nor news (R41).
const CONTROL_PER_S: u32 = 1000;

const _: () = assert!(IDLE_WAIT.as_secs() > KEEP_ALIVE.as_secs());

#[derive(Debug)]
pub struct Pulse {
    /// The latest `now` that was given.
    now: Time,
    opened: Time,
    heard: Time,
    said: Time,
    /// When the second began in which messages are counted.
    window: Time,
    count: u32,
}

impl Pulse {
    pub fn new(now: Time) -> Self {
        Self {
            now,
            opened: now,
            heard: now,
            said: now,
            window: Time::default(),
            count: 0,
        }
    }

    /// `heard`: the peer sent something.
    pub fn handle_bytes(&mut self, now: Time, heard: bool) {
        self.now = now;
        if heard {
            self.heard = now;
        }
    }

    /// Something goes to the socket.
    pub fn handle_said(&mut self) {
        self.said = self.now;
    }

    /// Counts a message that a peer could send without end.
    pub fn count(&mut self) -> Result<(), PeerMisbehaved> {
        if self.now >= self.window + Duration::from_secs(1) {
            self.window = self.now;
            self.count = 0;
        }
        self.count += 1;
        if self.count > CONTROL_PER_S {
            return Err(PeerMisbehaved::drop("message-flood"));
        }
        Ok(())
    }

    /// `ready`: the peer's handshake has come.
    pub fn next_timeout(&self, ready: bool) -> Time {
        if ready {
            (self.heard + IDLE_WAIT).min(self.said + KEEP_ALIVE)
        } else {
            self.opened + HANDSHAKE_WAIT
        }
    }

    /// Whether a keep-alive is to be sent, which counts as said.
    pub fn handle_timeout(&mut self, now: Time, ready: bool) -> Result<bool, PeerMisbehaved> {
        self.now = now;
        if !ready {
            if now >= self.opened + HANDSHAKE_WAIT {
                return Err(PeerMisbehaved::drop("no-handshake"));
            }
            return Ok(false);
        }
        if now >= self.heard + IDLE_WAIT {
            return Err(PeerMisbehaved::drop("idle"));
        }
        let due = now >= self.said + KEEP_ALIVE;
        if due {
            self.said = now;
        }
        Ok(due)
    }
}
