//! Bounded mailboxes: how shards talk, and how other threads talk to them.

use tokio::sync::mpsc;

/// A mailbox that holds at most `capacity` letters.
pub fn mailbox<T: Send>(capacity: usize) -> (Mail<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Mail(sender), Inbox(receiver))
}

/// The end that is written to, from any thread.
pub struct Mail<T>(mpsc::Sender<T>);

impl<T> Mail<T> {
    /// Never waits: gives the letter back if the box is full or its owner gone.
    pub fn send(&self, letter: T) -> Result<(), T> {
        self.0.try_send(letter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(letter) | mpsc::error::TrySendError::Closed(letter) => {
                letter
            }
        })
    }

    /// Whether the owner of the box is gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> Clone for Mail<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The end that is read, on one shard.
pub struct Inbox<T>(mpsc::Receiver<T>);

impl<T> Inbox<T> {
    /// `None` once every [`Mail`] is dropped and the box is empty. Loses nothing when dropped.
    pub async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    /// What is there already, without waiting.
    pub fn try_recv(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::runtime;

    #[test]
    fn a_full_box_gives_the_letter_back() {
        let (mail, mut inbox) = mailbox(2);
        assert_eq!(mail.send(1), Ok(()));
        let other = mail.clone();
        assert_eq!(other.send(2), Ok(()));
        assert_eq!(mail.send(3), Err(3));
        assert_eq!(inbox.try_recv(), Some(1));
        assert_eq!(mail.send(4), Ok(()));
        drop(inbox);
        assert!(mail.is_closed());
        assert_eq!(mail.send(5), Err(5));
    }

    #[test]
    fn a_letter_from_another_thread_wakes_the_ring() {
        let (mail, mut inbox) = mailbox(1);
        let sum = runtime::run(async move {
            let thread = std::thread::spawn(move || {
                for letter in 0..1000u32 {
                    while mail.send(letter).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            let mut sum = 0;
            while let Some(letter) = inbox.recv().await {
                sum += letter;
            }
            thread.join().unwrap();
            sum
        });
        assert_eq!(sum.unwrap(), 499_500);
    }
}
