//! What groups need of partitions, as retention and trims ask for it (rules RE-2, DL-4).
//!
//! Invariant: a group that may exist and cannot be asked holds everything, within the bounds of its topic's holds.

use std::collections::HashMap;
use std::sync::Weak;

use super::Coordinator;
use super::group::Group;
use super::rebuilds::shadow_name;
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
        let floor = |group: &Group| {
            group.look(|machine| machine.state().partitions.get(&source).map(|partition| partition.settled.floor()))
        };
        let shadow = shadow_name(&group).and_then(|name| coordinator.map.read().by_name.get(&name).cloned());
        floor(&group).into_iter().chain(shadow.and_then(|shadow| floor(&shadow))).min()
    }

    fn needed(&self, topic: Option<TopicUuid>) -> HashMap<Source, Offset> {
        let mut needed: HashMap<Source, Offset> = HashMap::new();
        let Some(coordinator) = self.0.upgrade() else { return needed };
        if matches!(*coordinator.shared.phase.read(), Phase::Recovering) {
            // Soon it is known; until then all may be needed.
            let topics = coordinator.topics.all().into_iter().filter(|one| topic.is_none_or(|topic| one.uuid == topic));
            let sources = topics.flat_map(|one| {
                let partitions = (0..one.slots().len()).filter_map(|at| u32::try_from(at).ok());
                partitions.map(move |at| Source { topic: one.uuid, partition: PartitionId(at) }).collect::<Vec<_>>()
            });
            return sources.map(|source| (source, Offset::ZERO)).collect();
        }
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

    fn known(&self) -> bool {
        let coordinator = self.0.upgrade();
        coordinator.is_some_and(|one| !matches!(*one.shared.phase.read(), Phase::Recovering | Phase::Damaged { .. }))
    }
}
