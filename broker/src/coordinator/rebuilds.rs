//! Rebuilds, as operators ask for them: the shadow of a group, its start, what is told of it (rules RP-6, RP-7).
//!
//! Owns: how a shadow is made and deleted, when it is ready. `swaps` carries a swap out.
//!
//! Invariants: a shadow is there before its group knows of the rebuild, and goes only after its group knows that it has
//! ended: one without the other is what a stop in between left, and goes at the next look; every call is finished even if
//! its caller goes away (rule D8).

use std::sync::Arc;

use super::delivery::pace::Pace;
use super::group::Group;
use super::positions::append_time;
use super::rebuild_views::{RebuildId, RebuildPartitionView, RebuildState, RebuildView, StartRebuild};
use super::replay_views::Progress;
use super::views::Caller;
use super::{Coordinator, GroupError};
use crate::group::entry::EntryTable;
use crate::group::event::Admin;
use crate::group::machine::Machine;
use crate::group::rebuild::{Rebuild, RebuildCall, RebuildEnd, RebuildStage, VERSIONS_MAX};
use crate::group::record::{GroupNotes, GroupRecord, Start};
use crate::group::replay::{Replay, ReplayInto, ReplayPlan, ReplayRange, ReplayRate};
use crate::group::state::GroupState;
use crate::group::{GroupTopic, Positions};
use crate::limits;
use crate::model::{Filter, GroupId, GroupName, Offset, OffsetRange, Source, VersionName};

impl Coordinator {
    /// Begins to rebuild a group's read model, durably (rule RP-6).
    ///
    /// # Errors
    /// [`GroupError::WrongMode`] of a group that keeps no cursors, [`GroupError::RebuildConflict`] if one is under way,
    /// [`GroupError::Invalid`] of a version that the group has had, [`GroupError::GapNotAccepted`], a limit.
    pub async fn start_rebuild(self: &Arc<Self>, request: StartRebuild) -> Result<RebuildView, GroupError> {
        let own = Arc::clone(self);
        self.to_the_end(async move { own.start_rebuild_now(request).await }).await
    }

    async fn start_rebuild_now(self: Arc<Self>, request: StartRebuild) -> Result<RebuildView, GroupError> {
        let _changing = self.changing.lock().await;
        let group = self.find(&request.group)?;
        check_start(&group, &request.version)?;
        let starts = self.rebuild_starts(&group, request.accept_gap)?;
        let shadow = self.create_shadow(&group, &request.version, starts).await?;
        let act = request.caller.act(self.shared.clock.wall_ms());
        let (number, replaces) = group.look(|machine| {
            let state = machine.state();
            (state.rebuilds.next_number(), state.config.version.clone())
        });
        let rebuild = Rebuild {
            number,
            version: request.version,
            replaces,
            shadow: shadow.id(),
            rate: request.rate,
            stage: RebuildStage::Filling,
            swaps: 0,
            problem: String::new(),
            act,
            end: None,
        };
        let call = Admin::Rebuild(Box::new(RebuildCall::Start(rebuild.clone())));
        if let Err(error) = self.admin(&group, call).await {
            self.delete_shadow(&shadow).await;
            return Err(error);
        }
        self.pace_shadow(&shadow, &rebuild).await;
        self.begin_shadow(&group, &shadow);
        self.map.write().insert(&shadow);
        shadow.start();
        self.shared.rebuilds.notify_one();
        tracing::info!(group = %group.name(), version = %rebuild.version, actor = request.caller.actor, "rebuild started");
        self.rebuild(group.name().as_str())
    }

