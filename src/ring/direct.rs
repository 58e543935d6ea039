//! Sends made at once: the ring is for what has to wait.
//!
//! `sendfile` would save the kernel's copy, but pages on their way follow their file: where one was
//! cut short, bytes that had been sent arrived changed.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use crate::ring::ops::Payload;

/// Sends what the socket has room for now; `None` if it has none.
pub fn send<P: Payload>(
    fd: &OwnedFd,
    payload: &P,
    range: Range<usize>,
    more: bool,
) -> Option<io::Result<usize>> {
    let (start, len) = payload.span();
    assert!(
        range.start <= range.end && range.end <= len,
        "a send stays in its payload"
    );
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    let from = start.wrapping_add(range.start);
    // SAFETY: the kernel reads the range, which lies in the payload, before the call returns; of
    // a mapping whose file was truncated it says EFAULT.
    let sent = unsafe { libc::send(fd.as_raw_fd(), from.cast(), range.len(), flags) };
    counted(usize::try_from(sent).map_err(|_| io::Error::last_os_error()))
}

/// Who waits to receive wakes when so many bytes are there, or no more will come: socket(7),
/// `SO_RCVLOWAT`.
pub fn set_low_water(fd: &OwnedFd, bytes: i32) {
    let len = libc::socklen_t::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the kernel reads one number there before the call returns. A socket that refuses it
    // wakes for every byte, as before.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            len,
        )
    };
}

fn counted(sent: io::Result<usize>) -> Option<io::Result<usize>> {
    match sent {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => None,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        sent => Some(sent),
    }
}
