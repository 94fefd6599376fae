//! Which entries are meant: conditions on what the table knows first, on the copies last.

use std::sync::Arc;

use super::copies::Copies;
use super::error::LetterError;
use super::handle::GroupHandle;
use super::views::{Selector, StateName};
use crate::group::entry::{Entry, EntryKey};
use crate::model::{LaneKey, Offset, TopicUuid};
use crate::topics::TopicError;

/// Entries looked at under one lock.
const LOOKED_AT: usize = 2_000;

/// The lane of a record with this key, at this offset.
pub(super) type LaneOf = fn(Option<&[u8]>, Offset) -> LaneKey;

/// A selector made ready for one group.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    selector: Selector,
    topic: Option<TopicUuid>,
    lane: Option<LaneKey>,
    states: Vec<StateName>,
}

impl Ready {
    /// `states`: those that are meant if the selector names none; empty: all.
    pub(super) fn new(
        group: &Arc<dyn GroupHandle>,
        selector: &Selector,
        lane_of: LaneOf,
        states: &[StateName],
    ) -> Result<Self, LetterError> {
        let topic = selector.topic.as_deref().map(|name| topic_named(group, name)).transpose()?;
        let lane = selector.key.as_deref().map(|key| lane_of(Some(key), Offset::ZERO));
        let states = if selector.states.is_empty() { states.to_vec() } else { selector.states.clone() };
        Ok(Self { selector: selector.clone(), topic, lane, states })
    }

    /// Whether the table's conditions hold.
    pub(super) fn matches(&self, key: &EntryKey, entry: &Entry) -> bool {
        let selector = &self.selector;
        self.topic.is_none_or(|topic| key.source.topic == topic)
            && selector.partition.is_none_or(|partition| key.source.partition == partition)
            && self.lane.is_none_or(|lane| entry.lane == lane)
            && (self.states.is_empty() || self.states.contains(&StateName::of(entry)))
            && selector.kind.is_none_or(|kind| entry.kind == kind)
            && selector.reason.is_none_or(|reason| entry.reason == reason)
            && selector.class.as_ref().is_none_or(|class| entry.class.as_ref() == Some(class))
            && selector.fingerprint.as_ref().is_none_or(|print| entry.fingerprint.as_ref() == Some(print))
            && selector.dead_from_ms.is_none_or(|from| entry.dead_ms >= from)
            && selector.dead_before_ms.is_none_or(|before| entry.dead_ms < before)
    }

    /// Whether the copy's conditions hold. A lost copy meets none.
    ///
    /// # Errors
    /// It cannot be read now.
    async fn matches_copy(&self, copies: &mut Copies, key: &EntryKey, entry: &Entry) -> Result<bool, LetterError> {
        if self.selector.headers.is_empty() {
            return Ok(true);
        }
        let Some(copy) = copies.newest(key, entry).await? else { return Ok(false) };
        let headers = copy.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        Ok(self.selector.headers.iter().all(|wanted| wanted.matches_any(headers.clone())))
    }

    /// Up to `limit` entries behind `after` that meet all conditions, and the last that was looked at if there may be
    /// more.
    ///
    /// # Errors
    /// A copy cannot be read now.
    pub(super) async fn page(
        &self,
        group: &Arc<dyn GroupHandle>,
        copies: &mut Copies,
        mut after: Option<EntryKey>,
        limit: usize,
    ) -> Result<(Vec<(EntryKey, Entry)>, Option<EntryKey>), LetterError> {
        let mut found = Vec::new();
        loop {
            let (candidates, last) = self.look(group, after);
            for (key, entry) in candidates {
                if found.len() == limit {
                    let last: Option<EntryKey> = found.last().map(|(key, _): &(EntryKey, Entry)| *key);
                    return Ok((found, last));
                }
                if self.matches_copy(copies, &key, &entry).await? {
                    found.push((key, entry));
                }
            }
            match last {
                Some(last) => after = Some(last),
                None => return Ok((found, None)),
            }
            // Whoever waits for this thread comes in between.
            tokio::task::yield_now().await;
        }
    }

    /// The next candidates, and the last entry that was looked at if there are more.
    fn look(
        &self,
        group: &Arc<dyn GroupHandle>,
        after: Option<EntryKey>,
    ) -> (Vec<(EntryKey, Entry)>, Option<EntryKey>) {
        let mut candidates = Vec::new();
        let mut last = None;
        if self.selector.ids.is_empty() {
            group.with_entries(&mut |table| {
                for (count, (key, entry)) in table.iter_after(after).enumerate() {
                    if count == LOOKED_AT {
                        return;
                    }
                    last = Some(key);
                    if self.matches(&key, &entry) {
                        candidates.push((key, entry));
                    }
                }
                last = None;
            });
        } else {
            let mut ids = self.selector.ids.clone();
            ids.sort_unstable();
            ids.dedup();
            ids.retain(|id| after.is_none_or(|after| *id > after));
            group.with_entries(&mut |table| {
                let entries = ids.iter().filter_map(|id| Some((*id, table.get(id)?)));
                candidates = entries.filter(|(key, entry)| self.matches(key, entry)).collect();
            });
        }
        (candidates, last)
    }
}

/// A topic of the group by its name.
pub(super) fn topic_named(group: &Arc<dyn GroupHandle>, name: &str) -> Result<TopicUuid, LetterError> {
    let mut found = None;
    group.with_state(&mut |state| {
        found = state.topics.values().find(|topic| topic.name == name).map(|topic| topic.topic);
    });
    found.ok_or_else(|| LetterError::Topic(TopicError::NotFound { name: name.to_owned() }))
}
