//! Consuming as a member of a group.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_stream::Stream;

use crate::connection::Client;
use crate::error::Error;
use crate::groups::{GroupConfig, GroupMode, PauseReason, Subscription};
use crate::reader::GapReason;

mod error;
mod record;

pub use error::{AckOutcome, DECODE, DROPPED, HandlerError, PANIC};
pub use record::{ConsumedRecord, EntryInfo, Source};

/// Chooses how to take part in a group.
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) group: String,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) mode: Option<GroupMode>,
    pub(crate) create: Option<GroupConfig>,
    pub(crate) member_id: Option<String>,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) concurrency: usize,
    pub(crate) credit: Option<(u64, u64)>,
    pub(crate) min_bytes: u64,
    pub(crate) max_wait: Duration,
    pub(crate) tries: u32,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        let settings = Settings {
            group,
            subscription: None,
            mode: None,
            create: None,
            member_id: None,
            instance_id: None,
            client_id: String::new(),
            concurrency: 16,
            credit: None,
            min_bytes: 0,
            max_wait: Duration::ZERO,
            tries: 3,
        };
        Self { client, settings }
    }

    /// The topics that the group must have; used too if it is created.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.settings.subscription = Some(Subscription::Topics(topics.into_iter().map(Into::into).collect()));
        self
    }

    /// The pattern of topic names, with `*`, if the group is created.
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.settings.subscription = Some(Subscription::Pattern(pattern.into()));
        self
    }

    /// The mode that the group must have; used too if it is created.
    pub fn mode(mut self, mode: GroupMode) -> Self {
        self.settings.mode = Some(mode);
        self
    }

    /// Creates the group with these settings if there is none. Topics and mode are taken from this builder where the
    /// settings name none.
    pub fn create_if_missing(mut self, config: GroupConfig) -> Self {
        self.settings.create = Some(config);
        self
    }

    /// The member's id, a UUID. Default: a new one.
    pub fn member_id(mut self, id: impl Into<String>) -> Self {
        self.settings.member_id = Some(id.into());
        self
    }

    /// Name of a static member: its units wait for it over a restart (rule GM-9).
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.settings.instance_id = Some(id.into());
        self
    }

    /// Name for people.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.settings.client_id = id.into();
        self
    }

    /// Handlers of [`Consumer::run`] that work at once, at least 1. Default 16.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = handlers.max(1);
        self
    }

    /// Records and bytes of them that this member holds at most, waiting ones included. Default 1,024 records, or 64 per
    /// handler if that is more, and 16 MiB.
    pub fn credit(mut self, records: u64, bytes: u64) -> Self {
        self.settings.credit = Some((records.max(1), bytes.max(1)));
        self
    }

    /// Lets the broker wait until so many bytes can be sent, but not longer than `max_wait`, at most 60 s. Default: it
    /// sends at once.
    pub fn fetch_at_least(mut self, min_bytes: u64, max_wait: Duration) -> Self {
        (self.settings.min_bytes, self.settings.max_wait) = (min_bytes, max_wait);
        self
    }

    /// Mode offset: how often [`Consumer::run`] tries a record before it goes to the dead letters, at least 1. Default
    /// 3. In the other modes the group's policy decides.
    pub fn tries(mut self, tries: u32) -> Self {
        self.settings.tries = tries.max(1);
        self
    }

    /// Joins the group.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND` without [`ConsumerBuilder::create_if_missing`], `GROUP_MISMATCH`, `LIMIT_REACHED`; a connection
    /// that fails for the client's `call_timeout`.
    pub async fn open(self) -> Result<Consumer, Error> {
        todo!()
    }
}

/// A member of a group: a stream of deliveries and events. Cuts are mended by itself.
#[derive(Debug)]
pub struct Consumer {}

