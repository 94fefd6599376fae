//! Projections: read models in the user's own database, right through crashes, moves and poison records (rules RM-1 to
//! RM-8).
//!
//! A handler gets the user's transaction and a record. The position is written in that same transaction, under the
//! condition that no later owner has the partition: so every record is applied once, whatever crashes.
#![cfg_attr(feature = "sqlite", doc = "```")]
#![cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = sawlog_testing::TestBroker::start().await;
//! # let (url, path) = (broker.url(), broker.scratch("model").with_extension("db"));
//! use sawlog_client::projection::sqlite::{SqliteStore, Transaction};
//! use sawlog_client::{Client, ConsumedRecord, HandlerError, Record};
//!
//! fn apply(tx: &Transaction<'_>, record: &ConsumedRecord) -> Result<(), HandlerError> {
//!     let pence: i64 = std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?;
//!     tx.execute(
//!         "INSERT INTO revenue VALUES (?1, ?2) ON CONFLICT (country) DO UPDATE SET pence = pence + ?2",
//!         (record.key.as_deref(), pence),
//!     )?;
//!     Ok(())
//! }
//!
//! let client = Client::builder(url).connect_lazy()?;
//! # client.admin().create_topic(sawlog_client::NewTopic::new("sales").partitions(2)).await?;
//! # let producer = client.producer("sales").build().await?;
//! # let sold = producer.send_and_wait(Record::keyed("France", "250")).await?;
//! let store = SqliteStore::new(&path, apply)
//!     .setup("CREATE TABLE IF NOT EXISTS revenue (country BLOB PRIMARY KEY, pence INTEGER NOT NULL)");
//! let projection = client.projection("revenue", store).topics(["sales"]).create_if_missing().open().await?;
//! let handle = projection.handle();
//! let running = tokio::spawn(projection.run());
//!
//! // A request that must see its own write waits for it (rule RW-1).
//! # use std::time::Duration;
//! client.groups().await_processed("revenue", &[sold], Duration::from_secs(10)).await?;
//! println!("{} s old", handle.status().freshness_seconds());
//! handle.shutdown(Duration::from_secs(10)).await;
//! running.await??;
//! # broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! What a handler may count on, and must not do:
//! - It sees each record of a partition in order, and its effects are committed with the position or not at all; what it
//!   does outside the transaction may be done again.
//! - An error, a panic or a run longer than `max_processing` is rolled back and tried alone, 3 times within 2 s; then
//!   [`OnPoison`] decides. Trouble of the database is waited for, and never counted.
//! - To rebuild the model beside the live one: write a handler for new tables, start it with
//!   [`ProjectionBuilder::version`], begin with [`crate::Groups::start_rebuild`], end with
//!   [`crate::Groups::swap_rebuild`] once it is ready. In the transaction of the swap `on_swap` may change names; nothing
//!   is applied meanwhile, and afterwards the same handler goes on: let readers use a view that the hook points elsewhere,
//!   or a name that the handler takes from [`sql::VERSION`].
//! - To rebuild it in place, end the program, delete the model with its `projection_cursor`, and start again.
//!
//! It must not know the broker. Invariants are in the heads of `cursor` (the fence), `unit`, `member`.

mod cursor;
mod inbox;
mod link;
mod member;
mod poison;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod status;
mod store;
mod swap;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use cursor::{apply, open_cursor, store_error_in};
pub use poison::{CONSUMER_CRASH, OnPoison, TIMEOUT};
pub use status::{ProjectionStatus, UnitState, UnitStatus};
pub use store::{
    Advance, Applied, AppliedEntry, ApplyError, Claim, ClaimError, Claimed, Cursor, CursorKey, HandleError, Store,
    StoreError, StoreErrorKind, Transaction, Work, WorkItem,
};
#[doc(hidden)]
pub use store::{Probe, Step};
pub use swap::{SwapError, SwapPlan, cursor_name, swap};

use crate::connection::Client;
use crate::consumer::now;
use crate::error::{Error, ErrorReason};
use crate::groups::{Group, GroupConfig, GroupMode, NewGroup, PositionStore, Subscription};
use member::Member;

/// Records of a transaction by default.
const BATCH_RECORDS: usize = 500;
/// Bytes of records of a transaction by default.
const BATCH_BYTES: usize = 1 << 20;
/// Records and bytes that are held at most by default.
const CREDIT: (u64, u64) = (16_384, 16 << 20);
/// Tries of a record by default (rule RM-6).
const TRIES: u32 = 3;
/// Losses of readers after which a record counts as their cause, if the group says nothing else.
const MAX_CRASHES: u32 = 6;

