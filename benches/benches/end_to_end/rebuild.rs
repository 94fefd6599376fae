//! A read model in SQLite built from offset 0: a month of order lines, revenue by country and by customer.
//!
//! Beside it the same statements on the same texts without a broker, and a group that only reads: so where the time goes.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::groups::{GroupLoad, consume_committed, make_group};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::groups::GroupMode;
use sawlog_client::producer::RecordRef;
use sawlog_client::projection::sqlite::rusqlite::{self, Connection, TransactionBehavior};
use sawlog_client::projection::sqlite::{SqliteStore, Transaction};
use sawlog_client::{AckLevel, Client, ConsumedRecord, HandlerError};

use super::context::Bench;

/// The file ships with the tests of the command line; its licence lies beside it.
const MONTH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/tests/data/online-retail-2010-12.csv.gz");
const PARTITIONS: u32 = 4;
/// Records of a transaction, as the projection's default.
const BATCH: usize = 500;
const DEADLINE: Duration = Duration::from_secs(10);
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS revenue_by_country (country TEXT PRIMARY KEY, pence INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS revenue_by_customer (customer TEXT PRIMARY KEY, pence INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS position (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL) STRICT;";

/// A line: its invoice and a JSON object of its columns, as `produce --csv` makes them.
#[derive(Debug)]
struct Line {
    invoice: String,
    text: Vec<u8>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let lines = month()?;
    let broker = bench.broker()?;
    let url = broker.server.url();
    let client = bench.client(&url)?;
    let topic = bench.topic_name("orders");
    bench.runtime.block_on(async {
        create_topic(&client, &topic, PARTITIONS, true, AckLevel::Durable).await?;
        produce(&client, &topic, &lines).await
    })?;
    let [mut model, mut bare, mut parsed, mut read] = [const { Samples::new() }; 4];
    for round in 0..bench.options.rounds {
        let group = format!("revenue-{round}");
        model.push(project(bench, &client, &group, &topic, &broker.folder.path().join(&group), lines.len())?);
        let clock = Stopwatch::start();
        by_hand(&broker.folder.path().join(format!("bare-{round}")), &lines)?;
        bare.push(clock.seconds());
        let clock = Stopwatch::start();
        let pence: i64 = lines.iter().filter_map(|line| sale(&line.text)).map(|(_, _, pence)| pence).sum();
        parsed.push(clock.seconds());
        if pence == 0 {
            return Err("the file has no sale".into());
        }
        let load = GroupLoad::new(format!("read-{round}"), topic.as_str(), GroupMode::Offset);
        let done = bench.runtime.block_on(async {
            make_group(&client, &load).await?;
            consume_committed(&client, &load.group, lines.len() as u64).await
        })?;
        read.push(done.seconds);
    }
    let rate = model.map(|seconds| lines.len() as f64 / seconds);
    let what = format!("read model of {} lines into SQLite from offset 0", lines.len());
    let alone = bare.map(|seconds| lines.len() as f64 / seconds);
    let row = Row::shown(what.as_str(), "records/s", rate).beside("the statements alone", &alone);
    bench.row(row.with_target(Target::RatioAtLeast(0.5)))?;
    let in_ms = |seconds: &Samples| seconds.map(|seconds| seconds * 1e3);
    bench.row(Row::shown("the same, from joining to the live end", "ms", in_ms(&model)))?;
    bench.row(Row::shown("of it: statements, transactions and parsing, alone", "ms", in_ms(&bare)))?;
    bench.row(Row::shown("of it: parsing, alone", "ms", in_ms(&parsed)))?;
    bench.row(Row::shown("of it: reading in a group, alone", "ms", in_ms(&read)))
}

/// All lines of the month.
fn month() -> Result<Vec<Line>, Box<dyn Error>> {
    let gzip = Command::new("gzip").arg("-dc").arg(MONTH).stdout(Stdio::piped()).output()?;
    if !gzip.status.success() {
        return Err(format!("gzip cannot read {MONTH}").into());
    }
    let mut reader = csv::Reader::from_reader(gzip.stdout.as_slice());
    let heading = reader.headers()?.clone();
    let mut lines = Vec::new();
    for row in reader.records() {
        let row = row?;
        let columns: BTreeMap<&str, &str> = heading.iter().zip(row.iter()).collect();
        lines.push(Line { invoice: row[0].to_owned(), text: serde_json::to_vec(&columns)? });
    }
    Ok(lines)
}

async fn produce(client: &Client, topic: &str, lines: &[Line]) -> Result<(), sawlog_client::Error> {
    let producer = client.producer(topic).build().await?;
    for line in lines {
        let record = RecordRef { key: Some(line.invoice.as_bytes()), value: Some(&line.text), ..RecordRef::default() };
        drop(producer.send_ref(record).await?);
    }
    producer.close().await
}

/// Country, customer and worth in pence of a line; `None`: it is no sale.
fn sale(text: &[u8]) -> Option<(String, String, i64)> {
    let mut line: BTreeMap<String, String> = serde_json::from_slice(text).ok()?;
    let price: f64 = line["UnitPrice"].parse().ok()?;
    let quantity: i64 = line["Quantity"].parse().ok()?;
    let pence = (price * 100.0).round() as i64;
    if pence <= 0 || line["Description"].trim().is_empty() {
        return None;
    }
    Some((line.remove("Country")?, line.remove("CustomerID")?, pence * quantity))
}

fn apply_line(tx: &rusqlite::Transaction<'_>, text: &[u8]) -> rusqlite::Result<()> {
    let Some((country, customer, pence)) = sale(text) else { return Ok(()) };
    tx.prepare_cached(
        "INSERT INTO revenue_by_country VALUES (?1, ?2) ON CONFLICT (country) DO UPDATE SET pence = pence + ?2",
    )?
    .execute((country, pence))?;
    tx.prepare_cached(
        "INSERT INTO revenue_by_customer VALUES (?1, ?2) ON CONFLICT (customer) DO UPDATE SET pence = pence + ?2",
    )?
    .execute((customer, pence))?;
    Ok(())
}

/// The same model with nothing but SQLite: one thread, transactions of the same size, a position in each.
fn by_hand(path: &Path, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(TABLES)?;
    let mut next = 0;
    for batch in lines.chunks(BATCH) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for line in batch {
            apply_line(&tx, &line.text)?;
        }
        next += batch.len() as i64;
        tx.execute("INSERT INTO position VALUES (0, ?1) ON CONFLICT (partition) DO UPDATE SET next = ?1", [next])?;
        tx.commit()?;
    }
    Ok(())
}

/// Seconds that the projection takes, from joining to the live end.
fn project(
    bench: &Bench,
    client: &Client,
    group: &str,
    topic: &str,
    path: &Path,
    lines: usize,
) -> Result<f64, Box<dyn Error>> {
    let apply = |tx: &Transaction<'_>, record: &ConsumedRecord| -> Result<(), HandlerError> {
        Ok(apply_line(tx, record.value.as_deref().unwrap_or_default())?)
    };
    let store = SqliteStore::new(path, apply).setup(TABLES);
    bench.runtime.block_on(async {
        let projection = client.projection(group, store).topics([topic]).create_if_missing().open().await?;
        let mut handle = projection.handle();
        let clock = Stopwatch::start();
        let running = tokio::spawn(projection.run());
        let whole = handle.wait_for(|status| status.is_live() && status.applied_records() >= lines as u64).await;
        let seconds = clock.seconds();
        handle.shutdown(DEADLINE).await;
        running.await??;
        if whole { Ok(seconds) } else { Err("the projection ended before it had read all lines".into()) }
    })
}
