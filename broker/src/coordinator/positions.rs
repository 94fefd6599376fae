//! Positions: where a group begins (rule OF-1), and resets of where it stands (rules OF-3 to OF-5).

use std::collections::BTreeMap;
use std::sync::Arc;

use sawlog_proto::{batch, envelope};

use super::delivery::STORED;
use super::group::Group;
use super::views::{Caller, PartitionReset, ResetReport, ResetRequest};
use super::{Coordinator, GroupError};
use crate::group::effect::Refusal;
use crate::group::entry::EntryState;
use crate::group::event::{Admin, Event};
use crate::group::record::Start;
use crate::group::{GroupTopic, Positions, SourceName, StartAt};
use crate::model::{Offset, OffsetRange, PartitionEpoch, PartitionId, Source};
use crate::partition::{PartitionLog, PartitionReadError};

/// A partition to find a position in.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) source: Source,
}

/// All partitions of topics.
pub(super) fn places(topics: &[GroupTopic]) -> Vec<Place> {
    let of = |topic: &GroupTopic| {
        let (name, id) = (topic.name.clone(), topic.topic);
        (0..topic.partitions).map(move |number| Place {
            topic: name.clone(),
            source: Source { topic: id, partition: PartitionId(number) },
        })
    };
    topics.iter().flat_map(of).collect()
}

/// Where to, made concrete.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) start: Start,
    /// What was asked for lies below the log start: these offsets will not come (rule OF-5).
    pub(super) gap: Option<OffsetRange>,
}

/// Where an offset is known to have been, by the epoch of the record before it (rule OF-7).
type Epochs<'a> = &'a [(SourceName, PartitionEpoch)];

