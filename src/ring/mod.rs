//! io_uring through tokio-uring, wrapped so that its known faults cannot be met.

mod blocking;
pub mod buffers;
pub mod listener;
pub mod mailbox;
pub mod mapping;
mod ops;
pub mod runtime;
pub mod signals;
pub mod stream;
mod watchdog;
