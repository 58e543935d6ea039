//! The sending half of a connection: at once as far as the socket takes it, else by the ring.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ring::direct;
use crate::ring::mapping::Mapping;
use crate::ring::mapping::is_fault;
use crate::ring::ops;
use crate::ring::ops::Payload;
use crate::ring::path;
use crate::ring::path::Path;
use crate::ring::runtime;
use crate::ring::stream::Connection;
use crate::ring::stream::ShutDownUnlessDone;
use crate::ring::stream::finish;
use crate::ring::stream::is_cancelled;
use crate::units::Time;

/// A send of which the other side takes nothing for so long ends the connection.
pub const STALL_MAX: Duration = Duration::from_secs(300);

/// How far what was sent has come is looked at all the time at first: on a fast path it is through
/// before a timer ends. Then no more often than this, and no less; the longer it takes, the rarer,
/// for at first only a few bytes tell how fast it goes, which waited for nothing.
const LOOKS_FOR: Duration = Duration::from_micros(100);
const LOOK_MIN: Duration = Duration::from_micros(200);
const LOOK_MAX: Duration = Duration::from_millis(25);
const LOOK_DIVISOR: u32 = 4;

/// From a time on, when what was sent has gone over our own line whatever is acknowledged, so many
/// bytes more may wait: acknowledgements wait too, where they come from.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub since: Time,
    pub bytes: u64,
}

/// The sending half: one send at a time, for two would mix their bytes (H11).
///
/// A send that is dropped under way shuts the connection down, since some of its bytes went out
/// (H12); one that stalls does the same and is [`io::ErrorKind::TimedOut`].
pub struct Sender {
    pub(super) connection: Rc<Connection>,
    stall: Duration,
}

impl Sender {
    pub(super) const fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            stall: STALL_MAX,
        }
    }

    /// So much may wait in the kernel before its turn on the wire: what is sent next can still be
    /// chosen.
    pub fn limit_unsent(&self, bytes: u32) -> io::Result<()> {
        socket2::SockRef::from(&*self.connection.fd).set_tcp_notsent_lowat(bytes)
    }

    /// How long the other side may take nothing; five minutes if not set.
    pub const fn set_stall(&mut self, stall: Duration) {
        self.stall = stall;
    }

    /// Sends it all. `more`: more will follow at once, so that a packet need not end here.
    pub async fn send_all(&mut self, data: impl Into<Bytes>, more: bool) -> io::Result<()> {
        let data = data.into();
        let range = 0..data.len();
        self.send(data, range, more).await.0
    }

    /// Sends bytes of a mapped file with no copy in user space, and says how many. Those are fewer
    /// than asked for only if the file cannot be read a little behind them: then the next call, or
    /// the one after, is an error for which [`is_fault`] is true. The connection is still good.
    pub async fn send_mapped(
        &mut self,
        map: Arc<Mapping>,
        range: Range<usize>,
        more: bool,
    ) -> io::Result<usize> {
        let range = map.checked(range)?;
        match self.send(map, range, more).await {
            (Ok(()), sent, _) => Ok(sent),
            (Err(error), sent, _) if is_fault(&error) && sent > 0 => Ok(sent),
            (Err(error), ..) => Err(error),
        }
    }

    /// Whether an operation that ended so is to be made again: it was cancelled with one of the
    /// receiver's (H18), unless our own time is up.
    fn goes_on(&self, error: &io::Error, until: Time) -> bool {
        if !is_cancelled(error) {
            return false;
        }
        let in_time = runtime::now() < until;
        if !in_time {
            self.connection.shut_down();
        }
        in_time
    }

    /// Says that no more will be sent (FIN); receiving goes on.
    pub fn finish(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(
            &self.connection.fd,
            rustix::net::Shutdown::Write,
        )?)
    }

    /// Until what was sent is on its way, but for half of what [`Sender::limit_unsent`] lets wait.
    pub async fn drained(&mut self) -> io::Result<()> {
        let fd = &self.connection.fd;
        let unfinished = ShutDownUnlessDone::new(&self.connection);
        let until = runtime::now() + self.stall;
        let result = loop {
            if ops::ready_now(fd, ops::WRITABLE) {
                break Ok(());
            }
            let (result, ()) = finish(fd, ops::poll(fd, ops::WRITABLE), until).await;
            match result {
                Ok(_) => break Ok(()),
                Err(error) if self.goes_on(&error, until) => {}
                Err(error) => break Err(error_of(error)),
            }
        };
        unfinished.done();
        result
    }

    /// Bytes that were sent and that the other side has not acknowledged.
    pub fn unread(&self) -> u64 {
        path::pending(&self.connection.fd).unwrap_or(0)
    }

    /// Until of all that was sent no more than `rest` bytes wait on the way, beside those that keep
    /// the path busy: what is before its narrowest line waits for nothing but itself. Where an
    /// acknowledgement is late, it is no sign of a line of ours: see [`Late`].
    pub async fn delivered(&mut self, rest: u64, late: Option<Late>) -> io::Result<()> {
        // The commoner case, and the cheaper question.
        if path::pending(&self.connection.fd)? <= rest {
            return Ok(());
        }
        let began = runtime::now();
        loop {
            let now = runtime::now();
            let path = Path::of(&self.connection.fd)?;
            let over = late.filter(|late| now >= late.since);
            let most = rest
                .saturating_add(path.fill())
                .saturating_add(over.map_or(0, |late| late.bytes));
            let Some(wait) = path.time_to(most) else {
                return Ok(());
            };
            let waited = now.since(began);
            if waited >= self.stall {
                self.connection.shut_down();
                return Err(io::ErrorKind::TimedOut.into());
            }
            if waited < LOOKS_FOR {
                runtime::breathe().await;
                continue;
            }
            let wait = wait.max(waited / LOOK_DIVISOR).min(LOOK_MAX);
            let late = late.filter(|late| now < late.since);
            let wait = late.map_or(wait, |late| wait.min(late.since.since(now)));
            runtime::sleep(wait.max(LOOK_MIN)).await;
        }
    }

    async fn send<P: Payload>(
        &mut self,
        mut payload: P,
        range: Range<usize>,
        more: bool,
    ) -> (io::Result<()>, usize, P) {
        let stall = self.stall;
        let fd = &self.connection.fd;
        let unfinished = ShutDownUnlessDone::new(&self.connection);
        let mut at = range.start;
        let mut until = runtime::now() + stall;
        let result = loop {
            if at == range.end {
                break Ok(());
            }
            let end = range.end.min(at.saturating_add(ops::LEN_MAX));
            match direct::send(fd, &payload, at..end, more || end < range.end) {
                Some(Ok(count)) => {
                    at += count;
                    continue;
                }
                Some(Err(error)) => break Err(error),
                None => {}
            }
            let op = ops::send(fd, payload, at..end, more || end < range.end);
            let (result, back) = finish(fd, op, until).await;
            payload = back;
            match result {
                Ok(count) => {
                    at += usize::try_from(count).expect("a 64-bit target");
                    until = runtime::now() + stall;
                }
                Err(error) if self.goes_on(&error, until) => {}
                Err(error) => break Err(error_of(error)),
            }
        };
        unfinished.done();
        (result, at - range.start, payload)
    }
}

fn error_of(error: io::Error) -> io::Error {
    if is_cancelled(&error) {
        io::Error::new(io::ErrorKind::TimedOut, "the other side takes nothing")
    } else {
        error
    }
}
