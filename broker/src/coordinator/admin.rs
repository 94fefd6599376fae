//! Calls of operators: create, look, change, delete, positions, pauses, breaker. Each is durable once answered.

use std::sync::Arc;
use std::time::Duration;

use super::views::{
    AcceptedGap, BreakerView, Caller, DeletedGroup, GroupLag, GroupView, MemberView, NewGroup, Processed,
    RecoverReport, ResetReport, ResetRequest, UpdateGroup,
};
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::GroupHandle;
use crate::group::record::Pause;
use crate::model::{GroupId, MemberId, PartitionId, Position};

impl Coordinator {
    /// Creates a group. A repeat with equal settings answers the one that exists; the flag says whether it is new.
    ///
    /// # Errors
    /// A bad setting, a topic that is not there, a name that is taken, a limit; the groups are stopped.
    pub async fn create(self: &Arc<Self>, new: NewGroup) -> Result<(GroupView, bool), GroupError> {
        let _ = new;
        todo!()
    }

    /// One group.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], or the groups are not to be had.
    pub fn view(&self, name: &str) -> Result<GroupView, GroupError> {
        let _ = name;
        todo!()
    }

    /// Up to `limit` groups in order of their names, after `after`, with this prefix, that consume `topic` if given.
    ///
    /// # Errors
    /// The groups are not to be had.
    pub fn list(
        &self,
        after: Option<&str>,
        prefix: &str,
        topic: Option<&str>,
        limit: usize,
    ) -> Result<Vec<GroupView>, GroupError> {
        let _ = (after, prefix, topic, limit);
        todo!()
    }

    /// A group for the dead letters.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn handle(&self, name: &str) -> Result<Arc<dyn GroupHandle>, GroupError> {
        let _ = name;
        todo!()
    }

    /// The same by its number, which ids of entries and jobs begin with.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn handle_of(&self, id: GroupId) -> Result<Arc<dyn GroupHandle>, GroupError> {
        let _ = id;
        todo!()
    }

    /// Changes settings or notes.
    ///
    /// # Errors
    /// [`GroupError::StaleRevision`], [`GroupError::OpenEntries`] and [`GroupError::JobConflict`] without `force`, or
    /// as [`Coordinator::create`].
    pub async fn update(self: &Arc<Self>, update: UpdateGroup) -> Result<GroupView, GroupError> {
        let _ = update;
        todo!()
    }

    /// Deletes a group with its positions, dead letters and jobs (rule OF-8); only the one of this number, if given.
    ///
    /// # Errors
    /// [`GroupError::OpenEntries`] and [`GroupError::JobConflict`] without `force`.
    pub async fn delete(
        self: &Arc<Self>,
        name: &str,
        force: bool,
        id: Option<GroupId>,
        caller: &Caller,
    ) -> Result<DeletedGroup, GroupError> {
        let _ = (name, force, id, caller);
        todo!()
    }

    /// Up to `limit` members in order of their ids, after `after`.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn members(&self, name: &str, after: Option<MemberId>, limit: usize) -> Result<Vec<MemberView>, GroupError> {
        let _ = (name, after, limit);
        todo!()
    }

    /// How far a group is behind, and what holds it; all topics if none is named.
    ///
    /// # Errors
    /// As [`Coordinator::view`], or a topic that is not the group's.
    pub async fn lag(&self, name: &str, topics: &[String]) -> Result<GroupLag, GroupError> {
        let _ = (name, topics);
        todo!()
    }

    /// Sets positions (rule OF-3).
    ///
    /// # Errors
    /// [`GroupError::OutOfRange`], or as [`Coordinator::view`].
    pub async fn reset(self: &Arc<Self>, request: ResetRequest) -> Result<ResetReport, GroupError> {
        let _ = request;
        todo!()
    }

    /// Takes the last reset back; only the one of this number, if given.
    ///
    /// # Errors
    /// Nothing to undo, another number, or as [`Coordinator::view`].
    pub async fn undo_reset(
        self: &Arc<Self>,
        name: &str,
        number: Option<u64>,
        caller: &Caller,
    ) -> Result<ResetReport, GroupError> {
        let _ = (name, number, caller);
        todo!()
    }

    /// Pauses a group, or a topic of it (rule OF-6). Answers what holds the group up now.
    ///
    /// # Errors
    /// As [`Coordinator::view`], or a topic that is not the group's.
    pub async fn pause(
        &self,
        name: &str,
        topic: Option<&str>,
        until_ms: Option<i64>,
        caller: &Caller,
    ) -> Result<Vec<Pause>, GroupError> {
        let _ = (name, topic, until_ms, caller);
        todo!()
    }

    /// Ends a pause made by [`Coordinator::pause`]. Answers what still holds the group up.
    ///
    /// # Errors
    /// As [`Coordinator::pause`].
    pub async fn resume(&self, name: &str, topic: Option<&str>, caller: &Caller) -> Result<Vec<Pause>, GroupError> {
        let _ = (name, topic, caller);
        todo!()
    }

    /// Goes on past gaps at which the group has stopped (rule RE-4).
    ///
    /// # Errors
    /// As [`Coordinator::pause`].
    pub async fn accept_gap(
        &self,
        name: &str,
        topic: Option<&str>,
        partition: Option<PartitionId>,
        caller: &Caller,
    ) -> Result<Vec<AcceptedGap>, GroupError> {
        let _ = (name, topic, partition, caller);
        todo!()
    }

    /// Forces the breaker open or closed, or leaves it to itself (rule CB-4).
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub async fn set_breaker(
        &self,
        name: &str,
        forced: Option<bool>,
        caller: &Caller,
    ) -> Result<BreakerView, GroupError> {
        let _ = (name, forced, caller);
        todo!()
    }

    /// Puts a member out.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub async fn evict(&self, name: &str, member: MemberId) -> Result<(), GroupError> {
        let _ = (name, member);
        todo!()
    }

    /// Starts groups that stopped at a damaged journal, from the last good state (rule G6).
    ///
    /// # Errors
    /// [`GroupError::Stopped`] if the state could not be written.
    pub async fn recover(self: &Arc<Self>, dry_run: bool) -> Result<RecoverReport, GroupError> {
        let _ = dry_run;
        todo!()
    }

    /// Waits until the group has decided about records (rules RW-1 to RW-4); answers in the order of `positions`.
    ///
    /// # Errors
    /// [`GroupError::Limit`] if too many wait, or as [`Coordinator::view`].
    pub async fn await_processed(
        &self,
        name: &str,
        positions: &[Position],
        timeout: Duration,
    ) -> Result<Vec<Processed>, GroupError> {
        let _ = (name, positions, timeout);
        todo!()
    }
}
