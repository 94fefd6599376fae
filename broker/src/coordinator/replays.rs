//! Replays: bounds made concrete, the groups made for them, pauses, rates, progress (rules RP-1 to RP-5).
//!
//! Owns: how a request becomes ranges, the pace of each replay, what is known of those whose groups are gone. What is
//! delivered and when a replay is done, the machine decides.
//!
//! Invariants: a replay has its pace before the machine knows of it; a group made for a replay is deleted if its replay
//! was never begun; every call is finished even if its caller goes away (rule D8).

use std::sync::Arc;

use super::delivery::pace::Pace;
use super::group::Group;
use super::positions::{Place, append_time, places};
use super::replay_views::{EndedReplay, ReplayId, ReplayState, ReplayTarget, ReplayView, StartReplay};
use super::views::Caller;
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::GroupHandle;
use crate::group::event::Admin;
use crate::group::replay::{Replay, ReplayInto, ReplayPlan, ReplayRange, ReplayRate};
use crate::group::{GroupTopic, StartAt};
use crate::limits;
use crate::model::{GroupName, Offset, Source};
use crate::topics::TopicError;

/// Ended replays of groups that are gone, which are remembered.
pub(super) const ENDED_KEPT: usize = 100;
/// A group that goes with its replay waits so long for its members to leave, in milliseconds of the wall clock.
const LINGER_MS: i64 = 60_000;

impl Coordinator {
    /// Starts a replay, durably (rule RP-1).
    ///
    /// # Errors
    /// A group or topic that is not there, a name that is taken, bounds beyond the log, a range that is gone, another
    /// replay of the group, a limit; the groups are stopped.
    pub async fn start_replay(self: &Arc<Self>, request: StartReplay) -> Result<ReplayView, GroupError> {
        let own = Arc::clone(self);
        self.to_the_end(async move { own.start_replay_now(request).await }).await
    }

    async fn start_replay_now(self: Arc<Self>, request: StartReplay) -> Result<ReplayView, GroupError> {
        let changing = self.changing.lock().await;
        self.shared.check()?;
        self.check_jobs()?;
        let act = request.caller.act(self.shared.clock.wall_ms());
        let (group, ranges, into) = match &request.target {
            ReplayTarget::Existing(name) => {
                let group = self.find(name.as_str())?;
                if let Some(open) = group.look(|machine| machine.state().open_replay().map(|open| open.number)) {
                    let replay = ReplayId { group: group.id(), number: open };
                    return Err(GroupError::ReplayConflict { replay });
                }
                let places = chosen_places(&group, &request)?;
                let mut ranges = self.bounds(&request, &places).await?;
                self.clip(&group, &mut ranges);
                (group, ranges, ReplayInto::Existing)
            }
            ReplayTarget::New(new) | ReplayTarget::Ephemeral(new) => {
                let mut new = (**new).clone();
                if new.name.is_none() {
                    new.name = Some(self.free_name());
                }
                let (new, topics) = self.replay_group(new)?;
                let ranges = self.bounds(&request, &places(&topics)).await?;
                let ephemeral = matches!(request.target, ReplayTarget::Ephemeral(_));
                let into = if ephemeral { ReplayInto::Ephemeral } else { ReplayInto::New };
                (self.create_locked(new).await?, ranges, into)
            }
        };
        let plan = ReplayPlan { into, filter: request.filter.clone(), rate: request.rate, act };
        let number = group.look(|machine| machine.state().next_replay());
        let mut replay = Replay { number, plan, ranges, end: None };
        replay.ranges.sort_unstable_by_key(|range| range.source);
        let left = replay.ranges.iter().map(ReplayRange::len).collect();
        let pace = self.pace(&replay, left, |range| range.from).await;
        group.set_pace(Some(pace));
        let started = self.admin(&group, Admin::StartReplay(Box::new(replay))).await;
        drop(changing);
        if let Err(error) = started {
            group.set_pace(None);
            if into != ReplayInto::Existing {
                let _ =
                    Arc::clone(&self).delete_now(group.name().as_str(), true, Some(group.id()), &request.caller).await;
            }
            return Err(error);
        }
        let id = ReplayId { group: group.id(), number };
        tracing::info!(group = %group.name(), replay = %id, actor = request.caller.actor, "replay started");
        self.replay(id)
    }

