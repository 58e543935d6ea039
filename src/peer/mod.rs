//! One BitTorrent connection, as a pure machine (BEP 3, 6, 9, 10).
