//! What one peer was asked for and has not brought, in that order.

use std::collections::VecDeque;

use crate::units::{Block, PieceIndex, Time};

/// A turn may pause for so long between two blocks, beside what it takes for one, s.
const PAUSE_S: f64 = 0.1;

#[derive(Debug, Default)]
pub struct Queue {
    asked: VecDeque<Asked>,
    turn: Option<Turn>,
}

/// A peer that serves one after the other brings the blocks of a piece in a row.
#[derive(Clone, Copy, Debug)]
struct Turn {
    piece: PieceIndex,
    /// When its last block came, and how long after the one before, s.
    came: Time,
    block_s: Option<f64>,
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

    pub fn handle_brought(&mut self, now: Time, piece: PieceIndex) {
        let before = self.turn.filter(|turn| turn.piece == piece);
        self.turn = Some(Turn {
            piece,
            came: now,
            block_s: before.map(|turn| now.since(turn.came).as_secs_f64()),
        });
    }

    /// Until a block comes of the piece whose turn it is, s; `None` if it is another's turn. The
    /// next one, if it is overdue, may be so for as long again.
    pub fn coming_s(&self, now: Time, block: Block) -> Option<f64> {
        let turn = self.turn.filter(|turn| turn.piece == block.piece)?;
        let block_s = turn.block_s?;
        let since_s = now.since(turn.came).as_secs_f64();
        if since_s > 2.0 * block_s + PAUSE_S {
            return None;
        }
        let mut wait_s = (block_s - since_s).abs();
        for asked in &self.asked {
            if asked.block == block {
                return Some(wait_s);
            }
            if asked.block.piece != block.piece {
                return None;
            }
            wait_s += block_s;
        }
        None
    }

    /// How long ago a block was expected that has not come, s; at least zero.
    pub fn overdue_s(&self, now: Time, block: Block) -> f64 {
        let mut asked = self.asked.iter();
        let asked = asked.find(|asked| asked.block == block);
        asked.map_or(0.0, |asked| now.since(asked.expect).as_secs_f64())
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
    use crate::units::BlockIndex;

    fn block(index: u32) -> Block {
        Block {
            piece: PieceIndex(3),
            block: BlockIndex(index),
        }
    }

    #[test]
    fn the_blocks_of_a_turn_come_in_a_row() {
        let mut queue = Queue::default();
        let at = |millis| Time::ZERO + std::time::Duration::from_millis(millis);
        for index in 2..5 {
            let (asked, expect) = (Time::ZERO, at(9000));
            queue.push(Asked {
                block: block(index),
                len: 100,
                at: asked,
                expect,
            });
        }
        let coming = |queue: &Queue, millis| queue.coming_s(at(millis), block(3));
        queue.handle_brought(at(1000), PieceIndex(3));
        assert_eq!(coming(&queue, 1000), None);
        queue.handle_brought(at(1100), PieceIndex(3));
        assert!(coming(&queue, 1100).is_some_and(|wait| (wait - 0.2).abs() < 1e-9));
        assert!(coming(&queue, 1150).is_some_and(|wait| (wait - 0.15).abs() < 1e-9));
        // The one before it is overdue by 50 ms.
        assert!(coming(&queue, 1250).is_some_and(|wait| (wait - 0.15).abs() < 1e-9));
        // Its turn is over.
        assert_eq!(coming(&queue, 1500), None);
        queue.handle_brought(at(1200), PieceIndex(4));
        assert_eq!(coming(&queue, 1200), None);
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
