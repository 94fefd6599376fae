//! What is asked and told about replays: plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::views::Caller;
use crate::group::record::PauseReason;
use crate::group::replay::{Replay, ReplayEnd, ReplayPlan, ReplayRange, ReplayRate};
use crate::group::retry::RetryPolicy;
use crate::group::state::GroupState;
use crate::group::{GroupConfig, SourceName, StartAt};
use crate::model::{Filter, GroupId, GroupName, PartitionEpoch, TopicName, TopicUuid};

/// A replay's id: its group and its number in it. As text `<group in 16 hexadecimal digits>-r<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplayId {
    /// The group.
    pub group: GroupId,
    /// The number.
    pub number: u64,
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-r{}", self.group.0, self.number)
    }
}

/// A text that is no replay's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a replay's id is 16 hexadecimal digits, a dash, an r and a number")]
pub struct ReplayIdError;

impl FromStr for ReplayId {
    type Err = ReplayIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (group, number) = text.split_once("-r").filter(|(group, _)| group.len() == 16).ok_or(ReplayIdError)?;
        let group = u64::from_str_radix(group, 16).map_err(|_| ReplayIdError)?;
        let id = Self { group: GroupId(group), number: number.parse().map_err(|_| ReplayIdError)? };
        // Other spellings of the same numbers are no ids.
        if id.to_string() == text { Ok(id) } else { Err(ReplayIdError) }
    }
}

/// A group to make for a replay.
#[derive(Debug, Clone)]
pub struct ReplayGroup {
    /// Its name; `None`: one that is free.
    pub name: Option<GroupName>,
    /// Its settings, topics among them.
    pub config: GroupConfig,
    /// As [`super::NewGroup::topic_retry`].
    pub topic_retry: BTreeMap<String, RetryPolicy>,
}

/// What a replay delivers to.
#[derive(Debug, Clone)]
pub enum ReplayTarget {
    /// A group made for it, which stays.
    New(Box<ReplayGroup>),
    /// A group made for it, which goes with it.
    Ephemeral(Box<ReplayGroup>),
    /// A group that is there.
    Existing(GroupName),
}

/// A replay to start (rule RP-1).
#[derive(Debug, Clone)]
pub struct StartReplay {
    /// Topics of a group that is there; none: all of them. Those of a new one are in its settings.
    pub topics: Vec<TopicName>,
    /// First offsets.
    pub from: StartAt,
    /// Epochs of the records before them, if known (rule OF-7).
    pub from_epochs: Vec<(SourceName, PartitionEpoch)>,
    /// First offsets after the range; partitions that are not named: the high watermark now.
    pub to: StartAt,
    /// Epochs of the records before them, if known.
    pub to_epochs: Vec<(SourceName, PartitionEpoch)>,
    /// Which records.
    pub filter: Filter,
    /// How fast.
    pub rate: ReplayRate,
    /// What it delivers to.
    pub target: ReplayTarget,
    /// Who and why.
    pub caller: Caller,
}

/// Where a replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// At work.
    Running,
    /// Waits to be resumed.
    Paused,
    /// All of it was handled.
    Done,
    /// It was ended before.
    Cancelled,
}

/// How far something is (rule RP-3).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Offsets settled.
    pub done: u64,
    /// Offsets not settled.
    pub left: u64,
    /// Offsets settled a second since it began or went on.
    pub rate: f64,
    /// Milliseconds to the end at that rate.
    pub eta_ms: Option<i64>,
}

impl Progress {
    pub(super) fn new(range: u64, left: u64, began: Option<(Duration, u64)>) -> Self {
        let rate = began.map_or(0.0, |(passed, left_then)| {
            let seconds = passed.as_secs_f64();
            if seconds > 0.0 { left_then.saturating_sub(left) as f64 / seconds } else { 0.0 }
        });
        let eta_ms = match left {
            0 => Some(0),
            _ if rate > 0.0 => Some((left as f64 / rate * 1_000.0) as i64),
            _ => None,
        };
        Self { done: range.saturating_sub(left), left, rate, eta_ms }
    }
}

/// A replay of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayPartitionView {
    /// Name of the topic; empty once it is gone.
    pub topic: String,
    /// What it reads.
    pub range: ReplayRange,
    /// How far it is.
    pub progress: Progress,
}

/// A replay at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayView {
    /// Its id.
    pub id: ReplayId,
    /// Name of its group.
    pub group: GroupName,
    /// What was asked for.
    pub plan: ReplayPlan,
    /// Where it stands.
    pub state: ReplayState,
    /// Names of its topics.
    pub topics: Vec<String>,
    /// One a partition, in order of topics and partitions.
    pub partitions: Vec<ReplayPartitionView>,
    /// How far it is in all.
    pub progress: Progress,
    /// When it was started, milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: Option<i64>,
}

