//! The video's own server: one rate for all who ask, a first byte that takes its time, and faults.

use std::collections::VecDeque;
use std::time::Duration;

use bittube::origin::pool::ConnKey;
use bittube::units::{ByteRange, Time};

use crate::link::Line;
use crate::store::{CHANGED, Content, RIGHT};

/// It serves in turns of so many bytes.
pub const QUANTUM: u64 = 16 * 1024;

#[derive(Clone, Debug)]
pub struct Spec {
    /// Bytes/s, shared.
    pub rate: f64,
    /// One way.
    pub delay: Duration,
    pub first_byte: Duration,
    pub faults: Vec<Fault>,
}

#[derive(Clone, Debug)]
pub enum Fault {
    /// Refuses connections and drops those it has.
    Down { from: Time, to: Time },
    /// Answers with this status and Retry-After.
    Busy {
        from: Time,
        to: Time,
        status: u16,
        retry_s: u32,
    },
    /// Answers later than `first_byte`.
    Slow {
        from: Time,
        to: Time,
        first_byte: Duration,
    },
    /// Closes every connection after so many bytes of a body.
    Closes { after: u64 },
    /// From then on it has another file of the same length.
    Changes { at: Time },
}

pub struct Server {
    pub spec: Spec,
    line: Line,
    jobs: VecDeque<Job>,
    length: u64,
    /// Bytes of bodies.
    pub sent: u64,
    pub requests: u64,
}

struct Job {
    node: usize,
    conn: ConnKey,
    ready: Time,
    head: Option<Vec<u8>>,
    left: ByteRange,
    sent: u64,
    content: Content,
}

/// On the way to a node.
pub enum Answer {
    Head(Vec<u8>),
    Body {
        /// In the file.
        range: ByteRange,
        content: Content,
    },
    Close,
}

impl Server {
    pub fn new(spec: Spec, length: u64) -> Self {
        Self {
            line: Line::new(spec.rate),
            spec,
            jobs: VecDeque::new(),
            length,
            sent: 0,
            requests: 0,
        }
    }

    pub fn is_down(&self, now: Time) -> bool {
        self.spec.faults.iter().any(|fault| match fault {
            Fault::Down { from, to } => (*from..*to).contains(&now),
            _ => false,
        })
    }

    pub fn first_byte(&self, now: Time) -> Duration {
        let slow = self.spec.faults.iter().find_map(|fault| match fault {
            Fault::Slow {
                from,
                to,
                first_byte,
            } if (*from..*to).contains(&now) => Some(*first_byte),
            _ => None,
        });
        slow.unwrap_or(self.spec.first_byte)
    }

    fn busy(&self, now: Time) -> Option<(u16, u32)> {
        self.spec.faults.iter().find_map(|fault| match fault {
            Fault::Busy {
                from,
                to,
                status,
                retry_s,
            } if (*from..*to).contains(&now) => Some((*status, *retry_s)),
            _ => None,
        })
    }

    fn content(&self, now: Time) -> Content {
        let changed = self
            .spec
            .faults
            .iter()
            .any(|fault| matches!(fault, Fault::Changes { at } if *at <= now));
        if changed { CHANGED } else { RIGHT }
    }

    /// A request has arrived.
    pub fn handle_request(&mut self, now: Time, node: usize, conn: ConnKey, request: &[u8]) {
        self.requests += 1;
        let text = std::str::from_utf8(request).expect("a request is text");
        let header = |name: &str| {
            let line = text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then_some(value.trim())
            });
            line.map(str::to_owned)
        };
        let content = self.content(now);
        let etag = format!("\"v{content}\"");
        let fresh = header("if-range").is_none_or(|held| held == etag);
        let range = header("range").filter(|_| fresh).map(|range| {
            let (start, end) = range
                .strip_prefix("bytes=")
                .and_then(|range| range.split_once('-'))
                .expect("one range");
            let end = end.parse().map_or(self.length, |last: u64| last + 1);
            ByteRange::new(start.parse().unwrap(), end.min(self.length))
        });
        let ready = now + self.first_byte(now);
        let (head, left) = if let Some((status, retry_s)) = self.busy(now) {
            let head = format!(
                "HTTP/1.1 {status} Busy\r\nRetry-After: {retry_s}\r\nContent-Length: 0\r\n\r\n"
            );
            (head, ByteRange::new(0, 0))
        } else if let Some(range) = range {
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes \
                 {}-{}/{}\r\nETag: {etag}\r\n\r\n",
                range.len(),
                range.start,
                range.end - 1,
                self.length
            );
            (head, range)
        } else {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: {etag}\r\n\r\n",
                self.length
            );
            (head, ByteRange::new(0, self.length))
        };
        self.jobs.push_back(Job {
            node,
            conn,
            ready,
            head: Some(head.into_bytes()),
            left,
            sent: 0,
            content,
        });
    }

    /// The node hung up; `None`: all its connections are gone.
    pub fn handle_closed(&mut self, node: usize, conn: Option<ConnKey>) {
        self.jobs
            .retain(|job| job.node != node || conn.is_some_and(|conn| job.conn != conn));
    }

    /// When it has something to send, as far as it depends on itself.
    pub fn next(&self) -> Time {
        let ready = self.jobs.iter().map(|job| job.ready).min();
        ready.map_or(Time::NEVER, |ready| ready.max(self.line.free))
    }

    /// The next answer that is on its way when it leaves, at the time returned. `full`: whether
    /// this node takes no more for now.
    pub fn poll(
        &mut self,
        now: Time,
        full: impl Fn(usize) -> bool,
    ) -> Option<(usize, ConnKey, Time, Answer)> {
        if self.line.free > now {
            return None;
        }
        let able = |job: &Job| job.ready <= now && (job.head.is_some() || !full(job.node));
        let place = self.jobs.iter().position(able)?;
        let mut job = self.jobs.remove(place).expect("just found");
        let (node, conn) = (job.node, job.conn);
        if self.is_down(now) {
            return Some((node, conn, now, Answer::Close));
        }
        if let Some(head) = job.head.take() {
            if !job.left.is_empty() {
                self.jobs.push_front(job);
            }
            return Some((node, conn, now, Answer::Head(head)));
        }
        let closes = self.spec.faults.iter().find_map(|fault| match fault {
            Fault::Closes { after } => Some(*after),
            _ => None,
        });
        if closes.is_some_and(|after| job.sent >= after) {
            return Some((node, conn, now, Answer::Close));
        }
        let end = job.left.end.min(job.left.start + QUANTUM);
        let range = ByteRange::new(job.left.start, end);
        let content = job.content;
        job.left = ByteRange::new(end, job.left.end);
        job.sent += range.len();
        self.sent += range.len();
        if !job.left.is_empty() {
            self.jobs.push_back(job);
        }
        let left = self.line.pass(now, range.len());
        Some((node, conn, left, Answer::Body { range, content }))
    }
}
