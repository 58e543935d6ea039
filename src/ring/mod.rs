//! io_uring through tokio-uring, wrapped so that its known faults cannot be met.

mod blocking;
pub mod buffers;
pub mod datagram;
pub mod datagrams;
mod direct;
pub mod listener;
pub mod mailbox;
pub mod mapping;
mod ops;
mod path;
pub mod runtime;
mod sender;
pub mod signals;
pub mod stream;
mod watchdog;
mod watched;
