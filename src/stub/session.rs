//! One player's connection: what it waits for, for how long, and when it ends (R25, R27).
//!
//! Requests are answered in their order: the next head is read only once the reply before it is
//! done, so a pipeline costs no more than the bytes that wait in the socket.

use std::time::Duration;

use crate::http::head::RequestHead;
use crate::units::Time;

/// From accepting a connection, or from a head's first byte, to the head's end.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Between a reply and the next head's first byte.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// A paused player reads nothing; it resumes with a range of its own after this.
pub const STALL_MAX: Duration = Duration::from_secs(300);
pub const REQUESTS_MAX: u32 = 1000;

#[derive(Debug)]
pub struct Session {
    state: State,
    requests: u32,
}

/// What becomes of the connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
}

/// A deadline that has passed; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// A head was begun and not finished: 408, then close.
    Head,
    /// Nothing was begun: close without a word.
    Idle,
    /// The player took nothing for too long: close.
    Stall,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No byte of a head yet.
    Waiting {
        until: Time,
    },
    Head {
        until: Time,
    },
    Replying {
        stalled: Option<Time>,
    },
    Closed,
}

impl Session {
    pub fn new(now: Time) -> Self {
        Self {
            state: State::Waiting {
                until: now.after(HEAD_DEADLINE),
            },
            requests: 0,
        }
    }

    /// Whether bytes of a head may be parsed now.
    pub const fn may_parse(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Head { .. })
    }

    /// The first byte of a head is here, new or left over from a pipeline. Later bytes move
    /// nothing: the deadline is the whole head's.
    pub fn handle_head_begun(&mut self, now: Time) {
        if let State::Waiting { .. } = self.state {
            self.state = State::Head {
                until: now.after(HEAD_DEADLINE),
            };
        }
    }

    /// A head is complete; its reply begins. True if it must be the connection's last.
    pub fn handle_request(&mut self, _now: Time, head: &RequestHead) -> bool {
        debug_assert!(self.may_parse(), "one request at a time");
        self.requests += 1;
        self.state = State::Replying { stalled: None };
        // A body that no route reads would be taken for the next head.
        let readable = head.keep_alive() && head.body_len() == Ok(0);
        !readable || self.requests >= REQUESTS_MAX
    }

    /// The socket takes no more.
    pub fn handle_blocked(&mut self, now: Time) {
        if let State::Replying {
            stalled: stalled @ None,
        } = &mut self.state
        {
            *stalled = Some(now.after(STALL_MAX));
        }
    }

    /// The socket took some.
    pub fn handle_written(&mut self, _now: Time) {
        if let State::Replying { stalled } = &mut self.state {
            *stalled = None;
        }
    }

    /// `keep_alive`: as the reply's head said.
    pub fn handle_reply_done(&mut self, now: Time, keep_alive: bool) -> Next {
        if keep_alive && self.requests < REQUESTS_MAX {
            self.state = State::Waiting {
                until: now.after(IDLE_MAX),
            };
            Next::Keep
        } else {
            self.state = State::Closed;
            Next::Close
        }
    }

    pub const fn next_timeout(&self) -> Time {
        match self.state {
            State::Waiting { until }
            | State::Head { until }
            | State::Replying {
                stalled: Some(until),
            } => until,
            State::Replying { stalled: None } | State::Closed => Time::NEVER,
        }
    }

    pub fn handle_timeout(&mut self, now: Time) -> Option<Expired> {
        if now < self.next_timeout() {
            return None;
        }
        let expired = match self.state {
            State::Waiting { .. } => Expired::Idle,
            State::Head { .. } => Expired::Head,
            State::Replying { .. } => Expired::Stall,
            State::Closed => return None,
        };
        self.state = State::Closed;
        Some(expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::parse_request;

    fn head(lines: &str) -> RequestHead {
        parse_request(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes())
            .unwrap()
            .unwrap()
    }

    fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    #[test]
    fn a_slow_head_is_told_and_a_silent_one_is_not() {
        let mut silent = Session::new(at(100));
        assert_eq!(silent.next_timeout(), at(110));
        assert_eq!(silent.handle_timeout(at(109)), None);
        assert_eq!(silent.handle_timeout(at(110)), Some(Expired::Idle));
        assert_eq!(silent.next_timeout(), Time::NEVER);

        let mut slow = Session::new(at(100));
        slow.handle_head_begun(at(105));
        slow.handle_head_begun(at(114));
        assert_eq!(slow.next_timeout(), at(115));
        assert_eq!(slow.handle_timeout(at(115)), Some(Expired::Head));
        assert!(!slow.may_parse());
    }

    #[test]
    fn kept_connections_idle_for_half_a_minute() {
        let mut session = Session::new(at(0));
        session.handle_head_begun(at(1));
        assert!(!session.handle_request(at(1), &head("")));
        assert!(!session.may_parse());
        assert_eq!(session.next_timeout(), Time::NEVER);
        assert_eq!(session.handle_reply_done(at(500), true), Next::Keep);
        assert_eq!(session.next_timeout(), at(530));
        session.handle_head_begun(at(529));
        assert_eq!(session.next_timeout(), at(539));
        assert!(!session.handle_request(at(530), &head("")));
        assert_eq!(session.handle_reply_done(at(531), false), Next::Close);
        assert_eq!(session.next_timeout(), Time::NEVER);
        assert_eq!(session.handle_timeout(at(9999)), None);
    }

    #[test]
    fn a_paused_player_has_five_minutes() {
        let mut session = Session::new(at(0));
        session.handle_request(at(0), &head(""));
        session.handle_blocked(at(10));
        session.handle_blocked(at(200));
        assert_eq!(session.next_timeout(), at(310));
        session.handle_written(at(300));
        assert_eq!(session.next_timeout(), Time::NEVER);
        session.handle_blocked(at(300));
        assert_eq!(session.handle_timeout(at(600)), Some(Expired::Stall));
    }

    #[test]
    fn some_requests_are_the_last() {
        let last = |lines| Session::new(at(0)).handle_request(at(0), &head(lines));
        assert!(last("Connection: close\r\n"));
        assert!(last("Content-Length: 1\r\n"));
        assert!(last("Transfer-Encoding: chunked\r\n"));
        assert!(!last("Content-Length: 0\r\n"));

        let mut session = Session::new(at(0));
        for count in 1..=REQUESTS_MAX {
            assert_eq!(
                session.handle_request(at(0), &head("")),
                count == REQUESTS_MAX
            );
            let next = session.handle_reply_done(at(0), true);
            assert_eq!(next == Next::Close, count == REQUESTS_MAX);
        }
    }
}
