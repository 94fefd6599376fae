//! Where the journals of the groups live in a data directory, and how they are opened and closed with the engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Engine;
use super::open::{Opening, known_end};
use crate::coordinator::journals::{GroupJournals, GroupJournalsSpec};
use crate::limits;
use crate::log::LogSettings;
use crate::log::data_dir::CleanEnd;
use crate::metrics::Metrics;
use crate::model::{Offset, PartitionId, TopicId};
use crate::partition::PartitionRef;
use crate::partition::journal::JournalSpec;
use crate::topics::factory::KnownEnds;
use crate::topics::metadata::ReleaseReserve;
use crate::topics::metadata::state::MetadataState;

/// Directory of the group journal, relative to the data directory.
const GROUPS_DIR: &str = "groups";
/// Directory of the journal of dead-letter entries.
const ENTRIES_DIR: &str = "entries";
/// The group journal among the logs of a data directory.
pub(super) const GROUPS: PartitionRef = PartitionRef { topic: TopicId(0), partition: PartitionId(1) };
/// The entries journal.
pub(super) const ENTRIES: PartitionRef = PartitionRef { topic: TopicId(0), partition: PartitionId(2) };
/// Segments of the journals are sealed at this size; each snapshot begins one anyway.
const SEGMENT_BYTES: u64 = 32 << 20;

impl Opening {
    /// Opens both journals. What goes wrong stops the groups, not the start (rules G6, F7).
    pub(super) fn open_journals(
        &mut self,
        ends: &HashMap<PartitionRef, KnownEnds>,
        state: &MetadataState,
        metrics: &Arc<Metrics>,
    ) -> Arc<GroupJournals> {
        let reserve = Arc::clone(&self.data_dir);
        let release: ReleaseReserve = Arc::new(move |bytes| reserve.release_reserve(bytes).unwrap_or(0));
        // A group that is known elsewhere was in the journal.
        let groups_known = !state.reserving_groups().is_empty();
        Arc::new(GroupJournals::open(GroupJournalsSpec {
            groups: self.journal_spec(Path::new(GROUPS_DIR), known_end(ends, GROUPS), GROUPS, !groups_known),
            entries: self.journal_spec(Path::new(ENTRIES_DIR), known_end(ends, ENTRIES), ENTRIES, true),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(metrics),
            release_reserve: Some(release),
        }))
    }

    fn journal_spec(&mut self, dir: &Path, known: KnownEnds, own: PartitionRef, may_be_new: bool) -> JournalSpec {
        let mut log = self.log_environment();
        log.dir = PathBuf::from(dir);
        (log.identity.topic_id, log.identity.partition) = (own.topic, own.partition);
        log.settings = LogSettings {
            segment_bytes: SEGMENT_BYTES,
            index_interval_bytes: 64 << 10,
            allocation_step_bytes: limits::ALLOCATION_STEP_BYTES,
        };
        let may_create =
            may_be_new && known.proven_end == Offset::ZERO && known.clean_end.is_none_or(|end| end == Offset::ZERO);
        JournalSpec { log, proven_end: known.proven_end, clean_end: known.clean_end, may_create }
    }
}

impl Engine {
    /// The journals of the groups.
    pub fn journals(&self) -> &Arc<GroupJournals> {
        &self.shared.journals
    }

    /// Closes the journals; those that are not well are left out of the clean marker.
    pub(super) async fn close_journals(&self) -> Vec<CleanEnd> {
        let journals = Arc::clone(self.journals());
        let closed = tokio::task::spawn_blocking(move || journals.close()).await;
        let (groups, entries) = closed.unwrap_or((None, None));
        let ends = [(GROUPS, groups), (ENTRIES, entries)].into_iter();
        let clean = |(own, end): (PartitionRef, Option<Offset>)| {
            Some(CleanEnd { topic: own.topic, partition: own.partition, end: end? })
        };
        ends.filter_map(clean).collect()
    }
}
