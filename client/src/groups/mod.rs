//! Administration of consumer groups: unary calls, repeated while the broker says that a repeat helps and the call's
//! time is not over. Every change is durable before it is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use sawlog_proto::v1;

use crate::connection::{Client, repeated};
use crate::error::Error;
use crate::paging;
use crate::reader::GapReason;
use crate::types::{RecordPosition, signed, unsigned};

mod config;
mod filter;
mod outcome;
mod rebuilds;
mod status;
mod words;

pub use config::{
    AfterDead, Backoff, BreakerConfig, DeadLetterConfig, GroupBounds, GroupCaps, GroupConfig, GroupMode, GroupPosition,
    OnExhausted, OnGap, PositionStore, RetryPolicy, Subscription, TopicOffset,
};
pub use filter::{HeaderFilter, HeaderValue, RecordFilter};
pub use outcome::{AcceptedGap, PartitionReset, Processed, ProcessedState, RecoveredGroup};
pub use rebuilds::{NewRebuild, Rebuild, RebuildPartition, RebuildState};
pub use status::{
    Breaker, BreakerState, BreakerSwitch, FingerprintCount, Group, GroupStatus, Lag, Member, MemberUnit, PartitionLag,
    Pause, PauseReason, PendingGap, Skip, Stall, UnitState,
};
pub(crate) use words::wire_enum;

/// Administration of consumer groups.
#[derive(Debug, Clone)]
pub struct Groups {
    client: Client,
}

/// A group to create.
#[derive(Debug, Clone, Default)]
pub struct NewGroup {
    /// Name: ASCII letters, digits, `.`, `_`, `-`, at most 120 bytes.
    pub name: String,
    /// Settings; what is `None` takes the broker's default. The subscription is needed.
    pub config: GroupConfig,
    /// Who answers for the group.
    pub owner: String,
    /// What it does.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

impl NewGroup {
    /// A group with these settings.
    pub fn new(name: impl Into<String>, config: GroupConfig) -> Self {
        Self { name: name.into(), config, ..Self::default() }
    }
}

/// A change of a group: only what is `Some` changes.
#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    /// The revision that must be current.
    pub if_revision: Option<u64>,
    /// New settings; each message of them (retry, breaker, caps, bounds, dead letters) is taken as a whole.
    pub config: GroupConfig,
    /// New owner.
    pub owner: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Take a topic out although it has open dead letters or jobs of the group, which end.
    pub force: bool,
}

/// Which groups to list.
#[derive(Debug, Clone, Default)]
pub struct GroupQuery {
    /// Only groups whose names begin with this.
    pub name_prefix: String,
    /// Only groups that have this topic.
    pub topic: Option<String>,
}

/// Which positions to set, and where to (rule OF-3).
#[derive(Debug, Clone)]
pub struct Reset {
    /// Where to.
    pub target: GroupPosition,
    /// Which partitions, by topic; none means all, no partition of a topic all of it.
    pub partitions: Vec<(String, Vec<u32>)>,
    /// Close dead letters at or above the new position as cleared, so that their records are delivered as new; without
    /// it they stay, and their records are handled through them alone.
    pub clear_entries: bool,
    /// Only say what would change.
    pub dry_run: bool,
    /// Why; kept.
    pub note: String,
}

impl Reset {
    /// Sets all positions of a group to this place.
    pub fn to(target: GroupPosition) -> Self {
        Self { target, partitions: Vec::new(), clear_entries: false, dry_run: false, note: String::new() }
    }
}

/// What a deletion took along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedGroup {
    /// Id of the group.
    pub group_id: String,
    /// Open dead letters that went with it.
    pub entries_lost: u64,
    /// Jobs that ended with it.
    pub jobs_ended: u32,
}

/// What recovery of the groups did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// One entry a group.
    pub groups: Vec<RecoveredGroup>,
    /// First bad offset of the journal; `None` if nothing was damaged.
    pub first_bad_offset: Option<u64>,
    /// Bytes of the journal that are dropped.
    pub dropped_bytes: u64,
}

