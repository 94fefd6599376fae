//! What a damaged journal leaves: entries that only their copies know of, dead letters of groups that are not there.
//!
//! Invariants: nothing that a person may still need goes without being asked for; what the copies prove is durable in
//! the entries journal before any group begins.

use super::journals::{LoadedGroups, was_lost};
use super::lanes::{lane_key, slot};
use super::views::DeletedGroup;
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::Written;
use crate::dead_letter::rebuild::lost_entries;
use crate::model::GroupId;

/// Records of the entries journal that are queued at once.
const CHUNK: usize = 1_000;

impl Coordinator {
    /// Makes entries anew whose part of the journal was lost, from their copies (rule AK-11): durably, before the groups
    /// begin. `false`: the broker ends meanwhile, or a journal has stopped; the next start begins again.
    pub(super) async fn rebuild_entries(&self, loaded: &mut LoadedGroups) -> bool {
        for (id, (state, table)) in &mut loaded.groups {
            let place = |key: Option<&[u8]>, offset| (lane_key(key, offset), slot(key, offset));
            let records = loop {
                match lost_entries(&*self.topics, state, table, place).await {
                    Ok(records) => break records,
                    Err(what) => {
                        tracing::warn!(group = %state.name, what, "dead letters cannot be read yet: their group waits");
                        tokio::select! {
                            () = self.shared.cancel.cancelled() => return false,
                            () = tokio::time::sleep(super::recovery::COMPARE_AGAIN) => {}
                        }
                    }
                }
            };
            for record in &records {
                if let Err(what) = table.replay(record) {
                    tracing::error!(group = %state.name, what, "a dead letter that was lost cannot be made anew");
                }
            }
            for chunk in records.chunks(CHUNK) {
                let entries = self.journals.append_entries(*id, chunk);
                if self.shared.settle(Written { entries, ..Written::default() }).await.is_err() {
                    return false;
                }
            }
            let found = records.len();
            tracing::warn!(group = %state.name, found, "dead letters were made anew from their copies, and are open");
        }
        let entries = self.journals.rebuilt();
        self.shared.settle(Written { entries, ..Written::default() }).await.is_ok()
    }

    /// Dead-letter topics and names of groups that are gone: their deletion was cut short (rule OF-8). Those of a group
    /// that a damaged journal has lost stay: they are all that is left of it.
    pub(super) async fn sweep(&self) {
        let Ok(holders) = self.topics.groups_with_dead_letters().await else { return };
        for group in holders {
            let (gone, lost) = {
                let map = self.map.read();
                let gone = group.0 < map.next_group && !map.by_id.contains_key(&group);
                (gone, was_lost(&map.lost, group))
            };
            if !gone {
                continue;
            }
            let kept = self
                .topics
                .all()
                .into_iter()
                .find_map(|topic| topic.dead_letters.clone().filter(|of| of.group == group));
            if let Some(of) = kept.filter(|_| lost) {
                let name = of.group_name.as_str();
                tracing::warn!(
                    group = name,
                    id = group.0,
                    "a group was lost with its journal: its dead letters are kept"
                );
                continue;
            }
            if let Err(error) = self.topics.drop_dead_letters(group, None).await {
                tracing::warn!(group = group.0, %error, "dead letters of a group that is gone stay until the next start");
            }
        }
    }

    /// Deletes what is left of groups of this name which a damaged journal has lost: their dead letters.
    ///
    /// # Errors
    /// [`GroupError::NotFound`] if nothing is left; [`GroupError::OpenEntries`] without `force`.
    pub(super) async fn delete_lost(
        &self,
        name: &str,
        force: bool,
        id: Option<GroupId>,
    ) -> Result<DeletedGroup, GroupError> {
        let lost = self.map.read().lost.clone();
        let left = self.topics.all().into_iter().find_map(|topic| {
            let of = topic.dead_letters.clone()?;
            let wanted = of.group_name == name && was_lost(&lost, of.group) && id.is_none_or(|id| id == of.group);
            wanted.then_some(of.group)
        });
        let id = left.ok_or_else(|| GroupError::NotFound { group: name.to_owned() })?;
        let entries_lost = self.journals.entries_of_lost(id).await;
        if !force {
            return Err(GroupError::OpenEntries { what: name.to_owned(), open: entries_lost });
        }
        self.topics.drop_dead_letters(id, None).await?;
        let entries = self.journals.forget_entries(id);
        self.shared.settle(Written { entries, ..Written::default() }).await?;
        tracing::info!(group = name, id = id.0, "what was left of a lost group is deleted");
        Ok(DeletedGroup { id, entries_lost, jobs_ended: 0 })
    }
}
