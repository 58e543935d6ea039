//! One core's loop: the pure machines meet the ring.