    /// One more job may run.
    fn check_jobs(&self) -> Result<(), GroupError> {
        let open = |group: &Arc<Group>| group.look(|machine| machine.state().open_replay().is_some());
        let groups = self.all_groups();
        let mut jobs = groups.iter().filter(|group| open(group)).count();
        if let Some(letters) = self.shared.dead_letters.get() {
            let redrives = |group: Arc<Group>| letters.running_jobs(&(group as Arc<dyn GroupHandle>)) as usize;
            jobs += groups.into_iter().map(redrives).sum::<usize>();
        }
        if jobs >= limits::JOBS {
            return Err(GroupError::Limit { limit: "jobs", max: limits::JOBS as u64 });
        }
        Ok(())
    }

    /// A name that no group has.
    fn free_name(&self) -> GroupName {
        let map = self.map.read();
        let names = (map.next_group..).map(|number| format!("replay-{number:x}"));
        let mut names = names.filter_map(|name| GroupName::parse(&name).ok());
        names.find(|name| !map.by_name.contains_key(name)).expect("there are fewer groups than numbers")
    }

    /// The ranges that a request means, as the logs are now (rules OF-1, OF-5).
    async fn bounds(&self, request: &StartReplay, places: &[Place]) -> Result<Vec<ReplayRange>, GroupError> {
        let from = self.resolve(&request.from, places, &request.from_epochs, true).await?;
        let to = self.resolve(&request.to, places, &request.to_epochs, false).await?;
        let mut ranges = Vec::with_capacity(from.len());
        let mut gone = None;
        for start in from {
            let source = start.start.source;
            let Some(log) = self.shared.logs.log(source) else { continue };
            let end = to.iter().find(|end| end.start.source == source);
            let (end, end_asked) = match end {
                Some(end) => (end.start.offset, end.gap.map_or(end.start.offset, |gap| gap.from)),
                None => (log.high_watermark(), log.high_watermark()),
            };
            let asked = start.gap.map_or(start.start.offset, |gap| gap.from);
            let backwards = end_asked < asked && matches!(request.from, StartAt::Offsets(_));
            if backwards && matches!(request.to, StartAt::Offsets(_)) {
                let bounds = format!("at least {asked}, where partition {} begins", source.partition.0);
                return Err(GroupError::Invalid { field: "to", found: end_asked.to_string(), bounds });
            }
            let (from, epoch) = (start.start.offset, start.start.epoch);
            let range = ReplayRange { source, from, to: end.max(from), epoch, asked, left: 0 };
            if range.is_empty() && asked < end_asked {
                gone = gone.or(Some((source, asked, log.log_start(), log.high_watermark())));
            }
            ranges.push(range);
        }
        if ranges.iter().all(ReplayRange::is_empty)
            && let Some((source, offset, earliest, latest)) = gone
        {
            let place = places.iter().find(|place| place.source == source);
            let topic = place.map(|place| place.topic.clone()).unwrap_or_default();
            return Err(GroupError::OutOfRange { topic, partition: source.partition, offset, earliest, latest });
        }
        Ok(ranges)
    }

    /// In a group that was there, what lies at or above the floor was not handled: it comes anyway.
    fn clip(&self, group: &Group, ranges: &mut [ReplayRange]) {
        group.look(|machine| {
            let state = machine.state();
            for range in ranges.iter_mut().filter(|_| !state.config.replay_only) {
                let Some(partition) = state.partitions.get(&range.source) else { continue };
                range.to = range.to.min(partition.settled.floor());
                range.from = range.from.min(range.to);
            }
        });
    }

    /// A pace from now on; `next` is the first offset of each range that is not done.
    async fn pace(&self, replay: &Replay, left: Vec<u64>, next: impl Fn(&ReplayRange) -> Offset) -> Pace {
        let mut first_ms = i64::MAX;
        if matches!(replay.plan.rate, ReplayRate::SpeedPermille(_)) {
            for (range, _) in replay.ranges.iter().zip(&left).filter(|(_, left)| **left > 0) {
                if let Some(log) = self.shared.logs.log(range.source) {
                    first_ms = first_ms.min(append_time(&*log, next(range)).await);
                }
            }
        }
        Pace::new(replay, left, first_ms, self.shared.clock.monotonic().0)
    }

