//! The read model of the demonstration: revenue by country and by customer in a SQLite file, exactly once.
//!
//! Invariant: the tables are written by the projection alone; what is compared is read from the file after the
//! projection has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sawlog_client::projection::ProjectionHandle;
use sawlog_client::projection::sqlite::rusqlite::{self, Connection, OpenFlags};
use sawlog_client::projection::sqlite::{SqliteStore, Transaction};
use sawlog_client::{Client, ConsumedRecord, Error, HandlerError};
use tokio::task::JoinHandle;

use super::TOPIC;
use super::report::wrong;
use super::sales::{Expected, Line};
use crate::client::failed;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Name of the group.
pub(super) const GROUP: &str = "revenue";
/// How long it may take to end what it has begun.
const DEADLINE: Duration = Duration::from_secs(10);
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS revenue_by_country (country TEXT PRIMARY KEY, pence INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS revenue_by_customer (customer TEXT PRIMARY KEY, pence INTEGER NOT NULL) STRICT;";

/// What a line adds to the model; one that is no sale fails.
fn apply(tx: &Transaction<'_>, record: &ConsumedRecord) -> Result<(), HandlerError> {
    let line = Line::parse(record.value.as_deref().unwrap_or_default()).and_then(|line| {
        let pence = line.pence()?;
        Ok((line, pence))
    });
    // Another try meets the same line.
    let (line, pence) = line.map_err(|no_sale| HandlerError::dead(no_sale.message).class(no_sale.class))?;
    tx.prepare_cached(
        "INSERT INTO revenue_by_country VALUES (?1, ?2) ON CONFLICT (country) DO UPDATE SET pence = pence + ?2",
    )?
    .execute((&line.country, pence))?;
    tx.prepare_cached(
        "INSERT INTO revenue_by_customer VALUES (?1, ?2) ON CONFLICT (customer) DO UPDATE SET pence = pence + ?2",
    )?
    .execute((&line.customer, pence))?;
    Ok(())
}

/// The projection at work.
#[derive(Debug)]
pub(super) struct Revenue {
    handle: ProjectionHandle,
    running: JoinHandle<Result<(), Error>>,
    path: PathBuf,
}

impl Revenue {
    /// Keeps the model in this file, from where its cursor stands; the group is made if there is none.
    pub(super) async fn start(client: &Client, path: &Path) -> Outcome<Self> {
        let store = SqliteStore::new(path, apply).setup(TABLES);
        let projection = client.projection(GROUP, store).topics([TOPIC]).create_if_missing();
        let projection = projection.open().await.map_err(failed)?;
        let handle = projection.handle();
        Ok(Self { handle, running: tokio::spawn(projection.run()), path: path.to_owned() })
    }

    /// Waits until all of the log is applied, told as a progress bar of `lines` lines.
    pub(super) async fn follow(&mut self, lines: usize, told: bool) -> Outcome {
        let bar =
            if told && output::stderr_is_terminal() { ProgressBar::new(lines as u64) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {wide_bar} {pos}/{len} {per_sec} {eta}");
        bar.set_style(style.expect("the template is right"));
        let live = self.handle.wait_for(|status| {
            bar.set_position(status.units().map(|unit| unit.next_offset).sum());
            status.is_live() && status.units().map(|unit| unit.next_offset).sum::<u64>() >= lines as u64
        });
        let live = live.await;
        bar.finish_and_clear();
        if live { Ok(()) } else { Err(wrong("the projection ended before it had read all lines")) }
    }

    /// How stale the model is, in seconds.
    pub(super) fn freshness_seconds(&self) -> f64 {
        self.handle.status().freshness_seconds()
    }

    /// Ends it, and reads what it has made.
    pub(super) async fn end(self) -> Outcome<Model> {
        self.handle.shutdown(DEADLINE).await;
        match self.running.await {
            Ok(ended) => ended.map_err(failed)?,
            Err(panic) => return Err(wrong(format!("the projection failed: {panic}"))),
        }
        Model::read(&self.path)
    }
}

/// What stands in the tables, in whole pence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// By country.
    pub(super) by_country: BTreeMap<String, i64>,
    /// By customer; an empty name stands for lines without one.
    pub(super) by_customer: BTreeMap<String, i64>,
}

impl Model {
    fn read(path: &Path) -> Outcome<Self> {
        let read = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            Ok(Self {
                by_country: table(&connection, "SELECT country, pence FROM revenue_by_country")?,
                by_customer: table(&connection, "SELECT customer, pence FROM revenue_by_customer")?,
            })
        };
        read().map_err(|error: rusqlite::Error| {
            Failure::new(Exit::Failure, format!("cannot read {}: {error}", path.display()), "look at the file")
        })
    }

    /// Revenue in pence.
    pub(super) fn pence(&self) -> i64 {
        self.by_country.values().sum()
    }

    /// Rows of both tables.
    pub(super) fn rows(&self) -> usize {
        self.by_country.len() + self.by_customer.len()
    }

    /// Revenue by country, the largest first.
    pub(super) fn countries(&self) -> Vec<(&str, i64)> {
        let mut countries: Vec<_> = self.by_country.iter().map(|(name, pence)| (name.as_str(), *pence)).collect();
        countries.sort_by_key(|(name, pence)| (std::cmp::Reverse(*pence), *name));
        countries
    }

    /// Compares row by row with what a sequential computation says.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn compare(&self, expected: &Expected) -> Outcome {
        differ("country", &self.by_country, &expected.by_country)?;
        differ("customer", &self.by_customer, &expected.by_customer)
    }

    /// Compares row by row with another one.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn compare_with(&self, other: &Self) -> Outcome {
        differ("country", &self.by_country, &other.by_country)?;
        differ("customer", &self.by_customer, &other.by_customer)
    }
}