    /// Changes the rate at which a shadow reads, durably (rules RP-3, RP-6).
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::JobNotFound`] without an open rebuild.
    pub async fn pace_rebuild(&self, name: &str, rate: ReplayRate, caller: &Caller) -> Result<RebuildView, GroupError> {
        let group = self.find(name)?;
        // It neither ends nor is replaced meanwhile.
        let _swapping = self.swapping.lock().await;
        let (rebuild, shadow) = self.open_pair(&group)?;
        self.rebuild_call(&group, RebuildCall::Pace { number: rebuild.number, rate }).await?;
        self.pace_shadow(&shadow, &Rebuild { rate, ..rebuild }).await;
        tracing::info!(group = name, ?rate, actor = caller.actor, "a rebuild has another rate");
        self.rebuild(name)
    }

    /// Where the shadow begins: where its group did, or where the log does by now (rules OF-1, RP-6).
    fn rebuild_starts(&self, group: &Group, accept_gap: bool) -> Result<Vec<Start>, GroupError> {
        let places: Vec<(Source, Offset, String)> = group.look(|machine| {
            let state = machine.state();
            let name = |source: &Source| state.topics.get(&source.topic).map(|topic| topic.name.clone());
            let places = state.partitions.iter();
            places.map(|(source, one)| (*source, one.start, name(source).unwrap_or_default())).collect()
        });
        let mut starts = Vec::with_capacity(places.len());
        for (source, start, topic) in places {
            let Some(log) = self.shared.logs.log(source) else { continue };
            let (epoch, log_start) = (log.epoch(), log.log_start());
            if start < log_start && !accept_gap {
                let range = OffsetRange { from: start, to: log_start };
                let reason = group.reason_of_start(source, log_start);
                return Err(GroupError::GapNotAccepted { topic, partition: source.partition, range, reason });
            }
            starts.push(Start { source, offset: start.max(log_start), epoch });
        }
        Ok(starts)
    }

    /// Makes a shadow, durably; nobody finds it yet.
    async fn create_shadow(
        &self,
        group: &Arc<Group>,
        version: &VersionName,
        starts: Vec<Start>,
    ) -> Result<Arc<Group>, GroupError> {
        let id = {
            let mut map = self.map.write();
            if map.by_id.len() >= limits::GROUPS {
                return Err(GroupError::Limit { limit: "groups", max: limits::GROUPS as u64 });
            }
            let id = GroupId(map.next_group);
            map.next_group += 1;
            id
        };
        let mut config = (*group.config()).clone();
        (config.version, config.shadow_of, config.idle_ttl_ms) = (Some(version.clone()), Some(group.id()), 0);
        let topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let created = GroupRecord::Created {
            name: group.name().shadow(version),
            config: Box::new(config),
            notes: GroupNotes::default(),
            created_ms: self.shared.clock.wall_ms(),
            topics,
            starts,
        };
        let state = GroupState::create(id, &created).expect("the record creates a group");
        let shadow = Group::new(&self.shared, Machine::new(state, EntryTable::default(), self.shared.now()));
        let written = self.shared.journals.append(id, &[created], &[]);
        self.shared.settle(written).await?;
        Ok(shadow)
    }

    /// A shadow and its group know of each other: when it begins, and at the start of the broker.
    pub(super) fn begin_shadow(&self, group: &Arc<Group>, shadow: &Arc<Group>) {
        shadow.set_parent(group);
        group.watch(true);
        shadow.watch(true);
    }

    /// Shadows that the journals have: with their groups, or to be deleted by the first look of `swaps`.
    pub(super) async fn begin_shadows(&self) {
        for group in self.all_groups() {
            let Some(rebuild) = open_rebuild(&group) else { continue };
            let shadow = self.map.read().by_id.get(&rebuild.shadow).cloned();
            if let Some(shadow) = shadow {
                self.begin_shadow(&group, &shadow);
                self.pace_shadow(&shadow, &rebuild).await;
            }
        }
    }

    /// The shadow reads at the rate of its rebuild, behind live traffic (rules RP-4, FC-8).
    async fn pace_shadow(&self, shadow: &Group, rebuild: &Rebuild) {
        let ranges: Vec<ReplayRange> = shadow.look(|machine| {
            let partitions = machine.state().partitions.iter();
            let range = |(source, one): (&Source, &crate::group::state::PartitionState)| ReplayRange {
                source: *source,
                from: Offset::ZERO,
                to: Offset::MAX,
                epoch: one.epoch,
                asked: one.settled.floor(),
                left: 0,
            };
            partitions.map(range).collect()
        });
        let end = |source: Source| self.shared.logs.log(source).map_or(Offset::ZERO, |log| log.high_watermark());
        let left = ranges.iter().map(|range| end(range.source).distance_from(range.asked)).collect();
        let (filter, act) = (Filter::default(), rebuild.act.clone());
        let plan = ReplayPlan { into: ReplayInto::New, filter, rate: rebuild.rate, act };
        let replay = Replay { number: 0, plan, ranges, end: None };
        let mut first_ms = i64::MAX;
        for range in replay.ranges.iter().filter(|_| matches!(rebuild.rate, ReplayRate::SpeedPermille(_))) {
            if let Some(log) = self.shared.logs.log(range.source).filter(|log| range.asked < log.high_watermark()) {
                first_ms = first_ms.min(append_time(&*log, range.asked).await);
            }
        }
        shadow.set_pace(Some(Pace::new(&replay, left, first_ms, self.shared.clock.monotonic().0)));
    }

    /// Deletes a shadow: its members come to its group, or are told that their version is none.
    pub(super) async fn delete_shadow(&self, shadow: &Arc<Group>) {
        let topics: Vec<GroupTopic> = shadow.look(|machine| machine.state().topics.values().cloned().collect());
        shadow.set_pace(None);
        let written = shadow.delete();
        self.map.write().remove(shadow);
        if self.shared.settle(written).await.is_err() {
            // The journal has stopped; the next start finds it.
            return;
        }
        if let Some(letters) = self.shared.dead_letters.get() {
            letters.forget(shadow.id(), topics).await;
        }
        self.shared.metrics.forget_group(shadow.name().as_str());
    }

    /// The open rebuild of a group, or the last one.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::JobNotFound`] if it has had none.
    pub fn rebuild(&self, name: &str) -> Result<RebuildView, GroupError> {
        let views = self.rebuilds(name)?;
        views.into_iter().next().ok_or_else(|| GroupError::JobNotFound { job: format!("rebuild of {name}") })
    }

    /// The last rebuilds of a group, the newest first.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], or the groups are not to be had.
    pub fn rebuilds(&self, name: &str) -> Result<Vec<RebuildView>, GroupError> {
        let group = self.find(name)?;
        let list: Vec<Rebuild> = group.look(|machine| machine.state().rebuilds.list.iter().rev().cloned().collect());
        Ok(list.into_iter().map(|rebuild| self.rebuild_view(&group, rebuild)).collect())
    }

    fn rebuild_view(&self, group: &Arc<Group>, rebuild: Rebuild) -> RebuildView {
        let id = RebuildId { group: group.id(), number: rebuild.number };
        let name = group.name().clone();
        let shadow = self.map.read().by_id.get(&rebuild.shadow).cloned().filter(|_| rebuild.end.is_none());
        let (mut partitions, mut progress, mut members, mut connected) = (Vec::new(), Progress::default(), 0, 0);
        let mut ready = false;
        if let Some(shadow) = &shadow {
            let places = self.places_of(shadow);
            ready = self.lag_of(group, shadow).is_none();
            let (mut all, mut left) = (0, 0);
            for place in &places {
                all += place.high_watermark.distance_from(place.from);
                left += place.high_watermark.distance_from(place.next);
            }
            let now = self.shared.clock.monotonic().0;
            let began = shadow.pace().map(|pace| {
                let (at, then) = pace.began();
                (now.saturating_sub(at), then.iter().sum())
            });
            progress = Progress::new(all, left, began);
            partitions = places;
            members = u32::try_from(shadow.look(|machine| machine.state().members.len())).unwrap_or(u32::MAX);
            connected = u32::try_from(shadow.streams()).unwrap_or(u32::MAX);
        }
        let state = match (rebuild.end, rebuild.stage) {
            (Some((RebuildEnd::Swapped, _)), _) => RebuildState::Swapped,
            (Some((RebuildEnd::Aborted, _)), _) => RebuildState::Aborted,
            (None, RebuildStage::Filling) if ready => RebuildState::Ready,
            (None, RebuildStage::Filling) => RebuildState::Filling,
            (None, RebuildStage::Draining | RebuildStage::Asked { .. }) => RebuildState::Swapping,
        };
        RebuildView { id, group: name, rebuild, state, partitions, progress, members, connected }
    }

    fn places_of(&self, shadow: &Group) -> Vec<RebuildPartitionView> {
        let mut places: Vec<(Source, RebuildPartitionView)> = shadow.look(|machine| {
            let state = machine.state();
            let view = |(source, one): (&Source, &crate::group::state::PartitionState)| {
                let (from, next) = (one.start, one.settled.floor());
                let topic = state.topics.get(&source.topic).map(|topic| topic.name.clone()).unwrap_or_default();
                let partition = source.partition;
                (*source, RebuildPartitionView { topic, partition, from, next, high_watermark: next })
            };
            state.partitions.iter().map(view).collect()
        });
        for (source, place) in &mut places {
            if let Some(log) = self.shared.logs.log(*source) {
                place.high_watermark = log.high_watermark().max(place.next);
            }
        }
        let mut places: Vec<_> = places.into_iter().map(|(_, place)| place).collect();
        places.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        places
    }

    /// How far a shadow is from being ready; `None`: it is. A group has no budget yet, so that it must have caught up: be
    /// at the live end, and no further behind than its group.
    pub(super) fn lag_of(&self, group: &Group, shadow: &Group) -> Option<u64> {
        let floors = floors_of(group);
        let own: Vec<(Source, Offset, bool)> = shadow.look(|machine| {
            let partitions = machine.state().partitions.iter();
            partitions.map(|(source, one)| (*source, one.settled.floor(), machine.is_at_live_end(*source))).collect()
        });
        let mut lag = 0;
        let mut behind = false;
        for (source, floor, live) in own {
            let end = self.shared.logs.log(source).map_or(floor, |log| log.high_watermark());
            let of_group = floors.iter().find(|(one, _)| *one == source).map_or(Offset::ZERO, |(_, floor)| *floor);
            lag += end.distance_from(floor);
            behind |= floor < end && !(live && floor >= of_group);
        }
        behind.then_some(lag)
    }
}

