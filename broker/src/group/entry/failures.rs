//! How entries failed since their copies were made: what a redrive, or a lane that was spilled, adds to what those say
//! (rules DL-3, KO-7, RD-7).
//!
//! Invariant: at most [`limits::ENTRY_FAILURES_BYTES`] of texts are kept in a group. Beyond that the oldest failures are
//! forgotten, in the order in which they came, which a snapshot keeps; class and fingerprint stand in the entries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::EntryKey;
use crate::group::record::ErrorInfo;
use crate::limits;
use crate::model::MemberId;

/// Bytes that a failure takes beside its texts, about.
const BESIDE: usize = 160;

/// How an entry failed for the last time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntryFailure {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// What went wrong; its texts are cut to the limits.
    pub error: ErrorInfo,
    /// Member that had it.
    pub member: Option<MemberId>,
    /// Version of that member's client.
    pub client_version: String,
}

impl EntryFailure {
    fn bytes(&self) -> usize {
        let error = &self.error;
        let texts = [&error.class, &error.message, &error.stack, &error.fingerprint, &error.trace];
        BESIDE + self.client_version.len() + texts.into_iter().map(String::len).sum::<usize>()
    }
}

/// The last failures of a group's entries.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures {
    known: BTreeMap<EntryKey, (u64, Arc<EntryFailure>)>,
    /// In the order in which they came; one whose number is not its entry's any more is void.
    order: VecDeque<(u64, EntryKey)>,
    next: u64,
    bytes: usize,
}

impl Failures {
    pub(super) fn get(&self, key: &EntryKey) -> Option<&EntryFailure> {
        self.known.get(key).map(|(_, failure)| &**failure)
    }

    /// All of them, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EntryKey, &EntryFailure)> + '_ {
        self.order.iter().filter_map(|(number, key)| match self.known.get(key) {
            Some((known, failure)) if known == number => Some((*key, &**failure)),
            _ => None,
        })
    }

    pub(super) fn put(&mut self, key: EntryKey, failure: EntryFailure) {
        self.forget(&key);
        self.bytes += failure.bytes();
        self.known.insert(key, (self.next, Arc::new(failure)));
        self.order.push_back((self.next, key));
        self.next += 1;
        while self.bytes > limits::ENTRY_FAILURES_BYTES
            && let Some((number, oldest)) = self.order.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|(known, _)| *known == number) {
                self.forget(&oldest);
            }
        }
        if self.order.len() > 2 * self.known.len() + 64 {
            let known = &self.known;
            self.order.retain(|(number, key)| known.get(key).is_some_and(|(known, _)| known == number));
        }
    }

    pub(super) fn forget(&mut self, key: &EntryKey) {
        if let Some((_, failure)) = self.known.remove(key) {
            self.bytes -= failure.bytes();
        }
    }

    pub(super) fn retain(&mut self, kept: impl Fn(&EntryKey) -> bool) {
        let gone: Vec<EntryKey> = self.known.keys().filter(|key| !kept(key)).copied().collect();
        gone.iter().for_each(|key| self.forget(key));
    }
}