impl ReplayView {
    /// A replay of a group that is there; `began` when its pace began and what was left of each range then.
    pub(super) fn of(state: &GroupState, replay: &Replay, began: Option<(Duration, &[u64])>, now: Duration) -> Self {
        let paused = state.pauses.iter().any(|pause| pause.reason == PauseReason::Replay);
        let left = |range: &ReplayRange| if replay.end.is_some() { range.left } else { state.left_of(range) };
        let names = state.topics.iter().map(|(id, topic)| (*id, topic.name.clone())).collect();
        let began = began.filter(|_| replay.end.is_none() && !paused);
        let began = began.map(|(at, left)| (now.saturating_sub(at), left));
        let mut view = Self::build((state.id, &state.name), replay, &names, left, began);
        if paused && replay.end.is_none() {
            view.state = ReplayState::Paused;
        }
        view
    }

    /// A replay whose group is gone.
    pub(super) fn ended(ended: &EndedReplay) -> Self {
        let names = ended.topics.iter().cloned().collect();
        Self::build((ended.group, &ended.name), &ended.replay, &names, |range| range.left, None)
    }

    fn build(
        (group, name): (GroupId, &GroupName),
        replay: &Replay,
        names: &BTreeMap<TopicUuid, String>,
        left: impl Fn(&ReplayRange) -> u64,
        began: Option<(Duration, &[u64])>,
    ) -> Self {
        let mut partitions = Vec::with_capacity(replay.ranges.len());
        let (mut all, mut all_left, mut left_then) = (0, 0, 0);
        for (at, range) in replay.ranges.iter().enumerate() {
            let left = left(range);
            let then = began.map(|(passed, then)| (passed, then.get(at).copied().unwrap_or(left)));
            all += range.len();
            all_left += left;
            left_then += then.map_or(0, |(_, then)| then);
            let topic = names.get(&range.source.topic).cloned().unwrap_or_default();
            let progress = Progress::new(range.len(), left, then);
            partitions.push(ReplayPartitionView { topic, range: *range, progress });
        }
        partitions.sort_by(|one, other| {
            (&one.topic, one.range.source.partition).cmp(&(&other.topic, other.range.source.partition))
        });
        let mut topics: Vec<String> = partitions.iter().map(|partition| partition.topic.clone()).collect();
        topics.dedup();
        let state = match replay.end {
            None => ReplayState::Running,
            Some((ReplayEnd::Done, _)) => ReplayState::Done,
            Some((ReplayEnd::Cancelled, _)) => ReplayState::Cancelled,
        };
        Self {
            id: ReplayId { group, number: replay.number },
            group: name.clone(),
            plan: replay.plan.clone(),
            state,
            topics,
            partitions,
            progress: Progress::new(all, all_left, began.map(|(passed, _)| (passed, left_then))),
            created_ms: replay.plan.act.time_ms,
            ended_ms: replay.end.map(|(_, ended_ms)| ended_ms),
        }
    }
}

/// A replay whose group is gone, as the group journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedReplay {
    group: GroupId,
    name: GroupName,
    topics: Vec<(TopicUuid, String)>,
    replay: Replay,
}

impl EndedReplay {
    /// Its id.
    pub(super) fn id(&self) -> ReplayId {
        ReplayId { group: self.group, number: self.replay.number }
    }

    /// All replays of a group that goes; an open one ends with it.
    pub(super) fn all_of(state: &GroupState) -> Vec<Self> {
        let topics: Vec<_> = state.topics.iter().map(|(id, topic)| (*id, topic.name.clone())).collect();
        let of = |replay: &Replay| {
            let mut replay = replay.clone();
            if replay.end.is_none() {
                for range in &mut replay.ranges {
                    range.left = state.left_of(range);
                }
                replay.end = Some((ReplayEnd::Cancelled, replay.plan.act.time_ms));
            }
            Self { group: state.id, name: state.name.clone(), topics: topics.clone(), replay }
        };
        state.replays.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_replay_has_one_spelling() {
        let id = ReplayId { group: GroupId(0x2a), number: 7 };
        assert_eq!(id.to_string(), "000000000000002a-r7");
        assert_eq!("000000000000002a-r7".parse(), Ok(id));
        for text in
            ["", "2a-r7", "000000000000002a-7", "000000000000002a-r07", "000000000000002A-r7", "000000000000002a-r"]
        {
            assert!(text.parse::<ReplayId>().is_err(), "{text}");
        }
    }

    #[test]
    fn rp_3_progress_tells_rate_and_time_left() {
        let half = Progress::new(1_000, 500, Some((Duration::from_secs(5), 1_000)));
        assert_eq!((half.done, half.left, half.rate, half.eta_ms), (500, 500, 100.0, Some(5_000)));
        let still = Progress::new(1_000, 500, None);
        assert_eq!((still.rate, still.eta_ms), (0.0, None));
        assert_eq!(Progress::new(0, 0, None).eta_ms, Some(0), "nothing is left of nothing");
    }
}
