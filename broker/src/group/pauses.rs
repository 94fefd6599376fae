//! Pauses (rule OF-6): of operators and of the broker's own, what they hold, who is told.
//!
//! Owns: the pauses in the durable state, the deadline at which one ends by itself. Must not know: why the broker pauses.
//!
//! Invariants: a partition's deliveries, or its reading, rest exactly while a pause that covers it is in the durable state;
//! every member with a stream has been told of each pause that lasts.

use super::Now;
use super::deadlines::Timer;
use super::effect::{After, Effects, Frame, Notice};
use super::entry::Act;
use super::machine::Machine;
use super::record::{GroupRecord, Pause, PauseReason};
use crate::model::{MemberId, PartitionId, Source, TopicUuid};

/// What a pause is about: a topic or all, a partition of it or all.
type Extent = (Option<TopicUuid>, Option<PartitionId>);

fn extent(pause: &Pause) -> Extent {
    (pause.topic, pause.partition)
}

impl Machine {
    /// Journals a pause of the broker's, of a partition or of the group, unless it is there.
    pub(super) fn begin_pause(&mut self, source: Option<Source>, reason: PauseReason, now: Now, fx: &mut Effects) {
        if self.is_paused_for(source, reason) {
            return;
        }
        let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note: String::new() };
        let (topic, partition) = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.pause(Pause { topic, partition, reason, until_ms: None, act }, now, fx);
    }

    /// Journals a pause; one of the same extent and reason gives way to it.
    pub(super) fn pause(&mut self, pause: Pause, now: Now, fx: &mut Effects) {
        self.commit(GroupRecord::Paused(pause.clone()), fx);
        fx.notices.push(Notice::Pause { reason: pause.reason, on: true });
        self.tell_pause(&pause, true, fx);
        self.pauses_changed(now);
    }

    /// Ends one of the broker's, if it is there.
    pub(super) fn end_pause(&mut self, source: Option<Source>, reason: PauseReason, now: Now, fx: &mut Effects) {
        let of = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.unpause(|pause| extent(pause) == of && pause.reason == reason, now, fx);
    }

    /// Ends the pauses that are meant.
    pub(super) fn unpause(&mut self, meant: impl Fn(&Pause) -> bool, now: Now, fx: &mut Effects) {
        let ended: Vec<Pause> = self.state.pauses.iter().filter(|pause| meant(pause)).cloned().collect();
        if ended.is_empty() {
            return;
        }
        for pause in ended {
            let Pause { topic, partition, reason, .. } = pause;
            self.commit(GroupRecord::Resumed { topic, partition, reason }, fx);
            fx.notices.push(Notice::Pause { reason, on: false });
            self.tell_pause(&pause, false, fx);
        }
        self.pauses_changed(now);
    }

    /// Pauses that end by themselves.
    pub(super) fn pauses_due(&mut self, now: Now, fx: &mut Effects) {
        self.unpause(|pause| pause.until_ms.is_some_and(|until_ms| until_ms <= now.wall_ms), now, fx);
        self.pauses_changed(now);
    }

    /// Tells all members of a change.
    fn tell_pause(&self, pause: &Pause, on: bool, fx: &mut Effects) {
        for member in self.members.all.keys() {
            self.send(*member, Frame::Pause { pause: Box::new(pause.clone()), on }, After::Group, fx);
        }
    }

    /// Tells a member that has just come what pauses.
    pub(super) fn tell_pauses(&self, member: MemberId, fx: &mut Effects) {
        for pause in &self.state.pauses {
            self.send(member, Frame::Pause { pause: Box::new(pause.clone()), on: true }, After::Group, fx);
        }
    }

    pub(super) fn is_paused_for(&self, source: Option<Source>, reason: PauseReason) -> bool {
        let extent = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.state.pauses.iter().any(|pause| (pause.topic, pause.partition) == extent && pause.reason == reason)
    }

    /// Partitions that pause for a reason of their own.
    pub(super) fn paused_for(&self, reason: PauseReason) -> impl Iterator<Item = Source> + '_ {
        let of = move |pause: &Pause| {
            let (topic, partition) = (pause.topic?, pause.partition?);
            (pause.reason == reason).then_some(Source { topic, partition })
        };
        self.state.pauses.iter().filter_map(of)
    }

    /// Whether a partition is not read on, though what is held of it is delivered.
    pub(super) fn reading_rests(&self, source: Source) -> bool {
        self.state.pauses.iter().any(|pause| only_reading(pause.reason) && covers(pause, source))
    }

    /// Pauses began or ended in the durable state.
    pub(super) fn pauses_changed(&mut self, now: Now) {
        let pauses = self.state.pauses.clone();
        let sources: Vec<Source> = self.works.keys().copied().collect();
        for source in sources {
            let stops = |pause: &Pause| !only_reading(pause.reason) && covers(pause, source);
            let paused = pauses.iter().any(stops);
            let Some(work) = self.work(source) else { continue };
            if work.paused != paused {
                work.paused = paused;
                (0..work.owners.len() as u32).for_each(|owner| work.wake(owner));
            }
        }
        if let Some(until_ms) = pauses.iter().filter_map(|pause| pause.until_ms).min() {
            let left = u64::try_from(until_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
            self.deadlines.arm(Timer::Pauses, now.monotonic_ms + left);
        }
    }
}

/// Whether a pause rests reading alone: what is held, and what is redriven, goes on and so can end it.
fn only_reading(reason: PauseReason) -> bool {
    matches!(reason, PauseReason::HeldLimit | PauseReason::DeadLimit)
}

/// Whether a pause is about a partition.
fn covers(pause: &Pause, source: Source) -> bool {
    pause.topic.is_none_or(|topic| topic == source.topic)
        && pause.partition.is_none_or(|partition| partition == source.partition)
}

#[cfg(test)]
mod tests;
