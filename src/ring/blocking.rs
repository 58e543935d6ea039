//! Two small thread pools of the process: one for the disk and hashing, one for names.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::sync::oneshot;

use crate::ring::runtime;

/// Threads of each pool: a runtime's own would be 512 a shard (H25).
const POOL_THREADS: usize = 2;
/// Jobs that may wait in each pool.
const POOL_QUEUE: usize = 256;

static DISK: Pool = Pool::new("disk");
/// Its own, so that a dead resolver does not hold up the store.
static NAMES: Pool = Pool::new("names");

/// Runs `job` (fsync, re-hash) off the shard. It is queued at once; dropping the future does not
/// stop it. A full queue is [`io::ErrorKind::WouldBlock`]; a job that panics is an error too.
pub fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    DISK.run(job)
}

/// The addresses of a host, by the machine's own resolver.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    NAMES
        .run(move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
        .await?
}

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    name: &'static str,
    queue: OnceLock<SyncSender<Job>>,
}

impl Pool {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            queue: OnceLock::new(),
        }
    }

    fn run<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        job: F,
    ) -> impl Future<Output = io::Result<T>> + use<T, F> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(job))
                .map_err(|_| io::Error::other("a job on a blocking thread panicked"));
            let _ = answer.send(done);
        });
        let queued = self
            .queue
            .get_or_init(|| start(self.name))
            .try_send(job)
            .map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "too many blocking jobs"));
        async move {
            queued?;
            result
                .await
                .map_err(|_| io::Error::other("no blocking thread could be started"))?
        }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "not on a shard: the threads of a pool take turns at its queue"
)]
fn start(name: &str) -> SyncSender<Job> {
    let (queue, jobs) = sync_channel::<Job>(POOL_QUEUE);
    let jobs = std::sync::Arc::new(std::sync::Mutex::new(jobs));
    for _ in 0..POOL_THREADS {
        let jobs = std::sync::Arc::clone(&jobs);
        let next = move || {
            let jobs: &Receiver<Job> = &*jobs.lock().ok()?;
            jobs.recv().ok()
        };
        let thread = std::thread::Builder::new().name(format!("blocking-{name}"));
        // With no thread the queue's receiver is dropped, and every job is an error.
        let _ = thread.spawn(move || {
            runtime::unpin();
            while let Some(job) = next() {
                job();
            }
        });
    }
    queue
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_thread_goes_on() {
        let sum = runtime::run(async {
            for _ in 0..2 * POOL_THREADS {
                let error = blocking(|| panic!("on purpose")).await.unwrap_err();
                assert!(error.to_string().contains("panicked"));
            }
            blocking(|| 40 + 2).await.unwrap()
        });
        assert_eq!(sum.unwrap(), 42);
    }

    #[test]
    fn a_full_queue_is_an_error_and_no_wait() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::new("test")));
        let (go, wait) = sync_channel::<()>(0);
        runtime::run(async {
            let first = pool.run(move || wait.recv().is_err());
            let second = pool.run(|| std::thread::park_timeout(Duration::from_secs(5)));
            let mut waiting = Vec::new();
            let refused = loop {
                assert!(waiting.len() <= POOL_QUEUE + POOL_THREADS);
                let mut job = Box::pin(pool.run(|| ()));
                match futures_now(job.as_mut()).await {
                    Some(result) => break result.unwrap_err(),
                    None => waiting.push(job),
                }
            };
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
            drop(go);
            assert!(first.await.unwrap());
            drop(second);
            for job in waiting {
                job.await.unwrap();
            }
        })
        .unwrap();
    }

    async fn futures_now<F: Future + Unpin>(future: F) -> Option<F::Output> {
        tokio::select! { biased; done = future => Some(done), () = std::future::ready(()) => None }
    }

    #[test]
    fn names_are_found() {
        let found = runtime::run(async { resolve("localhost", 80).await });
        assert!(
            found
                .unwrap()
                .unwrap()
                .iter()
                .all(|addr| addr.ip().is_loopback())
        );
    }
}
