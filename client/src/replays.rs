//! Replays: ranges of topics delivered again to a group, bounded, filtered, at a rate (rules RP-1 to RP-5).
//!
//! Calls whose repeat would do more are made once; the others are repeated while the broker says that a repeat helps.

use std::time::Duration;

use sawlog_proto::v1;

use crate::connection::{Client, repeated};
use crate::error::Error;
use crate::groups::{GroupConfig, GroupPosition, RecordFilter, wire_enum};
use crate::paging;
use crate::types::{milliseconds, unsigned};

/// Replays of topics.
#[derive(Debug, Clone)]
pub struct Replays {
    client: Client,
}

/// How fast a replay is read (rule RP-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayRate {
    /// Records a second, at least 1.
    Records(u64),
    /// Bytes of keys, values and headers a second, at least 1.
    Bytes(u64),
    /// Thousandths of the speed at which the records were appended, 1 to 1,000,000.
    SpeedPermille(u64),
}

impl ReplayRate {
    pub(crate) fn to_wire(self) -> v1::ReplayRate {
        use v1::replay_rate::Rate;
        let rate = match self {
            Self::Records(records) => Rate::RecordsPerSecond(records),
            Self::Bytes(bytes) => Rate::BytesPerSecond(bytes),
            Self::SpeedPermille(speed) => Rate::SpeedPermille(speed),
        };
        v1::ReplayRate { rate: Some(rate) }
    }

    pub(crate) fn from_wire(wire: v1::ReplayRate) -> Option<Self> {
        use v1::replay_rate::Rate;
        Some(match wire.rate? {
            Rate::RecordsPerSecond(records) => Self::Records(records),
            Rate::BytesPerSecond(bytes) => Self::Bytes(bytes),
            Rate::SpeedPermille(speed) => Self::SpeedPermille(speed),
        })
    }
}

/// What a replay delivers to (rule RP-1).
#[derive(Debug, Clone, PartialEq)]
pub enum ReplayInto {
    /// A group made for it under this name, which stays. Subscription, filter and start of the settings must be unset.
    New(String, Box<GroupConfig>),
    /// A group made for it, which is deleted once it has ended and its members have gone; the broker names it.
    Ephemeral(Box<GroupConfig>),
    /// A group that is there, set back over what it has handled; it goes on from where it was.
    Existing(String),
}

/// A replay to start.
#[derive(Debug, Clone, PartialEq)]
pub struct NewReplay {
    /// Names of source topics; of a group that is there none means all of its topics.
    pub topics: Vec<String>,
    /// First offsets; `None`: earliest.
    pub from: Option<GroupPosition>,
    /// First offsets after the range; `None`: the high watermark now.
    pub to: Option<GroupPosition>,
    /// Which records.
    pub filter: Option<RecordFilter>,
    /// How fast; `None`: as fast as members take it.
    pub rate: Option<ReplayRate>,
    /// What it delivers to.
    pub into: ReplayInto,
    /// Why.
    pub note: String,
}

impl NewReplay {
    /// All of a topic up to now.
    pub fn new(topic: impl Into<String>, into: ReplayInto) -> Self {
        let topics = vec![topic.into()];
        Self { topics, from: None, to: None, filter: None, rate: None, into, note: String::new() }
    }

    fn into_wire(self) -> v1::StartReplayRequest {
        use v1::replay_target::Target;
        let group = |name, config: &GroupConfig| v1::ReplayGroup { name, config: Some(config.to_wire()) };
        let target = match self.into {
            ReplayInto::New(name, config) => Target::NewGroup(group(name, &config)),
            ReplayInto::Ephemeral(config) => Target::Ephemeral(group(String::new(), &config)),
            ReplayInto::Existing(name) => Target::Existing(name),
        };
        v1::StartReplayRequest {
            topics: self.topics,
            from: self.from.as_ref().map(GroupPosition::to_wire),
            to: self.to.as_ref().map(GroupPosition::to_wire),
            filter: self.filter.as_ref().map(RecordFilter::to_wire),
            rate: self.rate.map(ReplayRate::to_wire),
            target: Some(v1::ReplayTarget { target: Some(target) }),
            note: self.note,
        }
    }
}

wire_enum! {
    /// Where a replay stands.
    ReplayState of ReplayState {
        /// At work.
        Running = "running",
        /// Waits to be resumed.
        Paused = "paused",
        /// All of its range was handled.
        Done = "done",
        /// It was ended before.
        Cancelled = "cancelled",
    }
}

/// A replay of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayPartition {
    /// Name of the topic; empty once it is gone.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// First offset.
    pub from: u64,
    /// First offset after the range.
    pub to: u64,
    /// First offset that was asked for; what lies between it and `from` is gone from the log.
    pub asked_from: u64,
    /// Offsets that are settled.
    pub done: u64,
    /// Offsets that are not.
    pub left: u64,
    /// Offsets settled a second.
    pub rate: f64,
    /// Milliseconds to its end at that rate; `None` if unknown.
    pub eta_ms: Option<u64>,
}

