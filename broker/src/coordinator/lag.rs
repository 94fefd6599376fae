//! How far groups are behind and what holds them up (rules OB-1, OB-3, OB-4, RE-3): from positions and indexes, without
//! looking at payloads; the cost of a look hangs on the number of partitions, never on the lag.

use super::admin::view_of;
use super::group::Group;
use super::loss::{self, TimeToLoss};
use super::positions::{append_time, event_time};
use super::views::{GroupLag, PartitionLag};
use super::{Coordinator, GroupError};
use crate::group::view::{BreakerMode, PartitionLive};
use crate::metrics::{GroupSample, GroupSamples, GroupTotal};
use crate::model::{MemberId, Offset, PartitionEpoch, SlotRange, Source};
use crate::partition::PartitionLog;

/// What the machine says of a partition.
pub(super) struct Stand {
    pub(super) source: Source,
    topic: String,
    epoch: PartitionEpoch,
    floor: Offset,
    /// Where a group that was made for a replay ends.
    bound: Option<Offset>,
    above: u64,
    first_unread: Offset,
    live: PartitionLive,
    dead_lanes: u64,
    open_entries: u64,
    owner: Option<MemberId>,
    metadata: String,
}

impl Coordinator {
    /// How far a group is behind, and what holds it; all topics if none is named.
    ///
    /// # Errors
    /// The group is not to be had, or a topic that is not the group's.
    pub async fn lag(&self, name: &str, topics: &[String]) -> Result<GroupLag, GroupError> {
        let group = self.find(name)?;
        let view = view_of(&group);
        for topic in topics {
            if !view.topics.iter().any(|known| known.name == *topic) {
                return Err(crate::topics::TopicError::NotFound { name: topic.clone() }.into());
            }
        }
        let mut stands = stands(&group);
        stands.retain(|stand| topics.is_empty() || topics.contains(&stand.topic));
        stands.sort_by(|one, other| (&one.topic, one.source.partition).cmp(&(&other.topic, other.source.partition)));
        let mut partitions = Vec::with_capacity(stands.len());
        for stand in stands {
            partitions.push(self.partition_lag(name, stand).await.0);
        }
        let dead_lanes = group.look(|machine| machine.entries().lane_count() as u64);
        Ok(GroupLag { group: view, partitions, dead_lanes })
    }

    /// How all groups stand, for the metrics; nothing while they are not to be had.
    pub async fn samples(&self) -> GroupSamples {
        let mut samples = GroupSamples::default();
        if self.shared.check().is_err() {
            return samples;
        }
        for group in self.all_groups() {
            let view = view_of(&group);
            samples.groups.push(GroupTotal {
                group: view.name.to_string(),
                members: view.members.into(),
                connected: view.connected.into(),
                breaker_open: view.breaker.mode == BreakerMode::Open,
                pauses: view.pauses.len() as u64,
                replay: group.look(|machine| {
                    let state = machine.state();
                    let open = state.open_replay()?;
                    let all: u64 = open.ranges.iter().map(crate::group::replay::ReplayRange::len).sum();
                    let left: u64 = open.ranges.iter().map(|range| state.left_of(range)).sum();
                    Some((all.saturating_sub(left), left))
                }),
            });
            let mut stands = stands(&group);
            stands
                .sort_by(|one, other| (&one.topic, one.source.partition).cmp(&(&other.topic, other.source.partition)));
            for stand in stands {
                let (lag, _) = self.partition_lag(view.name.as_str(), stand).await;
                samples.partitions.push(sample(view.name.as_str(), lag));
            }
        }
        samples
    }