/// How a projection works.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    name: String,
    version: Option<String>,
    batch_records: usize,
    batch_bytes: usize,
    credit: (u64, u64),
    tries: u32,
    on_poison: OnPoison,
    max_crashes: u32,
    max_processing: Option<Duration>,
    accept_truncation: bool,
    probe: Option<Probe>,
}

/// Chooses how a projection works.
#[derive(Debug)]
pub struct ProjectionBuilder<S> {
    client: Client,
    group: String,
    store: S,
    rules: Rules,
    create: Option<GroupConfig>,
    topics: Option<Subscription>,
    member_id: Option<String>,
    instance_id: Option<String>,
}

impl<S: Store> ProjectionBuilder<S> {
    pub(crate) fn new(client: Client, group: String, store: S) -> Self {
        let rules = Rules {
            name: group.clone(),
            version: None,
            batch_records: BATCH_RECORDS,
            batch_bytes: BATCH_BYTES,
            credit: CREDIT,
            tries: TRIES,
            on_poison: OnPoison::default(),
            max_crashes: MAX_CRASHES,
            max_processing: None,
            accept_truncation: false,
            probe: None,
        };
        Self { client, group, store, rules, create: None, topics: None, member_id: None, instance_id: None }
    }

    /// The topics of the group, if it is created.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = Some(Subscription::Topics(topics.into_iter().map(Into::into).collect()));
        self
    }

    /// Creates the group if there is none: mode offset, positions kept as cursors.
    pub fn create_if_missing(self) -> Self {
        self.create_with(GroupConfig::default())
    }

    /// The same with these settings; topics are taken from here if they name none.
    pub fn create_with(mut self, config: GroupConfig) -> Self {
        self.create = Some(config);
        self
    }

    /// Name of the projection in the cursor's row. Default: the group's. Two models in one database have two names.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.rules.name = name.into();
        self
    }

    /// The version of the model, part of the name in the cursor's row: the group's active one, or the one that a rebuild
    /// makes ([`crate::Groups::start_rebuild`], rule RP-6). A group that this creates has it from the first. A version that
    /// was retired ends with `GROUP_MISMATCH`. Default: none.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.rules.version = Some(version.into());
        self
    }

    /// Records and bytes of them that one transaction applies at most. Default 500 records and 1 MiB.
    pub fn batch(mut self, records: usize, bytes: usize) -> Self {
        (self.rules.batch_records, self.rules.batch_bytes) = (records.max(1), bytes.max(1));
        self
    }

    /// Records and bytes of them that are held at most. Default 16,384 records and 16 MiB.
    pub fn credit(mut self, records: u64, bytes: u64) -> Self {
        self.rules.credit = (records.max(1), bytes.max(1));
        self
    }

    /// How often a record is tried in all before [`OnPoison`] decides, at least 1, within 2 s. Default 3.
    pub fn tries(mut self, tries: u32) -> Self {
        self.rules.tries = tries.max(1);
        self
    }

    /// What happens to a record that has had all its tries. Default: its key is parked.
    pub fn on_poison(mut self, on_poison: OnPoison) -> Self {
        self.rules.on_poison = on_poison;
        self
    }

    /// How long a handler may run for one record. Default: the group's `max_processing`.
    pub fn max_processing(mut self, limit: Duration) -> Self {
        self.rules.max_processing = Some(limit);
        self
    }

    /// Goes on where the log was cut, if a cut is what makes a cursor invalid (rule RM-1): what the model has of the part
    /// that was cut stays in it. Default: the projection ends with `CURSOR_OF_ANOTHER_LOG`, until somebody accepts that one
    /// cut ([`crate::groups::Groups::accept_gap`]).
    pub fn accept_truncation(mut self) -> Self {
        self.rules.accept_truncation = true;
        self
    }

    /// The member's id, a UUID. Default: a new one.
    pub fn member_id(mut self, id: impl Into<String>) -> Self {
        self.member_id = Some(id.into());
        self
    }

    /// Name of a static member: its partitions wait for it over a restart (rule GM-9).
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    #[doc(hidden)]
    pub fn probe(mut self, probe: impl Fn(Step) -> bool + Send + Sync + 'static) -> Self {
        self.rules.probe = Some(Probe(Arc::new(probe)));
        self
    }

    /// Finds the group, or makes it. Nothing is read before [`Projection::run`].
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND` without [`ProjectionBuilder::create_if_missing`]; `GROUP_MISMATCH` if its positions are the
    /// broker's.
    pub async fn open(mut self) -> Result<Projection<S>, Error> {
        let group = self.find().await?;
        if group.config.positions != Some(PositionStore::Cursor) {
            let message = format!(
                "group {} keeps its positions at the broker; a projection needs one with `positions` cursor",
                group.name
            );
            return Err(Error::refused(ErrorReason::GroupMismatch, message).with_fact("field", "positions"));
        }
        let policy = group.config.retry.as_ref().and_then(|retry| retry.max_attempts);
        self.rules.max_crashes = policy.unwrap_or(MAX_CRASHES);
        let (status, _) = watch::channel(ProjectionStatus::default());
        Ok(Projection {
            member: Member {
                client: self.client,
                group: self.group,
                store: Arc::new(self.store),
                rules: Arc::new(self.rules),
                status: Arc::new(status),
                stop: Arc::new(Stop::default()),
                member_id: self.member_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
                instance_id: self.instance_id,
                member_epoch: None,
                session_timeout: Duration::from_secs(10),
            },
            group,
        })
    }

    async fn find(&self) -> Result<Group, Error> {
        let groups = self.client.groups();
        let missing = match groups.get(&self.group).await {
            Ok(group) => return Ok(group),
            Err(error) => error,
        };
        let Some(config) = self.create.clone().filter(|_| missing.reason() == Some(ErrorReason::GroupNotFound)) else {
            return Err(missing);
        };
        let config = GroupConfig {
            subscription: config.subscription.or_else(|| self.topics.clone()),
            mode: Some(GroupMode::Offset),
            positions: Some(PositionStore::Cursor),
            version: self.rules.version.clone(),
            ..config
        };
        match groups.create(NewGroup::new(&self.group, config)).await {
            Ok((group, _)) => Ok(group),
            // Another member was faster.
            Err(error) if error.reason() == Some(ErrorReason::GroupExists) => groups.get(&self.group).await,
            Err(error) => Err(error),
        }
    }
}

/// A read model that is kept up to date as long as it runs.
#[derive(Debug)]
pub struct Projection<S> {
    member: Member<S>,
    group: Group,
}

impl<S: Store> Projection<S> {
    /// The group as it was when this was opened.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Looks at it and ends it from elsewhere.
    pub fn handle(&self) -> ProjectionHandle {
        ProjectionHandle { status: self.member.status.subscribe(), stop: Arc::clone(&self.member.stop) }
    }

    /// Keeps the model up to date until it is shut down or cannot go on. Cuts of the connection are mended, trouble of
    /// the database is waited for.
    ///
    /// # Errors
    /// `CURSOR_OF_ANOTHER_LOG`; a poison record under [`OnPoison::Stop`]; a database whose tables do not fit; a handler
    /// that does not return; `GROUP_NOT_FOUND`.
    pub async fn run(mut self) -> Result<(), Error> {
        self.member.run().await
    }

    /// As [`Projection::run`], until `stop` is ready; then what is begun may end within `deadline`.
    ///
    /// # Errors
    /// As [`Projection::run`].
    pub async fn run_until(self, stop: impl Future, deadline: Duration) -> Result<(), Error> {
        let handle = self.handle();
        let running = self.run();
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            _ = stop => handle.stop.ask(deadline),
        }
        running.await
    }
}

/// Looks at a projection and ends it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProjectionHandle {
    status: watch::Receiver<ProjectionStatus>,
    stop: Arc<Stop>,
}

impl ProjectionHandle {
    /// How it is.
    pub fn status(&self) -> ProjectionStatus {
        self.status.borrow().clone()
    }

    /// Waits until its status is so; false if it has ended before.
    pub async fn wait_for(&mut self, so: impl FnMut(&ProjectionStatus) -> bool) -> bool {
        tokio::select! {
            found = self.status.wait_for(so) => found.is_ok(),
            () = self.stop.ended.cancelled() => false,
        }
    }

    /// Waits until it is at the live end of every partition that it has; false if it has ended before.
    pub async fn caught_up(&mut self) -> bool {
        self.wait_for(ProjectionStatus::is_live).await
    }

    /// Begins no more, lets what is in work end, and leaves the group; after `deadline` without it. Resolves when it has
    /// ended.
    pub async fn shutdown(&self, deadline: Duration) {
        self.stop.ask(deadline);
        self.stop.ended.cancelled().await;
    }
}

/// That a projection is to end, and when at the latest.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: CancellationToken,
    deadline: Mutex<Option<Instant>>,
    ended: CancellationToken,
}

impl Stop {
    fn ask(&self, deadline: Duration) {
        self.deadline.lock().get_or_insert(now() + deadline);
        self.asked.cancel();
    }

    async fn asked(&self) {
        self.asked.cancelled().await;
    }

    fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// When it must have ended; of no meaning before it is asked.
    fn deadline(&self) -> Instant {
        self.deadline.lock().unwrap_or_else(now)
    }
}
