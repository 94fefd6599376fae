//! Drives the groups: time, ids, reading, journals, sessions; replies once what they stand on is durable.
//!
//! ```text
//!   verbs      +-------------------------- Group: lock ---------------------------+
//!  Session --> | Machine::handle -> records -> journals (queued, in this order)   | --> dead letters, metrics
//!     ^        |                 -> frames  -> outboxes    -> fetches -> deadline |
//!     |        +------------------------------------------------------------------+
//!     +-- Outbox: each frame behind the records it stands on; records read in the session's own task
//! ```
//!
//! One [`group::Group`] a group. Whoever has an event locks, handles, hands the records to the journals while still
//! under the lock (so that their order in the journal is the order in which they were decided), puts frames into the
//! outboxes of sessions, and lets go. `delivery` reads ahead and finds payloads, `timers` wakes groups at their
//! deadlines, `recovery` begins and ends it all, `replays` sets groups to ranges of their topics, `admin`, `positions`, `lag` and `processed` answer operators.
//!
//! It must not know messages, gRPC or files. Invariants: no lock is held over an await; nothing is told before what it
//! stands on is durable; a group is found by its name only while it exists, and all of its state hangs on its number.

mod admin;
mod changes;
mod counters;
mod delivery;
mod error;
mod frames;
mod group;
mod holds;
mod hooks;
pub mod journals;
mod lag;
mod lanes;
mod loss;
mod lost;
mod outbox;
mod ports;
mod positions;
mod processed;
mod rebuild_views;
mod rebuilds;
mod recovery;
pub mod replay_views;
mod replays;
mod session;
mod shared;
mod swaps;
mod timers;
pub mod types;
pub mod views;
mod waiters;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

pub use error::GroupError;
pub use frames::{DeliveredRecord, EditedRecord, JoinGroup, SessionFrame};
pub use lanes::lane_key;
pub use rebuild_views::{
    RebuildId, RebuildPartitionView, RebuildState, RebuildView, StartRebuild, SwapAnswer, SwapId, SwapOutcome,
};
pub use recovery::CoordinatorParts;
pub use replay_views::{ReplayId, ReplayView};
pub use session::{Doubt, Report, Session};
pub use views::{Caller, Expect, GroupView, NewGroup, UpdateGroup};

use self::group::Group;
use self::journals::GroupJournals;
use self::shared::Shared;
use crate::dead_letter::handle::{GroupHandle, Groups};
use crate::model::{GroupId, GroupName, VersionName};
use crate::topics::Topics;

/// All consumer groups of a broker.
#[derive(Debug)]
pub struct Coordinator {
    shared: Arc<Shared>,
    journals: Arc<GroupJournals>,
    topics: Arc<Topics>,
    map: RwLock<GroupMap>,
    /// One creation, deletion or change of topics at a time: names and reservations are looked at before they are
    /// taken.
    changing: tokio::sync::Mutex<()>,
    /// One step of a swap, or an end of a rebuild, at a time.
    swapping: tokio::sync::Mutex<()>,
    /// Callers that wait for records to be processed (rule RW-4).
    waiting: std::sync::atomic::AtomicUsize,
    /// Replays whose groups are gone, the newest last.
    ended: parking_lot::Mutex<std::collections::VecDeque<replay_views::EndedReplay>>,
    /// How near retention is to what is not settled (rule RE-3).
    losses: parking_lot::Mutex<loss::Losses>,
}

/// Groups by name and by number.
#[derive(Debug, Default)]
struct GroupMap {
    by_name: BTreeMap<GroupName, Arc<Group>>,
    by_id: HashMap<GroupId, Arc<Group>>,
    next_group: u64,
    /// Numbers that groups may have had which a damaged journal has lost: ranges, half-open.
    lost: Vec<(u64, u64)>,
}

impl GroupMap {
    fn insert(&mut self, group: &Arc<Group>) {
        self.by_name.insert(group.name().clone(), Arc::clone(group));
        self.by_id.insert(group.id(), Arc::clone(group));
    }

    fn remove(&mut self, group: &Group) {
        self.by_name.remove(group.name());
        self.by_id.remove(&group.id());
    }
}

impl Coordinator {
    /// Begins a session.
    ///
    /// # Errors
    /// The group is not there or is configured otherwise, the member is fenced or refused, the groups are stopped.
    pub async fn join(self: &Arc<Self>, join: JoinGroup) -> Result<Session, GroupError> {
        let group = self.find(join.group.as_str())?;
        let mismatch = |field, actual: String, expected: String| GroupError::Mismatch { field, actual, expected };
        let group = match self.version_of(&group, join.expect.version.as_ref()) {
            Ok(group) => group,
            Err(active) => {
                let expected = rebuilds::version_text(join.expect.version.as_ref());
                return Err(mismatch("version", active, expected));
            }
        };
        let config = group.config();
        if let Some(mode) = join.expect.mode
            && mode != config.mode
        {
            return Err(mismatch("mode", format!("{:?}", config.mode), format!("{mode:?}")));
        }
        if let Some(topics) = &join.expect.topics {
            let mut expected: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
            let mut actual: Vec<&str> = config.subscription.iter().map(String::as_str).collect();
            expected.sort_unstable();
            actual.sort_unstable();
            if actual != expected {
                return Err(mismatch("topics", actual.join(", "), expected.join(", ")));
            }
        }
        Session::begin(group, join)
    }

    /// The group of a member's version: the active one, or the one that is being rebuilt; else the active one's name.
    fn version_of(&self, group: &Arc<Group>, version: Option<&VersionName>) -> Result<Arc<Group>, String> {
        let active = group.config().version.clone();
        if active.as_ref() == version {
            return Ok(Arc::clone(group));
        }
        let shadow = rebuilds::open_rebuild(group).filter(|rebuild| Some(&rebuild.version) == version);
        let shadow = shadow.and_then(|rebuild| self.map.read().by_id.get(&rebuild.shadow).cloned());
        shadow.ok_or_else(|| rebuilds::version_text(active.as_ref()))
    }

    /// A group by its name.
    fn find(&self, name: &str) -> Result<Arc<Group>, GroupError> {
        self.shared.check()?;
        let found = self.map.read().by_name.get(name).cloned();
        found.ok_or_else(|| GroupError::NotFound { group: name.to_owned() })
    }

    /// All groups, in order of their names.
    fn all_groups(&self) -> Vec<Arc<Group>> {
        self.map.read().by_name.values().cloned().collect()
    }

    /// Groups in order of their names, after `after`, with this prefix.
    fn page(&self, after: Option<&str>, prefix: &str) -> Vec<Arc<Group>> {
        let map = self.map.read();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = map.by_name.range::<str, _>((from, Bound::Unbounded));
        let matching = range.take_while(|(name, _)| name.as_str().starts_with(prefix));
        matching.map(|(_, group)| Arc::clone(group)).collect()
    }

    /// Whether groups can be had.
    ///
    /// # Errors
    /// They are being recovered, or are stopped.
    pub fn check(&self) -> Result<(), GroupError> {
        self.shared.check()
    }
}

impl Groups for Coordinator {
    fn by_id(&self, id: GroupId) -> Option<Arc<dyn GroupHandle>> {
        let group = self.map.read().by_id.get(&id).cloned()?;
        Some(group)
    }

    fn by_name(&self, name: &str) -> Option<Arc<dyn GroupHandle>> {
        let group = self.map.read().by_name.get(name).cloned()?;
        Some(group)
    }

    fn all(&self) -> Vec<Arc<dyn GroupHandle>> {
        self.all_groups().into_iter().map(|group| group as Arc<dyn GroupHandle>).collect()
    }
}
