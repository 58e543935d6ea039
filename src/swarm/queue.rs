//! What one peer was asked for and has not brought, in that order.

use std::collections::VecDeque;

use crate::units::{Block, Time};

#[derive(Debug, Default)]
pub struct Queue {
    asked: VecDeque<Asked>,
}

#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub block: Block,
    pub len: u32,
    pub at: Time,
    pub expect: Time,
}

impl Queue {
    pub fn push(&mut self, asked: Asked) {
        self.asked.push_back(asked);
    }

    pub fn front(&self) -> Option<&Asked> {
        self.asked.front()
    }

    pub fn take(&mut self, block: Block) -> Option<Asked> {
        let place = self.asked.iter().position(|asked| asked.block == block)?;
        self.asked.remove(place)
    }

    /// In the order of asking.
    pub fn blocks(&self) -> impl DoubleEndedIterator<Item = Block> + '_ {
        self.asked.iter().map(|asked| asked.block)
    }

    pub fn len(&self) -> usize {
        self.asked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Bytes that come after this block; `None` if it was not asked for.
    pub fn behind(&self, block: Block) -> Option<u64> {
        let mut behind = 0;
        for asked in self.asked.iter().rev() {
            if asked.block == block {
                return Some(behind);
            }
            behind += u64::from(asked.len);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BlockIndex, PieceIndex};

    fn block(index: u32) -> Block {
        Block {
            piece: PieceIndex(3),
            block: BlockIndex(index),
        }
    }

    #[test]
    fn what_comes_after_a_block_is_what_was_asked_for_later() {
        let mut queue = Queue::default();
        for (index, len) in [(0, 100), (1, 50), (2, 7)] {
            let (at, expect) = (Time::ZERO, Time::from_secs(1));
            let block = block(index);
            queue.push(Asked {
                block,
                len,
                at,
                expect,
            });
        }
        let behind = |queue: &Queue| [0, 1, 2, 3].map(|index| queue.behind(block(index)));
        assert_eq!(behind(&queue), [Some(57), Some(7), Some(0), None]);
        assert!(queue.take(block(1)).is_some_and(|asked| asked.len == 50));
        assert!(queue.take(block(1)).is_none());
        assert_eq!(behind(&queue), [Some(7), None, Some(0), None]);
    }
}
