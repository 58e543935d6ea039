//! The rules of the choker.
