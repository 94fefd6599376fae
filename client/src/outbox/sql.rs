//! The relay's statements. A row is *waiting* until it is published; of the waiting rows of an aggregate the one with
//! the lowest id is its *head*, and whoever has the lease of the head has that of the aggregate.

use std::time::Duration;

use tokio_postgres::{Client, Error};

/// Rows of one relay's table.
#[derive(Debug)]
pub(super) struct Table {
    claim: String,
    published: String,
    failed: String,
    released: String,
    status: String,
}

/// A row under lease.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) aggregate: String,
    pub(super) event_type: String,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) headers: String,
    pub(super) created_ms: i64,
    pub(super) attempts: i32,
}

/// A row that the broker refused.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) id: i64,
    pub(super) error: String,
    pub(super) wait: Duration,
    pub(super) park: bool,
}

/// What a table holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) lag_seconds: f64,
    pub(super) waiting: i64,
    pub(super) parked: i64,
}

/// Whether this is a name that may stand in a statement as it is: at most one schema and a table, each of lower-case
/// letters, digits and `_`, not beginning with a digit.
pub(super) fn is_table_name(name: &str) -> bool {
    let part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && part.len() <= 63
    };
    let parts: Vec<&str> = name.split('.').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

impl Table {
    /// `name` has passed [`is_table_name`].
    pub(super) fn new(name: &str, keep_published: bool) -> Self {
        // Heads that are free, locked so that two relays never take the same; then the run of rows behind each, up to
        // one that is parked or waits for its next try.
        let claim = format!(
            "WITH head AS (
                 SELECT o.id, o.aggregate FROM {name} o
                 WHERE o.published_at IS NULL AND o.parked_at IS NULL
                   AND o.next_try_at <= clock_timestamp() AND o.claimed_until <= clock_timestamp()
                   AND NOT EXISTS (SELECT FROM {name} e
                                   WHERE e.aggregate = o.aggregate AND e.published_at IS NULL AND e.id < o.id)
                 ORDER BY o.id LIMIT $1::bigint FOR UPDATE OF o SKIP LOCKED
             ), run AS (
                 SELECT r.id, bool_or(r.parked_at IS NOT NULL OR r.next_try_at > clock_timestamp())
                                  OVER (PARTITION BY head.aggregate ORDER BY r.id) AS blocked
                 FROM head CROSS JOIN LATERAL (
                     SELECT n.id, n.parked_at, n.next_try_at FROM {name} n
                     WHERE n.aggregate = head.aggregate AND n.published_at IS NULL AND n.id >= head.id
                     ORDER BY n.id LIMIT $2::bigint) r
             )
             UPDATE {name} u
             SET claimed_until = clock_timestamp() + $3::float8 * interval '1 millisecond', claimed_by = $4::text
             FROM run WHERE u.id = run.id AND NOT run.blocked
             RETURNING u.id, u.aggregate, u.event_type, u.payload, u.headers::text,
                       (extract(epoch FROM u.created_at) * 1000)::bigint, u.attempts"
        );
        let published = if keep_published {
            format!(
                "UPDATE {name} SET published_at = clock_timestamp(), last_error = NULL WHERE id = ANY($1::bigint[])"
            )
        } else {
            format!("DELETE FROM {name} WHERE id = ANY($1::bigint[])")
        };
        let failed = format!(
            "UPDATE {name} SET attempts = attempts + 1, last_error = $2::text, claimed_until = '-infinity',
                 next_try_at = clock_timestamp() + $3::float8 * interval '1 millisecond',
                 parked_at = CASE WHEN $4::boolean THEN clock_timestamp() END
             WHERE id = $1::bigint AND claimed_by = $5::text"
        );
        let released = format!(
            "UPDATE {name} SET claimed_until = '-infinity' WHERE id = ANY($1::bigint[]) AND claimed_by = $2::text"
        );
        let status = format!(
            "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE parked_at IS NULL)),
                             0)::float8,
                    count(*) FILTER (WHERE parked_at IS NULL), count(*) FILTER (WHERE parked_at IS NOT NULL)
             FROM {name} WHERE published_at IS NULL"
        );
        Self { claim, published, failed, released, status }
    }

    /// Takes the leases of up to `aggregates` aggregates, and of up to `rows` rows each, in the order of their ids.
    pub(super) async fn claim(
        &self,
        database: &Client,
        (aggregates, rows): (i64, i64),
        lease: Duration,
        relay: &str,
    ) -> Result<Vec<Row>, Error> {
        let found = database.query(&self.claim, &[&aggregates, &rows, &milliseconds(lease), &relay]).await?;
        let row = |row: &tokio_postgres::Row| {
            Ok(Row {
                id: row.try_get(0)?,
                aggregate: row.try_get(1)?,
                event_type: row.try_get(2)?,
                payload: row.try_get(3)?,
                headers: row.try_get(4)?,
                created_ms: row.try_get(5)?,
                attempts: row.try_get(6)?,
            })
        };
        let mut rows = found.iter().map(row).collect::<Result<Vec<Row>, Error>>()?;
        rows.sort_unstable_by_key(|row| row.id);
        Ok(rows)
    }

    /// Says what became of rows, all or nothing.
    pub(super) async fn mark(
        &self,
        database: &mut Client,
        relay: &str,
        published: &[i64],
        failed: &[Failed],
        released: &[i64],
    ) -> Result<(), Error> {
        let change = database.transaction().await?;
        if !published.is_empty() {
            change.execute(&self.published, &[&published]).await?;
        }
        for row in failed {
            let wait = milliseconds(row.wait);
            change.execute(&self.failed, &[&row.id, &row.error, &wait, &row.park, &relay]).await?;
        }
        if !released.is_empty() {
            change.execute(&self.released, &[&released, &relay]).await?;
        }
        change.commit().await
    }

    pub(super) async fn held(&self, database: &Client) -> Result<Held, Error> {
        let row = database.query_one(&self.status, &[]).await?;
        Ok(Held { lag_seconds: row.try_get(0)?, waiting: row.try_get(1)?, parked: row.try_get(2)? })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_tables_get_into_statements() {
        for name in ["outbox", "shop.outbox", "_o2"] {
            assert!(is_table_name(name), "{name}");
        }
        for name in ["", "a.b.c", "2a", "Outbox", "a b", "a;drop", "a\"", ".a", "a."] {
            assert!(!is_table_name(name), "{name}");
        }
    }
}
