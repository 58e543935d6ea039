//! Virtual time: what happens next, and in which order among equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bittube::units::Time;

/// Events of one moment come in the order in which they were planned.
pub struct Clock<E> {
    now: Time,
    planned: u64,
    queue: BinaryHeap<Reverse<Entry<E>>>,
}

struct Entry<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> Clock<E> {
    pub fn new(now: Time) -> Self {
        Self {
            now,
            planned: 0,
            queue: BinaryHeap::new(),
        }
    }

    pub const fn now(&self) -> Time {
        self.now
    }

    /// What is planned for the past happens now.
    pub fn plan(&mut self, at: Time, event: E) {
        if at == Time::NEVER {
            return;
        }
        self.planned += 1;
        self.queue.push(Reverse(Entry {
            at: at.max(self.now),
            order: self.planned,
            event,
        }));
    }

    pub fn next(&mut self) -> Option<E> {
        let Reverse(entry) = self.queue.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
