//! What a shadow follows of its group's entries (rule RP-7).
//!
//! Must not know: machines. Invariant: an entry is followed only while it is open in the shadow and no job's.

use super::super::entry::{Act, Entry, EntryKey, EntryState};
use crate::model::Offset;

/// What became, in the group, of entries that are open in its shadow.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// Closed without being handled.
    pub closed: Vec<(EntryKey, EntryState, Act)>,
    /// Delivered again, with the copies of their versions.
    pub redriven: Vec<(EntryKey, Vec<Offset>)>,
}

impl Followed {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.redriven.is_empty()
    }

    /// What an open entry of a shadow follows of the group's: a redrive once for each cycle, and again if the last one
    /// never came to a try.
    pub fn note(&mut self, key: EntryKey, own: &Entry, of_group: Entry) {
        if own.state != EntryState::Open || own.job.is_some() {
            return;
        }
        match of_group.state {
            EntryState::Discarded | EntryState::Moved | EntryState::Expired => {
                self.closed.push((key, of_group.state, of_group.act));
            }
            EntryState::Open | EntryState::Resolved { .. } => {
                let again = own.cycle > 0 && own.attempts == 0 && matches!(of_group.state, EntryState::Resolved { .. });
                if of_group.cycle > own.cycle || again {
                    self.redriven.push((key, of_group.versions));
                }
            }
            EntryState::Spilled | EntryState::Cleared => {}
        }
    }
}
