//! One-shot operations: each owns its file descriptor and its memory until the kernel is done.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{cqueue, opcode, squeue, types};
use socket2::SockAddr;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::ring::buffers::Buffer;
use crate::ring::mapping::Mapping;

/// Shared with every operation on it, so that its number is not reused under one (H4).
pub type Fd = Rc<OwnedFd>;

/// The other side will send no more, or the connection is gone.
pub const HANGUP: u32 = libc::POLLRDHUP as u32;
/// There is room for bytes.
pub const WRITABLE: u32 = libc::POLLOUT as u32;
/// There are bytes, or [`HANGUP`].
pub const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

/// The most bytes of one operation; longer sends are cut.
pub const LEN_MAX: usize = 1 << 30;

thread_local! {
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
}

/// Operations of this thread that the kernel may still work on.
pub fn in_flight() -> usize {
    IN_FLIGHT.get()
}

/// An operation on its way. Dropped, it goes on without us (H1, H12): what that means for the
/// connection is the business of whoever drops it.
pub struct Op<D: 'static>(InFlightOneshot<Stored<D>, Raw<D>>);

impl<D: Unpin> Future for Op<D> {
    /// What the kernel says, and the memory back.
    type Output = (io::Result<u32>, D);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Receives into the room of `buffer`; the caller counts the result as filled.
pub fn recv(fd: &Fd, mut buffer: Buffer) -> Op<Buffer> {
    let (room, len) = buffer.room_span();
    let sqe = opcode::Recv::new(raw(fd), room, wire_len(len.min(LEN_MAX))).build();
    // SAFETY: the room is heap memory of the buffer, which the operation owns.
    unsafe { submit(Some(fd), buffer, sqe) }
}

/// Sends `range` of the payload, all of it (`MSG_WAITALL`) unless it fails or is cancelled: then
/// what was sent until then, if anything, is the result.
pub fn send<P: Payload>(fd: &Fd, payload: P, range: Range<usize>, more: bool) -> Op<P> {
    let (start, len) = payload.span();
    assert!(
        range.start <= range.end && range.end <= len,
        "a send stays in its payload"
    );
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    let from = start.wrapping_add(range.start);
    let sqe = opcode::Send::new(raw(fd), from, wire_len(range.len()))
        .flags(flags)
        .build();
    // SAFETY: the range lies in the payload (asserted), whose memory `Payload` promises to keep in
    // place, and which the operation owns.
    unsafe { submit(Some(fd), payload, sqe) }
}

/// Waits for one of `events`, [`HANGUP`], [`READABLE`] or [`WRITABLE`]; errors and the end always
/// count.
pub fn poll(fd: &Fd, events: u32) -> Op<()> {
    let sqe = opcode::PollAdd::new(raw(fd), events).build();
    // SAFETY: names no memory.
    unsafe { submit(Some(fd), (), sqe) }
}

/// Connects a socket.
pub fn connect(fd: &Fd, to: SockAddr) -> Op<Box<SockAddr>> {
    let to = Box::new(to);
    let sqe = opcode::Connect::new(raw(fd), to.as_ptr().cast(), to.len()).build();
    // SAFETY: the address is boxed, and the operation owns the box.
    unsafe { submit(Some(fd), to, sqe) }
}

/// Cancels everything on `fd`, in both directions (H18): the users of the other direction see
/// `ECANCELED` or a short count, and start again.
pub fn cancel(fd: &Fd) -> Op<()> {
    let sqe = opcode::AsyncCancel2::new(CancelBuilder::fd(raw(fd)).all()).build();
    // SAFETY: names no memory.
    unsafe { submit(Some(fd), (), sqe) }
}

/// Cancels everything on this thread's ring.
pub fn cancel_any() -> Op<()> {
    let sqe = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
    // SAFETY: names no memory.
    unsafe { submit(None, (), sqe) }
}

/// Ends with `ETIME` after `wait`, some 50 µs late, where a timer of tokio is 1 ms late (H14).
/// Dropped, it stays in the ring until then.
pub fn timeout(wait: Duration) -> Op<Box<Timespec>> {
    let wait = Box::new(Timespec::from(wait));
    let sqe = opcode::Timeout::new(&raw const *wait).build();
    // SAFETY: the time is boxed, and the operation owns the box.
    unsafe { submit(None, wait, sqe) }
}

/// Goes to the kernel and back.
pub fn nop() -> Op<()> {
    // SAFETY: names no memory.
    unsafe { submit(None, (), opcode::Nop::new().build()) }
}

/// Bytes that a send reads while it is on its way.
///
/// # Safety
/// The span's memory stays valid and in place until the value is dropped, also when it is moved.
/// Dropping the value must not touch the runtime (H8).
pub unsafe trait Payload: Unpin + 'static {
    fn span(&self) -> (*const u8, usize);
}

// SAFETY: the bytes are static or on the heap, reference-counted and immutable.
unsafe impl Payload for Bytes {
    fn span(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }
}

// SAFETY: the bytes are in a `Vec`, which nothing changes while the operation owns it.
unsafe impl Payload for Buffer {
    fn span(&self) -> (*const u8, usize) {
        (self.bytes().as_ptr(), self.len())
    }
}

// SAFETY: the mapping lasts as long as the `Arc`; if its file is truncated the kernel says EFAULT.
unsafe impl Payload for Arc<Mapping> {
    fn span(&self) -> (*const u8, usize) {
        (self.as_ptr(), self.len())
    }
}

/// What an operation owns: dropped only once the kernel is done, and inside the ring's dispatch.
struct Stored<D> {
    data: D,
    _fd: Option<Fd>,
    _counted: Counted,
}

struct Counted;

impl Counted {
    fn new() -> Self {
        IN_FLIGHT.set(IN_FLIGHT.get() + 1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = IN_FLIGHT.try_with(|count| count.set(count.get() - 1));
    }
}

struct Raw<D>(PhantomData<fn() -> D>);

impl<D: 'static> OneshotOutputTransform for Raw<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = Stored<D>;

    fn transform_oneshot_output(self, stored: Stored<D>, cqe: cqueue::Entry) -> Self::Output {
        let result = u32::try_from(cqe.result())
            .map_err(|_| io::Error::from_raw_os_error(cqe.result().saturating_neg()));
        (result, stored.data)
    }
}

/// # Safety
/// All memory that `sqe` names belongs to `data`, stays in place when `data` moves, and lives as
/// long. The operation completes once (H9). Dropping `data` does not touch the runtime (H8).
unsafe fn submit<D: 'static>(fd: Option<&Fd>, data: D, sqe: squeue::Entry) -> Op<D> {
    let stored = Stored {
        data,
        _fd: fd.cloned(),
        _counted: Counted::new(),
    };
    Op(UnsubmittedOneshot::new(stored, Raw(PhantomData), sqe).submit())
}

fn raw(fd: &Fd) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("operations are cut to LEN_MAX")
}

/// Whether [`poll`] for `events` would end at once.
pub fn ready_now(fd: &Fd, events: u32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::c_short::try_from(events).expect("poll flags are 16 bits wide"),
        revents: 0,
    };
    // SAFETY: the kernel writes to the one entry given, before the call, which does not wait, ends.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}
