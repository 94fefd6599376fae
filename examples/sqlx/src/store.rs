//! A [`Store`] for SQLite by sqlx: the statements of [`sql`] in a transaction of sqlx. Another database of sqlx differs in the
//! types and in [`unavailable`].
//!
//! Invariant: the model and its cursor are written in one transaction; dropped before its commit it is rolled back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sawlog_client::projection::{
    Advance, Applied, AppliedEntry, ApplyError, Claim, ClaimError, Claimed, Cursor, CursorKey, HandleError, Store,
    StoreError, Transaction, Work, apply, open_cursor, sql, store_error_in,
};
use sawlog_client::{ConsumedRecord, HandlerError};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Row as _, Sqlite, SqliteConnection};

/// A handler at work.
pub type Handling<'a> = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send + 'a>>;
/// What writes the model.
pub type Handler = for<'a> fn(&'a mut SqliteConnection, &'a ConsumedRecord) -> Handling<'a>;

/// A database that holds a read model, and the handler that writes it.
pub struct SqlxStore {
    pool: SqlitePool,
    handler: Handler,
}

impl SqlxStore {
    /// The database in this file, which is made if it is not there, with the model's tables and those of the cursor.
    pub async fn open(path: &str, tables: &str, handler: Handler) -> Result<Self, sqlx::Error> {
        // Synced at each commit: the broker is told only what is on disk.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(1));
        // SQLite has one writer.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        sqlx::raw_sql(sql::TABLES).execute(&pool).await?;
        sqlx::raw_sql(tables).execute(&pool).await?;
        Ok(Self { pool, handler })
    }

    async fn begin(&self) -> Result<SqlxTransaction, StoreError> {
        // The write lock at once: a transaction that begins as a reader may be refused it later.
        let inner = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(store_error)?;
        Ok(SqlxTransaction { inner, handler: self.handler })
    }
}

impl Store for SqlxStore {
    async fn open(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        open_cursor(self.begin().await?, claim).await
    }

    async fn apply(&self, work: Arc<Work>) -> Result<Applied, ApplyError> {
        apply(self.begin().await?, &work).await
    }
}

struct SqlxTransaction {
    inner: sqlx::Transaction<'static, Sqlite>,
    handler: Handler,
}

type Query<'a> = sqlx::query::Query<'a, Sqlite, SqliteArguments<'a>>;

fn of_key<'a>(statement: &'a str, key: &'a CursorKey) -> Query<'a> {
    sqlx::query(statement).bind(&key.projection).bind(&key.topic).bind(key.partition)
}

impl SqlxTransaction {
    /// Whether a row was changed.
    async fn changes(&mut self, query: Query<'_>) -> Result<bool, StoreError> {
        Ok(query.execute(&mut *self.inner).await.map_err(store_error)?.rows_affected() > 0)
    }
}

impl Transaction for SqlxTransaction {
    async fn cursor(&mut self, key: &CursorKey) -> Result<Option<Cursor>, StoreError> {
        let row = of_key(sql::CURSOR, key).fetch_optional(&mut *self.inner).await.map_err(store_error)?;
        let cursor = |row: sqlx::sqlite::SqliteRow| {
            Ok(Cursor {
                next_offset: unsigned(row.try_get(0)?),
                partition_epoch: row.try_get(1)?,
                assignment_epoch: unsigned(row.try_get(2)?),
                topic_id: row.try_get(3)?,
                group_id: row.try_get(4)?,
            })
        };
        row.map(cursor).transpose().map_err(store_error)
    }

    async fn insert_cursor(&mut self, key: &CursorKey, cursor: &Cursor) -> Result<(), StoreError> {
        let query = of_key(sql::INSERT_CURSOR, key)
            .bind(signed(cursor.next_offset))
            .bind(signed(cursor.assignment_epoch))
            .bind(&cursor.topic_id)
            .bind(cursor.partition_epoch)
            .bind(&cursor.group_id);
        self.changes(query).await.map(drop)
    }

    async fn raise_cursor(&mut self, key: &CursorKey, assignment_epoch: u64) -> Result<bool, StoreError> {
        self.changes(of_key(sql::RAISE_CURSOR, key).bind(signed(assignment_epoch))).await
    }

    async fn advance_cursor(&mut self, key: &CursorKey, advance: &Advance) -> Result<bool, StoreError> {
        let query = of_key(sql::ADVANCE_CURSOR, key)
            .bind(signed(advance.to))
            .bind(advance.partition_epoch)
            .bind(signed(advance.assignment_epoch))
            .bind(signed(advance.from));
        self.changes(query).await
    }

    async fn applied_entry(&mut self, projection: &str, dlq_id: &str) -> Result<Option<AppliedEntry>, StoreError> {
        let query = sqlx::query(sql::ENTRY).bind(projection).bind(dlq_id);
        let Some(row) = query.fetch_optional(&mut *self.inner).await.map_err(store_error)? else { return Ok(None) };
        let (version, cycle) = (row.try_get(0).map_err(store_error)?, row.try_get(1).map_err(store_error)?);
        Ok(Some(AppliedEntry { dlq_id: dlq_id.to_owned(), version, cycle }))
    }

    async fn insert_entry(&mut self, projection: &str, entry: &AppliedEntry) -> Result<(), StoreError> {
        let query = sqlx::query(sql::INSERT_ENTRY).bind(projection).bind(&entry.dlq_id).bind(entry.version);
        self.changes(query.bind(entry.cycle)).await.map(drop)
    }

    async fn handle(&mut self, record: &ConsumedRecord) -> Result<(), HandleError> {
        // Trouble of the database is no failure of the record.
        let trouble = |error: &(dyn std::error::Error + 'static)| {
            let error = error.downcast_ref::<sqlx::Error>()?;
            unavailable(error).then(|| StoreError::unavailable(error.to_string()))
        };
        (self.handler)(&mut self.inner, record).await.map_err(|error| match store_error_in(&error, trouble) {
            Some(trouble) => HandleError::Store(trouble),
            None => HandleError::Handler(error),
        })
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await.map_err(store_error)
    }
}

/// Whether it passes by itself: locked, read-only, full or gone; by SQLite's primary code.
fn unavailable(error: &sqlx::Error) -> bool {
    const PASSES: [i32; 12] = [3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26];
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse::<i32>().ok());
            code.is_some_and(|code| PASSES.contains(&(code & 0xff)))
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Of the cursor's own statements, whose values always fit: what does not pass is a table that is not as it should be.
fn store_error(error: sqlx::Error) -> StoreError {
    if unavailable(&error) { StoreError::unavailable(error) } else { StoreError::schema(error) }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