impl Coordinator {
    /// Finds positions. Partitions that `at` does not name: at the log start if `all`, else left out.
    pub(super) async fn resolve(
        &self,
        at: &StartAt,
        places: &[Place],
        epochs: Epochs<'_>,
        all: bool,
    ) -> Result<Vec<Target>, GroupError> {
        let other = match at {
            StartAt::FromGroup(name) => Some(self.floors_of(name)?),
            _ => None,
        };
        if let StartAt::Offsets(offsets) = at {
            let known = |name: &SourceName| {
                places.iter().any(|place| place.topic == name.topic && place.source.partition.0 == name.partition)
            };
            if let Some((unknown, _)) = offsets.iter().find(|(name, _)| !known(name)) {
                return Err(GroupError::Invalid {
                    field: "offsets",
                    found: format!("{} partition {}", unknown.topic, unknown.partition),
                    bounds: "partitions of the group's topics".into(),
                });
            }
        }
        let mut targets = Vec::new();
        for place in places {
            let Some(log) = self.shared.logs.log(place.source) else { continue };
            if let Some(target) = resolve_one(at, place, &*log, other.as_ref(), epochs, all).await? {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    /// The floors of a group.
    fn floors_of(&self, name: &str) -> Result<BTreeMap<Source, Offset>, GroupError> {
        let group = self.find(name)?;
        Ok(group.look(|machine| {
            let partitions = machine.state().partitions.iter();
            partitions.map(|(source, state)| (*source, state.settled.floor())).collect()
        }))
    }

    /// Sets positions (rule OF-3).
    ///
    /// # Errors
    /// [`GroupError::OutOfRange`], or the group is not to be had.
    pub async fn reset(self: &Arc<Self>, request: ResetRequest) -> Result<ResetReport, GroupError> {
        let group = self.find(request.name.as_str())?;
        let config = group.config();
        if config.positions == Positions::Cursor {
            // Also of a dry run: what it would say is not to be had (rule RM-3).
            let group = group.name().clone();
            return Err(GroupError::WrongMode { group: group.to_string(), mode: config.mode, verb: "ResetPositions" });
        }
        let _changing = self.changing.lock().await;
        let topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let mut places = places(&topics);
        for (topic, _) in &request.partitions {
            if !topics.iter().any(|known| known.name == topic.as_str()) {
                return Err(crate::topics::TopicError::NotFound { name: topic.to_string() }.into());
            }
        }
        let chosen = |place: &Place| {
            request.partitions.is_empty()
                || request.partitions.iter().any(|(topic, numbers)| {
                    topic.as_str() == place.topic && (numbers.is_empty() || numbers.contains(&place.source.partition))
                })
        };
        places.retain(chosen);
        let targets = self.resolve(&request.target, &places, &request.epochs, false).await?;
        let floors: Vec<Start> = targets.iter().map(|target| target.start).collect();
        let partitions = self.preview(&group, &places, &floors).await;
        if request.dry_run {
            return Ok(ResetReport { partitions, number: 0 });
        }
        let act = request.caller.act(self.shared.clock.wall_ms());
        let number = u64::try_from(act.time_ms).unwrap_or(0);
        self.admin(&group, Admin::Reset { floors, clear: request.clear, act }).await?;
        for target in targets {
            if let Some(range) = target.gap {
                let source = target.start.source;
                let reason = group.reason_of_start(source, range.to);
                group.drive_event(Event::Missed { source, range, reason });
            }
        }
        Ok(ResetReport { partitions, number })
    }

    /// Takes the last reset back; only the one of this number, if given.
    ///
    /// # Errors
    /// Nothing to undo, another number, or the group is not to be had.
    pub async fn undo_reset(
        self: &Arc<Self>,
        name: &str,
        number: Option<u64>,
        caller: &Caller,
    ) -> Result<ResetReport, GroupError> {
        let group = self.find(name)?;
        let _changing = self.changing.lock().await;
        let last = group.look(|machine| machine.state().resets.back().cloned());
        let Some(last) = last else { return Err(Refusal::NothingToUndo.into()) };
        let found = u64::try_from(last.act.time_ms).unwrap_or(0);
        if number.is_some_and(|number| number != found) {
            return Err(GroupError::Invalid {
                field: "reset_id",
                found: number.unwrap_or(0).to_string(),
                bounds: format!("the number of the last reset, {found}"),
            });
        }
        let topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let partitions = self.preview(&group, &places(&topics), &last.before).await;
        self.admin(&group, Admin::UndoReset { act: caller.act(self.shared.clock.wall_ms()) }).await?;
        Ok(ResetReport { partitions, number: found })
    }

    /// What setting these floors does to each partition.
    async fn preview(&self, group: &Group, places: &[Place], floors: &[Start]) -> Vec<PartitionReset> {
        let mut out = Vec::with_capacity(floors.len());
        for start in floors {
            let Some(place) = places.iter().find(|place| place.source == start.source) else { continue };
            let looked = group.look(|machine| {
                let settled = &machine.state().partitions.get(&start.source)?.settled;
                let (old, new) = (settled.floor(), start.offset);
                let records = if new < old {
                    let again = old.distance_from(new) + settled.settled_above_floor();
                    i64::try_from(again).unwrap_or(i64::MAX)
                } else {
                    let passed = settled.count_unsettled_in(OffsetRange { from: old, to: new });
                    let again =
                        settled.runs().filter(|run| run.to > new).map(|run| run.to.distance_from(run.from.max(new)));
                    i64::try_from(again.sum::<u64>()).unwrap_or(i64::MAX) - i64::try_from(passed).unwrap_or(i64::MAX)
                };
                let open = |state: EntryState| !state.is_closed();
                let entries = machine
                    .entries()
                    .iter()
                    .filter(|(key, entry)| key.source == start.source && key.offset >= new && open(entry.state));
                Some((old, records, entries.count() as u64))
            });
            let Some((old, records, entries)) = looked else { continue };
            let (low, high) = (old.min(start.offset), old.max(start.offset));
            let log = self.shared.logs.log(start.source);
            let (mut from_time_ms, mut to_time_ms) = (0, 0);
            if let Some(log) = log.filter(|_| low < high) {
                from_time_ms = append_time(&*log, low).await;
                to_time_ms = append_time(&*log, high.saturating_sub(1)).await;
            }
            out.push(PartitionReset {
                topic: place.topic.clone(),
                partition: start.source.partition,
                old,
                new: start.offset,
                records,
                from_time_ms,
                to_time_ms,
                entries,
            });
        }
        out
    }
}

/// When a record was appended, or the next one that is there; 0: unknown. Looks at one frame.
pub(super) async fn append_time(log: &dyn PartitionLog, offset: Offset) -> i64 {
    let offset = offset.max(log.log_start());
    if offset >= log.high_watermark() {
        return 0;
    }
    let run = log.read(offset, 1).await.ok();
    run.and_then(|run| run.frames.first().map(|frame| frame.append_time_ms)).unwrap_or(0)
}

/// When the event of a record happened, by its header `occurred_at`, else by the record's own time; of the next record
/// that is there if it is not; 0: unknown. Looks at one frame, and of it at headers alone.
pub(super) async fn event_time(log: &dyn PartitionLog, offset: Offset) -> i64 {
    let offset = offset.max(log.log_start());
    if offset >= log.high_watermark() {
        return 0;
    }
    let Some(frame) = log.read(offset, 1).await.ok().and_then(|run| run.frames.into_iter().next()) else { return 0 };
    let records = batch::records(&frame.batch, &STORED).into_iter().flatten();
    let before = usize::try_from(offset.distance_from(frame.base_offset)).unwrap_or(usize::MAX);
    let Some(record) = records.filter_map(Result::ok).nth(before) else { return 0 };
    let named = record.headers.iter().find(|header| header.key == envelope::OCCURRED_AT.as_bytes());
    let occurred = named.and_then(|header| envelope::parse_time(std::str::from_utf8(header.value.as_deref()?).ok()?));
    occurred.unwrap_or(record.timestamp_ms)
}

async fn resolve_one(
    at: &StartAt,
    place: &Place,
    log: &dyn PartitionLog,
    other: Option<&BTreeMap<Source, Offset>>,
    epochs: Epochs<'_>,
    all: bool,
) -> Result<Option<Target>, GroupError> {
    // The epoch first: if the end is cut after this, the cut is seen.
    let epoch = log.epoch();
    let (earliest, latest) = (log.log_start(), log.high_watermark());
    let named = |name: &SourceName| name.topic == place.topic && name.partition == place.source.partition.0;
    let asked = match at {
        StartAt::Earliest => Some(earliest),
        StartAt::Latest => Some(latest),
        StartAt::Timestamp(time_ms) => {
            let found = log.offset_at_time(*time_ms).await;
            Some(found.map_err(|error| GroupError::Read { what: error.to_string() })?)
        }
        StartAt::Offsets(offsets) => offsets.iter().find(|(name, _)| named(name)).map(|(_, offset)| *offset),
        StartAt::FromGroup(_) => other.and_then(|floors| floors.get(&place.source).copied()),
    };
    let Some(asked) = asked.or(all.then_some(earliest)) else { return Ok(None) };
    let out_of_range = |latest| GroupError::OutOfRange {
        topic: place.topic.clone(),
        partition: place.source.partition,
        offset: asked,
        earliest,
        latest,
    };
    if asked > latest {
        return Err(out_of_range(latest));
    }
    if let Some((_, known)) = epochs.iter().find(|(name, _)| named(name)) {
        match log.check_position(*known, asked).await {
            Ok(()) => {}
            Err(PartitionReadError::Stale { truncated_at, .. }) => return Err(out_of_range(truncated_at)),
            Err(error) => return Err(GroupError::Read { what: error.to_string() }),
        }
    }
    let offset = asked.max(earliest);
    let gap = (asked < earliest).then_some(OffsetRange { from: asked, to: earliest });
    Ok(Some(Target { start: Start { source: place.source, offset, epoch }, gap }))
}
