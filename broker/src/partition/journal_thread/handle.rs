//! The side of a journal's thread that everyone else holds: appends, waits, questions.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{JournalError, JournalHealth, JournalSequence, JournalState, JournalStopped};
use crate::model::Offset;
use crate::partition::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering};

/// A look at the state.
pub(super) type Look<S> = Box<dyn FnOnce(&S) + Send>;

/// What the thread is asked to do besides its records.
pub(super) enum Command<S> {
    /// Look at the state, with every record that was durable when the question came.
    Read(Look<S>),
    /// Change the state of a damaged journal, write it down, go on (rule G6).
    Recover(Recover<S>),
    Snapshot(std::sync::mpsc::Sender<bool>),
    /// The encoder's answer: the replica, and its parts.
    Encoded(S, Vec<Bytes>),
    EncoderPanicked,
    Close(std::sync::mpsc::Sender<Option<Offset>>),
    Abandon,
}

/// Changes a damaged state and answers its caller; the closure is told whether the change could be written.
pub(super) struct Recover<S> {
    pub(super) change: Box<dyn FnOnce(&mut S) + Send>,
    pub(super) done: oneshot::Sender<Result<(), JournalError>>,
}

/// Records and commands that wait for the thread.
pub(super) struct Queue<S> {
    pub(super) records: Vec<Bytes>,
    pub(super) commands: Vec<Command<S>>,
    /// Number of the newest record that was queued.
    pub(super) last: u64,
    /// The thread has ended: nothing is queued any more.
    pub(super) ended: bool,
    /// The thread waits and must be woken.
    pub(super) asleep: bool,
}

/// Who waits for a sequence; the number keeps two waits for one sequence apart.
type Waiters = BTreeMap<(u64, u64), oneshot::Sender<()>>;

pub(super) struct Progress {
    waiters: Waiters,
    waits: u64,
    health: JournalHealth,
}

/// What thread and handles share.
pub(super) struct Shared<S> {
    pub(super) queue: Mutex<Queue<S>>,
    pub(super) wake: Condvar,
    progress: Mutex<Progress>,
    progressed: Condvar,
    durable: AtomicU64,
    stopped: AtomicBool,
    queued_bytes: AtomicU64,
    size_bytes: AtomicU64,
    durable_end: AtomicU64,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl<S> Shared<S> {
    pub(super) fn new(last: u64, health: JournalHealth) -> Arc<Self> {
        let queue = Queue { records: Vec::new(), commands: Vec::new(), last, ended: false, asleep: false };
        let stopped = !matches!(health, JournalHealth::Well);
        Arc::new(Self {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            progress: Mutex::new(Progress { waiters: Waiters::new(), waits: 0, health }),
            progressed: Condvar::new(),
            durable: AtomicU64::new(last),
            stopped: AtomicBool::new(stopped),
            queued_bytes: AtomicU64::new(0),
            size_bytes: AtomicU64::new(0),
            durable_end: AtomicU64::new(0),
            thread: Mutex::new(None),
        })
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::SeqCst)
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::SeqCst)
    }

    pub(super) fn health(&self) -> JournalHealth {
        self.progress.lock().health.clone()
    }

    /// Takes what has been queued.
    pub(super) fn take(&self) -> (Vec<Bytes>, Vec<Command<S>>) {
        let mut queue = self.queue.lock();
        (std::mem::take(&mut queue.records), std::mem::take(&mut queue.commands))
    }

    /// Queues a command; dropped, with the answer that its caller waits for, if the thread has ended.
    pub(super) fn command(&self, command: Command<S>) {
        let mut queue = self.queue.lock();
        if queue.ended {
            return;
        }
        queue.commands.push(command);
        queue.asleep = false;
        drop(queue);
        self.wake.notify_one();
    }

    /// The thread ends: nothing is queued any more, and everyone who waits is told.
    pub(super) fn end(&self, cause: &str) {
        let (records, commands) = {
            let mut queue = self.queue.lock();
            queue.ended = true;
            (std::mem::take(&mut queue.records), std::mem::take(&mut queue.commands))
        };
        drop((records, commands));
        if !self.is_stopped() {
            self.set_health(JournalHealth::Stopped { cause: cause.into() });
        }
    }

    /// Everything up to `sequence` is durable: wakes who waited for it.
    pub(super) fn publish(&self, sequence: u64) {
        let mut progress = self.progress.lock();
        self.durable.store(sequence, Ordering::SeqCst);
        let later = progress.waiters.split_off(&(sequence.saturating_add(1), 0));
        let ready = std::mem::replace(&mut progress.waiters, later);
        drop(progress);
        self.progressed.notify_all();
        for waiter in ready.into_values() {
            // Who does not wait any more is not told.
            let _ = waiter.send(());
        }
    }

    /// The health has changed. One that is not well tells every waiter, except that a full disk only delays them.
    pub(super) fn set_health(&self, health: JournalHealth) {
        let stopped = matches!(health, JournalHealth::Damaged { .. } | JournalHealth::Stopped { .. });
        let mut progress = self.progress.lock();
        progress.health = health;
        self.stopped.store(stopped, Ordering::SeqCst);
        let told = if stopped { std::mem::take(&mut progress.waiters) } else { Waiters::new() };
        drop(progress);
        // Their receivers see that the sender has gone.
        drop(told);
        self.progressed.notify_all();
    }

    pub(super) fn note_sizes(&self, size_bytes: u64, durable_end: Offset) {
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
        self.durable_end.store(durable_end.get(), Ordering::SeqCst);
    }

    /// Bytes that were queued are applied, or dropped.
    pub(super) fn note_done(&self, bytes: u64) {
        self.queued_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn keep_thread(&self, thread: std::thread::JoinHandle<()>) {
        *self.thread.lock() = Some(thread);
    }
}