    /// Gives the open replay of a group a pace from now on: at the start of the broker, after a pause or a change.
    pub(super) async fn pace_anew(&self, group: &Group) {
        let Some((replay, left, floors)) = group.look(|machine| {
            let state = machine.state();
            let open = state.open_replay()?.clone();
            let left = open.ranges.iter().map(|range| state.left_of(range)).collect();
            let floor = |source: &Source| state.partitions.get(source).map(|partition| partition.settled.floor());
            let floors: Vec<_> =
                open.ranges.iter().filter_map(|range| Some((range.source, floor(&range.source)?))).collect();
            Some((open, left, floors))
        }) else {
            return;
        };
        let next = |range: &ReplayRange| {
            let floor = floors.iter().find(|(source, _)| *source == range.source).map(|(_, floor)| *floor);
            floor.map_or(range.from, |floor| floor.max(range.from))
        };
        let pace = self.pace(&replay, left, next).await;
        group.set_pace(Some(pace));
    }

    /// One replay.
    ///
    /// # Errors
    /// [`GroupError::JobNotFound`], or the groups are not to be had.
    pub fn replay(&self, id: ReplayId) -> Result<ReplayView, GroupError> {
        self.shared.check()?;
        let group = self.map.read().by_id.get(&id.group).cloned();
        let found = match group {
            Some(group) => views_of(&group, self.shared.clock.monotonic().0).into_iter().find(|view| view.id == id),
            None => self.ended.lock().iter().filter(|ended| ended.id() == id).map(ReplayView::ended).next(),
        };
        found.ok_or_else(|| GroupError::JobNotFound { job: id.to_string() })
    }

    /// Up to `limit` replays, the newest first, after `after`; of one group if given, only those that have not ended if
    /// `running`.
    ///
    /// # Errors
    /// The groups are not to be had.
    pub fn replays(
        &self,
        group: Option<&str>,
        running: bool,
        after: Option<ReplayId>,
        limit: usize,
    ) -> Result<Vec<ReplayView>, GroupError> {
        self.shared.check()?;
        let now = self.shared.clock.monotonic().0;
        let mut views: Vec<ReplayView> = match group {
            Some(name) => views_of(&*self.find(name)?, now),
            None => {
                let live = self.all_groups();
                let live = live.iter().flat_map(|group| views_of(group, now));
                live.chain(self.ended.lock().iter().map(ReplayView::ended)).collect()
            }
        };
        views.retain(|view| !(running && view.state.is_ended()));
        views.sort_by_key(|view| std::cmp::Reverse((view.created_ms, view.id)));
        if let Some(after) = after {
            let from = views.iter().position(|view| view.id == after).map_or(views.len(), |at| at + 1);
            views.drain(..from);
        }
        views.truncate(limit);
        Ok(views)
    }

    /// The group of a replay that has not ended.
    fn open_group(&self, id: ReplayId) -> Result<Arc<Group>, GroupError> {
        let view = self.replay(id)?;
        if view.state.is_ended() {
            return Err(GroupError::JobClosed { job: id, state: view.state.as_str() });
        }
        let group = self.map.read().by_id.get(&id.group).cloned();
        group.ok_or_else(|| GroupError::JobNotFound { job: id.to_string() })
    }

    /// Changes the rate (rule RP-3).
    ///
    /// # Errors
    /// [`GroupError::JobNotFound`], [`GroupError::JobClosed`].
    pub async fn pace_replay(&self, id: ReplayId, rate: ReplayRate) -> Result<ReplayView, GroupError> {
        let group = self.open_group(id)?;
        self.admin(&group, Admin::PaceReplay { number: id.number, rate }).await?;
        self.pace_anew(&group).await;
        self.replay(id)
    }

