//! What is on a connection's way to the other side, and how fast it gets there, as TCP tells.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Of `SIOCOUTQ` and `TCP_INFO`, tcp(7).
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Bytes written and not acknowledged.
    pub pending: u64,
    /// Bytes/s that were acknowledged of late; zero before the first.
    pub rate: u64,
    /// Of all round trips the shortest: one that waited in no queue.
    pub round_trip: Duration,
}

/// A connection's states in which what was sent still goes out, RFC 9293 §3.3.2.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;

impl Path {
    /// [`io::ErrorKind::NotConnected`]: the connection is over, or we have shut it down.
    pub fn of(socket: &OwnedFd) -> io::Result<Self> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let whole = size_of::<libc::tcp_info>();
        let mut len = libc::socklen_t::try_from(whole).expect("some hundred bytes");
        // SAFETY: the kernel writes at most `len` bytes there before the call returns.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: numbers, of which those that the kernel does not know are zero.
        let info = unsafe { info.assume_init() };
        if ![ESTABLISHED, CLOSE_WAIT].contains(&info.tcpi_state) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(Self {
            // What was lost is counted twice among the bytes sent there.
            pending: pending(socket)?,
            rate: info.tcpi_delivery_rate,
            round_trip: Duration::from_micros(u64::from(info.tcpi_min_rtt)),
        })
    }

    /// Bytes that keep it busy: fewer would leave it idle between an acknowledgement and the next
    /// bytes. Twice what goes in a round trip, so that a path that can do more shows it.
    pub fn fill(&self) -> u64 {
        let in_round_trip = u128::from(self.rate) * self.round_trip.as_micros() / 1_000_000;
        u64::try_from(2 * in_round_trip).unwrap_or(u64::MAX)
    }

    /// Until no more than so many bytes are pending; `None` if that is so. No time before anything
    /// has arrived.
    pub fn time_to(&self, pending: u64) -> Option<Duration> {
        let excess = self
            .pending
            .checked_sub(pending)
            .filter(|excess| *excess > 0)?;
        let micros = u128::from(excess) * 1_000_000;
        let micros = micros.checked_div(u128::from(self.rate)).unwrap_or(0);
        Some(Duration::from_micros(
            u64::try_from(micros).unwrap_or(u64::MAX),
        ))
    }
}

/// Bytes written to it and not acknowledged.
pub fn pending(socket: &OwnedFd) -> io::Result<u64> {
    let mut pending: libc::c_int = 0;
    // SAFETY: the kernel writes one number there before the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut pending) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(pending).unwrap_or(0))
}
