//! A group as the dead letters see it.

use std::sync::Arc;

use super::Group;
use crate::dead_letter::handle::{Driven, GroupHandle, Written};
use crate::group::entry::EntryTable;
use crate::group::event::Event;
use crate::group::record::Intent;
use crate::group::state::GroupState;
use crate::group::{GroupConfig, GroupTopic};
use crate::model::{GroupId, GroupName, Source, TopicUuid};
use crate::partition::BoxFuture;
use crate::partition::journal_thread::JournalStopped;

impl GroupHandle for Group {
    fn id(&self) -> GroupId {
        self.id
    }

    fn name(&self) -> &GroupName {
        &self.name
    }

    fn letters_id(&self) -> GroupId {
        Self::letters_id(self)
    }

    fn letters_name(&self) -> &GroupName {
        Self::letters_name(self)
    }

    fn config(&self) -> Arc<GroupConfig> {
        Self::config(self)
    }

    fn topic(&self, topic: TopicUuid) -> Option<GroupTopic> {
        self.look(|machine| machine.state().topics.get(&topic).cloned())
    }

    fn intent(&self, source: Source, number: u64) -> Option<Box<Intent>> {
        self.look(|machine| machine.state().partitions.get(&source)?.intents.get(&number).cloned())
    }

    fn intents(&self) -> Vec<(Source, u64)> {
        self.look(|machine| {
            let partitions = machine.state().partitions.iter();
            partitions.flat_map(|(source, state)| state.intents.keys().map(|number| (*source, *number))).collect()
        })
    }

    fn with_entries(&self, look: &mut dyn FnMut(&EntryTable)) {
        self.look(|machine| look(machine.entries()));
    }

    fn with_state(&self, look: &mut dyn FnMut(&GroupState)) {
        self.look(|machine| look(machine.state()));
    }

    fn drive(&self, event: Event) -> Driven {
        self.drive_event(event)
    }

    fn durable(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>> {
        self.shared.wait(written)
    }
}
