//! An origin with faults to order, beside nginx: slow to answer, or cut off in the middle.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::net::{free_port, loopback};

const PART_LEN: usize = 16 * 1024;

/// How it misbehaves. The default answers at once and in full.
#[derive(Clone, Default)]
pub struct Faults {
    /// Before the head of each answer.
    pub delay: Duration,
    /// Bytes of bodies after which it closes every connection and takes none.
    pub die_after: Option<u64>,
    /// Bytes of a body after which it closes that connection.
    pub cut_after: Option<u64>,
    /// Bytes a second on each connection.
    pub rate: Option<u64>,
    /// Answers 200 and the whole file, whatever range is asked.
    pub ignores_ranges: bool,
    /// Another file with another validator after this many bytes.
    pub changes_after: Option<u64>,
    /// Whoever asks for a torrent is hung up on so long.
    pub torrent_after: Duration,
}

/// Serves one file under every path but those that end in `.torrent`, which it has not.
pub struct Origin {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    data: Arc<Vec<u8>>,
    torrent: Option<Vec<u8>>,
    faults: Faults,
    began: Instant,
    sent: AtomicU64,
    asked: AtomicU64,
    /// The path that each connection asked for first, by the order in which they came.
    openings: Mutex<BTreeMap<usize, String>>,
    dead: AtomicBool,
}

impl Origin {
    /// `torrent` is what `<any path>.torrent` gives, if anything.
    pub fn start(data: &Arc<Vec<u8>>, torrent: Option<Vec<u8>>, faults: Faults) -> Self {
        let addr = loopback(free_port());
        let listener = TcpListener::bind(addr).unwrap();
        let shared = Arc::new(Shared {
            data: Arc::clone(data),
            torrent,
            faults,
            began: Instant::now(),
            sent: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            openings: Mutex::default(),
            dead: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                if theirs.dead.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&theirs);
                thread::spawn(move || {
                    // An error is the client going away.
                    let _ended = shared.serve(nth, &stream);
                    stream.shutdown(Shutdown::Both).ok();
                });
            }
        });
        Self { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.addr)
    }

    /// Bytes of the file's bodies so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Requests for the file so far.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// What each connection asked for first, in the order in which they came.
    pub fn openings(&self) -> Vec<String> {
        let openings = self.shared.openings.lock().unwrap();
        openings.values().cloned().collect()
    }

    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.dead.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn serve(&self, nth: usize, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = BufReader::new(stream);
        loop {
            let mut target = String::new();
            let mut range = None;
            let mut line = String::new();
            loop {
                line.clear();
                if input.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let trimmed = line.trim_end().to_ascii_lowercase();
                if target.is_empty() {
                    target.clone_from(&trimmed);
                } else if trimmed.is_empty() {
                    break;
                } else if let Some(bytes) = trimmed.strip_prefix("range: bytes=") {
                    range = Some(bytes.to_owned());
                }
            }
            let path = target.split(' ').nth(1).unwrap_or_default().to_owned();
            self.openings.lock().unwrap().entry(nth).or_insert(path);
            thread::sleep(self.faults.delay);
            self.answer(stream, &target, range.as_deref())?;
        }
    }

    fn answer(&self, mut out: &TcpStream, request: &str, range: Option<&str>) -> io::Result<()> {
        let to_head = request.starts_with("head ");
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.ends_with(".torrent") {
            if self.began.elapsed() < self.faults.torrent_after {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let Some(torrent) = &self.torrent else {
                return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            };
            let len = torrent.len();
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")?;
            return out.write_all(torrent);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let changed = self
            .faults
            .changes_after
            .is_some_and(|after| self.sent.load(Ordering::Relaxed) >= after);
        let etag = if changed { "\"second\"" } else { "\"first\"" };
        let whole = 0..self.data.len();
        let part = range.filter(|_| !self.faults.ignores_ranges);
        let part = part.and_then(|range| parse(range, whole.end));
        let (status, extra) = match &part {
            Some(part) => (
                "206 Partial Content",
                format!(
                    "Content-Range: bytes {}-{}/{}\r\n",
                    part.start,
                    part.end - 1,
                    whole.end
                ),
            ),
            None => ("200 OK", String::new()),
        };
        let part = part.unwrap_or(whole);
        write!(
            out,
            "HTTP/1.1 {status}\r\nETag: {etag}\r\nAccept-Ranges: bytes\r\n{extra}\
             Content-Type: video/mp4\r\nContent-Length: {}\r\n\r\n",
            part.len()
        )?;
        if to_head {
            Ok(())
        } else {
            self.send_body(out, &self.data[part], changed)
        }
    }

    fn send_body(&self, mut out: &TcpStream, body: &[u8], changed: bool) -> io::Result<()> {
        let whole = self.faults.cut_after.unwrap_or(u64::MAX);
        let sent = body.len().min(usize::try_from(whole).unwrap_or(usize::MAX));
        for part in body[..sent].chunks(PART_LEN) {
            if let Some(rate) = self.faults.rate {
                let micros = part.len() as u64 * 1_000_000 / rate;
                thread::sleep(Duration::from_micros(micros));
            }
            if changed {
                let other: Vec<u8> = part.iter().map(|byte| !byte).collect();
                out.write_all(&other)?;
            } else {
                out.write_all(part)?;
            }
            let sent = self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            if self
                .faults
                .die_after
                .is_some_and(|after| sent + part.len() as u64 >= after)
            {
                self.dead.store(true, Ordering::Relaxed);
            }
            if self.dead.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        if sent < body.len() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// `10-19`, `10-` or `-10`; nothing for what is empty or beyond the end.
fn parse(range: &str, len: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        return Some(len.saturating_sub(last.parse().ok()?)..len);
    }
    let first: usize = first.parse().ok()?;
    let end = if last.is_empty() {
        len
    } else {
        len.min(last.parse::<usize>().ok()? + 1)
    };
    (first < end).then_some(first..end)
}