/// Whether a rebuild may begin.
fn check_start(group: &Group, version: &VersionName) -> Result<(), GroupError> {
    let config = group.config();
    let invalid = |field, found: String, bounds: &str| GroupError::Invalid { field, found, bounds: bounds.to_owned() };
    if group.is_shadow() {
        return Err(invalid("group", group.name().to_string(), "a group, not the rebuild of one"));
    }
    if config.positions != Positions::Cursor {
        let (group, mode) = (group.name().to_string(), config.mode);
        return Err(GroupError::WrongMode { group, mode, verb: "StartRebuild" });
    }
    group.look(|machine| {
        let rebuilds = &machine.state().rebuilds;
        if let Some(open) = rebuilds.open() {
            let rebuild = RebuildId { group: group.id(), number: open.number };
            return Err(GroupError::RebuildConflict { rebuild });
        }
        if rebuilds.used.contains(version) || config.version.as_ref() == Some(version) {
            return Err(invalid("version", version.to_string(), "one that the group has not had"));
        }
        if rebuilds.used.len() >= VERSIONS_MAX {
            return Err(GroupError::Limit { limit: "versions", max: VERSIONS_MAX as u64 });
        }
        Ok(())
    })
}

/// The open rebuild of a group.
pub(super) fn open_rebuild(group: &Group) -> Option<Rebuild> {
    group.look(|machine| machine.state().rebuilds.open().cloned())
}

/// The floors of a group.
pub(super) fn floors_of(group: &Group) -> Vec<(Source, Offset)> {
    group
        .look(|machine| machine.state().partitions.iter().map(|(source, one)| (*source, one.settled.floor())).collect())
}

/// The name of a version, or of none.
pub(super) fn version_text(version: Option<&VersionName>) -> String {
    version.map_or_else(|| "none".to_owned(), VersionName::to_string)
}

/// Names of a group and its shadow, for those who look groups up by name.
pub(super) fn shadow_name(group: &Group) -> Option<GroupName> {
    open_rebuild(group).map(|rebuild| group.name().shadow(&rebuild.version))
}
