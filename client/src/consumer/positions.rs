//! Mode offset: how far a partition is done, and what is committed of it. Pure.
//!
//! Invariant: the position never passes a record that was handed out, or is to be, and is not done.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::Error;

/// A position to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Offset of the next record.
    pub(super) next: u64,
    /// Epoch of the record before it, if known.
    pub(super) epoch: Option<u32>,
}

/// A commit that somebody asked for, or that follows from what is done.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) position: Position,
    pub(super) metadata: String,
    pub(super) force: bool,
    pub(super) waiters: Vec<oneshot::Sender<Result<(), Error>>>,
}

/// Records of a partition in order, from the first that is not done.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: VecDeque<Open>,
    /// Everything before it was handed out, or passed.
    taken: u64,
    /// Epoch of the record before `taken`, if known.
    taken_epoch: Option<u32>,
    /// Epoch of the record before the first open one, if known.
    done_epoch: Option<u32>,
}

#[derive(Debug)]
struct Open {
    offset: u64,
    epoch: u32,
    done: bool,
}

impl Window {
    pub(super) fn starting_at(offset: u64) -> Self {
        Self { taken: offset, ..Self::default() }
    }

    /// A record is to be handled.
    pub(super) fn open(&mut self, offset: u64, epoch: u32) {
        self.open.push_back(Open { offset, epoch, done: false });
        (self.taken, self.taken_epoch) = (offset + 1, Some(epoch));
    }

    /// Everything before `offset` was told.
    pub(super) fn pass(&mut self, offset: u64, epoch: Option<u32>) {
        if offset > self.taken {
            (self.taken, self.taken_epoch) = (offset, epoch);
        }
    }

    /// A record is done.
    pub(super) fn done(&mut self, offset: u64) {
        if let Ok(at) = self.open.binary_search_by_key(&offset, |open| open.offset) {
            self.open[at].done = true;
        }
        while let Some(first) = self.open.front().filter(|open| open.done) {
            self.done_epoch = Some(first.epoch);
            self.open.pop_front();
        }
    }

    /// How far everything is done.
    pub(super) fn position(&self) -> Position {
        match self.open.front() {
            Some(first) => Position { next: first.offset, epoch: self.done_epoch },
            None => Position { next: self.taken, epoch: self.taken_epoch },
        }
    }
}

/// What a partition of mode offset has beside its records.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) window: Window,
    /// The next offset that is expected from the broker; what lies before it came already.
    pub(super) received: u64,
    /// Commits not sent, in order.
    pub(super) commits: VecDeque<Commit>,
    /// One is sent and not answered.
    pub(super) committing: bool,
    /// Where the last commit that was sent went.
    pub(super) committed: u64,
    /// Where the last commit went that was answered; until there is one, where this member began.
    pub(super) confirmed: u64,
    /// Keys of which a record went to the dead letters, as far as this member knows (rule AK-8).
    pub(super) dead_keys: HashSet<Bytes>,
}

impl Progress {
    pub(super) fn starting_at(offset: u64) -> Self {
        Self {
            window: Window::starting_at(offset),
            received: offset,
            committed: offset,
            confirmed: offset,
            ..Self::default()
        }
    }

    /// Whether somebody waits for one of the commits that are not sent.
    pub(super) fn is_urgent(&self) -> bool {
        self.commits.iter().any(|commit| commit.force || !commit.waiters.is_empty())
    }

    /// Adds a commit; one that waits and lies before it is joined with it.
    pub(super) fn commit(&mut self, mut commit: Commit) {
        if let Some(last) = self.commits.back_mut()
            && !last.force
            && !commit.force
            && last.position.next <= commit.position.next
        {
            commit.waiters.append(&mut last.waiters);
            *last = commit;
            return;
        }
        self.commits.push_back(commit);
    }

    /// What follows from what is done: a commit of the window's position, if it has moved.
    pub(super) fn commit_done(&mut self) {
        let position = self.window.position();
        let waiting = self.commits.back().map_or(self.committed, |commit| commit.position.next);
        if position.next > waiting {
            self.commit(Commit { position, metadata: String::new(), force: false, waiters: Vec::new() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(next: u64, force: bool) -> Commit {
        let position = Position { next, epoch: None };
        Commit { position, metadata: next.to_string(), force, waiters: Vec::new() }
    }

    #[test]
    fn ak_8_the_position_never_passes_a_record_that_is_not_done() {
        let mut window = Window::starting_at(5);
        assert_eq!(window.position(), Position { next: 5, epoch: None });
        window.open(5, 1);
        window.open(7, 1);
        window.open(9, 2);
        window.pass(20, None);
        window.done(9);
        window.done(5);
        assert_eq!(window.position(), Position { next: 7, epoch: Some(1) });
        window.done(7);
        assert_eq!(window.position(), Position { next: 20, epoch: None });
        window.open(20, 2);
        assert_eq!(window.position(), Position { next: 20, epoch: Some(2) }, "9 is the last record known before it");
        window.done(20);
        assert_eq!(window.position(), Position { next: 21, epoch: Some(2) });
    }

    #[test]
    fn commits_that_wait_are_joined_unless_one_goes_backwards() {
        let mut progress = Progress::starting_at(0);
        progress.commit(commit(5, false));
        progress.commit(commit(9, false));
        progress.commit(commit(3, true));
        progress.commit(commit(4, false));
        let next: Vec<_> = progress.commits.iter().map(|commit| commit.position.next).collect();
        assert_eq!(next, [9, 3, 4]);
        assert_eq!(progress.commits[0].metadata, "9");
    }

    #[test]
    fn what_is_done_is_committed_once() {
        let mut progress = Progress::starting_at(3);
        progress.commit_done();
        assert!(progress.commits.is_empty());
        progress.window.open(3, 1);
        progress.window.done(3);
        progress.commit_done();
        progress.commit_done();
        assert_eq!(progress.commits.len(), 1);
    }
}
