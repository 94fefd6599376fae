//! Carries swaps out: one task looks at every group whose rebuild is open, and does what the next step needs (rule RP-6).
//!
//! ```text
//! Draining: group drained -> shadow as far as it, dead letters too -> shadow drained -> Asked (durable)
//! Asked:    a member of the shadow is asked, again after each start -> its database's answer
//!           done   -> entries as the shadow has them (durable) -> the group takes the shadow's place (durable) -> shadow goes
//!           undone -> on with filling, or, if it was to be undone, aborted (durable) -> shadow goes
//! ```
//!
//! Each step is found again from what is durable: a stop anywhere only begins the step anew. Invariants: nobody is asked
//! before both are drained, their dead letters are copied, and `Asked` is durable; a group takes its shadow's place only
//! on the answer *done*; what a swap has not asked for yet is given up after [`DRAIN_MS`], so that the live model does not
//! stand still for a shadow that has nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::rebuild_views::{RebuildId, RebuildView, SwapOutcome};
use super::rebuilds::{floors_of, open_rebuild};
use super::views::Caller;
use super::{Coordinator, GroupError};
use crate::group::entry::{Entry, EntryKey};
use crate::group::event::Admin;
use crate::group::machine::Machine;
use crate::group::rebuild::{Followed, Rebuild, RebuildCall, RebuildStage, SwapAsk};
use crate::model::{GroupId, Offset, Source};

/// How long group and shadow may take until a member is asked, in milliseconds; longer than a drain and a lost member.
const DRAIN_MS: u64 = 60_000;
/// Time between two looks at a rebuild, beyond those that changes ask for.
const LOOK: Duration = Duration::from_secs(1);
/// The same while a swap is under way.
const LOOK_SWAPPING: Duration = Duration::from_millis(200);

