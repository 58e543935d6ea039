//! The load generator: range requests on kept connections, bodies read and looked at.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::film::{Film, Random};

const BUFFER_LEN: usize = 256 * 1024;
const HEAD_LEN_MAX: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a load came to.
#[derive(Clone, Copy, Default)]
pub struct Carried {
    pub bytes: u64,
    pub requests: u64,
    pub seconds: f64,
}

/// Ranges of `range_len` at random places of the film, on `connections` at once, for `seconds`.
pub fn ranges(
    addr: SocketAddr,
    target: &str,
    film: &Film,
    range_len: usize,
    connections: u64,
    seconds: f64,
) -> Carried {
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(seconds);
    let mut carried = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|seed| {
                scope.spawn(move || one_connection(addr, target, film, range_len, seed, until))
            })
            .collect();
        let parts = threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap());
        parts.fold(Carried::default(), |sum, part| Carried {
            bytes: sum.bytes + part.bytes,
            requests: sum.requests + part.requests,
            seconds: 0.0,
        })
    });
    carried.seconds = begun.elapsed().as_secs_f64();
    carried
}

fn one_connection(
    addr: SocketAddr,
    target: &str,
    film: &Film,
    range_len: usize,
    seed: u64,
    until: Instant,
) -> io::Result<Carried> {
    let mut random = Random::new(seed);
    let mut reader = Reader::connect(addr)?;
    let mut carried = Carried::default();
    while Instant::now() < until {
        let start = random.below(film.len() - range_len) / 4096 * 4096;
        let end = start + range_len - 1;
        let sent = reader.ask(addr, target, Some((start, end)));
        // A server may end a connection after so many requests; the next one goes on.
        let head = match sent.and_then(|()| reader.head()) {
            Ok(head) => head,
            Err(_) if carried.requests > 0 => {
                reader = Reader::connect(addr)?;
                reader.ask(addr, target, Some((start, end)))?;
                reader.head()?
            }
            Err(error) => return Err(error),
        };
        assert_eq!(
            (head.status, head.length),
            (206, range_len as u64),
            "{target}"
        );
        reader.body(head.length, |at, part| {
            look(film, start + at as usize, part)
        })?;
        carried.bytes += range_len as u64;
        carried.requests += 1;
        if head.close {
            reader = Reader::connect(addr)?;
        }
    }
    Ok(carried)
}

/// Two bytes of each part: enough to see that it is the right place.
fn look(film: &Film, at: usize, part: &[u8]) {
    assert_eq!(part[0], film.data[at], "at {at}");
    let last = part.len() - 1;
    assert_eq!(part[last], film.data[at + last], "at {}", at + last);
}

/// The whole film in one answer, looked at as it comes.
pub fn whole(addr: SocketAddr, target: &str, film: &Film) -> Carried {
    let begun = Instant::now();
    let mut reader = Reader::connect(addr).unwrap();
    reader.ask(addr, target, None).unwrap();
    let head = reader.head().unwrap();
    assert_eq!(
        (head.status, head.length),
        (200, film.len() as u64),
        "{target}"
    );
    reader
        .body(head.length, |at, part| look(film, at as usize, part))
        .unwrap();
    Carried {
        bytes: head.length,
        requests: 1,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// Seconds from before the connection is made until the first byte of the body.
pub fn first_byte(addr: SocketAddr, target: &str, start: Option<usize>) -> f64 {
    let begun = Instant::now();
    let mut reader = Reader::connect(addr).unwrap();
    let range = start.map(|start| (start, usize::MAX / 4));
    reader.ask(addr, target, range).unwrap();
    let head = reader.head().unwrap();
    assert!(
        matches!(head.status, 200 | 206),
        "{target}: {}",
        head.status
    );
    reader.body(1, |_, _| ()).unwrap();
    begun.elapsed().as_secs_f64()
}

pub struct Head {
    pub status: u16,
    pub length: u64,
    close: bool,
}

/// One connection. What of the body came with the head waits in the buffer.
pub struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    held: std::ops::Range<usize>,
}

impl Reader {
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_LEN],
            held: 0..0,
        })
    }

    pub fn ask(
        &mut self,
        addr: SocketAddr,
        target: &str,
        range: Option<(usize, usize)>,
    ) -> io::Result<()> {
        let range = range.map_or_else(String::new, |(first, last)| match last {
            ..0x1000_0000_0000 => format!("Range: bytes={first}-{last}\r\n"),
            _ => format!("Range: bytes={first}-\r\n"),
        });
        let head = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n{range}\r\n");
        self.stream.write_all(head.as_bytes())
    }

    pub fn head(&mut self) -> io::Result<Head> {
        self.held = 0..0;
        let end = loop {
            let got = self.stream.read(&mut self.buffer[self.held.end..])?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let from = self.held.end.saturating_sub(3);
            self.held.end += got;
            let found = self.buffer[from..self.held.end.min(HEAD_LEN_MAX)]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(found) = found {
                break from + found + 4;
            }
            assert!(self.held.end < HEAD_LEN_MAX, "a head that does not end");
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        self.held.start = end;
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let length = text.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split('\r').next()?.parse().ok());
        Ok(Head {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            length: length.ok_or(io::ErrorKind::InvalidData)?,
            close: text.contains("connection: close"),
        })
    }

    /// Hands over `length` bytes of the body, with the place of each part in it.
    pub fn body(&mut self, length: u64, mut part: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let mut at = 0;
        while at < length {
            if self.held.is_empty() {
                let got = self.stream.read(&mut self.buffer)?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.held = 0..got;
            }
            let room = usize::try_from(length - at).unwrap_or(usize::MAX);
            let take = self.held.len().min(room);
            part(at, &self.buffer[self.held.start..self.held.start + take]);
            self.held.start += take;
            at += take as u64;
        }
        Ok(())
    }
}