fn table(connection: &Connection, query: &str) -> rusqlite::Result<BTreeMap<String, i64>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn differ(what: &str, found: &BTreeMap<String, i64>, wanted: &BTreeMap<String, i64>) -> Outcome {
    let names = found.keys().chain(wanted.keys());
    let Some(name) = names.into_iter().find(|name| found.get(*name) != wanted.get(*name)) else { return Ok(()) };
    let (found, wanted) = (found.get(name), wanted.get(name));
    Err(wrong(format!("the revenue of {what} {name:?} is {found:?} pence, and should be {wanted:?}")))
}

/// Deletes the model, with its cursor.
pub(super) fn delete(path: &Path) -> Outcome {
    for beside in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(beside);
        let file = PathBuf::from(file);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::file("delete", &file, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(france: i64) -> Model {
        let by_country = BTreeMap::from([("France".to_owned(), france), ("Spain".to_owned(), 7)]);
        Model { by_country, by_customer: BTreeMap::new() }
    }

    #[test]
    fn models_that_differ_in_a_row_are_told_apart() {
        assert!(model(3).compare_with(&model(3)).is_ok());
        let failure = model(3).compare_with(&model(4)).unwrap_err();
        assert!(failure.what.contains("\"France\" is Some(3) pence, and should be Some(4)"), "{}", failure.what);
        let expected = Expected { by_country: model(3).by_country, ..Expected::default() };
        assert!(model(3).compare(&expected).is_ok());
        let more = BTreeMap::from([("Malta".to_owned(), 0)]);
        let failure = model(3).compare(&Expected { by_country: more, ..Expected::default() }).unwrap_err();
        assert!(failure.what.contains("and should be None"), "{}", failure.what);
    }

    #[test]
    fn the_largest_country_comes_first() {
        assert_eq!(model(9).countries(), [("France", 9), ("Spain", 7)]);
        assert_eq!((model(1).pence(), model(1).rows()), (8, 2));
    }
}
