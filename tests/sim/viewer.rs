//! A player as a script: what it reads, when it shows something, and how long it stood still.

use std::collections::VecDeque;
use std::time::Duration;

use bittube::swarm::ReaderKey;
use bittube::units::{ByteRange, Time};

/// It begins to show the film with so much of it, s.
pub const START_S: f64 = 2.0;
/// It goes on after a stall with so much, s.
pub const RESUME_S: f64 = 1.0;
/// It reads so far ahead of what it shows, s.
pub const AHEAD_S: f64 = 10.0;
/// It reads no less than this at a time, s.
const STEP_S: f64 = 0.25;
/// What a look at the head or the tail of the file takes.
const PROBE_LEN: u64 = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// To this part of the film, of 1.
    Seek(f64),
    Pause,
    Resume,
    /// A request of which little is read, and that stays open.
    Idle,
    Quit,
}

#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Since it joined.
    pub acts: Vec<(Duration, Act)>,
    /// It looks at the head and the tail first, as browsers do with an index at the end.
    pub probes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Idle,
    /// It has shown nothing since it asked.
    Opening(Time),
    /// At that time it showed the byte.
    Playing(Time, u64),
    Paused(u64),
    Stalled(Time, u64),
    Done,
}

pub struct Viewer {
    pub rate: f64,
    pub file: ByteRange,
    pub open: Option<Request>,
    /// Idle requests.
    pub idle: Vec<Request>,
    state: State,
    probes: VecDeque<(ByteRange, u64)>,
    /// Not in the store when it was asked for; what counts as a seek.
    cold: bool,
    seeking: bool,
    pub record: Record,
}

#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub reader: ReaderKey,
    pub range: ByteRange,
    pub pos: u64,
    /// It reads no further than this.
    pub until: u64,
    pub ready: u64,
    /// Since when it takes nothing.
    pub full: Option<Time>,
    pub frozen: bool,
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub starts: Vec<f64>,
    pub seeks: Vec<f64>,
    pub stalls: Vec<f64>,
    /// Film shown, s.
    pub shown: f64,
    pub done: bool,
}

impl Viewer {
    pub fn new(rate: f64, file: ByteRange) -> Self {
        Self {
            rate,
            file,
            open: None,
            idle: Vec::new(),
            state: State::Idle,
            probes: VecDeque::new(),
            cold: true,
            seeking: false,
            record: Record::default(),
        }
    }

    /// Nothing from here on is promised any more, but for what was taken.
    pub fn withdraw(&mut self, from: u64) {
        for request in self.open.iter_mut().chain(&mut self.idle) {
            request.ready = request.ready.min(from.max(request.pos));
        }
    }

    /// The first request. Returns what to ask for, and how much of it is read.
    pub fn start(&mut self, now: Time, probes: bool) -> (ByteRange, u64) {
        self.state = State::Opening(now);
        let file = self.file;
        if probes {
            let tail = file.end.saturating_sub(PROBE_LEN).max(file.start);
            let tail = ByteRange::new(tail, file.end);
            self.probes = VecDeque::from([(tail, file.end), (file, file.end)]);
            return (file, file.end.min(file.start + PROBE_LEN));
        }
        (file, file.end)
    }

    pub fn seek(&mut self, now: Time, to: u64, cold: bool) -> (ByteRange, u64) {
        self.settle(now);
        self.finish(now);
        self.probes.clear();
        self.state = State::Opening(now);
        (self.cold, self.seeking) = (cold, true);
        (ByteRange::new(to, self.file.end), self.file.end)
    }

    /// The request to make next, once the last was a look.
    pub fn next_probe(&mut self) -> Option<(ByteRange, u64)> {
        let open = self.open.as_ref()?;
        if open.pos < open.until {
            return None;
        }
        self.probes.pop_front()
    }

    pub fn pause(&mut self, now: Time, pause: bool) {
        self.settle(now);
        match self.state {
            State::Playing(since, base) if pause => {
                self.finish(now);
                self.state = State::Paused(self.shown(now, since, base));
            }
            State::Paused(at) if !pause => self.state = State::Playing(now, at),
            _ => {}
        }
    }

    pub fn quit(&mut self, now: Time) {
        self.settle(now);
        self.finish(now);
        self.state = State::Done;
    }

    /// The byte that it waits for, while it shows nothing.
    pub fn lacks(&self) -> Option<u64> {
        let open = self.open.filter(|open| open.pos < self.file.end)?;
        matches!(self.state, State::Stalled(..)).then_some(open.pos)
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How far it reads now, and when it reads on if nothing changes.
    pub fn limit(&self, now: Time) -> (u64, Time) {
        let Some(open) = self.open else {
            return (0, Time::NEVER);
        };
        let ahead = self.bytes(AHEAD_S);
        let (shown, moves) = match self.state {
            State::Playing(since, base) => (self.shown(now, since, base), true),
            State::Paused(at) | State::Stalled(_, at) => (at, false),
            _ => (open.range.start, false),
        };
        let limit = open.until.min(shown + ahead);
        let step = self.bytes(STEP_S);
        if limit >= open.until || limit >= open.pos + step {
            return (limit, Time::NEVER);
        }
        let lacks = open.pos + step - limit;
        let wait = Duration::from_secs_f64(lacks as f64 / self.rate) + Duration::from_micros(1);
        (open.pos, if moves { now + wait } else { Time::NEVER })
    }

    /// What follows from the time, and from what was read.
    pub fn settle(&mut self, now: Time) {
        let Some(open) = self.open else { return };
        let whole = open.pos >= self.file.end;
        match self.state {
            State::Opening(since)
                if self.probes.is_empty()
                    && (whole || open.pos >= open.range.start + self.bytes(START_S)) =>
            {
                let took = now.since(since).as_secs_f64();
                match (self.seeking, self.cold) {
                    (false, _) => self.record.starts.push(took),
                    (true, true) => self.record.seeks.push(took),
                    (true, false) => {}
                }
                self.state = State::Playing(now, open.range.start);
            }
            State::Playing(since, base) => {
                let out = self.out(since, base, open.pos);
                if out <= now {
                    self.record.shown += (open.pos - base) as f64 / self.rate;
                    self.state = State::Stalled(out, open.pos);
                    if whole {
                        self.state = State::Done;
                        self.record.done = true;
                    }
                }
            }
            _ => {}
        }
        if let State::Stalled(_, at) = self.state
            && (whole || open.pos >= at + self.bytes(RESUME_S))
        {
            self.finish(now);
            self.state = State::Playing(now, at);
        }
    }

    /// When it shows the last byte that it has.
    pub fn wakes(&self) -> Time {
        match (self.state, self.open) {
            (State::Playing(since, base), Some(open)) => self.out(since, base, open.pos),
            _ => Time::NEVER,
        }
    }

    /// Notes what it did until now.
    fn finish(&mut self, now: Time) {
        match self.state {
            State::Stalled(since, _) => {
                self.record.stalls.push(now.since(since).as_secs_f64());
            }
            State::Playing(since, _) => self.record.shown += now.since(since).as_secs_f64(),
            _ => {}
        }
    }

    fn out(&self, since: Time, base: u64, pos: u64) -> Time {
        since + Duration::from_secs_f64((pos - base) as f64 / self.rate)
    }

    fn shown(&self, now: Time, since: Time, base: u64) -> u64 {
        base + self.bytes(now.since(since).as_secs_f64())
    }

    fn bytes(&self, film_s: f64) -> u64 {
        (film_s * self.rate) as u64
    }
}
