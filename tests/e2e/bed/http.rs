//! The smallest HTTP/1.1 client: says exactly what it is told, and keeps what comes back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer of the bed's takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One connection, kept alive for as long as the other side likes.
pub struct Client {
    addr: SocketAddr,
    input: BufReader<TcpStream>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        Self::over(addr, TcpStream::connect_timeout(&addr, PATIENCE)?)
    }

    /// On a connection that is made already.
    pub fn over(addr: SocketAddr, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            addr,
            input: BufReader::with_capacity(64 * 1024, stream),
        })
    }

    /// Sends a request without a body; `headers` are whole lines without their ends. A `Host` is
    /// added unless one is among them.
    pub fn send(&mut self, method: &str, target: &str, headers: &[&str]) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|line| line.to_ascii_lowercase().starts_with("host:"))
        {
            head += &format!("Host: {}\r\n", self.addr);
        }
        for line in headers {
            head += line;
            head += "\r\n";
        }
        self.send_raw((head + "\r\n").as_bytes())
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.get_mut().write_all(bytes)
    }

    /// The head of an answer; the body is left to be read.
    pub fn head(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            if self.input.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Reply {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// The whole of an answer to `method`.
    pub fn reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut reply = self.head()?;
        if method == "HEAD" || matches!(reply.status, 204 | 304) {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some() {
            reply.body = self.pieces_of_unknown_length()?;
        } else if let Some(len) = reply.length() {
            reply.body = vec![0; len];
            self.input.read_exact(&mut reply.body)?;
        } else {
            self.input.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }

    pub fn get(&mut self, target: &str, headers: &[&str]) -> io::Result<Reply> {
        self.send("GET", target, headers)?;
        self.reply("GET")
    }

    /// Part of a body after [`Client::head`]. Zero is the end of the connection.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }

    /// So many bytes of a body, or panics where they stop.
    #[track_caller]
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        let mut got = 0;
        while got < len {
            match self.read(&mut body[got..]) {
                Ok(0) => panic!("the body ended after {got} of {len} bytes"),
                Ok(more) => got += more,
                Err(error) => panic!("after {got} of {len} bytes: {error}"),
            }
        }
        body
    }

    fn pieces_of_unknown_length(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let held = body.len();
            body.resize(held + len, 0);
            self.input.read_exact(&mut body[held..])?;
            self.input.read_line(&mut line)?;
            if len == 0 {
                return Ok(body);
            }
        }
    }
}

impl Reply {
    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
pub fn get(addr: SocketAddr, target: &str, headers: &[&str]) -> io::Result<Reply> {
    Client::connect(addr)?.get(target, headers)
}
