//! A group's part in rebuilds: the group that a shadow belongs to, whose entries it meets, and the member of a shadow that
//! is asked to swap (rules RP-6, RP-7).
//!
//! Invariants: what a shadow meets of its group's entries is in its own table before the records are told; one member at a
//! time is asked; an answer counts only for the swap that is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::super::GroupError;
use super::super::outbox::Outbox;
use super::super::rebuild_views::{SwapAnswer, SwapOutcome};
use super::Group;
use crate::group::effect::{After, Frame, Outgoing, Refusal};
use crate::group::event::{Admin, Event};
use crate::group::machine::Machine;
use crate::group::rebuild::{Followed, RebuildCall, SwapAsk};
use crate::model::{GroupId, GroupName, Offset, Source};

/// What a group keeps for rebuilds.
#[derive(Debug, Default)]
pub(super) struct Rebuilding {
    /// The group that this one is the shadow of: its number and name.
    root: Option<(GroupId, GroupName)>,
    /// The same while both are there.
    parent: OnceLock<Weak<Group>>,
    /// Whoever drives rebuilds wants to know of changes.
    watched: AtomicBool,
    asking: Mutex<Asking>,
}

#[derive(Debug, Default)]
struct Asking {
    ask: Option<SwapAsk>,
    /// The stream that was asked.
    asked: Weak<Outbox>,
    answer: Option<SwapOutcome>,
}

impl Rebuilding {
    pub(super) fn of(machine: &Machine) -> Self {
        let state = machine.state();
        let root = state.config.shadow_of.map(|id| (id, state.name.root()));
        Self { root, ..Self::default() }
    }
}

impl Group {
    /// The group whose dead letters this one has: its own, or that of which it is the shadow.
    pub(in crate::coordinator) fn letters_id(&self) -> GroupId {
        self.rebuilding.root.as_ref().map_or(self.id, |(id, _)| *id)
    }

    /// Name of that group.
    pub(in crate::coordinator) fn letters_name(&self) -> &GroupName {
        self.rebuilding.root.as_ref().map_or(&self.name, |(_, name)| name)
    }

    /// Why it does not answer: members of a shadow that has gone look for their version in its group.
    pub(super) fn refusal(&self) -> GroupError {
        match self.shared.check() {
            Ok(()) if self.is_shadow() => Refusal::SessionOver.into(),
            _ => self.shared.refusal(&self.name),
        }
    }

    pub(in crate::coordinator) fn is_shadow(&self) -> bool {
        self.rebuilding.root.is_some()
    }

    /// The group that this one is the shadow of, now that it is there.
    pub(in crate::coordinator) fn set_parent(&self, parent: &Arc<Self>) {
        let _ = self.rebuilding.parent.set(Arc::downgrade(parent));
    }

    /// Changes of members, units and entries are told to whoever drives rebuilds.
    pub(in crate::coordinator) fn watch(&self, on: bool) {
        self.rebuilding.watched.store(on, Ordering::Relaxed);
    }

    /// Something changed that a rebuild may wait for.
    pub(super) fn rebuild_changed(&self) {
        if self.rebuilding.watched.load(Ordering::Relaxed) {
            self.shared.rebuilds.notify_one();
        }
    }

    /// Takes over entries of the group for records that are about to be told (rule RP-7); up to where they may be.
    pub(in crate::coordinator) fn adopt(&self, source: Source, from: Offset, to: Offset) -> Offset {
        let Some(parent) = self.rebuilding.parent.get().and_then(Weak::upgrade) else { return to };
        let (to, met) = parent.look(|machine| machine.entries_met(source, from, to));
        if !met.is_empty() {
            drop(self.drive_event(Event::Admin(Admin::Rebuild(Box::new(RebuildCall::Adopt(met))))));
        }
        to
    }

    /// What became in its group of entries that are open in this shadow.
    pub(in crate::coordinator) fn follows(&self, parent: &Self) -> Followed {
        let open = self.look(Machine::open_entries);
        if open.is_empty() { Followed::default() } else { parent.look(|machine| machine.outcomes(&open)) }
    }

    /// Asks a member that has a stream, unless one that has it still was asked; `None`: nobody is asked any more.
    pub(in crate::coordinator) fn ask_swap(&self, ask: Option<SwapAsk>) {
        let inner = self.inner.lock();
        let mut asking = self.rebuilding.asking.lock();
        if asking.ask != ask {
            *asking = Asking { ask: ask.clone(), ..Asking::default() };
        }
        let Some(ask) = ask.filter(|_| asking.answer.is_none()) else { return };
        let current = |asked: &Arc<Outbox>| inner.outboxes.values().any(|outbox| Arc::ptr_eq(outbox, asked));
        if asking.asked.upgrade().is_some_and(|asked| current(&asked)) {
            return;
        }
        if let Some((member, outbox)) = inner.outboxes.iter().next() {
            tracing::info!(group = %self.name, %member, swap = ask.swap, undo = ask.undo, "a member is asked to swap");
            asking.asked = Arc::downgrade(outbox);
            let frame = Frame::Swap(Box::new(ask));
            outbox.push(Outgoing { member: *member, frame, after: After::Now }, inner.written);
        }
    }

    /// A member has answered.
    pub(in crate::coordinator) fn swap_answered(&self, answer: SwapAnswer) {
        let mut asking = self.rebuilding.asking.lock();
        let meant = |ask: &SwapAsk| {
            answer.swap.rebuild.group == self.letters_id()
                && (ask.number, ask.swap) == (answer.swap.rebuild.number, answer.swap.swap)
        };
        // What undoes a swap is asked for; that it is not done may be an answer to the older question.
        if asking.ask.as_ref().is_some_and(meant) {
            asking.answer = Some(answer.outcome);
            drop(asking);
            self.rebuild_changed();
        }
    }

    /// What a member has answered.
    pub(in crate::coordinator) fn swap_answer(&self) -> Option<SwapOutcome> {
        self.rebuilding.asking.lock().answer.clone()
    }
}
