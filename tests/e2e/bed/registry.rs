//! A registry with faults to order: silent, or busy making the torrent until it is told to have it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::bed::net::{free_port, loopback};

/// Answers every `/metainfo` alike; announces are not its business.
pub struct Registry {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    torrent: Vec<u8>,
    etag: String,
    ready: AtomicBool,
    silent: bool,
    asked: AtomicUsize,
}

impl Registry {
    /// `etag`: of the video that its torrent is of, as it says.
    pub fn start(torrent: Vec<u8>, etag: &str, ready: bool) -> Self {
        Self::begin(torrent, etag, ready, false)
    }

    /// Takes connections and never says a word.
    pub fn silent() -> Self {
        Self::begin(Vec::new(), "", false, true)
    }

    fn begin(torrent: Vec<u8>, etag: &str, ready: bool, silent: bool) -> Self {
        let addr = loopback(free_port());
        let listener = TcpListener::bind(addr).unwrap();
        let shared = Arc::new(Shared {
            torrent,
            etag: etag.to_owned(),
            ready: AtomicBool::new(ready),
            silent,
            asked: AtomicUsize::new(0),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                if theirs.silent {
                    held.push(stream);
                } else {
                    let shared = Arc::clone(&theirs);
                    thread::spawn(move || shared.serve(&stream));
                }
            }
        });
        Self { addr, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    /// From now on it has the torrent.
    pub fn make_ready(&self) {
        self.shared.ready.store(true, Ordering::SeqCst);
    }

    /// Requests for the torrent so far.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// One request.
    fn serve(&self, stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        let (status, extra, body): (_, _, &[u8]) = if !request.starts_with("GET /metainfo?url=") {
            ("404 Not Found", String::new(), b"")
        } else if self.ready.load(Ordering::SeqCst) {
            let stamp = format!("Video-ETag: {}\r\n", self.etag);
            ("200 OK", stamp, &self.torrent)
        } else {
            ("202 Accepted", "Retry-After: 1\r\n".to_owned(), b"")
        };
        if request.contains("/metainfo") {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        let head = format!(
            "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let mut out = stream;
        // The other side may have gone.
        let _sent = out.write_all(&[head.as_bytes(), body].concat());
    }
}
