//! A dead ring gives no error, it only falls silent (H8): a thread listens to each shard's heart.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ring::runtime;
use crate::units::Time;

/// A shard silent for so long is dead, and the process with it.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A heart that has not begun, or that was dropped in good order.
const AT_REST: u64 = 0;

/// Aborts the process when a shard's heart falls silent. Dropped, it stops listening.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread, and gives a heart for each of `shards` shards.
    pub fn start(shards: usize) -> io::Result<(Self, Vec<Heart>)> {
        Self::start_with(shards, BEAT_EVERY, SILENCE_MAX, |shard| {
            eprintln!(
                "bittube: shard {shard} has not moved for {} s: the ring is dead or its thread \
                 stuck. Aborting, so that the service manager can start it again",
                SILENCE_MAX.as_secs()
            );
            std::process::abort()
        })
    }

    fn start_with(
        shards: usize,
        every: Duration,
        silence_max: Duration,
        on_silent: impl Fn(usize) + Send + 'static,
    ) -> io::Result<(Self, Vec<Heart>)> {
        let beats: Arc<[AtomicU64]> = (0..shards).map(|_| AtomicU64::new(AT_REST)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let hearts = (0..shards)
            .map(|shard| Heart {
                beats: Arc::clone(&beats),
                shard,
                every,
            })
            .collect();
        let stopped = Arc::clone(&stop);
        let listen = move || {
            runtime::unpin();
            let mut pulses: Vec<_> = beats.iter().map(|_| Pulse::default()).collect();
            let mut last = runtime::now();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(every);
                let now = runtime::now();
                // A stopped process (SIGSTOP) finds all its shards late: count at most two beats.
                let passed = now.since(last).min(2 * every);
                last = now;
                for (shard, (pulse, beat)) in pulses.iter_mut().zip(beats.iter()).enumerate() {
                    if pulse.handle_beat(beat.load(Ordering::Relaxed), passed) > silence_max {
                        on_silent(shard);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(listen)?;
        let watchdog = Self {
            stop,
            thread: Some(thread),
        };
        Ok((watchdog, hearts))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// One shard's sign of life; spawn [`Heart::beat`] there.
pub struct Heart {
    beats: Arc<[AtomicU64]>,
    shard: usize,
    every: Duration,
}

impl Heart {
    /// Beats through the ring, for ever.
    pub async fn beat(self) {
        loop {
            runtime::breathe().await;
            let now = runtime::now().max(Time::from_nanos(AT_REST + 1));
            self.beats[self.shard].store(now.as_nanos(), Ordering::Relaxed);
            runtime::sleep(self.every).await;
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.beats[self.shard].store(AT_REST, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Pulse {
    last: u64,
    silent: Duration,
}

impl Pulse {
    /// How long the heart has been silent, `passed` after the last call.
    fn handle_beat(&mut self, beat: u64, passed: Duration) -> Duration {
        if beat == AT_REST || beat != self.last {
            self.last = beat;
            self.silent = Duration::ZERO;
        } else {
            self.silent += passed;
        }
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const EVERY: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_millis(200);

    #[test]
    fn a_stuck_shard_is_noticed_and_a_living_one_is_not() {
        let (tell, told) = channel();
        let (watchdog, mut hearts) = Watchdog::start_with(2, EVERY, LIMIT, move |shard| {
            let _ = tell.send(shard);
        })
        .unwrap();
        let (stuck, living) = (hearts.pop().unwrap(), hearts.pop().unwrap());
        let thread = std::thread::spawn(move || {
            runtime::run(async move {
                runtime::spawn(stuck.beat());
                runtime::sleep(2 * EVERY).await;
                std::thread::park_timeout(4 * LIMIT);
            })
        });
        runtime::run(async move {
            runtime::spawn(living.beat());
            runtime::sleep(4 * LIMIT).await;
        })
        .unwrap();
        thread.join().unwrap().unwrap();
        drop(watchdog);
        let silent: Vec<_> = told.iter().collect();
        assert!(!silent.is_empty(), "the stuck shard was not noticed");
        assert!(silent.iter().all(|&shard| shard == 1), "{silent:?}");
    }

    #[test]
    fn silence_is_the_time_without_a_beat() {
        let mut pulse = Pulse::default();
        let second = Duration::from_secs(1);
        assert_eq!(pulse.handle_beat(AT_REST, second), Duration::ZERO);
        assert_eq!(pulse.handle_beat(5, second), Duration::ZERO);
        assert_eq!(pulse.handle_beat(5, second), second);
        assert_eq!(pulse.handle_beat(5, second), 2 * second);
        assert_eq!(pulse.handle_beat(6, second), Duration::ZERO);
        assert_eq!(pulse.handle_beat(6, second), second);
        assert_eq!(pulse.handle_beat(AT_REST, second), Duration::ZERO);
    }
}
