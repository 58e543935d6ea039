//! Load by HTTP: connections of many addresses, looked at in turns and never waited for.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::bed::film::Random;
use crate::crowd::{self, Crowd, NUMWANT, Peer, SOURCES};
use crate::outcome::Outcome;

pub const CONNECTIONS: usize = 64;
/// A longer answer is none.
const ANSWER_MAX: usize = 16 * 1024;
/// An answer that takes longer is given up, with its connection.
const LOST_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// One announce after the other on a connection, as long as the server keeps it.
    Kept,
    /// A connection for each announce, as clients do.
    Once,
}

/// Peers announce at random for so long.
pub fn announces(addr: SocketAddr, crowd: &Crowd, manner: Manner, load: Duration) -> Outcome {
    let mut random = Random::new(9);
    let begun = Instant::now();
    let mut lines = lines(addr);
    let mut outcome = Outcome::default();
    while begun.elapsed() < load {
        for line in &mut lines {
            line.step(manner, &mut outcome, |source| {
                Some(target(&crowd.any(source, &mut random), false))
            });
        }
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    outcome
}

/// Every peer announces until it was answered once.
pub fn preload(addr: SocketAddr, crowd: &Crowd, most: Duration) -> Outcome {
    let begun = Instant::now();
    let mut next = [0; SOURCES];
    let mut lines = lines(addr);
    let mut outcome = Outcome::default();
    let all = (crowd.per_source() * SOURCES) as u64;
    while outcome.answered < all && begun.elapsed() < most {
        for line in &mut lines {
            line.step(Manner::Kept, &mut outcome, |source| {
                let nth = next[source];
                next[source] += 1;
                (nth < crowd.per_source()).then(|| target(&crowd.peer(source, nth), true))
            });
        }
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    outcome
}

fn lines(addr: SocketAddr) -> Vec<Line> {
    let sources = 0..CONNECTIONS.min(SOURCES);
    sources.map(|source| Line::new(source, addr)).collect()
}

/// One viewer after the other, of one address.
struct Line {
    source: usize,
    addr: SocketAddr,
    stream: Option<TcpStream>,
    /// It has answered an announce on this connection.
    kept: bool,
    /// When the announce under way was begun.
    asked: Option<Instant>,
    /// What is asked, until it is answered.
    target: Option<String>,
    answer: Vec<u8>,
}

impl Line {
    const fn new(source: usize, addr: SocketAddr) -> Self {
        Self {
            source,
            addr,
            stream: None,
            kept: false,
            asked: None,
            target: None,
            answer: Vec::new(),
        }
    }

    /// Takes what has come, or announces `next` if nothing is under way.
    fn step(
        &mut self,
        manner: Manner,
        outcome: &mut Outcome,
        next: impl FnOnce(usize) -> Option<String>,
    ) {
        match self.asked {
            None => {
                if let Some(target) = self.target.take().or_else(|| next(self.source)) {
                    self.ask(target, manner, outcome);
                }
            }
            Some(asked) => self.take(asked, manner, outcome),
        }
    }

    fn ask(&mut self, target: String, manner: Manner, outcome: &mut Outcome) {
        let asked = Instant::now();
        let connection = match manner {
            Manner::Kept => "",
            Manner::Once => "Connection: close\r\n",
        };
        let request = format!("GET {target} HTTP/1.1\r\nHost: tracker\r\n{connection}\r\n");
        let fresh = self.stream.is_none();
        if fresh {
            self.stream = connect(self.source, self.addr);
            outcome.connections += 1;
        }
        let stream = self.stream.as_mut();
        if stream.is_some_and(|stream| stream.write_all(request.as_bytes()).is_ok()) {
            self.asked = Some(asked);
        } else {
            // What was kept may have been ended meanwhile.
            outcome.errors += u64::from(fresh);
            self.stream = None;
        }
        self.target = Some(target);
    }

    fn take(&mut self, asked: Instant, manner: Manner, outcome: &mut Outcome) {
        let stream = self.stream.as_mut().expect("it was asked by it");
        let mut bytes = [0; 4096];
        let ended = match stream.read(&mut bytes) {
            Ok(len) => {
                self.answer.extend_from_slice(&bytes[..len]);
                len == 0
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if asked.elapsed() > LOST_AFTER {
                    outcome.lost += 1;
                    self.end(true);
                }
                return;
            }
            Err(_) => true,
        };
        match Answer::of(&self.answer, ended) {
            // The next one has a connection of its own then.
            Answer::More if ended && self.answer.is_empty() && self.kept => self.end(true),
            Answer::More if ended || self.answer.len() > ANSWER_MAX => {
                outcome.errors += 1;
                self.end(true);
            }
            Answer::More => {}
            Answer::Whole { good, closes } => {
                self.target = None;
                if good {
                    outcome.answer(asked.elapsed());
                } else {
                    outcome.errors += 1;
                }
                self.kept = true;
                self.end(closes || ended || manner == Manner::Once);
            }
        }
    }

    fn end(&mut self, closes: bool) {
        self.asked = None;
        self.answer.clear();
        if closes {
            self.stream = None;
            self.kept = false;
        }
    }
}

enum Answer {
    More,
    Whole { good: bool, closes: bool },
}

impl Answer {
    fn of(bytes: &[u8], ended: bool) -> Self {
        let end = bytes.windows(4).position(|run| run == b"\r\n\r\n");
        let Some(end) = end else { return Self::More };
        let (head, body) = (&bytes[..end], &bytes[end + 4..]);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
        if length.is_none_or(|length| body.len() < length) && !ended {
            return Self::More;
        }
        let is = |run: &[u8]| run == b"8:interval";
        let kept = head.starts_with("http/1.1 ") && !head.contains("connection: close");
        Self::Whole {
            good: head.contains(" 200 ") && body.windows(10).any(is),
            closes: !kept,
        }
    }
}

/// `None`: refused. On one machine a connection stands at once.
fn connect(source: usize, addr: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from((crowd::address(source), 0));
    socket.bind(&from.into()).ok()?;
    socket.set_tcp_nodelay(true).unwrap();
    socket.connect_timeout(&addr.into(), LOST_AFTER).ok()?;
    socket.set_nonblocking(true).unwrap();
    Some(socket.into())
}

fn target(peer: &Peer, started: bool) -> String {
    let raw = |bytes: &[u8]| {
        percent_encoding::percent_encode(bytes, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let event = if started { "&event=started" } else { "" };
    format!(
        "/announce?info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0&left={}&compact=1\
         &numwant={NUMWANT}{event}",
        raw(&peer.info_hash),
        raw(&peer.id),
        peer.port,
        peer.left
    )
}