impl Groups {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a group and fixes its start positions. The flag says whether it is new: one that exists with equal
    /// settings is answered as it is.
    ///
    /// # Errors
    /// `GROUP_EXISTS` with other settings, `TOPIC_NOT_FOUND`, `DLQ_NAME_TAKEN`, `INVALID_NAME`, `INVALID_FIELD`,
    /// `LIMIT_REACHED`.
    pub async fn create(&self, group: NewGroup) -> Result<(Group, bool), Error> {
        let request = v1::CreateGroupRequest {
            name: group.name,
            config: Some(group.config.to_wire()),
            owner: group.owner,
            description: group.description,
            labels: group.labels.into_iter().collect(),
        };
        let response = repeated!(self.group_calls, create_group, request)?;
        Ok((given(response.group)?, response.created))
    }

    /// A group by its name.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn get(&self, name: &str) -> Result<Group, Error> {
        let request = v1::GetGroupRequest { name: name.to_owned() };
        given(repeated!(self.group_calls, get_group, request)?.group)
    }

    /// All groups that the query names, in order of their names. Asks for as many pages as it takes.
    ///
    /// # Errors
    /// Of the connection alone.
    pub async fn list(&self, query: &GroupQuery) -> Result<Vec<Group>, Error> {
        paging::all(|token| async move { self.list_page(query, paging::PAGE, &token).await }).await
    }

    /// One page of at most `page_size` groups (0: 100) and the token of the next, empty at the end.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a token that no page gave.
    pub async fn list_page(
        &self,
        query: &GroupQuery,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<Group>, String), Error> {
        let request = v1::ListGroupsRequest {
            page_size,
            page_token: page_token.to_owned(),
            name_prefix: query.name_prefix.clone(),
            topic: query.topic.clone().unwrap_or_default(),
        };
        let response = repeated!(self.group_calls, list_groups, request)?;
        Ok((response.groups.into_iter().map(Group::from_wire).collect(), response.next_page_token))
    }

    /// Changes a group; returns it as it is then.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `STALE_REVISION`, `INVALID_FIELD`; `OPEN_ENTRIES`, `JOB_CONFLICT` if a topic is taken out
    /// without `force`.
    pub async fn update(&self, name: &str, change: GroupChange) -> Result<Group, Error> {
        let mut paths = change.config.mask();
        let fields = [
            ("owner", change.owner.is_some()),
            ("description", change.description.is_some()),
            ("labels", change.labels.is_some()),
        ];
        paths.extend(fields.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()));
        let request = v1::UpdateGroupRequest {
            name: name.to_owned(),
            revision: change.if_revision,
            config: Some(change.config.to_wire()),
            owner: change.owner.unwrap_or_default(),
            description: change.description.unwrap_or_default(),
            labels: change.labels.unwrap_or_default().into_iter().collect(),
            update_mask: Some(prost_types::FieldMask { paths }),
            force: change.force,
        };
        given(repeated!(self.group_calls, update_group, request)?.group)
    }

    /// Deletes a group with its positions, dead letters and jobs. `group_id`, if given, must be its id.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`; `OPEN_ENTRIES`, `JOB_CONFLICT` without `force`, with what would be lost.
    pub async fn delete(&self, name: &str, force: bool, group_id: Option<&str>) -> Result<DeletedGroup, Error> {
        let group_id = group_id.unwrap_or_default().to_owned();
        let request = v1::DeleteGroupRequest { name: name.to_owned(), force, group_id };
        let response = repeated!(self.group_calls, delete_group, request)?;
        let v1::DeleteGroupResponse { group_id, entries_lost, jobs_ended } = response;
        Ok(DeletedGroup { group_id, entries_lost, jobs_ended })
    }

    /// Members with their units, in order of their ids.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn members(&self, name: &str) -> Result<Vec<Member>, Error> {
        paging::all(|page_token| async move {
            let request = v1::ListMembersRequest { name: name.to_owned(), page_size: paging::PAGE, page_token };
            let response = repeated!(self.group_calls, list_members, request)?;
            Ok((response.members.into_iter().map(Member::from_wire).collect(), response.next_page_token))
        })
        .await
    }

    /// How far the group is behind, and what holds it; no topic named means all.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `TOPIC_NOT_FOUND`.
    pub async fn lag(&self, name: &str, topics: &[String]) -> Result<Lag, Error> {
        let request = v1::GetLagRequest { name: name.to_owned(), topics: topics.to_vec() };
        Ok(Lag::from_wire(repeated!(self.group_calls, get_lag, request)?))
    }

    /// Sets positions while members stay connected; returns what changes and the number of the reset, 0 in a dry run.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `OFFSET_OUT_OF_RANGE`, `WRONG_MODE`.
    pub async fn reset(&self, name: &str, reset: &Reset) -> Result<(Vec<PartitionReset>, u64), Error> {
        let partitions = reset
            .partitions
            .iter()
            .map(|(topic, partitions)| v1::TopicPartitions { topic: topic.clone(), partitions: partitions.clone() });
        let entries = if reset.clear_entries { v1::ResetEntries::Clear } else { v1::ResetEntries::Keep };
        let request = v1::ResetPositionsRequest {
            name: name.to_owned(),
            target: Some(reset.target.to_wire()),
            partitions: partitions.collect(),
            entries: entries.into(),
            dry_run: reset.dry_run,
            note: reset.note.clone(),
        };
        // Not repeated: each success is one more of the resets that can be undone.
        let response = self.client.once(self.client.group_calls().reset_positions(request)).await?;
        Ok((response.partitions.into_iter().map(PartitionReset::from_wire).collect(), response.reset_id))
    }

    /// Takes the last reset back; `reset_id`, if given, must be its number. What was settled since stays settled.
    ///
    /// # Errors
    /// `NOTHING_TO_UNDO`, `GROUP_NOT_FOUND`.
    pub async fn undo_reset(&self, name: &str, reset_id: Option<u64>) -> Result<(Vec<PartitionReset>, u64), Error> {
        let request = v1::UndoResetRequest { name: name.to_owned(), reset_id: reset_id.unwrap_or_default() };
        // Not repeated: twice would take two back.
        let response = self.client.once(self.client.group_calls().undo_reset(request)).await?;
        Ok((response.partitions.into_iter().map(PartitionReset::from_wire).collect(), response.reset_id))
    }

    /// Stops deliveries, durably: of a topic or of all, until a time in milliseconds since 1970 or for ever. Returns
    /// what holds the group up then.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `TOPIC_NOT_FOUND`.
    pub async fn pause(
        &self,
        name: &str,
        topic: Option<&str>,
        until_ms: Option<i64>,
        note: &str,
    ) -> Result<Vec<Pause>, Error> {
        let request = v1::PauseGroupRequest {
            name: name.to_owned(),
            topic: topic.unwrap_or_default().to_owned(),
            until: until_ms.map(crate::types::timestamp),
            note: note.to_owned(),
        };
        let response = repeated!(self.group_calls, pause_group, request)?;
        Ok(response.pauses.into_iter().map(Pause::from_wire).collect())
    }

    /// Ends a pause of a topic or of all; returns what still holds the group up.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `TOPIC_NOT_FOUND`.
    pub async fn resume(&self, name: &str, topic: Option<&str>) -> Result<Vec<Pause>, Error> {
        let request = v1::ResumeGroupRequest { name: name.to_owned(), topic: topic.unwrap_or_default().to_owned() };
        let response = repeated!(self.group_calls, resume_group, request)?;
        Ok(response.pauses.into_iter().map(Pause::from_wire).collect())
    }

    /// Goes on past gaps at which the group has stopped: of a topic, of one partition of it, or all. A read model that has
    /// applied what was cut from the log goes on at the cut, once its reader is there (rule RM-1). Returns what was accepted,
    /// such cuts again until they are passed; none if nothing waited.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `INVALID_FIELD` of a topic or partition that is not the group's.
    pub async fn accept_gap(
        &self,
        name: &str,
        topic: Option<&str>,
        partition: Option<u32>,
    ) -> Result<Vec<AcceptedGap>, Error> {
        let topic = topic.unwrap_or_default().to_owned();
        let request = v1::AcceptGapRequest { name: name.to_owned(), topic, partition };
        let response = repeated!(self.group_calls, accept_gap, request)?;
        let gap = |gap: v1::AcceptedGap| AcceptedGap {
            reason: GapReason::from_wire(gap.reason()),
            topic: gap.topic,
            partition: gap.partition,
            from: unsigned(gap.from),
            to: unsigned(gap.to),
            expired: gap.expired,
        };
        Ok(response.gaps.into_iter().map(gap).collect())
    }

    /// Forces the circuit breaker open or closed, or leaves it to itself; returns it.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn set_breaker(&self, name: &str, switch: BreakerSwitch, note: &str) -> Result<Breaker, Error> {
        let switch = BreakerSwitch::to_wire(Some(switch));
        let request = v1::SetBreakerRequest { name: name.to_owned(), switch, note: note.to_owned() };
        let response = repeated!(self.group_calls, set_breaker, request)?;
        Ok(response.breaker.map(Breaker::from_wire).unwrap_or_default())
    }

    /// Starts groups that stopped at a damaged journal, from the last good state; a dry run only says what would be
    /// done.
    ///
    /// # Errors
    /// `DISK_LOW`, `BROKER_READ_ONLY`.
    pub async fn recover(&self, dry_run: bool) -> Result<Recovered, Error> {
        let request = v1::RecoverGroupsRequest { dry_run };
        let response = self.client.once(self.client.group_calls().recover_groups(request)).await?;
        let group = |group: v1::RecoveredGroup| RecoveredGroup {
            name: group.name,
            group_id: group.group_id,
            old_epoch: group.old_epoch,
            new_epoch: group.new_epoch,
            maybe_redelivered: group.maybe_redelivered,
        };
        Ok(Recovered {
            groups: response.groups.into_iter().map(group).collect(),
            first_bad_offset: response.first_bad_offset.map(unsigned),
            dropped_bytes: response.dropped_bytes,
        })
    }

    /// Waits until the group has decided about records that were produced, at most 60 s; one answer a position, in their
    /// order.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`, `LIMIT_REACHED` if too many wait, `INVALID_FIELD` for more than 1,000 positions.
    pub async fn await_processed(
        &self,
        name: &str,
        positions: &[RecordPosition],
        timeout: Duration,
    ) -> Result<Vec<Processed>, Error> {
        let token = |position: &RecordPosition| v1::Position {
            topic_id: position.topic_id.as_str().to_owned(),
            partition: position.partition,
            epoch: position.epoch,
            offset: signed(position.offset),
        };
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let request = v1::AwaitProcessedRequest {
            name: name.to_owned(),
            tokens: positions.iter().map(token).collect(),
            timeout_ms,
        };
        let call = async {
            let answer = self.client.group_calls().await_processed(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
        };
        let patience = timeout + self.client.call_timeout();
        let Ok(response) = tokio::time::timeout(patience, call).await else {
            return Err(Error::new(crate::ErrorKind::Timeout, "the broker did not answer in time"));
        };
        let processed = |token: v1::ProcessedToken| Processed {
            state: ProcessedState::from_wire(token.state()),
            dlq_id: Some(token.dlq_id).filter(|id| !id.is_empty()),
        };
        Ok(response?.tokens.into_iter().map(processed).collect())
    }
}

fn given(group: Option<v1::Group>) -> Result<Group, Error> {
    group.map(Group::from_wire).ok_or_else(|| Error::protocol("no group in the answer"))
}
