//! Announcing to trackers, and answering announces (BEP 3, 7, 23).