    /// How far a group is behind in a partition, and how near retention is.
    pub(super) async fn partition_lag(&self, group: &str, stand: Stand) -> (PartitionLag, Option<TimeToLoss>) {
        let log = self.shared.logs.log(stand.source);
        let now_ms = self.shared.clock.wall_ms();
        let age = |since_ms: i64| if since_ms == 0 { 0 } else { now_ms.saturating_sub(since_ms).max(0) };
        let (log_start, high_watermark) = log.as_ref().map_or((stand.floor, stand.floor), |log| bounds(&**log));
        let high_watermark = stand.bound.map_or(high_watermark, |bound| bound.min(high_watermark).max(stand.floor));
        let from = stand.floor.max(log_start);
        let lag_records = high_watermark.distance_from(from).saturating_sub(stand.above);
        let (mut lag_ms, mut event_lag_ms, mut oldest_unsettled_ms, mut lag_bytes, mut loss) = (0, 0, 0, 0, None);
        if let Some(log) = log.as_ref().filter(|_| stand.bound.is_none() || lag_records > 0) {
            let (undelivered, append_ms) = match stand.live.undelivered {
                Some(held) => held,
                None => (stand.first_unread, append_time(&**log, stand.first_unread).await),
            };
            lag_ms = age(append_ms);
            event_lag_ms = age(event_time(&**log, undelivered).await);
            if lag_records > 0 {
                let floor_ms = append_time(&**log, from).await;
                oldest_unsettled_ms = age(floor_ms);
                lag_bytes = self.bytes_from(stand.source, from);
                let growth = self.growth(stand.source, high_watermark);
                let age_ms = Some(oldest_unsettled_ms).filter(|_| floor_ms != 0);
                let topic = self.topics.by_uuid(stand.source.topic);
                loss = topic
                    .and_then(|topic| loss::time_to_loss(&topic.revision().config, group, age_ms, lag_bytes, growth));
            }
        }
        let lag = PartitionLag {
            topic: stand.topic,
            topic_id: stand.source.topic,
            partition: stand.source.partition,
            floor: stand.floor,
            epoch: stand.epoch,
            log_start,
            high_watermark,
            lag_records,
            lag_bytes,
            lag_ms,
            event_lag_ms,
            oldest_unsettled_ms,
            in_flight: stand.live.in_flight,
            held_records: stand.live.held,
            blocked_lanes: stand.live.blocked_lanes,
            dead_lanes: stand.dead_lanes,
            open_entries: stand.open_entries,
            time_to_loss_ms: loss.map(|loss| loss.left_ms),
            gap: stand.live.gap,
            gap_accepted: stand.live.gap_accepted,
            stalled: stand.live.stalled,
            owner: stand.owner,
            metadata: stand.metadata,
        };
        (lag, loss)
    }

    /// Bytes of log from an offset on: whole segments, and a share of the one that holds it.
    fn bytes_from(&self, source: Source, from: Offset) -> u64 {
        let Some(topic) = self.topics.by_uuid(source.topic) else { return 0 };
        topic.bytes_from(source.partition, from)
    }
}

fn sample(group: &str, lag: PartitionLag) -> GroupSample {
    GroupSample {
        group: group.to_owned(),
        topic: lag.topic,
        partition: lag.partition.0,
        floor: lag.floor.get(),
        log_start: lag.log_start.get(),
        high_watermark: lag.high_watermark.get(),
        lag_records: lag.lag_records,
        lag_bytes: lag.lag_bytes,
        lag_ms: lag.lag_ms,
        event_lag_ms: lag.event_lag_ms,
        oldest_unsettled_ms: lag.oldest_unsettled_ms,
        in_flight: lag.in_flight,
        held: lag.held_records,
        blocked_keys: lag.blocked_lanes,
        dead_keys: lag.dead_lanes,
        time_to_loss_ms: lag.time_to_loss_ms,
        stopped_at_gap: lag.gap.is_some() && !lag.gap_accepted,
        stalled_units: u64::from(lag.stalled.is_some()),
    }
}

fn bounds(log: &dyn PartitionLog) -> (Offset, Offset) {
    (log.log_start(), log.high_watermark())
}

/// What the machine says of every partition, under one lock.
pub(super) fn stands(group: &Group) -> Vec<Stand> {
    group.look(|machine| {
        let state = machine.state();
        let entries = machine.entries();
        let stand = |(source, partition): (&Source, &crate::group::state::PartitionState)| {
            let live = machine.partition_live(*source).unwrap_or_default();
            let runs = state.owners.get(source).map_or(&[][..], Vec::as_slice);
            Some(Stand {
                source: *source,
                topic: state.topics.get(&source.topic)?.name.clone(),
                epoch: partition.epoch,
                floor: partition.settled.floor(),
                bound: state.bound_of(*source),
                above: partition.settled.settled_above_floor(),
                first_unread: live.read_to.max(partition.settled.floor()),
                live,
                dead_lanes: entries.dead_lanes_of(*source),
                open_entries: entries.open_entries_of(*source),
                owner: runs.first().filter(|run| run.slots == SlotRange::ALL).map(|run| run.member),
                metadata: partition.commit.metadata.clone(),
            })
        };
        state.partitions.iter().filter_map(stand).collect()
    })
}
