//! Which addresses and ports may be connected to (R19, R20, R22).
