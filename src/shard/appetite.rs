//! How large a buffer a connection receives into: a large one only while much comes (R29).

use crate::config::BUFFERS_LEN_MAX;
use crate::ring::buffers;
use crate::ring::buffers::Buffer;
use crate::ring::buffers::LARGE;
use crate::ring::buffers::MEDIUM;
use crate::ring::buffers::SMALL;

/// Receives in a row that brought little, until a large buffer goes.
const MEAGRE_MAX: u32 = 8;

#[derive(Default)]
pub struct Appetite {
    meagre: u32,
}

impl Appetite {
    /// For a connection of which nothing has come yet.
    pub fn begin() -> Buffer {
        Buffer::take(idle_len(buffers::in_use()))
    }

    /// What the next receive goes into, with all that is unread in `buffer`, now that one brought
    /// `received` bytes.
    pub fn fit(&mut self, received: usize, buffer: Buffer) -> Buffer {
        self.fit_beside(received, buffer, buffers::in_use())
    }

    fn fit_beside(&mut self, received: usize, buffer: Buffer, in_use: usize) -> Buffer {
        self.meagre = if received < MEDIUM / 2 {
            self.meagre.saturating_add(1)
        } else {
            0
        };
        let much = received * 2 >= buffer.capacity() && in_use < BUFFERS_LEN_MAX;
        if buffer.capacity() < LARGE && (much || buffer.room() == 0) {
            let mut larger = Buffer::take(buffer.capacity() + 1);
            larger.append(buffer.bytes());
            return larger;
        }
        let idle_len = idle_len(in_use);
        if self.meagre >= MEAGRE_MAX && buffer.is_empty() && buffer.capacity() > idle_len {
            return Buffer::take(idle_len);
        }
        buffer
    }
}

/// Room for some blocks, or for any small message once much is in use.
fn idle_len(in_use: usize) -> usize {
    if in_use < BUFFERS_LEN_MAX / 2 {
        MEDIUM
    } else {
        SMALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, len: usize) -> Buffer {
        let mut buffer = Buffer::take(capacity);
        buffer.append(&vec![7; len]);
        buffer
    }

    #[test]
    fn it_grows_with_what_comes_and_shrinks_when_little_does() {
        let mut appetite = Appetite::default();
        let mut buffer = appetite.fit_beside(MEDIUM, filled(MEDIUM, 100), 0);
        assert_eq!((buffer.capacity(), buffer.len()), (LARGE, 100));
        buffer.consume(100);
        for _ in 1..MEAGRE_MAX {
            buffer = appetite.fit_beside(17, buffer, 0);
            assert_eq!(buffer.capacity(), LARGE);
        }
        buffer.append(b"half a message");
        buffer = appetite.fit_beside(14, buffer, 0);
        assert_eq!(
            (buffer.capacity(), buffer.len()),
            (LARGE, 14),
            "unread bytes stay"
        );
        buffer.consume(14);
        buffer = appetite.fit_beside(17, buffer, 0);
        assert_eq!(buffer.capacity(), MEDIUM);
        buffer = appetite.fit_beside(17, buffer, BUFFERS_LEN_MAX / 2);
        assert_eq!(buffer.capacity(), SMALL);
    }

    #[test]
    fn over_the_budget_it_grows_only_for_what_has_no_room() {
        let mut appetite = Appetite::default();
        let buffer = appetite.fit_beside(SMALL, filled(SMALL, 100), BUFFERS_LEN_MAX);
        assert_eq!(buffer.capacity(), SMALL);
        let buffer = appetite.fit_beside(SMALL, filled(SMALL, SMALL), BUFFERS_LEN_MAX);
        assert_eq!((buffer.capacity(), buffer.len()), (MEDIUM, SMALL));
        let buffer = appetite.fit_beside(1, filled(LARGE, LARGE), BUFFERS_LEN_MAX);
        assert_eq!(buffer.capacity(), LARGE);
    }
}
