//! A socket that may go to its thread, and is watched there from the first use on.

use std::cell::Cell;
use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(in crate::ring) struct Watched {
    /// Until it is watched.
    socket: Cell<Option<OwnedFd>>,
    ready: OnceCell<AsyncFd<OwnedFd>>,
}

impl Watched {
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        Self {
            socket: Cell::new(Some(socket.into())),
            ready: OnceCell::new(),
        }
    }

    /// Tells when there is something to read, on the thread that asks first.
    pub fn ready(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let fd = self
            .socket
            .take()
            .ok_or_else(|| io::Error::other("the socket could not be watched"))?;
        // SAFETY: an `OwnedFd` is open, and the same descriptor, until the `AsyncFd` drops it.
        let ready = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(self.ready.get_or_init(|| ready))
    }
}
