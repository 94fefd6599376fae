//! The thread's side of a journal.

use super::{JournalHandle, JournalSpec, JournalState, JournalThreadSpec, OpenError, OpenedJournal};

pub(super) fn open<S: JournalState>(_spec: JournalSpec, _empty: S) -> Result<OpenedJournal<S>, OpenError> {
    todo!()
}

pub(super) fn start<S: JournalState>(_opened: OpenedJournal<S>, _spec: JournalThreadSpec) -> JournalHandle<S> {
    todo!()
}
