//! Players' connections that wait for a request: where there are many, the oldest go first (R25).

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

/// Of the connections there may be, in hundredths: with more than this, idle ones go.
const PLENTY_PERCENT: usize = 80;

#[derive(Default)]
pub struct Idle {
    /// The longest idle first.
    waiting: RefCell<BTreeMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
}

/// One connection that waits, as long as this lives.
pub struct Waiting<'a> {
    idle: &'a Idle,
    key: u64,
    told: Rc<Notify>,
}

impl Idle {
    pub fn wait(&self) -> Waiting<'_> {
        let key = self.next.get();
        self.next.set(key + 1);
        let told = Rc::new(Notify::new());
        self.waiting.borrow_mut().insert(key, told.clone());
        Waiting {
            idle: self,
            key,
            told,
        }
    }

    /// One more connection came, which makes `open` of at most `max`.
    pub fn handle_arrival(&self, open: usize, max: usize) {
        if open * 100 <= max * PLENTY_PERCENT {
            return;
        }
        if let Some((_, told)) = self.waiting.borrow_mut().pop_first() {
            told.notify_one();
        }
    }
}

impl Waiting<'_> {
    /// Until this connection is to go.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.idle.waiting.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::runtime;

    async fn is_told(waiting: &Waiting<'_>) -> bool {
        tokio::select! {
            biased;
            () = waiting.told() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[test]
    fn the_longest_idle_goes_and_only_above_the_mark() {
        runtime::run(async {
            let idle = Idle::default();
            let gone = idle.wait();
            let (first, second) = (idle.wait(), idle.wait());
            drop(gone);
            idle.handle_arrival(8, 10);
            assert!(!is_told(&first).await);
            idle.handle_arrival(9, 10);
            assert!(is_told(&first).await && !is_told(&second).await);
            idle.handle_arrival(9, 10);
            assert!(is_told(&second).await);
            // Nobody is idle: nobody goes.
            idle.handle_arrival(10, 10);
        })
        .unwrap();
    }
}
