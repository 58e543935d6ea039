//! Stands before opentracker and leaves out how many there are, as some trackers do; scrapes pass.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::bed::http;
use crate::bed::net::{free_port, loopback};
use crate::bed::opentracker::OpenTracker;

pub struct Mute {
    addr: SocketAddr,
    scrapes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Mute {
    pub fn before(tracker: &OpenTracker) -> Self {
        let (addr, to) = (loopback(free_port()), tracker.addr());
        let listener = TcpListener::bind(addr).unwrap();
        let socket = UdpSocket::bind(addr).unwrap();
        let (scrapes, over) = (Arc::default(), Arc::default());
        let mute = Self {
            addr,
            scrapes: Arc::clone(&scrapes),
            over: Arc::clone(&over),
        };
        let (seen, end) = (Arc::clone(&scrapes), Arc::clone(&over));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                // An error is the viewer going away.
                answer(&stream, to, &seen).ok();
            }
        });
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                relay(&socket, to, &scrapes);
            }
        });
        mute
    }

    pub fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    pub fn udp_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// That were asked for so far.
    pub fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.addr));
    }
}

fn answer(stream: &TcpStream, tracker: SocketAddr, scrapes: &AtomicU64) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if input.read_line(&mut request)? == 0 {
            return Ok(());
        }
    }
    let target = request.split(' ').nth(1).unwrap();
    let mut body = http::get(tracker, target, &[])?.body;
    if target.starts_with("/scrape") {
        scrapes.fetch_add(1, Ordering::Relaxed);
    } else {
        strike(&mut body, b"8:completei");
        strike(&mut body, b"10:incompletei");
    }
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )?;
    out.write_all(&body)
}

/// Takes a number and its key out of a dictionary.
fn strike(body: &mut Vec<u8>, key: &[u8]) {
    if let Some(at) = body.windows(key.len()).position(|run| run == key) {
        let len = body[at + key.len()..].iter().position(|byte| *byte == b'e');
        body.drain(at..at + key.len() + len.unwrap() + 1);
    }
}

/// One datagram there, and its answer back (BEP 15).
fn relay(socket: &UdpSocket, tracker: SocketAddr, scrapes: &AtomicU64) {
    let mut bytes = [0; 2048];
    let Ok((len, from)) = socket.recv_from(&mut bytes) else {
        return;
    };
    let onward = UdpSocket::bind(loopback(0)).unwrap();
    onward.connect(tracker).unwrap();
    onward
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    onward.send(&bytes[..len]).unwrap();
    let Ok(len) = onward.recv(&mut bytes) else {
        return;
    };
    match bytes[..4] {
        // Leechers and seeders.
        [0, 0, 0, 1] if len >= 20 => bytes[12..20].fill(0),
        [0, 0, 0, 2] => drop(scrapes.fetch_add(1, Ordering::Relaxed)),
        _ => {}
    }
    socket.send_to(&bytes[..len], from).ok();
}
