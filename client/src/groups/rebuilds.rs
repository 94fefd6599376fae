//! Rebuilds of read models: a new version beside the live one, then in its place (rule RP-6).

use std::time::Duration;

use sawlog_proto::v1;

use super::{Groups, wire_enum};
use crate::connection::repeated;
use crate::error::Error;
use crate::replays::ReplayRate;
use crate::types::{milliseconds, unsigned};

/// A rebuild to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRebuild {
    /// The new version, one that the group has never had.
    pub version: String,
    /// How fast it reads; `None`: as fast as its members take it.
    pub rate: Option<ReplayRate>,
    /// Also if the log begins later than the group did: the new model lacks what is gone.
    pub accept_gap: bool,
    /// Why.
    pub note: String,
}

impl NewRebuild {
    /// Of this version, without a limit of its rate.
    pub fn new(version: impl Into<String>) -> Self {
        Self { version: version.into(), rate: None, accept_gap: false, note: String::new() }
    }
}

wire_enum! {
    /// Where a rebuild stands.
    RebuildState of RebuildState {
        /// It is behind.
        Filling = "filling",
        /// It has caught up, and can be swapped in.
        Ready = "ready",
        /// It is taking the place of the active version.
        Swapping = "swapping",
        /// Its version became the active one.
        Swapped = "swapped",
        /// It was given up.
        Aborted = "aborted",
    }
}

/// A rebuild of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildPartition {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// Where it began.
    pub from: u64,
    /// Offset of the next record to apply.
    pub next_offset: u64,
    /// End of what is readable.
    pub high_watermark: u64,
}

/// A rebuild of a group's read model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuild {
    /// Its id.
    pub rebuild_id: String,
    /// Name of the group.
    pub group: String,
    /// The version that it makes.
    pub version: String,
    /// The version that was active when it began; `None`: one without a name.
    pub replaces: Option<String>,
    /// Where it stands; `None`: a state that this client does not know.
    pub state: Option<RebuildState>,
    /// How fast it reads; `None`: no limit.
    pub rate: Option<ReplayRate>,
    /// Offsets applied.
    pub done: u64,
    /// Offsets that are not.
    pub left: u64,
    /// Offsets applied a second since it began, or the broker did.
    pub records_per_second: f64,
    /// Milliseconds to the live end at that rate; `None` if unknown.
    pub eta_ms: Option<u64>,
    /// One entry a partition; empty once it has ended.
    pub partitions: Vec<RebuildPartition>,
    /// Members of the version.
    pub members: u32,
    /// Those of them with a stream.
    pub connected: u32,
    /// Why the last swap did not come about; empty: none failed.
    pub problem: String,
    /// When it was started, in milliseconds since 1970.
    pub create_time_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub end_time_ms: Option<i64>,
    /// Why it was started.
    pub note: String,
    /// Who started it.
    pub actor: String,
}

impl Rebuild {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, Some(RebuildState::Swapped | RebuildState::Aborted))
    }

    fn from_wire(wire: v1::Rebuild) -> Self {
        let state = RebuildState::from_wire(wire.state());
        let partition = |wire: v1::RebuildPartition| RebuildPartition {
            topic: wire.topic,
            partition: wire.partition,
            from: unsigned(wire.from),
            next_offset: unsigned(wire.next_offset),
            high_watermark: unsigned(wire.high_watermark),
        };
        Self {
            rebuild_id: wire.rebuild_id,
            group: wire.group,
            version: wire.version,
            replaces: wire.replaces,
            state,
            rate: wire.rate.and_then(ReplayRate::from_wire),
            done: wire.done,
            left: wire.left,
            records_per_second: wire.records_per_second,
            eta_ms: wire.eta_ms.map(unsigned),
            partitions: wire.partitions.into_iter().map(partition).collect(),
            members: wire.members,
            connected: wire.connected,
            problem: wire.problem,
            create_time_ms: milliseconds(wire.create_time),
            end_time_ms: wire.end_time.map(|time| milliseconds(Some(time))),
            note: wire.note,
            actor: wire.actor,
        }
    }
}

