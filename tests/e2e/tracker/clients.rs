//! Real clients find each other by the tracker.