/// What a member meets.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// A record to handle.
    Delivery(Delivery),
    /// A unit has become this member's.
    Assigned(Unit),
    /// A unit is taken away.
    Revoked(Unit),
    /// The live end of a partition is reached.
    CaughtUp {
        /// The partition.
        source: std::sync::Arc<Source>,
        /// Offset that comes next.
        offset: u64,
    },
    /// The group has fallen behind the live end again.
    FellBehind {
        /// The partition.
        source: std::sync::Arc<Source>,
        /// Offset that comes next.
        offset: u64,
    },
    /// Offsets that the group will not get (rule RE-4).
    Gap {
        /// The partition.
        source: std::sync::Arc<Source>,
        /// First missing offset.
        from: u64,
        /// First offset after the gap.
        to: u64,
        /// Why.
        reason: GapReason,
        /// How many records of it the group had not settled, if known.
        records: Option<u64>,
        /// The entry that expired, or that holds the undecodable batch.
        dlq_id: Option<String>,
        /// The group waits until somebody accepts the gap.
        stopped: bool,
    },
    /// Deliveries pause.
    Paused {
        /// Why.
        reason: Option<PauseReason>,
        /// Topic that pauses; `None`: all.
        topic: Option<String>,
        /// What was noted with it.
        note: String,
    },
    /// Deliveries go on.
    Resumed {
        /// Why they paused.
        reason: Option<PauseReason>,
        /// Topic that goes on; `None`: all.
        topic: Option<String>,
    },
}

/// What a member owns: a run of the key slots of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The partition.
    pub source: std::sync::Arc<Source>,
    /// Its slots, half-open; all 4,096 in mode offset.
    pub slots: (u32, u32),
    /// Epoch of the assignment.
    pub assignment_epoch: u64,
    /// First offset that is not settled; 0 when it is taken away.
    pub start_offset: u64,
}

/// A record to handle, and the right to say what became of it. Dropped without a verdict it counts as failed.
#[derive(Debug)]
pub struct Delivery {}

impl std::ops::Deref for Delivery {
    type Target = ConsumedRecord;

    fn deref(&self) -> &ConsumedRecord {
        todo!()
    }
}

impl Delivery {
    /// It is done; resolves when that is durable. Modes keyed and unordered, and entries in every mode.
    ///
    /// # Errors
    /// `WRONG_MODE`; the consumer has ended.
    pub async fn ack(self) -> Result<AckOutcome, Error> {
        todo!()
    }

    /// It is done; nobody waits for the answer.
    pub fn ack_later(self) {}

    /// It is not done; resolves when that is durable. In mode offset only what goes to the dead letters is told to the
    /// broker.
    ///
    /// # Errors
    /// `WRONG_MODE`; the consumer has ended.
    pub async fn nack(self, error: HandlerError) -> Result<AckOutcome, Error> {
        let _ = error;
        todo!()
    }

    /// It is not done; nobody waits for the answer.
    pub fn nack_later(self, error: HandlerError) {
        drop(error);
    }

    /// Mode offset: everything up to it is done; resolves when that is durable.
    ///
    /// # Errors
    /// `WRONG_MODE`, `FENCED`, `COMMIT_BACKWARDS`; the consumer has ended.
    pub async fn commit(self) -> Result<(), Error> {
        todo!()
    }
}

/// Ends a consumer from elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {}

impl ConsumerHandle {
    /// Takes no more, lets what is in work finish, acks it, and leaves; after `deadline` what is still in work is given
    /// back.
    pub async fn shutdown(&self, deadline: Duration) {
        let _ = deadline;
        todo!()
    }
}

impl Consumer {
    /// The next record; other events are logged and passed. `None` after the consumer has ended.
    pub async fn next_delivery(&mut self) -> Option<Result<Delivery, Error>> {
        todo!()
    }

    /// Ends this consumer from elsewhere, as while it runs.
    pub fn handle(&self) -> ConsumerHandle {
        todo!()
    }

    /// Calls the handler for each record until the consumer is shut down or cannot go on: so many at once as
    /// [`ConsumerBuilder::concurrency`] says, the records of a key one after the other, leases extended meanwhile.
    /// `Ok` acks the record (mode offset: commits behind it); an error says what is to become of it; a panic counts as a
    /// failure with class [`PANIC`].
    ///
    /// # Errors
    /// Why the consumer cannot go on.
    pub async fn run<H, F>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(ConsumedRecord) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send,
    {
        drop(handler);
        todo!()
    }

    /// As [`Consumer::run`], until `stop` is ready; then shuts down within `deadline`.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn run_until<H, F>(self, stop: impl Future, deadline: Duration, handler: H) -> Result<(), Error>
    where
        H: Fn(ConsumedRecord) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send,
    {
        drop((stop, deadline, handler));
        todo!()
    }

    /// Takes no more, lets what was handed out finish, acks it, and leaves; after `deadline` what is still out is given
    /// back.
    ///
    /// # Errors
    /// What was not settled in time.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Error> {
        let _ = deadline;
        todo!()
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let _ = context;
        todo!()
    }
}
