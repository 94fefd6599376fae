//! A group as the dead letters see it, and the dead letters as the groups see them: the seam between this module and
//! the one above it.

use std::fmt::Debug;
use std::sync::Arc;

use super::views::JobId;
use crate::group::effect::{Notice, Refusal};
use crate::group::entry::EntryTable;
use crate::group::event::Event;
use crate::group::record::Intent;
use crate::group::state::GroupState;
use crate::group::{GroupConfig, GroupTopic};
use crate::model::{GroupId, GroupName, Source, TopicUuid};
use crate::partition::BoxFuture;
use crate::partition::journal_thread::{JournalSequence, JournalStopped};

/// Up to where the journals must be durable for what an event decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Of the group journal.
    pub group: JournalSequence,
    /// Of the entries journal.
    pub entries: JournalSequence,
}

/// What came of an event.
#[derive(Debug, Default)]
pub struct Driven {
    /// The answer to an admin call.
    pub outcome: Option<Result<(), Refusal>>,
    /// What its records must wait for.
    pub written: Written,
    /// The group is gone or the groups are stopped: nothing was done.
    pub stopped: bool,
}

/// One group. No call blocks for long: each takes the group's lock for the time of one event or look.
pub trait GroupHandle: Debug + Send + Sync + 'static {
    /// Its number.
    fn id(&self) -> GroupId;
    /// Its name.
    fn name(&self) -> &GroupName;
    /// The group whose dead letters it has: its own number, or that of the group of which it is the shadow (rule RP-7).
    fn letters_id(&self) -> GroupId {
        self.id()
    }
    /// Name of that group.
    fn letters_name(&self) -> &GroupName {
        self.name()
    }
    /// Its settings at present.
    fn config(&self) -> Arc<GroupConfig>;
    /// A topic of the group: names of it and of its dead-letter topic.
    fn topic(&self, topic: TopicUuid) -> Option<GroupTopic>;
    /// An intent that is open.
    fn intent(&self, source: Source, number: u64) -> Option<Box<Intent>>;
    /// All intents that are open, in order.
    fn intents(&self) -> Vec<(Source, u64)>;
    /// Looks at the entries; keep it short.
    fn with_entries(&self, look: &mut dyn FnMut(&EntryTable));
    /// Looks at the durable state; keep it short.
    fn with_state(&self, look: &mut dyn FnMut(&GroupState));
    /// Gives the machine an event and sees to everything that follows from it.
    fn drive(&self, event: Event) -> Driven;
    /// Waits until what an event decided is durable.
    fn durable(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>>;
}

/// All groups.
pub trait Groups: Debug + Send + Sync + 'static {
    /// A group by its number.
    fn by_id(&self, id: GroupId) -> Option<Arc<dyn GroupHandle>>;
    /// A group by its name.
    fn by_name(&self, name: &str) -> Option<Arc<dyn GroupHandle>>;
    /// All of them.
    fn all(&self) -> Vec<Arc<dyn GroupHandle>>;
}

/// Whoever moves dead letters and runs the jobs. Called under the lock of no group.
pub trait DeadLetters: Debug + Send + Sync + 'static {
    /// Intents to carry out, in this order and behind those of earlier calls, once `after` is durable (rule DL-4).
    /// `again`: a stop may have cut them short, so their copies may be there already.
    fn moves(&self, group: &Arc<dyn GroupHandle>, moves: Vec<(Source, u64)>, after: Written, again: bool);
    /// What happened; [`Notice::EntryClosed`], [`Notice::RedriveFailed`] and the like are of interest.
    fn notices(&self, group: &Arc<dyn GroupHandle>, notices: &[Notice]);
    /// The groups have started: go on with jobs and retention.
    fn start(&self, groups: Arc<dyn Groups>);
    /// A group was deleted: its dead-letter topics and jobs go. Resolves when nothing of it is left.
    fn forget(&self, group: GroupId, topics: Vec<GroupTopic>) -> BoxFuture<'static, ()>;
    /// A job that has not ended and has keys of this topic.
    fn job_on(&self, topic: TopicUuid) -> BoxFuture<'static, Option<JobId>>;
    /// A job of a group that has not ended; if topics are given, one that has keys of them.
    fn job_of(&self, group: GroupId, topics: Option<Vec<TopicUuid>>) -> BoxFuture<'static, Option<JobId>>;
    /// How many jobs of the group have not ended.
    fn running_jobs(&self, group: &Arc<dyn GroupHandle>) -> u32;
    /// Takes nothing new; resolves when nothing is under way any more.
    fn stop(&self) -> BoxFuture<'static, ()>;
}
