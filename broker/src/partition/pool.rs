//! Bounded threads of our own for what blocks: syncs and rolls, and reads that may miss the page cache.
//!
//! One [`Pool`] has a fixed number of threads and one queue. Its users bound the queue: a partition has at most one
//! sync and one leader at a time, and cold reads take a place before they come here ([`Pools::read`]).
//!
//! Invariants: every job given to a pool runs, also after [`Pool::stop`], in the thread that gives it then; jobs start
//! in the order in which they came.

use std::collections::VecDeque;
use std::fmt;
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use super::sync::{Arc, Condvar, Mutex};

/// A piece of work that may block.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Cold reads that may be queued or running, per thread that reads.
const READS_PER_THREAD: usize = 4;

/// A fixed number of threads with one queue.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

impl Pool {
    /// Starts `threads` threads, at least one, whose names begin with `name`.
    ///
    /// # Panics
    /// If the system gives no thread: the broker cannot start.
    pub fn new(name: &str, threads: usize) -> Self {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), stopped: false });
        let shared = Arc::new(Shared { queue, wake: Condvar::new() });
        let threads = (0..threads.max(1)).map(|index| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{index}"));
            thread.spawn(move || shared.run()).expect("a broker that gets no thread cannot start")
        });
        Self { threads: Mutex::new(threads.collect()), shared: Arc::clone(&shared) }
    }

    /// Queues a job; runs it here if the pool has been stopped, so that no job is ever lost.
    pub(crate) fn submit(&self, job: Job) {
        {
            let mut queue = self.shared.queue.lock();
            if !queue.stopped {
                queue.jobs.push_back(job);
                drop(queue);
                self.shared.wake.notify_one();
                return;
            }
        }
        job();
    }

    /// Runs what is queued, then ends the threads and waits for them.
    pub fn stop(&self) {
        self.shared.queue.lock().stopped = true;
        self.shared.wake.notify_all();
        let own = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != own {
                // A panic of a job has been reported by the panic hook already.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let job = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(job) = queue.jobs.pop_front() {
                        break job;
                    }
                    if queue.stopped {
                        return;
                    }
                    self.wake.wait(&mut queue);
                }
            };
            // A job that panics ends alone; what must not be left half done aborts the process itself (rule F7).
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("queued", &self.shared.queue.lock().jobs.len()).finish()
    }
}

/// The pools that all partitions of a broker share.
#[derive(Debug)]
pub struct Pools {
    /// Syncs, rolls and appends of partitions that are not well.
    pub sync: Pool,
    /// Reads that may miss the page cache.
    pub reads: Pool,
    read_places: Arc<Semaphore>,
    /// The one place of reads that can wait.
    behind: Arc<Semaphore>,
}

impl Pools {
    /// Pools with so many threads each.
    pub fn new(sync_threads: usize, read_threads: usize) -> Arc<Self> {
        Arc::new(Self {
            sync: Pool::new("sawlog-sync", sync_threads),
            reads: Pool::new("sawlog-read", read_threads),
            read_places: Arc::new(Semaphore::new(read_threads.max(1) * READS_PER_THREAD)),
            behind: Arc::new(Semaphore::new(1)),
        })
    }

    /// Runs `work` on a thread for reads, in turn. Dropped before its turn it leaves nothing behind.
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.read_places).acquire_owned().await.expect("the semaphore is never closed");
        let (sender, receiver) = oneshot::channel();
        self.reads.submit(Box::new(move || {
            let result = work();
            drop(place);
            // The reader may have gone.
            let _ = sender.send(result);
        }));
        receiver.await.expect("a job answers unless it panics")
    }

    /// The same for a read that can wait: at most one of them is queued or running (rule FC-8).
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) async fn read_behind<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let place = Arc::clone(&self.behind).acquire_owned().await.expect("the semaphore is never closed");
        self.read(move || {
            let result = work();
            drop(place);
            result
        })
        .await
    }

    /// Runs what is queued and ends all threads; jobs that come later run in the thread that brings them.
    pub fn stop(&self) {
        self.sync.stop();
        self.reads.stop();
    }
}
