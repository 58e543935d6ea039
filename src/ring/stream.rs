//! TCP connections: dropping one closes it, a timed-out operation has ended, no byte is lost.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockAddr, Type};

use crate::ring::buffers::Buffer;
use crate::ring::direct;
use crate::ring::ops::{self, Fd, Op};
use crate::ring::runtime;
use crate::units::Time;

pub use crate::ring::mapping::is_fault;
pub use crate::ring::sender::{Late, Sender};

/// How long a cancelled operation may take to end before its socket is shut down.
const SETTLE_PATIENCE: Duration = Duration::from_millis(100);
const CANCEL_TRIES: u32 = 10;

/// A connection without any operation on it: may be sent to another shard. Dropped, it is closed.
pub struct Socket(OwnedFd);

impl Socket {
    /// From a listener of ours, which hands down that it sends at once; and what is accepted waits,
    /// whatever its listener does.
    pub(in crate::ring) const fn accepted(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        peer_addr(&self.0)
    }
}

/// A connection on this shard. Dropped, it is shut down and closed, and what was on its way ends.
pub struct Stream(Rc<Connection>);

impl Stream {
    pub fn new(socket: Socket) -> Self {
        Self(Rc::new(Connection::new(Rc::new(socket.0))))
    }

    /// Connects within `timeout`, else [`io::ErrorKind::TimedOut`]. Dropped, it gives up at once.
    pub async fn connect(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        // Owned by a connection from the start: its drop ends a connect that is under way (H6).
        let stream = Self::new(Socket(socket.into()));
        let fd = &stream.0.fd;
        let op = ops::connect(fd, SockAddr::from(to));
        let (result, _) = match within(op, timeout).await {
            Ok(done) => done,
            Err(op) => settle(fd, op).await,
        };
        match result {
            Ok(_) if to.ip().is_loopback() && stream.local_addr()? == to => {
                // TCP's simultaneous open with itself: nobody listens there.
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(stream),
            Err(error) if is_cancelled(&error) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        peer_addr(&self.0.fd)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(&self.0.fd)?.try_into()?)
    }

    pub fn closer(&self) -> Closer {
        Closer(Rc::downgrade(&self.0))
    }

    pub fn split(self) -> (Receiver, Sender) {
        let receiver = Receiver(Rc::clone(&self.0));
        let sender = Sender::new(self.0);
        (receiver, sender)
    }

    /// The connection ends once what was sent is not acknowledged for so long, or not taken: who
    /// vanished says no good-bye (tcp(7), `TCP_USER_TIMEOUT`).
    pub fn set_silence_max(&self, most: Duration) {
        let millis = u32::try_from(most.as_millis()).unwrap_or(u32::MAX);
        // A socket that refuses it has ended already.
        let _ = sockopt::set_tcp_user_timeout(&self.0.fd, millis);
    }

    /// Two halves of one connection. Panics if they are not.
    pub fn rejoin(mut receiver: Receiver, sender: Sender) -> Self {
        receiver.set_low_water(1);
        assert!(
            Rc::ptr_eq(&receiver.0, &sender.connection),
            "halves of one connection"
        );
        Self(receiver.0)
    }

    /// Ends all operations and gives the socket away, its bytes unread in it. Dropped on the way,
    /// the connection is shut down.
    pub async fn into_socket(self) -> Socket {
        let connection = self.0;
        connection.hangup.drop_op();
        connection.readable.drop_op();
        let fd = Rc::clone(&connection.fd);
        // What else holds the socket is an operation: `connection` and `fd` are two.
        let mut tries = 0;
        while Rc::strong_count(&fd) > 2 {
            let _ = ops::cancel(&fd).await;
            runtime::breathe().await;
            tries += 1;
            if tries >= CANCEL_TRIES {
                // Not seen yet: cancelling a socket's operations has always succeeded.
                connection.shut_down();
                runtime::sleep(SETTLE_PATIENCE).await;
            }
        }
        connection.given_away.set(true);
        drop(connection);
        Socket(Rc::into_inner(fd).expect("the connection is dropped and no operation is left"))
    }
}

/// The receiving half.
pub struct Receiver(Rc<Connection>);

impl Receiver {
    /// Appends what comes to the buffer's room, compacting it if it has none; 0 is the end. Past
    /// the deadline: [`io::ErrorKind::TimedOut`], with no byte lost and the connection as good as
    /// before. Dropped, the connection is shut down, for bytes may be lost (H1).
    pub async fn recv(
        &mut self,
        mut buffer: Buffer,
        deadline: Option<Duration>,
    ) -> (io::Result<usize>, Buffer) {
        if buffer.room() == 0 {
            buffer.compact();
        }
        if buffer.room() == 0 {
            // The kernel would say 0, which looks like the end (H16).
            let full = io::Error::new(io::ErrorKind::InvalidInput, "no room in the buffer");
            return (Err(full), buffer);
        }
        let until = deadline.map_or(Time::NEVER, |wait| runtime::now() + wait);
        let unfinished = ShutDownUnlessDone::new(&self.0);
        loop {
            let op = ops::recv(&self.0.fd, buffer);
            let (result, back) = finish(&self.0.fd, op, until).await;
            buffer = back;
            let result = match result {
                // Ours, or the sender's, which cancels both directions (H18).
                Err(error) if is_cancelled(&error) => {
                    if runtime::now() < until {
                        continue;
                    }
                    Err(io::ErrorKind::TimedOut.into())
                }
                Err(error) => Err(error),
                Ok(count) => {
                    let count = usize::try_from(count).expect("a 64-bit target");
                    buffer.filled(count);
                    Ok(count)
                }
            };
            unfinished.done();
            return (result, buffer);
        }
    }

