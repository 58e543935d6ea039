//! One thread's ring: whether there is one, running on it, its clock, timers and tasks.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use slab::Slab;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_uring::Runtime;

pub use crate::ring::blocking::{blocking, resolve};
use crate::ring::ops;
pub use crate::ring::watchdog::{Heart, SILENCE_MAX, Watchdog};
use crate::units::Time;

/// Submissions between two parks of the thread; more only cost a system call.
const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 16384;
/// Rings of a process that has just ended still count against the locked-memory limit.
const MEMORY_TRIES: u32 = 20;
const MEMORY_PAUSE: Duration = Duration::from_millis(100);
/// Below this the ring's own timer is used: 50 µs late instead of 1 ms (H14).
const PRECISE_BELOW: Duration = Duration::from_millis(5);
/// How long the end of a runtime waits for its tasks and operations.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Why there can be no ring here, each with its remedy on one line.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "io_uring is switched off on this machine: allow it with \
         `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Disabled,
    #[error(
        "io_uring is refused, as container runtimes do by default: run with a seccomp profile that \
         allows io_uring_setup, io_uring_enter and io_uring_register \
         (docker run --security-opt seccomp=unconfined)"
    )]
    Forbidden,
    #[error(
        "io_uring gets no memory: raise the locked-memory limit (`ulimit -l unlimited`, or \
         LimitMEMLOCK=infinity in the systemd unit) or run fewer shards"
    )]
    Memory,
    #[error("io_uring does not exist here: Linux 6.0 or newer is needed, with CONFIG_IO_URING")]
    Missing,
    #[error("io_uring is too old here: Linux 6.0 or newer is needed")]
    Old,
    #[error("io_uring finds too many open files: raise the limit (`ulimit -n`)")]
    Files,
    #[error("io_uring cannot be used: {0}")]
    Other(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) if switched_off() => Self::Disabled,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EINVAL) => Self::Old,
            Some(libc::EMFILE | libc::ENFILE) => Self::Files,
            _ => Self::Other(error),
        }
    }
}

/// Whether a ring as [`run`] needs it can be had and used; asks the kernel, changes nothing.
pub fn probe() -> Result<(), Refused> {
    let mut ring = with_patience(|| settings().build(SUBMISSIONS))?;
    // SAFETY: a no-op names no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }
        .expect("an empty queue has room");
    ring.submit_and_wait(1)?;
    Ok(())
}

/// Runs `future` and all it spawns on a new ring of this thread. When it is done its tasks are
/// stopped and their sockets shut down. The error's text is that of [`Refused`].
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let mut builder = tokio_uring::builder();
    builder.entries(SUBMISSIONS).uring_builder(&settings());
    // `Runtime::new` and never `start`, which panics where the ring is refused (H19).
    let runtime = with_patience(|| Runtime::new(&builder))
        .map_err(|error| io::Error::new(error.kind(), Refused::from(error)))?;
    // Its drop frees the memory of operations before the kernel is done with it; so it is dropped
    // only when there are none, not even by a panic passing through here.
    let runtime = ManuallyDrop::new(runtime);
    let output = runtime.block_on(future);
    if runtime.block_on(drain()) {
        drop(ManuallyDrop::into_inner(runtime));
    } else {
        tracing::error!("a ring's operations did not end; its memory is left to them");
    }
    Ok(output)
}

/// Starts a task on this thread's ring.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    let listed = Listed(TASKS.with_borrow_mut(|tasks| tasks.insert(None)));
    let key = listed.0;
    let handle = tokio_uring::spawn(async move {
        let _listed = listed;
        future.await
    });
    TASKS.with_borrow_mut(|tasks| tasks[key] = Some(handle.abort_handle()));
    handle
}

/// Lets the ring work: long computations await this every 200 µs. Only a parked thread submits
/// (H3), so tokio's `yield_now` would not do.
pub async fn breathe() {
    // A no-op cannot fail, and if it did there were nothing to do about it.
    let _ = ops::nop().await;
}

/// Waits; short times are kept within some 50 µs, longer ones within 1 ms.
pub async fn sleep(wait: Duration) {
    if wait < PRECISE_BELOW {
        let _ = ops::timeout(wait).await;
    } else {
        tokio::time::sleep(wait).await;
    }
}

/// The monotonic clock; its zero is the first call in this process, the same on all threads.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub fn now() -> Time {
    static ZERO: OnceLock<Instant> = OnceLock::new();
    let passed = ZERO.get_or_init(Instant::now).elapsed();
    Time::ZERO + passed
}

/// Keeps this thread on the `n`-th of the cores that the process may use, counted round.
pub fn pin_to_core(n: usize) -> io::Result<()> {
    let allowed = allowed()?;
    let count = usize::try_from(allowed.count()).expect("a core count");
    let core = (0..CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .nth(n % count.max(1))
        .ok_or_else(|| io::Error::other("no core may be used"))?;
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Undoes what a thread inherits from a pinned one.
pub(in crate::ring) fn unpin() {
    if let Some(allowed) = ALLOWED.get() {
        // Where it fails the thread is merely slower.
        let _ = sched_setaffinity(None, allowed);
    }
}

/// The cores as they were before any thread was pinned.
static ALLOWED: OnceLock<CpuSet> = OnceLock::new();

fn allowed() -> io::Result<&'static CpuSet> {
    let current = sched_getaffinity(None)?;
    Ok(ALLOWED.get_or_init(|| current))
}

thread_local! {
    static TASKS: RefCell<Slab<Option<AbortHandle>>> = const { RefCell::new(Slab::new()) };
}

/// A task's entry in [`TASKS`], owned by the task.
struct Listed(usize);

impl Drop for Listed {
    fn drop(&mut self) {
        let _ = TASKS.try_with(|tasks| {
            let handle = tasks.borrow_mut().try_remove(self.0);
            drop(handle);
        });
    }
}

/// Stops all tasks and waits for the kernel to give everything back; false if it does not.
async fn drain() -> bool {
    let deadline = now() + DRAIN_MAX;
    loop {
        let tasks: Vec<_> = TASKS.with_borrow(|tasks| {
            let handles = tasks.iter().map(|(_, handle)| handle.clone());
            handles.collect()
        });
        if tasks.is_empty() && ops::in_flight() == 0 {
            return true;
        }
        if now() > deadline {
            return false;
        }
        tasks.iter().flatten().for_each(AbortHandle::abort);
        let _ = ops::cancel_any().await;
        breathe().await;
    }
}

fn settings() -> io_uring::Builder {
    let mut settings = IoUring::builder();
    settings
        .setup_cqsize(COMPLETIONS)
        .setup_coop_taskrun()
        .setup_single_issuer()
        .setup_submit_all();
    settings
}

/// Tries again while there is no memory: a ring's teardown goes on after its process has ended.
fn with_patience<T>(mut build: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match build() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && tries < MEMORY_TRIES => {
                tries += 1;
                std::thread::park_timeout(MEMORY_PAUSE);
            }
            result => return result,
        }
    }
}

/// `kernel.io_uring_disabled` (Linux 6.6): 1 for all but a group, 2 for all.
fn switched_off() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_ring_is_there() {
        probe().unwrap();
        assert_eq!(run(async { 7 }).unwrap(), 7);
    }

    #[test]
    fn each_refusal_has_its_remedy_on_one_line() {
        for (errno, remedy) in [
            (libc::EPERM, "io_uring"),
            (libc::ENOMEM, "ulimit -l"),
            (libc::ENOSYS, "CONFIG_IO_URING"),
            (libc::EINVAL, "6.0"),
            (libc::EMFILE, "ulimit -n"),
            (libc::EIO, "os error 5"),
        ] {
            let text = Refused::from(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(remedy) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn no_memory_is_tried_again_and_given_up() {
        let mut tries = 0;
        let built = with_patience(|| {
            tries += 1;
            if tries < 3 {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            Ok(tries)
        });
        assert_eq!(built.unwrap(), 3);
        let refused = with_patience(|| Err::<(), _>(io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_breathing_computation_starves_nobody() {
        let (slices, ticks) = run(async {
            let ticks = Rc::new(RefCell::new(0));
            let counted = Rc::clone(&ticks);
            spawn(async move {
                loop {
                    let _ = ops::nop().await;
                    *counted.borrow_mut() += 1;
                }
            });
            let (start, mut slices) = (now(), 0);
            while now().since(start) < Duration::from_millis(200) {
                let slice = now();
                while now().since(slice) < Duration::from_micros(200) {}
                slices += 1;
                breathe().await;
            }
            (slices, *ticks.borrow())
        })
        .unwrap();
        assert!(ticks >= slices / 2, "{ticks} ring trips in {slices} slices");
    }

    #[test]
    fn short_sleeps_are_not_cut_to_milliseconds() {
        let mut waits: Vec<_> = run(async {
            let mut waits = Vec::new();
            for _ in 0..101 {
                let start = now();
                sleep(Duration::from_micros(200)).await;
                waits.push(now().since(start));
            }
            waits
        })
        .unwrap();
        waits.sort();
        assert!(waits[0] >= Duration::from_micros(200));
        // Tokio's timer would take the rest of each millisecond.
        assert!(waits[5] < Duration::from_micros(700), "{waits:?}");
    }

    #[test]
    fn the_end_stops_tasks_and_leaves_no_operation() {
        const HOUR: Duration = Duration::from_secs(3600);
        let runtime = Runtime::new(&tokio_uring::builder()).unwrap();
        let dropped = Rc::new(());
        runtime.block_on(async {
            for _ in 0..10 {
                let held = Rc::clone(&dropped);
                spawn(async move {
                    let _held = held;
                    loop {
                        let _ = ops::timeout(HOUR).await;
                    }
                });
            }
            breathe().await;
            // An operation that was dropped on its way, and a task that was never polled.
            drop(ops::timeout(HOUR));
            let held = Rc::clone(&dropped);
            let _never_polled = spawn(async move { drop(held) });
        });
        assert_eq!((Rc::strong_count(&dropped), ops::in_flight()), (12, 11));
        assert!(runtime.block_on(drain()));
        // While the runtime is there: its own drop would free the memory first and cancel then.
        assert_eq!((Rc::strong_count(&dropped), ops::in_flight()), (1, 0));
    }

    #[test]
    fn pinned_threads_stay_and_their_children_need_not() {
        std::thread::spawn(|| {
            pin_to_core(usize::MAX).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            std::thread::spawn(|| {
                unpin();
                let free = sched_getaffinity(None).unwrap();
                assert_eq!(free.count(), ALLOWED.get().unwrap().count());
            })
            .join()
            .unwrap();
        })
        .join()
        .unwrap();
    }
}
