//! The rules of the dialer.
