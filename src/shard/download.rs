//! A file from the web carried past, byte by byte in order, whatever its length.

use std::sync::Arc;

use rustls::client::ClientConfig;
use url::Url;

use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::origin::download::Download;
use crate::origin::download::Output;
use crate::origin::pool::ConnKey;
use crate::reach::Reach;
use crate::ring::runtime;
use crate::shard::fetch::Line;
use crate::shard::fetch::Machine;
use crate::units::ByteRange;
use crate::units::Time;

/// How this process goes out to the web.
pub struct Web {
    pub reach: Reach,
    pub tls: Arc<ClientConfig>,
    /// Our name in `Via` (R4).
    pub agent: String,
}

/// A [`Download`] and the connection that it has.
pub struct Downloading<'a> {
    web: &'a Web,
    machine: Download,
    line: Option<Line>,
}

impl<'a> Downloading<'a> {
    /// As [`Download::new`].
    pub fn new(web: &'a Web, url: Url, range: ByteRange, pin: Option<Pin>) -> Self {
        Self {
            web,
            machine: Download::new(runtime::now(), url, range, pin, &web.agent),
            line: None,
        }
    }

    /// What the answers said of the file.
    pub const fn pin(&self) -> Option<&Pin> {
        self.machine.pin()
    }

    /// Carries what comes next, and gives `take` the file's bytes, with the length of the whole as
    /// far as it is known. False once all of it has come.
    pub async fn carry(
        &mut self,
        take: impl FnMut(Option<u64>, &[u8]),
    ) -> Result<bool, OriginFailed> {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Connect { conn, url } => {
                    let opened = Line::open(&self.web.reach, &self.web.tls, conn, &url).await;
                    let result = opened.map(|opened| self.line = Some(opened));
                    self.machine.handle_connected(runtime::now(), conn, result);
                }
                Output::Send { conn, bytes } => {
                    let sent = match self.line.as_mut() {
                        Some(line) => line.send(&bytes).await,
                        None => false,
                    };
                    if !sent {
                        self.machine.handle_broken(runtime::now(), conn);
                    }
                }
                Output::Close { .. } => self.line = None,
                Output::Done => return Ok(false),
                Output::Failed(error) => return Err(error),
            }
        }
        let mut past = Past {
            machine: &mut self.machine,
            take,
        };
        match self.line.as_mut() {
            Some(line) => line.receive(&mut past).await,
            None => {
                let wait = past.next_timeout().since(runtime::now());
                runtime::sleep(wait).await;
                past.handle_timeout(runtime::now());
            }
        }
        Ok(true)
    }

    /// Something else was done since the last [`Downloading::carry`].
    pub fn paused(&mut self) {
        self.machine.handle_pause(runtime::now());
    }
}

/// What a download takes of its connection goes past to `take`.
struct Past<'a, T> {
    machine: &'a mut Download,
    take: T,
}

impl<T: FnMut(Option<u64>, &[u8])> Machine for Past<'_, T> {
    fn handle_bytes(&mut self, now: Time, conn: ConnKey, bytes: &[u8]) -> usize {
        let taken = self.machine.handle_bytes(now, conn, bytes);
        let data = &bytes[taken.data];
        if !data.is_empty() {
            (self.take)(self.machine.total(), data);
        }
        taken.consumed
    }

    fn handle_closed(&mut self, now: Time, conn: ConnKey) {
        self.machine.handle_closed(now, conn);
    }

    fn handle_broken(&mut self, now: Time, conn: ConnKey) {
        self.machine.handle_broken(now, conn);
    }

    fn next_timeout(&self) -> Time {
        self.machine.next_timeout()
    }

    fn handle_timeout(&mut self, now: Time) {
        self.machine.handle_timeout(now);
    }
}
