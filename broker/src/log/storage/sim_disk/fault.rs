//! The calls of a disk by kind and number, and the faults that hit them.

use std::path::PathBuf;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named after the calls of the traits")]
pub enum OpKind {
    Open,
    Create,
    Read,
    Write,
    Sync,
    StartWriteBack,
    Allocate,
    SetLen,
    Len,
    DropCache,
    CreateDir,
    Rename,
    RemoveFile,
    RemoveDir,
    SyncDir,
    List,
    Exists,
    Space,
    Lock,
    Map,
}

impl OpKind {
    /// Whether a power loss after it may leave something else than one before it.
    pub fn changes(self) -> bool {
        use OpKind::*;
        matches!(
            self,
            Create | Write | Sync | Allocate | SetLen | CreateDir | Rename | RemoveFile | RemoveDir | SyncDir
        )
    }
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Its number, from 0.
    pub index: u64,
    /// What it did.
    pub kind: OpKind,
    /// To which file or directory.
    pub path: PathBuf,
    /// From which byte; 0 if it has none.
    pub position: u64,
    /// How many bytes; 0 if it has none.
    pub len: u64,
    /// Error number that was injected into it.
    pub injected: Option<i32>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call fails with this error number. A failed sync loses what it should have made durable.
    Errno(i32),
    /// A write takes only half of its bytes; other calls are not affected.
    ShortWrite,
    /// A write lands so many bytes further on, and says that all is well.
    Misdirected(i64),
}

/// A fault to inject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The first call with this number or a later one is hit.
    pub from_op: u64,
    /// Only calls of these kinds; empty: all.
    pub kinds: Vec<OpKind>,
    /// Only calls on paths that contain this; empty: all.
    pub path_contains: String,
    /// What goes wrong.
    pub effect: Effect,
    /// Every such call is hit, not only the first.
    pub forever: bool,
}
