//! Signals by whose default a disk could end the process.

use std::io;

/// From now on a file that outgrows `RLIMIT_FSIZE` is the error `EFBIG`, not a fatal `SIGXFSZ`.
/// For the whole process, once, at its start.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: SIG_IGN is no handler that could run; nothing else in the process sets this signal.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