impl Groups {
    /// Begins to rebuild a group's read model: members that join with the version are sent all that the group has had.
    ///
    /// # Errors
    /// `WRONG_MODE` of a group without cursors, `JOB_CONFLICT` if a rebuild is under way, `GAP_NOT_ACCEPTED`,
    /// `INVALID_FIELD` of a version that the group has had, `GROUP_NOT_FOUND`, `LIMIT_REACHED`.
    pub async fn start_rebuild(&self, group: &str, rebuild: NewRebuild) -> Result<Rebuild, Error> {
        let NewRebuild { version, rate, accept_gap, note } = rebuild;
        let (group, rate) = (group.to_owned(), rate.map(ReplayRate::to_wire));
        let request = v1::StartRebuildRequest { group, version, rate, accept_gap, note };
        let mut calls = self.client.replay_calls();
        found(self.client.once(calls.start_rebuild(request)).await?.rebuild)
    }

    /// Changes the rate of a rebuild that has not ended; `None`: as fast as its members take it.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND` without an open rebuild, `INVALID_FIELD` of a rate out of its bounds, `GROUP_NOT_FOUND`.
    pub async fn update_rebuild(&self, group: &str, rate: Option<ReplayRate>) -> Result<Rebuild, Error> {
        let request = v1::UpdateRebuildRequest { group: group.to_owned(), rate: rate.map(ReplayRate::to_wire) };
        found(repeated!(self.replay_calls, update_rebuild, request)?.rebuild)
    }

    /// Begins to make the new version the active one. The swap goes on by itself: [`Groups::rebuild`] says how it is.
    ///
    /// # Errors
    /// `REBUILD_NOT_READY`, `JOB_NOT_FOUND` without an open rebuild, `GROUP_NOT_FOUND`.
    pub async fn swap_rebuild(&self, group: &str) -> Result<Rebuild, Error> {
        let request = v1::SwapRebuildRequest { group: group.to_owned() };
        found(repeated!(self.replay_calls, swap_rebuild, request)?.rebuild)
    }

    /// Gives a rebuild up. Of a swap that a member was asked to do, the database decides whether it is done or undone.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND` without an open rebuild, `GROUP_NOT_FOUND`.
    pub async fn abort_rebuild(&self, group: &str) -> Result<Rebuild, Error> {
        let mut calls = self.client.replay_calls();
        let request = v1::AbortRebuildRequest { group: group.to_owned() };
        found(self.client.once(calls.abort_rebuild(request)).await?.rebuild)
    }

    /// The open rebuild of a group, or the last one.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND` if it has had none, `GROUP_NOT_FOUND`.
    pub async fn rebuild(&self, group: &str) -> Result<Rebuild, Error> {
        let request = v1::GetRebuildRequest { group: group.to_owned() };
        found(repeated!(self.replay_calls, get_rebuild, request)?.rebuild)
    }

    /// The last rebuilds of a group, at most 20, the newest first.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn rebuilds(&self, group: &str) -> Result<Vec<Rebuild>, Error> {
        let request = v1::ListRebuildsRequest { group: group.to_owned() };
        let response = repeated!(self.replay_calls, list_rebuilds, request)?;
        Ok(response.rebuilds.into_iter().map(Rebuild::from_wire).collect())
    }

    /// Looks at the rebuild of a group every so often, gives each look to `each`, and returns it once `until` says so or
    /// it has ended.
    ///
    /// # Errors
    /// As [`Groups::rebuild`].
    pub async fn watch_rebuild(
        &self,
        group: &str,
        every: Duration,
        mut each: impl FnMut(&Rebuild),
        until: impl Fn(&Rebuild) -> bool,
    ) -> Result<Rebuild, Error> {
        loop {
            let rebuild = self.rebuild(group).await?;
            each(&rebuild);
            if rebuild.is_ended() || until(&rebuild) {
                return Ok(rebuild);
            }
            tokio::time::sleep(every).await;
        }
    }
}

fn found(wire: Option<v1::Rebuild>) -> Result<Rebuild, Error> {
    wire.map(Rebuild::from_wire).ok_or_else(|| Error::protocol("no rebuild in the answer"))
}