impl Coordinator {
    /// Begins to make the rebuilt version the active one (rule RP-6).
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::JobNotFound`] without an open rebuild, [`GroupError::RebuildNotReady`].
    pub async fn swap_rebuild(&self, name: &str, caller: &Caller) -> Result<RebuildView, GroupError> {
        let group = self.find(name)?;
        let (rebuild, shadow) = self.open_pair(&group)?;
        if rebuild.stage == RebuildStage::Filling {
            if let Some(lag) = self.lag_of(&group, &shadow) {
                let (group, version) = (group.name().to_string(), rebuild.version.to_string());
                return Err(GroupError::RebuildNotReady { group, version, lag });
            }
            let (number, stage, problem) = (rebuild.number, RebuildStage::Draining, String::new());
            self.rebuild_call(&group, RebuildCall::Stage { number, stage, problem }).await?;
            tracing::info!(group = name, version = %rebuild.version, actor = caller.actor, "swap begins");
            self.shared.rebuilds.notify_one();
        }
        self.rebuild(name)
    }

    /// Ends a rebuild (rule RP-6): at once, or, once a member may have swapped, as the user's database says.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], [`GroupError::JobNotFound`] without an open rebuild.
    pub async fn abort_rebuild(&self, name: &str, caller: &Caller) -> Result<RebuildView, GroupError> {
        let group = self.find(name)?;
        // A swap takes its steps under the same lock.
        let _swapping = self.swapping.lock().await;
        let (rebuild, _) = self.open_pair(&group)?;
        let number = rebuild.number;
        match rebuild.stage {
            RebuildStage::Filling | RebuildStage::Draining => {
                self.rebuild_call(&group, RebuildCall::Abort { number }).await?;
            }
            RebuildStage::Asked { .. } => {
                let (stage, problem) = (RebuildStage::Asked { undo: true }, rebuild.problem);
                self.rebuild_call(&group, RebuildCall::Stage { number, stage, problem }).await?;
            }
        }
        tracing::info!(group = name, version = %rebuild.version, actor = caller.actor, "rebuild is given up");
        self.shared.rebuilds.notify_one();
        self.rebuild(name)
    }

    pub(super) fn open_pair(&self, group: &Arc<Group>) -> Result<(Rebuild, Arc<Group>), GroupError> {
        let none = || GroupError::JobNotFound { job: format!("open rebuild of {}", group.name()) };
        let rebuild = open_rebuild(group).ok_or_else(none)?;
        let shadow = self.map.read().by_id.get(&rebuild.shadow).cloned().ok_or_else(none)?;
        Ok((rebuild, shadow))
    }

    pub(super) async fn rebuild_call(&self, group: &Group, call: RebuildCall) -> Result<(), GroupError> {
        self.admin(group, Admin::Rebuild(Box::new(call))).await
    }

    /// Looks at all rebuilds whenever something changes, until the broker stops.
    pub(super) async fn run_rebuilds(self: Arc<Self>) {
        let mut since: HashMap<GroupId, (u64, u64)> = HashMap::new();
        loop {
            let busy = if self.shared.check().is_ok() { self.look_at_rebuilds(&mut since).await } else { Some(LOOK) };
            tokio::select! {
                () = self.shared.cancel.cancelled() => return,
                () = self.shared.rebuilds.notified() => {}
                () = tokio::time::sleep(busy.unwrap_or(Duration::from_secs(3_600))) => {}
            }
        }
    }

    /// One look; when the next is due at the latest.
    async fn look_at_rebuilds(self: &Arc<Self>, since: &mut HashMap<GroupId, (u64, u64)>) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let groups = self.all_groups();
        for group in &groups {
            if group.is_shadow() {
                self.look_at_orphan(group).await;
                continue;
            }
            let Some(rebuild) = open_rebuild(group) else { continue };
            let swapping = self.swapping.lock().await;
            if let Err(error) = self.step(group, &rebuild, since).await {
                tracing::warn!(group = %group.name(), version = %rebuild.version, %error, "a rebuild waits");
            }
            drop(swapping);
            let wait = if rebuild.stage == RebuildStage::Filling { LOOK } else { LOOK_SWAPPING };
            next = Some(next.map_or(wait, |next| next.min(wait)));
        }
        next
    }

    /// Deletes a shadow whose group is gone, or knows nothing of it any more.
    async fn look_at_orphan(&self, shadow: &Arc<Group>) {
        // While nobody makes one.
        let _changing = self.changing.lock().await;
        let group = self.map.read().by_id.get(&shadow.letters_id()).cloned();
        let known = group.as_ref().and_then(|group| open_rebuild(group)).is_some_and(|one| one.shadow == shadow.id());
        if known || shadow.is_gone() {
            return;
        }
        if let Some(group) = group {
            group.watch(false);
        }
        tracing::info!(group = %shadow.name(), "a rebuild that has ended is deleted");
        self.delete_shadow(shadow).await;
    }

    async fn step(
        &self,
        group: &Arc<Group>,
        seen: &Rebuild,
        since: &mut HashMap<GroupId, (u64, u64)>,
    ) -> Result<(), GroupError> {
        // It may have been given up meanwhile.
        let Some(rebuild) = open_rebuild(group).filter(|open| open.number == seen.number) else { return Ok(()) };
        let number = rebuild.number;
        let Some(shadow) = self.map.read().by_id.get(&rebuild.shadow).cloned() else {
            // Only a journal that lost it leaves a rebuild without its shadow.
            tracing::error!(group = %group.name(), version = %rebuild.version, "a rebuild has lost its shadow");
            return self.rebuild_call(group, RebuildCall::Abort { number }).await;
        };
        let followed = shadow.follows(group);
        if !followed.is_empty() {
            self.follow(&shadow, followed).await?;
        }
        match rebuild.stage {
            RebuildStage::Filling => {
                since.remove(&group.id());
                shadow.ask_swap(None);
                self.drain(&shadow, false).await?;
                self.drain(group, false).await
            }
            RebuildStage::Draining => {
                let now_ms = self.shared.now().monotonic_ms;
                let began = since.entry(group.id()).or_insert((rebuild.swaps, now_ms));
                if began.0 != rebuild.swaps {
                    *began = (rebuild.swaps, now_ms);
                }
                if now_ms.saturating_sub(began.1) >= DRAIN_MS {
                    let problem =
                        "not both were drained, or the new version did not come as far, within 60 s".to_owned();
                    let stage = RebuildStage::Filling;
                    return self.rebuild_call(group, RebuildCall::Stage { number, stage, problem }).await;
                }
                self.drain_both(group, &shadow, number).await
            }
            RebuildStage::Asked { undo } => {
                // After a restart this is where they are found.
                self.drain(group, true).await?;
                self.drain(&shadow, true).await?;
                self.ask(group, &shadow, &rebuild, undo).await
            }
        }
    }

    async fn follow(&self, shadow: &Group, followed: Followed) -> Result<(), GroupError> {
        self.rebuild_call(shadow, RebuildCall::Follow(followed)).await
    }

    async fn drain(&self, group: &Group, on: bool) -> Result<(), GroupError> {
        if group.look(|machine| machine.state().rebuilds.drained) == on {
            return Ok(());
        }
        self.rebuild_call(group, RebuildCall::Drain(on)).await
    }

    /// The group first, so that the shadow has a place to come to.
    async fn drain_both(&self, group: &Group, shadow: &Group, number: u64) -> Result<(), GroupError> {
        self.drain(group, true).await?;
        let drained = group.look(Machine::is_drained);
        if !drained || !is_as_far(shadow, &floors_of(group)) || shadow.look(Machine::is_following) {
            return Ok(());
        }
        // What the group has come to until now, its shadow has too (rule RP-7).
        if !shadow.follows(group).is_empty() {
            self.shared.rebuilds.notify_one();
            return Ok(());
        }
        self.drain(shadow, true).await?;
        if shadow.look(Machine::is_drained) {
            let (stage, problem) = (RebuildStage::Asked { undo: false }, String::new());
            self.rebuild_call(group, RebuildCall::Stage { number, stage, problem }).await?;
            self.shared.rebuilds.notify_one();
        }
        Ok(())
    }

    /// Asks a member of the shadow, and does what the database has decided.
    async fn ask(
        &self,
        group: &Arc<Group>,
        shadow: &Arc<Group>,
        rebuild: &Rebuild,
        undo: bool,
    ) -> Result<(), GroupError> {
        let (number, swap) = (rebuild.number, rebuild.swaps);
        let (version, replaces) = (rebuild.version.clone(), rebuild.replaces.clone());
        shadow.ask_swap(Some(SwapAsk { number, swap, version, replaces, undo }));
        match shadow.swap_answer() {
            None => Ok(()),
            Some(SwapOutcome::Done) => self.take_place(group, shadow, rebuild).await,
            Some(SwapOutcome::Undone(_)) if undo => {
                self.rebuild_call(group, RebuildCall::Abort { number }).await?;
                self.shared.rebuilds.notify_one();
                Ok(())
            }
            Some(SwapOutcome::Undone(problem)) => {
                tracing::warn!(group = %group.name(), version = %rebuild.version, problem, "a swap did not come about");
                let stage = RebuildStage::Filling;
                self.rebuild_call(group, RebuildCall::Stage { number, stage, problem }).await?;
                self.shared.rebuilds.notify_one();
                Ok(())
            }
        }
    }

    /// The database says that it is done: the group becomes what its shadow is.
    async fn take_place(&self, group: &Arc<Group>, shadow: &Arc<Group>, rebuild: &Rebuild) -> Result<(), GroupError> {
        let (entries, places, epoch) = shadow.look(|machine| {
            let entries: Vec<(EntryKey, Entry)> = machine.entries().iter().collect();
            (entries, machine.places(), machine.state().epoch)
        });
        let passed = places.iter().map(|place| (place.floor.source, place.floor.offset)).collect();
        // Before the group is told: a stop in between comes back here, for the database says what it said.
        self.rebuild_call(group, RebuildCall::Merge { entries, passed }).await?;
        self.rebuild_call(group, RebuildCall::TakePlace { number: rebuild.number, epoch, places }).await?;
        group.watch(false);
        group.waiters.wake_all();
        let id = RebuildId { group: group.id(), number: rebuild.number };
        tracing::info!(group = %group.name(), version = %rebuild.version, rebuild = %id, "the new version is active");
        self.delete_shadow(shadow).await;
        Ok(())
    }
}

/// Whether a shadow has come as far as its group.
fn is_as_far(shadow: &Group, floors: &[(Source, Offset)]) -> bool {
    shadow.look(|machine| {
        let partitions = &machine.state().partitions;
        let reached =
            |(source, floor): &(Source, Offset)| partitions.get(source).is_none_or(|one| one.settled.floor() >= *floor);
        floors.iter().all(reached)
    })
}
