//! A web site for the browser: one page, whose script reports to the test what it saw.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::bed::net::{free_port, loopback};

/// The page's script sends what it saw by `report({…})`.
const REPORT: &str =
    "const report = (seen) => fetch('/report', { method: 'POST', body: JSON.stringify(seen) });";

pub struct Page {
    addr: SocketAddr,
    reports: Receiver<Value>,
    over: Arc<AtomicBool>,
}

impl Page {
    /// `body` is HTML; `script` runs after it, as a module, so that it may `await`.
    pub fn serve(body: &str, script: &str) -> Self {
        let addr = loopback(free_port());
        let listener = TcpListener::bind(addr).unwrap();
        let html = format!(
            "<!doctype html><meta charset=utf-8><title>A page</title>{body}\n\
             <script type=module>\n{REPORT}\ntry {{\n{script}\n}} \
             catch (error) {{ await report({{ threw: String(error) }}); }}\n</script>"
        );
        let (send, reports) = channel();
        let over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&over);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.load(Ordering::Relaxed) {
                    return;
                }
                let (html, send) = (html.clone(), send.clone());
                // An error is the browser going away.
                thread::spawn(move || answer(&stream, &html, &send).ok());
            }
        });
        Self {
            addr,
            reports,
            over,
        }
    }

    /// By name, so that the page's origin is no IP address.
    pub fn url(&self) -> String {
        format!("http://localhost:{}/", self.addr.port())
    }

    /// What the script reports next.
    #[track_caller]
    pub fn next_report(&self, limit: Duration) -> Value {
        self.reports
            .recv_timeout(limit)
            .expect("the page reports in time")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.addr));
    }
}

fn answer(stream: &TcpStream, html: &str, reports: &Sender<Value>) -> io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut request = String::new();
    input.read_line(&mut request)?;
    let mut len = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            len = value.parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; len];
    input.read_exact(&mut body)?;
    let (status, html) = match request.split(' ').nth(1) {
        Some("/") => ("200 OK", html),
        Some("/report") => {
            if let Ok(seen) = serde_json::from_slice(&body) {
                reports.send(seen).ok();
            }
            ("200 OK", "")
        }
        _ => ("404 Not Found", ""),
    };
    let mut out = stream;
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{html}",
        html.len()
    )
}