    /// What has come already, without waiting for more; `None` if nothing has.
    pub fn recv_now(&mut self, buffer: &mut Buffer) -> Option<io::Result<usize>> {
        match rustix::net::recv(&self.0.fd, buffer.room_mut(), RecvFlags::DONTWAIT) {
            Ok((count, _)) => {
                buffer.filled(count);
                Some(Ok(count))
            }
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// What is received from now on is waited for until so many bytes are there, or the end: fewer
    /// would be of no use yet. Those that have come already come at once.
    pub fn set_low_water(&mut self, bytes: usize) {
        let bytes = i32::try_from(bytes.max(1)).unwrap_or(i32::MAX);
        if self.0.low_water.replace(bytes) != bytes {
            direct::set_low_water(&self.0.fd, bytes);
        }
    }

    /// Resolves when there are bytes, the end or an error: how an idle connection waits without a
    /// buffer. Loses nothing when dropped.
    pub async fn readable(&mut self) {
        let connection = &self.0;
        let mut fresh = false;
        poll_fn(|cx| {
            loop {
                // A stored poll may have seen what has been received since.
                fresh |= !connection.readable.is_stored();
                if !fresh && ops::ready_now(&connection.fd, ops::READABLE) {
                    return Poll::Ready(());
                }
                std::task::ready!(connection.readable.poll(&connection.fd, cx));
                if fresh {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }

    /// Resolves when the other side has closed, reset, or will send no more; from then on always
    /// at once. Loses nothing when dropped, and costs little when called again.
    pub async fn hangup(&mut self) {
        let connection = &self.0;
        poll_fn(|cx| {
            if !connection.hung_up.get() {
                std::task::ready!(connection.hangup.poll(&connection.fd, cx));
                connection.hung_up.set(true);
            }
            Poll::Ready(())
        })
        .await;
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        peer_addr(&self.0.fd)
    }

    pub fn closer(&self) -> Closer {
        Closer(Rc::downgrade(&self.0))
    }
}

/// Closes a connection from elsewhere on its shard. Does not keep it open.
#[derive(Clone)]
pub struct Closer(pub(super) Weak<Connection>);

impl Closer {
    /// Shuts both directions down: what waits there ends. Nothing if it is closed already.
    pub fn close(&self) {
        if let Some(connection) = self.0.upgrade() {
            connection.shut_down();
        }
    }
}

/// What the halves share. No operation owns it, so its drop is the end of the connection.
pub(super) struct Connection {
    pub(super) fd: Fd,
    hangup: StoredPoll,
    readable: StoredPoll,
    hung_up: Cell<bool>,
    given_away: Cell<bool>,
    low_water: Cell<i32>,
}

impl Connection {
    const fn new(fd: Fd) -> Self {
        Self {
            fd,
            hangup: StoredPoll::new(ops::HANGUP),
            readable: StoredPoll::new(ops::READABLE),
            hung_up: Cell::new(false),
            given_away: Cell::new(false),
            low_water: Cell::new(1),
        }
    }

    pub(super) fn shut_down(&self) {
        // Fails where the other side has reset the connection: then it is down.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}

impl Drop for Connection {
    /// Operations hold the socket open (H2): shut down, they end and let it go. Where there are
    /// none, it is closed with this, which says the same to the other side.
    fn drop(&mut self) {
        if !self.given_away.get() && Rc::strong_count(&self.fd) > 1 {
            self.shut_down();
        }
    }
}

/// A poll that outlives the futures that wait for it, so that dropping them leaves no operation
/// behind each time.
struct StoredPoll {
    events: u32,
    op: RefCell<Option<Op<()>>>,
}

impl StoredPoll {
    const fn new(events: u32) -> Self {
        Self {
            events,
            op: RefCell::new(None),
        }
    }

    /// Ready when an event came; the next call waits for the next.
    fn poll(&self, fd: &Fd, cx: &mut Context<'_>) -> Poll<()> {
        let mut stored = self.op.borrow_mut();
        loop {
            let op = stored.get_or_insert_with(|| ops::poll(fd, self.events));
            let (result, ()) = std::task::ready!(Pin::new(op).poll(cx));
            *stored = None;
            // Cancelled with an operation of either half (H18): once more.
            if !result.is_err_and(|error| is_cancelled(&error)) {
                return Poll::Ready(());
            }
        }
    }

    fn is_stored(&self) -> bool {
        self.op.borrow().is_some()
    }

    fn drop_op(&self) {
        self.op.take();
    }
}

/// Shuts the connection down if it is dropped before [`ShutDownUnlessDone::done`]: the future it
/// lives in was dropped while the kernel had its operation.
pub(super) struct ShutDownUnlessDone<'a>(Option<&'a Connection>);

impl<'a> ShutDownUnlessDone<'a> {
    pub(super) const fn new(connection: &'a Connection) -> Self {
        Self(Some(connection))
    }

    pub(super) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for ShutDownUnlessDone<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.shut_down();
        }
    }
}

pub(super) type Done<D> = (io::Result<u32>, D);

/// The operation's own verdict, which it gives by `until` or when cancelled then.
pub(super) async fn finish<D: Unpin>(fd: &Fd, mut op: Op<D>, until: Time) -> Done<D> {
    if until == Time::NEVER {
        return op.await;
    }
    let wait = until.since(runtime::now());
    match within(op, wait).await {
        Ok(done) => return done,
        Err(still) => op = still,
    }
    settle(fd, op).await
}

/// Gives the operation back if it is not done after `wait`.
async fn within<D: Unpin>(mut op: Op<D>, wait: Duration) -> Result<Done<D>, Op<D>> {
    tokio::select! {
        biased;
        done = &mut op => return Ok(done),
        () = runtime::sleep(wait) => {}
    }
    Err(op)
}

/// Cancels an operation and waits for its verdict, which may still be success.
async fn settle<D: Unpin>(fd: &Fd, mut op: Op<D>) -> Done<D> {
    loop {
        let _ = ops::cancel(fd).await;
        match within(op, SETTLE_PATIENCE).await {
            Ok(done) => return done,
            Err(still) => op = still,
        }
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

pub(super) fn is_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR))
}

fn peer_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let addr = rustix::net::getpeername(fd)?.ok_or(io::ErrorKind::NotConnected)?;
    Ok(addr.try_into()?)
}

#[cfg(test)]
mod tests;
