//! What groups need of partitions, as retention and trims ask for it (rules RE-2, DL-4).
//!
//! Invariant: a group that may exist and cannot be asked holds everything, within the bounds of its topic's holds.

use std::collections::HashMap;
use std::sync::Weak;

use super::Coordinator;
use super::shared::Phase;
use crate::model::{Offset, PartitionId, Source, TopicUuid};
use crate::topics::RetentionHolds;

/// The coordinator as retention sees it.
#[derive(Debug)]
pub(super) struct Holds(pub(super) Weak<Coordinator>);

impl RetentionHolds for Holds {
    fn floor(&self, topic: TopicUuid, partition: PartitionId, group: &str) -> Option<Offset> {
        let coordinator = self.0.upgrade()?;
        if matches!(*coordinator.shared.phase.read(), Phase::Recovering | Phase::Damaged { .. }) {
            return Some(Offset::ZERO);
        }
        let group = coordinator.map.read().by_name.get(group).cloned()?;
        let source = Source { topic, partition };
        group.look(|machine| machine.state().partitions.get(&source).map(|partition| partition.settled.floor()))
    }

    fn needed(&self, topic: Option<TopicUuid>) -> HashMap<Source, Offset> {
        let mut needed: HashMap<Source, Offset> = HashMap::new();
        let Some(coordinator) = self.0.upgrade() else { return needed };
        for group in coordinator.all_groups() {
            group.look(|machine| {
                let partitions = machine.state().partitions.iter();
                for (source, partition) in
                    partitions.filter(|(source, _)| topic.is_none_or(|topic| source.topic == topic))
                {
                    for intent in partition.intents.values() {
                        let lowest = needed.entry(*source).or_insert(intent.key.offset);
                        *lowest = (*lowest).min(intent.key.offset);
                    }
                }
            });
        }
        needed
    }
}
