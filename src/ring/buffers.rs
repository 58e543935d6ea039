//! Receive buffers: contiguous heap memory from a bounded pool on each thread, counted.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A message or a head.
pub const SMALL: usize = 4 * 1024;
/// A few blocks.
pub const MEDIUM: usize = 64 * 1024;
/// A bulk receive: one call for sixteen blocks.
pub const LARGE: usize = 256 * 1024;

/// Size and number kept by each thread: 13 MiB at most.
const CLASSES: [(usize, usize); 3] = [(SMALL, 256), (MEDIUM, 64), (LARGE, 32)];

/// Bytes of all buffers that are taken, on all threads, and of all that is [`Held`] elsewhere.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

pub fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed)
}

thread_local! {
    static POOL: RefCell<[Vec<Vec<u8>>; CLASSES.len()]> =
        const { RefCell::new([const { Vec::new() }; CLASSES.len()]) };
}

/// A fixed room of bytes: read from the front, filled at the end.
pub struct Buffer {
    /// As long as the capacity, so that no byte is uninitialised. A `Vec`, because its memory
    /// stays where it is when the buffer moves into an operation (H23).
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer of the smallest class that holds `at_least` bytes ([`SMALL`], [`MEDIUM`],
    /// [`LARGE`]); beyond the largest, one of just that size, which is not pooled.
    pub fn take(at_least: usize) -> Self {
        let class = CLASSES.iter().position(|&(len, _)| at_least <= len);
        let pooled = class.and_then(|class| POOL.with_borrow_mut(|pool| pool[class].pop()));
        let len = class.map_or(at_least, |class| CLASSES[class].0);
        IN_USE.fetch_add(len, Ordering::Relaxed);
        Self {
            memory: pooled.unwrap_or_else(|| vec![0; len]),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that were received and not yet consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub const fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Bytes that fit behind the last one. [`Buffer::compact`] may make it more.
    pub const fn room(&self) -> usize {
        self.memory.len() - self.end
    }

    /// Drops the first `count` unread bytes. Panics if there are fewer.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed more than was received");
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Drops all unread bytes.
    pub const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the unread bytes to the front, so that all free room is behind them.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Appends as much of `data` as there is room for, and says how much that was.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.room());
        self.memory[self.end..self.end + count].copy_from_slice(&data[..count]);
        self.end += count;
        count
    }

    /// Where received bytes go: pointer and length of the room behind the last byte.
    pub(in crate::ring) fn room_span(&mut self) -> (*mut u8, usize) {
        let room = &mut self.memory[self.end..];
        (room.as_mut_ptr(), room.len())
    }

    /// The same as a slice, for system calls that fill it at once.
    pub(in crate::ring) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    /// `count` bytes of the room were filled.
    pub(in crate::ring) fn filled(&mut self, count: usize) {
        assert!(
            count <= self.room(),
            "the kernel fills at most the room given"
        );
        self.end += count;
    }
}

impl Drop for Buffer {
    /// Runs inside the ring's dispatch when an operation was dropped: must not touch the runtime.
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        IN_USE.fetch_sub(memory.len(), Ordering::Relaxed);
        let Some(class) = CLASSES.iter().position(|&(len, _)| len == memory.len()) else {
            return;
        };
        // The pool is gone while the thread ends; then the memory simply goes too.
        let _ = POOL.try_with(|pool| {
            let kept = &mut pool.borrow_mut()[class];
            if kept.len() < CLASSES[class].1 {
                kept.push(memory);
            }
        });
    }
}

/// Bytes that are kept outside of any [`Buffer`] and count with them, until this is dropped.
#[derive(Default)]
pub struct Held(Cell<usize>);

impl Held {
    pub const fn get(&self) -> usize {
        self.0.get()
    }

    pub fn set(&self, len: usize) {
        let before = self.0.replace(len);
        if len >= before {
            IN_USE.fetch_add(len - before, Ordering::Relaxed);
        } else {
            IN_USE.fetch_sub(before - len, Ordering::Relaxed);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_from_the_front_and_fills_at_the_end() {
        let mut buffer = Buffer::take(10);
        assert_eq!(buffer.capacity(), SMALL);
        assert_eq!(buffer.append(b"handshake"), 9);
        buffer.consume(4);
        assert_eq!(buffer.bytes(), b"shake");
        assert_eq!(buffer.room(), SMALL - 9);
        buffer.compact();
        assert_eq!((buffer.bytes(), buffer.room()), (&b"shake"[..], SMALL - 5));
        assert_eq!(buffer.append(&[7; SMALL]), SMALL - 5);
        assert_eq!(buffer.room(), 0);
        buffer.consume(SMALL);
        assert_eq!(buffer.room(), SMALL);
    }

    #[test]
    fn the_pool_is_bounded() {
        let many: Vec<_> = (0..50).map(|_| Buffer::take(LARGE)).collect();
        drop(many);
        drop(Buffer::take(LARGE + 1));
        let kept = POOL.with_borrow(|pool| pool.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!(kept, [0, 0, 32]);
        let again = Buffer::take(MEDIUM + 1);
        assert_eq!((again.capacity(), again.len()), (LARGE, 0));
        assert_eq!(POOL.with_borrow(|pool| pool[2].len()), 31);
    }

    #[test]
    fn what_is_taken_or_held_is_counted_until_it_goes() {
        // Far more than what the tests beside this one take.
        let huge = 1 << 40;
        let held = Held::default();
        held.set(3 * huge);
        held.set(2 * huge);
        assert_eq!(in_use() / huge, 2);
        drop(held);
        assert_eq!(in_use() / huge, 0);
        let large = 1 << 30;
        let before = in_use() / large;
        let buffer = Buffer::take(large);
        assert_eq!(in_use() / large, before + 1);
        drop(buffer);
        assert_eq!(in_use() / large, before);
    }

    #[test]
    #[should_panic(expected = "consumed more than was received")]
    fn more_than_there_is_cannot_be_consumed() {
        Buffer::take(SMALL).consume(1);
    }
}
