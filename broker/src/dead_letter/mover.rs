//! Carries out intents: copies dead letters into their group's dead-letter topic (rules DL-4, DL-5, G3).
//!
//! ```text
//! intent durable (groups) -> copy appended, durable -> entry durable (entries) -> settled (groups) -> the verb's OK
//! ```
//! One task for each partition of a group that has intents, and only as long as it has: intents are carried out in
//! their order, many by one append; one that is queued twice is carried out once. After a start, and after an append whose outcome is not known, the copies are
//! looked for first, from the end of the dead letters that the intent noted.
//!
//! Owns the queues and the tasks. What an intent means, and what follows from a copy, is the group's to decide. It must
//! not know sessions, messages or files.
//!
//! Invariants: nothing is appended before its intent is durable, nothing is told copied before its append is durable;
//! appends of a (group, partition) follow the order of the intents; an intent that cannot be carried out now stays
//! open, nothing is dropped; there is one copy for a record and cycle, whatever is cut short where.

mod carry;

pub(super) use carry::push;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::{GroupHandle, Written};
use super::logs::LetterLogs;
use crate::metrics::DeadLetterMetrics;
use crate::model::{GroupId, Source, TopicUuid};

/// Intents that a task takes at once.
const TAKEN: usize = 4_096;
/// Tasks that hold records in memory at the same time.
const CARRYING: usize = 16;
/// Wait before what failed is tried again; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Faults on purpose: what a test that knows nothing of them must find.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// Appends a copy before its intent is durable.
    pub append_before_intent: bool,
    /// Tells the group of a copy before it is appended.
    pub commit_before_append: bool,
    /// Does not look for copies after a start.
    pub no_search: bool,
}

/// Carries out intents.
#[derive(Debug)]
pub(super) struct Mover {
    shared: Arc<Shared>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    logs: Arc<dyn LetterLogs>,
    metrics: DeadLetterMetrics,
    runtime: tokio::runtime::Handle,
    queues: Mutex<HashMap<(GroupId, Source), Queue>>,
    carrying: Semaphore,
    stopping: CancellationToken,
    #[cfg(any(test, feature = "testing"))]
    sabotage: Sabotage,
}

/// Intents of a partition of a group that wait, and their task.
#[derive(Debug)]
struct Queue {
    /// In their order, which is that of the intents.
    numbers: BTreeSet<u64>,
    after: Written,
    /// Copies may be there already.
    search: bool,
    ended: CancellationToken,
    tasks: TaskTracker,
    running: bool,
}

/// What a task has taken from its queue.
#[derive(Debug)]
struct Taken {
    numbers: Vec<u64>,
    after: Written,
    search: bool,
}

/// How carrying out went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All is done.
    Done,
    /// There is nothing more to do: the group, the topic or the broker ends.
    End,
}

impl Mover {
    pub(super) fn new(
        logs: Arc<dyn LetterLogs>,
        metrics: DeadLetterMetrics,
        runtime: tokio::runtime::Handle,
        #[cfg(any(test, feature = "testing"))] sabotage: Sabotage,
    ) -> Self {
        let shared = Shared {
            logs,
            metrics,
            runtime,
            queues: Mutex::new(HashMap::new()),
            carrying: Semaphore::new(CARRYING),
            stopping: CancellationToken::new(),
            #[cfg(any(test, feature = "testing"))]
            sabotage,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Queues intents, which go in the order of their numbers; `search`: their copies may be there already.
    pub(super) fn push(&self, group: &Arc<dyn GroupHandle>, moves: Vec<(Source, u64)>, after: Written, search: bool) {
        let shared = &self.shared;
        if shared.stopping.is_cancelled() {
            return;
        }
        let mut queues = shared.queues.lock();
        for (source, number) in moves {
            let key = (group.id(), source);
            let queue = queues.entry(key).or_insert_with(|| Queue {
                numbers: BTreeSet::new(),
                after: Written::default(),
                search: false,
                ended: shared.stopping.child_token(),
                tasks: TaskTracker::new(),
                running: false,
            });
            queue.numbers.insert(number);
            queue.search |= search;
            queue.after.group = queue.after.group.max(after.group);
            queue.after.entries = queue.after.entries.max(after.entries);
            if !queue.running {
                queue.running = true;
                let own = Arc::clone(shared);
                let task = own.run(Arc::clone(group), source, queue.ended.clone());
                queue.tasks.spawn_on(task, &shared.runtime);
            }
        }
    }

    /// Takes nothing of these topics of a group any more; resolves when nothing of them is under way.
    pub(super) async fn forget(&self, group: GroupId, topics: &[TopicUuid]) {
        let ended: Vec<Queue> = {
            let mut queues = self.shared.queues.lock();
            let keys = queues.keys().filter(|(owner, source)| *owner == group && topics.contains(&source.topic));
            let keys: Vec<_> = keys.copied().collect();
            keys.iter().filter_map(|key| queues.remove(key)).collect()
        };
        finish(ended).await;
    }

    /// Takes nothing any more; resolves when nothing is under way.
    pub(super) async fn stop(&self) {
        self.shared.stopping.cancel();
        let ended: Vec<Queue> = self.shared.queues.lock().drain().map(|(_, queue)| queue).collect();
        finish(ended).await;
    }
}

async fn finish(queues: Vec<Queue>) {
    for queue in queues {
        queue.ended.cancel();
        queue.tasks.close();
        queue.tasks.wait().await;
    }
}

impl Shared {
    /// The task of a partition of a group: until its queue is empty.
    async fn run(self: Arc<Self>, group: Arc<dyn GroupHandle>, source: Source, ended: CancellationToken) {
        let key = (group.id(), source);
        while let Some(taken) = self.take(key, &ended) {
            let outcome = carry::Carry::new(&self, &group, source, &ended).carry_out(taken).await;
            if outcome == Outcome::End {
                self.drop_queue(key, &ended);
                return;
            }
        }
    }

    fn take(&self, key: (GroupId, Source), ended: &CancellationToken) -> Option<Taken> {
        let mut queues = self.queues.lock();
        if ended.is_cancelled() {
            return None;
        }
        let queue = queues.get_mut(&key)?;
        if queue.numbers.is_empty() {
            queues.remove(&key);
            return None;
        }
        let numbers = std::iter::from_fn(|| queue.numbers.pop_first()).take(TAKEN).collect();
        // Those that are left were queued by the same calls: they are looked for too.
        let search = if queue.numbers.is_empty() { std::mem::take(&mut queue.search) } else { queue.search };
        Some(Taken { numbers, after: queue.after, search })
    }

    fn drop_queue(&self, key: (GroupId, Source), ended: &CancellationToken) {
        // If it has been cancelled, it was taken out, and the one that is there now is another.
        if !ended.is_cancelled() {
            self.queues.lock().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
