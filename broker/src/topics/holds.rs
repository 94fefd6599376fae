//! What groups still need of partitions, as retention and trim see it (rules RE-2, RE-9, DL-4).
//!
//! Owns what a topic may say about holds and the trait by which groups are asked; must not know groups themselves.
//!
//! Two kinds: a group that the topic lists holds what it has not settled, for so long and so much; a dead letter on its
//! way holds its record whatever the settings say, until it has arrived.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Topics;
use super::error::TopicError;
use super::settings::{TopicConfig, within};
use super::slot::PartitionSlot;
use super::topic::Topic;
use crate::limits;
use crate::model::{GroupName, Offset, PartitionId, Source, TopicId, TopicUuid};
use crate::partition::{Hold, PartitionLog};

/// Part of the disk that holds of a topic may take if it does not say: one in so many, 20 %.
const DISK_SHARE: u64 = 5;

/// Groups whose unread records retention keeps, and for how long (rule RE-2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupHolds {
    /// Names of groups, at most [`limits::HOLD_GROUPS`]; one that does not exist holds nothing.
    pub groups: Vec<String>,
    /// Milliseconds for which a segment is kept for them beyond its time; `None`: [`limits::MAX_HOLD_MS`].
    pub max_ms: Option<u64>,
    /// Bytes of a partition that are kept for them beyond its limits; `None`: the partition's share of 20 % of the disk.
    pub max_bytes: Option<u64>,
}

/// Knows what groups need. Called on threads that may block, and on that of the metadata log: must not wait for a change
/// of topics. While the groups are stopped, what was known last counts; who does not know answers with offset 0.
pub trait RetentionHolds: Debug + Send + Sync + 'static {
    /// The lowest offset that a group has not settled in a partition, of a rebuild of it too; `None` if there is no such
    /// group, or it does not consume the topic.
    fn floor(&self, topic: TopicUuid, partition: PartitionId, group: &str) -> Option<Offset>;
    /// The lowest offset of a dead letter on its way, by partition (rule DL-4): of one topic, or of all.
    fn needed(&self, topic: Option<TopicUuid>) -> HashMap<Source, Offset>;
    /// Whether the dead letters on their way are known: until then no trim that had to wait for one goes on.
    fn known(&self) -> bool {
        true
    }
}

/// What the topics keep about holds.
#[derive(Debug, Default)]
pub(super) struct Holds {
    asked: parking_lot::RwLock<Option<Arc<dyn RetentionHolds>>>,
    /// Groups that hold nothing because they are not there, told once each.
    unknown: Mutex<BTreeSet<(TopicId, String)>>,
}

impl GroupHolds {
    pub(super) fn check(&self) -> Result<(), TopicError> {
        within("config.hold_groups.groups", self.groups.len() as u64, 0, limits::HOLD_GROUPS as u64)?;
        for group in &self.groups {
            GroupName::parse(group).map_err(|rule| TopicError::Field {
                field: "config.hold_groups.groups",
                found: group.clone(),
                bounds: rule.to_string(),
            })?;
        }
        if let Some(ms) = self.max_ms {
            within("config.hold_groups.max_ms", ms, 1, limits::DURATION_MS_MAX)?;
        }
        if let Some(bytes) = self.max_bytes {
            within("config.hold_groups.max_bytes", bytes, 1, i64::MAX as u64)?;
        }
        Ok(())
    }
}

impl Holds {
    /// The lowest offsets that must stay whatever is asked for: of one topic, or of all.
    pub(super) fn needed(&self, topic: Option<TopicUuid>) -> HashMap<Source, Offset> {
        let asked = self.asked.read().clone();
        asked.map(|asked| asked.needed(topic)).unwrap_or_default()
    }

    /// Whether it is known what must stay.
    fn known(&self) -> bool {
        let asked = self.asked.read().clone();
        asked.is_some_and(|asked| asked.known())
    }

    fn hold(&self, topic: &Topic, partition: PartitionId, config: &TopicConfig, disk_bytes: u64) -> Option<Hold> {
        let asked = self.asked.read().clone()?;
        let mut from: Option<Offset> = None;
        for group in &config.holds.groups {
            match asked.floor(topic.uuid, partition, group) {
                Some(floor) => from = Some(from.map_or(floor, |from| from.min(floor))),
                None if self.unknown.lock().insert((topic.id, group.clone())) => {
                    tracing::warn!(topic = topic.name.as_str(), group, "a group that is to hold records is not there");
                }
                None => {}
            }
        }
        let max_bytes = config.holds.max_bytes.unwrap_or(disk_bytes / DISK_SHARE / u64::from(config.partitions.max(1)));
        Some(Hold { from: from?, max_ms: config.holds.max_ms.unwrap_or(limits::MAX_HOLD_MS), max_bytes })
    }
}

impl Topics {
    /// Who is asked what groups need. Until then nothing is held.
    pub fn set_retention_holds(&self, holds: Arc<dyn RetentionHolds>) {
        *self.shared.holds.asked.write() = Some(holds);
    }

    /// The log starts that retention and trims that had to wait would have now, of all partitions. `wall_ms`: the begin
    /// of all times if age is not to count. Blocks.
    pub(crate) fn retention_starts(&self, wall_ms: i64) -> Vec<(Arc<PartitionSlot>, Offset)> {
        let disk = self.shared.factory.log.storage.space();
        let disk_bytes = disk.map_or(0, |space| space.total_bytes);
        let known = self.shared.holds.known();
        let all_needed = self.shared.holds.needed(None);
        let mut starts = Vec::new();
        for topic in self.all() {
            let config = topic.revision().config.clone();
            for slot in topic.slots() {
                let Some(partition) = slot.partition() else { continue };
                let number = slot.reference().partition;
                let needed = all_needed.get(&Source { topic: topic.uuid, partition: number }).copied();
                let hold = self.shared.holds.hold(&topic, number, &config, disk_bytes);
                let kept = partition.retention_start(wall_ms, needed, hold);
                let asked = slot.trimmed().filter(|_| known).map(|asked| asked.min(needed.unwrap_or(asked)));
                let start = kept.into_iter().chain(asked).max().filter(|start| *start > slot.log_start());
                starts.extend(start.map(|start| (Arc::clone(slot), start)));
            }
        }
        starts
    }
}
