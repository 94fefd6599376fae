//! How to take part in a group: what is expected of it, what is made if it is missing, how much is held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::board::{Board, Rules};
use super::session::Session;
use super::shared::Shared;
use super::{Consumer, Handle};
use crate::connection::Client;
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::groups::{Group, GroupConfig, GroupMode, NewGroup, PositionStore, Subscription};

/// Bytes that a member holds at most by default.
const CREDIT_BYTES: u64 = 16 << 20;
/// Records that a member holds at most by default ...
const CREDIT_RECORDS: u64 = 1024;
/// ... or so many per handler, if that is more.
const CREDIT_PER_HANDLER: u64 = 64;

/// Chooses how to take part in a group.
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) group: String,
    pub(super) subscription: Option<Subscription>,
    pub(super) mode: Option<GroupMode>,
    pub(super) create: Option<GroupConfig>,
    pub(super) member_id: Option<String>,
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) concurrency: usize,
    pub(super) credit: Option<(u64, u64)>,
    pub(super) min_bytes: u64,
    pub(super) max_wait: Duration,
    pub(super) tries: u32,
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

    /// Handlers of [`super::Consumer::run`] that work at once, at least 1. Default 16.
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

    /// Mode offset: how often [`super::Consumer::run`] tries a record before it goes to the dead letters, at least 1. Default
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
        let Self { client, settings } = self;
        let group = group_of(&client, &settings).await?;
        let mode = group.mode();
        if let Some(expected) = settings.mode.filter(|expected| *expected != mode) {
            let message = format!("group {} has mode {mode}, expected is {expected}", group.name);
            let error = Error::refused(ErrorReason::GroupMismatch, message);
            return Err(error.with_fact("field", "mode").with_fact("group", mode.as_str()));
        }
        if group.config.positions == Some(PositionStore::Cursor) {
            let message =
                format!("group {} keeps its positions in a read model's database: see `projection`", group.name);
            let error = Error::refused(ErrorReason::GroupMismatch, message);
            return Err(error.with_fact("field", "positions").with_fact("group", PositionStore::Cursor.as_str()));
        }
        let concurrency = settings.concurrency;
        let records = CREDIT_RECORDS.max(CREDIT_PER_HANDLER.saturating_mul(concurrency as u64));
        let credit = settings.credit.unwrap_or((records, CREDIT_BYTES));
        let rules = Rules { mode, auto: false, tries: settings.tries, credit };
        let shared = Arc::new(Shared::new(Board::new(rules)));
        let (opened, open) = oneshot::channel();
        let session = Session::new(client, settings, mode, Arc::clone(&shared), opened);
        // From here on a consumer that is dropped, as when this future is, leaves.
        let handle = Handle { shared };
        tokio::spawn(session.run());
        open.await.unwrap_or_else(|_| Err(Error::closed("the consumer")))?;
        Ok(Consumer { handle, group, concurrency, batches: VecDeque::new(), told: false })
    }
}

/// The group, made if it is to be.
async fn group_of(client: &Client, settings: &Settings) -> Result<Group, Error> {
    let groups = client.groups();
    let missing = match groups.get(&settings.group).await {
        Ok(group) => return Ok(group),
        Err(error) => error,
    };
    let Some(config) = settings.create.clone().filter(|_| missing.reason() == Some(ErrorReason::GroupNotFound)) else {
        return Err(missing);
    };
    let config = GroupConfig {
        subscription: config.subscription.or_else(|| settings.subscription.clone()),
        mode: config.mode.or(settings.mode),
        ..config
    };
    if config.subscription.is_none() {
        return Err(Error::new(ErrorKind::Invalid, "a group that is to be made needs topics, or a pattern of them"));
    }
    match groups.create(NewGroup::new(&settings.group, config)).await {
        Ok((group, _)) => Ok(group),
        // Another member was faster.
        Err(error) if error.reason() == Some(ErrorReason::GroupExists) => groups.get(&settings.group).await,
        Err(error) => Err(error),
    }
}
