//! io_uring through tokio-uring, wrapped so that its known faults cannot be met.