/// A journal on its thread. Cheap to clone; no call but those that say so blocks.
pub struct JournalHandle<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for JournalHandle<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for JournalHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durable = self.shared.durable.load(Ordering::SeqCst);
        f.debug_struct("JournalHandle").field("durable", &durable).finish_non_exhaustive()
    }
}

impl<S: JournalState> JournalHandle<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared }
    }

    /// The handle of a journal that could not be opened.
    pub fn failed(cause: &str) -> Self {
        let shared = Shared::new(0, JournalHealth::Stopped { cause: cause.into() });
        shared.end(cause);
        Self { shared }
    }

    /// Queues records; they stand in the journal in the order of the calls. Never blocks: may be called under any
    /// lock, and callers hold back by [`JournalHandle::queued_bytes`]. Returns the number of the last of them, or of
    /// the last record queued before if there are none; [`JournalSequence::NEVER`] once the journal has stopped.
    ///
    /// # Panics
    /// If one is longer than [`crate::limits::JOURNAL_RECORD_BYTES`]: the caller's defect.
    pub fn append(&self, payloads: impl IntoIterator<Item = Bytes>) -> JournalSequence {
        let mut queue = self.shared.queue.lock();
        if queue.ended || self.shared.is_stopped() {
            return JournalSequence::NEVER;
        }
        let before = queue.records.len();
        queue.records.extend(payloads);
        let added = &queue.records[before..];
        let bytes: usize = added.iter().map(Bytes::len).sum();
        let longest = added.iter().map(Bytes::len).max().unwrap_or(0);
        assert!(longest <= crate::limits::JOURNAL_RECORD_BYTES, "a record of a journal fits a frame");
        queue.last += added.len() as u64;
        let last = queue.last;
        if bytes > 0 {
            self.shared.queued_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        }
        let asleep = std::mem::take(&mut queue.asleep);
        drop(queue);
        if asleep {
            self.shared.wake.notify_one();
        }
        JournalSequence(last)
    }

    /// The last record that is durable, and all before it.
    pub fn durable(&self) -> JournalSequence {
        JournalSequence(self.shared.durable.load(Ordering::SeqCst))
    }

    /// Waits until a record is durable. Ready at once if it is already; may be dropped at any time.
    ///
    /// # Errors
    /// The journal has stopped before.
    pub async fn wait(&self, sequence: JournalSequence) -> Result<(), JournalStopped> {
        if self.durable() >= sequence {
            return Ok(());
        }
        let waiting = {
            let mut progress = self.shared.progress.lock();
            if self.durable() >= sequence {
                return Ok(());
            }
            if sequence == JournalSequence::NEVER || self.shared.is_stopped() {
                return Err(stopped_by(&progress.health));
            }
            let (sender, receiver) = oneshot::channel();
            let number = progress.waits;
            progress.waits += 1;
            progress.waiters.insert((sequence.0, number), sender);
            receiver
        };
        match waiting.await {
            Ok(()) => Ok(()),
            Err(_) => Err(stopped_by(&self.shared.progress.lock().health)),
        }
    }

    /// The same for threads that may block; `false` if it took longer than `timeout`.
    ///
    /// # Errors
    /// As [`JournalHandle::wait`].
    pub fn blocking_wait(&self, sequence: JournalSequence, timeout: Duration) -> Result<bool, JournalStopped> {
        let mut progress = self.shared.progress.lock();
        let waits = |_: &mut Progress| {
            self.durable() < sequence && sequence != JournalSequence::NEVER && !self.shared.is_stopped()
        };
        let waited = self.shared.progressed.wait_while_for(&mut progress, waits, timeout);
        if self.durable() >= sequence {
            return Ok(true);
        }
        if waited.timed_out() { Ok(false) } else { Err(stopped_by(&progress.health)) }
    }

    /// Why the journal takes nothing any more, if so: damage at the start, or a failure since.
    pub fn stopped(&self) -> Option<Arc<str>> {
        if !self.shared.is_stopped() {
            return None;
        }
        Some(stopped_by(&self.shared.progress.lock().health).cause)
    }

    /// How the journal is.
    pub fn health(&self) -> JournalHealth {
        self.shared.health()
    }

    /// Bytes of records that are queued, or durable and not yet in the replica.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes()
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }

    /// Everything below is synced, as an offset of its log: for the checkpoint.
    pub fn durable_end(&self) -> Offset {
        Offset::new(self.shared.durable_end.load(Ordering::SeqCst)).unwrap_or(Offset::ZERO)
    }

    /// Looks at the state, with every record that is durable at the call. `None` once the thread has ended. Waits for
    /// a snapshot that is being encoded.
    pub async fn read_state<T: Send + 'static>(&self, look: impl FnOnce(&S) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let look = Box::new(move |state: &S| {
            // The caller may have gone.
            let _ = sender.send(look(state));
        });
        self.shared.command(Command::Read(look));
        receiver.await.ok()
    }

    /// Goes back to the last good state of a damaged journal (rule G6): `change` is applied to it, the outcome written
    /// as a snapshot behind the damage; from then on the journal takes records.
    ///
    /// # Errors
    /// It is not damaged ([`JournalError::Stopped`] says why nothing can be done), or the snapshot failed.
    pub async fn recover<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, JournalError> {
        let (done, written) = oneshot::channel();
        let (sender, receiver) = oneshot::channel();
        let change = Box::new(move |state: &mut S| {
            // As above.
            let _ = sender.send(change(state));
        });
        self.shared.command(Command::Recover(Recover { change, done }));
        let ended = || JournalError::Stopped { cause: "the thread has ended".into() };
        written.await.map_err(|_| ended())??;
        receiver.await.map_err(|_| ended())
    }

    /// Writes a snapshot now; returns whether it holds. Blocks.
    pub fn snapshot_now(&self) -> bool {
        let (reply, answer) = std::sync::mpsc::channel();
        self.shared.command(Command::Snapshot(reply));
        answer.recv().unwrap_or(false)
    }

    /// Writes what is queued, the last snapshot and a mark, ends the thread. Blocks. The end for the clean marker, if
    /// the journal is well.
    pub fn close(&self) -> Option<Offset> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.shared.command(Command::Close(reply));
        let end = answer.recv().ok().flatten();
        self.join();
        end
    }

    /// Ends the thread and leaves the journal as a crash would. Blocks.
    pub fn abandon(&self) {
        self.shared.command(Command::Abandon);
        self.join();
    }

    fn join(&self) {
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn stopped_by(health: &JournalHealth) -> JournalStopped {
    let cause = match health {
        JournalHealth::Damaged { what: cause, .. } | JournalHealth::Stopped { cause } => Arc::clone(cause),
        JournalHealth::Well | JournalHealth::Full => "a record that was never written".into(),
    };
    JournalStopped { cause }
}
