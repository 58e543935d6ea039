//! Players of a shard that wait for their first byte: what nobody waits for stands back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::ring::runtime;
use crate::shard::host::Host;

/// How long pieces that no player waits for go without their hash while a first byte is waited for.
const HASH_WAIT_MAX: Duration = Duration::from_millis(10);

/// How many wait.
#[derive(Default)]
pub struct Hurry {
    waiting: Cell<usize>,
    over: Notify,
}

/// One of them, until dropped.
pub struct Hurried<'a>(&'a Hurry);

impl Hurry {
    pub fn begin(&self) -> Hurried<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Hurried(self)
    }

    pub fn is_on(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Until nobody waits, at most `wait`.
    pub async fn over(&self, wait: Duration) {
        let over = self.over.notified();
        if self.is_on() {
            tokio::select! {
                () = over => {}
                () = runtime::sleep(wait) => {}
            }
        }
    }
}

impl Drop for Hurried<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
        if !self.0.is_on() {
            self.0.over.notify_waiters();
        }
    }
}

/// Hashes what was left for later.
pub async fn catch_up(host: Rc<Host>) {
    let Some(shard) = host.shard.upgrade() else {
        return;
    };
    shard.hurry.over(HASH_WAIT_MAX).await;
    while let Some(hashed) = {
        let wants_digests = |piece| host.swarm.borrow().wants_digests(piece);
        host.shelf.hash_some(runtime::now(), wants_digests)
    } {
        if let Some((piece, verdict)) = hashed {
            host.handle_piece(&shard, piece, verdict);
            host.drain(&[]);
        }
        runtime::breathe().await;
    }
    host.hashing.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_while_anybody_waits() {
        let hurry = Hurry::default();
        let (first, second) = (hurry.begin(), hurry.begin());
        drop(first);
        assert!(hurry.is_on());
        drop(second);
        assert!(!hurry.is_on());
    }
}