    /// Stops a replay for a while, or goes on with it (rule RP-3).
    ///
    /// # Errors
    /// As [`Coordinator::pace_replay`].
    pub async fn pause_replay(&self, id: ReplayId, paused: bool, caller: &Caller) -> Result<ReplayView, GroupError> {
        let group = self.open_group(id)?;
        if !paused {
            self.pace_anew(&group).await;
        }
        let act = caller.act(self.shared.clock.wall_ms());
        self.admin(&group, Admin::PauseReplay { number: id.number, paused, act }).await?;
        self.replay(id)
    }

    /// Ends a replay (rule RP-3).
    ///
    /// # Errors
    /// As [`Coordinator::pace_replay`].
    pub async fn cancel_replay(&self, id: ReplayId) -> Result<ReplayView, GroupError> {
        let group = self.open_group(id)?;
        self.admin(&group, Admin::CancelReplay { number: id.number }).await?;
        // A group that goes with its replay may be gone by now.
        self.replay(id)
    }

    /// Deletes groups whose replay has ended and that were made for it alone.
    pub(super) async fn delete_replayed(self: &Arc<Self>) {
        let now_ms = self.shared.clock.wall_ms();
        for group in self.all_groups() {
            let over = group.look(|machine| {
                let state = machine.state();
                let last = state.replays.back().filter(|last| last.plan.into == ReplayInto::Ephemeral)?;
                let (_, ended_ms) = last.end?;
                Some(state.members.is_empty() || now_ms.saturating_sub(ended_ms) >= LINGER_MS)
            });
            if over != Some(true) {
                continue;
            }
            let caller = Caller { actor: "broker".into(), note: "its replay has ended".into() };
            if let Err(error) = self.delete(group.name().as_str(), true, Some(group.id()), &caller).await {
                tracing::debug!(group = %group.name(), %error, "a group made for a replay stays for now");
            }
        }
    }

    /// Deletes groups that were made for a replay which never began: the broker died in between.
    pub(super) async fn delete_unbegun(self: &Arc<Self>) {
        let unbegun = |group: &Arc<Group>| {
            group.look(|machine| machine.state().config.replay_only && machine.state().replays.is_empty())
        };
        let groups: Vec<Arc<Group>> = {
            // While no replay is being started.
            let _changing = self.changing.lock().await;
            self.all_groups().into_iter().filter(unbegun).collect()
        };
        for group in groups {
            let caller = Caller { actor: "broker".into(), note: "its replay never began".into() };
            let deleted = self.delete(group.name().as_str(), true, Some(group.id()), &caller).await;
            tracing::info!(group = %group.name(), ok = deleted.is_ok(), "a group whose replay never began is deleted");
        }
    }

    /// Remembers the replays of a group that goes.
    pub(super) fn remember_replays(&self, group: &Group) {
        let gone = group.look(|machine| EndedReplay::all_of(machine.state()));
        let mut ended = self.ended.lock();
        ended.extend(gone);
        let most = ended.len().saturating_sub(ENDED_KEPT);
        ended.drain(..most);
    }
}

/// Partitions of those topics of a group that a request names.
fn chosen_places(group: &Group, request: &StartReplay) -> Result<Vec<Place>, GroupError> {
    let mut topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
    for name in &request.topics {
        if !topics.iter().any(|topic| topic.name == name.as_str()) {
            return Err(TopicError::NotFound { name: name.to_string() }.into());
        }
    }
    topics.retain(|topic| request.topics.is_empty() || request.topics.iter().any(|name| name.as_str() == topic.name));
    Ok(places(&topics))
}

/// All replays of a group.
fn views_of(group: &Group, now: std::time::Duration) -> Vec<ReplayView> {
    let pace = group.pace();
    group.look(|machine| {
        let state = machine.state();
        let view = |replay: &Replay| {
            let began = pace.as_ref().filter(|pace| pace.number() == replay.number).map(|pace| pace.began());
            ReplayView::of(state, replay, began, now)
        };
        state.replays.iter().map(view).collect()
    })
}

impl ReplayState {
    /// Whether nothing more comes of it.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Done => "DONE",
            Self::Cancelled => "CANCELLED",
        }
    }
}