/// A replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Its id.
    pub replay_id: String,
    /// Name of the group that it delivers to.
    pub group: String,
    /// Names of its topics.
    pub topics: Vec<String>,
    /// How fast; `None`: no limit.
    pub rate: Option<ReplayRate>,
    /// Where it stands; `None`: a state that this client does not know.
    pub state: Option<ReplayState>,
    /// Offsets in all.
    pub records: u64,
    /// Offsets that are settled: handled, filtered out or dead letters.
    pub done: u64,
    /// Offsets that are not.
    pub left: u64,
    /// Offsets settled a second since it began, or went on.
    pub records_per_second: f64,
    /// Milliseconds to its end at that rate; `None` if unknown.
    pub eta_ms: Option<u64>,
    /// One entry a partition.
    pub partitions: Vec<ReplayPartition>,
    /// When it was started, in milliseconds since 1970.
    pub create_time_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub end_time_ms: Option<i64>,
    /// Why it was started.
    pub note: String,
    /// Who started it.
    pub actor: String,
}

impl Replay {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, Some(ReplayState::Done | ReplayState::Cancelled))
    }

    fn from_wire(wire: v1::Replay) -> Self {
        let state = ReplayState::from_wire(wire.state());
        let partition = |wire: v1::ReplayPartition| ReplayPartition {
            topic: wire.topic,
            partition: wire.partition,
            from: unsigned(wire.from),
            to: unsigned(wire.to),
            asked_from: unsigned(wire.asked_from),
            done: wire.done,
            left: wire.left,
            rate: wire.rate,
            eta_ms: wire.eta_ms.map(unsigned),
        };
        Self {
            replay_id: wire.replay_id,
            group: wire.group,
            topics: wire.topics,
            rate: wire.rate.and_then(ReplayRate::from_wire),
            state,
            records: wire.records,
            done: wire.done,
            left: wire.left,
            records_per_second: wire.records_per_second,
            eta_ms: wire.eta_ms.map(unsigned),
            partitions: wire.partitions.into_iter().map(partition).collect(),
            create_time_ms: milliseconds(wire.create_time),
            end_time_ms: wire.end_time.map(|time| milliseconds(Some(time))),
            note: wire.note,
            actor: wire.actor,
        }
    }
}

impl Replays {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Starts a replay; one whose range is empty has ended already.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `GROUP_NOT_FOUND`, `GROUP_EXISTS`, `OFFSET_OUT_OF_RANGE`, `JOB_CONFLICT`, `LIMIT_REACHED`,
    /// `WRONG_MODE`, `INVALID_FIELD`.
    pub async fn start(&self, replay: NewReplay) -> Result<Replay, Error> {
        let mut calls = self.client.replay_calls();
        found(self.client.once(calls.start_replay(replay.into_wire())).await?.replay)
    }

    /// One replay.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`.
    pub async fn get(&self, replay_id: &str) -> Result<Replay, Error> {
        found(
            repeated!(self.replay_calls, get_replay, v1::GetReplayRequest { replay_id: replay_id.to_owned() })?.replay,
        )
    }

    /// Replays into a group, or all, the newest first; with `running` those that have not ended.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`.
    pub async fn list(&self, group: Option<&str>, running: bool) -> Result<Vec<Replay>, Error> {
        paging::all(async |page_token| {
            let group = group.unwrap_or_default().to_owned();
            let request = v1::ListReplaysRequest { group, running, page_size: paging::PAGE, page_token };
            let response = repeated!(self.replay_calls, list_replays, request)?;
            Ok((response.replays.into_iter().map(Replay::from_wire).collect(), response.next_page_token))
        })
        .await
    }

    /// Changes the rate; `None`: no limit.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`, `JOB_CLOSED`.
    pub async fn update(&self, replay_id: &str, rate: Option<ReplayRate>) -> Result<Replay, Error> {
        let rate = rate.map(ReplayRate::to_wire);
        let request = v1::UpdateReplayRequest { replay_id: replay_id.to_owned(), rate };
        found(repeated!(self.replay_calls, update_replay, request)?.replay)
    }

    /// Stops a replay for a while: partitions whose range is not done deliver nothing meanwhile, all others go on.
    ///
    /// # Errors
    /// As [`Replays::update`].
    pub async fn pause(&self, replay_id: &str) -> Result<Replay, Error> {
        found(
            repeated!(self.replay_calls, pause_replay, v1::PauseReplayRequest { replay_id: replay_id.to_owned() })?
                .replay,
        )
    }

    /// Goes on with a paused replay.
    ///
    /// # Errors
    /// As [`Replays::update`].
    pub async fn resume(&self, replay_id: &str) -> Result<Replay, Error> {
        found(
            repeated!(self.replay_calls, resume_replay, v1::ResumeReplayRequest { replay_id: replay_id.to_owned() })?
                .replay,
        )
    }

    /// Ends a replay.
    ///
    /// # Errors
    /// As [`Replays::update`].
    pub async fn cancel(&self, replay_id: &str) -> Result<Replay, Error> {
        found(
            repeated!(self.replay_calls, cancel_replay, v1::CancelReplayRequest { replay_id: replay_id.to_owned() })?
                .replay,
        )
    }

    /// Looks at a replay every so often, gives each look to `each`, and returns it once it has ended or is paused.
    ///
    /// # Errors
    /// As [`Replays::get`].
    pub async fn watch(
        &self,
        replay_id: &str,
        every: Duration,
        mut each: impl FnMut(&Replay),
    ) -> Result<Replay, Error> {
        loop {
            let replay = self.get(replay_id).await?;
            each(&replay);
            if replay.is_ended() || replay.state == Some(ReplayState::Paused) {
                return Ok(replay);
            }
            tokio::time::sleep(every).await;
        }
    }
}

fn found(wire: Option<v1::Replay>) -> Result<Replay, Error> {
    wire.map(Replay::from_wire).ok_or_else(|| Error::protocol("no replay in the answer"))
}
