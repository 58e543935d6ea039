//! The control port: statistics and metrics behind a token.
