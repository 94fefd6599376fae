//! What the services say to groups and hear from them: the part of [`crate::group`] that they may know.

pub use crate::group::breaker::BreakerPolicy;
pub use crate::group::effect::{AckStatus, Delivered, Delivery, DeliveryMore, EntryDelivery, Frame, Mark, Refusal};
pub use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryState};
pub use crate::group::event::{Credit, InWork, Join, NackKind, Targets, Verb};
pub use crate::group::rebuild::SwapAsk;
pub use crate::group::record::{ErrorInfo, GapReason, GroupNotes, Pause, PauseReason};
pub use crate::group::replay::{ReplayEnd, ReplayInto, ReplayMark, ReplayRate};
pub use crate::group::retry::{AfterDead, Backoff, OnExhausted, RetryPolicy};
pub use crate::group::{ConfigError, GroupConfig, GroupTopic, Mode, OnGap, Positions, SourceName, StartAt};
