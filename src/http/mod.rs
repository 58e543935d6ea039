//! HTTP/1.1 as the stub, the origin and the trackers all speak it: heads, ranges, bodies.

pub mod body;
pub mod head;
pub mod pin;
pub mod range;
pub mod reply;
