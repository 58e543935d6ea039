//! Pieces on disk: verified as blocks arrive, mapped for serving, evicted under a quota.
